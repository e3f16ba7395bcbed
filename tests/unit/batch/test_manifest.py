"""The manifest: what is written is read, the old one stays until the new one is whole, and nothing is guessed."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from airflow_provider_flora.airflow_compat import ObjectStoragePath
from airflow_provider_flora.api.errors import FloraFileError, FloraParameterError, FloraStorageError
from airflow_provider_flora.batch import read_manifest
from airflow_provider_flora.batch.manifest import FIELDS, Manifest
from airflow_provider_flora.batch.rows import read_rows

STORAGES = pytest.mark.parametrize("storage", ["disk", "s3"])


@pytest.fixture
def uri(storage: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """The URI of a manifest that does not exist, in a folder that does not either."""
    if storage == "disk":
        return f"file://{tmp_path}/shop/manifest.jsonl"
    request.getfixturevalue("s3")
    return "s3://store@files/shop/manifest.jsonl"


def content_of(uri: str) -> bytes:
    content: bytes = ObjectStoragePath(uri).read_bytes()
    return content


@STORAGES
def test_what_is_written_is_read_in_order(uri: str) -> None:
    manifest = Manifest(uri)
    assert manifest.uri == uri
    assert manifest.load() == {}
    manifest.write([{"row_id": "B", "status": "completed", "outputs": [{"url": "ü✨\nnext"}]}, {"row_id": "A"}])
    first, second = read_manifest(uri)
    assert first == {
        "version": 1,
        **dict.fromkeys(FIELDS),
        "row_id": "B",
        "status": "completed",
        "outputs": [{"url": "ü✨\nnext"}],
    }
    assert second["row_id"] == "A"
    assert manifest.load() == {"B": first, "A": second}
    assert "ü✨" in content_of(uri).decode()
    manifest.write([])
    assert content_of(uri) == b""
    assert manifest.load() == {}


@STORAGES
def test_a_write_that_fails_leaves_the_old_manifest_and_nothing_else(uri: str) -> None:
    manifest = Manifest(uri)
    manifest.write([{"row_id": "A"}])

    def lines() -> Iterator[dict[str, Any]]:
        yield {"row_id": "B", "output_texts": ["x" * 6_000_000]}
        assert [line["row_id"] for line in read_manifest(uri)] == ["A"]
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        manifest.write(lines())
    assert list(manifest.load()) == ["A"]
    folder = ObjectStoragePath(uri.rpartition("/")[0])
    folder.fs.invalidate_cache()
    assert [str(path).rpartition("/")[2] for path in folder.iterdir()] == ["manifest.jsonl"]


@STORAGES
def test_a_manifest_larger_than_a_part_is_written_whole(uri: str) -> None:
    manifest = Manifest(uri)
    texts = [f"{number}" * 700_000 for number in range(10)]
    manifest.write({"row_id": text[0], "output_texts": [text]} for text in texts)
    assert [line["output_texts"] for line in read_manifest(uri)] == [[text] for text in texts]


@STORAGES
def test_a_manifest_that_is_replaced_while_it_is_read_is_no_mixture(uri: str) -> None:
    manifest = Manifest(uri)
    rows = [str(number) for number in range(20)]
    manifest.write({"row_id": row, "status": "failed", "output_texts": ["x" * 700_000]} for row in rows)
    reading = read_manifest(uri)
    seen = [next(reading)]
    manifest.write({"row_id": row, "status": "unknown", "output_texts": ["y" * 700_000]} for row in rows)
    with suppress(FloraFileError):
        seen += reading
        assert len(seen) == len(rows)
    assert {line["status"] for line in seen} == {"failed"}
    assert {line["status"] for line in read_manifest(uri)} == {"unknown"}


def test_a_manifest_is_never_held_in_memory(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path / "manifest.jsonl")
    tracemalloc.start()
    try:
        manifest.write({"row_id": str(number), "output_texts": [str(number) * 500_000]} for number in range(10, 50))
        assert sum(1 for _ in read_manifest(manifest.uri)) == 40
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (tmp_path / "manifest.jsonl").stat().st_size > 40_000_000
    assert peak < 20_000_000


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(st.lists(st.dictionaries(TEXTS, JSON)))
def test_whatever_is_known_of_rows_is_written_and_read(tmp_path: Path, inputs: list[dict[str, Any]]) -> None:
    uri = f"{tmp_path}/manifest.jsonl"
    Manifest(uri).write({"row_id": "A", "inputs": values} for values in inputs)
    assert [line["inputs"] for line in read_manifest(uri)] == inputs


def test_values_that_are_no_json_become_some(tmp_path: Path) -> None:
    deep: list[Any] = []
    for _ in range(5_000):
        deep = [deep]
    manifest = Manifest(tmp_path / "manifest.jsonl")
    odd = {
        "nul": "a\0b",
        "surrogate": "\ud83d!",
        "no number": float("nan"),
        "endless": float("-inf"),
        "time": datetime(2026, 1, 2, tzinfo=timezone.utc),
        5: ("a", b"b"),
        "escaped": "\\u0000",
    }
    manifest.write([{"row_id": "A", "inputs": odd}, {"row_id": "B", "inputs": deep}])
    lines = manifest.load()
    assert lines["A"]["inputs"] == {
        "nul": "a\ufffdb",
        "surrogate": "\ufffd!",
        "no number": None,
        "endless": None,
        "time": "2026-01-02 00:00:00+00:00",
        "5": ["a", "b'b'"],
        "escaped": "\\u0000",
    }
    assert json.dumps(lines["B"]["inputs"]).count("[") == 49


def test_fields_of_another_release_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "manifest.jsonl"
    path.write_text('\ufeff{"row_id": "A", "version": 2, "mood": [1]}\r\n\n{"row_id": "B"}')
    manifest = Manifest(path)
    lines = manifest.load()
    assert lines == {"A": {"row_id": "A", "version": 2, "mood": [1]}, "B": {"row_id": "B"}}
    manifest.write(lines.values())
    line = manifest.load()["A"]
    assert (line["version"], line["mood"], line["status"]) == (2, [1], None)


def test_a_manifest_is_a_table_of_rows(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path / "manifest.jsonl")
    outputs = [{"output_id": "prompt", "type": "text", "url": "at dawn"}]
    manifest.write(
        [{"row_id": "A", "status": "completed", "outputs": outputs}, {"row_id": "B", "status": "skipped"}]
    )
    [row], problems = read_rows(manifest.uri, row_id=None, inputs={"text": "{prompt}"})
    assert (row.row_id, row.inputs, problems) == ("A", {"text": "at dawn"}, [])


# --- what cannot be read or written -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (b'{"row_id": "B", "sta', r"line 2 is not JSON"),
        (b'{"row_id": "\xff"}', r"line 2 is not UTF-8"),
        (b'["B"]', r"line 2 is not that of a row"),
        (b'{"status": "completed"}', r"line 2 is not that of a row"),
        (b'{"row_id": 5}', r"line 2 is not that of a row"),
        (b"[" * 100_000, r"line 2 is not JSON"),
    ],
)
def test_a_line_that_cannot_be_read_is_named_since_its_row_is_paid(
    tmp_path: Path, broken: bytes, message: str
) -> None:
    path = tmp_path / "manifest.jsonl"
    path.write_bytes(b'{"row_id": "A"}\n' + broken + b'\n{"row_id": "C"}\n')
    with pytest.raises(
        FloraFileError, match=rf"manifest\.jsonl' cannot be read: {message}.*Or delete it"
    ) as caught:
        Manifest(path).load()
    assert not caught.value.remedy.retryable
    reading = read_manifest(str(path))
    assert next(reading) == {"row_id": "A"}
    with pytest.raises(FloraFileError, match=message):
        next(reading)


@STORAGES
def test_a_manifest_that_does_not_exist_is_an_error_for_who_reads_it(uri: str) -> None:
    with pytest.raises(FloraFileError, match=f"There is no file '{uri}'"):
        next(read_manifest(uri))


def test_a_storage_that_is_away_has_not_lost_the_manifest(break_s3: Callable[[], None]) -> None:
    manifest = Manifest("s3://store@files/shop/manifest.jsonl")
    break_s3()
    with pytest.raises(FloraFileError, match="cannot be read now") as caught:
        manifest.load()
    assert caught.value.remedy.retryable


def test_a_folder_that_cannot_be_written_is_reported_before_anything_is_paid(tmp_path: Path) -> None:
    (tmp_path / "shop").touch()
    with pytest.raises(FloraStorageError, match=r"shop/ is not writable .*Nothing was started or charged"):
        Manifest(tmp_path / "shop" / "manifest.jsonl").check()
    Manifest(tmp_path / "manifest.jsonl").check()
    assert [path.name for path in tmp_path.iterdir()] == ["shop"]


def test_a_folder_in_place_of_the_manifest_is_reported(tmp_path: Path) -> None:
    (tmp_path / "manifest.jsonl").mkdir()
    with pytest.raises(FloraFileError, match="is a folder"):
        Manifest(tmp_path / "manifest.jsonl").load()


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "manifest.jsonl",
        "s3://manifest.jsonl",
        "/shop/manifest.csv",
        "/shop/",
        "/shop/.jsonl",
        "/shop/a\nb.jsonl",
        "/shop/../manifest.jsonl",
        "nowhere://shop/manifest.jsonl",
        5,
        None,
    ],
)
def test_a_place_that_is_none_for_a_manifest_is_refused(wrong: Any) -> None:
    with pytest.raises(FloraParameterError, match="manifest") as caught:
        Manifest(wrong)
    assert repr(wrong) in str(caught.value)


def test_a_path_of_airflow_keeps_its_connection(s3: Any) -> None:
    path = ObjectStoragePath("s3://files/shop/manifest.jsonl", conn_id="store")
    manifest = Manifest(path)
    manifest.write([{"row_id": "A"}])
    assert manifest.uri == "s3://store@files/shop/manifest.jsonl"
    assert [line["row_id"] for line in read_manifest(path)] == ["A"]


def test_the_package_costs_nothing_until_a_manifest_is_read() -> None:
    program = """
import sys
import airflow_provider_flora.batch as batch
assert not {"airflow", "pydantic", "fsspec"} & set(sys.modules), "imported too early"
assert not hasattr(batch, "nothing_of_the_kind")
assert batch.read_manifest.__name__ == "read_manifest"
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
