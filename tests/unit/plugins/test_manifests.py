"""The pages of a manifest: parts of it, by status and by row, and what is said of one that cannot be read."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_flora.batch.manifest import Manifest
from airflow_provider_flora.plugins import manifests
from airflow_provider_flora.plugins.manifests import PAGE_ROWS, Manifests, Row


def write(path: Path, count: int, **more: Any) -> str:
    """Write a manifest as a task does: each tenth row has failed, each third is reused."""
    lines = [
        {
            "row_id": f"Row-{number:05}",
            "status": "completed" if number % 10 else "failed",
            "reused": number % 3 == 1,
            "outputs": [{"output_id": "image", "type": "imageUrl", "url": f"https://a.example/{number}.png"}],
            **more,
        }
        for number in range(count)
    ]
    Manifest(str(path)).write(lines)
    return str(path)


def test_a_page_has_sixty_rows_in_the_order_of_the_manifest(tmp_path: Path) -> None:
    uri = write(tmp_path / "m.jsonl", 130)
    found = [Manifests().page(uri, number=number) for number in (1, 2, 3, 4)]
    assert [len(page.rows) for page in found] == [PAGE_ROWS, PAGE_ROWS, 10, 0]
    assert [page.pages for page in found] == [3] * 4
    assert [page.rows[0].row_id for page in found[:3]] == ["Row-00000", "Row-00060", "Row-00120"]
    assert found[0].total == 130


def test_rows_are_chosen_by_status_and_by_a_part_of_their_id(tmp_path: Path) -> None:
    uri, kept = write(tmp_path / "m.jsonl", 100), Manifests()
    assert kept.page(uri).counts == {"completed": 90, "failed": 10, "reused": 33}
    assert [row.row_id for row in kept.page(uri, status="failed", search="ROW-0009").rows] == ["Row-00090"]
    assert kept.page(uri, status="reused").matching == 33
    assert kept.page(uri, search="nothing").pages == 1
    row = kept.find(uri, "Row-00007")
    assert row is not None
    assert row.value["outputs"][0]["url"].endswith("/7.png")
    assert kept.find(uri, "row-00007") is None


def test_a_manifest_of_10_000_rows_is_read_once_and_within_a_second(tmp_path: Path) -> None:
    uri, kept = write(tmp_path / "m.jsonl", 10_000, inputs={"prompt": "x" * 800}), Manifests()
    began = time.process_time()
    assert kept.page(uri, number=167).matching == 10_000
    first = time.process_time()
    assert kept.page(uri, status="failed", search="99", number=2).number == 2
    assert first - began < 1
    assert time.process_time() - first < 0.1


def test_another_version_of_a_manifest_is_read_anew(tmp_path: Path) -> None:
    uri, kept = write(tmp_path / "m.jsonl", 3), Manifests()
    assert kept.page(uri).total == 3
    write(tmp_path / "m.jsonl", 5)
    assert kept.page(uri).total == 5
    os.utime(uri, ns=(1, 1))
    assert kept.page(uri).total == 5


def test_what_is_kept_is_bounded_and_a_larger_manifest_is_still_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uris = [write(tmp_path / f"{name}.jsonl", 100) for name in "abc"]
    size = Path(uris[0]).stat().st_size
    kept = Manifests()
    monkeypatch.setattr(manifests, "KEPT_BYTES", 2 * size)
    for uri in (*uris, uris[2]):
        kept.page(uri)
    assert [uri for uri, _ in kept._kept] == uris[1:]
    monkeypatch.setattr(manifests, "KEPT_BYTES", size - 1)
    other = Manifests()
    assert other.page(uris[0]).total == 100
    assert not other._kept


BROKEN = [
    b"no json\n",
    b"[1]\n",
    b'{"status": "completed"}\n',
    b'{"row_id": 5}\n',
    b"\xff\xfe\x00\n",
    b"[" * 100_000 + b"\n",
]


@pytest.mark.parametrize("content", BROKEN)
def test_a_broken_manifest_is_a_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes(json.dumps({"row_id": "a"}).encode() + b"\n" + content)
    page = Manifests().page(str(path))
    assert page.problem is not None
    assert page.problem.startswith("The manifest cannot be shown. Line 2 of ")
    assert page.rows == ()
    assert Manifests().find(str(path), "b") is None


def test_a_missing_manifest_a_folder_and_an_unknown_storage_are_sentences(tmp_path: Path) -> None:
    for uri in (str(tmp_path / "none.jsonl"), str(tmp_path), "nosuch://bucket/m.jsonl"):
        assert str(Manifests().page(uri).problem).startswith("The manifest cannot be shown. ")


def test_a_line_without_an_end_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifests, "LONGEST_LINE", 1000)
    (tmp_path / "m.jsonl").write_bytes(b" " * 2000)
    assert "a line of more than 1,000 bytes" in str(Manifests().page(str(tmp_path / "m.jsonl")).problem)


def test_a_storage_that_hangs_holds_up_no_other_manifest_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Manifests()
    seen, hanging, unseen = (write(tmp_path / f"{name}.jsonl", 3) for name in ("seen", "hanging", "unseen"))
    kept.page(seen)
    begun, end = threading.Event(), threading.Event()
    read = manifests._read

    def hang(uri: str) -> Iterator[Row]:
        if uri == hanging:
            begun.set()
            end.wait(60)
        return read(uri)

    monkeypatch.setattr(manifests, "_read", hang)
    monkeypatch.setattr(manifests, "PATIENCE", 0.1)
    with ThreadPoolExecutor() as pool:
        slow = pool.submit(kept.page, hanging)
        assert begun.wait(10)
        others = [pool.submit(kept.page, uri) for uri in (seen, unseen)]
        try:
            assert others[0].result(10).total == 3
            assert "a storage is slow. Reload this page." in str(others[1].result(10).problem)
        finally:
            end.set()
        assert slow.result(10).total == 3
    assert kept.page(unseen).total == 3


def test_a_manifest_in_a_storage_is_read_through_its_connection(s3: Any, tmp_path: Path) -> None:
    s3.put_object(Bucket="files", Key="m.jsonl", Body=Path(write(tmp_path / "m.jsonl", 70)).read_bytes())
    assert len(Manifests().page("s3://store@files/m.jsonl", number=2).rows) == 10
