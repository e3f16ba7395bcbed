"""Whole tasks at the edge of a second charge, and the emulator's ledger of what was paid.

Here Airflow dies between attempts by losing the error of an attempt. ``tests/unit/runs`` has
deaths inside a start.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from airflow_provider_flora.api.errors import FloraAPIError, FloraError, FloraRunTimeoutError
from airflow_provider_flora.emulator import Emulator
from airflow_provider_flora.runs import starting
from airflow_provider_flora.runs.starting import FloraUnknownStartError, Starter
from tests.unit.operators.fake_task import HAS_STATE_STORE, FakeStore, TaskLife
from tests.unit.operators.still import life_of, posts_to, still

pytestmark = pytest.mark.usefixtures("quick")
AT_WORK = 0.3
"""Seconds that Flora works on a start here: a second one meanwhile, with its key or without, is charged as well."""
LASTS = 3.0
"""Seconds after which a start counts as ended. Two attempts may read Flora's clock, in whole seconds, 1 s apart."""
needs_store = pytest.mark.skipif(not HAS_STATE_STORE, reason="this Airflow has no task state store")
STORES = pytest.mark.parametrize("has_store", [pytest.param(True, marks=needs_store), False])


@pytest.fixture(params=["docs", "site"])
def either_flora(request: pytest.FixtureRequest, connect: Callable[..., None]) -> Iterator[Emulator]:
    """Flora under either account of idempotency."""
    with Emulator(run_seconds=0.05, cost_lag=0, idempotency=request.param) as flora:
        connect(flora)
        yield flora


@pytest.fixture(autouse=True)
def starts_take_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starting, "start_duration", lambda _: LASTS)


def life(has_store: bool, **given: Any) -> TaskLife:
    return life_of(still(**given), store=FakeStore() if has_store else None)


def timed_out(flora: Emulator) -> TaskLife:
    """Return a task whose first attempt has timed out; its run goes on."""
    flora.order_fault("stall_run")
    task = life(True, timeout=0.2)
    with pytest.raises(FloraRunTimeoutError):
        task.run()
    return task


# --- a start of unknown fate ----------------------------------------------------------------------------------


@STORES
@pytest.mark.parametrize(
    ("answer", "tries"),
    [("502", 1), ("504", 2), ("408", 1), ("html", 2), ("cut_json", 1), ("reset", 1), ("reset", 2)],
)
def test_a_start_that_flora_is_still_at_work_on_is_not_sent_again(
    flora: Emulator, connect: Callable[..., None], answer: str, tries: int, has_store: bool
) -> None:
    connect(flora, max_retries=2 - tries)
    flora.order_fault("slow_start", seconds=AT_WORK, answer=answer)
    task = life(has_store)
    if tries == 2:
        with pytest.raises(FloraError) as caught:
            task.run()
        assert caught.value.remedy.retryable
    run_id = task.run()["run_id"]
    time.sleep(AT_WORK)  # by then the first has become a run, regardless of later requests
    assert [run["run_id"] for run in flora.ledger()["runs"]] == [run_id]
    assert flora.ledger()["charged_runs"] == 1


@needs_store
def test_a_lost_start_is_looked_for_until_a_history_that_lags_must_show_it(
    connect: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starting, "HISTORY_LAG", 2.0)
    with Emulator(run_seconds=0.05, cost_lag=0, list_lag=2.0) as flora:
        connect(flora)
        flora.order_fault("slow_start", seconds=AT_WORK, answer="reset")
        task = life(True)
        with pytest.raises(FloraError):
            task.run()
        task.operator.inputs = {"prompt": "a jug"}
        with pytest.raises(FloraUnknownStartError, match="the task's inputs have changed") as caught:
            task.run()
        assert flora.ledger()["runs"][0]["run_id"] in str(caught.value)
        assert flora.ledger()["started_runs"] == 1


@needs_store
def test_a_run_is_found_that_was_started_after_a_pause_which_flora_asked_for(
    flora: Emulator, connect: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starting, "CLOCK_MARGIN", 1.5)
    connect(flora, max_retries=1)
    flora.order_fault("status", status=429, retry_after=4, operation="startTechniqueRun")
    flora.order_fault("reset", when="after", operation="startTechniqueRun")
    task = life(True)
    with pytest.raises(FloraError):
        task.run()
    [window] = task.store.get("flora_run")["sent"]  # type: ignore[union-attr]
    assert window[1] - window[0] == pytest.approx(LASTS)
    assert task.run()["run_id"] == flora.ledger()["runs"][0]["run_id"]
    assert flora.ledger()["charged_runs"] == 1


@needs_store
def test_the_age_of_a_key_is_asked_again_before_each_repetition(
    flora: Emulator, connect: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starting, "KEY_LIFETIME", starting.KEY_MARGIN + LASTS / 2)
    connect(flora, max_retries=4)
    flora.order_fault("reset", when="after", operation="startTechniqueRun")
    with pytest.raises(FloraUnknownStartError, match="forgotten its idempotency key") as caught:
        life(True).run()
    assert flora.ledger()["runs"][0]["run_id"] in str(caught.value)
    assert posts_to(flora) == 1


# --- a conflict that is none of a key -------------------------------------------------------------------------


@STORES
@pytest.mark.parametrize("code", ["conflict", "idempotency_duplicate"])
def test_a_409_to_a_key_that_was_never_sent_adopts_nobody_s_run(
    flora: Emulator, has_store: bool, code: str
) -> None:
    flora.order_fault("delay", seconds=0.3, operation="startTechniqueRun")
    flora.order_fault("status", status=409, code=code, operation="startTechniqueRun")
    stranger = threading.Timer(0.15, flora.seed_runs)
    stranger.start()
    with pytest.raises(FloraAPIError, match=f"409 {code}") as caught:
        life(has_store).run()
    stranger.join()
    assert caught.value.run_id is None
    assert flora.ledger()["started_runs"] == 0


# --- two deployments ------------------------------------------------------------------------------------------


@STORES
def test_one_dag_in_two_deployments_has_two_runs(flora: Emulator, has_store: bool) -> None:
    here, there = life(has_store), life(has_store)
    there.started = here.started + timedelta(microseconds=1)
    runs = [task.run()["run_id"] for task in (here, there)]
    assert runs == [run["run_id"] for run in flora.ledger()["runs"]]
    assert len(set(runs)) == 2


# --- a record that is not there -------------------------------------------------------------------------------


@needs_store
@pytest.mark.parametrize("tries_before", [1, 2])
def test_an_upgrade_of_airflow_between_two_attempts_pays_for_one_run(
    either_flora: Emulator, tries_before: int
) -> None:
    either_flora.order_fault("stall_run")
    task = life(False, timeout=0.2)
    for _ in range(tries_before):
        with pytest.raises(FloraRunTimeoutError):
            task.run()
    task.store = FakeStore()
    with pytest.raises(FloraRunTimeoutError):
        task.run()
    assert either_flora.ledger()["started_runs"] == 1


@needs_store
def test_a_store_whose_backend_was_changed_costs_no_second_run(either_flora: Emulator) -> None:
    either_flora.order_fault("stall_run")
    task = life(True, timeout=0.2)
    for _ in range(3):
        with pytest.raises(FloraRunTimeoutError):
            task.run()
        task.store = FakeStore()
    assert either_flora.ledger()["started_runs"] == 1


@needs_store
def test_a_clear_after_the_record_went_with_a_mark_of_success_stops_and_names_the_run(
    either_flora: Emulator,
) -> None:
    either_flora.order_fault("stall_run")
    task = life(True, timeout=0.2)
    with pytest.raises(FloraRunTimeoutError):
        task.run()
    task.store = FakeStore()  # marked as success, with clear_on_success
    task.clear()
    with pytest.raises(FloraUnknownStartError, match=either_flora.ledger()["runs"][0]["run_id"]):
        task.run()
    assert either_flora.ledger()["started_runs"] == 1


# --- a clear is not a retry ------------------------------------------------------------------------------------


@needs_store
@pytest.mark.parametrize("told_by", ["the number of the try", "the count of clears"])
def test_a_clear_counts_where_one_retry_less_leaves_max_tries_as_it_was(flora: Emulator, told_by: str) -> None:
    task = life(True)
    first = task.run()["run_id"]
    before = task.max_tries
    task.retries = task.operator.retries = task.retries - 1
    task.clear()
    assert task.max_tries == before
    if told_by == "the number of the try":
        task.clear_number -= 1  # cleared with "reset_dag_runs" off
    else:
        task.try_number += 1  # the first try since the clear died before it did anything
    assert task.run()["run_id"] != first
    assert flora.ledger()["charged_runs"] == 2


# --- a clear of a task that cannot go on with its run -----------------------------------------------------------


@needs_store
@pytest.mark.parametrize("old_one", ["is still there", "was deleted"])
def test_a_clear_of_a_task_whose_technique_was_changed_starts_the_new_one(
    flora: Emulator, monkeypatch: pytest.MonkeyPatch, old_one: str
) -> None:
    monkeypatch.setattr("airflow_provider_flora.api.waiting.REFUSAL_CONFIRMED_AFTER", 0.2)
    task = timed_out(flora)
    first = flora.ledger()["runs"][0]["run_id"]
    if old_one == "was deleted":
        flora.change_technique("editorial-still", deleted=True)
    task.operator.technique_id, task.operator.inputs = "tagline-writer", {"brief": "a café"}
    with pytest.raises(FloraUnknownStartError, match=first):
        task.run()
    assert posts_to(flora) == 1
    task.clear()
    task.operator.timeout = 20
    assert task.run()["run_id"] == flora.ledger()["runs"][1]["run_id"]


@needs_store
def test_a_clear_of_a_task_whose_run_flora_does_not_show_any_more_starts_again(
    flora: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_provider_flora.api.waiting.REFUSAL_CONFIRMED_AFTER", 0.2)
    task = timed_out(flora)
    flora.order_fault("status", status=404, code="not_found", operation="getTechniqueRun", times=None)
    monkeypatch.setattr(Starter, "_pages_of_history", lambda *_: iter(()))
    with pytest.raises(FloraUnknownStartError, match="does not show") as caught:
        task.run()
    assert caught.value.run_id == flora.ledger()["runs"][0]["run_id"]
    assert posts_to(flora) == 1
    task.clear()
    task.operator.wait_for_completion = False
    assert task.run()["run_id"] == flora.ledger()["runs"][1]["run_id"]
