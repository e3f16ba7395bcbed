"""What N waiting triggers cost: real trigger objects, as the triggerer runs them, against a local server.

``python -m benchmarks.watch flora 1000`` or ``... dbt 1000``; with ``--memory`` only what a wait holds, with
``--techniques 200`` for runs of 200 techniques.
All triggers begin at once, as after a restart of the triggerer, unless ``--spread`` says over how many seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import statistics
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable
from itertools import cycle
from typing import Any, Protocol

from benchmarks.loopback import Emulator, Lateness, Server, report, start_runs

INTERVAL = 5.0
WARM_UP = 2 * INTERVAL
WINDOW = 4 * INTERVAL
LATENESS_WINDOW = 3 * INTERVAL  # after the other: the task that notes it would count as CPU of the waits
ENDS_WITHIN = 10.0
PATIENCE = 90.0


class System(Protocol):
    """What is measured."""

    server: Server

    async def begin(self, count: int, *, endless: bool) -> None:
        """Make the runs; they end when all has been measured but their events."""

    def triggers(self) -> list[Any]:
        """Make the triggers."""

    def ledger(self) -> tuple[int, int]:
        """Requests and connections so far."""

    def ended_at(self, event: Any) -> float:
        """When the run of an event ended."""


class Flora:
    """This provider."""

    def __init__(self, count: int, spread: float, techniques: int) -> None:
        self._starting = count / 250 + 2
        seconds = (WARM_UP + WINDOW + LATENESS_WINDOW + spread + self._starting) / 0.9
        self.server: Emulator = Emulator(seconds, "--cost-lag", "0", techniques=techniques)
        self._techniques = [f"tech_bench-{number}" for number in range(techniques)] or ["tech_editorial-still"]

    async def begin(self, count: int, *, endless: bool) -> None:
        """Start the runs."""
        os.environ["AIRFLOW_CONN_FLORA_DEFAULT"] = self.server.connection()
        if endless:
            order = {"count": count, "technique_id": "editorial-still", "status": "running", "spacing_ms": 1}
            self._run_ids = self.server.call("/_emulator/runs", order)["run_ids"]
        else:
            self._run_ids = await start_runs(self.server, count, self._techniques)

    def triggers(self) -> list[Any]:
        """Make the triggers."""
        from airflow_provider_flora.triggers.flora import FloraTechniqueRunTrigger

        deadline = time.time() + 3600
        named = zip(cycle(self._techniques), self._run_ids)  # as many as there are runs
        return [FloraTechniqueRunTrigger(technique, run, deadline, INTERVAL) for technique, run in named]

    def ledger(self) -> tuple[int, int]:
        """Requests and connections so far."""
        ledger = self.server.ledger()
        return sum(ledger["requests"].values()), ledger["connections"]

    def ended_at(self, event: Any) -> float:
        """When the run of an event ended."""
        return float(event["run"]["completed_at"] / 1000)


class DbtCloud:
    """dbt Cloud's provider."""

    def __init__(self, count: int, spread: float, techniques: int) -> None:
        self._spread = spread
        self.server = Server("benchmarks.dbt_cloud_server")

    async def begin(self, count: int, *, endless: bool) -> None:
        """Make the runs."""
        from airflow.providers.dbt.cloud.hooks.dbt import DbtCloudHook

        # Its URLs are https always; the local server speaks plain http. Nothing else is changed.
        url_params = DbtCloudHook.get_request_url_params

        def plain(*args: Any, **kwargs: Any) -> Any:
            url, params = url_params(*args, **kwargs)
            return url.replace("https://", "http://"), params

        DbtCloudHook.get_request_url_params = staticmethod(plain)
        host = self.server.origin.removeprefix("http://")
        os.environ["AIRFLOW_CONN_DBT_CLOUD_DEFAULT"] = f"dbt-cloud://1:key@{host.replace(':', '%3A')}"
        after = 3600 if endless else WARM_UP + WINDOW + LATENESS_WINDOW + self._spread + 2
        order = {"count": count, "after": after, "spread": ENDS_WITHIN}
        self._ends = {int(run_id): ends for run_id, ends in self.server.call("/_bench/runs", order)}

    def triggers(self) -> list[Any]:
        """Make the triggers."""
        from airflow.providers.dbt.cloud.triggers.dbt import DbtCloudRunJobTrigger

        deadline = time.time() + 3600
        return [
            DbtCloudRunJobTrigger(
                conn_id="dbt_cloud_default", run_id=run, end_time=deadline, poll_interval=INTERVAL, account_id=1
            )
            for run in self._ends
        ]

    def ledger(self) -> tuple[int, int]:
        """Requests and connections so far."""
        ledger = self.server.call("/_bench/ledger")
        return ledger["requests"], ledger["connections"]

    def ended_at(self, event: Any) -> float:
        """When the run of an event ended."""
        if event["status"] != "success":
            raise RuntimeError(f"a wait failed: {event}")
        return self._ends[event["run_id"]]


SYSTEMS: dict[str, Callable[[int, float, int], System]] = {"flora": Flora, "dbt": DbtCloud}


async def first_event(trigger: Any, delay: float) -> Any:
    """Run a trigger as the triggerer does; give the time of its event, and the event."""
    await asyncio.sleep(delay)
    events: AsyncIterator[Any] = trigger.run()
    async for event in events:
        return time.time(), event.payload
    raise RuntimeError("a trigger ended without an event")


def begin_waits(system: System, spread: float) -> list[asyncio.Task[Any]]:
    """Run all triggers."""
    triggers = system.triggers()
    return [
        asyncio.ensure_future(first_event(trigger, spread * place / len(triggers)))
        for place, trigger in enumerate(triggers)
    ]


async def measure(system: System, count: int, spread: float) -> dict[str, Any]:
    """Measure the cost of waiting, then how soon events come."""
    await system.begin(count, endless=False)
    waits = begin_waits(system, spread)
    await asyncio.sleep(spread + WARM_UP)
    requests, connections = await asyncio.to_thread(system.ledger)
    begun, cpu = time.monotonic(), time.process_time()
    await asyncio.sleep(WINDOW)
    seconds, cpu = time.monotonic() - begun, time.process_time() - cpu
    requests_after, connections_after = await asyncio.to_thread(system.ledger)
    lateness = Lateness()
    await asyncio.sleep(LATENESS_WINDOW)
    late = lateness.stop()
    early = sum(wait.done() for wait in waits)
    requests_before_end, _ = await asyncio.to_thread(system.ledger)
    cycles = seconds / INTERVAL
    done, pending = await asyncio.wait(waits, timeout=PATIENCE)
    delays = [at - system.ended_at(event) for at, event in (wait.result() for wait in done)]
    for wait in pending:
        wait.cancel()
    requests_end, _ = await asyncio.to_thread(system.ledger)
    return {
        "requests_per_cycle": round((requests_after - requests) / cycles, 1),
        # One connection of those counted is that of reading the ledger.
        "connections_per_minute": round((connections_after - connections - 1) * 60 / seconds, 1),
        "cpu_ms_per_run_and_cycle": round(1000 * cpu / count / cycles, 4),
        "late_ms_p99": round(late, 1),
        "event_delay_median_s": round(statistics.median(delays), 2) if delays else None,
        "events": len(delays),
        "ended_in_window": early,
        "requests_while_ending": requests_end - requests_before_end,
    }


async def measure_memory(system: System, count: int) -> dict[str, Any]:
    """Measure the memory of a wait between two polls."""
    await system.begin(count, endless=True)
    warm = begin_waits(system, 0)[:1]  # what is loaded on first use is no wait's own
    await asyncio.sleep(1)
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    await asyncio.gather(*warm, return_exceptions=True)
    await asyncio.sleep(1)
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    waits = begin_waits(system, 0)
    await asyncio.sleep(3 * INTERVAL)
    sizes = []
    for _ in range(20):
        await asyncio.sleep(INTERVAL / 20)
        gc.collect()
        sizes.append(tracemalloc.get_traced_memory()[0] - before)
    for wait in waits:
        wait.cancel()
    await asyncio.gather(*waits, return_exceptions=True)
    return {"memory_kb_per_wait": round(statistics.median(sizes) / count / 1024, 2)}


def main() -> None:
    """Measure what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("system", choices=SYSTEMS)
    parser.add_argument("waits", type=int)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--spread", type=float, default=0.0, help="seconds over which the waits begin")
    parser.add_argument("--techniques", type=int, default=0, help="whose runs they are; default: one")
    options = parser.parse_args()
    system = SYSTEMS[options.system](options.waits, options.spread, options.techniques)
    with system.server:
        if options.memory:
            measured = asyncio.run(measure_memory(system, options.waits))
        else:
            measured = asyncio.run(measure(system, options.waits, options.spread))
    report(
        {
            "system": options.system,
            "waits": options.waits,
            "spread": options.spread,
            "techniques": options.techniques,
            **measured,
        }
    )


if __name__ == "__main__":
    main()
