"""An emulator for each test that wants one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from airflow_provider_flora.emulator import Emulator
from airflow_provider_flora.emulator.faults import orders, rate_limit
from tests.emulator.caller import Caller


@pytest.fixture
def emulate() -> Iterator[Callable[..., Caller]]:
    """Start an emulator with these options; get a caller of it."""
    with ExitStack() as stack:
        yield lambda **options: Caller(
            stack.enter_context(Emulator(**{"run_seconds": 0.05, "asset_seconds": 0.05, **options}))
        )


@pytest.fixture
def flora(emulate: Callable[..., Caller]) -> Caller:
    return emulate()


@pytest.fixture
def uptime(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The seconds by which rate limits and outages go; they stand still until a test adds to them."""
    uptime = SimpleNamespace(seconds=0.0)
    for module in (orders, rate_limit):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: uptime.seconds))
    return uptime


@pytest.fixture
def an_hour(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Where an order makes the emulator wait for 3600 seconds, they are over when a test sets this event."""
    over, sleep = threading.Event(), asyncio.sleep

    async def sleep_or_wait(seconds: float) -> None:
        if seconds == 3600:
            while not over.is_set():
                await sleep(0.01)
        else:
            await sleep(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep_or_wait)
    yield over
    over.set()
