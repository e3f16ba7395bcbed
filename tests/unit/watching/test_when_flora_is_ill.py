"""429, outages, poison and refused lists: the watcher slows down as a whole, and no wait is lost."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from watching_flora import STILL, TEXT, Flora, Waits, until

from airflow_provider_flora.api import protocol
from airflow_provider_flora.api.errors import FloraError
from airflow_provider_flora.runs import watching

SPACING_AFTER_PAUSE = watching.SPACING_AFTER_PAUSE
LISTS, LOOKS = "listTechniqueRuns", "getTechniqueRun"


@pytest.mark.parametrize("retry_after", [True, False])
async def test_a_rate_limit_slows_all_down_until_nothing_is_refused(
    flora: Flora, monkeypatch: pytest.MonkeyPatch, retry_after: bool
) -> None:
    monkeypatch.setattr(protocol, "FIRST_BACKOFF_RATE_LIMITED", 0.3)
    monkeypatch.setattr(watching, "BASE_SPACING", 0.03)
    limit = {"kind": "rate_limit", "per_second": 25, "retry_after": retry_after, "operation": LISTS}
    async with Waits(flora) as waits:
        # More is due than the limit allows: two pages for each of twenty intervals a second.
        waits.add(flora.running(200), interval=0.05)
        await waits.all_seen(200)
        flora.order_fault(**limit)
        flora.mark()
        await until(lambda: waits.watcher._spacing >= 1 / 25)  # it has settled
        flora.mark()
        await until(lambda: flora.responses_since().total() >= 20)
        refused, asked = flora.responses_since()["429"], flora.responses_since().total()
    assert refused <= 1 + 0.02 * asked


async def test_all_runs_arrive_under_a_rate_limit() -> None:
    with Flora(run_seconds=0.5, cost_lag=0.0) as flora:
        run_ids = flora.start_runs(220)
        flora.order_fault("rate_limit", per_second=10)
        async with Waits(flora) as waits:
            runs = await asyncio.gather(*waits.add(run_ids))
        assert [run.run_id for run in runs] == run_ids
        assert all(run.completed for run in runs)


async def test_one_429_pauses_all_for_as_long_as_it_asks(flora: Flora) -> None:
    async with Waits(flora) as waits:
        waits.add(flora.running(20), interval=0.1)
        waits.add(flora.running(3, TEXT), TEXT, interval=0.1)
        await waits.all_seen(23)
        flora.order_fault("status", status=429, retry_after=1)
        await until(lambda: flora.responses_since()["429"] >= 1)
        begun = time.monotonic()
        await asyncio.sleep(0.1)  # what was under way arrives
        flora.mark()
        await asyncio.sleep(0.7)
        assert flora.requests_since().total() == 0
        await until(lambda: flora.requests_since().total() >= 4)
        assert time.monotonic() - begun >= 0.9


async def test_a_pause_is_no_longer_than_is_reasonable(flora: Flora) -> None:
    async with Waits(flora) as waits:
        waits.add(flora.running(1), interval=0.1)
        flora.order_fault("status", status=429, retry_after=86400)
        await until(lambda: flora.responses_since()["429"] >= 1)
        await asyncio.sleep(0.1)
        assert waits.watcher._paused_until <= time.monotonic() + protocol.MAX_RETRY_AFTER


@pytest.mark.parametrize("count", [4, 150])
async def test_an_outage_delays_all_and_loses_none(flora: Flora, count: int) -> None:
    run_ids = flora.start_runs(count)
    flora.order_fault("outage", seconds=1.0)
    flora.mark()
    async with Waits(flora) as waits:
        tasks = waits.add(run_ids)
        await asyncio.sleep(0.9)
        assert flora.requests_since().total() <= 20
        runs = await asyncio.gather(*tasks)
    assert all(run.completed for run in runs)


@pytest.mark.parametrize("count", [300, 40])
async def test_the_end_of_an_outage_brings_no_stampede(
    flora: Flora, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr(watching, "SPACING_AFTER_PAUSE", SPACING_AFTER_PAUSE)
    async with Waits(flora) as waits:
        for technique_id in (STILL, TEXT, "tech_press-kit", "tech_wonder-fy"):
            waits.add(flora.running(count // 4, technique_id), technique_id)
        await waits.all_seen(count)
        fault = {"kind": "status", "status": 503, "times": None}
        flora.order_fault(**fault)
        flora.mark()
        await until(lambda: flora.responses_since()["503"] >= 6)
        flora.clear_faults()
        flora.mark()
        await until(lambda: flora.responses_since()["200"] >= 1)
        await asyncio.sleep(0.6)  # of the first second: a slow machine must not count the next one too
        assert flora.requests_since().total() <= 12


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "status", "status": 500},
        {"kind": "cut_json"},
        {"kind": "not_a_run"},
        {"kind": "html", "status": 200},
        {"kind": "reset"},
    ],
    ids=lambda fault: str(fault["kind"]),
)
async def test_a_run_that_cannot_be_read_does_not_stall_the_others(flora: Flora, fault: dict[str, Any]) -> None:
    poison, *healthy = flora.start_runs(5)
    flora.order_fault(**fault, contains=poison, times=None)
    async with Waits(flora) as waits:
        waits.add([poison])
        runs = await asyncio.wait_for(asyncio.gather(*waits.add(healthy)), 10)
    assert all(run.completed for run in runs)


async def test_runs_that_cannot_be_read_do_not_stall_a_later_one(flora: Flora) -> None:
    poison = flora.running(4)
    for run_id in poison:
        flora.order_fault("status", status=500, contains=run_id, times=None)
    async with Waits(flora) as waits:
        waits.add(poison)
        await until(lambda: flora.responses_since()["500"] >= 6)
        [wait] = waits.add(flora.start_runs(1))
        assert (await asyncio.wait_for(wait, 10)).completed


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "status", "status": 403},
        {"kind": "status", "status": 400},
        {"kind": "oversize"},
        {"kind": "redirect"},
        {"kind": "status", "status": 500},
        {"kind": "reset"},
    ],
    ids=lambda fault: f"{fault['kind']}-{fault.get('status', '')}",
)
async def test_without_a_history_runs_are_looked_at_singly(flora: Flora, fault: dict[str, Any]) -> None:
    run_ids = flora.start_runs(30)
    flora.order_fault(**fault, operation=LISTS, times=None)
    async with Waits(flora) as waits:
        runs = await asyncio.wait_for(asyncio.gather(*waits.add(run_ids)), 15)
    assert all(run.completed for run in runs)
    assert (
        flora.requests_since()[LISTS] <= 12
    )  # two walks of three tries; aiohttp tries a connection that was reset again


async def test_one_technique_s_broken_history_does_not_hold_up_another(flora: Flora) -> None:
    flora.order_fault("status", status=500, operation=LISTS, contains=STILL, times=None)
    async with Waits(flora) as waits:
        waits.add(flora.running(20))
        runs = await asyncio.wait_for(asyncio.gather(*waits.add(flora.start_runs(20, TEXT), TEXT)), 10)
    assert all(run.completed for run in runs)


async def test_a_slug_that_cannot_be_looked_up_does_not_hold_up_the_others(flora: Flora) -> None:
    flora.order_fault("status", status=500, operation="getTechnique", contains="editorial-still", times=None)
    run_ids = flora.seed_runs(20, technique_id=STILL, status="completed")
    others = flora.start_runs(2, TEXT)
    async with Waits(flora) as waits:
        tasks = waits.add(run_ids, "editorial-still") + waits.add(others, TEXT)
        runs = await asyncio.wait_for(asyncio.gather(*tasks), 15)
    assert all(run.completed for run in runs)


async def test_a_slug_that_flora_does_not_know_any_more_filters_as_it_is(flora: Flora) -> None:
    run_ids = flora.start_runs(20)
    flora.order_fault("status", status=404, operation="getTechnique", times=None)
    async with Waits(flora) as waits:
        runs = await asyncio.gather(*waits.add(run_ids, "editorial-still"))
    assert all(run.completed for run in runs)


async def test_a_hiccup_of_the_history_costs_a_second_try(flora: Flora) -> None:
    async with Waits(flora) as waits:
        waits.add(flora.running(60))
        await waits.all_seen(60)
        flora.order_fault("status", status=502, operation=LISTS)
        flora.mark()
        await until(lambda: flora.requests_since()[LISTS] >= 4)
        assert flora.responses_since()["502"] == 1
        assert flora.requests_since()[LOOKS] == 0


async def test_a_refused_history_is_asked_again_later(flora: Flora, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "HISTORY_REST", 0.3)
    flora.order_fault("status", status=403, operation=LISTS)
    async with Waits(flora) as waits:
        waits.add(flora.running(12))
        await until(lambda: flora.requests_since()[LISTS] >= 3)
        assert flora.requests_since()[LOOKS] >= 12


async def test_an_error_that_waiting_cannot_mend_ends_its_wait_only(flora: Flora) -> None:
    forbidden, *others = flora.start_runs(4)
    flora.order_fault("status", status=403, operation=LOOKS, contains=forbidden, times=None)
    async with Waits(flora) as waits:
        [bad] = waits.add([forbidden])
        runs = await asyncio.gather(*waits.add(others))
        assert all(run.completed for run in runs)
        with pytest.raises(FloraError, match="403"):
            await bad
