"""Real Airflows for the tests in this folder, and the emulator behind them."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from airflow_provider_flora.api.settings import ClientSettings
from airflow_provider_flora.emulator import Emulator
from airflow_provider_flora.runs.credits import CreditsNotice
from scripts.local_airflow import LocalAirflow
from tests.airflow.flora_key import API_KEY

REPOSITORY = Path(__file__).parents[2]
EXAMPLES = REPOSITORY / "example_dags"
DATABASES = REPOSITORY / ".airflow" / "empty-databases"


@pytest.fixture(scope="session")
def _emulator() -> Iterator[Emulator]:
    with Emulator(run_seconds=2, cost_lag=0.5, api_key=API_KEY, allow_loopback_callbacks=True) as emulator:
        yield emulator


@pytest.fixture
def emulator(_emulator: Emulator) -> Emulator:
    """The emulator with an empty ledger. No test of before has left a notice that its credits have run out."""
    _emulator.reset()
    CreditsNotice(ClientSettings(_emulator.api_key, _emulator.base_url)).remove()
    return _emulator


@pytest.fixture(scope="session")
def environment(_emulator: Emulator) -> dict[str, str]:
    """What the example DAGs need to find the emulator."""
    connection = {"conn_type": "flora", "host": _emulator.base_url, "password": _emulator.api_key}
    return {
        "AIRFLOW_CONN_FLORA_DEFAULT": json.dumps(connection),
        "FLORA_MEDIA_BASE": f"{_emulator.origin}/media/samples",
    }


@pytest.fixture(scope="session")
def airflow(environment: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalAirflow]:
    """Airflow 3 with its processes, the example DAGs and those of these tests, started once for all tests."""
    home, dags = tmp_path_factory.mktemp("airflow"), tmp_path_factory.mktemp("dags")
    for folder in (EXAMPLES, Path(__file__).parent / "dags"):
        shutil.copytree(folder, dags, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    with LocalAirflow(home, dags, env=environment, database_cache=DATABASES) as airflow:
        yield airflow


@pytest.fixture
def script_environment(tmp_path: Path) -> dict[str, str]:
    """The environment in which `make` starts a script, with a place of its own to write to."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "FLORA"))}
    databases = tmp_path / "empty-databases"
    DATABASES.mkdir(parents=True, exist_ok=True)
    databases.symlink_to(DATABASES)
    return {**inherited, "AIRFLOW_HOME": str(tmp_path), "PYTHONUNBUFFERED": "1"}


@pytest.fixture
def script() -> Callable[[str], list[str]]:
    """The command that starts a script, in the repository."""
    return lambda name: [sys.executable, "-m", f"scripts.{name}"]
