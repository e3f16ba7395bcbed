"""A watch of all runs while Airflow's processes are killed: each run is told of once."""

from __future__ import annotations

import json
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from airflow_provider_flora.emulator import Emulator
from scripts.local_airflow import LocalAirflow
from tests.airflow.conftest import DATABASES
from tests.airflow.flora_key import API_KEY

DAGS = Path(__file__).parent / "watching_dags"
RUNS = 1000
BURSTS = (
    "triggerer",
    "scheduler",
    "triggerer",
    "api-server",
    "triggerer",
    "dag-processor",
    "triggerer",
    "triggerer",
)
"""What is killed while the runs of a burst end."""


@pytest.fixture
def flora() -> Iterator[Emulator]:
    """Flora, whose runs take some seconds, and whose prices are known later than their end."""
    with Emulator(port=0, run_seconds=3, cost_lag=1, api_key=API_KEY) as emulator:
        emulator.seed_runs(150)  # ended before the watch: none of them is told of
        yield emulator


@pytest.fixture
def airflow(flora: Emulator, tmp_path: Path) -> Iterator[LocalAirflow]:
    """An Airflow of the test's own, which it may kill."""
    connection = {"conn_type": "flora", "host": flora.base_url, "password": API_KEY}
    env = {
        "AIRFLOW_CONN_FLORA_DEFAULT": json.dumps(connection),
        "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "5",
    }
    with LocalAirflow(tmp_path / "airflow", DAGS, env=env, database_cache=DATABASES) as airflow:
        yield airflow


def start_runs(flora: Emulator, count: int) -> None:
    """Start runs as a designer does, in Flora."""
    body = {"inputs": [{"id": "prompt", "type": "text", "value": "A cup"}], "mode": "async"}
    url = f"{flora.base_url}/techniques/editorial-still/runs"
    headers = {"Authorization": f"Bearer {API_KEY}"}

    def start(_: int) -> None:
        requests.post(url, json=body, headers=headers, timeout=60).raise_for_status()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(start, range(count)))


def events(airflow: LocalAirflow) -> Counter[str]:
    """Count the asset events of each run in Airflow's database."""
    database = sqlite3.connect(f"file:{airflow.home / 'airflow.db'}?mode=ro", uri=True, timeout=60)
    try:
        rows = database.execute("select extra from asset_event").fetchall()
    finally:
        database.close()
    return Counter(json.loads(extra)["payload"]["run_id"] for (extra,) in rows)


def wait_for_events(airflow: LocalAirflow, count: int, timeout: float = 240) -> None:
    """Wait until that many events are stored."""
    airflow.wait_until(lambda: events(airflow).total() >= count, timeout, f"{count} events", every=1)


def wait_for_watch(airflow: LocalAirflow, flora: Emulator) -> None:
    """Wait until the watch has begun: it has listed runs."""
    airflow.wait_for_dag("flora_watched", timeout=180)

    def begun() -> bool:
        return flora.ledger(with_runs=False)["requests"].get("listTechniqueRuns", 0) >= 4

    airflow.wait_until(begun, 240, "the begin of the watch")


def test_each_of_1000_runs_is_told_of_once_while_airflow_is_killed(airflow: LocalAirflow, flora: Emulator) -> None:
    wait_for_watch(airflow, flora)
    flora.order_fault("slow_run", seconds=60, times=5)  # these end late, when newer runs fill the first page
    flora.order_fault("fail_run", times=7)
    started = 0
    for number, name in enumerate(BURSTS, 1):
        count = RUNS * number // len(BURSTS) - started
        start_runs(flora, count)
        started += count
        # The kill meets a watch that is in the midst of telling.
        told = events(airflow).total()
        airflow.wait_until(lambda told=told: events(airflow).total() > told, 180, "the first event", every=0.2)
        time.sleep(0.3 * number)
        airflow.restart(name)
    wait_for_events(airflow, RUNS)
    airflow.kill("triggerer")  # what it would tell twice, it tells when it is back
    airflow.start("triggerer")
    requests_then = flora.ledger(with_runs=False)["requests"]["listTechniqueRuns"]
    airflow.wait_until(
        lambda: flora.ledger(with_runs=False)["requests"]["listTechniqueRuns"] > requests_then + 4,
        240,
        "more polls",
    )
    counted = events(airflow)
    own = {run["run_id"] for run in flora.ledger()["runs"]}
    assert len(own & counted.keys()) == RUNS
    assert counted.keys() <= own
    assert [run_id for run_id, count in counted.items() if count > 1] == []
    assert API_KEY not in airflow.process_log("triggerer")
