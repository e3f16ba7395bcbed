"""Real Airflows for the tests in this folder, and the emulator behind them.

There must be no `__init__.py` here: it would make this folder the package `airflow`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from dag_runs import API_KEY, Ran, RunDag
from local_airflow import LocalAirflow, dags_test

from airflow_provider_flora.emulator import Emulator

REPOSITORY = Path(__file__).parents[2]
EXAMPLES = REPOSITORY / "example_dags"
PYTHON_2_11 = REPOSITORY / ".venv-airflow-2.11" / "bin" / "python"
DATABASES = REPOSITORY / ".airflow" / "empty-databases"


@pytest.fixture(scope="session")
def _emulator() -> Iterator[Emulator]:
    with Emulator(run_seconds=2, cost_lag=0.5, api_key=API_KEY) as emulator:
        yield emulator


@pytest.fixture
def emulator(_emulator: Emulator) -> Emulator:
    """The emulator with empty books."""
    _emulator.reset()
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
    """Airflow 3 with its processes and the example DAGs, started once for all tests."""
    home = tmp_path_factory.mktemp("airflow")
    with LocalAirflow(home, EXAMPLES, env=environment, database_cache=DATABASES) as airflow:
        yield airflow


@pytest.fixture(params=["airflow-3", "airflow-2.11"])
def run_dag(request: pytest.FixtureRequest) -> RunDag:
    """Runs a DAG to its end: on Airflow 3 by its processes, on 2.11 by `airflow dags test`."""
    fixture = {"airflow-3": "run_dag_on_3", "airflow-2.11": "run_dag_on_2_11"}[request.param]
    run: RunDag = request.getfixturevalue(fixture)
    return run


@pytest.fixture
def run_dag_on_3(airflow: LocalAirflow) -> RunDag:
    """Triggers a DAG on the started Airflow 3."""

    def run(dag_id: str, conf: Mapping[str, Any] | None = None) -> Ran:
        run_id = airflow.trigger(dag_id, conf)
        state = airflow.wait_for_dag_run(dag_id, run_id, timeout=120)

        def xcom(task_id: str, key: str = "return_value", map_index: int = -1) -> Any:
            return airflow.xcom(dag_id, run_id, task_id, key, map_index)

        return Ran(state, xcom, logs_of_failed_tasks(airflow, dag_id, run_id))

    return run


@pytest.fixture
def run_dag_on_2_11(environment: Mapping[str, str]) -> RunDag:
    """Runs a DAG in the environment of Airflow 2.11."""
    if not PYTHON_2_11.exists():
        leave_out(f"there is no {PYTHON_2_11.relative_to(REPOSITORY)}; `make test` makes it")

    def run(dag_id: str, conf: Mapping[str, Any] | None = None) -> Ran:
        test = dags_test(dag_id, EXAMPLES, python=PYTHON_2_11, conf=conf, env=environment, database_cache=DATABASES)
        return Ran(test.state, test.xcom, test.output)

    return run


def logs_of_failed_tasks(airflow: LocalAirflow, dag_id: str, run_id: str) -> str:
    """What a failed test should show."""
    return "\n".join(
        f"{one}\n{airflow.task_log(dag_id, run_id, one.task_id, map_index=one.map_index)}"
        for one in airflow.task_instances(dag_id, run_id)
        if one.state == "failed"
    )


def leave_out(reason: str) -> None:
    """Skip the test, unless nothing may be left out."""
    if os.environ.get("FLORA_TESTS_LEAVE_NOTHING_OUT"):
        pytest.fail(reason)
    pytest.skip(reason)


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
    """The command that starts a script of the repository."""
    return lambda name: [sys.executable, str(REPOSITORY / "scripts" / name)]
