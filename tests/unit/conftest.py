"""For one process that plays many of Airflow's, each of which runs a task and ends; a Flora and an S3 for them."""

from __future__ import annotations

import gc
import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from airflow_provider_flora.airflow_compat import airflow_is_at_least
from airflow_provider_flora.emulator import Emulator
from airflow_provider_flora.runs import shared_files, starting
from tests.statsd_receiver import StatsdReceiver
from tests.unit import airflow_home  # noqa: F401
from tests.unit.airflow_tables import TABLES, Instances
from tests.unit.flora_key import API_KEY

# A busy machine must not make a property fail, nor a property make the machine busy.
settings.register_profile("unit", deadline=None, max_examples=50)
settings.load_profile("unit")

_numbers = itertools.count()


@pytest.fixture(scope="session")
def _kept_techniques(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tasks") / "techniques"


@pytest.fixture(autouse=True)
def kept_techniques(_kept_techniques: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where tasks keep techniques and more for each other: a place of the tests' own, with nothing in it."""
    monkeypatch.setattr(shared_files, "FOLDER", _kept_techniques)
    yield _kept_techniques
    shutil.rmtree(_kept_techniques, ignore_errors=True)


@pytest.fixture(autouse=True)
def quick_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starts end, and show in the history, within a moment."""
    monkeypatch.setattr(starting, "start_duration", lambda _: 0.2)
    monkeypatch.setattr(starting, "HISTORY_LAG", 0.1)
    monkeypatch.setattr(starting, "POLL_INTERVAL", 0.1)


@pytest.fixture(autouse=True)
def _tasks_that_may_defer_do(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a test of both ways to wait, no run has ended by the first poll: the deferred way is by the trigger."""
    callspec = getattr(request.node, "callspec", None)
    if callspec is not None and callspec.params.get("deferrable"):
        from airflow_provider_flora.operators.flora import FloraRunTechniqueOperator

        monkeypatch.setattr(FloraRunTechniqueOperator, "_finishes_soon", lambda *_: False)


@pytest.fixture(scope="session")
def _emulator() -> Iterator[Emulator]:
    with Emulator(port=0, run_seconds=0.05, cost_lag=0, seed=0, api_key=API_KEY) as emulator:
        yield emulator


@pytest.fixture
def emulator(_emulator: Emulator) -> Iterator[Emulator]:
    """Flora, with a key of each test's own: runs take a moment, what they cost is known at once."""
    _emulator.reset()
    _emulator.api_key = f"{API_KEY}_{next(_numbers)}"
    yield _emulator
    _emulator.reset()


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets the connection to an emulator: ``connect(emulator, timeout=1)``; the rest is its extra."""

    def set_connection(
        emulator: Emulator, *, conn_id: str = "flora_default", password: str | None = None, **extra: Any
    ) -> None:
        connection = {
            "conn_type": "flora",
            "host": emulator.base_url,
            "password": password or emulator.api_key,
            "extra": {"timeout": 30, "max_retries": 0, **extra},
        }
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(connection))

    return set_connection


@pytest.fixture
def flora(emulator: Emulator, connect: Callable[..., None]) -> Emulator:
    """The emulator with ``flora_default`` pointing at it."""
    connect(emulator)
    return emulator


@pytest.fixture
def statsd() -> Iterator[StatsdReceiver]:
    """A StatsD, and Airflow's metrics turned on for it."""
    pytest.importorskip("statsd", reason="Airflow's client of StatsD is not here")
    from tests.unit.airflow_stats import metrics_on

    with StatsdReceiver() as receiver, metrics_on(receiver.settings):
        yield receiver


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses that only cost time here are made short."""
    from airflow_provider_flora.api import retries
    from airflow_provider_flora.runs import events, gate, starting

    monkeypatch.setattr(retries, "FIRST_BACKOFF", 0.01)
    monkeypatch.setattr(retries, "FIRST_BACKOFF_RATE_LIMITED", 0.01)
    monkeypatch.setattr(starting, "HISTORY_LAG", 0.01)
    monkeypatch.setattr(events, "FETCH_INTERVAL", 0.05)
    monkeypatch.setattr(gate, "CONNECTION_AGE_WHEN_REFUSED", 0.1)


@pytest.fixture(scope="session")
def _s3() -> Iterator[str]:
    pytest.importorskip("moto", reason="there is no S3 here")
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(_s3: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A boto3 client of an S3 on this machine with an empty bucket `files`; Airflow's connection is `store`."""
    import boto3

    keys = {"aws_access_key_id": "me", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
    client: Any = boto3.client("s3", endpoint_url=_s3, **keys)
    client.create_bucket(Bucket="files")
    connection = {
        "conn_type": "aws",
        "login": "me",
        "password": "secret",
        "extra": {"endpoint_url": _s3, "region_name": "us-east-1"},
    }
    monkeypatch.setenv("AIRFLOW_CONN_STORE", json.dumps(connection))
    yield client
    for entry in client.list_objects_v2(Bucket="files").get("Contents", []):
        client.delete_object(Bucket="files", Key=entry["Key"])
    for upload in client.list_multipart_uploads(Bucket="files").get("Uploads", []):
        client.abort_multipart_upload(Bucket="files", Key=upload["Key"], UploadId=upload["UploadId"])
    client.delete_bucket(Bucket="files")
    _close_sessions()


def _close_sessions() -> None:
    """Leave no connection to the S3 open, which a later test might find."""
    from s3fs import S3FileSystem

    from tests.unit.airflow_names import STORES

    for store in STORES.values():
        fs = vars(store).get("fs")  # if it was asked for; making it now could fail
        if isinstance(fs, S3FileSystem) and fs._s3 is not None:
            S3FileSystem.close_session(fs.loop, fs._s3)
    STORES.clear()
    S3FileSystem.clear_instance_cache()
    gc.collect()


@pytest.fixture
def break_s3(s3: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Makes the S3 refuse every request from now on."""
    from s3fs import S3FileSystem

    async def refuse(*_: Any, **__: Any) -> Any:
        raise OSError("503 Slow Down")

    return lambda: monkeypatch.setattr(S3FileSystem, "_call_s3", refuse)


@pytest.fixture(scope="session")
def _tables(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from airflow import models
    from airflow.models.base import Base
    from sqlalchemy import create_engine

    models.import_all_models()
    if not airflow_is_at_least(3, 0):  # whose notes refer to its users
        import_module("airflow.providers.fab.auth_manager.models")
    path = tmp_path_factory.mktemp("tables") / "airflow.db"
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 60})
    Base.metadata.create_all(engine)
    return engine


@pytest.fixture
def engine(_tables: Any) -> Any:
    """Airflow's tables, empty, in a file."""
    from airflow.models.base import Base

    with _tables.begin() as connection:
        for name in TABLES:
            if name in Base.metadata.tables:
                connection.execute(Base.metadata.tables[name].delete())
    return _tables


@pytest.fixture
def instances(engine: Any) -> Instances:
    """Adds task instances to Airflow's tables."""
    return Instances(engine)


@pytest.fixture
def session(engine: Any) -> Iterator[Any]:
    """A session of Airflow's tables."""
    from sqlalchemy.orm import Session

    with Session(engine) as session:
        yield session
