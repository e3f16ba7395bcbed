"""How little is asked for: counts of requests and connections, from the emulator's ledger."""

from __future__ import annotations

import asyncio
import math
import time

import pytest

from airflow_provider_flora.api import exchange, pages, waiting
from airflow_provider_flora.api.models import Run
from airflow_provider_flora.runs import gate, history, watching
from tests.unit.runs.watching_flora import INTERVAL, LISTS, POLLS, STILL, TEXT, Cycles, Flora, Waits, until

pytestmark = pytest.mark.usefixtures("fast_clocks")
TECHNIQUES = "getTechnique"
POLLS_PER_PAGE = watching.POLLS_PER_PAGE
"""Fewer runs than that are due on their own where a tick comes amid their page, as on a busy machine."""


async def test_a_few_runs_are_polled_singly(flora: Flora) -> None:
    async with Waits(flora) as waits:
        waits.add(flora.running(3), interval=INTERVAL)
        cycles, asked = await Cycles(flora).count(12)
        assert set(asked) == {POLLS}
        assert asked[POLLS] <= 3 * cycles


@pytest.mark.parametrize("count", [100, 102, 105, 250])
async def test_many_runs_cost_one_request_a_hundred(flora: Flora, count: int) -> None:
    async with Waits(flora) as waits:
        waits.add(flora.running(count), interval=INTERVAL)
        await waits.all_seen(count)
        cycles, asked = await Cycles(flora).count(8)
        assert 0 < asked[LISTS] <= math.ceil(count / 100) * cycles
        assert asked[POLLS] <= 2 * cycles + POLLS_PER_PAGE


async def test_the_pages_of_a_walk_wait_only_for_each_other(flora: Flora, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "BASE_SPACING", 3600.0)
    async with Waits(flora) as waits:
        waits.add(flora.running(300), interval=1e7)  # the next tick is far away, so all are due now
        await waits.all_seen(300)
    assert flora.requests_since()[LISTS] >= 3


async def test_all_waits_share_one_connection_when_pages_do(flora: Flora) -> None:
    flora.mark()
    async with Waits(flora) as waits:
        waits.add(flora.running(150), interval=INTERVAL)
        await waits.all_seen(150)
        await until(lambda: flora.requests_since().total() > 10)
        made = flora.connections_since()
        assert made <= 1 + flora.requests_since()[POLLS]  # on a busy machine a few may be due on their own


async def test_single_polls_take_no_more_connections_than_run_at_once(flora: Flora) -> None:
    flora.mark()
    async with Waits(flora) as waits:
        waits.add(flora.running(5), interval=INTERVAL)
        await until(lambda: flora.requests_since().total() > 20)
        assert flora.connections_since() <= gate.CONCURRENCY


async def test_each_technique_is_walked_through_on_its_own(flora: Flora) -> None:
    async with Waits(flora) as waits:
        waits.add(flora.running(120), STILL, interval=INTERVAL)
        waits.add(flora.running(120, TEXT), TEXT, interval=INTERVAL)
        waits.add(flora.running(2, "tech_press-kit"), "tech_press-kit", interval=INTERVAL)
        await waits.all_seen(242)
        cycles, asked = await Cycles(flora).count(18)
        assert asked[LISTS] <= 4 * cycles
        assert asked[POLLS] <= 2 * cycles


async def test_a_slug_is_looked_up_once(flora: Flora) -> None:
    flora.mark()
    async with Waits(flora) as waits:
        waits.add(flora.running(20), "editorial-still", interval=INTERVAL)
        await waits.all_seen(20)
        await until(lambda: flora.requests_since()[LISTS] >= 4)
        assert flora.requests_since()[TECHNIQUES] == 1


async def test_a_slug_and_an_id_of_one_technique_share_a_walk(flora: Flora) -> None:
    run_ids = flora.running(40)
    async with Waits(flora) as waits:
        waits.add(run_ids[::2], "editorial-still", interval=INTERVAL)
        waits.add(run_ids[1::2], STILL, interval=INTERVAL)
        await waits.all_seen(40)
        cycles, asked = await Cycles(flora).count(6)
        assert 0 < asked[LISTS] <= cycles


async def test_runs_of_other_techniques_cost_nothing(flora: Flora) -> None:
    ours: list[str] = []
    for _ in range(10):
        ours += flora.running(12)
        flora.seed_runs(500, technique_id=TEXT)
    async with Waits(flora) as waits:
        waits.add(ours, interval=INTERVAL)
        await waits.all_seen(120)
        cycles, asked = await Cycles(flora).count(8)
        assert asked.total() <= 3 * cycles


async def test_newer_runs_of_others_are_paged_over_when_that_is_cheaper(flora: Flora) -> None:
    ours = flora.running(60)
    flora.seed_runs(350, technique_id=STILL, spacing_ms=0)
    async with Waits(flora) as waits:
        waits.add(ours, interval=INTERVAL)
        await waits.all_seen(60)
        cycles, asked = await Cycles(flora).count(10)
        assert 0 < asked[LISTS] <= 5 * cycles
        assert asked[POLLS] < cycles * 60 / 4  # on a busy machine some are polled singly for a while


async def test_runs_too_deep_for_pages_are_polled_singly(flora: Flora) -> None:
    ours = flora.running(8)
    flora.seed_runs(1500, technique_id=STILL, spacing_ms=0)
    async with Waits(flora) as waits:
        waits.add(ours, interval=INTERVAL)
        await waits.all_seen(8)
        cycles, asked = await Cycles(flora).count(40)
        assert asked[POLLS] <= 8 * cycles
        assert asked[LISTS] <= asked[POLLS] / 2


@pytest.mark.parametrize(("old", "between", "new", "cycles"), [(1, 900, 150, 15), (20, 2500, 200, 60)])
async def test_stragglers_are_polled_singly_and_the_rest_in_pages(
    flora: Flora, old: int, between: int, new: int, cycles: int
) -> None:
    stragglers = flora.running(old)
    flora.seed_runs(between, technique_id=STILL, spacing_ms=0)
    ours = flora.running(new)
    async with Waits(flora) as waits:
        waits.add(stragglers + ours, interval=INTERVAL)
        await waits.all_seen(old + new)
        counted, asked = await Cycles(flora).count(cycles)
        assert asked[POLLS] <= (1 if old == 1 else old + 1) * counted + POLLS_PER_PAGE
        assert asked[LISTS] <= (3 if old == 1 else 4) * counted


async def test_a_run_that_a_lagging_history_does_not_show_is_found_anyway() -> None:
    with Flora(run_seconds=0.3, cost_lag=0.0, list_lag=60.0) as flora:
        run_ids = flora.start_runs(8)
        async with Waits(flora) as waits:
            runs = await asyncio.gather(*waits.add(run_ids))
        assert [run.run_id for run in runs] == run_ids
        assert all(run.completed for run in runs)


async def test_a_history_that_lags_a_little_is_given_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "HISTORY_LAG", 20.0)  # so that it is read again after one interval
    with Flora(list_lag=1.9) as flora:
        run_ids = flora.running(100)  # all at one moment: of a few that are not shown yet, each would be polled
        flora.mark()
        async with Waits(flora) as waits:
            waits.add(run_ids, interval=2.0)
            await waits.all_seen(100)
            assert flora.requests_since()[POLLS] == 0


async def test_a_lagging_history_does_not_make_a_finished_run_run_again(flora: Flora) -> None:
    wait = watching.Wait(STILL, "run_1", 0.2, 10.0, None, Waits(flora))
    watcher = watching.Watcher("flora_default", flora.read_settings, shows_gauges=False)
    watcher.add(wait)
    wait.after(Run(run_id="run_1", status="completed"))
    watcher._apply_listed(wait, Run(run_id="run_1", status="running"))
    assert wait.run.completed
    assert wait.due <= time.monotonic()
    watcher.remove(wait)


async def test_finished_runs_without_details_are_polled_singly(
    flora: Flora, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = pages.Pages.read

    def bare(pages: pages.Pages[Run], response: exchange.Response) -> list[Run]:
        return [run.model_copy(update={"outputs": [], "error_code": None}) for run in read(pages, response)]

    monkeypatch.setattr(pages.Pages, "read", bare)
    run_ids = flora.start_runs(30)
    flora.mark()
    async with Waits(flora) as waits:
        runs = await asyncio.gather(*waits.add(run_ids))
    assert all(run.outputs for run in runs)
    assert flora.requests_since()[POLLS] <= 31


async def test_a_late_charge_is_waited_for() -> None:
    with Flora(run_seconds=0.2, cost_lag=0.8) as flora:
        async with Waits(flora) as waits:
            runs = await asyncio.gather(*waits.add(flora.start_runs(3)))
        assert {run.charged_cost for run in runs} == {0.09}


async def test_late_charges_of_many_runs_come_with_their_pages() -> None:
    with Flora(run_seconds=0.2, cost_lag=0.8) as flora:
        run_ids = flora.start_runs(60)
        flora.mark()
        async with Waits(flora) as waits:
            runs = await asyncio.gather(*waits.add(run_ids, interval=0.4))
        assert {run.charged_cost for run in runs} == {0.09}
        assert flora.requests_since().total() <= 10


async def test_a_charge_that_never_comes_does_not_hold_the_run_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "COST_GRACE", 0.6)
    with Flora(run_seconds=0.2, cost_lag=3600.0) as flora:
        async with Waits(flora) as waits:
            [run] = await asyncio.gather(*waits.add(flora.start_runs(1)))
        assert run.completed
        assert run.charged_cost is None


@pytest.mark.parametrize("count", [2, 30])
async def test_failed_runs_come_back_as_failed(flora: Flora, count: int) -> None:
    flora.order_fault("fail_run", error_code="GENERATION_PROMPT_MODERATED", times=1)
    run_ids = flora.start_runs(count)
    async with Waits(flora) as waits:
        failed, *others = await asyncio.gather(*waits.add(run_ids))
    assert (failed.failed, failed.error_code) == (True, "GENERATION_PROMPT_MODERATED")
    assert all(run.completed for run in others)


async def test_two_waits_of_one_run_cost_one_poll(flora: Flora) -> None:
    [run_id] = flora.running(1)
    async with Waits(flora) as waits:
        waits.add([run_id] * 4, interval=INTERVAL)
        await until(lambda: len(waits.seen) == 4)
        cycles, asked = await Cycles(flora).count(6)
        assert asked.total() <= cycles


async def test_each_of_two_waits_of_one_run_gets_it(flora: Flora) -> None:
    [run_id] = flora.start_runs(1)
    async with Waits(flora) as waits:
        first, second = waits.add([run_id, run_id])
        await waits.cancel(first)
        assert (await second).completed


async def test_a_patient_wait_is_not_polled_with_every_impatient_one(flora: Flora) -> None:
    patient, impatient = flora.running(2)
    async with Waits(flora) as waits:
        waits.add([patient], interval=1e7, timeout=1e9)  # its next tick is far away
        waits.add([impatient], interval=0.1)
        flora.mark()
        await until(lambda: flora.requests_since().total() >= 12)
        assert patient not in {run.run_id for run in waits.seen}


async def test_a_wait_sleeps_while_nothing_is_due(flora: Flora) -> None:
    async with Waits(flora) as waits:
        waits.add(flora.running(1), interval=60.0, timeout=1e9)
        flora.mark()
        await asyncio.sleep(0.7)
        assert flora.requests_since().total() <= 1


async def test_an_impatient_wait_wakes_the_watcher(flora: Flora) -> None:
    patient, impatient = flora.running(1)[0], flora.start_runs(1)[0]
    async with Waits(flora) as waits:
        waits.add([patient], interval=3600.0, timeout=1e9)
        await asyncio.sleep(0.1)
        [wait] = waits.add([impatient], interval=0.1)
        assert (await asyncio.wait_for(wait, 60)).completed


async def test_waits_of_different_beginnings_meet(flora: Flora) -> None:
    run_ids = flora.running(40)
    async with Waits(flora) as waits:
        for run_id in run_ids:
            waits.add([run_id], interval=INTERVAL)
            await asyncio.sleep(0.01)
        await waits.all_seen(40)
        cycles, asked = await Cycles(flora).count(12)
        assert asked.total() <= 2 * cycles + POLLS_PER_PAGE


async def test_a_large_page_makes_the_next_ones_smaller(flora: Flora, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "LARGE_PAGE_BYTES", 1000)
    async with Waits(flora) as waits:
        waits.add(flora.running(120), interval=INTERVAL)
        await waits.all_seen(120)
        await until(lambda: waits.watcher._history.page_size == 10)
