"""A connection's limits on a real Airflow, whose tasks start together in processes of their own."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from airflow_provider_flora.emulator import Emulator
from airflow_provider_flora.runs.credits import NOTICE_LASTS
from scripts.local_airflow import LocalAirflow, base_environment, prepare_home
from tests.airflow.conftest import DATABASES, EXAMPLES, REPOSITORY

TASKS = 40
WAIT = 600


@pytest.fixture(scope="module")
def airflow(environment: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalAirflow]:
    """An Airflow that starts the DAG runs of schedules. Those of the other tests do not."""
    home, dags = tmp_path_factory.mktemp("airflow"), tmp_path_factory.mktemp("dags")
    for path in (EXAMPLES / "flora_credits_alert.py", Path(__file__).parent / "dags" / "flora_catchup.py"):
        shutil.copy(path, dags)
    env = {**environment, "AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE": "True"}
    with LocalAirflow(home, dags, env=env, database_cache=DATABASES) as airflow:
        yield airflow


def test_a_catchup_of_many_hours_starts_ten_runs_and_says_why_not_more(
    airflow: LocalAirflow, emulator: Emulator
) -> None:
    dag_id = "flora_catchup"
    airflow.wait_for_dag(dag_id)
    airflow.unpause(dag_id)

    def ended() -> list[dict[str, str]] | None:
        runs = airflow.api("GET", f"/dags/{dag_id}/dagRuns", params={"limit": 100})["dag_runs"]
        return runs if len(runs) >= 16 and all(run["state"] in ("success", "failed") for run in runs) else None

    runs = airflow.wait_until(ended, WAIT, "the end of the catchup", every=2)
    assert emulator.ledger()["started_runs"] == 10
    succeeded = [run for run in runs if run["state"] == "success"]
    assert len(succeeded) == 10
    failed = next(run["dag_run_id"] for run in runs if run["state"] == "failed")
    log = airflow.task_log(dag_id, failed, "picture")
    assert "max_catchup_runs=10 of the connection 'flora_default'" in log
    assert "give it the tag 'flora-catchup-ok'" in log


def test_forty_tasks_without_credits_ask_a_few_times_and_send_one_alert(
    airflow: LocalAirflow, emulator: Emulator
) -> None:
    dag_id = "flora_credits_alert"
    emulator.order_fault(
        "status", status=402, code="insufficient_credits", operation="startTechniqueRun", times=None
    )
    began = time.monotonic()
    run_id = airflow.trigger(dag_id, {"pictures": TASKS})
    assert airflow.wait_for_dag_run(dag_id, run_id, timeout=WAIT) == "failed"
    notices = 1 + (time.monotonic() - began) // NOTICE_LASTS  # a slow machine outlives the first one
    tasks = airflow.task_instances(dag_id, run_id, "picture")
    assert len(tasks) == TASKS
    assert {task.state for task in tasks} == {"failed"}
    assert {task.try_number for task in tasks} == {1}
    # Airflow runs 8 at once, and those that had begun before the first answer came ask, too.
    assert 1 <= emulator.ledger()["requests"]["startTechniqueRun"] <= 8 * notices
    logs = [airflow.task_log(dag_id, run_id, "picture", map_index=number) for number in range(TASKS)]
    assert sum("Flora is out of credits" in log for log in logs) == 1
    assert all("Top up the workspace's credits" in log for log in logs)


@pytest.mark.parametrize(
    "python", [Path(sys.executable), REPOSITORY / ".venv-airflow-2.11" / "bin" / "python"], ids=["3", "2.11"]
)
@pytest.mark.parametrize("command", [["dags", "test", "flora_quickstart"], ["tasks", "test", "flora_quickstart"]])
def test_airflows_own_tests_say_the_price_before_the_start(
    emulator: Emulator, environment: Mapping[str, str], tmp_path: Path, python: Path, command: list[str]
) -> None:
    if not python.exists():
        pytest.skip("there is no Airflow 2.11 here: make .venv-airflow-2.11/.ready")
    dags = tmp_path / "dags"
    dags.mkdir()
    shutil.copy(EXAMPLES / "flora_quickstart.py", dags)
    env = {**base_environment(tmp_path / "home", dags), **environment}
    prepare_home(tmp_path / "home", python, env, DATABASES)
    task = ["run_technique"] if command[0] == "tasks" else []
    asked = [str(python), "-m", "airflow", *command, *task, "2026-01-01"]
    done = subprocess.run(asked, env=env, capture_output=True, text=True, timeout=WAIT)
    said = done.stdout + done.stderr
    assert emulator.ledger()["started_runs"] == 1, said
    assert f"it starts 1 run of Editorial Still at {emulator.base_url} and pays 0.09 USD" in " ".join(said.split())
