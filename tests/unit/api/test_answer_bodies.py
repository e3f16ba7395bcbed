"""No answer is too large or too slow to be survived."""

from __future__ import annotations

import contextlib
import gzip
import socket
import zlib
from typing import Any

import pytest

from airflow_provider_flora.api import answers
from airflow_provider_flora.api.errors import FloraAnswerError, FloraAPIError, FloraTimeoutError
from airflow_provider_flora.emulator import Emulator
from tests.unit.api.both_clients import MakeClient
from tests.unit.api.scripted_flora import Drip, ScriptedFlora, answer, error, run_json

MEGABYTE = 1024 * 1024
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
A_LITTLE_TOO_MUCH = b'{"run_id": "%s"}' % (b"x" * 16 * MEGABYTE)


def chunks(connection: socket.socket) -> bool:
    connection.sendall(HEAD + b"transfer-encoding: chunked\r\n\r\n")
    for _ in range(64):
        connection.sendall(b"%x\r\n%s\r\n" % (MEGABYTE, b" " * MEGABYTE))
    return False


def endless(connection: socket.socket) -> bool:
    connection.sendall(HEAD + b"\r\n")
    for _ in range(64):
        connection.sendall(b" " * MEGABYTE)
    return False


TOO_LARGE = {
    "with a length": answer(A_LITTLE_TOO_MUCH),
    "in chunks": chunks,
    "until the connection ends": endless,
    "gzip": answer(gzip.compress(b" " * 200 * MEGABYTE), content_encoding="gzip"),
    "deflate": answer(zlib.compress(b" " * 200 * MEGABYTE), content_encoding="deflate"),
    "an error": answer(A_LITTLE_TOO_MUCH, 500),
    "a redirect": answer(A_LITTLE_TOO_MUCH, 302, location="https://flora.example/"),
    "an event stream": answer(b": " + A_LITTLE_TOO_MUCH, content_type="text/event-stream"),
}


@pytest.mark.parametrize("reply", TOO_LARGE.values(), ids=TOO_LARGE)
def test_an_answer_above_16_mb_is_refused_and_not_asked_for_again(reply: Any, make_client: MakeClient) -> None:
    with ScriptedFlora(reply) as flora, pytest.raises(FloraAnswerError, match="larger than 16 MB") as caught:
        make_client(flora.base_url, timeout=20).get_technique_run("tech_1", "run_1")

    assert not caught.value.transient
    assert len(flora.requests) == 1


@pytest.mark.parametrize("encoding", [None, "gzip"])
def test_an_answer_of_just_16_mb_is_read(encoding: str | None, make_client: MakeClient) -> None:
    start = b'{"run_id": "run_1", "status": "running"}'
    body = start + b" " * (16 * MEGABYTE - len(start))
    reply = answer(gzip.compress(body), content_encoding=encoding) if encoding else answer(body)
    with ScriptedFlora(reply) as flora:
        assert make_client(flora.base_url, timeout=20).get_technique_run("tech_1", "run_1").run_id == "run_1"


def test_the_emulators_oversized_answer_is_refused(emulator: Emulator, make_client: MakeClient) -> None:
    emulator.order_fault("oversize", operation="getTechnique")
    with pytest.raises(FloraAnswerError, match="larger than 16 MB"):
        make_client(emulator.base_url).get_technique("wonder-fy")


def test_after_a_refused_answer_the_client_is_as_good_as_new(make_client: MakeClient) -> None:
    with ScriptedFlora(TOO_LARGE["with a length"], answer(run_json())) as flora:
        client = make_client(flora.base_url, timeout=20)
        with pytest.raises(FloraAnswerError):
            client.get_technique_run("tech_1", "run_1")
        assert client.get_technique_run("tech_1", "run_1").run_id == "run_1"


@pytest.mark.parametrize("status", [b"200 OK", b"503 Busy"])
def test_a_body_that_comes_in_drops_ends_with_the_timeout(status: bytes, make_client: MakeClient) -> None:
    drip = Drip(b"HTTP/1.1 " + status + b"\r\ncontent-length: 1000\r\n\r\n", every=0.05)
    with ScriptedFlora(drip) as flora, pytest.raises(FloraTimeoutError, match=r"within 0\.3 s"):
        make_client(flora.base_url, timeout=0.3, max_retries=0).get_technique("tech_1")


def test_the_time_limit_of_a_body_is_measured_by_the_given_clock() -> None:
    now = [0.0]
    body = answers.Body("application/json", 10.0, lambda: now[0])
    body.add(b"a")
    now[0] = 10.0
    body.add(b"b")
    now[0] = 10.1
    with pytest.raises(TimeoutError):
        body.add(b"c")
    assert not body.is_usable_when_cut


def test_an_event_stream_is_bound_by_its_size_only() -> None:
    now = [0.0]
    body = answers.Body("text/event-stream; charset=utf-8", 10.0, lambda: now[0])
    assert not body.is_usable_when_cut
    now[0] = 10_000.0
    body.add(b"data: {}")
    assert body.is_usable_when_cut
    assert body.content() == b"data: {}"
    with pytest.raises(FloraAnswerError, match="16 MB"):
        body.add(b"x" * 16 * MEGABYTE)


def test_connections_are_kept_from_one_request_to_the_next_even_after_errors(make_client: MakeClient) -> None:
    replies = [answer(run_json()), error(404), error(503), answer(b"<html>"), answer(run_json())]
    with ScriptedFlora(*replies) as flora:
        client = make_client(flora.base_url, max_retries=0)
        for _ in replies:
            with contextlib.suppress(FloraAPIError, FloraAnswerError):
                client.get_technique_run("tech_1", "run_1")

    assert len(flora.requests) == len(replies)
    assert flora.connections == 1


def test_compressed_answers_are_read(make_client: MakeClient) -> None:
    with ScriptedFlora(answer(gzip.compress(b'{"run_id": "r", "status": "s"}'), content_encoding="gzip")) as flora:
        assert make_client(flora.base_url).get_technique_run("tech_1", "run_1").run_id == "r"

    assert "gzip" in flora.requests[0].headers["accept-encoding"]
