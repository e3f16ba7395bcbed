"""An emulator behind the watcher, and the watcher's clocks set fast."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from watching_flora import Flora

from airflow_provider_flora.api import protocol
from airflow_provider_flora.runs import watching


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


@pytest.fixture(autouse=True)
def _fast_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "FIRST_BACKOFF", 0.02)
    monkeypatch.setattr(watching, "HISTORY_LAG", 0.2)
    monkeypatch.setattr(watching, "CONNECTION_RETRY", 0.05)
    monkeypatch.setattr(watching, "BASE_SPACING", 0.005)
    monkeypatch.setattr(watching, "SPACING_AFTER_PAUSE", 0.01)


@pytest.fixture(autouse=True)
def _nothing_stays(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test leaves the registry of watchers empty."""
    yield
    assert not any(watching._watchers.values())
