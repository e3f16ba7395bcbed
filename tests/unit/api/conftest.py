"""What the tests of both clients share: the clients, time that does not pass, and the emulator."""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import tenacity

from airflow_provider_flora.api import aio, calls
from airflow_provider_flora.api import client as sync
from airflow_provider_flora.api.client import FloraClient
from airflow_provider_flora.api.settings import ClientSettings
from airflow_provider_flora.emulator import Emulator
from tests.unit.api.both_clients import KEY, FakeTime, MakeClient, OnALoopOfItsOwn


@pytest.fixture(params=["sync", "async"])
def make_client(request: pytest.FixtureRequest) -> Iterator[MakeClient]:
    """Make a client of either kind: ``make_client(base_url, **settings)``."""
    made: list[Any] = []

    def make(base_url: str, **settings: Any) -> Any:
        kind = FloraClient if request.param == "sync" else OnALoopOfItsOwn
        made.append(kind(ClientSettings(**{"api_key": KEY, "timeout": 60.0, **settings}, base_url=base_url)))
        return made[-1]

    yield make
    for client in made:
        client.close()


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that were to pass before each retry; none really passes."""
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr(tenacity, "Retrying", functools.partial(tenacity.Retrying, sleep=waited.append))
    monkeypatch.setattr(tenacity, "AsyncRetrying", functools.partial(tenacity.AsyncRetrying, sleep=sleep))
    return waited


@pytest.fixture
def fake_time(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    """The time by which both clients wait for a run."""
    fake = FakeTime()
    clock = SimpleNamespace(monotonic=fake.monotonic, sleep=fake.sleep, time=time.time)
    monkeypatch.setattr(sync, "time", clock)
    monkeypatch.setattr(aio, "time", clock)
    monkeypatch.setattr(calls, "time", clock)
    monkeypatch.setattr(aio, "asyncio", SimpleNamespace(sleep=fake.asleep, TimeoutError=asyncio.TimeoutError))
    return fake


@pytest.fixture(scope="session")
def _emulator() -> Iterator[Emulator]:
    with Emulator(run_seconds=0, cost_lag=0, api_key=KEY) as emulator:
        yield emulator


@pytest.fixture
def emulator(_emulator: Emulator) -> Emulator:
    """The emulator with an empty ledger; its runs end at once."""
    _emulator.reset()
    return _emulator


@pytest.fixture(autouse=True)
def _no_failed_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A scripted server that breaks must not go unnoticed."""
    failed: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", failed.append)
    yield
    assert not failed, failed
