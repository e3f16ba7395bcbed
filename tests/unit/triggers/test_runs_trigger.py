"""FloraRunsTrigger: its arguments, its events, and how it leaves."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any
from unittest.mock import patch

import pytest

from airflow_provider_flora import airflow_compat
from airflow_provider_flora.airflow_compat import airflow_is_at_least
from airflow_provider_flora.api.errors import FloraInternalError
from airflow_provider_flora.emulator import Emulator
from airflow_provider_flora.hooks.flora import FloraHook
from airflow_provider_flora.runs import ended_runs, own_runs
from airflow_provider_flora.triggers import runs
from airflow_provider_flora.triggers.batch import FloraBatchTrigger
from airflow_provider_flora.triggers.flora import FloraTechniqueRunTrigger
from airflow_provider_flora.triggers.runs import FloraRunsTrigger
from tests.unit.loop_tasks import quiet, tasks_left

needs_watchers = pytest.mark.skipif(not airflow_is_at_least(3, 0), reason="Airflow 2 has no asset watchers")
PATH = "airflow_provider_flora.triggers.runs.FloraRunsTrigger"


def test_an_airflow_without_asset_watchers_says_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(airflow_compat, "airflow_is_at_least", lambda *_: False)  # which Airflow 2 says by itself
    methods = {"run": FloraRunsTrigger.run, "serialize": FloraRunsTrigger.serialize}
    trigger: Any = type("FloraRunsTrigger", (airflow_compat.find_event_trigger(),), methods)
    with pytest.raises(Exception, match=r"FloraRunsTrigger needs Airflow 3\.0 or newer, which has asset watchers"):
        trigger(technique_id="product-motion")
    if not airflow_is_at_least(3, 0):
        with pytest.raises(Exception, match=r"needs Airflow 3\.0 or newer"):
            FloraRunsTrigger()


@needs_watchers
def test_what_the_database_keeps_makes_the_same_trigger() -> None:
    one = FloraRunsTrigger("product-motion", "failed", exclude_own=True, poll_interval=3, flora_conn_id="my_flora")
    path, arguments = one.serialize()
    assert path == PATH
    again = FloraRunsTrigger(**json.loads(json.dumps(arguments)), of_a_later_release=1)
    assert again.serialize() == (path, arguments)
    assert arguments == {
        "version": 1,
        "technique_id": "product-motion",
        "status": "failed",
        "exclude_own": True,
        "poll_interval": 3,
        "flora_conn_id": "my_flora",
    }


@needs_watchers
@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"status": "running"}, "not 'running'"),
        ({"poll_interval": 0.5}, "not 0.5"),
        ({"poll_interval": float("nan")}, ""),
        ({"poll_interval": float("inf")}, "not inf"),
        ({"poll_interval": timedelta(seconds=30)}, "not datetime"),
        ({"technique_id": ""}, "not ''"),
        ({"technique_id": 7}, "not 7"),
        ({"technique_id": "https://app.flora.ai/techniques/product-motion"}, "not 'https"),
    ],
)
def test_a_wrong_argument_is_refused_where_the_dag_is_parsed(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=f"takes .*{words}"):
        FloraRunsTrigger(**wrong)


@needs_watchers
def test_it_fires_for_each_run_and_leaves_nothing_behind(flora: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ended_runs, "JOIN_PAUSE", 0.01)

    async def scene() -> list[str]:
        trigger = FloraRunsTrigger(poll_interval=1)
        events = trigger.run()
        first = asyncio.ensure_future(anext(events))
        while not [one for one in _watches() if one.watermark.seen_until is not None]:
            await asyncio.sleep(0.02)
        started = [FloraHook().start_technique_run("editorial-still", {"prompt": "a cup"}).run_id for _ in range(2)]
        told = [(await asyncio.wait_for(first, 30)).payload["run_id"]]
        told.append((await asyncio.wait_for(anext(events), 30)).payload["run_id"])
        assert sorted(told) == sorted(started)
        await trigger.cleanup()  # Airflow ends it between two events
        assert not _watches()
        await quiet()
        assert not tasks_left()
        return told

    assert len(asyncio.run(scene())) == 2


def _watches() -> list[Any]:
    polls = ended_runs._polls.get(asyncio.get_running_loop(), {})
    return [one for poll in polls.values() for one in poll._watches]


@needs_watchers
def test_a_bug_ends_it_after_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "PAUSE_AFTER_BUG", 0.01)

    async def scene() -> None:
        with patch.object(ended_runs.RunsWatch, "_load", side_effect=FloraInternalError(KeyError("bug"))):
            await anext(FloraRunsTrigger().run())

    with pytest.raises(FloraInternalError):
        asyncio.run(scene())


@needs_watchers
def test_cleaning_up_before_the_start_does_nothing() -> None:
    asyncio.run(FloraRunsTrigger().cleanup())


@pytest.mark.parametrize("own", [True, False])
def test_a_deferred_task_makes_its_run_known_and_a_sensor_does_not(flora: Emulator, own: bool) -> None:
    run_id = FloraHook().start_technique_run("editorial-still", {"prompt": "a cup"}).run_id
    trigger = FloraTechniqueRunTrigger("editorial-still", run_id, 0.0, own=own)

    async def scene() -> None:
        await anext(trigger.run())

    asyncio.run(scene())
    assert own_runs.is_own(run_id) is own
    _, arguments = trigger.serialize()
    assert FloraTechniqueRunTrigger(**arguments).own is own


def test_a_batch_makes_its_runs_known(flora: Emulator) -> None:
    run_id = FloraHook().start_technique_run("editorial-still", {"prompt": "a cup"}).run_id

    async def scene() -> None:
        await anext(FloraBatchTrigger("editorial-still", [run_id], 0.0).run())

    asyncio.run(scene())
    assert own_runs.is_own(run_id)


def test_only_the_newest_own_runs_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_runs, "_own", {})
    monkeypatch.setattr(own_runs, "KEPT", 2)
    own_runs.remember(["run_1", "run_2"])
    own_runs.remember(["run_1", "run_3"])
    assert [own_runs.is_own(f"run_{number}") for number in (1, 2, 3)] == [True, False, True]
