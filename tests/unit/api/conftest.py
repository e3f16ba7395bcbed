"""Both clients behind one face, so that each test of behaviour is written once and run for both."""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import tenacity

from airflow_provider_flora.api import aio
from airflow_provider_flora.api import client as sync
from airflow_provider_flora.api.aio import AsyncFloraClient
from airflow_provider_flora.api.client import FloraClient
from airflow_provider_flora.api.settings import ClientSettings
from airflow_provider_flora.emulator import Emulator

KEY = "sk_test_that_must_not_be_seen_anywhere"

MakeClient = Callable[..., Any]


class OnALoopOfItsOwn:
    """An ``AsyncFloraClient`` that is called like a ``FloraClient``."""

    def __init__(self, settings: ClientSettings) -> None:
        self._loop = asyncio.new_event_loop()
        self.wrapped = self._loop.run_until_complete(self._made(settings))

    async def _made(self, settings: ClientSettings) -> AsyncFloraClient:
        return AsyncFloraClient(settings)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self.wrapped, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            result = method(*args, **kwargs)
            if isinstance(result, AsyncIterator):
                return self._walk(result)
            return self._loop.run_until_complete(result)

        return call

    def _walk(self, items: AsyncIterator[Any]) -> Iterator[Any]:
        while True:
            try:
                yield self._loop.run_until_complete(anext(items))
            except StopAsyncIteration:
                return

    def close(self) -> None:
        self._loop.run_until_complete(self.wrapped.close())
        self._loop.close()


@pytest.fixture(params=["sync", "async"])
def make_client(request: pytest.FixtureRequest) -> Iterator[MakeClient]:
    """Make a client of either kind: ``make_client(base_url, **settings)``."""
    made: list[Any] = []

    def make(base_url: str, **settings: Any) -> Any:
        kind = FloraClient if request.param == "sync" else OnALoopOfItsOwn
        made.append(kind(ClientSettings(**{"api_key": KEY, "timeout": 5.0, **settings}, base_url=base_url)))
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


class FakeTime:
    """A clock that moves only when somebody sleeps by it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.slept.append(seconds)
        self.now += seconds

    async def asleep(self, seconds: float) -> None:
        self.sleep(seconds)


@pytest.fixture
def fake_time(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    """The time by which both clients wait for a run."""
    fake = FakeTime()
    clock = SimpleNamespace(monotonic=fake.monotonic, sleep=fake.sleep, time=time.time)
    monkeypatch.setattr(sync, "time", clock)
    monkeypatch.setattr(aio, "time", clock)
    monkeypatch.setattr(aio, "asyncio", SimpleNamespace(sleep=fake.asleep, TimeoutError=asyncio.TimeoutError))
    return fake


@pytest.fixture(scope="session")
def _emulator() -> Iterator[Emulator]:
    with Emulator(run_seconds=0, cost_lag=0, api_key=KEY) as emulator:
        yield emulator


@pytest.fixture
def emulator(_emulator: Emulator) -> Emulator:
    """The emulator with empty books; its runs end at once."""
    _emulator.reset()
    return _emulator


@pytest.fixture(autouse=True)
def _no_failed_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A scripted server that breaks must not go unnoticed."""
    failed: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", failed.append)
    yield
    assert not failed, failed
