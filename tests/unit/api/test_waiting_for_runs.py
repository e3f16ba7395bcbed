"""How a wait goes: what ends it, what does not, how long each pause is, who is told."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any

import pytest
from both_clients import FakeTime, MakeClient
from hypothesis import given
from hypothesis import strategies as st
from scripted_flora import ScriptedFlora, Silence, answer, cut, error, reset, run_json

from airflow_provider_flora.api.errors import (
    FloraAnswerError,
    FloraAPIError,
    FloraConnectionError,
    FloraError,
    FloraRunTimeoutError,
    FloraTimeoutError,
)
from airflow_provider_flora.api.models import Run
from airflow_provider_flora.api.protocol import RunWait
from airflow_provider_flora.emulator import Emulator


def run(status: str = "running", **fields: Any) -> Run:
    return Run.model_validate(run_json(status, **fields))


def api_error(status: int, retry_after: float | None = None) -> FloraAPIError:
    return FloraAPIError(status, "words", retry_after=retry_after)


DONE = run("completed", charged_cost=0.5)
HICCUPS = [
    FloraConnectionError("reset"),
    FloraTimeoutError("slow"),
    FloraAnswerError("cut JSON"),
    *map(api_error, (408, 429, 500, 502, 503)),
]
ENDS = [*map(api_error, (400, 401, 402, 403, 409, 422)), FloraAnswerError("too large", transient=False)]


class Wait:
    """A wait by a clock of its own."""

    def __init__(self, poll_interval: float = 5, timeout: float = 3600) -> None:
        self.time = FakeTime()
        self.told: list[tuple[str, float]] = []
        self.rules = RunWait(
            "tech_1",
            "run_1",
            poll_interval=poll_interval,
            timeout=timeout,
            clock=self.time.monotonic,
            on_change=lambda run: self.told.append((run.status, run.progress)),
        )

    def after(self, *outcomes: Run | FloraError) -> float | None:
        """The pause after the last of these looks; the pauses before it pass."""
        pause: float | None = 0.0
        for outcome in outcomes:
            assert pause is not None, "the wait had ended"
            self.time.sleep(pause)
            pause = self.rules.after(outcome)
        return pause


@pytest.mark.parametrize("status", ["pending", "running", "queued", "COMPLETED", "cancelled", "", "paused"])
def test_only_completed_and_failed_end_a_wait_whatever_the_progress(status: str) -> None:
    assert Wait().after(run(status, progress=100, completed_at=5, charged_cost=1))


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
def test_looks_are_about_a_poll_interval_apart_and_not_all_at_once(poll_interval: float) -> None:
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


@pytest.mark.parametrize("wrong", [*HICCUPS, *ENDS, api_error(404)], ids=str)
def test_an_error_while_only_the_cost_is_missing_ends_the_wait_with_the_run(wrong: FloraError) -> None:
    wait = Wait()

    assert wait.after(run("completed"), wrong) is None
    assert wait.rules.run.completed


def test_an_answer_that_is_behind_does_not_take_a_completion_back() -> None:
    wait = Wait()

    assert wait.after(run("completed"), run("running")) == 1.0
    assert wait.after(api_error(503)) is None
    assert wait.rules.run.completed


@pytest.mark.parametrize("hiccup", HICCUPS, ids=str)
def test_a_hiccup_does_not_end_a_wait_before_or_after_the_first_look(hiccup: FloraError) -> None:
    wait = Wait()

    assert wait.after(hiccup, hiccup, run(), hiccup, hiccup, hiccup, DONE) is None
    assert wait.rules.run is DONE


@pytest.mark.parametrize("hiccup", HICCUPS, ids=str)
def test_hiccups_for_ever_end_with_the_deadline_and_not_before(hiccup: FloraError) -> None:
    wait = Wait(timeout=600)
    began = wait.time.now
    with pytest.raises(FloraRunTimeoutError):
        wait.after(*[hiccup] * 10_000)

    assert wait.time.now - began == pytest.approx(600)


def test_looks_become_rarer_while_flora_has_hiccups_and_go_back_to_normal_after() -> None:
    wait = Wait(poll_interval=1)
    pauses = [wait.after(api_error(503)) or 0.0 for _ in range(8)]

    assert all(pause >= 1 for pause in pauses)
    assert pauses[-1] >= 15
    assert max(pauses) <= 30
    assert (wait.after(run()) or 0) <= 1.1


def test_a_pause_that_flora_asks_for_is_kept() -> None:
    assert Wait().after(api_error(429, retry_after=120)) == 120


@pytest.mark.parametrize("absurd", [301.0, 1e9, math.inf])
def test_a_pause_that_is_absurdly_long_is_cut(absurd: float) -> None:
    assert Wait().after(api_error(429, retry_after=absurd)) == 300


def test_no_pause_goes_beyond_the_deadline() -> None:
    assert Wait(timeout=7).after(api_error(429, retry_after=120)) == 7
    assert Wait(timeout=0.5).after(run()) == 0.5


@pytest.mark.parametrize("end", ENDS, ids=str)
def test_what_will_not_pass_ends_a_wait(end: FloraError) -> None:
    with pytest.raises(FloraError) as caught:
        Wait().after(run(), end)

    assert caught.value is end


def test_a_run_that_was_just_created_may_be_missing_for_a_moment() -> None:
    wait = Wait()

    assert wait.after(api_error(404), api_error(404), api_error(503), api_error(404), run(), DONE) is None


def test_a_run_that_stays_missing_ends_a_wait_after_a_minute() -> None:
    wait = Wait()
    began = wait.time.now
    with pytest.raises(FloraAPIError, match="404"):
        wait.after(*[api_error(404)] * 1000)

    assert wait.time.now - began == pytest.approx(60, abs=5)


def test_a_run_that_goes_missing_after_it_was_seen_ends_a_wait() -> None:
    with pytest.raises(FloraAPIError, match="404"):
        Wait().after(run(), api_error(404))


def test_a_missing_run_ends_with_the_deadline_if_that_is_sooner() -> None:
    with pytest.raises(FloraRunTimeoutError):
        Wait(timeout=20).after(*[api_error(404)] * 1000)


@pytest.mark.parametrize("timeout", [0, -5])
def test_a_wait_without_time_takes_one_look(timeout: float) -> None:
    assert Wait(timeout=timeout).after(DONE) is None
    with pytest.raises(FloraRunTimeoutError):
        Wait(timeout=timeout).after(run())


def test_the_end_of_the_time_names_the_run_how_far_it_came_and_that_it_goes_on() -> None:
    wait = Wait(timeout=90)
    with pytest.raises(FloraRunTimeoutError) as caught:
        wait.after(*[run(progress=40)] * 100)

    assert str(caught.value).startswith(
        "Run run_1 of technique 'tech_1' did not end within 90 s (it is running, 40 %). It goes on at Flora"
    )
    assert wait.time.now == pytest.approx(1090)


def test_the_end_of_the_time_of_a_run_that_was_never_seen_claims_nothing_about_it() -> None:
    with pytest.raises(FloraRunTimeoutError, match=r"did not end within 9 s\. It goes on"):
        Wait(timeout=9).after(*[api_error(503)] * 100)


@pytest.mark.parametrize("poll_interval", [0, -1, math.nan])
def test_a_poll_interval_that_is_no_time_is_refused(poll_interval: float, make_client: MakeClient) -> None:
    with ScriptedFlora() as flora, pytest.raises(ValueError, match="poll_interval must be more than 0"):
        make_client(flora.base_url).wait_for_technique_run("tech_1", "run_1", poll_interval=poll_interval)

    assert flora.requests == []


def test_a_change_is_told_once_for_each_status_and_every_ten_points_and_not_for_each_look() -> None:
    wait = Wait()
    wait.after(
        run("pending", progress=0),
        run("pending", progress=0),
        *(run("running", progress=progress) for progress in (0, 4, 9, 10, 11, 19, 20, 55, 60, 65, 66)),
        run("completed", progress=100),
        DONE,
    )

    assert wait.told == [
        ("pending", 0),
        ("running", 0),
        ("running", 10),
        ("running", 20),
        ("running", 55),
        ("running", 65),
        ("completed", 100),
    ]


def test_errors_are_not_told_as_changes() -> None:
    wait = Wait()
    wait.after(run("running"), api_error(503), run("running"))

    assert wait.told == [("running", 10)]


@given(
    st.lists(
        st.sampled_from([run(), run("odd"), run("completed"), *HICCUPS, api_error(404), api_error(429, 1e6)]),
        max_size=50,
    )
)
def test_whatever_comes_a_wait_pauses_for_a_sane_time_or_ends(outcomes: list[Run | FloraError]) -> None:
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
def test_a_client_waits_through_a_hiccup(
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


def test_a_clients_wait_ends_with_a_refused_key(make_client: MakeClient, fake_time: FakeTime) -> None:
    with ScriptedFlora(answer(run_json()), error(401)) as flora, pytest.raises(FloraAPIError, match="401"):
        make_client(flora.base_url).wait_for_technique_run("tech_1", "run_1")

    assert len(flora.requests) == 2


def test_a_clients_wait_ends_with_its_deadline(make_client: MakeClient, fake_time: FakeTime) -> None:
    with ScriptedFlora(answer(run_json())) as flora:
        client = make_client(flora.base_url)
        with pytest.raises(FloraRunTimeoutError, match=r"run_1 .* within 60 s .*It goes on at Flora"):
            client.wait_for_technique_run("tech_1", "run_1", poll_interval=7, timeout=60)

    assert sum(fake_time.slept) == pytest.approx(60)


def test_a_client_tells_of_changes(make_client: MakeClient, fake_time: FakeTime) -> None:
    looks = [("pending", 0), ("pending", 0), ("running", 5), ("running", 6), ("running", 40), ("failed", 100)]
    told: list[tuple[str, float]] = []
    with ScriptedFlora(*(answer(run_json(status, progress=progress)) for status, progress in looks)) as flora:
        make_client(flora.base_url).wait_for_technique_run(
            "tech_1", "run_1", on_change=lambda run: told.append((run.status, run.progress))
        )

    assert told == [("pending", 0), ("running", 5), ("running", 40), ("failed", 100)]


def test_a_run_of_the_emulator_is_waited_for_through_an_outage(make_client: MakeClient) -> None:
    with Emulator(run_seconds=0.3, cost_lag=0.1) as emulator:
        client = make_client(emulator.base_url, api_key=emulator.api_key)
        started = client.start_technique_run("wonder-fy", {"image": "https://x.example/1.png"})
        emulator.order_fault("reset", operation="getTechniqueRun")
        found = client.wait_for_technique_run("wonder-fy", started.run_id, poll_interval=0.1, timeout=30)

    assert found.completed
    assert found.charged_cost == 0.06
    assert [output.type for output in found.outputs] == ["imageUrl"]
