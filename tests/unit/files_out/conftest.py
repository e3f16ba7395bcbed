"""An emulator with a connection to it, an S3 on this machine, and a server that does as it is told."""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "provider"))
import airflow_home  # noqa: F401
from media_server import MediaServer

from airflow_provider_flora.emulator import Emulator

API_KEY = "sk_test_never_to_be_seen_4711"


@pytest.fixture(scope="session")
def _emulator() -> Iterator[Emulator]:
    with Emulator(port=0, run_seconds=0.05, cost_lag=0, seed=0, api_key=API_KEY) as emulator:
        yield emulator


@pytest.fixture
def flora(_emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """The emulator with empty books and `flora_default` pointing at it."""
    _emulator.reset()
    connection = {
        "conn_type": "flora",
        "host": _emulator.base_url,
        "password": _emulator.api_key,
        "extra": {"timeout": 5, "max_retries": 2},
    }
    monkeypatch.setenv("AIRFLOW_CONN_FLORA_DEFAULT", json.dumps(connection))
    yield _emulator
    _emulator.reset()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses that only cost time here are made short."""
    from airflow_provider_flora.api import protocol
    from airflow_provider_flora.runs import starting

    monkeypatch.setattr(protocol, "FIRST_BACKOFF", 0.01)
    monkeypatch.setattr(protocol, "FIRST_BACKOFF_RATE_LIMITED", 0.01)
    monkeypatch.setattr(starting, "HISTORY_LAG", 0.01)


@pytest.fixture
def media() -> Iterator[MediaServer]:
    server = MediaServer()
    yield server
    server.close()


@pytest.fixture(scope="session")
def _s3() -> Iterator[str]:
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

    try:
        from airflow.sdk.io.store import _STORE_CACHE
    except ImportError:
        from airflow.io.store import _STORE_CACHE  # type: ignore[no-redef]

    for store in _STORE_CACHE.values():
        fs = vars(store).get("fs")  # if it was asked for; making it now could fail
        if isinstance(fs, S3FileSystem) and fs._s3 is not None:
            S3FileSystem.close_session(fs.loop, fs._s3)
    _STORE_CACHE.clear()
    S3FileSystem.clear_instance_cache()
    gc.collect()
