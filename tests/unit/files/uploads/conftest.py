"""A Flora of either account, files to upload, and a storage in memory."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from airflow_provider_flora.emulator import Emulator
from airflow_provider_flora.runs import starting
from tests.unit.files.uploads.uploads import LARGE, Connect, attach_memory, picture


@pytest.fixture(params=["docs", "site"])
def either_flora(
    request: pytest.FixtureRequest, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Emulator]:
    """An emulator for each account of what a repeated idempotency key does."""
    monkeypatch.setattr(starting, "CLOCK_MARGIN", 60.0)  # in which it gets a start, however slow this machine is
    with Emulator(port=0, run_seconds=0.05, cost_lag=0, asset_seconds=0.05, idempotency=request.param) as emulator:
        connect(emulator)
        yield emulator


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
