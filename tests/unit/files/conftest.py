"""An emulator as Flora, with a connection to it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from airflow_provider_flora.emulator import Emulator
from tests.unit.flora_key import API_KEY

_numbers = itertools.count()


@pytest.fixture(scope="session")
def _emulator() -> Iterator[Emulator]:
    with Emulator(port=0, run_seconds=0.05, cost_lag=0, asset_seconds=0.05, seed=0, api_key=API_KEY) as emulator:
        yield emulator


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets `flora_default`: `connect(emulator, timeout=1)`; the rest is its extra."""

    def set_connection(emulator: Emulator, **extra: Any) -> None:
        connection = {
            "conn_type": "flora",
            "host": emulator.base_url,
            "password": emulator.api_key,
            "extra": {"timeout": 60, "max_retries": 2, **extra},
        }
        monkeypatch.setenv("AIRFLOW_CONN_FLORA_DEFAULT", json.dumps(connection))

    return set_connection


@pytest.fixture
def flora(_emulator: Emulator, connect: Callable[..., None]) -> Iterator[Emulator]:
    """The emulator with an empty ledger, a key of the test's own, and `flora_default` pointing at it."""
    _emulator.reset()
    _emulator.api_key = f"{API_KEY}_{next(_numbers)}"
    connect(_emulator)
    yield _emulator
    _emulator.reset()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses that only cost time here are made short."""
    from airflow_provider_flora.api import retries
    from airflow_provider_flora.files.uploads import uploader as uploading
    from airflow_provider_flora.runs import starting

    monkeypatch.setattr(retries, "FIRST_BACKOFF", 0.01)
    monkeypatch.setattr(retries, "FIRST_BACKOFF_RATE_LIMITED", 0.01)
    monkeypatch.setattr(starting, "HISTORY_LAG", 0.01)
    monkeypatch.setattr(uploading, "POLL_INTERVAL", 0.02)
