"""What metrics cost while Airflow's are off, and while they go to StatsD.

A call beside one of an empty function, and the CPU of 1,000 waits beside the same waits without the calls. All take
turns in one process; a ratio is the median of those of the turns.
"""

from __future__ import annotations

import asyncio
import os
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.loopback import API_KEY, Emulator, report

CALLS = 20_000
WAITS = 1_000
INTERVAL = 1.0
WARM_UP, WINDOW = 1.5, 6.0
ROUNDS = 5


def empty(technique_id: str) -> None:
    """Do nothing."""


def time_call(function: Callable[[str], object]) -> float:
    """Return the nanoseconds of CPU that a call takes."""
    begun = time.process_time_ns()
    for _ in range(CALLS):
        function("editorial-still")
    return (time.process_time_ns() - begun) / CALLS


@contextmanager
def metrics_on(port: int) -> Iterator[None]:
    """Airflow's metrics go to StatsD on this machine."""
    from airflow.sdk.observability.metrics import stats_utils

    from airflow_provider_flora import metrics
    from airflow_provider_flora.airflow_compat import Stats

    settings = {"ON": "True", "HOST": "127.0.0.1", "PORT": str(port), "INFLUXDB_ENABLED": "True"}
    os.environ.update({f"AIRFLOW__METRICS__STATSD_{name}": value for name, value in settings.items()})
    Stats.initialize(factory=stats_utils.get_stats_factory(), export_legacy_names=True)
    metrics._find_stats.cache_clear()
    try:
        yield
    finally:
        os.environ["AIRFLOW__METRICS__STATSD_ON"] = "False"
        Stats.initialize(factory=stats_utils.get_stats_factory(), export_legacy_names=True)
        metrics._find_stats.cache_clear()


@contextmanager
def without_calls() -> Iterator[None]:
    """The client tells nobody of its requests, and has no place to do so."""
    from airflow_provider_flora.api.aio import AsyncFloraClient

    ask = AsyncFloraClient.ask

    async def bare(self: AsyncFloraClient, request: Any, read: Any) -> Any:
        return read(await self._exchange(request))

    AsyncFloraClient.ask = bare  # type: ignore[method-assign]
    try:
        yield
    finally:
        AsyncFloraClient.ask = ask  # type: ignore[method-assign]


async def cpu_of_waits(server: Emulator, run_ids: list[str]) -> float:
    """Return the milliseconds of CPU that this process spends on a cycle of all waits."""
    from airflow_provider_flora.api.settings import ClientSettings
    from airflow_provider_flora.runs.watching import watch

    async def read_settings() -> ClientSettings:
        return ClientSettings(API_KEY, f"{server.origin}/api/v1")

    waits = [
        asyncio.ensure_future(
            watch("flora_default", read_settings, "tech_editorial-still", run, poll_interval=INTERVAL, timeout=600)
        )
        for run in run_ids
    ]
    await asyncio.sleep(WARM_UP)
    begun = time.process_time()
    await asyncio.sleep(WINDOW)
    spent = time.process_time() - begun
    for wait in waits:
        wait.cancel()
    await asyncio.gather(*waits, return_exceptions=True)
    return 1000 * spent / (WINDOW / INTERVAL)


def main() -> None:
    """Measure."""
    from airflow_provider_flora import metrics

    with socket.socket(type=socket.SOCK_DGRAM) as statsd, Emulator(600.0, "--cost-lag", "0") as server:
        statsd.bind(("127.0.0.1", 0))
        port = statsd.getsockname()[1]
        order = {"count": WAITS, "technique_id": "editorial-still", "status": "running", "spacing_ms": 1}
        run_ids: list[str] = server.call("/_emulator/runs", order)["run_ids"]
        calls: dict[str, list[float]] = {"empty": [], "off": [], "on": []}
        metrics.are_on()  # reads Airflow's configuration, once in a process
        waits: dict[str, list[float]] = {"without": [], "off": [], "on": []}
        for _ in range(ROUNDS):
            calls["empty"].append(time_call(empty))
            calls["off"].append(time_call(metrics.count_start))
            with without_calls():
                waits["without"].append(asyncio.run(cpu_of_waits(server, run_ids)))
            waits["off"].append(asyncio.run(cpu_of_waits(server, run_ids)))
            with metrics_on(port):
                calls["on"].append(time_call(metrics.count_start))
                waits["on"].append(asyncio.run(cpu_of_waits(server, run_ids)))
    report(
        {f"call_{name}_ns": round(statistics.median(taken)) for name, taken in calls.items()}
        | {f"waits_{name}_cpu_ms_a_cycle": round(statistics.median(taken), 2) for name, taken in waits.items()}
        | {
            f"waits_{name}_to_without": round(
                statistics.median(one / bare for one, bare in zip(waits[name], waits["without"], strict=True)), 3
            )
            for name in ("off", "on")
        }
        | {"waits": WAITS, "rounds": ROUNDS}
    )


if __name__ == "__main__":
    main()
