"""Waits begin, end, are cancelled and time out; nothing of them stays."""

from __future__ import annotations

import asyncio
import contextvars
import gc
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest

from airflow_provider_flora.api import waiting
from airflow_provider_flora.api.errors import (
    FloraAPIError,
    FloraConnectionError,
    FloraInternalError,
    FloraParameterError,
    FloraRunTimeoutError,
)
from airflow_provider_flora.api.models import Run
from airflow_provider_flora.runs import gate, watching
from tests.unit.loop_tasks import quiet, tasks_left
from tests.unit.runs.watching_flora import STILL, TEXT, Flora, Waits, until

pytestmark = pytest.mark.usefixtures("fast_clocks")


def alive(*kinds: type[Any]) -> int:
    # Not isinstance: asked for its class, a lazy proxy of another library imports what it stands for.
    return sum(type(thing) in kinds for thing in gc.get_objects())


KINDS = (watching.Watcher, watching.Wait, gate.Gate, aiohttp.ClientSession)


@pytest.fixture(scope="module", autouse=True)
def _only_new_objects_are_searched() -> Iterator[None]:
    """All modules and tests of this process are a million objects: to search them takes a second."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _nothing_is_left_alive(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for log in (watching.log, gate.log):  # pytest keeps records, and with them errors and frames
        monkeypatch.setattr(log, "disabled", True)
    before = alive(*KINDS)
    yield
    for _ in range(5):  # an old pytest-asyncio closes a loop before its last task has ended: that takes two rounds
        if alive(*KINDS) <= before:
            break
        gc.collect()
    assert alive(*KINDS) <= before


async def assert_all_is_quiet() -> None:
    await quiet()
    assert not tasks_left()
    assert not watching._watchers.get(asyncio.get_running_loop())


async def test_the_last_wait_takes_the_watcher_with_it(flora: Flora) -> None:
    async with Waits(flora) as waits:
        runs = await asyncio.gather(*waits.add(flora.start_runs(8)))
        assert len(runs) == 8
        await assert_all_is_quiet()


async def test_a_cancelled_wait_leaves_the_others(flora: Flora) -> None:
    async with Waits(flora) as waits:
        gone, stays = waits.add(flora.start_runs(2))
        await asyncio.sleep(0.1)
        await waits.cancel(gone)
        assert (await stays).completed
        await assert_all_is_quiet()


async def test_all_waits_can_be_cancelled_in_the_middle_of_a_walk(flora: Flora) -> None:
    run_ids = flora.running(150)
    flora.order_fault("slow_list", seconds=0.5, times=None)
    async with Waits(flora) as waits:
        waits.add(run_ids)
        await until(lambda: flora.requests_since()["listTechniqueRuns"] == 1)
    await assert_all_is_quiet()


async def test_a_wait_cancelled_in_the_middle_of_a_walk_is_left_alone(flora: Flora) -> None:
    run_ids = flora.start_runs(20)
    flora.order_fault("slow_list", seconds=0.5, times=None)
    flora.mark()
    async with Waits(flora) as waits:
        tasks = waits.add(run_ids)
        await until(lambda: flora.requests_since()["listTechniqueRuns"] == 1)
        await waits.cancel(*tasks[:15])
        assert all(run.completed for run in await asyncio.gather(*tasks[15:]))
    await assert_all_is_quiet()


async def test_waits_cancelled_before_they_began_leave_nothing(flora: Flora) -> None:
    async with Waits(flora) as waits:
        waits.add(flora.running(3))
        await asyncio.sleep(0)
    await assert_all_is_quiet()
    assert flora.requests_since().total() == 0


@pytest.mark.parametrize("steps", range(8))
async def test_a_watcher_that_was_woken_and_cancelled_at_once_ends(flora: Flora, steps: int) -> None:
    first, second = flora.running(2)
    async with Waits(flora) as waits:
        waits.add([first], interval=60.0)
        await asyncio.sleep(0.1)
        waits.add([second], interval=0.01)
        for _ in range(steps):
            await asyncio.sleep(0)
    await assert_all_is_quiet()


async def test_five_thousand_registrations_and_cancellations_leave_nothing(flora: Flora) -> None:
    run_ids = flora.running(50)
    async with Waits(flora) as keep:
        keep.add(flora.running(2, TEXT), TEXT)
        async with Waits(flora) as waits:
            for _ in range(100):
                added = waits.add(run_ids, interval=0.05)
                await asyncio.sleep(0.002)
                await waits.cancel(*added)
                waits.tasks.clear()
        del added
        await until(
            lambda: gc.collect() >= 0 and alive(watching.Wait) == 2
        )  # a walk under way remembers whom it is for
        assert alive(watching.Watcher) == 1
        assert len(keep.watcher._waits) == 2
    await assert_all_is_quiet()


async def test_watchers_that_come_and_go_leave_nothing(flora: Flora) -> None:
    [run_id] = flora.running(1)
    for _ in range(200):
        async with Waits(flora) as waits:
            waits.add([run_id], interval=0.01)
            await asyncio.sleep(0.001)
    await assert_all_is_quiet()


async def test_a_wait_after_the_last_one_begins_again(flora: Flora) -> None:
    for run_id in flora.start_runs(3):
        async with Waits(flora) as waits:
            [wait] = waits.add([run_id])
            assert (await wait).completed


async def test_a_wait_that_begins_while_the_last_watcher_closes_gets_its_own(flora: Flora) -> None:
    first, second = flora.running(1)[0], flora.start_runs(1)[0]
    async with Waits(flora) as waits:
        [gone] = waits.add([first])
        await asyncio.sleep(0.1)
        former = waits.watcher
        gone.cancel()
        [wait] = waits.add([second])
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert waits.watcher is not former
        assert (await wait).completed


async def test_each_wait_has_its_own_deadline(flora: Flora) -> None:
    first, second = flora.running(1)[0], flora.start_runs(1)[0]
    async with Waits(flora) as waits:
        [short] = waits.add([first], timeout=0.2)
        [long] = waits.add([second])
        with pytest.raises(FloraRunTimeoutError):
            await short
        assert (await long).completed


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "outage", "seconds": 60},
        {"kind": "delay", "seconds": 20.0, "times": None},
        {"kind": "status", "status": 429, "retry_after": 200, "times": None},
        {"kind": "status", "status": 503, "times": None},
    ],
    ids=lambda fault: str(fault["kind"]),
)
@pytest.mark.parametrize("count", [1, 30])
async def test_a_deadline_holds_with_any_behaviour_of_flora(fault: dict[str, Any], count: int) -> None:
    with Flora() as flora:  # of its own, which late answers end with
        run_ids = flora.running(count)
        flora.order_fault(**fault)
        async with Waits(flora) as waits:
            tasks = waits.add(run_ids, timeout=0.4)
            ended = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 15)
    assert {type(error) for error in ended} == {FloraRunTimeoutError}
    await assert_all_is_quiet()


@pytest.mark.parametrize("interval", [0.4, 3600.0])
@pytest.mark.parametrize("timeout", [0.3, 0.0, -60.0])
async def test_a_wait_polls_its_run_once_however_short_its_time(
    flora: Flora, monkeypatch: pytest.MonkeyPatch, timeout: float, interval: float
) -> None:
    monkeypatch.setattr(watching, "FIRST_POLL_GRACE", 60.0)
    run_ids = flora.seed_runs(3, status="completed")
    async with Waits(flora) as waits:
        tasks = waits.add(run_ids, interval=interval, timeout=timeout)
        runs = await asyncio.wait_for(asyncio.gather(*tasks), 60)
    assert all(run.completed for run in runs)


async def test_a_wait_that_has_polled_its_run_once_ends_with_its_deadline(
    flora: Flora, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "FIRST_POLL_GRACE", 3600.0)
    async with Waits(flora) as waits:
        [wait] = waits.add(flora.running(1), interval=1e9, timeout=1e6)  # polled at once, and not again
        await waits.all_seen(1)
        waits.let_deadlines_pass()
        with pytest.raises(FloraRunTimeoutError, match=r"within 1e\+06 s \(it is running"):
            await asyncio.wait_for(wait, 60)


async def test_a_completed_run_is_handed_over_at_the_deadline_without_its_price(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(waiting, "COST_GRACE", 3600.0)
    with Flora(run_seconds=0.2, cost_lag=3600.0) as flora:
        async with Waits(flora) as waits:
            [wait] = waits.add(flora.start_runs(1), timeout=1e6)
            await until(lambda: any(run.completed for run in waits.seen))
            waits.let_deadlines_pass()
            run = await asyncio.wait_for(wait, 60)
        assert (run.completed, run.charged_cost) == (True, None)


async def test_what_can_be_no_run_s_id_is_refused_at_once(flora: Flora) -> None:
    async with Waits(flora) as waits:
        [good] = waits.add(flora.start_runs(1))
        [wait] = waits.add([".."])
        with pytest.raises(FloraParameterError, match=r"'\.\.' is not a valid Flora id"):
            await wait
        assert (await good).completed


@pytest.mark.parametrize("place", ["cycle", "ask", "note", "walk", "pace"])
@pytest.mark.parametrize("count", [4, 30])
async def test_a_bug_ends_the_waits_at_once_with_an_error_that_may_be_retried(
    flora: Flora, monkeypatch: pytest.MonkeyPatch, place: str, count: int
) -> None:
    if place == "walk" and count < watching.POLLS_PER_PAGE:
        return

    def broken(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("a bug")

    owner, name = {
        "cycle": (watching.Watcher, "_cycle"),
        "ask": (gate.Gate, "ask"),
        "note": (watching.Watcher, "_apply"),
        "walk": (watching.Watcher, "_read_history"),
        "pace": (gate.Gate, "_take_turn"),
    }[place]
    monkeypatch.setattr(owner, name, broken)
    run_ids = flora.running(count)
    async with Waits(flora) as waits:
        ended = await asyncio.gather(*waits.add(run_ids), return_exceptions=True)
        assert {type(error) for error in ended} == {FloraInternalError}
        assert all("bug in the Flora provider" in str(error) for error in ended)
        assert all(isinstance(error, FloraInternalError) and error.remedy.retryable for error in ended)
        assert [error.run_id for error in ended if isinstance(error, FloraInternalError)] == run_ids
        assert all(isinstance(error.__cause__, RuntimeError) for error in ended if isinstance(error, Exception))
        del ended
        await assert_all_is_quiet()


async def test_a_watcher_that_is_cancelled_from_outside_leaves_no_wait_hanging(flora: Flora) -> None:
    async with Waits(flora) as waits:
        tasks = waits.add(flora.running(3))
        await asyncio.sleep(0.05)
        waits.watcher._task.cancel()
        ended = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 60)
        assert {type(error) for error in ended} == {FloraConnectionError}
    await assert_all_is_quiet()


async def test_changes_are_logged_in_the_context_of_each_wait(flora: Flora) -> None:
    whose = contextvars.ContextVar[str]("whose", default="nobody's")
    reported: dict[str, set[str]] = {}

    async with Waits(flora) as waits:
        run_ids = flora.running(10)
        for run_id in run_ids:
            whose.set(run_id)
            waits.add([run_id])

        def changed(run: Run) -> None:
            reported.setdefault(run.run_id, set()).add(whose.get())

        waits.changed = changed  # type: ignore[method-assign]
        await until(lambda: len(reported) == 10)
    assert reported == {run_id: {run_id} for run_id in run_ids}


async def test_an_error_in_the_telling_is_the_wait_s_own(flora: Flora) -> None:
    class Deaf(Waits):
        def changed(self, run: Run) -> None:
            raise ValueError("cannot be logged")

    first, second = flora.start_runs(2)
    async with Waits(flora) as waits:
        [bad] = waits.add([first], listener=Deaf(flora))
        [good] = waits.add([second])
        with pytest.raises(FloraInternalError, match="ValueError: cannot be logged"):
            await bad
        assert (await good).completed


async def test_a_change_is_logged_once(flora: Flora) -> None:
    async with Waits(flora) as waits:
        waits.add(flora.running(1), interval=0.05)
        flora.mark()
        await until(lambda: flora.requests_since().total() >= 5)
        assert len(waits.seen) == 1


async def test_connections_do_not_share_a_watcher(flora: Flora) -> None:
    with Flora(run_seconds=0.3, cost_lag=0.0) as other:
        async with Waits(flora) as ours, Waits(other, "flora_other") as theirs:
            tasks = ours.add(flora.start_runs(1)) + theirs.add(other.start_runs(1))
            assert all(run.completed for run in await asyncio.gather(*tasks))


def test_event_loops_do_not_share_a_watcher(flora: Flora) -> None:
    async def wait() -> Run:
        async with Waits(flora) as waits:
            [run] = await asyncio.gather(*waits.add(flora.start_runs(1)))
            return run

    assert asyncio.run(wait()).completed
    assert asyncio.run(wait()).completed


def test_a_loop_that_was_closed_over_its_waits_does_not_harm_the_next(flora: Flora) -> None:
    async def leave() -> None:
        Waits(flora).add(flora.running(2))
        await asyncio.sleep(0.1)

    asyncio.run(leave())
    test_event_loops_do_not_share_a_watcher(flora)


async def test_a_run_that_does_not_exist_ends_its_own_wait_only(
    flora: Flora, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "REFUSAL_CONFIRMED_AFTER", 0.5)
    async with Waits(flora) as waits:
        [missing] = waits.add(["run_unknown"], STILL)
        [there] = waits.add(flora.start_runs(1))
        assert (await there).completed
        with pytest.raises(FloraAPIError, match="404") as caught:
            await missing
        assert caught.value.run_id == "run_unknown"
        assert caught.value.remedy.retryable
