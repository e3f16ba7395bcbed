"""The command line against the emulator: in this process for most tests, in a process of its own for the others."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_flora import airflow_compat
from airflow_provider_flora.cli import runs
from airflow_provider_flora.cli.main import main
from airflow_provider_flora.emulator import Emulator
from tests.unit.airflow_tables import Instances
from tests.unit.cli.stand_in import StandIn

REPOSITORY = Path(__file__).parents[3]


@dataclass(frozen=True)
class Ran:
    """What a command did: its exit code, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The standard output, which is JSON and nothing else."""
        return json.loads(self.out)

    @property
    def rows(self) -> list[list[str]]:
        """The words of each line."""
        return [line.split() for line in self.out.splitlines()]


Run = Callable[..., Ran]


@pytest.fixture(autouse=True)
def interruptible() -> None:
    """A shell lets what it starts in the background ignore Ctrl-C, and what that starts would ignore it too."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def quick_polls(monkeypatch: pytest.MonkeyPatch, quick: None) -> None:
    """A run is polled at once again, and a request is sent again at once."""
    monkeypatch.setattr(runs, "POLL_INTERVAL", 0.05)


@pytest.fixture
def flora_key(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    """The emulator, with its key and address in the environment."""
    for name in ("COLUMNS", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FLORA_API_KEY", emulator.api_key)
    monkeypatch.setenv("FLORA_BASE_URL", emulator.base_url)
    return emulator


@pytest.fixture
def run(flora_key: Emulator, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command in this process: ``run("technique", "editorial-still")``."""
    # Airflow 2 prints what asyncio logs of event loops that other tests have left to the garbage collector.
    monkeypatch.setattr(logging.getLogger("asyncio"), "disabled", True)

    def run(*arguments: str) -> Ran:
        try:
            code = main(arguments)
        except SystemExit as end:
            code = int(str(end.code))
        return Ran(code, *capsys.readouterr())

    return run


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A picture to upload."""
    from PIL import Image

    path = tmp_path / "lamp.png"
    Image.new("RGB", (64, 64), "teal").save(path)
    return path


@pytest.fixture
def program(flora_key: Emulator) -> Callable[..., Any]:
    """Runs a command in a process of its own, with more of its environment as ``env``."""

    def program(*arguments: str, env: dict[str, str] | None = None, **how: Any) -> Ran:
        done = subprocess.run(
            [sys.executable, "-m", "airflow_provider_flora", *arguments],
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), **(env or {})},
            timeout=600,
            encoding="utf-8",
            **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **how},
        )
        return Ran(done.returncode, done.stdout or "", done.stderr or "")

    return program


@pytest.fixture
def stand_in(run: Run, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """A Flora that answers what a test says, in place of the emulator."""
    with StandIn() as served:
        monkeypatch.setenv("FLORA_BASE_URL", served.base_url)
        yield served


@pytest.fixture
def database(instances: Instances, monkeypatch: pytest.MonkeyPatch) -> Instances:
    """Airflow's tables, which the commands in this process read and change."""
    from sqlalchemy.orm import Session

    @contextmanager
    def create_session() -> Iterator[Any]:
        with Session(instances.engine) as session, session.begin():
            yield session

    monkeypatch.setattr(airflow_compat, "create_session", create_session, raising=False)
    instances.add_dag_run()
    return instances
