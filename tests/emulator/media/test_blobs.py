"""Files of any length, and downloads that go wrong on order."""

from __future__ import annotations

import contextlib
import hashlib
import time

import pytest
import requests

MB = 1024 * 1024


def blob(flora, **order):
    return requests.post(f"{flora.emulator.origin}/_emulator/blobs", json=order, timeout=60)


def test_a_blob_has_the_length_and_type_that_were_asked_for_and_is_the_same_each_time(flora):
    for size in (0, 1, 262_144, 5 * MB + 17):
        order = {"bytes": size, "content_type": "video/mp4"}
        answer = blob(flora, **order).json()
        assert answer == {**order, "url": answer["url"]}
        assert answer["url"].endswith(".mp4")
        first, second = (requests.get(answer["url"], timeout=60) for _ in range(2))
        assert len(first.content) == int(first.headers["content-length"]) == size
        assert first.headers["content-type"] == "video/mp4"
        assert first.content == second.content
    pieces = [first.content[at : at + 65_536] for at in range(0, len(first.content), 65_536)]
    assert len(set(pieces[::4])) == len(pieces[::4]), "no piece stands for another"
    head = requests.head(answer["url"], timeout=60)
    assert (head.headers["content-length"], head.content) == (str(5 * MB + 17), b"")


def test_another_name_is_another_blob(flora):
    contents = {requests.get(blob(flora, bytes=100, name=name).json()["url"], timeout=60).content for name in "ab"}
    assert len(contents) == 2


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ({}, "takes bytes"),
        ({"bytes": 1, "colour": "red"}, "takes bytes"),
        ({"bytes": -1}, "whole number"),
        ({"bytes": "9"}, "whole number"),
        ({"bytes": 9, "content_type": "text/html"}, "image/jpeg"),
        ({"bytes": 9, "name": "../x"}, "letters"),
    ],
)
def test_a_blob_that_makes_no_sense_is_refused(flora, order, message):
    answer = blob(flora, **order)
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]


def test_there_are_no_other_blobs(flora):
    for path in ("blobs/9/x.exe", f"blobs/{2**40 + 1}/x.bin", "blobs/x/x.bin", "blobs/9/a/b.bin"):
        assert requests.get(f"{flora.emulator.origin}/media/{path}", timeout=60).status_code == 404


def test_a_run_can_give_large_files(flora):
    flora.emulator.order_fault("large_output", bytes=3 * MB)
    run = flora.run("product-motion", [{"id": "photo", "type": "imageUrl", "value": "https://a.example/b.png"}])
    answer = requests.get(run["outputs"][0]["url"], timeout=60)
    assert (len(answer.content), answer.headers["content-type"]) == (3 * MB, "video/mp4")
    assert flora.run()["outputs"][0]["url"].endswith("/still.png"), "once"


@pytest.fixture
def media(flora):
    """One of each kind: drawn, uploaded, made while it is sent."""
    files = {"file": ("a.pdf", bytes(MB))}
    asset = flora.send("POST", "/assets", files=files, data={"workspace_id": "ws_emulator"}).json()
    return [
        f"{flora.emulator.origin}/media/samples/mug.png",
        asset["url"],
        blob(flora, bytes=MB).json()["url"],
    ]


def test_a_download_breaks_off_halfway(flora, media):
    for url in media:
        whole = requests.get(url, timeout=60).content
        flora.emulator.order_fault("cut_media")
        with requests.get(url, timeout=60, stream=True) as answer:
            assert int(answer.headers["content-length"]) == len(whole)
            received = b""
            with contextlib.suppress(requests.exceptions.ChunkedEncodingError):
                for piece in answer.iter_content(1024):
                    received += piece
        assert len(whole) // 2 - 1024 <= len(received) <= len(whole) // 2
        assert whole.startswith(received)
        assert requests.get(url, timeout=60).content == whole


def test_half_a_file_may_look_whole(flora, media):
    for url in media:
        whole = requests.get(url, timeout=60)
        flora.emulator.order_fault("short_media")
        half = requests.get(url, timeout=60)
        assert half.content == whole.content[: len(whole.content) // 2]
        assert half.headers["content-type"] == whole.headers["content-type"]


def test_a_download_is_reset_or_held_up_halfway(flora, media):
    for url in media:
        whole = requests.get(url, timeout=60).content
        flora.emulator.order_fault("reset", operation="getMedia", when="during")
        with pytest.raises(requests.RequestException):
            requests.get(url, timeout=60)
        flora.emulator.order_fault("delay", operation="getMedia", when="during", seconds=0.2)
        begun = time.perf_counter()
        assert hashlib.sha256(requests.get(url, timeout=60).content).digest() == hashlib.sha256(whole).digest()
        assert time.perf_counter() - begun > 0.2


def test_a_download_is_answered_otherwise(flora, media):
    for url in media:
        flora.emulator.order_fault("status", operation="getMedia", status=404)
        assert requests.get(url, timeout=60).status_code == 404
        flora.emulator.order_fault("html", operation="getMedia", status=200)
        assert requests.get(url, timeout=60).headers["content-type"].startswith("text/html")
