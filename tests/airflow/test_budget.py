"""A budget of a DAG run, asked by fifty tasks in as many processes as the machine bears."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from airflow_provider_flora.emulator import Emulator
from airflow_provider_flora.runs.dag_run_budget import REGISTER_KEY
from scripts.local_airflow import LocalAirflow
from tests.airflow.conftest import DATABASES
from tests.airflow.flora_key import API_KEY

pytestmark = pytest.mark.slow


def test_fifty_mapped_tasks_pay_for_twenty_and_one_that_fails_before_it_begins_holds_nobody_back(
    tmp_path: Path,
) -> None:
    dags = tmp_path / "dags"
    dags.mkdir()
    shutil.copy(Path(__file__).parent / "dags" / "flora_budget.py", dags)
    with Emulator(run_seconds=1, cost_lag=0, api_key=API_KEY) as emulator:
        connection = {"conn_type": "flora", "host": emulator.base_url, "password": API_KEY}
        environment = {
            "AIRFLOW_CONN_FLORA_DEFAULT": json.dumps(connection),
            "AIRFLOW__CORE__PARALLELISM": "16",
        }
        with LocalAirflow(tmp_path / "home", dags, env=environment, database_cache=DATABASES) as airflow:
            early = airflow.trigger("flora_budget_early", {})
            assert airflow.wait_for_dag_run("flora_budget_early", early, 120) == "success"
            assert airflow.xcom("flora_budget_early", early, "broken", REGISTER_KEY)["reserved"] == 0.0
            run_id = airflow.trigger("flora_budget", {})
            state = airflow.wait_for_dag_run("flora_budget", run_id, 1500)
            instances = airflow.task_instances("flora_budget", run_id)
        logs = [path.read_text() for path in (tmp_path / "home" / "logs").rglob("map_index=*/attempt=*.log")]
        ledger = emulator.ledger()
    assert Counter(one.state for one in instances) == {"success": 20, "skipped": 30}
    assert state == "success"
    assert (ledger["started_runs"], ledger["charged_runs"]) == (21, 21)  # and the one beside the task that failed
    # Airflow writes the words of a skipped task into its log.
    assert sum("max_dag_run_cost=1.8 USD" in log and "picture[" in log for log in logs) == 30
