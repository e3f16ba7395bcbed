"""Any answer of Flora or of a proxy is a model or a Flora error, never another exception."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_provider_flora.api import answers, operations
from airflow_provider_flora.api.client import FloraClient
from airflow_provider_flora.api.errors import FloraAnswerError, FloraError
from airflow_provider_flora.api.exchange import Response
from airflow_provider_flora.api.lenient import storable
from airflow_provider_flora.api.models import Run, Slot, Technique, Workspace
from airflow_provider_flora.api.settings import ClientSettings
from airflow_provider_flora.emulator import Emulator
from tests.unit.api.both_clients import MakeClient
from tests.unit.api.scripted_flora import ScriptedFlora, answer, cut, run_json

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(), values, max_size=3),
    max_leaves=6,
)
TEXT = st.text() | JSON
SLOT = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(
        ("id", "type", "name", "description", "specified_aspect_ratio"), st.text() | st.none() | JSON
    )
    | dict.fromkeys(("optional", "accepts_element", "allow_multiple"), st.booleans() | st.none() | JSON)
    | {"specified_duration": st.floats() | JSON},
)
OUTPUT = st.fixed_dictionaries({}, optional=dict.fromkeys(("output_id", "type", "url"), TEXT))
RUN = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("run_id", "status", "error_code", "error_message", "workspace_id", "poll_url"), TEXT),
        **dict.fromkeys(
            ("progress", "created_at", "started_at", "completed_at", "charged_cost"),
            st.integers() | st.floats() | JSON,
        ),
        "outputs": st.lists(OUTPUT, max_size=2) | JSON,
        "technique": JSON,
    },
)
TECHNIQUE = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("technique_id", "name", "description", "slug"), TEXT),
        "run_cost": st.floats() | JSON,
        **dict.fromkeys(("inputs", "outputs"), st.lists(SLOT | JSON, max_size=2) | JSON),
    },
)
META = st.fixed_dictionaries({}, optional={"next_cursor": TEXT, "total_estimate": JSON}) | JSON
PAGE = st.fixed_dictionaries(
    {},
    optional={
        "techniques": st.lists(TECHNIQUE, max_size=2) | JSON,
        "technique_runs": st.lists(RUN, max_size=2) | JSON,
        "workspaces": st.lists(JSON, max_size=2) | JSON,
        "meta": META,
    },
)

READERS: dict[str, Callable[[Response], Any]] = {
    "a technique": answers.read_technique,
    "a run": answers.read_run,
    "the workspaces": answers.read_workspaces,
    "a page of techniques": lambda response: operations.list_techniques(None, None, 100).read(response),
    "a page of runs": lambda response: operations.list_technique_runs(None, None, None, None, 100).read(response),
}
MODELS = (Run, Technique, Workspace)
AWKWARD_BODIES = [
    b"",
    b"null",
    b"[]",
    b'"text"',
    b"5",
    b"NaN",
    b'{"run_id": "r", "status": "s", "progress": NaN}',
    b'{"run_id": "r", "status": "s", "progress": Infinity, "charged_cost": -Infinity}',
    b'{"run_id": "r", "status": "s", "progress": 1e999}',
    b'{"run_id": "r", "status": "s", "created_at": ' + b"9" * 10_000 + b"}",
    b'{"run_id": "r", "status": "s", "charged_cost": ' + b"9" * 500 + b"}",
    b'{"run_id": "\\ud800", "status": "\\udfff"}',
    b'{"run_id": "r", "status": "\xff"}',
    b"[" * 200_000,
    b'{"a":' * 200_000,
    b'{"run_id": "r", "status": "s", "x": ' + b"[" * 5_000 + b"]" * 5_000 + b"}",
    b'{"run_id": "r", "status": "s"} and more',
    b'\xef\xbb\xbf{"run_id": "r", "status": "s"}',
    b"\x00" * 100,
]


def read(reader: str, body: bytes, content_type: str = "application/json") -> Any:
    return READERS[reader](Response(200, {"content-type": content_type, "request-id": "req_42"}, body))


def assert_reads_or_refuses(reader: str, body: bytes, content_type: str = "application/json") -> None:
    try:
        result = read(reader, body, content_type)
    except FloraError:
        return
    for item in result if isinstance(result, list) else [result]:
        assert isinstance(item, MODELS)
        json.dumps(item.model_dump(mode="json"), allow_nan=False).encode()


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("body", AWKWARD_BODIES, ids=lambda body: repr(body[:50]))
@pytest.mark.parametrize("content_type", ["application/json", "text/event-stream"])
def test_awkward_bytes_are_read_or_refused(body: bytes, reader: str, content_type: str) -> None:
    assert_reads_or_refuses(reader, body, content_type)
    assert_reads_or_refuses(reader, b"data: " + body, content_type)


@pytest.mark.parametrize("reader", READERS)
@given(body=st.binary(), content_type=st.text() | st.just("text/event-stream"))
def test_any_bytes_are_read_or_refused(reader: str, body: bytes, content_type: str) -> None:
    assert_reads_or_refuses(reader, body, content_type)


@pytest.mark.parametrize("reader", READERS)
@given(body=JSON | RUN | TECHNIQUE | PAGE)
@example(body={"meta": None, "techniques": None, "technique_runs": None})
def test_any_json_is_read_or_refused(reader: str, body: Any) -> None:
    assert_reads_or_refuses(reader, json.dumps(body).encode())


@given(run=RUN)
def test_any_json_beside_an_id_and_a_status_is_read_or_refused_and_never_misread(run: dict[str, Any]) -> None:
    run |= {"run_id": "run_1", "status": "completed"}
    try:
        read_run = read("a run", json.dumps(run).encode())
    except FloraAnswerError:
        return
    assert (read_run.run_id, read_run.status) == ("run_1", "completed")


@given(st.text(), st.dictionaries(st.text(), JSON))
def test_unknown_statuses_and_fields_never_break_a_run(status: str, unknown: dict[str, Any]) -> None:
    wire = {**{f"x_{key}": value for key, value in unknown.items()}, **run_json(status)}
    run = read("a run", json.dumps(wire).encode())

    assert run.status == storable(status)
    assert run.finished == (status in ("completed", "failed"))


@given(st.text(), st.dictionaries(st.text(), JSON))
def test_unknown_types_and_fields_never_break_a_technique(kind: str, unknown: dict[str, Any]) -> None:
    more = {f"x_{key}": value for key, value in unknown.items()}
    wire = {"technique_id": "t", "name": "T", "inputs": [{"id": "a", "type": kind, **more}], **more}
    technique = read("a technique", json.dumps(wire).encode())

    assert technique.inputs[0].type == storable(kind)


def test_a_run_is_read_with_everything_that_flora_documents() -> None:
    wire = {
        "run_id": "run_1",
        "technique_run_id": "run_1",
        "status": "completed",
        "progress": 100,
        "created_at": 1700000000001,
        "started_at": 1700000000002.5,
        "completed_at": 1700000000003,
        "charged_cost": 0.25,
        "error_code": "provider_error",
        "error_message": "Words.",
        "outputs": [{"output_id": "o", "type": "text", "url": "the text itself"}],
        "poll_url": "https://flora.example/",
        "technique": {"technique_id": "tech_1", "name": "T"},
        "workspace_id": "ws_1",
        "project_id": "prj_1",
    }
    run = read("a run", json.dumps(wire).encode())

    dumped = run.model_dump()
    assert dumped.pop("request_id") == "req_42"
    assert dumped == {name: value for name, value in wire.items() if name not in ("technique_run_id", "poll_url")}


def test_a_technique_is_read_with_everything_that_is_known_of_it() -> None:
    slot = {
        "id": "photo",
        "type": "imageUrl",
        "name": "Photo",
        "description": "The product.",
        "optional": True,
        "accepts_element": True,
        "allow_multiple": True,
        "specified_aspect_ratio": "4:5",
        "specified_duration": 5,
    }
    wire = {
        "technique_id": "tech_1",
        "name": "T",
        "run_cost": 0.5,
        "inputs": [slot],
        "outputs": [slot],
        "description": "D",
        "slug": "t",
    }
    assert read("a technique", json.dumps(wire).encode()).model_dump() == wire


def test_nulls_in_place_of_what_is_optional_are_as_good_as_absent() -> None:
    run = read("a run", json.dumps(dict.fromkeys(Run.model_fields) | {"run_id": "r", "status": "s"}).encode())
    slot = dict.fromkeys(Slot.model_fields) | {"id": "a", "type": "x"}
    wire = dict.fromkeys(Technique.model_fields) | {"technique_id": "t", "name": "T", "inputs": [slot]}
    technique = read("a technique", json.dumps(wire).encode())
    pages = [
        read(reader, body)
        for reader, body in (
            ("a page of techniques", b'{"techniques": [], "meta": null}'),
            ("a page of runs", b'{"technique_runs": [], "meta": {"next_cursor": null}}'),
            ("a page of runs", b'{"technique_runs": []}'),
        )
    ]

    assert (run.progress, run.outputs, run.charged_cost) == (0, [], None)
    assert (technique.outputs, technique.run_cost) == ([], None)
    assert (technique.inputs[0].optional, technique.inputs[0].accepts_element) == (False, False)
    assert pages == [[], [], []]


@pytest.mark.parametrize(
    ("reader", "body", "words"),
    [
        ("a run", {"status": "running"}, "cannot be read as Run: run_id: Field required"),
        ("a run", {"run_id": "r", "status": None}, "cannot be read as Run: status:"),
        ("a run", [], "cannot be read as Run: the answer:"),
        (
            "a technique",
            {"technique_id": "t", "name": "T", "inputs": [{"id": "a"}]},
            "inputs.0.type: Field",
        ),
        ("a page of runs", {"technique_runs": {}}, "cannot be read as RunPage: technique_runs:"),
        ("a page of runs", {"technique_runs": [], "meta": {"next_cursor": {}}}, "meta.next_cursor:"),
        ("the workspaces", {}, "cannot be read as WorkspaceList: workspaces"),
    ],
)
def test_json_of_another_form_is_refused_naming_what_is_missing(reader: str, body: Any, words: str) -> None:
    with pytest.raises(FloraAnswerError) as caught:
        read(reader, json.dumps(body).encode())

    assert words in str(caught.value)
    assert caught.value.request_id == "req_42"


def test_what_is_not_json_is_refused_saying_what_came_instead() -> None:
    with pytest.raises(FloraAnswerError, match=r"200 with 6 bytes of text/html that are not JSON") as caught:
        read("a run", b"<html>", "text/html")

    assert caught.value.transient


def test_an_answer_without_a_content_type_is_read_anyway() -> None:
    assert answers.read_run(Response(201, {}, json.dumps(run_json()).encode())).run_id == "run_1"
    with pytest.raises(FloraAnswerError, match="no content type"):
        answers.read_run(Response(201, {}, b""))


@pytest.mark.parametrize("status", [200, 201, 202])
def test_every_success_is_read(status: int, make_client: MakeClient) -> None:
    with ScriptedFlora(answer(run_json(), status)) as flora:
        assert make_client(flora.base_url).start_technique_run("tech_1", []).run_id == "run_1"


def test_a_run_remembers_the_request_id_of_the_answer_that_brought_it(make_client: MakeClient) -> None:
    with ScriptedFlora(answer(run_json(), request_id="req_42")) as flora:
        assert make_client(flora.base_url).get_technique_run("tech_1", "run_1").request_id == "req_42"


STATUS_LINE = b"HTTP/1.1 200 OK\r\n"
RAW = [
    b"",
    b"\r\n\r\n",
    b"HTTP/9.9 abc\r\n\r\n",
    b"HTTP/1.1 99999 OK\r\n\r\n",
    STATUS_LINE + b"content-length: x\r\n\r\n{}",
    STATUS_LINE + b"transfer-encoding: chunked\r\n\r\nzz\r\n{}",
    STATUS_LINE + b"transfer-encoding: chunked\r\n\r\n5\r\n{",
    STATUS_LINE + b"content-encoding: gzip\r\n\r\nnot gzip",
    STATUS_LINE + b"content-encoding: deflate\r\ncontent-length: 3\r\n\r\nabc",
    STATUS_LINE + b"\xff\xfe: \xff\r\ncontent-length: 2\r\n\r\n{}",
    STATUS_LINE + b"no colon\r\ncontent-length: 2\r\n\r\n{}",
    STATUS_LINE + b"x: " + b"a" * 200_000 + b"\r\n\r\n{}",
    STATUS_LINE + b"x: y\r\n" * 500 + b"\r\n{}",
    STATUS_LINE + b"date: Mon, 1 Jan 2024 00:00:00 +9999999999999999999\r\ncontent-length: 2\r\n\r\n{}",
    STATUS_LINE + b"set-cookie: \x01=\x02; expires=never\r\ncontent-length: 2\r\n\r\n{}",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\n\r\n",
    b"HTTP/1.1 302 Found\r\nlocation: http://[::1\r\ncontent-length: 0\r\n\r\n",
]


@pytest.mark.parametrize("raw", RAW, ids=lambda raw: repr(raw[:70]))
def test_any_bytes_from_the_network_give_a_flora_error(raw: bytes, make_client: MakeClient) -> None:
    with ScriptedFlora(cut(raw)) as flora, pytest.raises(FloraError):
        make_client(flora.base_url, max_retries=0).get_technique("tech_1")


def test_the_sync_client_measures_floras_clock() -> None:
    with Emulator(clock_skew=1000) as emulator:
        settings = ClientSettings(emulator.api_key, emulator.base_url)
        with FloraClient(settings) as client:
            assert client.clock_skew is None
            client.list_workspaces()
            measured = client.clock_skew

    assert measured is not None
    assert 940 < measured < 1060


def test_a_date_from_before_the_clock_was_set_measures_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    apart = iter([0.0, 200.0])
    monkeypatch.setattr(answers, "clocks_apart", lambda: next(apart, 200.0))
    with Emulator() as emulator, FloraClient(ClientSettings(emulator.api_key, emulator.base_url)) as client:
        client.list_workspaces()
        assert client.clock_skew is None
        client.list_workspaces()
        assert client.clock_skew is not None


@pytest.mark.parametrize("date", [None, "", "yesterday", "Mon, 1 Jan 2024 00:00:00 +9999999999999999999"])
def test_a_date_that_is_none_leaves_the_clock_unmeasured(date: str | None) -> None:
    headers = {} if date is None else {"date": date}

    assert answers.clock_skew(Response(200, headers, b""), 0.0) is None


@given(st.text())
def test_any_date_measures_a_number_or_nothing(date: str) -> None:
    assert isinstance(answers.clock_skew(Response(200, {"date": date}, b""), 0.0), float | None)
