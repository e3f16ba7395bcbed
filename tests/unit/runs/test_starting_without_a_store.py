"""Starts where Airflow keeps no state: keys derived from the task instance, and what Flora's window then allows."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timezone
from types import SimpleNamespace

import pytest
from lives import Crash, Life, posts_to, prompts_of, runs_of

from airflow_provider_flora.api.errors import FloraRunFailedError
from airflow_provider_flora.emulator import Emulator
from airflow_provider_flora.runs import starting
from airflow_provider_flora.runs.starting import DerivedMemory, FloraUnknownStartError, memory_of

TEMPORARY = {"error_code": "GENERATION_PROVIDER_TIMEOUT", "error_message": "The model took too long."}


@pytest.fixture
def task(flora: Emulator) -> Life:
    return Life(flora, None, since=time.time())


@pytest.mark.parametrize("point", ["before the POST", "after the POST"])
def test_a_try_that_dies_costs_one_run_and_the_next_has_it(task: Life, point: str) -> None:
    with pytest.raises(Crash):
        task.start(dies=point)
    run = task.start()
    assert [run.run_id] == [started["run_id"] for started in runs_of(task.flora)]


def test_a_retry_takes_up_the_run_of_the_try_before(task: Life) -> None:
    task.flora.order_fault(kind="stall_run")
    run = task.start()
    assert task.start().run_id == run.run_id
    assert task.start().run_id == run.run_id
    assert len(runs_of(task.flora)) == 1


def test_a_failed_run_is_replaced_under_the_next_key(task: Life) -> None:
    task.flora.order_fault(kind="fail_run", **TEMPORARY)
    task.start()
    run = task.start()
    assert [started["status"] for started in runs_of(task.flora)] == ["failed", "completed"]
    assert run.run_id == runs_of(task.flora)[1]["run_id"]


def test_the_replacement_of_a_failed_run_is_taken_up_or_the_task_stops_but_nothing_is_paid_twice(
    task: Life, account: str
) -> None:
    task.flora.order_fault(kind="fail_run", **TEMPORARY)
    task.start()
    replacement = task.start().run_id
    if account == "site":
        assert task.start().run_id == replacement
    else:  # two keys of this task answer 409, and the history does not say which of its runs is whose
        with pytest.raises(FloraUnknownStartError, match=replacement):
            task.start()
    assert task.flora.ledger()["charged_runs"] == 1


def test_no_try_has_more_keys_than_there_were_tries(emulate: Callable[..., Emulator]) -> None:
    task = Life(emulate(idempotency="site"), None, since=time.time())
    task.flora.order_fault(kind="fail_run", times=None, **TEMPORARY)
    for tries in (1, 2, 3):
        task.start()
        assert len(runs_of(task.flora)) == tries
    keys = [run["idempotency_key"] for run in runs_of(task.flora)]
    assert [key.rpartition("-")[2] for key in keys] == ["0", "1", "2"]
    assert len({key.rpartition("-")[0] for key in keys}) == 1


def test_a_run_that_failed_for_good_is_not_replaced_by_a_retry(task: Life) -> None:
    task.flora.order_fault(kind="fail_run", error_code="LLM_REFUSAL", error_message="No.")
    task.start()
    with pytest.raises(FloraRunFailedError, match="LLM_REFUSAL"):
        task.start()
    assert len(runs_of(task.flora)) == 1


def test_a_clear_asks_for_a_new_run(task: Life) -> None:
    first = task.start()
    task.deliver()
    task.clear()
    second = task.start()
    assert first.run_id != second.run_id
    task.kept["since"] = time.time()  # Airflow begins the DAG run anew
    task.siblings = [first.run_id]  # within the same second here
    assert task.start().run_id == second.run_id
    assert len(runs_of(task.flora)) == 2


def test_other_inputs_are_another_run(task: Life) -> None:
    task.start()
    task.prompt = "a jug"
    task.start()
    assert prompts_of(task.flora) == ["a cup", "a jug"]


def test_mapped_tasks_with_the_same_inputs_have_a_run_each(flora: Emulator) -> None:
    lives = [Life(flora, None, identity=("dag", "run", "task", index)) for index in range(3)]
    assert len({life.start().run_id for life in lives}) == 3
    assert len(runs_of(flora)) == 3


def test_a_stranger_of_the_same_time_stops_a_retry(flora_docs: Emulator) -> None:
    task = Life(flora_docs, None, since=time.time())
    with pytest.raises(Crash):
        task.start(dies="after the POST")
    stranger = flora_docs.seed_runs()[0]
    with pytest.raises(FloraUnknownStartError, match=stranger):
        task.start()
    assert len(runs_of(flora_docs)) == 1


@pytest.mark.parametrize("skew", [0, 120, -120])
def test_the_run_of_an_earlier_try_is_found_whatever_the_clocks_say(
    emulate: Callable[..., Emulator], skew: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starting, "CLOCK_MARGIN", 1.5)
    flora = emulate(clock_skew=skew)
    task = Life(flora, None, since=time.time())
    with pytest.raises(Crash):
        task.start(dies="after the POST")
    time.sleep(3)
    assert task.start().run_id == runs_of(flora)[0]["run_id"]


@pytest.mark.parametrize("skew", [0, 120, -120])
def test_runs_from_before_the_dag_run_are_strangers_whatever_the_clocks_say(
    emulate: Callable[..., Emulator], skew: int
) -> None:
    flora = emulate(clock_skew=skew)
    _, just_now = flora.seed_runs(2, spacing_ms=60_000)
    task = Life(flora, None, since=time.time())
    task.siblings = [just_now]
    with pytest.raises(Crash):
        task.start(dies="after the POST")
    assert task.start().run_id == runs_of(flora)[0]["run_id"]


def test_a_run_that_is_missing_for_a_moment_after_its_start_is_no_error(task: Life) -> None:
    task.try_number = 1
    task.flora.order_fault(kind="status", status=404, operation="getTechniqueRun")
    run = task.start()
    assert [run.run_id] == [started["run_id"] for started in runs_of(task.flora)]


def test_an_adopted_run_starts_nothing(task: Life) -> None:
    given = task.flora.seed_runs()[0]
    assert task.start(adopt=given).run_id == given
    assert posts_to(task.flora) == 0


def test_the_context_of_an_airflow_without_a_store_tells_the_task_instance_apart() -> None:
    begun = datetime(2026, 1, 2, tzinfo=timezone.utc)

    def memory(**changes: object) -> DerivedMemory:
        ti = {"dag_id": "d", "run_id": "r", "task_id": "t", "map_index": -1, "try_number": 2, **changes}
        dag_run = SimpleNamespace(start_date=None, logical_date=begun)
        found = memory_of({"ti": SimpleNamespace(**ti), "dag_run": dag_run})
        assert isinstance(found, DerivedMemory)
        return found

    def key(memory: DerivedMemory) -> str:
        return memory.new_record("digest", 2, (begun.timestamp() + 60, begun.timestamp() + 90), None).key

    keys = [key(memory(**change)) for change in ({}, {"dag_id": "e"}, {"run_id": "s"}, {"task_id": "u"})]
    keys.append(key(memory(map_index=3)))
    assert len(set(keys)) == 5
    assert key(memory(try_number=5)) == keys[0]
    now = time.time()
    assert memory().new_record("digest", 2, (now, now + 9), None).sent[0][0] == pytest.approx(
        begun.timestamp(), abs=5
    )
    assert memory(try_number=1).new_record("digest", 2, (now, now + 9), None).sent[0][0] == now


def test_which_of_several_failed_runs_is_the_tasks_own_does_not_matter(flora_docs: Emulator) -> None:
    flora_docs.order_fault(kind="fail_run", error_code="GENERATION_PROVIDER_TIMEOUT", error_message="", times=2)
    task = Life(flora_docs, None)
    for _ in range(3):
        run = task.start()
    assert [started["error_code"] for started in runs_of(flora_docs)] == ["GENERATION_PROVIDER_TIMEOUT"] * 2 + [
        None
    ]
    assert run.run_id == runs_of(flora_docs)[-1]["run_id"]
