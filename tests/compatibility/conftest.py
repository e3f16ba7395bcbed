"""The DAGs of these tests, run once on the Airflow of the Python in `FLORA_AIRFLOW_PYTHON`; default: this one."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_provider_flora.emulator import Emulator
from scripts.local_airflow import airflow_version
from tests.compatibility.running_all import RUN_SECONDS_ON_2, RUN_SECONDS_ON_3, AllRan, run_all_on_2, run_all_on_3

PYTHON = Path(os.environ.get("FLORA_AIRFLOW_PYTHON", sys.executable)).absolute()


@pytest.fixture(scope="session")
def python() -> Path:
    return PYTHON


@pytest.fixture(scope="session")
def version(python: Path) -> str:
    return airflow_version(python)


@pytest.fixture(scope="session")
def emulator(version: str) -> Iterator[Emulator]:
    seconds = RUN_SECONDS_ON_2 if version.startswith("2.") else RUN_SECONDS_ON_3
    with Emulator(run_seconds=seconds, cost_lag=0.5) as emulator:
        yield emulator


@pytest.fixture(scope="session")
def ran(python: Path, version: str, emulator: Emulator, tmp_path_factory: pytest.TempPathFactory) -> AllRan:
    """Run everything; again, twice at most, if Airflow itself has lost an attempt, which it does now and then."""
    run_all = run_all_on_2 if version.startswith("2.") else run_all_on_3
    for _ in range(3):
        runs, tries_lost = run_all(emulator, python, tmp_path_factory.mktemp(f"airflow-{version}-"))
        if not tries_lost:
            break
        warnings.warn(f"Airflow {version} ended {tries_lost} attempts by mistake", stacklevel=1)
    return runs
