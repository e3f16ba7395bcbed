"""Starts where Airflow keeps no state: keys derived from the task instance, and what Flora's window then allows."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace

import pytest

from airflow_provider_flora.api import answers
from airflow_provider_flora.api.errors import FloraRunFailedError, FloraUnknownStartError
from airflow_provider_flora.emulator import Emulator
from airflow_provider_flora.runs import starting
from airflow_provider_flora.runs.record import Record, Records, digest_of
from airflow_provider_flora.task.attempt import Attempt
from tests.unit.runs.lives import Crash, Life, posts_to, prompts_of, runs_of

pytestmark = pytest.mark.usefixtures("quick_refusals", "wide_margin")
TEMPORARY = {"error_code": "GENERATION_PROVIDER_TIMEOUT", "error_message": "The model took too long."}


@pytest.fixture
def task(either_flora: Emulator) -> Life:
    return Life(either_flora, None, dag_run_began=time.time() - 0.05)


@pytest.mark.parametrize("point", ["before the POST", "after the POST"])
def test_an_attempt_that_dies_costs_one_run_and_the_next_has_it(task: Life, point: str) -> None:
    with pytest.raises(Crash):
        task.start(dies=point)
    run = task.start()
    assert [run.run_id] == [started["run_id"] for started in runs_of(task.flora)]


def test_a_retry_resumes_the_run_of_the_attempt_before(task: Life) -> None:
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


def test_a_failed_run_is_replaced_under_the_next_key_when_its_own_may_be_forgotten(
    task: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starting, "KEY_LIFETIME", 0.0)  # Flora knows it longer
    task.flora.order_fault(kind="fail_run", times=2, **TEMPORARY)
    for _ in range(3):
        task.start()
    assert [started["status"] for started in runs_of(task.flora)] == ["failed", "failed", "completed"]


def test_the_replacement_of_a_failed_run_is_resumed_or_the_task_stops_but_nothing_is_paid_twice(
    task: Life, account: str
) -> None:
    task.flora.order_fault(kind="fail_run", **TEMPORARY)
    task.start()
    replacement = task.start().run_id
    if account == "site":
        assert task.start().run_id == replacement
    else:  # two keys of this task answer 409, and the history does not show whose its runs are
        with pytest.raises(FloraUnknownStartError, match=replacement):
            task.start()
    assert task.flora.ledger()["charged_runs"] == 1


def test_no_attempt_has_more_keys_than_there_were_attempts(emulate: Callable[..., Emulator]) -> None:
    task = Life(emulate(idempotency="site"), None, dag_run_began=time.time() - 0.05)
    task.flora.order_fault(kind="fail_run", times=None, **TEMPORARY)
    for tries in (1, 2, 3):
        task.start()
        assert len(runs_of(task.flora)) == tries
    keys = [run["idempotency_key"] for run in runs_of(task.flora)]
    assert len(set(keys)) == 3


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
    task.siblings = [first.run_id]  # within the same second here
    assert task.start().run_id == second.run_id
    assert len(runs_of(task.flora)) == 2


def test_other_inputs_are_another_run(task: Life) -> None:
    task.start()
    task.prompt = "a jug"
    task.start()
    assert prompts_of(task.flora) == ["a cup", "a jug"]


def test_mapped_tasks_with_the_same_inputs_have_a_run_each(either_flora: Emulator) -> None:
    lives = [Life(either_flora, None, map_index=index) for index in range(3)]
    assert len({life.start().run_id for life in lives}) == 3
    assert len(runs_of(either_flora)) == 3


def test_a_stranger_of_the_same_time_stops_a_retry(flora_docs: Emulator) -> None:
    task = Life(flora_docs, None, dag_run_began=time.time() - 0.05)
    with pytest.raises(Crash):
        task.start(dies="after the POST")
    stranger = flora_docs.seed_runs()[0]
    with pytest.raises(FloraUnknownStartError, match=stranger):
        task.start()
    assert len(runs_of(flora_docs)) == 1


@pytest.mark.parametrize("skew", [0, 120, -120])
def test_the_run_of_an_earlier_attempt_is_found_with_any_clock(
    emulate: Callable[..., Emulator], skew: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starting, "CLOCK_MARGIN", 1.5)
    flora = emulate(clock_skew=skew)
    task = Life(flora, None, dag_run_began=time.time() - 0.05)
    with pytest.raises(Crash):
        task.start(dies="after the POST")
    time.sleep(3)
    assert task.start().run_id == runs_of(flora)[0]["run_id"]


@pytest.mark.parametrize("skew", [0, 120, -120])
def test_runs_from_before_the_dag_run_are_not_candidates_with_any_clock(
    emulate: Callable[..., Emulator], skew: int
) -> None:
    flora = emulate(clock_skew=skew)
    _, just_now = flora.seed_runs(2, spacing_ms=60_000)
    task = Life(flora, None, dag_run_began=time.time() - 0.05)
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


def attempt_of(**changes: object) -> Attempt:
    begun = datetime(2026, 1, 2, tzinfo=timezone.utc)
    ti = {"dag_id": "d", "run_id": "r", "task_id": "t", "map_index": -1, "try_number": 2, "max_tries": 2}
    ti = SimpleNamespace(**{**ti, "start_date": begun, **changes})
    dag_run = SimpleNamespace(
        start_date=changes.get("dag_run_began"), logical_date=begun, clear_number=changes.get("clear_number")
    )
    task = SimpleNamespace(retries=2, retry_delay=timedelta(minutes=5))
    return Attempt.of({"ti": ti, "dag_run": dag_run, "task": task})


def test_a_key_belongs_to_one_task_instance_of_one_deployment_and_to_all_its_attempts() -> None:
    def key(**changes: object) -> str:
        records = Records(None, attempt_of(**changes))
        return records.new_intent(records.empty_record("digest", "technique"), None).key

    other_deployment = datetime(2026, 1, 2, microsecond=7, tzinfo=timezone.utc)
    changes: list[dict[str, object]] = [
        {},
        {"dag_id": "e"},
        {"run_id": "s"},
        {"task_id": "u"},
        {"map_index": 3},
        {"dag_run_began": other_deployment},
        {"max_tries": 5},
    ]
    assert len({key(**change) for change in changes}) == len(changes)
    assert key(try_number=3) == key()


def test_the_key_that_a_release_derives_stays_what_it_is() -> None:
    records = Records(None, attempt_of())
    digest = digest_of("product-relight", {"photo": "s3://shop/cup.png", "light": "neon"}, None)
    # An upgrade of the provider between two attempts must find the run of the first: never change it.
    assert (
        records.new_intent(records.empty_record(digest, "product-relight"), None).key
        == "airflow-d98028c2b69cb4b12d16916944a86a1812f2230e"
    )


def test_what_an_earlier_attempt_may_have_sent_is_presumed() -> None:
    def presumed(**changes: object) -> Record | None:
        records = Records(None, attempt_of(**changes))
        return records.presume(
            records.new_intent(records.empty_record("digest", "technique"), None), skew=(59, 61), start_duration=120
        )

    begun = datetime(2026, 1, 2, tzinfo=timezone.utc)
    retry = presumed(try_number=2, start_date=begun + timedelta(hours=1))
    assert retry is not None
    # The retry's delay is longer than a start.
    assert retry.sent == ((begun.timestamp() + 59, begun.timestamp() + 3600 + 61),)
    assert presumed(try_number=1) is None
    assert presumed(try_number=4, max_tries=5) is None  # the first try since a clear
    # A clear of a running task is followed by an attempt without the retry's delay.
    after_a_clear = presumed(try_number=2, start_date=begun + timedelta(hours=1), clear_number=1)
    assert after_a_clear is not None
    assert after_a_clear.sent == ((begun.timestamp() + 59, begun.timestamp() + 3600 + 120 + 61),)


def test_what_an_earlier_attempt_sent_is_presumed_by_the_clock_of_before_it_was_set(
    flora_docs: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    apart, skews = [0.0], []
    monkeypatch.setattr(answers, "clocks_apart", lambda: apart[0])
    monkeypatch.setattr(answers, "clock_skew", lambda *_: -200.0)
    monkeypatch.setattr(Records, "presume", lambda _self, _intent, skew, _duration: skews.append(skew))
    task = Life(flora_docs, None)
    task.try_number = 2
    starter = task.make_starter(look_first=False)
    apart[0] = 200.0
    starter.start()
    assert skews == [(-200.0, 0.0)]


def test_an_attempt_that_used_two_keys_does_not_stop_the_next_one(flora_docs: Emulator) -> None:
    task = Life(flora_docs, None)
    task.client_settings["max_retries"] = 1
    task.flora.order_fault(kind="fail_run", times=2, **TEMPORARY)
    task.flora.order_fault(kind="reset", when="after", operation="startTechniqueRun")
    task.start()
    task.start()
    assert [started["status"] for started in runs_of(task.flora)] == ["failed", "failed", "completed"]


def test_which_of_several_failed_runs_is_the_tasks_own_does_not_matter(flora_docs: Emulator) -> None:
    flora_docs.order_fault(kind="fail_run", error_code="GENERATION_PROVIDER_TIMEOUT", error_message="", times=2)
    task = Life(flora_docs, None)
    for _ in range(3):
        run = task.start()
    assert [started["error_code"] for started in runs_of(flora_docs)] == ["GENERATION_PROVIDER_TIMEOUT"] * 2 + [
        None
    ]
    assert run.run_id == runs_of(flora_docs)[-1]["run_id"]
