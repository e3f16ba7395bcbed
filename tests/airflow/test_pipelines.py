"""The whole pipelines on Airflow 3 and 2.11, with files on a disk and in an S3 on this machine.

Airflow 3 runs with all its processes. On 2.11 one process runs the DAGs and then its scheduler starts what the
assets' events call for.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_flora.emulator import Emulator
from scripts.local_airflow import LocalAirflow, base_environment, dags_test
from tests.airflow.flora_key import API_KEY

REPOSITORY = Path(__file__).parents[2]
EXAMPLES = REPOSITORY / "example_dags"
PYTHON_2_11 = REPOSITORY / ".venv-airflow-2.11" / "bin" / "python"
DATABASES = REPOSITORY / ".airflow" / "empty-databases"
PRODUCTS = ("sneaker", "lamp", "mug")
FAILS = "lamp"
CAMPAIGNS = ("spring", "autumn")


# --- storages ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Storage:
    """A place for files.

    :param uri: as a DAG names it.
    :param put: writes a file by its path.
    :param files: gives what is there by path.
    """

    uri: str
    put: Callable[[str, bytes], object]
    files: Callable[[], dict[str, bytes]]

    def content(self, uri: str) -> bytes:
        """A file by its URI."""
        assert uri.startswith(f"{self.uri}/")
        return self.files()[uri.removeprefix(f"{self.uri}/")]


@pytest.fixture(scope="module")
def s3_endpoint() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture(scope="module")
def aws_connection(s3_endpoint: str) -> dict[str, Any]:
    """The Airflow connection `store`."""
    extra = {"endpoint_url": s3_endpoint, "region_name": "us-east-1"}
    return {"conn_type": "aws", "login": "me", "password": "secret", "extra": extra}


@pytest.fixture(scope="module")
def new_storage(s3_endpoint: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Storage]:
    """Makes an empty storage: `new_storage("local")` or `new_storage("s3")`."""
    import boto3

    keys = {"aws_access_key_id": "me", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
    s3: Any = boto3.client("s3", endpoint_url=s3_endpoint, **keys)

    def local() -> Storage:
        folder = tmp_path_factory.mktemp("storage")
        return Storage(
            f"file://{folder}",
            lambda path, content: (folder / path).write_bytes(content),
            lambda: {
                str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()
            },
        )

    def bucket() -> Storage:
        name = f"shop-{len(s3.list_buckets()['Buckets'])}"
        s3.create_bucket(Bucket=name)

        def files() -> dict[str, bytes]:
            keys = [entry["Key"] for entry in s3.list_objects_v2(Bucket=name).get("Contents", [])]
            return {key: s3.get_object(Bucket=name, Key=key)["Body"].read() for key in keys}

        return Storage(
            f"s3://store@{name}", lambda path, content: s3.put_object(Bucket=name, Key=path, Body=content), files
        )

    return lambda kind: {"local": local, "s3": bucket}[kind]()


@pytest.fixture(params=["local", "s3"])
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def with_products(storage: Storage, emulator: Emulator) -> Storage:
    rows = [f"{product},{emulator.origin}/media/samples/{product}.png,golden hour" for product in PRODUCTS]
    storage.put("products.csv", "\n".join(["product,photo,light", *rows, ""]).encode())
    return storage


def with_briefs(storage: Storage) -> Storage:
    rows = [f'{campaign},"A {campaign} sale, with tea"' for campaign in CAMPAIGNS]
    storage.put("briefs.csv", "\n".join(["campaign,brief", *rows, ""]).encode())
    return storage


def order_failure(emulator: Emulator, times: int | None = None) -> None:
    emulator.order_fault(
        "fail_run",
        contains=f"{FAILS}.png",
        times=times,
        error_code="GENERATION_PROMPT_MODERATED",
        error_message="Your request was rejected by the safety system.",
    )


# --- what each pipeline must have done --------------------------------------------------------------------


def lines_of(storage: Storage, path: str) -> dict[str, dict[str, Any]]:
    """The lines of a manifest by row, in its order."""
    lines = [json.loads(line) for line in storage.files()[path].decode().splitlines()]
    return {line["row_id"]: line for line in lines}


def check_refreshed(storage: Storage, state: str | None) -> dict[str, dict[str, Any]]:
    """One row failed, the others have their files, and the manifest describes each."""
    assert state == "failed"  # a person has to act
    lines = lines_of(storage, "relit/manifest.jsonl")
    assert list(lines) == list(PRODUCTS)
    assert {product: line["status"] for product, line in lines.items()} == {
        product: "failed" if product == FAILS else "completed" for product in PRODUCTS
    }
    assert lines[FAILS]["error"]["code"] == "GENERATION_PROMPT_MODERATED"
    assert lines[FAILS]["error"]["remedy"] == "change the input"
    check_pictures(storage, lines)
    return lines


def check_refreshed_again(storage: Storage, state: str | None) -> dict[str, dict[str, Any]]:
    """The night after, the row that had failed was run, and nothing else."""
    assert state == "success"
    lines = lines_of(storage, "relit/manifest.jsonl")
    assert {product: (line["status"], line["reused"]) for product, line in lines.items()} == {
        product: ("completed", product != FAILS) for product in PRODUCTS
    }
    check_pictures(storage, lines)
    return lines


def check_pictures(storage: Storage, lines: Mapping[str, Mapping[str, Any]]) -> None:
    """Each completed row has its picture, and there are no other pictures."""
    pictures = {path for path in storage.files() if path.startswith("relit/files/")}
    completed = {product: line for product, line in lines.items() if line["status"] == "completed"}
    assert pictures == {f"relit/files/{product}-image.png" for product in completed}
    for product, line in completed.items():
        [file] = line["files"]
        assert file["uri"] == f"{storage.uri}/relit/files/{product}-image.png"
        content = storage.content(file["uri"])
        assert content.startswith(b"\x89PNG")
        assert hashlib.sha256(content).hexdigest() == file["sha256"]
        assert line["charged_cost"] == 0.18


def check_campaign(storage: Storage, state: str | None) -> None:
    """Each poster was made of the taglines of its own row."""
    assert state == "success"
    texts, posters = (lines_of(storage, f"campaign/{name}.jsonl") for name in ("taglines", "posters"))
    assert list(texts) == list(posters) == list(CAMPAIGNS)
    for campaign, poster in posters.items():
        assert f"A {campaign} sale, with tea" in poster["inputs"]["prompt"]
        assert texts[campaign]["output_texts"][0] in poster["inputs"]["prompt"]
        assert storage.content(poster["files"][0]["uri"]).startswith(b"\x89PNG")
    pictures = {path for path in storage.files() if path.startswith("campaign/posters/")}
    assert pictures == {f"campaign/posters/{campaign}.png" for campaign in CAMPAIGNS}


def check_storyboard(storage: Storage, state: str | None, reel: list[str], scenes: int) -> None:
    """The videos, in the order of the lines, and no other files."""
    assert state == "success"
    assert len(reel) == scenes
    assert sorted(reel) == reel
    assert {f"{storage.uri}/{path}" for path in storage.files()} == set(reel)
    assert all(content[4:8] == b"ftyp" for content in storage.files().values())


def check_manifest_events(storages: Mapping[str, Storage], extras: list[dict[str, Any]]) -> None:
    """One run reads the events of both refreshes, each with its storage. A task that failed has none."""
    assert sorted(event["manifest"] for event in extras) == sorted(
        f"{storage.uri}/relit/manifest.jsonl" for storage in storages.values()
    )
    for event in extras:
        counts = {name: event[name] for name in ("rows", "completed", "reused", "failed", "charged_cost")}
        assert counts == {"rows": 3, "completed": 3, "reused": 2, "failed": 0, "charged_cost": 0.18}
        assert event["changed_rows"] == [FAILS]


def check_published(storages: Mapping[str, Storage], published: Mapping[str, int]) -> None:
    files = [file for storage in storages.values() for file in storage.files().items()]
    pictures = {len(content) for path, content in files if path.endswith(".png")}
    assert set(published) == set(PRODUCTS)
    assert set(published.values()) <= pictures


# --- Airflow 3 --------------------------------------------------------------------------------------------

CONSUMER = "flora_pipeline_on_refresh"


@pytest.fixture(scope="module")
def airflow_with_store(airflow: LocalAirflow, aws_connection: Mapping[str, Any]) -> Iterator[LocalAirflow]:
    body = {**aws_connection, "extra": json.dumps(aws_connection["extra"]), "connection_id": "store"}
    airflow.api("POST", "/connections", body=body)
    yield airflow
    airflow.api("DELETE", "/connections/store")


def why(airflow: LocalAirflow, dag_id: str, run_id: str) -> str:
    """The logs of the tasks that failed."""
    failed = [one for one in airflow.task_instances(dag_id, run_id) if one.state == "failed"]
    return "\n".join(airflow.task_log(dag_id, run_id, one.task_id, map_index=one.map_index) for one in failed)


@dataclass(frozen=True)
class Refreshed:
    """The refreshes of two nights on Airflow 3.

    :param storages: the storages by kind.
    :param first: the lines of the first night by kind, which were checked.
    :param states: the states of the second night by kind.
    :param ledgers: the emulator's ledger after each night.
    """

    storages: dict[str, Storage]
    first: dict[str, dict[str, Any]]
    states: dict[str, str]
    ledgers: list[dict[str, Any]]


@pytest.fixture(scope="module")
def refreshed_on_3(
    airflow_with_store: LocalAirflow, _emulator: Emulator, new_storage: Callable[[str], Storage]
) -> Refreshed:
    airflow, dag_id = airflow_with_store, "flora_pipeline_refresh"
    _emulator.reset()
    order_failure(_emulator)
    airflow.wait_for_dag(CONSUMER)
    airflow.unpause(CONSUMER)  # from now on an event of the manifest's is for it
    storages = {kind: with_products(new_storage(kind), _emulator) for kind in ("local", "s3")}

    def night() -> dict[str, str]:
        runs = {kind: airflow.trigger(dag_id, {"storage": storage.uri}) for kind, storage in storages.items()}
        return {kind: airflow.wait_for_dag_run(dag_id, run_id) for kind, run_id in runs.items()}

    states = night()
    first = {kind: check_refreshed(storage, states[kind]) for kind, storage in storages.items()}
    ledger = _emulator.ledger()
    _emulator.clear_faults()  # the photo was replaced by one that is allowed
    return Refreshed(storages, first, night(), [ledger, _emulator.ledger()])


def let_all_events_count(home: Path, table: str) -> None:
    """Put what is queued for the asset's DAG at now.

    Airflow queues an asset once, with the time of the first event that waits; later ones are for the next run.
    """
    now = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S.%f")
    with sqlite3.connect(home / "airflow.db", timeout=30) as database:
        database.execute(f"UPDATE {table} SET created_at = ?", (now,))


@contextmanager
def scheduling(airflow: LocalAirflow) -> Iterator[None]:
    """Let the scheduler start DAG runs of its own; elsewhere these tests start each by hand."""
    setting = "AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE"
    active = [dag["dag_id"] for dag in airflow.api("GET", "/dags", params={"paused": False})["dags"]]
    others = [dag_id for dag_id in active if dag_id != CONSUMER]
    for dag_id in others:
        airflow.unpause(dag_id, paused=True)
    before = airflow.env[setting]
    airflow.env[setting] = "True"
    airflow.restart("scheduler")
    try:
        yield
    finally:
        airflow.env[setting] = before
        airflow.restart("scheduler")
        for dag_id in others:
            airflow.unpause(dag_id)


def test_a_refresh_on_airflow_3_pays_for_what_is_missing(refreshed_on_3: Refreshed, kind: str) -> None:
    storage, first = refreshed_on_3.storages[kind], refreshed_on_3.first[kind]
    lines = check_refreshed_again(storage, refreshed_on_3.states[kind])
    assert all(lines[product]["run_id"] == first[product]["run_id"] for product in PRODUCTS if product != FAILS)
    assert not [path for path in storage.files() if ".journal/" in path]  # the task state store has it
    # Twice three rows, one of which fails, and then twice that one.
    paid = [(ledger["started_runs"], ledger["charged_runs"]) for ledger in refreshed_on_3.ledgers]
    assert paid == [(6, 4), (8, 6)]


def test_a_campaign_on_airflow_3_ends_in_posters(
    airflow_with_store: LocalAirflow, emulator: Emulator, new_storage: Callable[[str], Storage], kind: str
) -> None:
    airflow = airflow_with_store
    storage = with_briefs(new_storage(kind))
    dag_id = "flora_pipeline_campaign"
    run_id = airflow.trigger(dag_id, {"storage": storage.uri})
    state = airflow.wait_for_dag_run(dag_id, run_id)
    assert state == "success", why(airflow, dag_id, run_id)
    check_campaign(storage, state)
    assert emulator.ledger()["started_runs"] == emulator.ledger()["charged_runs"] == 4


def test_a_storyboard_on_airflow_3_ends_in_films(
    airflow_with_store: LocalAirflow, emulator: Emulator, new_storage: Callable[[str], Storage], kind: str
) -> None:
    airflow = airflow_with_store
    storage = new_storage(kind)
    dag_id = "flora_pipeline_storyboard"
    run_id = airflow.trigger(dag_id, {"storage": storage.uri, "scenes": 2})
    state = airflow.wait_for_dag_run(dag_id, run_id)
    assert state == "success", why(airflow, dag_id, run_id)
    check_storyboard(storage, state, airflow.xcom(dag_id, run_id, "reel"), scenes=2)
    assert emulator.ledger()["started_runs"] == emulator.ledger()["charged_runs"] == 5

    events = airflow.api("GET", "/assets/events", params={"source_dag_id": dag_id, "source_run_id": run_id})
    extras = [event["extra"] for event in events["asset_events"]]
    assert sorted({event["files"][0]["uri"] for event in extras}) == airflow.xcom(dag_id, run_id, "reel")
    assert len(extras) <= 2 + airflow.tries_ended_by_mistake(run_id)
    assert {event["technique_id"] for event in extras} == {"product-motion"}
    assert {event["charged_cost"] for event in extras} == {0.55}
    assert {event["run_id"] for event in extras} <= {run["run_id"] for run in emulator.ledger()["runs"]}


def test_the_manifests_start_the_next_dag_on_airflow_3(
    airflow_with_store: LocalAirflow, refreshed_on_3: Refreshed
) -> None:
    airflow = airflow_with_store

    def started() -> str | None:
        runs = airflow.api("GET", f"/dags/{CONSUMER}/dagRuns")["dag_runs"]
        return next((run["dag_run_id"] for run in runs), None)

    let_all_events_count(airflow.home, "asset_dag_run_queue")
    with scheduling(airflow):
        run_id = airflow.wait_until(started, 300, "the run that the manifests start")
        assert run_id is not None
        state = airflow.wait_for_dag_run(CONSUMER, run_id)
    assert state == "success", why(airflow, CONSUMER, run_id)
    check_manifest_events(refreshed_on_3.storages, airflow.xcom(CONSUMER, run_id, "manifests"))
    check_published(refreshed_on_3.storages, airflow.xcom(CONSUMER, run_id, "publish"))


# --- Airflow 2.11 -----------------------------------------------------------------------------------------


@dataclass
class Ran:
    """What happened on 2.11: a storage for each DAG and kind, states, XComs, and what was printed.

    A refresh runs twice. Its state and its XComs are those of the second night.
    """

    storages: dict[tuple[str, str], Storage] = field(default_factory=dict)
    all_states: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    xcoms: dict[tuple[str, str, str], Any] = field(default_factory=dict)
    ledger: dict[str, Any] = field(default_factory=dict)
    output: str = ""


@pytest.fixture(scope="module")
def quick_emulator() -> Iterator[Emulator]:
    """The runs of one DAG may end before they are polled. Here one run waits for the other."""
    with Emulator(run_seconds=0.05, cost_lag=0, api_key=API_KEY) as emulator:
        yield emulator


@pytest.fixture(scope="module")
def ran_on_2_11(
    quick_emulator: Emulator,
    aws_connection: Mapping[str, Any],
    new_storage: Callable[[str], Storage],
    tmp_path_factory: pytest.TempPathFactory,
) -> Ran:
    """Every pipeline with every storage, in one process, and the scheduler until the manifests were consumed."""
    if not PYTHON_2_11.exists():
        pytest.skip(f"there is no {PYTHON_2_11.relative_to(REPOSITORY)}; `make test-airflow` makes it")
    order_failure(quick_emulator, times=2)  # in the first night, in both storages
    ran = Ran()
    dag_ids = ("flora_pipeline_refresh", "flora_pipeline_storyboard", "flora_pipeline_campaign")
    for dag_id in dag_ids:
        for kind in ("local", "s3"):
            ran.storages[dag_id, kind] = with_briefs(with_products(new_storage(kind), quick_emulator))
    asked = [
        (dag_id, {"storage": ran.storages[dag_id, kind].uri, **({"scenes": 2} if "story" in dag_id else {})})
        for dag_id in (*dag_ids, dag_ids[0])
        for kind in ("local", "s3")
    ]
    home = tmp_path_factory.mktemp("airflow-2")
    env = {
        **base_environment(home, EXAMPLES),
        "AIRFLOW_CONN_FLORA_DEFAULT": json.dumps(
            {"conn_type": "flora", "host": quick_emulator.base_url, "password": API_KEY}
        ),
        "AIRFLOW_CONN_STORE": json.dumps(aws_connection),
    }
    _, ran.output = dags_test(asked, EXAMPLES, home, python=PYTHON_2_11, env=env, database_cache=DATABASES)
    ran.ledger = quick_emulator.ledger()
    schedule(home, env, ran)
    read_runs(home, ran)
    return ran


def schedule(home: Path, env: Mapping[str, str], ran: Ran) -> None:
    """Let the scheduler run until the DAG on the manifest has run."""
    let_all_events_count(home, "dataset_dag_run_queue")
    log = home / "scheduler.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [str(PYTHON_2_11), "-m", "airflow", "scheduler", "--skip-serve-logs"],
            env={
                **env,
                "PATH": f"{PYTHON_2_11.parent}{os.pathsep}{env['PATH']}",  # the executor calls `airflow`
                "AIRFLOW__CORE__EXECUTOR": "SequentialExecutor",
                "AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE": "True",
            },
            cwd=home,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    ends = time.monotonic() + 300
    state = None
    try:
        while state not in ("success", "failed") and time.monotonic() < ends and process.poll() is None:
            time.sleep(0.3)
            with suppress(sqlite3.OperationalError), sqlite3.connect(home / "airflow.db") as database:
                query = "SELECT state FROM dag_run WHERE dag_id = ?"
                state = next((row[0] for row in database.execute(query, (CONSUMER,))), None)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, 15)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait(10)
    ran.output += log.read_text(errors="replace")


def read_runs(home: Path, ran: Ran) -> None:
    with sqlite3.connect(home / "airflow.db") as database:
        runs = database.execute("SELECT dag_id, run_id, state, conf FROM dag_run ORDER BY id").fetchall()
        seen: dict[str, int] = {}
        for dag_id, run_id, state, _ in runs:
            kind = ("local", "s3")[seen.get(dag_id, 0) % 2]
            seen[dag_id] = seen.get(dag_id, 0) + 1
            ran.all_states.setdefault((dag_id, kind), []).append(state)
            values = database.execute(
                "SELECT task_id, value FROM xcom WHERE run_id = ? AND dag_id = ? AND key = 'return_value'"
                " AND map_index = -1",
                (run_id, dag_id),
            )
            for task_id, value in values:
                ran.xcoms[dag_id, kind, task_id] = json.loads(value)


def test_a_refresh_on_airflow_2_11_pays_for_what_is_missing(ran_on_2_11: Ran, kind: str) -> None:
    run = "flora_pipeline_refresh", kind
    assert ran_on_2_11.all_states.get(run) == ["failed", "success"], ran_on_2_11.output
    check_refreshed_again(ran_on_2_11.storages[run], ran_on_2_11.all_states[run][-1])


def test_a_campaign_on_airflow_2_11_ends_in_posters(ran_on_2_11: Ran, kind: str) -> None:
    run = "flora_pipeline_campaign", kind
    assert ran_on_2_11.all_states.get(run) == ["success"], ran_on_2_11.output
    check_campaign(ran_on_2_11.storages[run], "success")


def test_a_storyboard_on_airflow_2_11_ends_in_films(ran_on_2_11: Ran, kind: str) -> None:
    run = "flora_pipeline_storyboard", kind
    storage = ran_on_2_11.storages[run]
    videos = Storage(storage.uri, storage.put, lambda: {p: c for p, c in storage.files().items() if "/" in p})
    assert ran_on_2_11.all_states.get(run) == ["success"], ran_on_2_11.output
    check_storyboard(videos, "success", ran_on_2_11.xcoms[(*run, "reel")], scenes=2)


def test_the_manifests_start_the_next_dag_on_airflow_2_11(ran_on_2_11: Ran) -> None:
    run = CONSUMER, "local"
    assert ran_on_2_11.all_states.get(run) == ["success"], ran_on_2_11.output
    storages = {kind: ran_on_2_11.storages["flora_pipeline_refresh", kind] for kind in ("local", "s3")}
    check_manifest_events(storages, ran_on_2_11.xcoms[(*run, "manifests")])
    check_published(storages, ran_on_2_11.xcoms[(*run, "publish")])


def test_nothing_was_paid_twice_on_airflow_2_11(ran_on_2_11: Ran) -> None:
    # Two refreshes of three rows, one of which fails and is run in the second night; two storyboards of a text, two
    # stills and two videos; two campaigns of two texts and two posters.
    assert (ran_on_2_11.ledger["started_runs"], ran_on_2_11.ledger["charged_runs"]) == (26, 24)
