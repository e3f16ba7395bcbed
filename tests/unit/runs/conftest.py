"""Floras for starts, under either account of idempotency, and one to watch; and the clocks of both, set fast."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import tenacity

from airflow_provider_flora.api import retries, waiting
from airflow_provider_flora.emulator import Emulator
from airflow_provider_flora.runs import gate, starting, watching
from tests.unit.operators.fake_task import HAS_STATE_STORE, FakeStore
from tests.unit.runs.watching_flora import Flora

# --- starting ---------------------------------------------------------------------------------------------


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
def either_flora(emulate: Callable[..., Emulator], account: str) -> Emulator:
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
def quick_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Flora refuses twice is believed after a moment."""
    monkeypatch.setattr(waiting, "REFUSAL_CONFIRMED_AFTER", 0.3)
    monkeypatch.setattr(retries, "FIRST_BACKOFF", 0.1)


@pytest.fixture
def wide_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs that a slow machine puts there late are still of the same moment as a start."""
    monkeypatch.setattr(starting, "CLOCK_MARGIN", 20.0)


@pytest.fixture
def quick_saves(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that cannot be written to is tried three times, without a pause."""
    monkeypatch.setattr(starting.tenacity, "stop_after_delay", lambda _: tenacity.stop_after_attempt(3))
    monkeypatch.setattr(starting.tenacity, "wait_exponential", lambda **_: tenacity.wait_none())


# --- watching ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def _flora() -> Iterator[Flora]:
    with Flora(run_seconds=0.2, cost_lag=0.0) as flora:
        yield flora


@pytest.fixture
def flora(_flora: Flora) -> Iterator[Flora]:
    """Flora with stalled and quick runs, lists that are up to date and charges that are known at once."""
    key = _flora.api_key
    _flora.reset()
    _flora.mark()
    yield _flora
    _flora.api_key = key


@pytest.fixture
def fast_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The watcher's clocks, set fast."""
    monkeypatch.setattr(retries, "FIRST_BACKOFF", 0.02)
    monkeypatch.setattr(watching, "HISTORY_LAG", 0.2)
    monkeypatch.setattr(watching, "FIRST_POLL_GRACE", 1.0)
    monkeypatch.setattr(gate, "CONNECTION_RETRY", 0.05)
    monkeypatch.setattr(gate, "CONNECTION_AGE_WHEN_REFUSED", 0.2)
    monkeypatch.setattr(gate, "BASE_SPACING", 0.005)
    monkeypatch.setattr(gate, "SPACING_AFTER_PAUSE", 0.01)


@pytest.fixture(autouse=True)
def _nothing_stays(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test leaves the registry of watchers empty."""
    yield
    assert not any(watching._watchers.values())
