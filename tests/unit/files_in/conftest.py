"""An emulator as Flora, files of every kind to upload, a storage in memory, and a process that dies on order."""

from __future__ import annotations

import itertools
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "provider"))
import airflow_home  # noqa: F401
from uploads import API_KEY, LARGE, Connect, attach_memory, picture

from airflow_provider_flora.emulator import Emulator

_numbers = itertools.count()


@pytest.fixture(scope="session")
def _emulator() -> Iterator[Emulator]:
    with Emulator(port=0, run_seconds=0.05, cost_lag=0, asset_seconds=0.05, seed=0, api_key=API_KEY) as emulator:
        yield emulator


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Connect:
    """Sets `flora_default`: `connect(emulator, timeout=1)`; the rest is its extra."""

    def set_connection(emulator: Emulator, **extra: Any) -> None:
        connection = {
            "conn_type": "flora",
            "host": emulator.base_url,
            "password": emulator.api_key,
            "extra": {"timeout": 5, "max_retries": 2, **extra},
        }
        monkeypatch.setenv("AIRFLOW_CONN_FLORA_DEFAULT", json.dumps(connection))

    return set_connection


@pytest.fixture
def flora(_emulator: Emulator, connect: Connect) -> Iterator[Emulator]:
    """The emulator with empty books, a key of the test's own, and `flora_default` pointing at it."""
    _emulator.reset()
    _emulator.api_key = f"{API_KEY}_{next(_numbers)}"
    connect(_emulator)
    yield _emulator
    _emulator.reset()


@pytest.fixture(params=["docs", "site"])
def either_flora(request: pytest.FixtureRequest, connect: Connect) -> Iterator[Emulator]:
    """An emulator for each account of what a repeated idempotency key does."""
    with Emulator(port=0, run_seconds=0.05, cost_lag=0, asset_seconds=0.05, idempotency=request.param) as emulator:
        connect(emulator)
        yield emulator


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses that only cost time here are made short."""
    from airflow_provider_flora.api import protocol
    from airflow_provider_flora.files import uploading
    from airflow_provider_flora.runs import starting

    monkeypatch.setattr(protocol, "FIRST_BACKOFF", 0.01)
    monkeypatch.setattr(protocol, "FIRST_BACKOFF_RATE_LIMITED", 0.01)
    monkeypatch.setattr(starting, "HISTORY_LAG", 0.01)
    monkeypatch.setattr(uploading, "POLL_INTERVAL", 0.02)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A picture that goes in one request."""
    path = tmp_path / "cup.png"
    path.write_bytes(picture() + os.urandom(1000))
    return path


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A picture that is one byte too large for one request."""
    path = tmp_path / "poster.png"
    start = picture()
    path.write_bytes(start + os.urandom(LARGE - len(start)))
    return path


@pytest.fixture
def memory() -> Iterator[str]:
    """The URI of a folder in that storage."""
    filesystem = attach_memory()
    filesystem.makedirs("/photos", exist_ok=True)
    yield "memory://photos"
    filesystem.rm("/photos", recursive=True)


@pytest.fixture
def url(flora: Emulator, small: Path) -> str:
    """Where Flora can fetch a picture from: of its own origin it takes http:// too."""
    from airflow_provider_flora.hooks.flora import FloraHook

    return str(FloraHook().upload_asset(str(small)).url)


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """All that was logged: Airflow 3 prints, Airflow 2 has Python's logging."""
    caplog.set_level(logging.DEBUG)
    return lambda: caplog.text + "".join(capsys.readouterr())
