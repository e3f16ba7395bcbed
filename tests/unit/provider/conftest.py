"""An emulator as Flora, a connection to it, and an Airflow that writes nothing outside a temporary home."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import airflow_home  # noqa: F401

from airflow_provider_flora.emulator import Emulator

API_KEY = "sk_test_never_to_be_seen_4711"
_numbers = itertools.count()


@pytest.fixture(scope="session")
def _emulator() -> Iterator[Emulator]:
    with Emulator(port=0, run_seconds=0.05, cost_lag=0, seed=0, api_key=API_KEY) as emulator:
        yield emulator


@pytest.fixture
def emulator(_emulator: Emulator) -> Iterator[Emulator]:
    """Flora, with a key of each test's own: runs take a moment, what they cost is known at once."""
    _emulator.reset()
    _emulator.api_key = f"{API_KEY}_{next(_numbers)}"
    yield _emulator
    _emulator.reset()


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets the connection to an emulator: ``connect(emulator, timeout=1)``; the rest is its extra."""

    def set_connection(
        emulator: Emulator, *, conn_id: str = "flora_default", password: str | None = None, **extra: Any
    ) -> None:
        connection = {
            "conn_type": "flora",
            "host": emulator.base_url,
            "password": password or emulator.api_key,
            "extra": {"timeout": 5, "max_retries": 0, **extra},
        }
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(connection))

    return set_connection


@pytest.fixture
def flora(emulator: Emulator, connect: Callable[..., None]) -> Emulator:
    """The emulator with ``flora_default`` pointing at it."""
    connect(emulator)
    return emulator


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses that only cost time here are made short."""
    from airflow_provider_flora.api import protocol
    from airflow_provider_flora.runs import starting

    monkeypatch.setattr(protocol, "FIRST_BACKOFF", 0.01)
    monkeypatch.setattr(protocol, "FIRST_BACKOFF_RATE_LIMITED", 0.01)
    monkeypatch.setattr(starting, "HISTORY_LAG", 0.01)
