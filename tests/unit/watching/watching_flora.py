"""What the tests of the watcher say: put runs there, wait for them, read the books."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import requests

from airflow_provider_flora.api.models import Run
from airflow_provider_flora.api.settings import ClientSettings
from airflow_provider_flora.emulator import Emulator
from airflow_provider_flora.runs import watching

STILL = "tech_editorial-still"
TEXT = "tech_tagline-writer"


class Flora(Emulator):
    """An emulator that is told what to do in one line."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._mark: dict[str, Any] = {"requests": {}, "responses": {}, "connections": 0}

    @property
    def settings(self) -> ClientSettings:
        """A connection to it."""
        return ClientSettings(api_key=self.api_key, base_url=self.base_url, timeout=5.0)

    async def read_settings(self) -> ClientSettings:
        """Read the connection as the triggerer does."""
        return self.settings

    def running(self, count: int, technique_id: str = STILL) -> list[str]:
        """Put runs there that never end; oldest first."""
        return self.seed_runs(count, technique_id=technique_id, status="running", spacing_ms=0)

    def start_runs(self, count: int, technique_id: str = STILL) -> list[str]:
        """Start runs, which end after ``run_seconds``."""
        slots = requests.get(f"{self.base_url}/techniques/{technique_id}", headers=self._key, timeout=5).json()
        inputs = [
            {"id": slot["id"], "type": "text", "value": "A red sneaker"}
            for slot in slots["inputs"]
            if slot["type"] == "text"
        ]
        url = f"{self.base_url}/techniques/{technique_id}/runs"
        with requests.Session() as session:
            session.headers.update(self._key)
            answers = [session.post(url, json={"inputs": inputs, "mode": "async"}, timeout=5) for _ in range(count)]
        return [answer.json()["run_id"] for answer in answers]

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


class Waits:
    """Waits as tasks, cancelled at the end."""

    def __init__(self, flora: Flora, name: str = "flora_default") -> None:
        self.flora = flora
        self.name = name
        self.tasks: list[asyncio.Task[Run]] = []
        self.seen: list[Run] = []
        self.read_settings: watching.SettingsReader = flora.read_settings

    async def __aenter__(self) -> Waits:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.cancel(*self.tasks)

    def add(
        self,
        run_ids: Sequence[str],
        technique_id: str = STILL,
        *,
        interval: float = 0.05,
        timeout: float = 20.0,
        on_change: Callable[[Run], None] | None = None,
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
                    on_change=on_change or self.seen.append,
                )
            )
            for run_id in run_ids
        ]
        self.tasks += added
        return added

    async def cancel(self, *tasks: asyncio.Task[Run]) -> None:
        """Cancel waits as the triggerer does."""
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def all_seen(self, count: int) -> None:
        """Wait until each of so many runs has been seen once."""
        await until(lambda: len({run.run_id for run in self.seen}) >= count)

    @property
    def watcher(self) -> watching.Watcher:
        """Who looks after them."""
        return watching._watchers[asyncio.get_running_loop()][self.name]


async def until(probe: Callable[[], object], timeout: float = 15.0) -> None:
    """Wait until something is true."""
    ends = time.monotonic() + timeout
    while not probe():
        assert time.monotonic() < ends, "waited in vain"
        await asyncio.sleep(0.02)


async def quiet() -> None:
    """Let what was cancelled come to its end."""
    for _ in range(20):
        await asyncio.sleep(0.01)
        if asyncio.all_tasks() == {asyncio.current_task()}:
            return
