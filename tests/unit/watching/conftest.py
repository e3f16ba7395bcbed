"""An emulator behind the watcher, and the watcher's clocks set fast."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from watching_flora import Flora

from airflow_provider_flora.api import protocol
from airflow_provider_flora.runs import watching


@pytest.fixture
def flora() -> Iterator[Flora]:
    """Flora with stalled and quick runs, lists that are up to date and charges that are known at once."""
    with Flora(run_seconds=0.3, cost_lag=0.0) as flora:
        yield flora


@pytest.fixture(autouse=True)
def _fast_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "FIRST_BACKOFF", 0.05)
    monkeypatch.setattr(watching, "HISTORY_LAG", 0.2)
    monkeypatch.setattr(watching, "CONNECTION_RETRY", 0.05)
    monkeypatch.setattr(watching, "BASE_SPACING", 0.005)


@pytest.fixture(autouse=True)
def _nothing_stays(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test leaves the registry of watchers empty."""
    yield
    assert not any(watching._watchers.values())
