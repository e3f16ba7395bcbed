"""What becomes of many waits when Flora is slow, crowded or away: ``python -m benchmarks.troubles NAME``.

rate_limit   the server allows 5 requests a second and answers 429 beyond them
foreign      20,000 runs of other techniques lie between those waited for
outage       the server resets every connection for 60 seconds (an outage of 10 minutes, shortened: the longest
             pause between two attempts, 30 s, is reached well before its end); all runs end meanwhile
leaks        5,000 waits are registered and cancelled, 100 at a time
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import time
from collections import Counter
from typing import Any

import psutil

from benchmarks.loopback import Emulator, report, start_runs
from benchmarks.watch import INTERVAL, WARM_UP, WINDOW, first_event

WAITS = 1000
RATE = 5
SETTLING = 20.0
OUTAGE = 60.0


def waits_for(emulator: Emulator, run_ids: list[str]) -> list[asyncio.Task[Any]]:
    """Run a trigger for each run."""
    os.environ["AIRFLOW_CONN_FLORA_DEFAULT"] = emulator.connection()
    from airflow_provider_flora.triggers.flora import FloraTechniqueRunTrigger

    ends = time.time() + 3600
    return [
        asyncio.ensure_future(first_event(FloraTechniqueRunTrigger("tech_editorial-still", run, ends, INTERVAL), 0))
        for run in run_ids
    ]


async def finished(waits: list[asyncio.Task[Any]], timeout: float) -> Counter[str]:
    """Wait for the events; count them by the status of their run."""
    done, pending = await asyncio.wait(waits, timeout=timeout)
    for wait in pending:
        wait.cancel()
    counted = Counter(str(wait.result()[1].get("run", {}).get("status", "no run")) for wait in done)
    if pending:
        counted["still waiting"] = len(pending)
    return counted


async def rate_limit() -> dict[str, Any]:
    """A server that allows 5 requests a second."""
    with Emulator(60.0, "--cost-lag", "0") as emulator:
        run_ids = await start_runs(emulator, WAITS)
        emulator.call("/_emulator/faults", {"kind": "rate_limit", "per_second": RATE})
        waits = waits_for(emulator, run_ids)
        await asyncio.sleep(SETTLING)
        before = Counter(emulator.ledger()["responses"])
        events = await finished(waits, 180)
        settled = Counter(emulator.ledger()["responses"]) - before
        return {
            "waits": WAITS,
            "events": dict(events),
            "requests_settled": settled.total(),
            "refused_settled": settled["429"],
            "refused_before": before["429"],
        }


async def foreign() -> dict[str, Any]:
    """A busy workspace."""
    with Emulator(3600.0) as emulator:
        run_ids: list[str] = []
        for _ in range(40):
            order = {"count": 500, "technique_id": "tagline-writer", "spacing_ms": 0}
            emulator.call("/_emulator/runs", order)
            run_ids += await start_runs(emulator, WAITS // 40)
        waits = waits_for(emulator, run_ids)
        await asyncio.sleep(WARM_UP)
        before = sum(emulator.ledger()["requests"].values())
        await asyncio.sleep(WINDOW)
        asked = sum(emulator.ledger()["requests"].values()) - before
        for wait in waits:
            wait.cancel()
        return {"waits": WAITS, "foreign": 40 * 500, "requests_per_cycle": round(asked * INTERVAL / WINDOW, 1)}


async def outage() -> dict[str, Any]:
    """A server that goes away and comes back."""
    with Emulator(30.0) as emulator:
        waits = waits_for(emulator, await start_runs(emulator, WAITS))
        await asyncio.sleep(WARM_UP)
        before = Counter(emulator.ledger()["requests"])
        emulator.call("/_emulator/faults", {"kind": "outage", "seconds": OUTAGE})
        await asyncio.sleep(OUTAGE)
        at_end = emulator.ledger()["requests"]
        seen: list[tuple[float, int]] = []
        back = time.monotonic()
        while time.monotonic() < back + 60 and not all(wait.done() for wait in waits):
            asked = await asyncio.to_thread(emulator.ledger)
            seen.append((time.monotonic(), sum(asked["requests"].values())))
            await asyncio.sleep(0.05)
        took = time.monotonic() - back
        busiest = max(later - asked for at, asked in seen for then, later in seen if 0 <= then - at <= 1.0)
        return {
            "waits": WAITS,
            "events": dict(await finished(waits, 60)),
            "requests_during": (Counter(at_end) - before).total(),
            "requests_in_busiest_second_after": busiest,
            "all_complete_after_s": round(took, 1),
        }


async def leaks() -> dict[str, Any]:
    """Waits that come and go."""
    import aiohttp

    from airflow_provider_flora.runs import watching

    def left() -> dict[str, int]:
        gc.collect()
        kinds = (watching.Wait, watching.Watcher, aiohttp.ClientSession)
        alive = sum(isinstance(thing, kinds) for thing in gc.get_objects())
        watchers = sum(map(len, watching._watchers.values()))
        return {"tasks": len(asyncio.all_tasks()) - 1, "objects": alive, "watchers": watchers}

    async def rounds(count: int) -> None:
        for _ in range(count):
            waits = waits_for(emulator, run_ids)
            await asyncio.sleep(0.1)
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        await asyncio.sleep(0.5)

    with Emulator(3600.0) as emulator:
        order = {"count": 100, "technique_id": "editorial-still", "status": "running"}
        run_ids = emulator.call("/_emulator/runs", order)["run_ids"]
        await rounds(50)  # what is loaded and cached on first use
        before, rss = left(), psutil.Process().memory_info().rss
        await rounds(50)
        after, rss = left(), psutil.Process().memory_info().rss - rss
        return {"registrations": 5000, "before": before, "after": after, "growth_kb": rss // 1024}


TROUBLES = {"rate_limit": rate_limit, "foreign": foreign, "outage": outage, "leaks": leaks}


def main() -> None:
    """Measure what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=TROUBLES)
    name = parser.parse_args().name
    report({"trouble": name, **asyncio.run(TROUBLES[name]())})


if __name__ == "__main__":
    main()
