"""Airflow with a run of each example DAG in it: for `make airflow` and `make screenshots`."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import requests

from scripts.emulator_process import API_KEY, EmulatorProcess
from scripts.local_airflow import FINISHED, LocalAirflow, LocalAirflowError, NotYetError

FOLDER = Path(__file__).resolve().parents[1] / "example_dags"
DAG_IDS = sorted(path.stem for path in FOLDER.glob("flora_*.py"))
WATCHING = "flora_on_designers_run"
"""The example that a run at Flora starts, of a designer."""
RUN_ID = "example"
"""The id of the runs that are triggered. A DAG with a schedule has the run that its schedule starts."""

ASKS = "asks"
"""Beside Airflow's states of DAG runs: a task of the run waits for an answer by a person."""

_PRODUCTS = ("sneaker", "lamp", "mug", "chair")
_LIGHTS = ("golden hour", "neon", "overcast")
_BRIEFS = (
    ("spring", "A lantern shop opens its garden"),
    ("autumn", "Warm light for long evenings"),
    ("winter", "A lamp for each window"),
)


def airflow_with_examples(
    home: Path, emulator: EmulatorProcess, storage: str, env: Mapping[str, str] | None = None
) -> LocalAirflow:
    """Return an Airflow to enter, which has the examples and takes the emulator for Flora.

    :param home: its AIRFLOW_HOME. A database for the next start is kept in the folder above.
    :param storage: where the pipelines read their `tables` and write their files.
    """
    connection = {"conn_type": "flora", "host": emulator.base_url, "password": API_KEY}
    return LocalAirflow(
        home,
        FOLDER,
        env={
            "AIRFLOW_CONN_FLORA_DEFAULT": json.dumps(connection),
            "AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE": "True",
            "FLORA_MEDIA_BASE": f"{emulator.origin}/media/samples",
            "FLORA_PIPELINE_STORAGE": storage,
            **(env or {}),
        },
        database_cache=home.parent / "empty-databases",
        report=lambda step: print(f"  {step}", flush=True),
    )


def tables(emulator: EmulatorProcess) -> dict[str, bytes]:
    """The tables that the pipelines read, by their file names."""
    samples = f"{emulator.origin}/media/samples"
    products = [
        (f"{product}-{light.replace(' ', '-')}", f"{samples}/{product}.png", light)
        for light in _LIGHTS
        for product in _PRODUCTS
    ]
    return {
        "products.csv": _as_csv(("product", "photo", "light"), *products),
        "briefs.csv": _as_csv(("campaign", "brief"), *_BRIEFS),
    }


def _as_csv(*rows: Sequence[str]) -> bytes:
    file = io.StringIO()
    csv.writer(file).writerows(rows)
    return file.getvalue().encode()


def run_all(airflow: LocalAirflow, emulator: EmulatorProcess, timeout: float = 900) -> Iterator[str]:
    """Start one run of each example and wait until each is finished or asks a person; yields lines of progress.

    Never fails because of a run: one that cannot start, fails or takes too long is a line.
    """
    started = []
    try:
        start_as_designer(airflow, emulator)
    except (LocalAirflowError, NotYetError, requests.RequestException) as error:
        yield f"{WATCHING} has no run of a designer: {error}"
    for dag_id in DAG_IDS:
        try:
            make_run(airflow, dag_id)
            started.append(dag_id)
        except (LocalAirflowError, NotYetError, requests.RequestException) as error:
            # A mistake in a DAG file comes as a traceback, which ends with what is wrong.
            lines = str(error).strip().splitlines() or [type(error).__name__]
            yield f"{dag_id} was not started: {lines[-1 if isinstance(error, LocalAirflowError) else 0][:300]}"
    # All with one request: beside running tasks, each may stop SQLite for a minute (see `trigger`).
    which = {"dag_id_pattern": "flora_", "limit": 100}
    airflow.wait_until(
        lambda: airflow.api("PATCH", "/dags", params=which, body={"is_paused": False}), 300, "the examples' start"
    )
    ends = time.monotonic() + timeout
    shown: Mapping[str, str] = {}
    while time.monotonic() < ends:
        try:
            states = airflow.wait_until(lambda: read_states(airflow), 30, "the states of the runs")
        except (NotYetError, requests.RequestException) as error:
            yield f"the states of the example runs are not known: {error}"
            return
        over = {dag_id: states[dag_id] for dag_id in started if states.get(dag_id) in (*FINISHED, ASKS)}
        if over != shown:
            yield _progress(over)
            shown = over
        if len(over) == len(started):
            return
        time.sleep(1)
    late = [dag_id for dag_id in started if dag_id not in shown]
    yield f"not finished after {timeout / 60:.0f} minutes: {', '.join(late)}"


def start_as_designer(airflow: LocalAirflow, emulator: EmulatorProcess) -> None:
    """Start a run at Flora, as a designer does, when the watch that is to hear of it has begun.

    Nothing else may have listed runs before.
    """
    airflow.wait_for_dag(WATCHING)
    airflow.unpause(WATCHING)
    # Airflow reads the watchers of a DAG when it parses its file again.
    airflow.api("PUT", f"/parseDagFile/{airflow.api('GET', f'/dags/{WATCHING}')['file_token']}")

    def has_begun() -> bool:
        ledger = requests.get(f"{emulator.origin}/_emulator/ledger", timeout=30).json()
        return bool(ledger["requests"].get("listTechniqueRuns", 0) >= 3)  # two of active runs, and one of all

    airflow.wait_until(has_begun, 120, "the begin of the watch of Flora's runs")
    inputs = [
        {"id": "photo", "type": "imageUrl", "value": f"{emulator.origin}/media/samples/lamp.png"},
        {"id": "motion", "type": "text", "value": "slow push in"},
    ]
    requests.post(
        f"{emulator.base_url}/techniques/product-motion/runs",
        json={"inputs": inputs, "mode": "async"},
        headers={"Authorization": f"Bearer {API_KEY}"},
        timeout=30,
    ).raise_for_status()


def make_run(airflow: LocalAirflow, dag_id: str) -> None:
    """Make a run of an example, which begins when its DAG is unpaused. A schedule makes its own."""
    airflow.wait_for_dag(dag_id)
    if airflow.api("GET", f"/dags/{dag_id}")["timetable_summary"] is None:
        airflow.trigger(dag_id, run_id=RUN_ID, stays_paused=True)


def read_states(airflow: LocalAirflow) -> dict[str, str]:
    """The state of the first run of each DAG: one of Airflow's, or `ASKS`."""
    runs = airflow.api("GET", "/dags/~/dagRuns", params={"limit": 100, "order_by": "-id"})["dag_runs"]
    states = {run["dag_id"]: run["state"] for run in runs}
    asking = airflow.api("GET", "/dags/~/dagRuns/~/hitlDetails", params={"response_received": False, "limit": 100})
    for question in asking["hitl_details"]:
        task = question["task_instance"]
        if states.get(task["dag_id"]) == "running":
            states[task["dag_id"]] = ASKS
    return states


def _progress(states: Mapping[str, str]) -> str:
    asking = [dag_id for dag_id, state in states.items() if state == ASKS]
    failed = [dag_id for dag_id, state in states.items() if state == "failed"]
    text = f"{len(states) - len(asking)} of {len(DAG_IDS)} example runs are finished"
    if failed:
        text += f"; failed: {', '.join(failed)}"
    if asking:
        text += f"; {' and '.join(asking)} {'waits' if len(asking) == 1 else 'wait'} for your answer"
    return text
