"""One run through Airflow's real processes: scheduler, triggerer, DAG processor and API server."""

from __future__ import annotations

import json

from airflow_provider_flora.emulator import Emulator
from scripts.local_airflow import LocalAirflow
from tests.airflow.flora_key import API_KEY

DAG = "flora_quickstart"
TASK = "run_technique"


def test_a_run_is_deferred_and_resumed_and_paid_once(airflow: LocalAirflow, emulator: Emulator) -> None:
    # Longer than the first poll, which would hand over a run that has ended, and than it takes to query Airflow.
    emulator.order_fault("slow_run", seconds=30)
    run_id = airflow.trigger(DAG)

    airflow.wait_for_task_state(DAG, run_id, TASK, "deferred")
    [started] = emulator.ledger()["runs"]
    assert started["status"] in ("pending", "running")
    assert airflow.xcom(DAG, run_id, TASK, "run_id") == started["run_id"]
    assert airflow.xcom(DAG, run_id, TASK) is None

    assert airflow.wait_for_dag_run(DAG, run_id) == "success"
    [run] = emulator.ledger()["runs"]
    assert run["charged"] == 0.09
    assert airflow.xcom(DAG, run_id, TASK, "output_urls") == [
        f"{emulator.origin}/media/{started['run_id']}/still.png"
    ]
    # On a slow machine Airflow itself may end the try that resumes; nothing else may have cost one.
    tries = airflow.task_instance(DAG, run_id, TASK).try_number
    assert tries == 1 + airflow.tries_ended_by_mistake(run_id), airflow.process_log("scheduler")
    assert_the_key_is_nowhere(airflow, run_id)


def assert_the_key_is_nowhere(airflow: LocalAirflow, run_id: str) -> None:
    """Not in logs, database, rendered fields or XCom, and not in the answers of the REST API."""
    files = [path for path in airflow.home.rglob("*") if path.is_file()]
    assert any(path.is_relative_to(airflow.logs) and TASK in str(path) for path in files)
    assert [path for path in files if API_KEY.encode() in path.read_bytes()] == []
    for instance in airflow.task_instances(DAG, run_id):
        entries = f"/dags/{DAG}/dagRuns/{run_id}/taskInstances/{instance.task_id}/xcomEntries"
        assert API_KEY not in json.dumps(instance.raw)
        assert API_KEY not in json.dumps(airflow.api("GET", entries))
        assert API_KEY not in airflow.task_log(DAG, run_id, instance.task_id)
