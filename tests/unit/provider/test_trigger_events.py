"""FloraTechniqueRunTrigger: what it fires, whatever happens while it waits."""

from __future__ import annotations

import asyncio
import gc
import json
import time
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from fake_task import first_event

from airflow_provider_flora.emulator import Emulator
from airflow_provider_flora.hooks.flora import FloraHook
from airflow_provider_flora.triggers.flora import FloraTechniqueRunTrigger

API_KEY = "sk_test_never_to_be_seen_4711"


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
    one = trigger("run_1", poll_interval=3.0, flora_conn_id="my_flora")
    path, arguments = one.serialize()
    assert path == "airflow_provider_flora.triggers.flora.FloraTechniqueRunTrigger"
    again = FloraTechniqueRunTrigger(**json.loads(json.dumps(arguments)))
    assert again.serialize() == (path, arguments)
    assert (arguments["poll_interval"], arguments["flora_conn_id"]) == (3.0, "my_flora")


async def test_a_completed_run_is_the_event(flora: Emulator) -> None:
    run_id = start()
    event = await first_event(trigger(run_id))
    assert set(event) == {"run"}
    assert (event["run"]["run_id"], event["run"]["status"]) == (run_id, "completed")
    assert event["run"]["charged_cost"] == 0.09


async def test_a_failed_run_is_the_event_too(flora: Emulator) -> None:
    flora.order_fault(kind="fail_run", error_code="SERVER_ERROR")
    event = await first_event(trigger(start()))
    assert event["run"]["error_code"] == "SERVER_ERROR"


async def test_the_trigger_fires_once(flora: Emulator) -> None:
    assert len([event async for event in trigger(start()).run()]) == 1


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "reset"},
        {"kind": "reset", "when": "after"},
        {"kind": "html"},
        {"kind": "cut_json"},
        {"kind": "status", "status": 408},
        {"kind": "status", "status": 429},
        {"kind": "status", "status": 500},
        {"kind": "status", "status": 404},
    ],
)
async def test_a_hiccup_does_not_end_the_wait(flora: Emulator, fault: dict[str, Any]) -> None:
    run_id = start()
    flora.order_fault(**fault, times=2)
    assert "run" in await first_event(trigger(run_id))


async def test_the_end_of_the_time_is_told_with_the_run(stalled: str) -> None:
    event = await first_event(trigger(stalled, seconds=0.3))
    assert set(event) == {"timeout"}
    assert stalled in event["timeout"]
    assert "goes on at Flora" in event["timeout"]


async def test_a_deadline_that_passed_before_the_trigger_ran_ends_the_wait(stalled: str) -> None:
    assert "timeout" in await first_event(trigger(stalled, seconds=-10))


async def test_an_outage_ends_with_the_deadline_and_not_before(flora: Emulator) -> None:
    run_id = start()
    flora.order_fault(kind="outage", seconds=60)
    assert "timeout" in await first_event(trigger(run_id, seconds=0.4))


async def test_a_rejected_key_is_an_error_that_no_retry_mends(stalled: str, flora: Emulator) -> None:
    flora.api_key = "sk_test_another"
    event = await first_event(trigger(stalled))
    assert set(event) == {"error", "retryable"}
    assert "401" in event["error"]
    assert event["retryable"] is False
    assert API_KEY not in str(event)


async def test_a_key_that_was_rotated_in_the_connection_is_taken_up(
    flora: Emulator, connect: Callable[..., None]
) -> None:
    connect(flora)
    run_id = start()
    waiting = asyncio.ensure_future(first_event(trigger(run_id, poll_interval=0.3)))
    await asyncio.sleep(0.1)
    flora.api_key = "sk_test_rotated"
    connect(flora)
    assert (await waiting)["run"]["status"] == "completed"


async def test_a_connection_that_cannot_be_used_is_an_error(flora: Emulator, connect: Callable[..., None]) -> None:
    connect(flora, timeout="soon")
    event = await first_event(trigger("run_1"))
    assert "'timeout' takes a number" in event["error"]
    assert event["retryable"] is False


@pytest.fixture
def unreadable(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The connection cannot be read for the first two times. Gives the reads."""
    whole = FloraHook.async_settings
    reads: list[int] = []

    async def read(self: FloraHook) -> Any:
        reads.append(1)
        if len(reads) < 3:
            raise ConnectionError("the database is away")
        return await whole(self)

    monkeypatch.setattr(FloraHook, "async_settings", read)
    monkeypatch.setattr("airflow_provider_flora.runs.watching.CONNECTION_RETRY", 0.05)
    return reads


async def test_a_connection_that_cannot_be_read_for_a_while_does_not_end_the_wait(
    flora: Emulator, unreadable: list[int]
) -> None:
    run_id = flora.seed_runs()[0]
    assert "run" in await first_event(trigger(run_id))
    assert len(unreadable) >= 3


async def test_a_connection_that_stays_unreadable_ends_the_wait_with_its_deadline(
    flora: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(self: FloraHook) -> Any:
        raise ConnectionError("the database is away")

    monkeypatch.setattr(FloraHook, "async_settings", away)
    monkeypatch.setattr("airflow_provider_flora.runs.watching.CONNECTION_RETRY", 0.05)
    event = await first_event(trigger("run_1", seconds=0.3))
    assert "timeout" in event or event["retryable"]


async def test_it_tells_changes_and_not_each_look(
    connect: Callable[..., None], capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with Emulator(run_seconds=1.0, cost_lag=0) as flora:
        connect(flora)
        run_id = start()
        await first_event(trigger(run_id, poll_interval=0.02))
        looks = sum(flora.ledger()["requests"].get(name, 0) for name in ("getTechniqueRun", "listTechniqueRuns"))
    said = [line for line in ("".join(capfd.readouterr()) or caplog.text).splitlines() if f"{run_id} is " in line]
    assert any("completed" in line for line in said)
    assert len(said) <= 13  # three states, ten times ten points
    assert looks > len(said)


async def test_a_cancelled_wait_leaves_no_session_open(stalled: str) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        waiting = asyncio.ensure_future(first_event(trigger(stalled)))
        await asyncio.sleep(0.2)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await asyncio.sleep(0.1)
        gc.collect()
    assert [str(warning.message) for warning in caught if "nclosed" in str(warning.message)] == []
    others = asyncio.all_tasks() - {asyncio.current_task()}
    assert not others


async def test_many_triggers_each_get_their_own_run(flora: Emulator) -> None:
    run_ids = flora.seed_runs(12, spacing_ms=0)
    events = await asyncio.gather(*(first_event(trigger(run_id)) for run_id in run_ids))
    assert [event["run"]["run_id"] for event in events] == run_ids


async def test_a_run_that_ended_while_no_triggerer_lived_is_still_handed_over(flora: Emulator) -> None:
    (run_id,) = flora.seed_runs(status="completed")
    event = await first_event(trigger(run_id, seconds=-60))
    assert event["run"]["run_id"] == run_id
