"""FloraTechniqueRunTrigger: its events, after any error during the wait."""

from __future__ import annotations

import asyncio
import gc
import json
import time
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from airflow_provider_flora.api import waiting
from airflow_provider_flora.api.client import FloraClient
from airflow_provider_flora.api.errors import (
    FloraAPIError,
    FloraError,
    FloraInternalError,
    FloraRunTimeoutError,
    FloraWaitError,
)
from airflow_provider_flora.api.models import Run, RunOutput
from airflow_provider_flora.emulator import Emulator
from airflow_provider_flora.hooks.flora import FloraHook
from airflow_provider_flora.runs import events
from airflow_provider_flora.runs.events import WaitEvent, finished_run
from airflow_provider_flora.triggers.flora import FloraTechniqueRunTrigger
from tests.unit.flora_key import API_KEY
from tests.unit.loop_tasks import quiet, tasks_left
from tests.unit.operators.fake_task import first_event

pytestmark = pytest.mark.usefixtures("quick")


def trigger(run_id: str, seconds: float = 20, **given: Any) -> FloraTechniqueRunTrigger:
    arguments = {"technique_id": "editorial-still", "poll_interval": 0.05, **given}
    return FloraTechniqueRunTrigger(run_id=run_id, deadline=time.time() + seconds, **arguments)


def start() -> str:
    return FloraHook().start_technique_run("editorial-still", {"prompt": "a cup"}).run_id


@pytest.fixture
def stalled(flora: Emulator) -> str:
    flora.order_fault(kind="stall_run")
    return start()


def test_what_the_database_keeps_makes_the_same_trigger() -> None:
    one = trigger("run_1", poll_interval=3.0, flora_conn_id="my_flora", timeout=60.0)
    path, arguments = one.serialize()
    assert path == "airflow_provider_flora.triggers.flora.FloraTechniqueRunTrigger"
    again = FloraTechniqueRunTrigger(**json.loads(json.dumps(arguments)))
    assert again.serialize() == (path, arguments)
    assert (arguments["poll_interval"], arguments["flora_conn_id"], arguments["timeout"]) == (3.0, "my_flora", 60.0)
    assert arguments["version"] == 1


def no_client() -> FloraClient:
    raise AssertionError("no further request is needed")


async def test_a_completed_run_is_the_event(flora: Emulator) -> None:
    run_id = start()
    event = await first_event(trigger(run_id))
    assert (event["version"], event["run_id"], event["technique_id"]) == (1, run_id, "editorial-still")
    assert (event["run"]["run_id"], event["run"]["status"]) == (run_id, "completed")
    assert event["run"]["charged_cost"] == 0.09
    assert (
        finished_run(event, no_client, "x").outputs
        == FloraHook().get_technique_run("editorial-still", run_id).outputs
    )


async def test_texts_are_left_out_of_the_event_and_downloaded_once_when_it_is_read(flora: Emulator) -> None:
    run_id = FloraHook().start_technique_run("tagline-writer", {"brief": "a cup"}).run_id
    event = await first_event(trigger(run_id, technique_id="tagline-writer"))
    before = flora.ledger()["requests"]["getTechniqueRun"]
    run = finished_run(event, FloraHook().get_conn, "x")
    (text,) = (output.url for output in run.outputs)
    assert text
    assert text not in json.dumps(event)
    assert flora.ledger()["requests"]["getTechniqueRun"] == before + 1


@pytest.mark.parametrize(
    ("output", "travels"),
    [
        ({"type": "imageUrl", "url": "https://media.example/1.png"}, True),
        ({"type": "text", "url": "A text."}, False),
        ({"type": "text", "url": "https://is.a/text"}, False),
        ({"type": "markdown", "url": "# A type of tomorrow"}, False),
        ({"type": "imageUrl", "url": "data:image/png;base64,AAAA"}, False),
    ],
)
def test_an_event_carries_links_and_no_contents(output: dict[str, str], travels: bool) -> None:
    link = {"output_id": "a", "type": "videoUrl", "url": "https://media.example/a.mp4"}
    content = {"run_id": "run_1", "status": "completed", "outputs": [link, {"output_id": "b", **output}]}
    event = WaitEvent.of_run(Run.model_validate(content), "tech_1")
    assert event["whole"] is travels
    assert [entry["url"] for entry in event["run"]["outputs"]] == [link["url"], output["url"] if travels else ""]


@pytest.mark.parametrize("fault", [{"kind": "reset"}, {"kind": "html"}, {"kind": "status", "status": 401}], ids=str)
def test_a_transient_error_does_not_end_the_download_of_texts(flora: Emulator, fault: dict[str, Any]) -> None:
    (run_id,) = flora.seed_runs(technique_id="tagline-writer")
    run = Run(run_id=run_id, status="completed", outputs=[RunOutput(output_id="t", type="text", url="x")])
    flora.order_fault(**fault, times=2)
    assert finished_run(WaitEvent.of_run(run, "tagline-writer"), FloraHook().get_conn, "x").outputs[0].url


def test_texts_that_cannot_be_downloaded_are_an_error_that_may_be_retried(
    flora: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "FETCH_TIMEOUT", 0.2)
    run = Run(run_id="run_7", status="completed", outputs=[RunOutput(output_id="t", type="text", url="x")])
    flora.order_fault("outage", seconds=60)
    with pytest.raises(
        FloraWaitError, match=r"Run run_7 has finished, but its texts cannot be fetched now"
    ) as caught:
        finished_run(WaitEvent.of_run(run, "tagline-writer"), FloraHook().get_conn, "x")
    assert caught.value.remedy.retryable
    assert caught.value.run_id == "run_7"


def test_texts_are_an_error_that_may_be_retried_where_the_connection_is_not_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = Run(run_id="run_7", status="completed", outputs=[RunOutput(output_id="t", type="text", url="x")])
    with pytest.raises(FloraWaitError, match="The connection 'away' does not exist") as caught:
        finished_run(WaitEvent.of_run(run, "tagline-writer"), FloraHook("away").get_conn, "x")
    assert caught.value.remedy.retryable


async def test_airflow_logs_an_event_without_its_outputs(flora: Emulator) -> None:
    run_id = start()
    [event] = [event async for event in trigger(run_id).run()]
    assert repr(event) == f"TriggerEvent<<{run_id} completed, 1 output>>"
    await quiet()


def error_of(event: dict[str, Any]) -> FloraError:
    """The error that whoever resumes is to see."""
    with pytest.raises(FloraError) as caught:
        finished_run(event, no_client, "x")
    return caught.value


async def test_the_timeout_is_reported_with_the_run(stalled: str) -> None:
    error = error_of(await first_event(trigger(stalled, seconds=0.3)))
    assert isinstance(error, FloraRunTimeoutError)
    assert error.run_id == stalled
    assert stalled in str(error)
    assert "goes on at Flora" in str(error)
    assert error.remedy.retryable


async def test_the_end_of_the_time_names_the_timeout_that_was_set(stalled: str) -> None:
    error = error_of(await first_event(trigger(stalled, seconds=0.3, timeout=10.0)))
    assert "did not finish within 10 s" in str(error)


async def test_a_deadline_that_passed_before_the_trigger_ran_ends_the_wait(stalled: str) -> None:
    error = error_of(await first_event(trigger(stalled, seconds=-10)))
    assert isinstance(error, FloraRunTimeoutError)
    assert "(it is " in str(error)


async def test_a_key_that_stays_rejected_ends_the_wait_with_floras_own_error(
    stalled: str, flora: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "REFUSAL_CONFIRMED_AFTER", 0.3)
    flora.api_key = "sk_test_another"
    event = await first_event(trigger(stalled))
    error = error_of(event)
    assert isinstance(error, FloraAPIError)
    assert (error.status, error.run_id, error.technique_id) == (401, stalled, "editorial-still")
    assert error.code is not None
    assert error.remedy.retryable
    assert API_KEY not in json.dumps(event)


async def test_a_bug_ends_the_wait_at_once_with_its_traceback_in_the_log(
    flora: Emulator,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def without_hook(self: FloraHook) -> Any:
        raise TypeError("get_async_connection() got an unexpected keyword argument 'hook'")

    monkeypatch.setattr(FloraHook, "async_settings", without_hook)
    error = error_of(await asyncio.wait_for(first_event(trigger("run_1", seconds=3600)), 60))
    assert isinstance(error, FloraInternalError)
    assert "bug in the Flora provider" in str(error)
    assert (error.run_id, error.remedy.retryable) == ("run_1", True)
    assert "in without_hook" in "".join(capfd.readouterr()) + caplog.text


async def test_any_error_of_the_trigger_is_an_event_that_names_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airflow_provider_flora.runs.watching.Wait", None)
    error = error_of(await asyncio.wait_for(first_event(trigger("run_1", seconds=3600)), 60))
    assert isinstance(error, FloraInternalError)
    assert error.run_id == "run_1"


async def test_a_users_action_on_the_deferred_task_logs_what_goes_on(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    await trigger("run_1").on_kill()
    assert "run_1 goes on at Flora, which cannot cancel runs" in "".join(capfd.readouterr()) + caplog.text


async def test_an_outage_and_its_end_stand_in_the_log_of_the_wait(
    flora: Emulator, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    run_id = start()
    flora.order_fault("status", status=503, times=4)
    await first_event(trigger(run_id))
    printed = ("".join(capfd.readouterr()) or caplog.text).splitlines()
    assert len([line for line in printed if "Flora cannot be reached: Flora answered 503" in line]) == 1
    assert len([line for line in printed if f"Flora answers again: {run_id}" in line]) == 1


async def test_a_key_that_was_rotated_in_the_connection_is_used(
    flora: Emulator, connect: Callable[..., None]
) -> None:
    connect(flora)
    run_id = start()
    waiting = asyncio.ensure_future(first_event(trigger(run_id, poll_interval=0.3)))
    await asyncio.sleep(0.1)
    flora.api_key = "sk_test_rotated"
    connect(flora)
    assert (await waiting)["run"]["status"] == "completed"


async def test_a_connection_that_cannot_be_used_is_named_when_the_time_is_over(
    flora: Emulator, connect: Callable[..., None]
) -> None:
    connect(flora, timeout="soon")
    error = error_of(await first_event(trigger("run_1", seconds=0.3)))
    assert isinstance(error, FloraRunTimeoutError)
    assert "'timeout' takes a number" in str(error)


async def test_a_connection_that_stays_unreadable_ends_the_wait_with_its_deadline(
    flora: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(self: FloraHook) -> Any:
        raise ConnectionError("the database is away")

    monkeypatch.setattr(FloraHook, "async_settings", away)
    monkeypatch.setattr("airflow_provider_flora.runs.gate.CONNECTION_RETRY", 0.05)
    error = error_of(await first_event(trigger("run_1", seconds=0.3)))
    assert isinstance(error, FloraRunTimeoutError)
    assert "'flora_default' cannot be read now: ConnectionError: the database is away" in str(error)


async def test_it_logs_changes_and_not_each_poll(
    connect: Callable[..., None], capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with Emulator(run_seconds=1.0, cost_lag=0) as flora:
        connect(flora)
        run_id = start()
        await first_event(trigger(run_id, poll_interval=0.02))
        [unchanged] = flora.seed_runs(status="running")
        waiting = asyncio.ensure_future(first_event(trigger(unchanged, poll_interval=0.02)))
        before = polls_of(flora)
        while polls_of(flora) < before + 10:
            await asyncio.sleep(0.02)
        waiting.cancel()
    printed = ("".join(capfd.readouterr()) or caplog.text).splitlines()
    changes = [line for line in printed if f"{run_id} is " in line]
    assert any("completed" in line for line in changes)
    assert len(changes) <= 13  # three states, ten times ten points
    assert len([line for line in printed if f"{unchanged} is " in line]) == 1


def polls_of(flora: Emulator) -> int:
    requests = flora.ledger()["requests"]
    return sum(requests.get(name, 0) for name in ("getTechniqueRun", "listTechniqueRuns"))


async def test_a_cancelled_wait_leaves_no_session_open(stalled: str) -> None:
    gc.collect()  # so that nothing of other tests is reported here
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        waiting = asyncio.ensure_future(first_event(trigger(stalled)))
        await asyncio.sleep(0.2)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await quiet()
        gc.collect()
    assert [str(warning.message) for warning in caught if "nclosed" in str(warning.message)] == []
    assert not tasks_left()


async def test_many_triggers_each_get_their_own_run(flora: Emulator) -> None:
    run_ids = flora.seed_runs(12, spacing_ms=0)
    events = await asyncio.gather(*(first_event(trigger(run_id)) for run_id in run_ids))
    assert [event["run"]["run_id"] for event in events] == run_ids


async def test_a_run_that_ended_while_no_triggerer_lived_is_still_handed_over(flora: Emulator) -> None:
    (run_id,) = flora.seed_runs(status="completed")
    event = await first_event(trigger(run_id, seconds=-60))
    assert event["run"]["run_id"] == run_id
