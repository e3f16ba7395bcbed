"""What watches of all runs are told, and what that costs Flora."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import patch

import pytest

from airflow_provider_flora.api import operations
from airflow_provider_flora.api.errors import FloraInternalError
from airflow_provider_flora.api.settings import ClientSettings
from airflow_provider_flora.runs import ended_runs, history, own_runs, watermark
from airflow_provider_flora.runs.ended_runs import RunsWatch
from airflow_provider_flora.runs.run_events import TOLD_KEY, add_told_run
from airflow_provider_flora.runs.watermark import Watermark
from tests.unit.loop_tasks import quiet, tasks_left
from tests.unit.runs.watching_flora import LISTS, POLLS, STILL, TEXT, Flora, until
from tests.unit.waiting import LONG, later

pytestmark = pytest.mark.usefixtures("fast_clocks", "fast_watches")
INTERVAL = 0.1


@pytest.fixture
def fast_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clocks of watches, set fast."""
    monkeypatch.setattr(ended_runs, "JOIN_PAUSE", 0.02)
    monkeypatch.setattr(ended_runs, "CONFIRM_INTERVAL", 0.02)
    monkeypatch.setattr(ended_runs, "STORE_RETRY", 0.02)
    monkeypatch.setattr(ended_runs, "COST_GRACE", 0.5)


class Store:
    """An asset's state store, and Airflow's storing of events: ``stores`` says whether it does."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.stored: list[str] = []
        self.stores = True
        self.broken = False

    async def aget(self, key: str) -> Any:
        if self.broken:
            raise RuntimeError("the API server is away")
        return json.loads(self.values.get(key, "null"))

    async def aset(self, key: str, value: Any) -> None:
        if self.broken:
            raise RuntimeError("the API server is away")
        self.values[key] = json.dumps(value)

    def store_event(self, run_id: str) -> None:
        """Store an event, as Airflow's triggerer does with the listener."""
        self.stored.append(run_id)
        told = add_told_run(json.loads(self.values.get(TOLD_KEY, "null")), run_id)
        self.values[TOLD_KEY] = json.dumps(told)


class Watched:
    """A watch whose events are collected."""

    def __init__(self, flora: Flora, store: Store | None, **given: Any) -> None:
        arguments: dict[str, Any] = {
            "conn_id": "flora_default",
            "read_settings": flora.read_settings,
            "technique_id": None,
            "status": None,
            "exclude_own": False,
            "poll_interval": INTERVAL,
            "stores": [store] if store else [],
            **given,
        }
        self.watch = RunsWatch(**arguments)
        self.store = store
        self.events: list[dict[str, Any]] = []
        self.task = asyncio.ensure_future(self._collect())

    async def _collect(self) -> None:
        async for event in self.watch.events():
            self.events.append(dict(event))
            if self.store is not None and self.store.stores:
                self.store.store_event(event["run_id"])

    @property
    def run_ids(self) -> list[str]:
        return [event["run_id"] for event in self.events]

    async def begun(self) -> Watched:
        """Wait until it has been shown the history once."""
        await until(lambda: self.watch.watermark.seen_until is not None)
        return self

    async def end(self) -> None:
        """End as Airflow ends a trigger."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@asynccontextmanager
async def watching(flora: Flora, store: Store | None = None, **given: Any) -> AsyncIterator[Watched]:
    watched = Watched(flora, store, **given)
    try:
        yield await watched.begun()
    finally:
        await watched.end()


def test_runs_that_end_are_told_of_once_with_outputs_and_cost(
    flora: Flora, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene() -> None:
        flora.seed_runs(120)
        flora.order_fault("slow_run", seconds=LONG)
        [late] = flora.start_runs(1)
        async with watching(flora, Store()) as watched:
            runs = flora.start_runs(3)
            await until(lambda: len(watched.events) >= 3)
            later(flora, monkeypatch)
            await until(lambda: len(watched.events) >= 4)
            await asyncio.sleep(5 * INTERVAL)
            assert sorted(watched.run_ids) == sorted([*runs, late])
            assert watched.run_ids[-1] == late
            event = watched.events[0]
            assert (event["type"], event["status"], event["technique_id"]) == ("flora.run", "completed", STILL)
            assert event["technique_name"]
            assert event["charged_cost"] == 0.09
            assert event["output_urls"] == [event["outputs"][0]["url"]]
            assert event["whole"] is True
            json.dumps(event)
        await quiet()
        assert not tasks_left()

    asyncio.run(scene())


def test_only_the_technique_and_status_that_are_wanted_are_told_of(flora: Flora) -> None:
    async def scene() -> None:
        async with (
            watching(flora, technique_id="editorial-still", status="completed") as films,
            watching(flora, status="failed") as failures,
        ):
            flora.order_fault("fail_run", error_code="LLM_REFUSAL", error_message="No")
            [failed] = flora.start_runs(1)
            [still] = flora.start_runs(1)
            flora.start_runs(1, TEXT)
            await until(lambda: films.events and failures.events)
            await asyncio.sleep(5 * INTERVAL)
            assert films.run_ids == [still]
            assert failures.run_ids == [failed]
            assert failures.events[0]["error_code"] == "LLM_REFUSAL"

    asyncio.run(scene())


def test_fifty_watches_cost_one_request_in_each_interval(flora: Flora) -> None:
    async def scene() -> None:
        flora.seed_runs(300)
        watches = [Watched(flora, Store()) for _ in range(50)]
        for one in watches:
            await one.begun()
        flora.mark()
        polls = ended_runs.RunsPoll._poll
        count = 0

        async def counted(poll: Any) -> None:
            nonlocal count
            count += 1
            await polls(poll)

        with patch.object(ended_runs.RunsPoll, "_poll", counted):
            await until(lambda: count >= 6)
            seen = flora.requests_since()
        assert seen.keys() == {LISTS}
        assert seen[LISTS] <= count + 1
        for one in watches:
            await one.end()

    asyncio.run(scene())


def test_a_kill_at_any_event_loses_none_and_repeats_none(flora: Flora) -> None:
    async def scene() -> None:
        store = Store()
        runs = []
        async with watching(flora, store) as watched:
            runs += flora.start_runs(2)
            await until(lambda: len(watched.events) == 2)
            store.stores = False  # killed: what it tells now is not stored
            runs += flora.start_runs(3)
            await until(lambda: len(watched.events) == 5)
        ended_runs._told.clear()  # of a process that is no more
        runs += flora.start_runs(150)  # while nobody watches
        store.stores = True
        async with watching(flora, store) as again:
            await until(lambda: len(store.stored) >= 155)
            await asyncio.sleep(5 * INTERVAL)
            assert sorted(store.stored) == sorted(runs)
            assert len(again.events) == 153

    asyncio.run(scene())


def test_a_trigger_that_airflow_starts_again_waits_for_what_it_has_told(flora: Flora) -> None:
    async def scene() -> None:
        store = Store()
        store.stores = False
        async with watching(flora, store) as watched:
            [run] = flora.start_runs(1)
            await until(lambda: watched.run_ids == [run])
        async with watching(flora, store) as again:
            await asyncio.sleep(4 * INTERVAL)
            assert again.events == []
            store.store_event(run)  # Airflow was slow
            await until(lambda: run in again.watch.watermark.ended)

    asyncio.run(scene())


def test_without_a_store_a_watch_begins_anew(flora: Flora) -> None:
    async def scene() -> None:
        async with watching(flora) as watched:
            [run] = flora.start_runs(1)
            await until(lambda: watched.run_ids == [run])
        async with watching(flora) as again:
            await asyncio.sleep(4 * INTERVAL)
            assert again.events == []

    asyncio.run(scene())


def test_a_run_that_has_left_the_first_page_is_followed(flora: Flora, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        flora.order_fault("slow_run", seconds=LONG)
        [late] = flora.start_runs(1)
        async with watching(flora) as watched:
            await asyncio.sleep(0.01)
            flora.seed_runs(150, technique_id=TEXT, status="failed", spacing_ms=0)
            await until(lambda: flora.requests_since()[POLLS])
            later(flora, monkeypatch)
            await until(lambda: late in watched.run_ids)
            assert watched.run_ids.count(late) == 1
            assert next(event for event in watched.events if event["run_id"] == late)["charged_cost"] == 0.09

    asyncio.run(scene())


def test_an_outage_delays_a_watch_and_is_logged_once(flora: Flora, caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        async with watching(flora, Store()) as watched:
            flora.order_fault("status", operation=LISTS, status=503, times=None)
            await until(lambda: "cannot be listed now" in caplog.text, 20)
            [run] = flora.start_runs(1)
            await asyncio.sleep(6 * INTERVAL)
            flora.clear_faults()
            await until(lambda: watched.run_ids == [run], 30)

    caplog.set_level(logging.WARNING)
    asyncio.run(scene())
    assert caplog.text.count("cannot be listed now") == 1


def test_a_key_that_is_changed_at_flora_does_not_end_a_watch(flora: Flora) -> None:
    async def scene() -> None:
        key = flora.api_key

        async def read_settings() -> ClientSettings:
            return ClientSettings(api_key=key, base_url=flora.base_url, timeout=5.0)

        async with watching(flora, Store(), read_settings=read_settings) as watched:
            flora.api_key = "sk_test_rotated"
            await until(lambda: flora.responses_since()["401"], 20)
            [run] = flora.start_runs(1)
            key = flora.api_key
            await until(lambda: watched.run_ids == [run], 30)

    asyncio.run(scene())


def test_a_store_that_is_away_delays_a_watch(flora: Flora, caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        store = Store()
        store.broken = True
        watched = Watched(flora, store)
        await until(lambda: "Cannot read the asset's state store" in caplog.text)
        store.broken = False
        await watched.begun()
        await until(lambda: bool(store.values))
        store.broken = True
        [run] = flora.start_runs(1)
        await until(lambda: "Cannot write the asset's state store" in caplog.text)
        assert watched.events == []  # it would not know after a restart that it has told
        store.broken = False
        await until(lambda: watched.run_ids == [run])
        await watched.end()

    caplog.set_level(logging.WARNING)
    asyncio.run(scene())


def test_a_stored_value_that_cannot_be_read_begins_anew_and_says_so(
    flora: Flora, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene() -> None:
        store = Store()
        async with watching(flora, store) as watched:
            key = watched.watch._key
        store.values[key] = '"odd"'
        store.values[TOLD_KEY] = '{"odd": 1}'
        async with watching(flora, store) as watched:
            [run] = flora.start_runs(1)
            await until(lambda: watched.run_ids == [run])

    asyncio.run(scene())
    assert "Runs are told of from now on" in caplog.text


def test_events_that_nothing_confirms_count_as_stored_in_the_end(
    flora: Flora, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene() -> None:
        store = Store()
        store.stores = False
        async with watching(flora, store) as watched:
            [run] = flora.start_runs(1)
            await until(lambda: run in watched.watch.watermark.ended)
            assert watched.run_ids == [run]

    monkeypatch.setattr(ended_runs, "CONFIRM_TIMEOUT", 0.2)
    asyncio.run(scene())
    assert "Is the plugin of the Flora provider loaded" in caplog.text


def test_runs_of_deferred_tasks_are_left_out_on_request(flora: Flora) -> None:
    async def scene() -> None:
        async with watching(flora, exclude_own=True) as others, watching(flora) as everything:
            own, foreign = flora.start_runs(2)
            own_runs.remember([own])
            await until(lambda: len(everything.events) == 2 and others.events)
            assert others.run_ids == [foreign]

    asyncio.run(scene())


def test_a_programming_error_ends_every_watch(flora: Flora, caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        watched = await Watched(flora, None).begun()
        with patch.object(ended_runs.Walk, "add", side_effect=KeyError("bug")), pytest.raises(FloraInternalError):
            await asyncio.wait_for(watched.task, 20)
        async with watching(flora) as again:
            [run] = flora.start_runs(1)
            await until(lambda: again.run_ids == [run])

    asyncio.run(scene())
    assert "The poll of ended Flora runs failed" in caplog.text


def test_a_technique_that_flora_does_not_have_is_named_and_looked_for_again(
    flora: Flora, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "MISSING_AGE", 2 * INTERVAL)

    async def scene() -> None:
        watched = Watched(flora, None, technique_id="new-film")
        await until(lambda: "Flora has no technique 'new-film'" in caplog.text)
        await asyncio.sleep(5 * INTERVAL)
        slots = {"inputs": [], "outputs": [{"id": "film", "name": "Film", "type": "videoUrl"}]}
        flora.add_technique({"technique_id": "tech_new-film", "slug": "new-film", "run_cost": 1, **slots})
        await watched.begun()
        [run] = flora.seed_runs(1, technique_id="tech_new-film")
        await until(lambda: watched.run_ids == [run])
        await watched.end()

    asyncio.run(scene())
    assert caplog.text.count("Flora has no technique 'new-film'") == 1


def test_triggers_that_differ_in_their_interval_alone_do_not_confirm_each_other_s_events(flora: Flora) -> None:
    async def scene() -> None:
        late = Store()
        late.stores = False
        async with watching(flora, Store()) as one, watching(flora, late, poll_interval=2 * INTERVAL) as other:
            [run] = flora.start_runs(1)
            await until(lambda: one.run_ids == other.run_ids == [run])
            await until(lambda: run in one.watch.watermark.ended)
            assert run in other.watch.watermark.open
            late.store_event(run)
            await until(lambda: run in other.watch.watermark.ended)

    asyncio.run(scene())


def test_a_run_that_begins_to_run_while_a_watch_begins_is_not_missed(
    flora: Flora, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str | None] = []
    list_runs = operations.list_technique_runs

    def note(technique_id: str | None, status: str | None, *others: Any) -> Any:
        asked.append(status)
        return list_runs(technique_id, status, *others)

    monkeypatch.setattr(operations, "list_technique_runs", note)

    async def scene() -> None:
        async with watching(flora):
            assert asked[:3] == ["pending", "running", None]

    asyncio.run(scene())


def test_a_run_without_a_technique_and_details_is_told_of_as_it_is(
    flora: Flora, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ended_runs, "lacks_details", lambda run: run.finished)
    see = Watermark.see

    def see_no_technique(mark: Watermark, runs: Any, *others: Any, **more: Any) -> Any:
        return see(mark, [run.model_copy(update={"technique": None}) for run in runs], *others, **more)

    monkeypatch.setattr(Watermark, "see", see_no_technique)

    async def scene() -> None:
        async with watching(flora) as watched:
            [run] = flora.start_runs(1)
            await until(lambda: watched.run_ids == [run])
            assert watched.events[0]["technique_id"] == ""

    asyncio.run(scene())


def test_an_ended_run_whose_details_the_history_lacks_is_asked_for_in_the_next_interval(
    flora: Flora, monkeypatch: pytest.MonkeyPatch
) -> None:
    intervals: list[float] = []

    async def note(*_: Any, poll_interval: float, **__: Any) -> Any:
        intervals.append(poll_interval)
        await asyncio.Event().wait()

    monkeypatch.setattr(ended_runs, "watch", note)
    monkeypatch.setattr(ended_runs, "lacks_details", lambda run: run.finished)

    async def scene() -> None:
        async with watching(flora):
            flora.start_runs(1)
            await until(lambda: intervals)

    asyncio.run(scene())
    assert intervals == [INTERVAL]


def test_an_error_about_one_technique_delays_one_watch(flora: Flora) -> None:
    async def scene() -> None:
        flora.order_fault("status", operation="getTechnique", status=503, times=None)
        delayed = Watched(flora, Store(), technique_id="editorial-still")
        async with watching(flora, Store()) as watched:
            [first] = flora.start_runs(1)
            await until(lambda: watched.run_ids == [first])
            assert delayed.watch.watermark.seen_until is None
            flora.clear_faults()
            await delayed.begun()
            [second] = flora.start_runs(1)
            await until(lambda: delayed.run_ids == [second])
        await delayed.end()

    asyncio.run(scene())


def test_a_long_catch_up_is_told_in_parts_and_in_order(flora: Flora, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watermark, "MOST_RUNS", 150)

    async def scene() -> None:
        store = Store()
        flora.seed_runs(3)
        async with watching(flora, store):
            await until(lambda: bool(store.values))
        await asyncio.sleep(0.5)
        missed = flora.seed_runs(450, spacing_ms=1, status="failed")
        async with watching(flora, store) as watched:
            await until(lambda: len(watched.events) >= 450)
            await asyncio.sleep(5 * INTERVAL)
            assert sorted(watched.run_ids) == sorted(missed)

    asyncio.run(scene())


def test_a_price_that_comes_late_is_waited_for(flora_with_late_prices: Flora) -> None:
    flora = flora_with_late_prices

    async def scene() -> None:
        async with watching(flora) as watched:
            flora.start_runs(1)
            await until(lambda: bool(watched.events))
            assert watched.events[0]["charged_cost"] == 0.09

    asyncio.run(scene())


@pytest.fixture
def flora_with_late_prices(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Flora that knows a price a moment after the end of a run."""
    monkeypatch.setattr(ended_runs, "COST_GRACE", 20.0)
    with Flora(run_seconds=0.1, cost_lag=0.5) as flora:
        yield flora


def test_long_texts_and_too_many_outputs_do_not_get_into_an_event() -> None:
    from airflow_provider_flora.api.models import Run
    from airflow_provider_flora.runs.run_events import RunEvent

    outputs = [
        {"output_id": "short", "type": "text", "url": "A cup"},
        {"output_id": "long", "type": "text", "url": "x" * 1001},
        {"output_id": "link", "type": "imageUrl", "url": "https://flora.ai/" + "y" * 3000},
    ]
    run = Run.model_validate({"run_id": "run_1", "status": "completed", "outputs": outputs})
    event = RunEvent.of_run(run, "tech_a", None)
    assert [output["output_id"] for output in event["outputs"]] == ["short"]
    assert event["whole"] is False
    assert repr(event) == "<run_1 completed of tech_a>"
    many = Run.model_validate({"run_id": "run_1", "status": "completed", "outputs": [outputs[0]] * 200})
    assert len(RunEvent.of_run(many, "tech_a", "n" * 9000)["outputs"]) == 50
    assert len(json.dumps(RunEvent.of_run(many, "tech_a", "n" * 9000))) < 100_000
