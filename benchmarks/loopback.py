"""Servers on this machine, each in a process of its own, and what is measured of the process that waits."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
API_KEY = "sk_test_emulator"
# Neither system's log lines are measured, and nothing of this machine's own Airflow is used.
os.environ["AIRFLOW__LOGGING__LOGGING_LEVEL"] = "ERROR"
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1"
_ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+")
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Server:
    """A server process that prints its address first; a context manager.

    :param module: what to run with this Python, and its arguments.
    """

    def __init__(self, module: str, *arguments: str) -> None:
        self._command = [sys.executable, "-m", module, *arguments]

    def __enter__(self) -> Server:
        self._process = subprocess.Popen(
            self._command,
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if found := _ADDRESS.search(line):
                self.origin = found.group()
                return self
        raise RuntimeError(f"{' '.join(self._command)} did not start")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait(timeout=10)

    def call(self, path: str, order: Any = None) -> Any:
        """Read one of its control endpoints, or give it an order."""
        body = None if order is None else json.dumps(order).encode()
        with _DIRECT.open(urllib.request.Request(self.origin + path, data=body), timeout=120) as answer:
            return json.load(answer)


class Emulator(Server):
    """Flora's emulator; it has the techniques ``tech_bench-0`` up to ``techniques`` beside its own."""

    def __init__(self, run_seconds: float, *options: str, techniques: int = 0) -> None:
        given = (str(techniques), "--port", "0", "--run-seconds", str(run_seconds), *options)
        super().__init__("benchmarks.many_techniques", *given)

    def ledger(self) -> dict[str, Any]:
        """Requests, answers and connections so far."""
        ledger: dict[str, Any] = self.call("/_emulator/ledger?runs=0")
        return ledger

    def connection(self) -> str:
        """The Airflow connection to it."""
        return json.dumps({"conn_type": "flora", "password": API_KEY, "host": f"{self.origin}/api/v1"})


async def start_runs(server: Server, count: int, techniques: Sequence[str] = ("editorial-still",)) -> list[str]:
    """Start runs of one technique after the other, eight at a time, and return them in the order of starting."""
    import aiohttp

    body = {"inputs": [{"id": "prompt", "type": "text", "value": "A red sneaker"}], "mode": "async"}
    headers = {"Authorization": f"Bearer {API_KEY}"}
    todo = iter(range(count))
    run_ids = [""] * count

    async def work(session: aiohttp.ClientSession) -> None:
        for place in todo:
            url = f"{server.origin}/api/v1/techniques/{techniques[place % len(techniques)]}/runs"
            async with session.post(url, json=body) as answer:
                answer.raise_for_status()
                run_ids[place] = (await answer.json())["run_id"]

    async with aiohttp.ClientSession(headers=headers) as session:
        await asyncio.gather(*(work(session) for _ in range(8)))
    return run_ids


class Lateness:
    """How late a task wakes that sleeps 10 ms at a time: what every other trigger in the process feels."""

    _PAUSE = 0.01

    def __init__(self) -> None:
        self._late: list[float] = []
        self._task = asyncio.ensure_future(self._sleep())

    async def _sleep(self) -> None:
        while True:
            begun = time.perf_counter()
            await asyncio.sleep(self._PAUSE)
            self._late.append(time.perf_counter() - begun - self._PAUSE)

    def stop(self) -> float:
        """End it; give the 99th percentile in milliseconds."""
        self._task.cancel()
        return 1000 * percentile(self._late, 99)


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that the given percentage of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def report(result: dict[str, Any]) -> None:
    """Print a result, for a person and for ``run_all.py``, which reads the last line."""
    print(json.dumps(result), flush=True)
