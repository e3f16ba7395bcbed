"""For one process that plays many of Airflow's, each of which runs one task and ends; and an S3 on this machine."""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_flora.runs import techniques


@pytest.fixture(scope="session")
def _kept_techniques(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tasks") / "techniques"


@pytest.fixture(autouse=True)
def kept_techniques(_kept_techniques: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where tasks keep techniques for each other: a place of the tests' own, with nothing in it."""
    monkeypatch.setattr(techniques, "FOLDER", _kept_techniques)
    yield _kept_techniques
    shutil.rmtree(_kept_techniques, ignore_errors=True)


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
