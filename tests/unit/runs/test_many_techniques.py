"""How little is asked for when the waits' runs are those of many techniques, however the history lies."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest

from airflow_provider_flora.api import answers, exchange, pages
from airflow_provider_flora.api.errors import FloraAnswerSizeError
from airflow_provider_flora.api.models import Run
from airflow_provider_flora.runs import watching
from tests.unit.runs.watching_flora import LISTS, POLLS, STILL, Cycles, Flora, Waits, more_techniques, until

pytestmark = pytest.mark.usefixtures("fast_clocks")
INTERVAL = 0.3


@pytest.mark.parametrize("techniques", [2, 20, 150, 300])
async def test_three_hundred_waits_of_any_techniques_cost_three_pages(flora: Flora, techniques: int) -> None:
    runs = flora.running_over(more_techniques(techniques), 300)
    async with Waits(flora) as waits:
        waits.add_over(runs, interval=INTERVAL)
        await waits.all_seen(300)
        cycles, asked = await Cycles(flora, INTERVAL).count(12)
        assert asked[LISTS] <= max(3, 2 * math.ceil(300 / techniques / 100)) * cycles
        assert asked[POLLS] <= 2 * cycles


@pytest.mark.parametrize(
    ("techniques", "at_first"),
    [(1, 1000), (7, 1000), (7, 520), (9, 1000), (9, 600), (9, 900), (200, 1000), (1000, 1000)],
)
async def test_a_thousand_waits_cost_twelve_requests_a_cycle_at_most(
    flora: Flora, monkeypatch: pytest.MonkeyPatch, techniques: int, at_first: int
) -> None:
    """Also if the first cycles find the oldest of them alone, which lie too deep to be worth it."""
    cycle = watching.Watcher._cycle
    costs: list[int] = []

    async def counted(watcher: watching.Watcher) -> None:
        before = flora.requests_since().total()
        await cycle(watcher)
        costs.append(flora.requests_since().total() - before)

    runs = flora.running_over(more_techniques(techniques), 1000)
    async with Waits(flora) as waits:
        waits.add_over(runs[:at_first], interval=1.0)
        await waits.all_seen(at_first)
        waits.add_over(runs[at_first:], interval=1.0)
        await waits.all_seen(1000)
        monkeypatch.setattr(watching.Watcher, "_cycle", counted)
        await until(lambda: len(costs) >= 3)
    assert sum(costs) >= 10  # on a busy machine a cycle may have to do with a part of the waits only
    assert max(costs) <= 12


async def test_a_few_old_waits_that_are_due_more_often_make_the_others_no_dearer(
    flora: Flora, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not worth a walk for a few, alone, is for all of them together."""
    cycle = watching.Watcher._cycle
    costs: list[int] = []

    async def counted(watcher: watching.Watcher) -> None:
        before = flora.requests_since().total()
        due = sum(wait.due <= time.monotonic() for wait in watcher._active_waits())
        await cycle(watcher)
        if due > 500:
            costs.append(flora.requests_since().total() - before)

    runs = flora.running_over(more_techniques(1000), 1000)
    async with Waits(flora) as waits:
        waits.add_over(runs[:8], interval=0.1)
        waits.add_over(runs[8:], interval=2.0)
        await waits.all_seen(1000)
        monkeypatch.setattr(watching.Watcher, "_cycle", counted)
        await until(lambda: len(costs) >= 4, timeout=30)
    assert sum(costs[1:]) <= 20 * len(costs[1:])  # 10 pages, and the few once or twice


async def test_all_runs_of_many_techniques_arrive(flora: Flora) -> None:
    techniques = more_techniques(30)
    run_ids = {technique_id: flora.start_runs(2, technique_id) for technique_id in techniques}
    async with Waits(flora) as waits:
        tasks = [task for technique_id, ids in run_ids.items() for task in waits.add(ids, technique_id)]
        ended = [await task for task in tasks]
    assert [run.run_id for run in ended] == [run_id for ids in run_ids.values() for run_id in ids]
    assert all(run.completed for run in ended)


async def test_a_history_full_of_others_runs_is_left_alone(flora: Flora) -> None:
    runs = flora.running_over(more_techniques(30), 60)
    flora.foreign(20_000)
    flora.mark()
    async with Waits(flora) as waits:
        waits.add_over(runs, interval=INTERVAL)
        await waits.all_seen(60)
        assert flora.requests_since()[LISTS] <= 2 + 60 / watching.POLLS_PER_PAGE  # what it costs to find out
        cycles, asked = await Cycles(flora, INTERVAL).count(400)
        assert asked[LISTS] == 0
        assert asked[POLLS] <= 60 * cycles


async def test_a_history_that_is_half_full_of_others_runs_costs_no_more_than_single_polls(flora: Flora) -> None:
    techniques = more_techniques(50)
    runs: list[tuple[str, str]] = []
    for _ in range(10):
        runs += flora.running_over(techniques[len(runs) // 2 :], 10)
        flora.foreign(1000)
    async with Waits(flora) as waits:
        waits.add_over(runs, interval=INTERVAL)
        await waits.all_seen(100)
        cycles, asked = await Cycles(flora, INTERVAL).count(400)
        assert asked[LISTS] * watching.POLLS_PER_PAGE + asked[POLLS] <= 1.1 * 100 * cycles


async def test_new_runs_share_pages_while_old_ones_that_lie_deep_are_polled_singly(flora: Flora) -> None:
    techniques = more_techniques(40)
    deep = flora.running_over(techniques, 30)
    flora.foreign(5000)
    new = flora.running_over(techniques, 190)
    async with Waits(flora) as waits:
        waits.add_over(deep + new, interval=INTERVAL)
        await waits.all_seen(220)
        cycles, asked = await Cycles(flora, INTERVAL).count(300)
        assert asked[LISTS] <= 2 * cycles
        assert asked[POLLS] <= 30 * cycles


async def test_many_old_runs_of_one_technique_share_its_pages_beside_new_runs_of_many(flora: Flora) -> None:
    deep = flora.running(60)
    flora.foreign(5000)
    new = flora.running_over(more_techniques(40), 120)
    async with Waits(flora) as waits:
        waits.add(deep, interval=INTERVAL)
        waits.add_over(new, interval=INTERVAL)
        await waits.all_seen(180)
        cycles, asked = await Cycles(flora, INTERVAL).count(45)
        assert asked[LISTS] <= 3 * cycles
        assert asked[POLLS] <= 2 * cycles


async def test_one_busy_technique_is_walked_through_alone_beside_a_few_others(flora: Flora) -> None:
    few = flora.running_over(more_techniques(3), 3)
    ours: list[str] = []
    for _ in range(10):
        ours += flora.running(10)
        flora.foreign(90)
    async with Waits(flora) as waits:
        waits.add_over(few, interval=INTERVAL)
        waits.add(ours, STILL, interval=INTERVAL)
        await waits.all_seen(103)
        cycles, asked = await Cycles(flora, INTERVAL).count(40)
        assert asked[LISTS] <= 2 * cycles
        assert asked[POLLS] <= 3 * cycles


async def test_a_history_of_all_techniques_that_is_refused_is_done_without(flora: Flora) -> None:
    runs = flora.running_over(more_techniques(10), 80)
    flora.order_fault("status", status=403, operation=LISTS, skip=0, times=1)
    async with Waits(flora) as waits:
        waits.add_over(runs, interval=INTERVAL)
        await waits.all_seen(80)
        cycles, asked = await Cycles(flora, INTERVAL).count(30)
        assert 0 < asked[LISTS] <= 10 * cycles  # technique by technique
        assert asked[POLLS] <= 3 * cycles


async def test_a_list_that_lags_hides_no_run_of_many_techniques() -> None:
    with Flora(run_seconds=0.5, cost_lag=0.0, list_lag=60.0) as flora:
        techniques = more_techniques(10)
        run_ids = [(technique_id, flora.start_runs(1, technique_id)[0]) for technique_id in techniques]
        async with Waits(flora) as waits:
            ended = [await task for task in waits.add_over(run_ids)]
    assert all(run.completed for run in ended)


async def test_a_run_that_two_pages_show_is_the_same_run(flora: Flora, monkeypatch: pytest.MonkeyPatch) -> None:
    read = pages.Pages.read
    last: list[Run] = []

    def shifted(pages: pages.Pages[Run], response: exchange.Response) -> list[Run]:
        runs = [*last, *read(pages, response)]
        last[:] = runs[-5:]
        return runs

    monkeypatch.setattr(pages.Pages, "read", shifted)
    run_ids = flora.start_runs(250)
    async with Waits(flora) as waits:
        runs = [await task for task in waits.add(run_ids)]
    assert [run.run_id for run in runs] == run_ids


@pytest.mark.parametrize("fits", [70, 8, 1])
async def test_a_page_that_is_too_large_is_asked_for_in_smaller_pieces(
    flora: Flora, monkeypatch: pytest.MonkeyPatch, fits: int
) -> None:
    run_ids = flora.running(60 if fits > 1 else 12)
    one = len(flora.call("GET", f"/techniques/{STILL}/runs/{run_ids[0]}").content) + 150
    monkeypatch.setattr(answers, "MAX_ANSWER_BYTES", 300 + fits * one)
    async with Waits(flora) as waits:
        waits.add(run_ids, interval=INTERVAL)
        await waits.all_seen(len(run_ids))
        await Cycles(flora, INTERVAL).count(15)  # until the size of pages has settled
        cycles, asked = await Cycles(flora, INTERVAL).count(15)
        assert waits.reported == []
        # Pages of one run are dearer than single polls.
        assert fits == 1 or asked[POLLS] <= cycles * len(run_ids) / 4


async def test_one_huge_run_makes_no_other_page_small(flora: Flora, monkeypatch: pytest.MonkeyPatch) -> None:
    read_all = answers.Body.add
    run_ids = flora.running(100)
    huge = run_ids[50].encode()

    def add(body: Any, chunk: bytes) -> None:
        read_all(body, chunk)
        if huge in chunk and chunk.count(b'"run_id"') > 1:
            raise FloraAnswerSizeError(answers.MAX_ANSWER_BYTES)

    monkeypatch.setattr(answers.Body, "add", add)
    async with Waits(flora) as waits:
        waits.add(run_ids, interval=INTERVAL)
        await waits.all_seen(100)
        await until(lambda: waits.watcher._history.page_size > 1)
        cycles, asked = await Cycles(flora, INTERVAL).count(60)
        assert asked.total() <= 40 * cycles
        assert waits.reported == []
