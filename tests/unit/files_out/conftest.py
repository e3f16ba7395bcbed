"""An emulator with a connection to it, and a server that does as it is told."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "provider"))
import airflow_home  # noqa: F401
from media_server import MediaServer

from airflow_provider_flora.emulator import Emulator

API_KEY = "sk_test_never_to_be_seen_4711"


@pytest.fixture(scope="session")
def _emulator() -> Iterator[Emulator]:
    with Emulator(port=0, run_seconds=0.05, cost_lag=0, seed=0, api_key=API_KEY) as emulator:
        yield emulator


@pytest.fixture
def flora(_emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """The emulator with empty books and `flora_default` pointing at it."""
    _emulator.reset()
    connection = {
        "conn_type": "flora",
        "host": _emulator.base_url,
        "password": _emulator.api_key,
        "extra": {"timeout": 5, "max_retries": 2},
    }
    monkeypatch.setenv("AIRFLOW_CONN_FLORA_DEFAULT", json.dumps(connection))
    yield _emulator
    _emulator.reset()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses that only cost time here are made short."""
    from airflow_provider_flora.api import protocol
    from airflow_provider_flora.runs import starting

    monkeypatch.setattr(protocol, "FIRST_BACKOFF", 0.01)
    monkeypatch.setattr(protocol, "FIRST_BACKOFF_RATE_LIMITED", 0.01)
    monkeypatch.setattr(starting, "HISTORY_LAG", 0.01)


@pytest.fixture
def media() -> Iterator[MediaServer]:
    server = MediaServer()
    yield server
    server.close()
