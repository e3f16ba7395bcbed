"""What whoever operates Airflow does by command, on its real processes: adopt, abandon, look for what is left."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from airflow_provider_flora.emulator import Emulator
from scripts.local_airflow import LocalAirflow

DAG, TASK = "flora_operated", "still"


@pytest.fixture
def connection(airflow: LocalAirflow, emulator: Emulator) -> Iterator[None]:
    """A connection in Airflow's database, which sends nothing twice by itself."""
    airflow.api(
        "POST",
        "/connections",
        body={
            "connection_id": DAG,
            "conn_type": "flora",
            "host": emulator.base_url,
            "password": emulator.api_key,
            "extra": json.dumps({"max_retries": 0}),
        },
    )
    yield
    airflow.api("DELETE", f"/connections/{DAG}")


def fail_with_a_lost_answer(airflow: LocalAirflow, emulator: Emulator) -> tuple[str, dict[str, Any]]:
    """Return a DAG run whose task has failed, and the run that Flora has made nevertheless."""
    before = {run["run_id"] for run in emulator.ledger()["runs"]}
    emulator.order_fault("reset", when="after", operation="startTechniqueRun")
    run_id = airflow.trigger(DAG)
    assert airflow.wait_for_dag_run(DAG, run_id) == "failed"
    [paid] = [run for run in emulator.ledger()["runs"] if run["run_id"] not in before]
    return run_id, paid


def flora(airflow: LocalAirflow, command: str, run_id: str, *more: str) -> str:
    return airflow.airflow("flora", command, DAG, run_id, TASK, *more)


def is_delivered(airflow: LocalAirflow, run_id: str) -> bool:
    return bool(json.loads(flora(airflow, "task", run_id, "--json"))["record"]["delivered"])


@pytest.mark.usefixtures("connection")
def test_a_run_whose_start_was_not_answered_is_adopted_and_paid_once(
    airflow: LocalAirflow, emulator: Emulator
) -> None:
    run_id, paid = fail_with_a_lost_answer(airflow, emulator)
    told = json.loads(flora(airflow, "task", run_id, "--json"))
    assert (told["state"], told["record"]["run_id"], len(told["record"]["sent"])) == ("failed", None, 1)

    assert paid["run_id"] in flora(airflow, "adopt", run_id, paid["run_id"], "--yes")
    told = json.loads(flora(airflow, "task", run_id, "--json"))
    assert (told["run"]["run_id"], told["clear"]["state"]) == (paid["run_id"], "COMPLETED")

    airflow.clear(DAG, run_id, [TASK])
    assert airflow.wait_for_dag_run(DAG, run_id) == "success"
    assert airflow.xcom(DAG, run_id, TASK, "run_id") == paid["run_id"]
    [only] = emulator.ledger()["runs"]
    assert only["charged"] == 0.09
    airflow.wait_until(lambda: is_delivered(airflow, run_id), 60, "the note that the result was handed over")


@pytest.mark.usefixtures("connection")
def test_a_start_that_was_not_answered_is_abandoned_and_another_run_is_paid(
    airflow: LocalAirflow, emulator: Emulator
) -> None:
    run_id, paid = fail_with_a_lost_answer(airflow, emulator)
    assert "has left a start without an answer" in flora(airflow, "abandon", run_id, "--yes")
    airflow.clear(DAG, run_id, [TASK])
    assert airflow.wait_for_dag_run(DAG, run_id) == "success"
    first, second = emulator.ledger()["runs"]
    assert first["run_id"] == paid["run_id"]
    assert airflow.xcom(DAG, run_id, TASK, "run_id") == second["run_id"]

    # Nobody has got the first one. No record has its id, so it counts as a run of others.
    airflow.wait_until(lambda: is_delivered(airflow, run_id), 60, "the note that the result was handed over")
    found = json.loads(airflow.airflow("flora", "undelivered", "--conn-id", DAG, "--since", "1h", "--json"))
    assert found["undelivered"] == []
    assert [run["run_id"] for run in found["others"]] == [paid["run_id"]]
