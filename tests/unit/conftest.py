"""For one process that plays many of Airflow's, each of which runs a task and ends; a Flora and an S3 for them."""

from __future__ import annotations

import gc
import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_flora.emulator import Emulator
from airflow_provider_flora.runs import starting, techniques
from tests.unit import airflow_home  # noqa: F401
from tests.unit.flora_key import API_KEY

_numbers = itertools.count()


@pytest.fixture(scope="session")
def _kept_techniques(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tasks") / "techniques"


@pytest.fixture(autouse=True)
def kept_techniques(_kept_techniques: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where tasks keep techniques for each other: a place of the tests' own, with nothing in it."""
    monkeypatch.setattr(techniques, "FOLDER", _kept_techniques)
    yield _kept_techniques
    shutil.rmtree(_kept_techniques, ignore_errors=True)


@pytest.fixture(autouse=True)
def quick_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starts end, and show in the history, within a moment."""
    monkeypatch.setattr(starting, "start_duration", lambda _: 0.2)
    monkeypatch.setattr(starting, "HISTORY_LAG", 0.1)
    monkeypatch.setattr(starting, "POLL_INTERVAL", 0.1)


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
            "extra": {"timeout": 5, "max_retries": 0, **extra},
        }
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(connection))

    return set_connection


@pytest.fixture
def flora(emulator: Emulator, connect: Callable[..., None]) -> Emulator:
    """The emulator with ``flora_default`` pointing at it."""
    connect(emulator)
    return emulator


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
