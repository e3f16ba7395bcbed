"""The names of datasets, and what an operator costs where nobody asks for its lineage."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from airflow_provider_flora.emulator import Emulator
from airflow_provider_flora.lineage.datasets import LONGEST_NAME, name_of
from tests.unit.operators.still import life_of, still


@pytest.mark.parametrize(
    ("location", "namespace", "name"),
    [
        ("s3://bucket/a/b.png", "s3://bucket", "a/b.png"),
        ("s3://conn_id@bucket/a/b c.png", "s3://bucket", "a/b c.png"),
        ("S3A://key:secret@bucket/b.png", "s3://bucket", "b.png"),
        ("gcs://conn@bucket/a.png", "gs://bucket", "a.png"),
        ("abfs://conn@container/a.png?sv=1&sig=secret", "abfss://container", "a.png"),
        ("wasb://container/a.png", "wasbs://container", "a.png"),
        ("hdfs://conn@node:8020/a.png", "hdfs://node:8020", "/a.png"),
        ("/a/b.png", "file", "/a/b.png"),
        ("/a/../b.png", "file", "/b.png"),
        ("file:///a/b.png", "file", "/a/b.png"),
        ("file://host/a/b.png", "file://host", "/a/b.png"),
        ("local:///a/b.png", "file", "/a/b.png"),
        ("b.png", "file", str(Path.cwd() / "b.png")),
        ("~/b.png", "file", str(Path("~/b.png").expanduser())),
        ("https://me:secret@Example.com:443/a%20b.png?sig=secret#c", "https://example.com", "/a%20b.png"),
        ("http://127.0.0.1:8080/a.png", "http://127.0.0.1:8080", "/a.png"),
        ("https://[::1]/a.png", "https://[::1]", "/a.png"),
        ("https://example.com", "https://example.com", "/"),
        ("/a\nb\ud800\0.png", "file", "/a\ufffdb\ufffd\ufffd.png"),
    ],
)
def test_a_dataset_is_named_by_the_conventions_of_openlineage(location: str, namespace: str, name: str) -> None:
    assert name_of(location) == (namespace, name)


@pytest.mark.parametrize(
    "location", ["https://", "https://[::1/a", "https://host:port/a", "s3://bucket", "s3://bucket/"]
)
def test_what_is_no_file_has_no_name(location: str) -> None:
    assert name_of(location) is None


def test_a_name_that_is_too_long_is_not_shortened_into_another() -> None:
    assert name_of("s3://bucket/" + "x" * LONGEST_NAME) is not None
    assert name_of("s3://bucket/" + "x" * (LONGEST_NAME + 1)) is None


def test_operators_import_nothing_of_openlineage() -> None:
    program = """
import sys
from airflow_provider_flora.operators import batch, downloads, flora, uploads
from airflow_provider_flora.sensors import flora
slow = ("openlineage", "airflow.providers.openlineage.extractors", "airflow_provider_flora.lineage.events")
found = [name for name in sys.modules if name.startswith(slow)]
assert not found, found
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=600)


def test_a_task_needs_no_openlineage(flora: Emulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "openlineage"]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("openlineage", "airflow.providers.openlineage"):
        monkeypatch.setitem(sys.modules, name, None)
    assert life_of(still(download_to=f"{tmp_path}/out")).run()["status"] == "completed"
