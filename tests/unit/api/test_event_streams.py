"""A start in stream mode: of all events, the last that is a run."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_flora.api import answers
from airflow_provider_flora.api.errors import FloraAnswerError, FloraAPIError, FloraError
from airflow_provider_flora.api.exchange import Response
from airflow_provider_flora.api.models import Run
from airflow_provider_flora.emulator import Emulator
from tests.unit.api.both_clients import MakeClient
from tests.unit.api.scripted_flora import Drip, ScriptedFlora, answer, cut, error, run_json

PENDING, RUNNING, DONE = (json.dumps(run_json(status)) for status in ("pending", "running", "completed"))
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"


def read(stream: str | bytes, content_type: str = "text/event-stream") -> Run:
    body = stream if isinstance(stream, bytes) else stream.encode()
    return answers.read_run(Response(200, {"content-type": content_type, "request-id": "req_42"}, body))


@pytest.mark.parametrize(
    ("stream", "status"),
    [
        (f"data: {PENDING}\n\ndata: {DONE}\n\n", "completed"),
        (f"data: {PENDING}\n\ndata: {RUNNING}", "running"),
        (f"data:{PENDING}\n\n", "pending"),
        (f"data: {PENDING}\r\n\r\ndata: {DONE}\r\n\r\n", "completed"),
        (f"data: {PENDING}\r\rdata: {DONE}\r\r", "completed"),
        (f": a comment\n\nevent: run\nid: 7\nretry: 10\ndata: {DONE}\n\n: another\n\n", "completed"),
        (f"data: {DONE}\n\nevent: done\ndata: [DONE]\n\n", "completed"),
        (f'data: {DONE}\n\ndata: {{"type": "ping"}}\n\n', "completed"),
        (f"data: {RUNNING}\n\ndata: {DONE[:-9]}", "running"),
        ("\n".join(f"data: {line}" for line in json.dumps(run_json("failed"), indent=2).split("\n")), "failed"),
        (f"\n\n\n\ndata: {DONE}\n\n\n\n", "completed"),
        (f"\ufeffdata: {DONE}\n\n", "completed"),
    ],
)
def test_the_last_event_that_is_a_run_is_read(stream: str, status: str) -> None:
    run = read(stream, "text/event-stream; charset=utf-8")

    assert run.status == status
    assert run.request_id == "req_42"


def test_bytes_that_are_no_text_do_not_hide_the_runs_around_them() -> None:
    assert read(f"data: {DONE}\n\n".encode() + b"data: \xff\xfe\n\n").status == "completed"


@pytest.mark.parametrize("stream", ["", "\n\n", ": nothing\n\n", "data: hello\n\n", f"event: {DONE}\n\n", DONE])
def test_a_stream_without_a_run_is_an_error_that_may_pass(stream: str) -> None:
    with pytest.raises(FloraAnswerError, match=r"ended without a run.*req_42") as caught:
        read(stream)

    assert caught.value.transient


def test_an_error_is_an_error_although_its_body_is_a_stream() -> None:
    with pytest.raises(FloraAPIError, match="402"):
        answers.read_run(Response(402, {"content-type": "text/event-stream"}, f"data: {DONE}\n\n".encode()))


@given(st.text() | st.binary())
def test_any_stream_is_a_run_or_a_flora_error(stream: str | bytes) -> None:
    with contextlib.suppress(FloraError):
        assert isinstance(read(stream), Run)


def chunked(*events: str) -> bytes:
    pieces = [f"data: {event}\n\n".encode() for event in events]
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)


CUT = {
    "at the end of the connection": cut(HEAD + f"\r\ndata: {PENDING}\n\ndata: {RUNNING}\n\n".encode()),
    "before the last chunk": cut(HEAD + b"transfer-encoding: chunked\r\n\r\n" + chunked(PENDING, RUNNING)),
    "within a chunk": cut(HEAD + b"transfer-encoding: chunked\r\n\r\n" + chunked(PENDING, RUNNING, DONE)[:-20]),
    "short of its length": cut(HEAD + f"content-length: 9999\r\n\r\ndata: {RUNNING}\n\n".encode()),
}


@pytest.mark.parametrize("reply", CUT.values(), ids=CUT)
def test_a_stream_that_was_cut_still_names_the_paid_run(reply: Any, make_client: MakeClient) -> None:
    with ScriptedFlora(reply) as flora:
        run = make_client(flora.base_url).start_technique_run("tech_1", [], mode="stream")

    assert (run.run_id, run.status) == ("run_1", "running")
    assert len(flora.requests) == 1


def test_a_stream_that_falls_silent_still_names_the_paid_run(make_client: MakeClient) -> None:
    with ScriptedFlora(Drip(HEAD + f"\r\ndata: {RUNNING}\n\n".encode(), every=5)) as flora:
        run = make_client(flora.base_url, timeout=1.0).start_technique_run("tech_1", [], mode="stream")

    assert run.status == "running"
    assert len(flora.requests) == 1


def test_a_stream_may_last_longer_than_the_timeout_while_it_keeps_talking(make_client: MakeClient) -> None:
    beginning = HEAD + f"\r\ndata: {RUNNING}\n\n".encode()
    with ScriptedFlora(Drip(beginning, every=0.1, times=8, piece=b": still here\n\n")) as flora:
        run = make_client(flora.base_url, timeout=0.4).start_technique_run("tech_1", [], mode="stream")

    assert run.status == "running"


def test_a_stream_that_was_cut_before_it_began_is_asked_for_again_with_the_same_key(
    make_client: MakeClient,
) -> None:
    replies = cut(HEAD + b"content-length: 99\r\n\r\n"), error(409)
    with ScriptedFlora(*replies) as flora, pytest.raises(FloraAPIError, match="409"):
        make_client(flora.base_url).start_technique_run("tech_1", [], mode="stream")

    assert len({request.body for request in flora.requests}) == 1


def test_an_answer_in_json_to_a_stream_is_read_too(make_client: MakeClient) -> None:
    with ScriptedFlora(answer(run_json())) as flora:
        assert make_client(flora.base_url).start_technique_run("tech_1", [], mode="stream").run_id == "run_1"


def test_the_emulators_stream_is_read_to_its_end(make_client: MakeClient) -> None:
    with Emulator(run_seconds=0.2, cost_lag=0) as emulator:
        client = make_client(emulator.base_url, api_key=emulator.api_key)
        run = client.start_technique_run("tagline-writer", {"brief": "Soap"}, mode="stream")

    assert run.completed
    assert run.outputs[0].type == "text"
