"""The pytest plugin ``flora``: two fixtures. It imports next to nothing: each pytest loads it, used or not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from airflow_provider_flora.testing.airflow_process import TemporaryAirflow
    from airflow_provider_flora.testing.emulator import FloraEmulator
    from airflow_provider_flora.testing.running import RunDag


@pytest.fixture
def flora_emulator() -> Iterator[FloraEmulator]:
    """A local Flora for this test, to which the connection ``flora_default`` leads. Nothing is paid."""
    from airflow_provider_flora.testing.emulator import FloraEmulator

    with pytest.MonkeyPatch.context() as environment, FloraEmulator(environment) as emulator:
        yield emulator


@pytest.fixture(scope="session")
def _flora_airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TemporaryAirflow]:
    from airflow_provider_flora.testing.airflow_process import TemporaryAirflow

    airflow = TemporaryAirflow(tmp_path_factory)
    yield airflow
    airflow.stop()


@pytest.fixture
def run_dag(
    request: pytest.FixtureRequest, flora_emulator: FloraEmulator, _flora_airflow: TemporaryAirflow
) -> RunDag:
    """Run a DAG against ``flora_emulator``: ``run_dag("dags/my_dag.py", conf={...})``."""
    from airflow_provider_flora.testing.running import RunDag

    return RunDag(flora_emulator, _flora_airflow, request.node)
