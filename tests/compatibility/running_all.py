"""Runs all DAGs of these tests on the Airflow of some Python.

On Airflow 3 they run at once, by its own processes: what differs from version to version is mostly there. On
Airflow 2, whose tasks and triggers read the database themselves, they run one after the other in one process.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from PIL import Image

from airflow_provider_flora.emulator import Emulator
from scripts.local_airflow import PASSWORD, USER, LocalAirflow, dags_test
from tests.statsd_receiver import Sample, StatsdReceiver

REPOSITORY = Path(__file__).parents[2]
DATABASES = REPOSITORY / ".airflow" / "empty-databases"
FAILS = "lamp"
RUN_SECONDS_ON_3 = 12.0
"""Long enough for the scheduler to see the deferral first: see `LocalAirflow.tries_ended_by_mistake`."""
RUN_SECONDS_ON_2 = 1.0


@dataclass(frozen=True)
class Ran:
    """A DAG run that has ended: its state, and `xcom(task_id, key="return_value", map_index=-1)`."""

    state: str
    xcom: Callable[..., Any]
    log: str


@dataclass(frozen=True)
class AllRan:
    """Every DAG run by its name in `asked_for`, the folder they wrote to, and the emulator's ledger after them.

    `pages` has what the API server answered to requests for pages: a content type and a body. Airflow 2 has none.
    `metrics` are those that Airflow's processes have sent.
    """

    runs: Mapping[str, Ran]
    storage: Path
    ledger: Mapping[str, Any]
    origin: str
    pages: Mapping[str, tuple[str, bytes]]
    metrics: Sequence[Sample]

    def __getitem__(self, name: str) -> Ran:
        return self.runs[name]


def asked_for(storage: Path) -> dict[str, tuple[str, dict[str, Any]]]:
    """The DAG runs: each name with its DAG and conf."""
    return {
        "quickstart": ("flora_quickstart", {"inputs": {"prompt": "A paper boat"}}),
        "relit": ("flora_content_refresh", {"products": ["sneaker", "mug"]}),
        "one fails": ("flora_content_refresh", {"products": ["chair", FAILS]}),
        "chain": ("flora_chain", {}),
        "decorator": ("flora_decorator", {"season": "winter"}),
        "started, then waited for": ("flora_start_then_wait", {}),
        "refresh": ("flora_pipeline_refresh", {"storage": storage.as_uri()}),
        "on refresh": ("flora_pipeline_on_refresh", {}),
        "campaign": ("flora_pipeline_campaign", {"storage": storage.as_uri()}),
        "storyboard": ("flora_pipeline_storyboard", {"storage": storage.as_uri(), "scenes": 1}),
        "ways": ("flora_ways_to_run", {}),
        "budget": ("flora_dag_run_budget", {}),
    }


def prepare(emulator: Emulator, place: Path) -> tuple[dict[str, str], dict[str, dict[str, str]], Path]:
    """Return Airflow's environment, the connections for its database, and the folder for files."""
    emulator.reset()
    emulator.order_fault(
        "fail_run",
        contains=f"{FAILS}.png",
        times=None,
        error_code="GENERATION_PROMPT_MODERATED",
        error_message="Your request was rejected by the safety system.",
    )
    dags, storage = place / "dags", place / "storage"
    shutil.copytree(REPOSITORY / "example_dags", dags, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(Path(__file__).parent / "dags", dags, dirs_exist_ok=True)
    storage.mkdir()
    rows = [f"{product},{emulator.origin}/media/samples/{product}.png,dusk" for product in ("sneaker", "chair")]
    (storage / "products.csv").write_text("\n".join(["product,photo,light", *rows, ""]))
    (storage / "briefs.csv").write_text("campaign,brief\nkites,A kite shop in spring\n")
    (place / "photo.png").write_bytes(picture())
    flora = {"conn_type": "flora", "host": emulator.base_url, "password": emulator.api_key}
    in_backend = place / "connections.json"
    in_backend.write_text(json.dumps({"flora_in_secrets_backend": flora}))
    environment = {
        "AIRFLOW_CONN_FLORA_DEFAULT": json.dumps(flora),
        "AIRFLOW__SECRETS__BACKEND": "airflow.secrets.local_filesystem.LocalFilesystemBackend",
        "AIRFLOW__SECRETS__BACKEND_KWARGS": json.dumps({"connections_file_path": str(in_backend)}),
        # On 3.0 a task's end is noticed at its next heartbeat only: the trigger may have fired by then.
        "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
        "FLORA_MEDIA_BASE": f"{emulator.origin}/media/samples",
        "FLORA_PHOTO": str(place / "photo.png"),
    }
    return environment, {"flora_in_database": flora}, storage


def picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 30), "teal").save(file, "PNG")
    return file.getvalue()


def run_all_on_3(emulator: Emulator, python: Path, place: Path) -> tuple[AllRan, int]:
    environment, connections, storage = prepare(emulator, place)
    with (
        StatsdReceiver() as statsd,
        LocalAirflow(
            place / "home",
            place / "dags",
            env={**environment, **statsd.settings},
            python=python,
            database_cache=DATABASES,
        ) as airflow,
    ):
        for conn_id, connection in connections.items():
            airflow.api("POST", "/connections", body={"connection_id": conn_id, **connection})
        asked = asked_for(storage)
        run_ids = {name: airflow.trigger(dag_id, conf) for name, (dag_id, conf) in asked.items()}
        states = {name: airflow.wait_for_dag_run(asked[name][0], run_ids[name], 400) for name in asked}
        runs = {
            name: Ran(
                states[name], read_xcoms(airflow, dag_id, run_ids[name]), failures(airflow, dag_id, run_ids[name])
            )
            for name, (dag_id, _) in asked.items()
        }
        # As the tab of Airflow 3.1 asks, which does not encode the names: the plus of a run's id becomes a blank.
        table = f"dag_id=flora_pipeline_refresh&task_id=relight&run_id={run_ids['refresh']}"
        decorated = f"dag_id=flora_decorator&task_id=picture&map_index=1&run_id={run_ids['decorator']}"
        pages = {
            name: read_page(airflow, f"{page}?{query}", accept)
            for name, page, query, accept in (
                ("outputs", "outputs", table, "application/json"),
                ("html", "outputs", table, "text/html"),
                ("run", "run", f"dag_id=flora_quickstart&run_id={run_ids['quickstart']}", "application/json"),
                ("spending", "spending", "", "text/html"),
                ("decorated", "outputs", decorated, "application/json"),
                ("file", "file", f"{table}&row_id=sneaker&index=0", "*/*"),
            )
        }
        tries_lost = sum(airflow.tries_ended_by_mistake(run_id) for run_id in run_ids.values())
        metrics = statsd.samples
    return AllRan(runs, storage, emulator.ledger(), emulator.origin, pages, metrics), tries_lost


def read_page(airflow: LocalAirflow, address: str, accept: str) -> tuple[str, bytes]:
    with requests.Session() as session:
        session.trust_env = False
        login = {"username": USER, "password": PASSWORD}
        token = session.post(f"{airflow.url}/auth/token", json=login, timeout=30).json()["access_token"]
        session.cookies.set("_token", token)
        answer = session.get(f"{airflow.url}/flora/{address}", headers={"Accept": accept}, timeout=30)
        return answer.headers["content-type"], answer.content


def read_xcoms(airflow: LocalAirflow, dag_id: str, run_id: str) -> Callable[..., Any]:
    """Read all XComs of a DAG run now, since Airflow does not outlive the fixture."""
    found = {}
    for instance in airflow.task_instances(dag_id, run_id):
        where = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{instance.task_id}/xcomEntries"
        entries = airflow.api("GET", where, params={"map_index": instance.map_index})["xcom_entries"]
        for key in {entry["key"] for entry in entries}:
            value = airflow.xcom(dag_id, run_id, instance.task_id, key, instance.map_index)
            found[instance.task_id, key, instance.map_index] = value
    return lambda task_id, key="return_value", map_index=-1: found.get((task_id, key, map_index))


def failures(airflow: LocalAirflow, dag_id: str, run_id: str) -> str:
    """The logs of the tasks that failed."""
    return "\n".join(
        f"{one}\n{airflow.task_log(dag_id, run_id, one.task_id, map_index=one.map_index)}"
        for one in airflow.task_instances(dag_id, run_id)
        if one.state == "failed"
    )


def run_all_on_2(emulator: Emulator, python: Path, place: Path) -> tuple[AllRan, int]:
    environment, connections, storage = prepare(emulator, place)
    asked = asked_for(storage)
    with StatsdReceiver() as statsd:
        runs, output = dags_test(
            list(asked.values()),
            place / "dags",
            place / "home",
            python=python,
            env={**environment, **statsd.settings},
            connections=connections,
            database_cache=DATABASES,
        )
        metrics = statsd.samples
    by_name = {name: Ran(run.state, run.xcom, output) for name, run in zip(asked, runs, strict=True)}
    return AllRan(by_name, storage, emulator.ledger(), emulator.origin, {}, metrics), 0
