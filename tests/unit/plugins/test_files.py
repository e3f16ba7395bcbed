"""Files of outputs: only those that the task has stored, only what a browser may show, and any range of them."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_flora.plugins import streaming
from airflow_provider_flora.plugins.media_types import SAVED_ONLY, shown_type
from airflow_provider_flora.plugins.streaming import parse_range

Store = Callable[..., dict[str, Any]]
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 10
QUERY = {"dag_id": "shop", "run_id": "monday", "task_id": "still", "index": 0}


def add(instances: Any, file: dict[str, Any], kind: str = "imageUrl") -> None:
    output = {"output_id": "still", "type": kind, "url": "https://media.example/still.png"}
    instances.add(return_value={"run_id": "run_1", "outputs": [output], "files": [file]})


def test_a_picture_is_sent_as_what_it_is_and_can_do_nothing(client: Any, instances: Any, store: Store) -> None:
    add(instances, store("a.png", PNG, "image/png"))
    answer = client.get("file", params=QUERY)
    assert (answer.status_code, answer.content) == (200, PNG)
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["content-disposition"] == "inline; filename*=UTF-8''a.png"
    assert answer.headers["content-security-policy"] == "default-src 'none'; sandbox"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"


HTML = b"<!doctype html><script>alert(1)</script>"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
HOSTILE = [
    ("a.svg", SVG, "image/svg+xml"),
    ("a.html", HTML, "text/html"),
    ("a.png", HTML, "image/png"),
    ("a.jpg", SVG, "image/jpeg"),
    ("a.png", b"\x89PNG", "image/png"),
    ("a.gif", b"GIF89b" + HTML, "image/gif"),
    ("a.mp4", HTML, "video/mp4"),
    ("a.mp3", b"<ID3" + HTML, "audio/mpeg"),
    ("a.png", PNG, "text/html"),
    ("a.mp4", PNG, "video/mp4"),
    ("a.pdf", b"%PDF-1.7", "application/pdf"),
    ("a.txt", b"<script>alert(1)</script>", "text/plain"),
    ("a.xml", b"<?xml version='1.0'?><x/>", "application/xml"),
    ("a.bin", b"", "application/octet-stream"),
    ('"\r\nX-Evil: 1;<b>.png', SVG, "image/png"),
]


@pytest.mark.parametrize(("name", "content", "media_type"), HOSTILE)
def test_everything_else_is_a_file_to_save(
    client: Any, instances: Any, store: Store, name: str, content: bytes, media_type: str
) -> None:
    add(instances, store(name, content, media_type))
    answer = client.get("file", params=QUERY)
    assert (answer.status_code, answer.content) == (200, content)
    assert answer.headers["content-type"] == SAVED_ONLY
    assert answer.headers["content-disposition"].startswith("attachment; filename*=UTF-8''")
    assert "x-evil" not in answer.headers
    assert answer.headers["x-content-type-options"] == "nosniff"


SHOWN = [
    (b"\xff\xd8\xff\xe0", "image/jpeg", "image/jpeg"),
    (b"GIF89a", "image/gif", "image/gif"),
    (b"RIFF\0\0\0\0WEBP", "image/png", "image/webp"),
    (b"\0\0\0\x1cftypavif", "image/avif", "image/avif"),
    (b"\0\0\0\x18ftypisom", "video/mp4", "video/mp4"),
    (b"\0\0\0\x14ftypqt  ", "video/quicktime", "video/quicktime"),
    (b"\x1a\x45\xdf\xa3", "video/webm", "video/webm"),
    (b"RIFF\0\0\0\0WAVE", "audio/wav", "audio/wav"),
    (b"\0\0\0\x1cftypM4A ", "audio/mp4", "audio/mp4"),
    (b"ID3\x04", "audio/mpeg", "audio/mpeg"),
    (b"\xff\xfb\x90", "audio/mpeg", "audio/mpeg"),
    (b"OggS", "audio/ogg", "audio/ogg"),
    (b"fLaC", "audio/flac", "audio/flac"),
]


@pytest.mark.parametrize(("start", "claimed", "shown"), SHOWN)
def test_what_a_browser_may_show_is_known_by_its_first_bytes(start: bytes, claimed: str, shown: str) -> None:
    assert shown_type(start, claimed) == shown
    assert shown_type(b"x" + start, claimed) == SAVED_ONLY


RANGES: list[tuple[str, tuple[int, int] | None]] = [
    ("", None),
    ("bytes=0-", (0, 100)),
    ("bytes=0-0", (0, 1)),
    ("bytes=10-19", (10, 20)),
    ("bytes=90-1000", (90, 100)),
    ("bytes=-10", (90, 100)),
    ("bytes=-1000", (0, 100)),
    ("bytes=100-", (100, 100)),
    ("bytes=-0", (100, 100)),
    ("bytes=20-10", None),
    ("bytes=0-1,5-6", None),
    ("bytes=a-b", None),
    ("items=0-1", None),
    ("bytes=" + "9" * 30 + "-", None),
]


@pytest.mark.parametrize(("header", "span"), RANGES)
def test_a_range_is_read_as_http_says(header: str, span: tuple[int, int] | None) -> None:
    assert parse_range(header, 100) == span


@pytest.mark.parametrize("chunk", [7, 1024 * 1024])
def test_a_range_has_its_bytes_and_no_others(
    client: Any, instances: Any, store: Store, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "CHUNK_BYTES", chunk)
    add(instances, store("a.png", PNG, "image/png"))
    answer = client.get("file", params=QUERY, headers={"range": "bytes=100-1099", "accept-encoding": "gzip"})
    assert (answer.status_code, answer.content) == (206, PNG[100:1100])
    assert answer.headers["content-range"] == f"bytes 100-1099/{len(PNG)}"
    assert (answer.headers["content-length"], answer.headers["content-encoding"]) == ("1000", "identity")
    over = client.get("file", params=QUERY, headers={"range": f"bytes={len(PNG)}-"})
    assert (over.status_code, over.headers["content-range"]) == (416, f"bytes */{len(PNG)}")


def test_a_browser_that_has_the_file_is_told_so_and_another_version_is_sent_whole(
    client: Any, instances: Any, store: Store
) -> None:
    add(instances, store("a.png", PNG, "image/png"))
    tag = client.get("file", params=QUERY).headers["etag"]
    assert client.get("file", params=QUERY, headers={"if-none-match": tag}).status_code == 304
    for if_range, status in ((tag, 206), ('"other"', 200)):
        answer = client.get("file", params=QUERY, headers={"range": "bytes=0-9", "if-range": if_range})
        assert answer.status_code == status


def test_a_file_that_the_task_has_not_stored_is_not_sent(
    client: Any, instances: Any, store: Store, tmp_path: Path
) -> None:
    file = store("a.png", PNG, "image/png")
    secret = tmp_path / "airflow.cfg"
    secret.write_bytes(b"fernet_key = x")
    add(instances, {**file, "uri": f"file://{secret}", "bytes": 14})
    answer = client.get("file", params=QUERY)
    assert answer.status_code == 404
    assert "fernet" not in answer.text
    assert "is not the one that the task has stored" in answer.text


@pytest.mark.parametrize("change", [PNG[:-1] + b"x", PNG + b"x"], ids=["other bytes", "another length"])
def test_a_file_that_has_changed_since_is_not_sent(
    client: Any, instances: Any, store: Store, tmp_path: Path, change: bytes
) -> None:
    add(instances, store("a.png", PNG, "image/png"))
    assert client.get("file", params=QUERY).status_code == 200
    (tmp_path / "a.png").write_bytes(change)
    assert client.get("file", params=QUERY).status_code == 404
    (tmp_path / "a.png").unlink()
    assert "not in the storage any more" in client.get("file", params=QUERY).text


def test_the_content_is_compared_once_for_each_version(
    client: Any, instances: Any, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests: list[str] = []
    compute = streaming.SourceFile.compute_digest
    monkeypatch.setattr(
        streaming.SourceFile, "compute_digest", lambda self: digests.append(self.location) or compute(self)
    )
    monkeypatch.setattr(streaming, "_verified", streaming.Verified())
    add(instances, store("a.png", PNG, "image/png"))
    for start in range(5):
        client.get("file", params=QUERY, headers={"range": f"bytes={start}-"})
    assert len(digests) == 1


@pytest.mark.parametrize("uri", ["nosuch://a/b.png", "/", "", "file:///"])
def test_what_is_no_file_is_not_there(client: Any, instances: Any, store: Store, uri: str) -> None:
    add(instances, {**store("a.png", PNG, "image/png"), "uri": uri})
    assert client.get("file", params=QUERY).status_code == 404


def test_no_web_server_is_asked_for_a_file(client: Any, instances: Any, store: Store) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        uri = f"http://127.0.0.1:{server.getsockname()[1]}/a.png"
        add(instances, {**store("a.png", PNG, "image/png"), "uri": uri})
        assert client.get("file", params=QUERY).status_code == 404
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_no_path_of_a_request_is_opened(client: Any, instances: Any, store: Store, tmp_path: Path) -> None:
    add(instances, store("a.png", PNG, "image/png"))
    named = {name: str(tmp_path / "a.png") for name in ("uri", "path", "file", "url")}
    assert client.get("file", params={**QUERY, "index": 1, **named}).status_code == 404
    assert client.get("file", params={**QUERY, "row_id": "../a.png", **named}).status_code == 404
    assert client.get("file", params={**QUERY, "index": "../../a.png"}).status_code == 422
    assert client.get("static/..%2f..%2fpages.py").status_code == 404


def test_the_file_of_a_row_is_named_by_the_manifest(
    client: Any, instances: Any, store: Store, tmp_path: Path
) -> None:
    from airflow_provider_flora.batch.manifest import Manifest

    outputs = [{"output_id": "still", "type": "imageUrl", "url": "https://media.example/a.png"}]
    line = {"row_id": "mug/11 &", "status": "completed", "outputs": outputs}
    Manifest(str(tmp_path / "m.jsonl")).write([{**line, "files": [store("a.png", PNG, "image/png")]}])
    instances.add(manifest=str(tmp_path / "m.jsonl"))
    assert client.get("file", params={**QUERY, "row_id": "mug/11 &"}).content == PNG
    page = client.get("outputs", params=QUERY).text
    assert "row_id=mug%2F11+%26&amp;index=0" in page


def test_a_file_in_a_storage_is_read_in_ranges(s3: Any, client: Any, instances: Any) -> None:
    s3.put_object(Bucket="files", Key="a.png", Body=PNG)
    file = {"uri": "s3://store@files/a.png", "media_type": "image/png", "bytes": len(PNG), "output_id": "still"}
    add(instances, {**file, "sha256": hashlib.sha256(PNG).hexdigest()})
    assert client.get("file", params=QUERY, headers={"range": "bytes=-5"}).content == PNG[-5:]
    s3.put_object(Bucket="files", Key="a.png", Body=PNG[::-1])
    assert client.get("file", params=QUERY).status_code == 404
