"""What a triggerer shows of its waits in Airflow's metrics."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from airflow_provider_flora import airflow_compat
from airflow_provider_flora.runs import watching
from tests.statsd_receiver import StatsdReceiver
from tests.unit.runs.watching_flora import Flora, Waits, quiet, until

WAITS, CYCLE, LATENESS = (f"flora.watcher.{name}" for name in ("waits", "cycle_seconds", "lateness"))


async def test_the_gauges_follow_the_waits_and_end_at_nothing(flora: Flora, statsd: StatsdReceiver) -> None:
    async with Waits(flora) as waits:
        waits.add(flora.running(3), interval=0.5)
        await until(lambda: statsd.values(WAITS)[-1:] == [3])
        added = waits.add(flora.running(2), interval=0.5)
        await until(lambda: statsd.values(WAITS)[-1] == 5)
        await waits.cancel(*added)
        # Between two cycles: only Flora counts a request that is cancelled.
        await until(lambda: statsd.values(WAITS)[-1] == 3 and waits.watcher._sleeps_until > time.monotonic())
    await quiet()
    assert [statsd.values(name)[-1] for name in (WAITS, CYCLE, LATENESS)] == [0, 0, 0]
    assert {sample.tags[0] for sample in statsd.samples if sample.name == WAITS} == {"conn_id=flora_default"}
    counted = {name: count for name, count in statsd.counts("flora.requests").items() if count}
    assert sum(counted.values()) == sum(flora.ledger()["requests"].values())


async def test_a_cycle_takes_as_long_as_its_requests(flora: Flora, statsd: StatsdReceiver) -> None:
    flora.order_fault("delay", seconds=0.5, operation="getTechniqueRun", times=None)
    async with Waits(flora) as waits:
        waits.add(flora.running(1))
        await until(lambda: max(statsd.values(CYCLE), default=0) >= 0.5)
    assert all(value >= 0 for value in statsd.values(LATENESS))


async def test_a_loop_that_something_else_blocks_makes_the_cycle_late(flora: Flora, statsd: StatsdReceiver) -> None:
    async with Waits(flora) as waits:
        waits.add(flora.running(1), interval=0.1)
        await until(lambda: statsd.values(CYCLE)[1:])
        time.sleep(1.0)  # what no trigger may do
        await until(lambda: max(statsd.values(LATENESS)) >= 0.5)


async def test_a_loop_is_not_blocked_while_the_hosts_are_looked_up(
    flora: Flora, statsd: StatsdReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up = asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow_lookup() -> str:
        loop.call_soon_threadsafe(looked_up.set)
        time.sleep(1.0)
        return "here"

    monkeypatch.setattr(airflow_compat, "get_hostname", slow_lookup, raising=False)
    async with Waits(flora) as waits:
        waits.add(flora.running(1))
        await looked_up.wait()
        assert statsd.values(WAITS) == []  # the loop goes on, and the lookup too
        await until(lambda: statsd.values(WAITS)[-1:] == [1])


async def test_while_metrics_are_off_there_are_no_gauges(flora: Flora, monkeypatch: pytest.MonkeyPatch) -> None:
    def unexpected(*_: Any) -> Any:
        raise AssertionError("gauges were made")

    monkeypatch.setattr(watching.metrics, "WatcherGauges", unexpected)
    async with Waits(flora) as waits:
        waits.add(flora.running(1))
        await waits.all_seen(1)
