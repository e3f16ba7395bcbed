"""Helpers of the tests of the watcher: create runs, wait for them, read the ledger."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import requests

from airflow_provider_flora.api.errors import FloraError
from airflow_provider_flora.api.models import Run
from airflow_provider_flora.api.settings import ClientSettings
from airflow_provider_flora.api.waiting import WaitListener
from airflow_provider_flora.emulator import Emulator
from airflow_provider_flora.emulator.state import catalogue
from airflow_provider_flora.runs import watching
from tests.unit.loop_tasks import quiet

LISTS, POLLS = "listTechniqueRuns", "getTechniqueRun"
INTERVAL = 0.1
STILL = "tech_editorial-still"
TEXT = "tech_tagline-writer"
[_LIKE] = [technique for technique in catalogue.TECHNIQUES if technique.technique_id == STILL]
MORE = tuple(replace(_LIKE, slug=f"more-{number}", technique_id=f"tech_more-{number}") for number in range(1000))


class Flora(Emulator):
    """An emulator with one-line commands."""

    def __init__(self, **options: Any) -> None:
        with patch.object(catalogue, "TECHNIQUES", (*catalogue.TECHNIQUES, *MORE)):
            super().__init__(**options)
        self._mark: dict[str, Any] = {"requests": {}, "responses": {}, "connections": 0}

    @property
    def settings(self) -> ClientSettings:
        """A connection to it."""
        return ClientSettings(api_key=self.api_key, base_url=self.base_url, timeout=60.0)

    async def read_settings(self) -> ClientSettings:
        """Read the connection as the triggerer does."""
        return self.settings

    def running(self, count: int, technique_id: str = STILL) -> list[str]:
        """Put runs there that never end; oldest first."""
        return self.seed_runs(count, technique_id=technique_id, status="running", spacing_ms=0)

    def running_over(self, techniques: Sequence[str], count: int) -> list[tuple[str, str]]:
        """Put runs there that never end, one technique after the other; each with its technique, oldest first."""
        named = [techniques[place % len(techniques)] for place in range(count)]
        return [(technique_id, self.running(1, technique_id)[0]) for technique_id in named]

    def foreign(self, count: int) -> None:
        """Put other people's runs there, of another technique, older and newer runs a moment apart from them."""
        time.sleep(0.005)
        self.seed_runs(count, technique_id=TEXT, spacing_ms=0)
        time.sleep(0.005)

    def start_runs(self, count: int, technique_id: str = STILL) -> list[str]:
        """Start runs, which end after ``run_seconds``."""
        [technique] = [known for known in (*catalogue.TECHNIQUES, *MORE) if known.technique_id == technique_id]
        inputs = [
            {"id": slot.id, "type": "text", "value": "A red sneaker"}
            for slot in technique.inputs
            if slot.type == "text"
        ]
        url = f"{self.base_url}/techniques/{technique_id}/runs"
        with requests.Session() as session:
            session.headers.update(self._key)
            body = {"inputs": inputs, "mode": "async"}
            answers = [session.post(url, json=body, timeout=60) for _ in range(count)]
        return [answer.json()["run_id"] for answer in answers]

    def call(self, method: str, path: str) -> requests.Response:
        """Send a request of the test's own."""
        return requests.request(method, self.base_url + path, headers=self._key, timeout=60)

    @property
    def _key(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.api_key}"}

    def mark(self) -> None:
        """Count from here."""
        self._mark = self.ledger(with_runs=False)

    def requests_since(self) -> Counter[str]:
        """Requests by operation since the mark."""
        return Counter(self.ledger(with_runs=False)["requests"]) - Counter(self._mark["requests"])

    def responses_since(self) -> Counter[str]:
        """Answers by status since the mark."""
        return Counter(self.ledger(with_runs=False)["responses"]) - Counter(self._mark["responses"])

    def connections_since(self) -> int:
        """Connections made since the mark."""
        return int(self.ledger(with_runs=False)["connections"] - self._mark["connections"])


def more_techniques(count: int) -> list[str]:
    """Return the ids of a number of equal techniques that the emulator has beside its own."""
    return [technique.technique_id for technique in MORE[:count]]


class Cycles:
    """Counts requests over a few cycles, with as many cycles as there can have been at most."""

    def __init__(self, flora: Flora, interval: float = INTERVAL) -> None:
        self._flora = flora
        self._interval = interval

    async def count(self, requests: int) -> tuple[float, Counter[str]]:
        """Wait for a number of requests; return cycles and requests."""
        self._flora.mark()
        begun = time.monotonic()
        await until(lambda: self._flora.requests_since().total() >= requests)
        counted = self._flora.requests_since()
        return math.floor((time.monotonic() - begun) / self._interval) + 2, counted


class Waits:
    """Waits as tasks, cancelled at the end."""

    def __init__(self, flora: Flora, name: str = "flora_default") -> None:
        self.flora = flora
        self.name = name
        self.tasks: list[asyncio.Task[Run]] = []
        self.seen: list[Run] = []
        self.reported: list[tuple[str, str]] = []
        self.read_settings: watching.SettingsReader = flora.read_settings

    async def __aenter__(self) -> Waits:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.cancel(*self.tasks)
        await quiet(timeout=2.0)  # not every pytest-asyncio lets a loop's last tasks end before it closes the loop

    def add(
        self,
        run_ids: Sequence[str],
        technique_id: str = STILL,
        *,
        interval: float = 0.05,
        timeout: float = 300.0,
        listener: WaitListener | None = None,
    ) -> list[asyncio.Task[Run]]:
        """Wait for runs."""
        added = [
            asyncio.ensure_future(
                watching.watch(
                    self.name,
                    self.read_settings,
                    technique_id,
                    run_id,
                    poll_interval=interval,
                    timeout=timeout,
                    listener=listener or self,
                )
            )
            for run_id in run_ids
        ]
        self.tasks += added
        return added

    def add_over(self, runs: Sequence[tuple[str, str]], **given: Any) -> list[asyncio.Task[Run]]:
        """Wait for runs of many techniques."""
        return [task for technique_id, run_id in runs for task in self.add([run_id], technique_id, **given)]

    def changed(self, run: Run) -> None:
        self.seen.append(run)

    def interrupted(self, error: FloraError, seconds_left: float) -> None:
        self.reported.append(("interrupted", str(error)))

    def recovered(self, run: Run) -> None:
        self.reported.append(("recovered", run.run_id))

    async def cancel(self, *tasks: asyncio.Task[Run]) -> None:
        """Cancel waits as the triggerer does."""
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def let_deadlines_pass(self) -> None:
        """Do what the timers of all waits do at their deadlines."""
        for wait in self.watcher._active_waits():
            self.watcher._expire(wait, watching.FIRST_POLL_GRACE)

    async def all_seen(self, count: int) -> None:
        """Wait until each of the runs has been seen once."""
        await until(lambda: len({run.run_id for run in self.seen}) >= count)

    @property
    def watcher(self) -> watching.Watcher:
        """The watchers that poll the runs."""
        return watching._watchers[asyncio.get_running_loop()][self.name]


async def until(probe: Callable[[], object], timeout: float = 300.0) -> None:
    """Wait until something is true."""
    ends = time.monotonic() + timeout
    while not probe():
        assert time.monotonic() < ends, "waited in vain"
        await asyncio.sleep(0.02)
