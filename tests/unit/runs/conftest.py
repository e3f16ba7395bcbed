"""What the tests of the provider use, for these too."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "provider"))
from collections.abc import Callable, Iterator
from typing import Any

import airflow_home  # noqa: F401
import pytest
import tenacity
from fake_task import HAS_STATE_STORE, FakeStore

from airflow_provider_flora.emulator import Emulator
from airflow_provider_flora.runs import starting


@pytest.fixture
def emulate() -> Iterator[Callable[..., Emulator]]:
    """Starts emulators whose runs end at once."""
    started: list[Emulator] = []

    def start(**options: Any) -> Emulator:
        started.append(Emulator(port=0, **{"run_seconds": 0, "cost_lag": 0, "seed": 0, **options}).start())
        return started[-1]

    yield start
    for emulator in started:
        emulator.stop()


@pytest.fixture(params=["docs", "site"])
def account(request: pytest.FixtureRequest) -> str:
    """Which of the two accounts of idempotency holds."""
    return str(request.param)


@pytest.fixture
def flora(emulate: Callable[..., Emulator], account: str) -> Emulator:
    """Flora under either account."""
    return emulate(idempotency=account)


@pytest.fixture
def flora_docs(emulate: Callable[..., Emulator]) -> Emulator:
    """Flora that answers a repeated key with 409 and no run."""
    return emulate(idempotency="docs")


@pytest.fixture
def store() -> FakeStore:
    """The state store of Airflow 3.3."""
    if not HAS_STATE_STORE:
        pytest.skip("this Airflow has no task state store")
    return FakeStore()


@pytest.fixture
def quick_saves(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that cannot be written to is tried three times, without a pause."""
    monkeypatch.setattr(starting.tenacity, "stop_after_delay", lambda _: tenacity.stop_after_attempt(3))
    monkeypatch.setattr(starting.tenacity, "wait_exponential", lambda **_: tenacity.wait_none())
