"""Every row of the table in ``runs/starting.py``, and the emulator's ledger of what was paid."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_flora.api import answers
from airflow_provider_flora.api.client import FloraClient
from airflow_provider_flora.api.errors import (
    FloraAnswerError,
    FloraAPIError,
    FloraConnectionError,
    FloraError,
    FloraNotStoredError,
    FloraPriceError,
    FloraRunFailedError,
    FloraUnknownStartError,
)
from airflow_provider_flora.api.models import Run
from airflow_provider_flora.emulator import Emulator
from airflow_provider_flora.runs import starting
from airflow_provider_flora.runs.record import Record
from airflow_provider_flora.runs.starting import Starter, State
from tests.unit.operators.fake_task import FakeStore
from tests.unit.runs.lives import POINTS, TECHNIQUE, Crash, Life, posts_to, prompts_of, runs_of

pytestmark = pytest.mark.usefixtures("quick_refusals", "wide_margin")
TEMPORARY = {"error_code": "GENERATION_PROVIDER_TIMEOUT", "error_message": "The model took too long."}
REFUSED = {"error_code": "GPU_PROVIDER_ERROR", "error_message": "Your request was rejected by the safety system."}


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that pass for a starter, added by a test instead of waiting for them."""
    seconds: list[float] = []
    get_flora_time = Starter._get_flora_time
    monkeypatch.setattr(Starter, "_get_flora_time", lambda starter: get_flora_time(starter) + sum(seconds))
    return seconds


@pytest.fixture
def task(either_flora: Emulator, store: FakeStore) -> Life:
    return Life(either_flora, store)


@pytest.fixture
def docs_task(flora_docs: Emulator, store: FakeStore) -> Life:
    return Life(flora_docs, store)


def expire_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on Flora may have forgotten every key."""
    monkeypatch.setattr(starting, "KEY_LIFETIME", -1000.0)


# --- new --------------------------------------------------------------------------------------------------


def test_the_intent_is_stored_before_the_post_and_the_run_after_it(task: Life) -> None:
    run = task.start()
    nothing, intent, started = task.store.writes
    assert not nothing["sent"]
    assert intent["run_id"] is None
    assert len(intent["sent"]) == 1
    assert started == {**intent, "run_id": run.run_id}
    assert runs_of(task.flora)[0]["idempotency_key"] == intent["key"]
    assert posts_to(task.flora) == 1


def test_nothing_is_stored_or_sent_when_the_price_is_refused(task: Life) -> None:
    def too_much() -> None:
        raise FloraPriceError(TECHNIQUE, 1.0, 0.5, "max_run_cost")

    with pytest.raises(FloraPriceError):
        task.start(may_spend=too_much)
    assert not task.record["sent"]
    assert posts_to(task.flora) == 0


def test_two_tasks_with_the_same_inputs_have_a_run_each(either_flora: Emulator, store: FakeStore) -> None:
    first, second = Life(either_flora, store).start(), Life(either_flora, FakeStore()).start()
    assert first.run_id != second.run_id
    assert either_flora.ledger()["charged_runs"] == 2


def test_the_log_names_the_run_and_never_the_idempotency_key(task: Life, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    run = task.start()
    task.start()
    assert f"Started {run.run_id}" in caplog.text
    assert f"Adopted {run.run_id} of an earlier attempt (completed)" in caplog.text
    assert task.record["key"] not in caplog.text


# --- dying at each point ----------------------------------------------------------------------------------


@pytest.mark.parametrize("point", POINTS)
def test_an_attempt_that_dies_costs_one_run_and_the_next_has_it(task: Life, point: str) -> None:
    with pytest.raises(Crash):
        task.start(dies=point)
    run = task.start()
    assert [run.run_id] == [started["run_id"] for started in runs_of(task.flora)]
    assert task.flora.ledger()["charged_runs"] == 1
    assert task.record["run_id"] == run.run_id


@pytest.mark.parametrize("second", POINTS[1:-1])
@pytest.mark.parametrize("first", POINTS[:-1])
def test_dying_twice_costs_one_run(task: Life, first: str, second: str) -> None:
    for point in (first, second):
        with pytest.raises(Crash):
            task.start(dies=point)
    run = task.start()
    assert [run.run_id] == [started["run_id"] for started in runs_of(task.flora)]


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ({"kind": "reset", "when": "before"}, FloraConnectionError),
        ({"kind": "reset", "when": "after"}, FloraConnectionError),
        ({"kind": "html", "when": "before"}, FloraAPIError),
        ({"kind": "html", "when": "after"}, FloraAPIError),
        ({"kind": "cut_json"}, FloraAnswerError),
        ({"kind": "not_a_run"}, FloraAnswerError),
        ({"kind": "oversize"}, FloraAnswerError),
        ({"kind": "redirect"}, FloraAnswerError),
        ({"kind": "status", "status": 503}, FloraAPIError),
        ({"kind": "status", "status": 402}, FloraAPIError),
        ({"kind": "status", "status": 429}, FloraAPIError),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_a_lost_or_refused_answer_costs_one_run_over_two_attempts(
    task: Life, fault: dict[str, object], error: type[FloraError]
) -> None:
    task.flora.order_fault(operation="startTechniqueRun", **fault)
    with pytest.raises(error):
        task.start()
    run = task.start()
    assert [run.run_id] == [started["run_id"] for started in runs_of(task.flora)]


def test_an_answer_that_came_too_late_costs_one_run_over_two_attempts(task: Life) -> None:
    task.flora.order_fault(kind="delay", when="after", seconds=60, operation="startTechniqueRun")
    task.try_number = 1
    starter = task.make_starter()
    starter._client.settings = replace(starter._client.settings, timeout=0.2)  # of the start alone
    with starter._client, pytest.raises(FloraConnectionError):
        starter.start()
    run = task.start()
    assert [run.run_id] == [started["run_id"] for started in runs_of(task.flora)]


def test_a_lost_answer_is_recovered_within_one_attempt(
    task: Life,
    account: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    passed: list[float],
) -> None:
    monkeypatch.setattr(starting, "start_duration", lambda _: 120.0)
    monkeypatch.setattr(starting, "time", SimpleNamespace(**{**vars(time), "sleep": passed.append}))
    caplog.set_level(logging.INFO)
    task.client_settings["max_retries"] = 1
    task.flora.order_fault(kind="reset", when="after", operation="startTechniqueRun")
    run = task.start()
    assert [run.run_id] == [started["run_id"] for started in runs_of(task.flora)]
    assert ("Found" if account == "docs" else "Started") + f" {run.run_id}" in caplog.text
    assert "s until an earlier start is certain to have ended" in caplog.text
    assert 60 < sum(passed) < 180


def test_a_second_request_has_the_same_key_and_adds_its_time(task: Life) -> None:
    with pytest.raises(Crash):
        task.start(dies="before the POST")
    before = task.record
    task.start()
    assert task.record["key"] == before["key"]
    assert task.record["sent"][0] == before["sent"][0]
    assert len(task.record["sent"]) == 2


@pytest.mark.parametrize("prompt", ["a cup", "a jug"])
def test_a_refused_start_leaves_nothing_to_be_unsure_of(
    task: Life, prompt: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    task.flora.order_fault(kind="status", status=402, operation="startTechniqueRun")
    with pytest.raises(FloraAPIError):
        task.start()
    task.flora.seed_runs()
    expire_keys(monkeypatch)
    task.prompt = prompt
    task.start()
    assert prompts_of(task.flora) == [prompt]


def test_a_refusal_that_cannot_be_stored_is_still_reported(
    task: Life, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole = task.store.set

    def away_once_it_was_sent(*args: object, **kwargs: object) -> None:
        if posts_to(task.flora):
            raise ConnectionError("away")
        whole(*args, **kwargs)

    monkeypatch.setattr(task.store, "set", away_once_it_was_sent)
    task.flora.order_fault(kind="status", status=402, operation="startTechniqueRun")
    with pytest.raises(FloraAPIError, match="402"):
        task.start()
    assert "Could not store the result of the start" in caplog.text


# --- a run that is known ----------------------------------------------------------------------------------


def test_an_active_run_is_waited_for_by_the_next_attempt(task: Life) -> None:
    task.flora.order_fault(kind="stall_run")
    run = task.start()
    assert task.start().run_id == run.run_id
    assert posts_to(task.flora) == 1


def test_clearing_a_task_that_waits_starts_nothing(task: Life) -> None:
    task.flora.order_fault(kind="stall_run")
    run = task.start()
    task.clear()
    assert task.start().run_id == run.run_id
    assert posts_to(task.flora) == 1


@pytest.mark.parametrize("cleared", [False, True])
def test_a_completed_run_that_was_never_delivered_is_handed_over(task: Life, cleared: bool) -> None:
    run = task.start()
    if cleared:
        task.clear()
    assert task.start().run_id == run.run_id
    assert posts_to(task.flora) == 1


def test_a_delivered_run_is_handed_over_again_to_a_retry(task: Life) -> None:
    run = task.start()
    task.deliver()
    assert task.start().run_id == run.run_id
    assert posts_to(task.flora) == 1


def test_each_clear_of_a_finished_task_is_one_more_run(task: Life) -> None:
    runs = [task.start().run_id]
    for _ in range(2):
        task.deliver()
        task.clear()
        runs.append(task.start().run_id)
        assert task.start().run_id == runs[-1]
    assert runs == [run["run_id"] for run in runs_of(task.flora)]
    assert len({run["idempotency_key"] for run in runs_of(task.flora)}) == 3


def test_a_clear_counts_when_the_dag_allows_fewer_retries_than_before(task: Life) -> None:
    task.retries = task.max_tries = 5
    run = task.start()
    task.deliver()
    task.retries = 0
    task.clear()
    assert task.max_tries < 5
    assert task.start().run_id != run.run_id


def test_a_clear_of_a_finished_task_may_bring_other_inputs(task: Life) -> None:
    task.start()
    task.deliver()
    task.clear()
    task.prompt = "a jug"
    task.start()
    assert prompts_of(task.flora) == ["a cup", "a jug"]


def test_a_run_that_flora_does_not_show_any_more_stops_the_task(
    task: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = task.start()
    task.flora.order_fault(kind="status", status=404, operation="getTechniqueRun", times=None)
    monkeypatch.setattr(Starter, "_find_in_history", lambda *_: None)
    with pytest.raises(FloraUnknownStartError, match=run.run_id) as caught:
        task.start()
    assert "Nothing was started" in str(caught.value)
    assert posts_to(task.flora) == 1


def test_a_run_that_only_the_history_shows_is_handed_over(task: Life) -> None:
    run = task.start()
    task.flora.order_fault(kind="status", status=404, operation="getTechniqueRun", times=None)
    assert task.start().run_id == run.run_id


def test_a_clear_of_a_task_whose_run_is_gone_starts_again(task: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    run = task.start()
    task.flora.order_fault(kind="status", status=404, operation="getTechniqueRun", times=None)
    monkeypatch.setattr(Starter, "_find_in_history", lambda *_: None)
    task.clear()
    assert task.start().run_id != run.run_id
    assert posts_to(task.flora) == 2


def test_a_run_that_is_missing_for_a_moment_after_its_start_is_polled_again(
    task: Life, caplog: pytest.LogCaptureFixture
) -> None:
    run = task.start()
    task.flora.order_fault(kind="status", status=404, operation="getTechniqueRun", times=2)
    assert task.start().run_id == run.run_id
    assert caplog.text.count(f"{run.run_id} of an earlier attempt cannot be read now, polling again") == 1
    assert posts_to(task.flora) == 1


@pytest.mark.parametrize("status", [500, 401, 403])
def test_a_known_run_that_cannot_be_seen_starts_nothing(task: Life, status: int) -> None:
    task.start()
    task.flora.order_fault(kind="status", status=status, operation="getTechniqueRun")
    assert task.start().run_id
    assert posts_to(task.flora) == 1


# --- failed runs ------------------------------------------------------------------------------------------


def test_a_run_that_a_retry_may_mend_is_replaced_under_a_new_key(task: Life) -> None:
    task.flora.order_fault(kind="fail_run", **TEMPORARY)
    assert task.start().failed or runs_of(task.flora)[0]["status"] == "failed"
    run = task.start()
    assert [started["status"] for started in runs_of(task.flora)] == ["failed", "completed"]
    assert run.run_id == runs_of(task.flora)[1]["run_id"]
    assert len({started["idempotency_key"] for started in runs_of(task.flora)}) == 2


def test_a_failed_run_whose_answer_was_lost_is_replaced_once(task: Life) -> None:
    task.flora.order_fault(kind="fail_run", **TEMPORARY)
    with pytest.raises(Crash):
        task.start(dies="after the POST")
    assert task.start().run_id == runs_of(task.flora)[1]["run_id"]
    assert [started["status"] for started in runs_of(task.flora)] == ["failed", "completed"]


def test_a_record_that_is_lost_after_a_clear_hides_which_keys_were_used(task: Life) -> None:
    for _ in range(2):
        task.flora.order_fault(kind="fail_run", **TEMPORARY)
        task.start()
        task.clear()
    assert task.store is not None
    task.store.rows.clear()
    task.try_number += 1  # a retry
    task.start()
    assert [started["status"] for started in runs_of(task.flora)] == ["failed", "failed", "completed"]


def test_a_moderated_run_is_never_paid_for_again_by_a_retry(task: Life) -> None:
    task.flora.order_fault(kind="fail_run", **REFUSED)
    task.start()
    with pytest.raises(FloraRunFailedError, match="safety system"):
        task.start()
    assert posts_to(task.flora) == 1


@pytest.mark.parametrize("prompt", ["a cup", "a jug"])
def test_a_clear_of_a_task_whose_run_failed_for_good_is_a_new_run(task: Life, prompt: str) -> None:
    task.flora.order_fault(kind="fail_run", **REFUSED)
    task.start()
    task.clear()
    task.prompt = prompt
    task.start()
    assert prompts_of(task.flora) == ["a cup", prompt]


# --- other inputs than before -----------------------------------------------------------------------------


@pytest.mark.parametrize("stalled", [True, False])
def test_a_retry_with_other_inputs_stops_rather_than_take_the_wrong_result(task: Life, stalled: bool) -> None:
    if stalled:
        task.flora.order_fault(kind="stall_run")
    run = task.start()
    task.prompt = "a jug"
    with pytest.raises(FloraUnknownStartError, match=f"adopt_run_id='{run.run_id}'"):
        task.start()
    assert posts_to(task.flora) == 1


def test_a_clear_with_other_inputs_leaves_the_run_of_before(task: Life, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    run = task.start()
    task.prompt = "a jug"
    task.clear()
    task.start()
    assert prompts_of(task.flora) == ["a cup", "a jug"]
    assert f"Leaving {run.run_id}" in caplog.text


def test_a_failed_run_of_other_inputs_is_replaced_by_one_of_the_new(task: Life) -> None:
    task.flora.order_fault(kind="fail_run", **TEMPORARY)
    task.start()
    task.prompt = "a jug"
    task.start()
    assert prompts_of(task.flora) == ["a cup", "a jug"]


def test_other_inputs_after_an_intent_that_was_never_sent_start_their_run(task: Life) -> None:
    with pytest.raises(Crash):
        task.start(dies="before the POST")
    task.prompt = "a jug"
    task.start()
    assert prompts_of(task.flora) == ["a jug"]


def test_other_inputs_after_a_lost_answer_stop_and_name_the_run(task: Life) -> None:
    with pytest.raises(Crash):
        task.start(dies="after the POST")
    task.prompt = "a jug"
    lost = runs_of(task.flora)[0]["run_id"]
    with pytest.raises(FloraUnknownStartError, match=lost) as caught:
        task.start()
    assert "the task's inputs have changed" in str(caught.value)
    assert posts_to(task.flora) == 1


def test_other_inputs_after_a_lost_answer_start_again_where_a_second_charge_is_accepted(task: Life) -> None:
    with pytest.raises(Crash):
        task.start(dies="after the POST")
    task.prompt = "a jug"
    task.on_unknown_start = "restart"
    task.start()
    assert prompts_of(task.flora) == ["a cup", "a jug"]


# --- an intent whose key Flora may have forgotten ----------------------------------------------------------


def test_a_key_that_may_be_forgotten_is_not_sent_again(
    emulate: Callable[..., Emulator], account: str, store: FakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = Life(emulate(idempotency=account, idempotency_window=0), store)
    with pytest.raises(Crash):
        task.start(dies="after the POST")
    expire_keys(monkeypatch)
    with pytest.raises(FloraUnknownStartError, match=runs_of(task.flora)[0]["run_id"]) as caught:
        task.start()
    assert "forgotten its idempotency key" in str(caught.value)
    assert task.flora.ledger()["charged_runs"] == 1


def test_what_the_history_tells_of_a_keys_age_holds_for_one_request(docs_task: Life) -> None:
    with pytest.raises(Crash):
        docs_task.start(dies="after the POST")
    docs_task.client_settings["max_retries"] = 1
    docs_task.flora.order_fault(kind="reset", when="before", operation="startTechniqueRun")
    starter = docs_task.make_starter()
    starter._record = starter._load_record()
    starter._key_is_known = True
    assert starter._send_again() is None
    assert not starter._key_is_known


def test_an_intent_of_long_ago_that_became_no_run_is_sent(task: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Crash):
        task.start(dies="before the POST")
    expire_keys(monkeypatch)
    task.start()
    assert task.flora.ledger()["charged_runs"] == 1


def test_a_run_lost_long_ago_is_replaced_where_a_second_charge_is_accepted(
    task: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Crash):
        task.start(dies="after the POST")
    expire_keys(monkeypatch)
    task.on_unknown_start = "restart"
    task.start()
    assert task.flora.ledger()["charged_runs"] == 2


def test_the_age_of_a_key_counts_from_its_first_request_by_floras_clock(
    task: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Crash):
        task.start(dies="before the POST")
    kept = task.store.get("flora_run")
    age = starting.KEY_LIFETIME - starting.KEY_MARGIN + 5
    kept["sent"] = [[start - age, end - age] for start, end in kept["sent"]]
    task.store.set("flora_run", kept)
    seen: list[State] = []
    whole = starting.decide
    monkeypatch.setattr(starting, "decide", lambda *known: seen.append(whole(*known)) or seen[-1])
    task.start()
    assert seen[0] is State.UNKNOWABLE


# --- which run is it --------------------------------------------------------------------------------------


def test_a_stranger_of_the_same_moment_stops_the_task_and_both_are_named(docs_task: Life) -> None:
    with pytest.raises(Crash):
        docs_task.start(dies="after the POST")
    stranger = docs_task.flora.seed_runs()[0]
    lost = runs_of(docs_task.flora)[0]["run_id"]
    with pytest.raises(FloraUnknownStartError) as caught:
        docs_task.start()
    assert lost in str(caught.value)
    assert stranger in str(caught.value)
    assert "on_unknown_start='restart'" in str(caught.value)
    assert docs_task.flora.ledger()["started_runs"] == 1


def test_a_stranger_of_the_same_moment_does_not_matter_where_flora_replays(
    emulate: Callable[..., Emulator], store: FakeStore
) -> None:
    task = Life(emulate(idempotency="site"), store)
    with pytest.raises(Crash):
        task.start(dies="after the POST")
    task.flora.seed_runs()
    assert task.start().run_id == runs_of(task.flora)[0]["run_id"]


def test_among_strangers_a_second_charge_may_be_accepted(docs_task: Life, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(Crash):
        docs_task.start(dies="after the POST")
    docs_task.flora.seed_runs()
    docs_task.on_unknown_start = "restart"
    run = docs_task.start()
    assert [started["run_id"] for started in runs_of(docs_task.flora)][1] == run.run_id
    assert docs_task.flora.ledger()["charged_runs"] == 2
    assert "second run" in caplog.text


def test_runs_of_siblings_are_not_taken_for_the_lost_one(docs_task: Life) -> None:
    with pytest.raises(Crash):
        docs_task.start(dies="after the POST")
    docs_task.siblings = docs_task.flora.seed_runs(3, spacing_ms=0)
    assert docs_task.start().run_id == runs_of(docs_task.flora)[0]["run_id"]


def test_the_tasks_own_earlier_runs_are_not_taken_for_the_lost_one(docs_task: Life) -> None:
    docs_task.flora.order_fault(kind="fail_run", **TEMPORARY)
    docs_task.start()
    docs_task.start()
    docs_task.deliver()
    docs_task.clear()
    with pytest.raises(Crash):
        docs_task.start(dies="after the POST")
    assert docs_task.start().run_id == runs_of(docs_task.flora)[2]["run_id"]
    assert docs_task.record["past"] == [run["run_id"] for run in runs_of(docs_task.flora)][:2]


@pytest.mark.parametrize("skew", [0, 120, -120])
def test_runs_from_before_the_intent_are_not_taken_for_the_lost_one_with_any_clock(
    emulate: Callable[..., Emulator], store: FakeStore, skew: int
) -> None:
    task = Life(emulate(clock_skew=skew), store)
    _, just_now = task.flora.seed_runs(2, spacing_ms=60_000)
    task.siblings = [just_now]
    with pytest.raises(Crash):
        task.start(dies="after the POST")
    assert task.start().run_id == runs_of(task.flora)[0]["run_id"]
    assert task.flora.ledger()["charged_runs"] == 1


@pytest.mark.parametrize("skew", [120, -120])
def test_floras_clock_is_asked_for_if_no_answer_has_shown_it(
    emulate: Callable[..., Emulator], store: FakeStore, skew: int
) -> None:
    task = Life(emulate(clock_skew=skew), store)
    task.start(look_first=False)
    assert abs(task.record["sent"][0][0] - (time.time() + skew)) < 10


def test_a_run_that_comes_late_into_the_history_is_waited_for(
    emulate: Callable[..., Emulator], store: FakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starting, "HISTORY_LAG", 2.5)
    task = Life(emulate(list_lag=0.8), store)
    with pytest.raises(Crash):
        task.start(dies="after the POST")
    assert task.start().run_id == runs_of(task.flora)[0]["run_id"]


def test_a_run_that_does_not_come_into_the_history_stops_the_task_and_can_be_found_later(
    docs_task: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Crash):
        docs_task.start(dies="after the POST")
    docs_task.siblings = [runs_of(docs_task.flora)[0]["run_id"]]
    with pytest.raises(FloraUnknownStartError, match="none in the history yet"):
        docs_task.start()
    docs_task.siblings = []
    assert docs_task.start().run_id == runs_of(docs_task.flora)[0]["run_id"]


def test_an_error_names_only_so_many_candidates(docs_task: Life) -> None:
    with pytest.raises(Crash):
        docs_task.start(dies="after the POST")
    docs_task.flora.seed_runs(50, spacing_ms=0)
    with pytest.raises(FloraUnknownStartError) as caught:
        docs_task.start()
    assert str(caught.value).count("run_") - str(caught.value).count("adopt_run_id") == starting.MAX_CANDIDATES


def test_runs_that_failed_do_not_take_the_place_of_candidates(docs_task: Life) -> None:
    with pytest.raises(Crash):
        docs_task.start(dies="after the POST")
    [lost] = [run["run_id"] for run in runs_of(docs_task.flora)]
    docs_task.flora.seed_runs(1, spacing_ms=0)
    docs_task.flora.seed_runs(starting.MAX_CANDIDATES, spacing_ms=0, status="failed")
    with pytest.raises(FloraUnknownStartError, match=lost):
        docs_task.start()


# --- a person knows better --------------------------------------------------------------------------------


def test_an_adopted_run_is_the_tasks_own_from_then_on(task: Life) -> None:
    given = task.flora.seed_runs()[0]
    assert task.start(adopt=given).run_id == given
    assert task.start().run_id == given
    assert posts_to(task.flora) == 0


def test_the_run_that_an_adopted_one_replaces_is_an_earlier_run_of_the_task(task: Life) -> None:
    own = task.start().run_id
    given = task.flora.seed_runs(status="failed")[0]
    task.start(adopt=given)
    assert task.record["past"] == [own]
    task.clear()
    run = task.start()
    assert task.record["past"] == [own, given]
    assert {own, run.run_id} == {started["run_id"] for started in runs_of(task.flora)}
    assert own != run.run_id
    task.start(adopt=given)
    task.start()  # without a clear, under a key that was not used
    assert posts_to(task.flora) == 3


def test_adopting_resolves_an_unknown_start(docs_task: Life) -> None:
    with pytest.raises(Crash):
        docs_task.start(dies="after the POST")
    docs_task.flora.seed_runs()
    with pytest.raises(FloraUnknownStartError):
        docs_task.start()
    lost = runs_of(docs_task.flora)[0]["run_id"]
    docs_task.clear()
    assert docs_task.start(adopt=lost).run_id == lost
    docs_task.deliver()
    assert docs_task.flora.ledger()["charged_runs"] == 1


@pytest.mark.parametrize("is_lost", [False, True])
def test_adopting_a_run_that_fails_does_not_hide_a_start_without_an_answer(docs_task: Life, is_lost: bool) -> None:
    with pytest.raises(Crash):
        docs_task.start(dies="after the POST")
    if is_lost:
        assert docs_task.store is not None
        docs_task.store.rows.clear()
    docs_task.clear()
    given = docs_task.flora.seed_runs(status="failed")[0]
    docs_task.start(adopt=given)
    docs_task.clear()
    with suppress(FloraUnknownStartError):
        docs_task.start()
    assert len(runs_of(docs_task.flora)) == 1


def test_an_adopted_run_that_was_delivered_answers_the_start_before_another_is_adopted(docs_task: Life) -> None:
    with pytest.raises(Crash):
        docs_task.start(dies="after the POST")
    first, second = docs_task.flora.seed_runs(2)
    docs_task.start(adopt=first)
    docs_task.deliver()
    docs_task.clear()
    docs_task.start(adopt=second)
    assert docs_task.record["past"] == [first]
    assert docs_task.record["sent"] == []


def test_all_attempts_of_a_lost_record_are_abandoned_at_once(
    docs_task: Life, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        docs_task.start()
    docs_task.clear()
    assert docs_task.store is not None
    docs_task.store.rows.clear()
    docs_task.abandoned = True
    docs_task.start()
    assert caplog.text.count("Abandoning") == 1
    assert len(runs_of(docs_task.flora)) == 2


def test_a_start_with_other_inputs_is_not_sent_again_after_an_adopted_run(docs_task: Life) -> None:
    with pytest.raises(Crash):
        docs_task.start(dies="after the POST")
    given = docs_task.flora.seed_runs()[0]
    docs_task.prompt = "a bowl"
    docs_task.start(adopt=given)
    record = Record.from_plain(docs_task.record)
    assert record is not None
    assert record.adopted
    assert record.sent
    assert not record.resendable


def test_adopting_a_run_that_does_not_exist_is_an_error_and_starts_nothing(task: Life) -> None:
    with pytest.raises(FloraAPIError, match="404"):
        task.start(adopt="run_of_nobody")
    assert not task.store.rows
    assert posts_to(task.flora) == 0


def test_a_record_keeps_that_it_was_presumed() -> None:
    record = Record(key="a key", presumed=True, resendable=False)
    assert Record.from_plain(record.to_plain()) == record


@pytest.mark.parametrize("undated", [1, 2])
def test_floras_time_is_asked_for_again_after_an_answer_without_a_date(
    task: Life, monkeypatch: pytest.MonkeyPatch, undated: int
) -> None:
    skews: list[float | None] = [None] * undated
    monkeypatch.setattr(answers, "clock_skew", lambda *_: skews.pop() if skews else 5400.0)
    with pytest.raises(Crash):
        task.start(dies="after the POST", look_first=False)
    assert task.record["sent"][0][0] == pytest.approx(time.time() + 5400, abs=60)


# --- the store is away ------------------------------------------------------------------------------------


def test_nothing_is_spent_when_the_intent_cannot_be_stored(task: Life) -> None:
    task.store.broken = [ConnectionError("the API server is away")]
    with pytest.raises(ConnectionError):
        task.start()
    assert posts_to(task.flora) == 0


@pytest.mark.usefixtures("quick_saves")
def test_a_run_whose_id_cannot_be_stored_is_named_and_found_by_the_next_attempt(task: Life) -> None:
    away = ConnectionError("the API server is away")
    with pytest.MonkeyPatch.context() as patch:
        whole, writes = task.store.set, []

        def broken_after_the_intent(*args: object, **kwargs: object) -> None:
            writes.append(args)
            if len(writes) > 2:
                raise away
            whole(*args, **kwargs)

        patch.setattr(task.store, "set", broken_after_the_intent)
        with pytest.raises(FloraNotStoredError) as caught:
            task.start()
    run_id = runs_of(task.flora)[0]["run_id"]
    assert f"adopt_run_id='{run_id}'" in str(caught.value)
    assert caught.value.remedy.retryable
    assert task.start().run_id == run_id
    assert task.flora.ledger()["charged_runs"] == 1


@pytest.mark.usefixtures("quick_saves")
def test_a_store_that_is_away_for_a_moment_after_the_start_does_not_fail_the_task(
    task: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = task.flora.ledger
    whole = task.store.set

    def broken_once_there_is_a_run(*args: object, **kwargs: object) -> None:
        if send()["started_runs"] and not broken:
            broken.append(args)
            raise ConnectionError("away")
        whole(*args, **kwargs)

    broken: list[object] = []
    monkeypatch.setattr(task.store, "set", broken_once_there_is_a_run)
    run = task.start()
    assert broken
    assert task.record["run_id"] == run.run_id


def test_a_delivery_that_cannot_be_noted_costs_nothing(task: Life) -> None:
    task.start()
    task.store.broken = [ConnectionError("the API server is away")]
    with pytest.raises(ConnectionError):  # Airflow logs what a callback raises, and the task has succeeded
        task.deliver()
    task.clear()
    task.start()
    assert posts_to(task.flora) == 1


def test_a_delivery_is_noted_once(task: Life) -> None:
    task.deliver()
    assert not task.store.writes
    task.start()
    task.deliver()
    task.deliver()
    assert len(task.store.writes) == 4


def test_a_clear_while_the_run_went_on_is_answered_by_taking_it_up(task: Life) -> None:
    run = task.start()
    task.clear()
    assert task.start().run_id == run.run_id
    task.deliver()
    # The process dies before Airflow learns of the success: what follows is a retry, not another clear.
    assert task.start().run_id == run.run_id
    assert posts_to(task.flora) == 1


def test_a_store_that_is_slow_each_time_does_not_make_a_start_end_sooner(
    task: Life, monkeypatch: pytest.MonkeyPatch, passed: list[float]
) -> None:
    monkeypatch.setattr(starting, "start_duration", lambda _: 120.0)
    assert task.store is not None
    store_at_once, saved = task.store.set, list[float]()

    def store_slowly(key: str, value: Any, **kwargs: Any) -> None:
        if value["sent"]:
            passed.append(30.0)
            saved.append(time.time() + sum(passed))
        store_at_once(key, value, **kwargs)

    monkeypatch.setattr(task.store, "set", store_slowly)
    with pytest.raises(Crash):
        task.start(dies="before the POST")
    assert len(saved) == 2
    [[_, ends]] = task.record["sent"]
    assert ends - saved[-1] > 120 - 10  # Flora's clock is read to the second


def store_slowly(task: Life, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Make each save of an intent count as slow; return the list to which their times are added."""
    monkeypatch.setattr(starting, "SLOW_SAVE", 0.1)
    monkeypatch.setattr(starting, "PLAN_LIFETIME", 0.1)
    assert task.store is not None
    store_at_once, saved = task.store.set, list[float]()

    def store(key: str, value: Any, **kwargs: Any) -> None:
        if value["sent"]:
            time.sleep(0.3)
            saved.append(time.time())
        store_at_once(key, value, **kwargs)

    monkeypatch.setattr(task.store, "set", store)
    return saved


def test_a_start_whose_intent_cannot_be_stored_in_time_is_not_sent(
    task: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = store_slowly(task, monkeypatch)
    monkeypatch.setattr(starting, "SAVES", 1)
    with pytest.raises(FloraNotStoredError, match="Nothing was started") as caught:
        task.start()
    assert caught.value.remedy.retryable
    assert len(saved) == 1
    assert posts_to(task.flora) == 0
    assert task.record["sent"] == []


def test_a_price_that_rises_while_the_intent_is_stored_prevents_the_start(
    task: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = store_slowly(task, monkeypatch)

    def may_spend() -> None:
        if saved:
            raise FloraPriceError(TECHNIQUE, 10.0, 0.5, "max_run_cost")

    with pytest.raises(FloraPriceError):
        task.start(may_spend=may_spend)
    assert posts_to(task.flora) == 0
    assert task.record["sent"] == []


def test_a_price_that_rises_while_the_machine_is_suspended_prevents_the_start(
    task: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[float] = []

    def may_spend() -> None:
        if checked:
            raise FloraPriceError(TECHNIQUE, 10.0, 0.5, "max_run_cost")
        checked.append(200.0)

    monkeypatch.setattr(answers, "clocks_apart", lambda: sum(checked))
    with pytest.raises(FloraPriceError):
        task.start(may_spend=may_spend)
    assert posts_to(task.flora) == 0


def test_this_machines_clock_counts_as_right_after_undated_answers_in_a_row(
    task: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(answers, "clocks_apart", lambda: 200.0 * (len(asked) > 1))  # set during the second request
    monkeypatch.setattr(FloraClient, "list_technique_runs", lambda *_, **__: iter(asked.append(1) or ()))
    starter = task.make_starter(look_first=False)
    assert starter._get_skew() == 0.0
    assert len(asked) == 2 + starting.UNDATED_ANSWERS


def test_floras_time_is_measured_anew_whoever_notices_first_that_the_clock_was_set(
    task: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    apart = [0.0]
    monkeypatch.setattr(answers, "clocks_apart", lambda: apart[0])
    starter = task.make_starter()
    before = starter._get_flora_time()
    apart[0] = 200.0  # the machine was suspended
    monkeypatch.setattr(answers, "clock_skew", lambda *_: 200.0)
    starter._get_skew()
    assert 190 < starter._get_flora_time() - before < 210


@pytest.mark.parametrize(("status", "expected"), [("cancelled", FloraUnknownStartError), ("failed", FloraAPIError)])
def test_a_run_that_may_be_charged_is_named_where_its_start_cannot_be_sent_again(
    task: Life, monkeypatch: pytest.MonkeyPatch, status: str, expected: type[FloraError]
) -> None:
    with pytest.raises(Crash):
        task.start(dies="after the POST")
    run = Run(run_id="run_1", status=status, completed_at=1.0, error_code="GENERATION_PROVIDER_TIMEOUT")
    monkeypatch.setattr(Starter, "_find_candidates", lambda *_, **__: [run])
    task.flora.order_fault(kind="status", status=402, operation="startTechniqueRun")
    with pytest.raises(expected, match="402"):
        task.start()
    assert task.record["sent"]  # a failed run may have used its key, too
