"""What the journal of a batch stores, and when."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from airflow_provider_flora.api.errors import FloraNotStoredError
from airflow_provider_flora.batch.journal import Journal
from airflow_provider_flora.task.attempt import Attempt
from tests.unit.operators.fake_task import FakeStore

ATTEMPT = Attempt("a_dag", "a_run", "a_task", -1, 0.0, 0.0, 1, 0, 0.0, 0, 0.0)


class SlowStore(FakeStore):
    """A store whose writes of rows wait until they are let through."""

    def __init__(self) -> None:
        super().__init__()
        self.began = threading.Semaphore(0)
        self.may_end = threading.Semaphore(0)

    def set(self, key: str, value: Any, **more: Any) -> None:
        if key.startswith("flora_rows_"):
            self.began.release()
            self.may_end.acquire()
        super().set(key, value, **more)


def test_starts_that_wait_for_a_write_share_the_next_one() -> None:
    store = SlowStore()
    journal = Journal(store, ATTEMPT, "a technique")
    before = len(store.writes)
    threads = [
        threading.Thread(target=journal.put, args=(f"row-{number}", {}), kwargs={"now": True})
        for number in range(5)
    ]
    threads[0].start()
    assert store.began.acquire(timeout=60)
    for thread in threads[1:]:
        thread.start()
    while sum(len(page) for page in journal._pages) < 5:
        pass
    store.may_end.release()
    assert store.began.acquire(timeout=60)
    store.may_end.release()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert [sorted(page) for page in store.writes[before:]] == [["row-0"], [f"row-{number}" for number in range(5)]]


def test_what_a_write_did_not_store_is_in_the_next_one() -> None:
    store = FakeStore()
    journal = Journal(store, ATTEMPT, "a technique")
    store.broken = [OSError("away")]
    with pytest.raises(FloraNotStoredError, match="away"):
        journal.put("row-0", {"sent": [[1, 2]]}, now=True)
    journal.put("row-1", {"sent": [[3, 4]]}, now=True)
    assert store.get("flora_rows_0") == {"row-0": {"sent": [[1, 2]]}, "row-1": {"sent": [[3, 4]]}}


def test_an_answer_is_stored_with_the_next_start() -> None:
    store = FakeStore()
    journal = Journal(store, ATTEMPT, "a technique")
    journal.put("row-0", {"run_id": "run_1"}, now=False)
    assert store.get("flora_rows_0") is None
    journal.put("row-1", {"sent": [[3, 4]]}, now=True)
    assert store.get("flora_rows_0")["row-0"] == {"run_id": "run_1"}


def test_an_attempt_that_is_over_starts_nothing() -> None:
    store = SlowStore()
    journal = Journal(store, ATTEMPT, "a technique")
    raised = []

    def start() -> None:
        try:
            journal.put("row-0", {}, now=True)
        except FloraNotStoredError as error:
            raised.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    assert store.began.acquire(timeout=60)
    journal.close()
    store.may_end.release()
    thread.join(60)
    assert raised
    with pytest.raises(FloraNotStoredError, match="over"):
        journal.put("row-1", {}, now=True)
