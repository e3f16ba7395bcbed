"""Downloads from a scripted server: what is downloaded, when it is complete, and what a failure reports."""

from __future__ import annotations

import gzip
import hashlib
import io
import logging
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_flora.airflow_compat import ObjectStoragePath
from airflow_provider_flora.api.errors import (
    FloraDownloadError,
    FloraError,
    FloraParameterError,
    FloraStorageError,
    Remedy,
)
from airflow_provider_flora.api.models import Run, Technique
from airflow_provider_flora.api.settings import ClientSettings
from airflow_provider_flora.files.downloads import downloads as downloading
from airflow_provider_flora.files.downloads import fetching
from airflow_provider_flora.files.downloads.downloads import AT_ONCE, DEFAULT_FILE_NAME, Downloads
from airflow_provider_flora.files.downloads.fetching import MediaClient
from airflow_provider_flora.files.downloads.naming import folded
from tests.unit.airflow_names import attach
from tests.unit.files.downloads.media_server import MediaServer
from tests.unit.operators.fake_task import HAS_STATE_STORE, FakeStore

KEY = "sk_test_never_to_be_seen_4711"
PICTURE = b"\x89PNG" + bytes(range(256)) * 100
log = logging.getLogger("files out")


def sends(
    content: bytes = PICTURE, content_type: str = "image/png", status: int = 200, **headers: str
) -> Callable[[BaseHTTPRequestHandler], None]:
    """An answer; `length` is what it says of itself, `cut` how much of it comes."""
    length = headers.pop("length", str(len(content)))
    cut = int(headers.pop("cut", len(content)))

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        request.send_header("content-type", content_type)
        if length != "none":
            request.send_header("content-length", length)
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()
        request.wfile.write(content[:cut])
        if cut < len(content) or length == "none":
            request.close_connection = True

    return answer


def run_of(*outputs: tuple[str, str, str], run_id: str = "run_1") -> Run:
    listed = [{"output_id": key, "type": kind, "url": url} for key, kind, url in outputs]
    return Run.model_validate({"run_id": run_id, "status": "completed", "outputs": listed})


def settings(media: MediaServer, **given: Any) -> ClientSettings:
    return ClientSettings(**{"api_key": KEY, "base_url": media.origin, "timeout": 60, "max_retries": 2, **given})


def fetch(
    media: MediaServer,
    folder: Any,
    run: Run | None = None,
    *,
    file_name: str = DEFAULT_FILE_NAME,
    store: Any = None,
    **given: Any,
) -> list[dict[str, Any]]:
    run = run or run_of(("image", "imageUrl", media.url()))
    return Downloads(str(folder), file_name, log).download(run, "relight", settings(media, **given), store)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


# --- what is put down -------------------------------------------------------------------------------------


def test_a_file_and_its_record_are_what_the_server_sent(media: MediaServer, tmp_path: Path) -> None:
    media.answers = [sends()]
    [file] = fetch(media, tmp_path / "new" / "folder")
    path = tmp_path / "new" / "folder" / "relight-run_1-image.png"
    assert path.read_bytes() == PICTURE
    assert file == {
        "uri": f"file://{path}",
        "media_type": "image/png",
        "bytes": len(PICTURE),
        "sha256": hashlib.sha256(PICTURE).hexdigest(),
        "output_id": "image",
    }
    assert names(path.parent) == [path.name]


def test_a_text_becomes_a_file_of_text_without_a_request(media: MediaServer, tmp_path: Path) -> None:
    [file] = fetch(media, tmp_path, run_of(("tagline", "text", "Grüße ✨\n")))
    assert (tmp_path / "relight-run_1-tagline.txt").read_text(encoding="utf-8") == "Grüße ✨\n"
    assert (file["media_type"], file["bytes"]) == ("text/plain", len("Grüße ✨\n".encode()))
    assert media.requests == []


def test_files_come_in_the_order_of_the_outputs(media: MediaServer, tmp_path: Path) -> None:
    media.answers = [sends()]
    outputs = [(f"angle_{number}", "imageUrl", media.url(str(number))) for number in range(9)]
    files = fetch(media, tmp_path, run_of(*outputs))
    assert [file["output_id"] for file in files] == [key for key, _, _ in outputs]


def test_outputs_of_one_id_have_names_of_their_own(media: MediaServer, tmp_path: Path) -> None:
    media.answers = [sends()]
    outputs = [("image", "imageUrl", media.url()), ("image", "imageUrl", media.url()), ("image-2", "text", "x")]
    files = fetch(media, tmp_path, run_of(*outputs))
    assert [file["output_id"] for file in files] == ["image", "image-3", "image-2"]
    assert len(names(tmp_path)) == 3


def by_path(request: BaseHTTPRequestHandler) -> None:
    """Each path has a picture of its own."""
    sends(PICTURE + request.path.encode())(request)


OUTPUT_IDS = [
    ["image", "Image", "IMAGE"],
    ["an image", "an_image", "an\u200bimage", "an\u00a0image"],
    [" image", "image ", "\u200bimage", "_image", "image_"],
    ["caf\u00e9", "cafe\u0301", "CAFE\u0301"],
    ["", " ", "\0", "\ud83d", "_", "\ude00"],
    ["image", "image", "image-2", "Image-2"],
    ["a", "a.png", "a.png.part", "a.png.0a1b2c3d.part", "A"],
    ["a/b", "a\\b", "a:b", "a_b", "a"],
]


FILE_NAMES = ["{output_id}.{ext}", "{output_id}", DEFAULT_FILE_NAME, "all.{ext}", "all"]


# In S3 each file costs more time, and its names are made as those in memory.
@pytest.mark.parametrize(
    ("where", "file_name"),
    [
        *product(["local", "memory"], FILE_NAMES),
        ("s3", FILE_NAMES[0]),
        *(pytest.param("s3", name, marks=pytest.mark.slow) for name in FILE_NAMES[1:]),
    ],
)
@pytest.mark.parametrize("ids", OUTPUT_IDS, ids=repr)
def test_every_output_has_a_file_of_its_own_in_any_storage_and_attempt(
    request: pytest.FixtureRequest, media: MediaServer, tmp_path: Path, where: str, ids: list[str], file_name: str
) -> None:
    media.answers = [by_path]
    folder = {"local": str(tmp_path), "memory": "memory://out", "s3": "s3://store@files/out"}[where]
    if where == "s3":
        request.getfixturevalue("s3")
    if where == "memory":
        attach_memory()
    run = run_of(*((output_id, "imageUrl", media.url(str(place))) for place, output_id in enumerate(ids)))
    files = fetch(media, folder, run, file_name=file_name)
    assert len({folded(file["uri"]) for file in files}) == len(ids)
    contents = [ObjectStoragePath(file["uri"]).read_bytes() for file in files]
    assert contents == [PICTURE + f"/{place}".encode() for place in range(len(ids))]
    # Any output may come first the next time, on a worker without a record.
    media.answers = [lambda one: (time.sleep(0.02 if one.path == "/0" else 0), by_path(one))[1]]
    assert fetch(media, folder, run, file_name=file_name) == files
    if where == "memory":
        import fsspec

        fsspec.filesystem("memory").rm("/out", recursive=True)


def test_names_of_one_attempt_stay_in_the_next(media: MediaServer, tmp_path: Path) -> None:
    def all_but_the_first(request: BaseHTTPRequestHandler) -> None:
        (sends(b"", status=404) if request.path == "/a" else by_path)(request)

    run = run_of(("a", "imageUrl", media.url("a")), ("A", "imageUrl", media.url("A")))
    store = FakeStore() if HAS_STATE_STORE else None
    media.answers = [all_but_the_first]
    with pytest.raises(FloraDownloadError):
        fetch(media, tmp_path, run, file_name="{output_id}.{ext}", store=store)
    assert names(tmp_path) == ["A-2.png"]
    media.answers = [by_path]
    fetch(media, tmp_path, run, file_name="{output_id}.{ext}", store=store)
    assert names(tmp_path) == ["A-2.png", "a.png"]
    assert (tmp_path / "a.png").read_bytes() == PICTURE + b"/a"


def test_outputs_that_differ_in_their_extension_need_no_suffix(media: MediaServer, tmp_path: Path) -> None:
    media.answers = [sends()]
    run = run_of(("line", "text", "x"), ("image", "imageUrl", media.url()), ("tag", "text", "y"))
    fetch(media, tmp_path, run, file_name="{technique}.{ext}")
    assert names(tmp_path) == ["relight-3.txt", "relight.png", "relight.txt"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("videoUrl", "image/gif"), ("imageUrl", "image/gif")),
        (("imageUrl", "application/octet-stream"), ("videoUrl", "application/octet-stream")),
        (("text", ""), ("documentUrl", "text/plain")),
        (("imageUrl", "image/x-new"), ("videoUrl", "video/x-new")),
    ],
)
def test_outputs_of_two_types_that_have_one_extension_after_all_are_both_there(
    media: MediaServer, tmp_path: Path, first: tuple[str, str], second: tuple[str, str]
) -> None:
    def typed(request: BaseHTTPRequestHandler) -> None:
        sends(PICTURE, (first if request.path == "/0" else second)[1])(request)

    media.answers = [typed]
    run = run_of(("a", first[0], media.url("0")), ("b", second[0], media.url("1")))
    files = fetch(media, tmp_path, run, file_name="{technique}.{ext}")
    assert len(names(tmp_path)) == 2
    assert {Path(file["uri"][7:]).name for file in files} == set(names(tmp_path))


def technique_of(*outputs: tuple[str, str]) -> Technique:
    slots = [{"id": output_id, "type": kind} for output_id, kind in outputs]
    return Technique.model_validate({"technique_id": "relight", "name": "Relight", "outputs": slots})


@pytest.mark.parametrize("file_name", ["picture.{ext}", "{technique}-{flora_run_id}.{ext}", "all"])
def test_a_format_that_names_two_outputs_alike_is_refused_before_a_run_is_paid(
    tmp_path: Path, file_name: str
) -> None:
    downloads = Downloads(str(tmp_path), file_name, log)
    two = technique_of(("a", "imageUrl"), ("line", "text"), ("b", "imageUrl"))
    with pytest.raises(
        FloraParameterError, match=r"several outputs .*'a', 'b'\. Add \{output_id\} or \{index\}.*Nothing was"
    ) as reported:
        downloads.check_names(two)
    assert not reported.value.remedy.retryable
    downloads.check_names(technique_of(("a", "imageUrl"), ("line", "text")))
    downloads.check_names(technique_of())
    for apart in (DEFAULT_FILE_NAME, "{index}.{ext}", "{output_id}"):
        Downloads(str(tmp_path), apart, log).check_names(two)


# --- what an output may be --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("a\0b", "a\ufffdb"),
        ("cut \ud83d", "cut \ufffd"),
        ("\ude00 cut", "\ufffd cut"),
        ("half \ud83d of \U0001f600", "half \ufffd of \U0001f600"),
        ("\ufeffa\r\n", "\ufeffa\r\n"),
        ("", ""),
    ],
)
@pytest.mark.parametrize("where", ["local", "memory", "s3"])
def test_any_text_is_stored(
    request: pytest.FixtureRequest, media: MediaServer, tmp_path: Path, where: str, text: str, stored: str
) -> None:
    folder = {"local": str(tmp_path), "memory": "memory://out", "s3": "s3://store@files/out"}[where]
    if where == "s3":
        request.getfixturevalue("s3")
    if where == "memory":
        attach_memory()
    for _ in range(2):
        [file] = fetch(media, folder, run_of(("line", "text", text)))
    content = ObjectStoragePath(file["uri"]).read_bytes()
    assert content.decode() == stored
    assert (file["bytes"], file["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())


@pytest.mark.parametrize("kind", ["text", "imageUrl"])
@pytest.mark.parametrize("url", [None, "", " "])
def test_an_output_without_content_is_reported_and_the_others_are_there(
    media: MediaServer, tmp_path: Path, kind: str, url: str | None
) -> None:
    media.answers = [sends()]
    run = run_of(("image", "imageUrl", media.url()), ("other", kind, "x"))
    run = run.model_copy(update={"outputs": [run.outputs[0], run.outputs[1].model_copy(update={"url": url})]})
    if kind == "text" and url is not None:
        assert fetch(media, tmp_path, run)[1]["bytes"] == len(url)
        return
    with pytest.raises(FloraDownloadError, match=r"'other' of run run_1 .* has no content.*at no cost") as reported:
        fetch(media, tmp_path, run)
    assert reported.value.remedy.retryable
    assert names(tmp_path) == ["relight-run_1-image.png"]


def test_no_more_than_four_files_come_at_once(media: MediaServer, tmp_path: Path) -> None:
    now, most, lock, as_many_as_may_be = 0, 0, threading.Lock(), threading.Event()

    def counted(request: BaseHTTPRequestHandler) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
            if now == AT_ONCE:
                as_many_as_may_be.set()
        as_many_as_may_be.wait(30)
        time.sleep(0.05)  # one more would come now
        sends()(request)
        with lock:
            now -= 1

    media.answers = [counted]
    fetch(media, tmp_path, run_of(*((f"o{number}", "imageUrl", media.url(str(number))) for number in range(12))))
    assert most == AT_ONCE == 4


def test_a_chunked_answer_has_no_length_and_is_whole_anyway(media: MediaServer, tmp_path: Path) -> None:
    body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (PICTURE[:999], PICTURE[999:])) + b"0\r\n\r\n"
    media.answers = [sends(body, length="none", transfer_encoding="chunked")]
    assert fetch(media, tmp_path)[0]["sha256"] == hashlib.sha256(PICTURE).hexdigest()


def test_what_comes_compressed_unasked_is_stored_as_it_is_meant(media: MediaServer, tmp_path: Path) -> None:
    media.answers = [sends(gzip.compress(PICTURE), content_encoding="gzip")]
    assert fetch(media, tmp_path)[0]["sha256"] == hashlib.sha256(PICTURE).hexdigest()
    assert media.requests[0]["accept-encoding"] == "identity"


def test_progress_of_a_large_file_is_in_the_log(
    media: MediaServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloading, "LARGE_BYTES", 1000)
    monkeypatch.setattr(fetching, "_CHUNK_BYTES", len(PICTURE) // 20)
    media.answers = [sends()]
    with caplog.at_level(logging.INFO, log.name):
        fetch(media, tmp_path)
    reported = [record.getMessage() for record in caplog.records if " %)" in record.getMessage()]
    assert 9 <= len(reported) <= 11
    assert reported[-1].endswith("(100 %)")
    assert "Downloaded" in caplog.text


# --- where a file may come from ---------------------------------------------------------------------------


def test_the_key_is_never_sent(media: MediaServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    media.answers = [sends(b"", status=302, location=media.url("there.png")), sends()]
    fetch(media, tmp_path / "out")
    assert len(media.requests) == 2
    for request in media.requests:
        assert "authorization" not in request
        assert KEY not in str(request)


def test_a_password_of_a_netrc_file_is_not_sent_either(
    media: MediaServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, requests_mock: Any
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine media.example login me password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    headers = {"content-type": "image/png", "content-length": "3"}
    requests_mock.get("https://media.example/a.png", body=io.BytesIO(b"abc"), headers=headers)
    with MediaClient(settings(media, base_url="https://app.flora.ai/api/v1")).get("https://media.example/a.png"):
        pass
    assert "authorization" not in {name.lower() for name in requests_mock.last_request.headers}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed(media: MediaServer, tmp_path: Path, status: int) -> None:
    media.answers = [sends(b"", status=status, location="/there.png"), sends()]
    assert fetch(media, tmp_path)[0]["bytes"] == len(PICTURE)
    assert [request["path"] for request in media.requests] == ["/picture.png", "/there.png"]


def test_redirects_in_a_circle_end(media: MediaServer, tmp_path: Path) -> None:
    media.answers = [sends(b"", status=302, location="/picture.png")]
    with pytest.raises(FloraDownloadError, match="more than 5 redirects"):
        fetch(media, tmp_path)
    assert len(media.requests) == 6


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("file:///etc/passwd", "is not an http"),
        ("ftp://files.example/a.png", "is not an http"),
        ("http://files.example/a.png", "plain http"),
        ("http://169.254.169.254/latest", "plain http"),
        ("//[", "is not an http"),
    ],
)
@pytest.mark.parametrize("by_redirect", [False, True])
def test_what_is_not_https_is_not_asked(
    media: MediaServer, tmp_path: Path, target: str, why: str, by_redirect: bool
) -> None:
    media.answers = [sends(b"", status=302, location=target)]
    url = media.url() if by_redirect else target
    with pytest.raises(FloraDownloadError, match=why):
        fetch(media, tmp_path, run_of(("image", "imageUrl", url)))
    assert names(tmp_path) == []


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_only_the_emulators_files_are_on_this_machine(media: MediaServer, tmp_path: Path, scheme: str) -> None:
    run = run_of(("image", "imageUrl", f"{scheme}://localhost:8080/admin"))
    with pytest.raises(FloraDownloadError, match="the worker's own machine"):
        fetch(media, tmp_path, run, base_url="https://app.flora.ai/api/v1")


# --- when it is whole -------------------------------------------------------------------------------------


def test_nothing_is_under_the_final_name_while_it_comes(media: MediaServer, tmp_path: Path) -> None:
    there: list[list[str]] = []

    def slowly(request: BaseHTTPRequestHandler) -> None:
        sends(PICTURE, cut="0")(request)
        request.wfile.write(PICTURE[:10_000])
        ends = time.monotonic() + 30
        while not any(path.stat().st_size for path in tmp_path.glob(".*")) and time.monotonic() < ends:
            if names(tmp_path) and not names(tmp_path)[0].startswith("."):
                break
            time.sleep(0.01)
        there.append(names(tmp_path))
        request.wfile.write(PICTURE[10_000:])

    media.answers = [slowly]
    fetch(media, tmp_path)
    [[hidden]] = there
    assert hidden.startswith(".relight-run_1-image.png.")
    assert hidden.endswith(".part")
    assert names(tmp_path) == ["relight-run_1-image.png"]


@pytest.mark.parametrize(
    "broken",
    [
        sends(cut=str(len(PICTURE) // 2)),
        sends(length=str(len(PICTURE) + 1), cut=str(len(PICTURE) - 1)),
        sends(b""),
        sends(b"<html>moment, please</html>", "text/html"),
        sends(status=503),
        sends(status=429, retry_after="0"),
        lambda request: request.connection.shutdown(socket.SHUT_RDWR),
    ],
    ids=["cut", "longer than it is", "empty", "a page", "503", "429", "closed"],
)
def test_an_incomplete_file_is_downloaded_again(media: MediaServer, tmp_path: Path, broken: Any) -> None:
    media.answers = [broken, broken, sends()]
    [file] = fetch(media, tmp_path)
    assert (tmp_path / "relight-run_1-image.png").read_bytes() == PICTURE
    assert file["bytes"] == len(PICTURE)
    assert len(media.requests) == 3


@pytest.mark.parametrize("broken", [sends(cut="99"), sends(b"", status=500)], ids=["cut", "500"])
def test_what_never_becomes_whole_leaves_nothing_behind(media: MediaServer, tmp_path: Path, broken: Any) -> None:
    media.answers = [broken]
    with pytest.raises(FloraDownloadError, match=r"run_1 .*3 attempts.*A retry resumes") as caught:
        fetch(media, tmp_path)
    assert caught.value.remedy is Remedy.RETRY_LATER
    assert names(tmp_path) == []


def test_a_file_of_unknown_length_is_refused(media: MediaServer, tmp_path: Path) -> None:
    media.answers = [sends(length="none")]
    with pytest.raises(FloraDownloadError, match="does not send the file's length"):
        fetch(media, tmp_path)
    assert names(tmp_path) == []


def test_a_server_that_falls_silent_is_given_up_after_the_timeout(media: MediaServer, tmp_path: Path) -> None:
    silent = threading.Event()

    def stalls(request: BaseHTTPRequestHandler) -> None:
        sends(cut="100")(request)
        request.wfile.flush()
        silent.wait(60)

    media.answers = [stalls, sends()]
    began = time.monotonic()
    fetch(media, tmp_path, timeout=0.3, max_retries=5)
    silent.set()
    assert time.monotonic() - began < 30  # of the 60 that the server is silent


def test_a_file_that_only_drips_is_given_up_in_the_end(
    media: MediaServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloading, "MAX_SECONDS", 0.5)

    def drips(request: BaseHTTPRequestHandler) -> None:
        sends(PICTURE, cut="0")(request)
        for byte in PICTURE:
            request.wfile.write(bytes([byte]))
            time.sleep(0.05)

    media.answers = [drips]
    with pytest.raises(FloraDownloadError, match="timed out"):
        fetch(media, tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize("reported", [True, False], ids=["as it says", "as it turns out"])
def test_a_file_that_is_too_large_is_refused(
    media: MediaServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reported: bool
) -> None:
    monkeypatch.setattr(fetching, "MAX_FILE_BYTES", 1000)
    body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(PICTURE), PICTURE)
    media.answers = [sends() if reported else sends(body, length="none", transfer_encoding="chunked")]
    with pytest.raises(FloraDownloadError, match="larger than the limit"):
        fetch(media, tmp_path)
    assert len(media.requests) == 1
    assert names(tmp_path) == []


# --- what a failure says ----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [403, 404, 410])
def test_an_expired_url_is_reported_with_the_run(media: MediaServer, tmp_path: Path, status: int) -> None:
    media.answers = [sends(b"gone", status=status)]
    with pytest.raises(FloraDownloadError) as caught:
        fetch(media, tmp_path)
    text = str(caught.value)
    assert f"answered {status}" in text
    for part in ("'image'", "run_1", "'relight'", "expired", "new URLs", "at no cost", "new DAG run"):
        assert part in text
    assert len(media.requests) == 1


def test_one_that_fails_does_not_keep_the_others_away(media: MediaServer, tmp_path: Path) -> None:
    def by_path(request: BaseHTTPRequestHandler) -> None:
        (sends(b"", status=404) if request.path == "/3" else sends())(request)

    media.answers = [by_path]
    run = run_of(*((f"o{number}", "imageUrl", media.url(str(number))) for number in range(8)))
    with pytest.raises(FloraDownloadError, match="'o3'"):
        fetch(media, tmp_path, run)
    assert len(names(tmp_path)) == 7


def test_several_that_fail_are_all_named(media: MediaServer, tmp_path: Path) -> None:
    media.answers = [sends(b"", status=404)]
    run = run_of(("a", "imageUrl", media.url("a")), ("b", "imageUrl", media.url("b")), ("c", "text", "c"))
    with pytest.raises(FloraDownloadError, match=r"2 of 3 outputs were not downloaded:(.|\n)*'a'(.|\n)*'b'"):
        fetch(media, tmp_path, run)


@pytest.mark.parametrize(
    ("folder", "why"),
    [("relative/folder", "is a relative path"), ("nowhere://bucket/x", "cannot be used")],
)
def test_an_impossible_folder_is_refused_before_anything(folder: str, why: str) -> None:
    with pytest.raises(FloraParameterError, match=why):
        Downloads(folder, DEFAULT_FILE_NAME, log)


def test_a_storage_that_refuses_is_named(media: MediaServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("I am no folder")
    media.answers = [sends()]
    with pytest.raises(FloraStorageError, match=r"file/relight-run_1-image\.png could not be stored"):
        fetch(media, tmp_path / "file")


def test_the_end_of_the_task_ends_the_downloads(
    media: MediaServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Airflow's execution_timeout does: it raises in the main thread, wherever that is."""
    begun = threading.Event()

    def endless(request: BaseHTTPRequestHandler) -> None:
        sends(PICTURE, length=str(10**9), cut="0")(request)
        begun.set()
        for _ in range(6000):
            request.wfile.write(PICTURE)
            time.sleep(0.01)

    def over(*_: Any, **__: Any) -> Any:
        begun.wait(60)
        raise TimeoutError("execution_timeout")

    monkeypatch.setattr(downloading, "wait", over)
    media.answers = [endless]
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        fetch(media, tmp_path)
    assert time.monotonic() - began < 30  # of the 60 that the server goes on
    assert names(tmp_path) == []


def test_a_download_that_pauses_before_its_retry_is_not_retried_after_the_end_of_the_task(
    media: MediaServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses = threading.Event()

    def over(*_: Any, **__: Any) -> Any:
        assert pauses.wait(30)
        raise TimeoutError("execution_timeout")

    monkeypatch.setattr(downloading, "wait", over)
    monkeypatch.setattr(log, "warning", lambda *_, **__: pauses.set())
    media.answers = [sends(status=503, retry_after="20"), sends()]
    with pytest.raises(TimeoutError):
        fetch(media, tmp_path, max_retries=2)
    assert len(media.requests) == 1
    assert names(tmp_path) == []


# --- what is there already --------------------------------------------------------------------------------


needs_store = pytest.mark.skipif(not HAS_STATE_STORE, reason="this Airflow keeps no state of tasks")


@needs_store
def test_what_this_task_has_stored_is_not_downloaded_again(media: MediaServer, tmp_path: Path) -> None:
    media.answers = [sends()]
    store = FakeStore()
    first = fetch(media, tmp_path, store=store, file_name="hero.{ext}")
    assert fetch(media, tmp_path, store=store, file_name="hero.{ext}") == first
    assert len(media.requests) == 1


@needs_store
@pytest.mark.parametrize("change", ["gone", "other", "longer"])
def test_a_file_that_has_changed_is_downloaded_again(media: MediaServer, tmp_path: Path, change: str) -> None:
    media.answers = [sends()]
    store = FakeStore()
    fetch(media, tmp_path, store=store, file_name="hero.{ext}")
    path = tmp_path / "hero.png"
    if change == "gone":
        path.unlink()
    else:
        path.write_bytes(b"x" * (len(PICTURE) + (change == "longer")))
    fetch(media, tmp_path, store=store, file_name="hero.{ext}")
    assert path.read_bytes() == PICTURE


@needs_store
def test_the_files_of_another_run_do_not_count(media: MediaServer, tmp_path: Path) -> None:
    store = FakeStore()
    other = bytes(reversed(PICTURE))
    media.answers = [sends(), sends(other)]
    fetch(media, tmp_path, store=store, file_name="hero.{ext}")
    fetch(
        media,
        tmp_path,
        run_of(("image", "imageUrl", media.url()), run_id="run_2"),
        store=store,
        file_name="hero.{ext}",
    )
    assert (tmp_path / "hero.png").read_bytes() == other


@needs_store
def test_a_store_that_fails_does_not_take_the_file_away(media: MediaServer, tmp_path: Path) -> None:
    store = FakeStore()
    store.broken.append(RuntimeError("the API server is away"))
    media.answers = [sends()]
    assert fetch(media, tmp_path, store=store)


class Unreadable(FakeStore):
    """A store that is away."""

    def get(self, key: str, default: Any = None) -> Any:
        raise RuntimeError("no database")


@needs_store
def test_a_store_that_cannot_be_read_does_not_take_the_file_away(media: MediaServer, tmp_path: Path) -> None:
    media.answers = [sends()]
    assert fetch(media, tmp_path, store=Unreadable())


@needs_store
@pytest.mark.parametrize(
    "change",
    [
        lambda stored: stored["files"]["image"].update(colour="red"),
        lambda stored: stored["files"]["image"].pop("sha256"),
        lambda stored: stored["files"].update(image="a.png"),
        lambda stored: stored.update(files=["a.png"]),
        lambda stored: stored.pop("files"),
    ],
)
def test_what_another_release_has_noted_is_read_as_far_as_it_goes(
    media: MediaServer, tmp_path: Path, change: Callable[[Any], Any]
) -> None:
    media.answers = [sends()]
    store = FakeStore()
    first = fetch(media, tmp_path, store=store)
    stored = store.get("flora_files")
    change(stored)
    store.set("flora_files", stored)
    assert fetch(media, tmp_path, store=store) == first


@pytest.mark.parametrize("etag", [None, hashlib.md5(PICTURE).hexdigest()], ids=["by its name", "by its checksum"])
def test_without_a_record_the_head_of_the_answer_decides(
    media: MediaServer, tmp_path: Path, etag: str | None
) -> None:
    headers = {"etag": f'"{etag}"'} if etag else {}
    media.answers = [sends(**headers)]
    [first] = fetch(media, tmp_path)
    path = tmp_path / "relight-run_1-image.png"
    before = path.stat()
    assert fetch(media, tmp_path) == [first]
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert path.stat().st_ino == before.st_ino


@pytest.mark.parametrize(
    ("file_name", "etag"),
    [("hero.{ext}", None), ("hero.{ext}", "0" * 32), (DEFAULT_FILE_NAME, "0" * 32)],
    ids=["a name of many runs", "such a name and another checksum", "another checksum"],
)
def test_without_a_record_a_file_that_could_be_another_is_downloaded(
    media: MediaServer, tmp_path: Path, file_name: str, etag: str | None
) -> None:
    headers = {"etag": f'"{etag}"'} if etag else {}
    media.answers = [sends(b"y" * len(PICTURE), **headers), sends(**headers)]
    fetch(media, tmp_path, file_name=file_name)
    [file] = fetch(media, tmp_path, file_name=file_name)
    assert file["sha256"] == hashlib.sha256(PICTURE).hexdigest()


def test_without_a_record_a_file_of_another_length_is_downloaded(media: MediaServer, tmp_path: Path) -> None:
    (tmp_path / "relight-run_1-image.png").write_bytes(b"half")
    media.answers = [sends()]
    fetch(media, tmp_path)
    assert (tmp_path / "relight-run_1-image.png").read_bytes() == PICTURE


def test_what_a_killed_task_left_is_removed_and_nothing_else(media: MediaServer, tmp_path: Path) -> None:
    left = tmp_path / ".relight-run_1-image.png.0a1b2c3d.part"
    others = [
        tmp_path / ".relight-run_2-image.png.0a1b2c3d.part",
        tmp_path / ".relight-run_1-image.png.x.png.0a1b2c3d.part",  # of a file whose name goes on
        tmp_path / ".relight-run_1-image.png.part",
        tmp_path / ".hidden",
    ]
    for path in (left, *others):
        path.write_bytes(b"half")
    media.answers = [sends()]
    fetch(media, tmp_path)
    assert names(tmp_path) == sorted([*(path.name for path in others), "relight-run_1-image.png"])


def test_a_text_is_written_again_only_where_it_differs(media: MediaServer, tmp_path: Path) -> None:
    run = run_of(("line", "text", "abc"))
    fetch(media, tmp_path, run)
    path = tmp_path / "relight-run_1-line.txt"
    before = path.stat().st_ino
    fetch(media, tmp_path, run)
    assert path.stat().st_ino == before
    path.write_text("abd")
    fetch(media, tmp_path, run)
    assert path.read_text() == "abc"


# --- other storages ---------------------------------------------------------------------------------------


def attach_memory() -> None:
    """Let Airflow know of a storage in memory, which can only rename."""
    import fsspec

    attach("memory", fs=fsspec.filesystem("memory"))


def test_a_file_system_that_can_only_rename_is_good_enough(media: MediaServer) -> None:
    import fsspec

    attach_memory()
    media.answers = [sends()]
    [file] = fetch(media, "memory://some/folder/")
    assert file["uri"] == "memory://some/folder/relight-run_1-image.png"
    fs = fsspec.filesystem("memory")
    assert fs.find("/some") == ["/some/folder/relight-run_1-image.png"]
    fs.rm("/some", recursive=True)


def objects(s3: Any) -> dict[str, bytes]:
    listed = s3.list_objects_v2(Bucket="files").get("Contents", [])
    return {entry["Key"]: s3.get_object(Bucket="files", Key=entry["Key"])["Body"].read() for entry in listed}


@pytest.mark.parametrize("size", [100, 12 * 1024 * 1024], ids=["small", "in parts"])
def test_an_object_is_there_when_it_is_whole(media: MediaServer, s3: Any, size: int) -> None:
    content = (PICTURE * (size // len(PICTURE) + 1))[:size]
    media.answers = [sends(content)]
    [file] = fetch(media, "s3://store@files/a/b/")
    assert file["uri"] == "s3://store@files/a/b/relight-run_1-image.png"
    assert objects(s3) == {"a/b/relight-run_1-image.png": content}
    assert ObjectStoragePath(file["uri"]).read_bytes() == content


def test_a_path_object_takes_its_connection_along(media: MediaServer, s3: Any) -> None:
    media.answers = [sends()]
    folder = ObjectStoragePath("s3://files/a", conn_id="store")
    downloads = Downloads(folder, DEFAULT_FILE_NAME, log)
    [file] = downloads.download(run_of(("image", "imageUrl", media.url())), "relight", settings(media))
    assert file["uri"] == "s3://store@files/a/relight-run_1-image.png"
    assert list(objects(s3)) == ["a/relight-run_1-image.png"]


@pytest.mark.parametrize("size", [1000, 12 * 1024 * 1024], ids=["small", "in parts"])
def test_a_cut_file_is_no_object_and_leaves_no_upload(media: MediaServer, s3: Any, size: int) -> None:
    media.answers = [sends(b"x" * size, cut=str(size - 1))]
    with pytest.raises(FloraDownloadError):
        fetch(media, "s3://store@files/a", max_retries=0)
    assert objects(s3) == {}
    assert "Uploads" not in s3.list_multipart_uploads(Bucket="files")


@needs_store
def test_an_object_that_this_task_has_stored_is_not_downloaded_again(media: MediaServer, s3: Any) -> None:
    media.answers = [sends()]
    store = FakeStore()
    fetch(media, "s3://store@files/a", store=store)
    fetch(media, "s3://store@files/a", store=store)
    assert len(media.requests) == 1
    s3.put_object(Bucket="files", Key="a/relight-run_1-image.png", Body=bytes(len(PICTURE)))
    fetch(media, "s3://store@files/a", store=store, file_name="{flora_run_id}.{ext}")
    fetch(media, "s3://store@files/a", store=store)
    assert len(media.requests) == 3


def test_an_object_of_an_earlier_attempt_without_a_record_is_not_downloaded(media: MediaServer, s3: Any) -> None:
    media.answers = [sends()]
    first = fetch(media, "s3://store@files/a")
    written = s3.head_object(Bucket="files", Key="a/relight-run_1-image.png")["ETag"]
    s3.put_object(Bucket="files", Key="a/relight-run_1-image.png", Body=PICTURE)  # its version is another now
    assert fetch(media, "s3://store@files/a") == first
    assert s3.head_object(Bucket="files", Key="a/relight-run_1-image.png")["ETag"] != written


def test_a_key_that_others_go_on_from_is_no_file_and_no_obstacle(media: MediaServer, s3: Any) -> None:
    s3.put_object(Bucket="files", Key="a/relight-run_1-image.png/b/relight-run_1-image.png", Body=b"x")
    media.answers = [sends()]
    for _ in range(2):
        fetch(media, "s3://store@files/a")
    assert objects(s3)["a/relight-run_1-image.png"] == PICTURE
    fetch(media, "s3://store@files/a/relight-run_1-image.png/b")
    assert objects(s3)["a/relight-run_1-image.png"] == PICTURE
    assert objects(s3)["a/relight-run_1-image.png/b/relight-run_1-image.png"] == PICTURE
    s3.put_object(Bucket="files", Key="a/relight-run_1-line.txt/b", Body=b"x")
    fetch(media, "s3://store@files/a", run_of(("line", "text", "")))
    assert objects(s3)["a/relight-run_1-line.txt"] == b""


def test_a_bucket_that_is_not_there_is_not_made(media: MediaServer, s3: Any) -> None:
    media.answers = [sends()]
    with pytest.raises(FloraError, match=r"s3://store@nobodys/a/relight-run_1-image\.png could not be stored"):
        fetch(media, "s3://store@nobodys/a")
    assert [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]] == ["files"]
