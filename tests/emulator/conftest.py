"""An emulator for each test that wants one."""

from __future__ import annotations

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
