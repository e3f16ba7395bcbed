"""429, outages, poison and refused lists: the watcher slows down as a whole, and no wait is lost."""

from __future__ import annotations

import asyncio
import contextvars
import time
from typing import Any

import pytest

from airflow_provider_flora.api import retries, waiting
from airflow_provider_flora.api.aio import AsyncFloraClient
from airflow_provider_flora.api.errors import FloraError, FloraRunTimeoutError
from airflow_provider_flora.api.exchange import Request, Response
from airflow_provider_flora.runs import gate, watching
from tests.unit.runs.watching_flora import LISTS, POLLS, STILL, TEXT, Flora, Waits, until

pytestmark = pytest.mark.usefixtures("fast_clocks")
SPACING_AFTER_PAUSE = gate.SPACING_AFTER_PAUSE


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When each request was sent."""
    times: list[float] = []
    exchange = AsyncFloraClient._exchange

    async def timed(client: AsyncFloraClient, request: Request) -> Response:
        times.append(time.monotonic())
        return await exchange(client, request)

    monkeypatch.setattr(AsyncFloraClient, "_exchange", timed)
    return times


@pytest.mark.parametrize("retry_after", [True, False])
async def test_a_rate_limit_slows_all_down_until_nothing_is_refused(
    flora: Flora, monkeypatch: pytest.MonkeyPatch, retry_after: bool
) -> None:
    monkeypatch.setattr(retries, "FIRST_BACKOFF_RATE_LIMITED", 0.3)
    monkeypatch.setattr(gate, "BASE_SPACING", 0.07)
    limit = {"kind": "rate_limit", "per_second": 10, "retry_after": retry_after, "operation": LISTS}
    async with Waits(flora) as waits:
        # More is due than the limit allows: a page for each of twenty intervals a second.
        waits.add(flora.running(20), interval=0.05)
        await waits.all_seen(20)
        flora.order_fault(**limit)
        flora.mark()
        await until(lambda: waits.watcher._gate._spacing >= 1 / 10)  # it has settled
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


async def test_one_429_pauses_all_for_as_long_as_it_asks(flora: Flora, sent: list[float]) -> None:
    async with Waits(flora) as waits:
        waits.add(flora.running(20), interval=0.1)
        waits.add(flora.running(3, TEXT), TEXT, interval=0.1)
        await waits.all_seen(23)
        flora.order_fault("status", status=429, retry_after=1)
        await until(lambda: waits.watcher._gate._paused_until > 0)
        ends = waits.watcher._gate._paused_until
        await until(lambda: sum(at >= ends for at in sent) >= 4)
        assert not any(ends - 1 < at < ends for at in sent)


async def test_a_pause_is_no_longer_than_is_reasonable(flora: Flora) -> None:
    async with Waits(flora) as waits:
        waits.add(flora.running(1), interval=0.1)
        flora.order_fault("status", status=429, retry_after=86400)
        await until(lambda: flora.responses_since()["429"] >= 1)
        await asyncio.sleep(0.1)
        assert waits.watcher._gate._paused_until <= time.monotonic() + retries.MAX_RETRY_AFTER


@pytest.mark.parametrize("count", [4, 150])
async def test_an_outage_delays_all_and_loses_none(flora: Flora, count: int) -> None:
    run_ids = flora.start_runs(count)
    flora.order_fault("outage", seconds=60.0)
    flora.mark()
    async with Waits(flora) as waits:
        tasks = waits.add(run_ids)
        await asyncio.sleep(0.9)
        assert flora.requests_since().total() <= 20
        flora.clear_faults()
        runs = await asyncio.gather(*tasks)
    assert all(run.completed for run in runs)


@pytest.mark.parametrize("count", [300, 40])
async def test_the_end_of_an_outage_brings_no_stampede(
    flora: Flora, monkeypatch: pytest.MonkeyPatch, sent: list[float], count: int
) -> None:
    monkeypatch.setattr(gate, "SPACING_AFTER_PAUSE", SPACING_AFTER_PAUSE)
    async with Waits(flora) as waits:
        for technique_id in (STILL, TEXT, "tech_press-kit", "tech_wonder-fy"):
            waits.add(flora.running(count // 4, technique_id), technique_id)
        await waits.all_seen(count)
        fault = {"kind": "status", "status": 503, "times": None}
        flora.order_fault(**fault)
        flora.mark()
        await until(lambda: flora.responses_since()["503"] >= 6)
        flora.clear_faults()
        await until(lambda: not waits.watcher._gate.failures)
        ends = waits.watcher._gate._careful_until
        await until(lambda: time.monotonic() >= ends)
        # On a busy machine some are sent a moment after their turn.
        assert 0 < sum(ends - 1 <= at < ends for at in sent) <= 10 + gate.CONCURRENCY


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
async def test_without_a_history_runs_are_polled_singly(flora: Flora, fault: dict[str, Any]) -> None:
    run_ids = flora.start_runs(30)
    flora.order_fault(**fault, operation=LISTS, times=None)
    async with Waits(flora) as waits:
        runs = await asyncio.wait_for(asyncio.gather(*waits.add(run_ids)), 15)
    assert all(run.completed for run in runs)
    # Two walks of three attempts; aiohttp retries a connection that was reset. Too large a page gets smaller.
    assert flora.requests_since()[LISTS] <= (60 if fault["kind"] == "oversize" else 12)


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


@pytest.mark.parametrize("fault", [{"kind": "status", "status": 502}, {"kind": "html", "status": 403}], ids=str)
async def test_a_transient_error_of_the_history_costs_one_retry(
    flora: Flora, caplog: pytest.LogCaptureFixture, fault: dict[str, Any]
) -> None:
    async with Waits(flora) as waits:
        waits.add(flora.running(60))
        await waits.all_seen(60)
        flora.mark()
        flora.order_fault(**fault, operation=LISTS)
        await until(lambda: flora.responses_since()[str(fault["status"])] and flora.requests_since()[LISTS] >= 4)
        assert flora.responses_since()[str(fault["status"])] == 1
        assert flora.requests_since()[POLLS] < 60  # on a busy machine a few may be due on their own
    assert "Could not read the run history" not in caplog.text


async def test_a_rejected_key_is_not_blamed_on_the_history(flora: Flora) -> None:
    async with Waits(flora) as waits:
        waits.add(flora.running(60))
        await waits.all_seen(60)
        flora.order_fault("status", status=401, times=2)
        await until(lambda: flora.responses_since()["401"] >= 2)
        await asyncio.sleep(0.1)
        flora.mark()
        await until(lambda: flora.requests_since()[LISTS] >= 3)
        assert flora.requests_since()[POLLS] <= 2 + watching.POLLS_PER_PAGE


async def test_a_refused_history_is_asked_again_later(flora: Flora, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "HISTORY_REST", 0.3)
    flora.order_fault("status", status=403, operation=LISTS)
    async with Waits(flora) as waits:
        waits.add(flora.running(12))
        await until(lambda: flora.requests_since()[LISTS] >= 3)
        assert flora.requests_since()[POLLS] >= 12


async def test_a_refusal_that_stays_ends_its_own_wait_only(flora: Flora, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "REFUSAL_CONFIRMED_AFTER", 0.5)
    forbidden, *others = flora.start_runs(4)
    flora.order_fault("status", status=403, operation=POLLS, contains=forbidden, times=None)
    async with Waits(flora) as waits:
        [bad] = waits.add([forbidden])
        runs = await asyncio.gather(*waits.add(others))
        assert all(run.completed for run in runs)
        with pytest.raises(FloraError, match="403") as caught:
            await bad
        assert caught.value.remedy.retryable


@pytest.mark.parametrize("count", [5, 40])
@pytest.mark.parametrize(
    "fault",
    [
        *({"kind": "status", "status": status} for status in (400, 401, 403, 404, 410)),
        *({"kind": "html", "status": status} for status in (401, 403, 404, 407)),
        {"kind": "redirect"},
        {"kind": "oversize"},
    ],
    ids=lambda fault: f"{fault['kind']}-{fault.get('status', '')}",
)
async def test_an_answer_that_is_no_run_s_own_end_ends_no_wait(
    flora: Flora, fault: dict[str, Any], count: int
) -> None:
    run_ids = flora.running(count)
    async with Waits(flora) as waits:
        tasks = waits.add(run_ids)
        await waits.all_seen(count)
        flora.order_fault(**fault, times=3)
        flora.mark()
        await until(lambda: flora.requests_since().total() > 2 * count)
        assert not any(task.done() for task in tasks)


async def test_a_wait_logs_an_outage_and_its_end_once(flora: Flora) -> None:
    run_ids = flora.running(30)
    async with Waits(flora) as waits:
        tasks = waits.add(run_ids)
        await waits.all_seen(30)
        flora.order_fault(kind="status", status=503, times=None)
        await until(lambda: len(waits.reported) >= 30)
        late = waits.add(flora.running(1))  # one that begins meanwhile logs it too
        await until(lambda: len(waits.reported) >= 31)
        flora.clear_faults()
        await until(lambda: len(waits.reported) >= 62)
        await asyncio.sleep(0.2)
        assert not any(task.done() for task in tasks + late)
    interrupted, recovered = waits.reported[:31], waits.reported[31:]
    assert {kind for kind, _ in interrupted} == {"interrupted"}
    assert all("Flora answered 503" in why for _, why in interrupted)
    assert {run_id for _, run_id in recovered} == {run.run_id for run in waits.seen}


async def test_each_wait_logs_an_outage_in_its_own_context(flora: Flora) -> None:
    whose = contextvars.ContextVar[str]("whose", default="nobody's")
    reported: list[str] = []

    class Listener(Waits):
        def interrupted(self, error: FloraError, seconds_left: float) -> None:
            reported.append(whose.get())

    async with Waits(flora) as waits:
        run_ids = flora.running(10)
        for run_id in run_ids:
            whose.set(run_id)
            waits.add([run_id], listener=Listener(flora))
        flora.order_fault(kind="reset", times=None)
        await until(lambda: len(reported) == 10)
    assert sorted(reported) == sorted(run_ids)


@pytest.mark.parametrize(("retry_after", "reported"), [(1, 0), (200, 20)])
async def test_only_a_long_pause_that_flora_asks_for_is_logged(
    flora: Flora, retry_after: int, reported: int
) -> None:
    async with Waits(flora) as waits:
        waits.add(flora.running(20))
        await waits.all_seen(20)
        flora.order_fault("status", status=429, retry_after=retry_after)
        await until(lambda: flora.responses_since()["429"] == 1 and len(waits.reported) >= reported)
        await asyncio.sleep(0.3)
        assert len(waits.reported) == reported


@pytest.mark.parametrize("count", [1, 30])
async def test_a_timeout_names_what_kept_the_run_from_being_polled(flora: Flora, count: int) -> None:
    async with Waits(flora) as waits:
        tasks = waits.add(flora.running(count), timeout=1000.0)
        await waits.all_seen(count)
        flora.order_fault("html", status=502, times=None)
        await until(lambda: waits.watcher._gate.trouble)
        waits.let_deadlines_pass()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(error) for error in ended} == {FloraRunTimeoutError}
    assert all("within 1000 s (it is running" in str(error) for error in ended)
    assert all("The last polls failed: Flora answered 502" in str(error) for error in ended)


async def test_a_timeout_names_no_outage_that_is_over(flora: Flora) -> None:
    async with Waits(flora) as waits:
        flora.order_fault("status", status=502, times=4)
        tasks = waits.add(flora.running(4), timeout=1000.0)
        await waits.all_seen(4)
        assert flora.responses_since()["502"] == 4
        waits.let_deadlines_pass()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(error) for error in ended} == {FloraRunTimeoutError}
    assert not any("502" in str(error) for error in ended)
