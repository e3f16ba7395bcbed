"""How a wait goes: what ends it, what does not, how long each pause is, what is logged."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_flora.api import waiting
from airflow_provider_flora.api.errors import (
    FloraAnswerError,
    FloraAPIError,
    FloraConnectionError,
    FloraError,
    FloraInternalError,
    FloraRunTimeoutError,
    FloraSettingsError,
    FloraTimeoutError,
)
from airflow_provider_flora.api.models import Run
from airflow_provider_flora.api.waiting import RunWait, WaitLog, as_flora_error
from airflow_provider_flora.emulator import Emulator
from tests.unit.api.both_clients import FakeTime, MakeClient
from tests.unit.api.scripted_flora import ScriptedFlora, Silence, answer, cut, error, reset, run_json


def run(status: str = "running", **fields: Any) -> Run:
    return Run.model_validate(run_json(status, **fields))


def api_error(status: int, retry_after: float | None = None, code: str | None = "some_code") -> FloraAPIError:
    """An error of Flora's own; without a code it is a proxy's."""
    return FloraAPIError(status, "words", code=code, retry_after=retry_after)


DONE = run("completed", charged_cost=0.5)
REFUSALS = (400, 401, 402, 403, 404, 409, 410, 422)
TRANSIENT_ERRORS = [
    FloraConnectionError("reset"),
    FloraTimeoutError("slow"),
    FloraAnswerError("cut JSON"),
    FloraAnswerError("too large", transient=False),
    FloraSettingsError("There is no connection 'flora_default'."),
    *map(api_error, (408, 429, 500, 502, 503)),
    *(api_error(status, code=None) for status in REFUSALS),
]


class Listener:
    """Records the events of a wait."""

    def __init__(self) -> None:
        self.changes: list[tuple[str, float]] = []
        self.reported: list[tuple[str, str]] = []

    def changed(self, run: Run) -> None:
        self.changes.append((run.status, run.progress))

    def interrupted(self, error: FloraError, seconds_left: float) -> None:
        self.reported.append(("interrupted", f"{error}, {seconds_left:g} s left"))

    def recovered(self, run: Run) -> None:
        self.reported.append(("recovered", run.status))


class Wait:
    """A wait by a clock of its own."""

    def __init__(self, poll_interval: float = 5, timeout: float = 3600, deadline: float | None = None) -> None:
        self.time = FakeTime()
        self.listener = Listener()
        self.rules = RunWait(
            "tech_1",
            "run_1",
            poll_interval=poll_interval,
            timeout=timeout,
            deadline=deadline,
            clock=self.time.monotonic,
            listener=self.listener,
        )

    def after(self, *outcomes: Run | FloraError) -> float | None:
        """The pause after the last of these polls; the pauses before it pass."""
        pause: float | None = 0.0
        for outcome in outcomes:
            assert pause is not None, "the wait had ended"
            self.time.sleep(pause)
            pause = self.rules.after(outcome)
        return pause


@pytest.mark.parametrize("status", ["pending", "running"])
def test_a_run_that_goes_on_ends_no_wait_at_any_progress(status: str) -> None:
    assert Wait().after(run(status, progress=100, completed_at=5, charged_cost=1))


@pytest.mark.parametrize("status", ["queued", "COMPLETED", "cancelled", "", "paused"])
def test_a_status_that_is_not_known_ends_a_wait_only_with_the_time_of_its_end(status: str) -> None:
    assert Wait().after(run(status, progress=100, charged_cost=1))
    assert Wait().after(run(status, progress=100, completed_at=5)) is None


def test_a_completed_run_with_its_cost_ends_a_wait() -> None:
    wait = Wait()

    assert wait.after(run(), DONE) is None
    assert wait.rules.run is DONE


def test_a_failed_run_ends_a_wait_as_a_failed_one_although_its_progress_is_100() -> None:
    wait = Wait()

    assert wait.after(run("failed", progress=100, completed_at=9)) is None
    assert wait.rules.run.failed
    assert not wait.rules.run.completed


@given(st.floats(0.01, 1000))
def test_polls_are_about_a_poll_interval_apart_and_not_all_at_once(poll_interval: float) -> None:
    pause = Wait(poll_interval, timeout=1e6).after(run())

    assert pause is not None
    assert poll_interval * 0.9 <= pause <= poll_interval * 1.1


def test_a_late_cost_is_waited_for() -> None:
    wait = Wait()

    assert wait.after(run("completed")) == 1.0
    assert wait.after(run("completed"), run("completed"), DONE) is None
    assert wait.rules.run.charged_cost == 0.5


def test_a_cost_that_does_not_come_within_5_s_is_none() -> None:
    wait = Wait()
    pause = wait.after(run(), run("completed"))
    completed_at = wait.time.now
    while pause is not None:
        wait.time.sleep(pause)
        pause = wait.after(run("completed"))

    assert wait.rules.run.completed
    assert wait.rules.run.charged_cost is None
    assert wait.time.now - completed_at == pytest.approx(5)


def test_a_cost_of_nothing_is_a_cost() -> None:
    assert Wait().after(run("completed", charged_cost=0)) is None


@pytest.mark.parametrize("wrong", [*TRANSIENT_ERRORS, *map(api_error, REFUSALS)], ids=str)
def test_an_error_while_only_the_cost_is_missing_ends_the_wait_with_the_run(wrong: FloraError) -> None:
    wait = Wait()

    assert wait.after(run("completed"), wrong) is None
    assert wait.rules.run.completed


def test_an_answer_that_is_behind_does_not_take_a_completion_back() -> None:
    wait = Wait()

    assert wait.after(run("completed"), run("running")) == 1.0
    assert wait.after(api_error(503)) is None
    assert wait.rules.run.completed


@pytest.mark.parametrize("transient", TRANSIENT_ERRORS, ids=str)
def test_a_transient_error_does_not_end_a_wait_before_or_after_the_first_poll(transient: FloraError) -> None:
    wait = Wait()

    assert wait.after(transient, transient, run(), transient, transient, transient, DONE) is None
    assert wait.rules.run is DONE


@pytest.mark.parametrize("transient", TRANSIENT_ERRORS, ids=str)
def test_transient_errors_forever_end_with_the_deadline_and_not_before(transient: FloraError) -> None:
    wait = Wait(timeout=600)
    began = wait.time.now
    with pytest.raises(FloraRunTimeoutError):
        wait.after(*[transient] * 10_000)

    assert wait.time.now - began == pytest.approx(600)


def test_polls_become_rarer_during_transient_errors_and_return_to_normal_after() -> None:
    wait = Wait(poll_interval=1)
    pauses = [wait.after(api_error(503)) or 0.0 for _ in range(8)]

    assert all(pause >= 1 for pause in pauses)
    assert pauses[-1] >= 15
    assert max(pauses) <= 30
    assert (wait.after(run()) or 0) <= 1.1


def test_a_pause_that_flora_asks_for_is_observed() -> None:
    assert Wait().after(api_error(429, retry_after=120)) == 120


@pytest.mark.parametrize("absurd", [301.0, 1e9, math.inf])
def test_a_pause_that_is_absurdly_long_is_cut(absurd: float) -> None:
    assert Wait().after(api_error(429, retry_after=absurd)) == 300


def test_no_pause_goes_beyond_the_deadline() -> None:
    assert Wait(timeout=7).after(api_error(429, retry_after=120)) == 7
    assert Wait(timeout=0.5).after(run()) == 0.5


@pytest.mark.parametrize("before", [[], [run()]], ids=["never seen", "seen before"])
@pytest.mark.parametrize("status", REFUSALS)
def test_one_refusal_ends_no_wait(status: int, before: list[Run]) -> None:
    assert Wait().after(*before, api_error(status), DONE) is None


@pytest.mark.parametrize("before", [[], [run()]], ids=["never seen", "seen before"])
@pytest.mark.parametrize("status", REFUSALS)
def test_a_refusal_that_flora_repeats_for_minutes_ends_a_wait_and_may_be_retried(
    status: int, before: list[Run]
) -> None:
    wait = Wait()
    with pytest.raises(FloraAPIError, match=str(status)) as caught:
        wait.after(*before, *[api_error(status)] * 1000)

    assert 180 <= wait.time.now - 1000 <= 180 + 5 + 30 * 2
    assert caught.value.remedy.retryable
    assert (caught.value.run_id, caught.value.technique_id) == ("run_1", "tech_1")


def test_refusals_with_a_good_poll_between_them_are_not_the_same_one() -> None:
    wait = Wait(poll_interval=100, timeout=1e6)
    for _ in range(20):
        assert wait.after(api_error(404), api_error(404), run())


def test_refusals_of_different_kinds_do_not_confirm_each_other() -> None:
    wait = Wait(poll_interval=100)

    assert wait.after(*[api_error(status) for status in (401, 403) * 15])


def test_a_refusal_on_both_sides_of_an_outage_is_a_repeated_one() -> None:
    wait = Wait(poll_interval=100)
    with pytest.raises(FloraAPIError, match="404"):
        wait.after(api_error(404), api_error(503), FloraConnectionError("reset"), api_error(404))


def test_a_programming_error_ends_a_wait_at_once_and_is_not_taken_for_an_outage() -> None:
    wait = Wait()
    with pytest.raises(
        FloraInternalError, match=r"bug in the Flora provider.*TypeError: no such argument"
    ) as caught:
        wait.after(run(), as_flora_error(TypeError("no such argument")))

    assert caught.value.remedy.retryable
    assert caught.value.run_id == "run_1"
    assert isinstance(caught.value.__cause__, TypeError)


@pytest.mark.parametrize("error", [FloraSettingsError("There is none."), FloraConnectionError("It is away.")])
def test_a_connection_that_cannot_be_read_ends_no_wait(error: FloraError) -> None:
    assert Wait().after(*[error] * 50)


def test_a_deadline_ends_a_wait_and_the_timeout_is_named_as_it_was_set() -> None:
    wait = Wait(timeout=10, deadline=time.time() + 8.4)
    with pytest.raises(FloraRunTimeoutError, match="within 10 s "):
        wait.after(*[run()] * 100)

    assert wait.time.now == pytest.approx(1008.4, abs=0.1)


def test_the_end_of_the_time_names_the_last_error_if_the_last_polls_failed() -> None:
    with pytest.raises(
        FloraRunTimeoutError, match=r"The last polls failed: Flora answered 50[03] .*words\. The run goes on"
    ):
        Wait(timeout=60).after(run(), *[api_error(500), api_error(503)] * 100)


def test_the_end_of_the_time_names_no_error_that_has_passed() -> None:
    wait = Wait(timeout=60)
    with pytest.raises(FloraRunTimeoutError) as caught:
        wait.after(api_error(503), *[run()] * 100)

    assert "503" not in str(caught.value)


@pytest.mark.parametrize("wrong", [api_error(503), FloraConnectionError("reset"), api_error(404)], ids=str)
def test_an_interruption_and_its_end_are_logged_once(wrong: FloraError) -> None:
    wait = Wait(poll_interval=10, timeout=600)
    wait.after(run(), *[wrong] * 6, run(), run(), wrong, run(), wrong, wrong, run("running", progress=60))

    assert [kind for kind, _ in wait.listener.reported] == ["interrupted", "recovered"] * 2
    assert wait.listener.reported[0][1].startswith(f"{wrong}, 5")  # of the 600 s


def test_one_transient_error_is_not_logged() -> None:
    wait = Wait()
    wait.after(run(), api_error(503), run(), api_error(503), run())

    assert wait.listener.reported == []


def test_the_log_names_the_end_of_a_wait_and_its_recovery(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(waiting.time, "time", lambda: 1_764_000_000.0)
    log = WaitLog(logging.getLogger("the.task"))
    log.changed(run(progress=41))
    log.interrupted(FloraConnectionError("No answer."), 60)
    log.interrupted(api_error(404), math.inf)
    log.recovered(run(progress=42))

    assert [record.getMessage() for record in caplog.records if record.name == "the.task"] == [
        "run_1 is running, 41 %",
        "Flora cannot be reached: No answer. The wait goes on until 2025-11-24 16:01:00 UTC",
        f"Flora refuses to show the run: {str(api_error(404)).rstrip('.')}. The wait goes on until "
        "2120-12-18 21:20:00 UTC",
        "Flora answers again: run_1 is running, 42 %",
    ]


@pytest.mark.parametrize("timeout", [0, -5])
def test_a_wait_without_time_polls_once(timeout: float) -> None:
    assert Wait(timeout=timeout).after(DONE) is None
    with pytest.raises(FloraRunTimeoutError):
        Wait(timeout=timeout).after(run())


def test_the_end_of_the_time_names_the_run_how_far_it_came_and_that_it_goes_on() -> None:
    wait = Wait(timeout=90)
    with pytest.raises(FloraRunTimeoutError) as caught:
        wait.after(*[run(progress=40)] * 100)

    assert str(caught.value).startswith(
        "Run run_1 of technique 'tech_1' did not finish within 90 s (it is running, 40 %). The run goes on at Flora"
    )
    assert wait.time.now == pytest.approx(1090)


@pytest.mark.parametrize("status", [404, 503])
def test_the_timeout_of_a_run_that_was_never_seen_claims_nothing_about_it(status: int) -> None:
    with pytest.raises(FloraRunTimeoutError, match=r"did not finish within 9 s\. The last polls failed"):
        Wait(timeout=9).after(*[api_error(status)] * 1000)


@pytest.mark.parametrize("poll_interval", [0, -1, math.nan])
def test_a_poll_interval_that_is_no_time_is_refused(poll_interval: float, make_client: MakeClient) -> None:
    with ScriptedFlora() as flora, pytest.raises(ValueError, match="poll_interval must be more than 0"):
        make_client(flora.base_url).wait_for_technique_run("tech_1", "run_1", poll_interval=poll_interval)

    assert flora.requests == []


def test_a_change_is_logged_once_for_each_status_and_every_ten_points_and_not_for_each_poll() -> None:
    wait = Wait()
    wait.after(
        run("pending", progress=0),
        run("pending", progress=0),
        *(run("running", progress=progress) for progress in (0, 4, 9, 10, 11, 19, 20, 55, 60, 65, 66)),
        run("completed", progress=100),
        DONE,
    )

    assert wait.listener.changes == [
        ("pending", 0),
        ("running", 0),
        ("running", 10),
        ("running", 20),
        ("running", 55),
        ("running", 65),
        ("completed", 100),
    ]


def test_errors_are_not_logged_as_changes() -> None:
    wait = Wait()
    wait.after(run("running"), api_error(503), run("running"))

    assert wait.listener.changes == [("running", 10)]


@given(
    st.lists(
        st.sampled_from(
            [run(), run("odd"), run("completed"), *TRANSIENT_ERRORS, api_error(404), api_error(429, 1e6)]
        ),
        max_size=50,
    )
)
def test_after_any_outcome_a_wait_pauses_for_a_sane_time_or_ends(outcomes: list[Run | FloraError]) -> None:
    wait = Wait(timeout=500)
    with contextlib.suppress(FloraError):
        for outcome in outcomes:
            pause = wait.after(outcome)
            if pause is None:
                break
            assert 0 < pause <= 300
            wait.time.sleep(pause)
    assert wait.time.now <= 1000 + 500 + 5


# --- the loops of both clients ----------------------------------------------------------------------------

BROKEN = {
    "a reset": reset,
    "a 502 page": answer(b"<html>", 502, "text/html"),
    "a 200 page": answer(b"<html>", 200, "text/html"),
    "a 429": error(429),
    "cut JSON": answer(b'{"run_id": '),
    "a cut answer": cut(answer(run_json())[:-9]),
    "JSON that is no run": answer({"ok": True}),
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("before", [[], [answer(run_json())]], ids=["first", "later"])
def test_a_client_waits_through_a_transient_error(
    broken: bytes | Callable[..., bool], before: list[bytes], make_client: MakeClient, fake_time: FakeTime
) -> None:
    done = answer(run_json("completed", charged_cost=0.5))
    with ScriptedFlora(*before, broken, broken, broken, done) as flora:
        found = make_client(flora.base_url, max_retries=0).wait_for_technique_run("tech_1", "run_1")

    assert found.completed
    assert found.charged_cost == 0.5
    assert all(pause > 0 for pause in fake_time.slept)


def test_a_client_waits_through_silence(make_client: MakeClient, fake_time: FakeTime) -> None:
    with ScriptedFlora(Silence(), answer(run_json("failed"))) as flora:
        assert make_client(flora.base_url, timeout=0.2).wait_for_technique_run("tech_1", "run_1").failed


def test_a_client_returns_a_failed_run_as_failed(make_client: MakeClient, fake_time: FakeTime) -> None:
    failed = run_json("failed", progress=100, completed_at=2, error_code="LLM_REFUSAL", error_message="No.")
    with ScriptedFlora(answer(run_json()), answer(failed)) as flora:
        found = make_client(flora.base_url).wait_for_technique_run("tech_1", "run_1")

    assert (found.status, found.error_code, found.error_message) == ("failed", "LLM_REFUSAL", "No.")
    assert len(flora.requests) == 2


def test_a_client_asks_only_for_its_run_and_over_one_connection(
    make_client: MakeClient, fake_time: FakeTime
) -> None:
    with ScriptedFlora(*[answer(run_json())] * 9, answer(run_json("failed"))) as flora:
        make_client(flora.base_url).wait_for_technique_run("tech_1", "run_1", poll_interval=3)

    assert {request.target for request in flora.requests} == {"/api/v1/techniques/tech_1/runs/run_1"}
    assert len(flora.requests) == 10
    assert flora.connections == 1
    assert all(2.7 <= pause <= 3.3 for pause in fake_time.slept)


def test_a_client_waits_for_a_late_cost_and_then_gives_none(make_client: MakeClient, fake_time: FakeTime) -> None:
    with ScriptedFlora(answer(run_json("completed"))) as flora:
        found = make_client(flora.base_url).wait_for_technique_run("tech_1", "run_1")

    assert found.completed
    assert found.charged_cost is None
    assert sum(fake_time.slept) == pytest.approx(5)


def test_a_clients_wait_survives_one_refusal(make_client: MakeClient, fake_time: FakeTime) -> None:
    done = answer(run_json("completed", charged_cost=0.5))
    html = answer(b"<html>", 403, "text/html")
    with ScriptedFlora(answer(run_json()), error(401), error(404), html, done) as flora:
        assert make_client(flora.base_url).wait_for_technique_run("tech_1", "run_1").completed


def test_a_clients_wait_ends_with_a_key_that_stays_refused(make_client: MakeClient, fake_time: FakeTime) -> None:
    with (
        ScriptedFlora(answer(run_json()), error(401)) as flora,
        pytest.raises(FloraAPIError, match="401") as caught,
    ):
        make_client(flora.base_url).wait_for_technique_run("tech_1", "run_1")

    assert caught.value.remedy.retryable
    assert 180 <= sum(fake_time.slept) <= 250
    assert len(flora.requests) <= 20


def test_a_bug_ends_a_clients_wait_at_once(
    make_client: MakeClient, fake_time: FakeTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(response: object) -> Run:
        raise KeyError("a bug")

    monkeypatch.setattr("airflow_provider_flora.api.answers.read_run", broken)
    with ScriptedFlora(answer(run_json())) as flora, pytest.raises(FloraInternalError, match="KeyError: 'a bug'"):
        make_client(flora.base_url).wait_for_technique_run("tech_1", "run_1")

    assert fake_time.slept == []


@pytest.mark.parametrize("timeout", [0.5, 0, -3])
def test_a_client_polls_at_least_once_however_short_the_time(
    timeout: float, make_client: MakeClient, fake_time: FakeTime
) -> None:
    with ScriptedFlora(answer(run_json("completed", charged_cost=0.5))) as flora:
        client = make_client(flora.base_url)
        assert client.wait_for_technique_run("tech_1", "run_1", poll_interval=5, timeout=timeout).completed


def test_a_clients_wait_keeps_a_deadline_of_its_own(make_client: MakeClient, fake_time: FakeTime) -> None:
    with ScriptedFlora(answer(run_json())) as flora, pytest.raises(FloraRunTimeoutError, match="within 3600 s"):
        make_client(flora.base_url).wait_for_technique_run("tech_1", "run_1", deadline=time.time() + 60)

    assert sum(fake_time.slept) == pytest.approx(60, abs=1)


def test_a_clients_wait_ends_with_its_deadline(make_client: MakeClient, fake_time: FakeTime) -> None:
    with ScriptedFlora(answer(run_json())) as flora:
        client = make_client(flora.base_url)
        with pytest.raises(FloraRunTimeoutError, match=r"run_1 .* within 60 s .*The run goes on at Flora"):
            client.wait_for_technique_run("tech_1", "run_1", poll_interval=7, timeout=60)

    assert sum(fake_time.slept) == pytest.approx(60)


def test_a_client_reports_changes(make_client: MakeClient, fake_time: FakeTime) -> None:
    polls = [("pending", 0), ("pending", 0), ("running", 5), ("running", 6), ("running", 40), ("failed", 100)]
    listener = Listener()
    with ScriptedFlora(*(answer(run_json(status, progress=progress)) for status, progress in polls)) as flora:
        make_client(flora.base_url).wait_for_technique_run("tech_1", "run_1", listener=listener)

    assert listener.changes == [("pending", 0), ("running", 5), ("running", 40), ("failed", 100)]


def test_a_run_of_the_emulator_is_waited_for_through_an_outage(make_client: MakeClient) -> None:
    with Emulator(run_seconds=0.3, cost_lag=0.1) as emulator:
        client = make_client(emulator.base_url, api_key=emulator.api_key)
        started = client.start_technique_run("wonder-fy", {"image": "https://x.example/1.png"})
        emulator.order_fault("reset", operation="getTechniqueRun")
        found = client.wait_for_technique_run("wonder-fy", started.run_id, poll_interval=0.1, timeout=30)

    assert found.completed
    assert found.charged_cost == 0.06
    assert [output.type for output in found.outputs] == ["imageUrl"]
