"""An answer that is a little out of order: what can be read of it is read, and one run does not hide the others."""

from __future__ import annotations

import copy
import json
import logging
import math
import sys
from types import FrameType
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_provider_flora.api import answers, lenient, operations
from airflow_provider_flora.api.errors import FloraAnswerError, FloraAPIError
from airflow_provider_flora.api.exchange import Response
from airflow_provider_flora.api.models import FloraAsset, Run, RunPage, Technique, Workspace
from tests.unit.api.both_clients import MakeClient
from tests.unit.api.scripted_flora import ScriptedFlora, answer, run_json

OUTPUTS = [
    {"output_id": "image", "type": "imageUrl", "url": "https://media.example/1.png"},
    {"output_id": "caption", "type": "text", "url": "A cup, and a \U0001f375 beside it."},
]
RUN = {
    "run_id": "run_1",
    "status": "completed",
    "progress": 100,
    "created_at": 1_780_000_000_001,
    "started_at": 1_780_000_000_002.5,
    "completed_at": 1_780_000_000_003,
    "charged_cost": 0.25,
    "error_code": None,
    "error_message": None,
    "outputs": OUTPUTS,
    "technique": {"technique_id": "tech_1", "name": "T"},
    "workspace_id": "ws_1",
    "project_id": "prj_1",
}
PAGE = [{**RUN, "run_id": f"run_{number}"} for number in range(100)]


def read_run(wire: Any) -> Run:
    body = wire if isinstance(wire, bytes) else json.dumps(wire).encode()
    return answers.read_run(Response(200, {"content-type": "application/json"}, body))


def read_page(wire: Any) -> list[Run]:
    body = wire if isinstance(wire, bytes) else json.dumps({"technique_runs": wire, "meta": {}}).encode()
    return list(operations.list_technique_runs(None, None, None, None, 100).read(Response(200, {}, body)))


def texts_of(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for entry in value.items() for part in entry for text in texts_of(part)]
    return [text for entry in value for text in texts_of(entry)] if isinstance(value, list) else []


def assert_storable(run: Run) -> None:
    dumped = run.model_dump(mode="json")
    json.dumps(dumped, allow_nan=False)
    for text in texts_of(dumped):
        assert "\0" not in text
        text.encode()


# --- texts ------------------------------------------------------------------------------------------------

UNSTORABLE = {
    "half an emoji": (rb"cup \ud83d", "cup \ufffd"),
    "the other half": (rb"\udf75 cup", "\ufffd cup"),
    "halves in the wrong order": (rb"\udf75\ud83d", "\ufffd\ufffd"),
    "a NUL": (rb"a\u0000b", "a\ufffdb"),
    "a NUL that is not escaped": (b"a\0b", "a\ufffdb"),
    "a line break that is not escaped": (b"a\nb", "a\nb"),
    "broken UTF-8": (b"caf\xe9", "caf\ufffd"),
    "what only looks like a NUL": (rb"a\\u0000b", r"a\u0000b"),
    "a whole emoji": (rb"\ud83c\udf75", "\U0001f375"),
}


@pytest.mark.parametrize(("wire", "read_as"), UNSTORABLE.values(), ids=UNSTORABLE)
@pytest.mark.parametrize("field", ["error_message", "error_code", "status", "workspace_id", "run_id"])
def test_a_text_is_read_as_one_that_can_be_stored(field: str, wire: bytes, read_as: str) -> None:
    body = json.dumps({**RUN, field: "@@"}).encode().replace(b"@@", wire)
    for run in (read_run(body), read_page(b'{"technique_runs": [' + body + b"]}")[0]):
        assert getattr(run, field) == read_as
        assert_storable(run)


@pytest.mark.parametrize(("wire", "read_as"), UNSTORABLE.values(), ids=UNSTORABLE)
def test_a_text_output_is_read_as_one_that_can_be_stored(wire: bytes, read_as: str) -> None:
    text = {"output_id": "@@", "type": "text", "url": "@@"}
    run = read_run(json.dumps({**RUN, "outputs": [OUTPUTS[0], text]}).encode().replace(b"@@", wire))

    assert [output.output_id for output in run.outputs] == ["image", read_as]
    assert run.outputs[1].url == read_as
    assert_storable(run)


def test_a_text_that_was_cut_inside_an_emoji_hides_no_run_of_its_page(make_client: MakeClient) -> None:
    body = json.dumps({"technique_runs": PAGE, "meta": {}}).encode().replace(rb"\ud83c\udf75", rb"\ud83c", 1)
    with ScriptedFlora(answer(body)) as flora:
        runs = list(make_client(flora.base_url).list_technique_runs())

    assert [run.run_id for run in runs] == [run["run_id"] for run in PAGE]
    assert runs[0].outputs[1].url == "A cup, and a \ufffd beside it."
    assert runs[1].outputs[1].url == OUTPUTS[1]["url"]


def test_the_words_of_an_error_can_be_stored() -> None:
    body = (
        rb'{"error": {"code": "a\ud83d", "message": "b\u0000", "fields": [{"field": "c\ud83d", "message": "d"}]}}'
    )
    with pytest.raises(FloraAPIError) as caught:
        answers.read_run(Response(400, {"request-id": "req_\0"}, body))

    error = caught.value
    assert (error.code, error.message, error.request_id) == ("a\ufffd", "b\ufffd", "req_\ufffd")
    assert error.fields == {"c\ufffd": "d"}
    str(error).encode()


def test_an_event_of_a_stream_is_read_as_leniently() -> None:
    event = b'data: {"run_id": "run_1", "status": "completed", "error_message": "\\ud83d"}\n\n'
    run = answers.read_run(Response(200, {"content-type": "text/event-stream"}, event))

    assert run.error_message == "\ufffd"


@pytest.mark.parametrize("body", [b'{"run_id": "\\ud83d', b'{"run_id": "r", "status": "\\u0000', b"<html>\\u0000"])
def test_json_that_was_cut_is_no_answer_anyway(body: bytes) -> None:
    with pytest.raises(FloraAnswerError, match="are not JSON"):
        read_run(body)


# --- fields -----------------------------------------------------------------------------------------------

FIELDS = [
    ("progress", None, 0),
    ("progress", "soon", 0),
    ("progress", "41", 41),
    ("progress", True, 0),
    ("progress", -5, 0),
    ("progress", 1e300, 100),
    ("progress", {}, 0),
    ("created_at", "1780000000001", 1_780_000_000_001),
    ("created_at", "2026-05-28T20:26:40.001Z", 1_780_000_000_001),
    ("created_at", "2026-05-28T22:26:40.001+02:00", 1_780_000_000_001),
    ("created_at", "2026-05-28T20:26:40", 1_780_000_000_000),
    ("created_at", "yesterday", None),
    ("created_at", "", None),
    ("created_at", True, None),
    ("created_at", -1, None),
    ("created_at", 10**30, None),
    ("created_at", [], None),
    ("completed_at", {}, None),
    ("charged_cost", "0.25", 0.25),
    ("charged_cost", "free", None),
    ("charged_cost", True, None),
    ("charged_cost", False, None),
    ("charged_cost", -0.25, None),
    ("charged_cost", 10**400, None),
    ("charged_cost", math.nan, None),
    ("charged_cost", math.inf, None),
    ("charged_cost", "inf", None),
    ("charged_cost", [0.25], None),
    ("outputs", None, []),
    ("outputs", "none", []),
    ("outputs", {}, []),
    ("technique", "tech_1", None),
    ("technique", {}, None),
    ("technique", [], None),
    ("error_code", 5, "5"),
    ("error_message", {"reason": "NSFW"}, '{"reason": "NSFW"}'),
    ("error_message", ["a", "\ud83d"], '["a", "\ufffd"]'),
    ("error_message", {"\ud83d": 1}, '{"\ufffd": 1}'),
    ("workspace_id", False, "false"),
    ("run_id", 5, "5"),
]


@pytest.mark.parametrize(("field", "wire", "read_as"), FIELDS)
def test_a_field_of_another_form_is_read_as_far_as_it_can_be(field: str, wire: Any, read_as: Any) -> None:
    run = read_run({**RUN, field: wire})

    assert getattr(run, field) == read_as
    assert getattr(run, field) is read_as or not isinstance(getattr(run, field), bool)
    others = {name: getattr(run, name) for name in RUN if name != field}
    assert others == {name: getattr(read_run(RUN), name) for name in others}


@pytest.mark.parametrize("digits", ["9" * 500, "9" * 10_000, "1e999", "-1e999", "NaN", "-Infinity"])
def test_a_number_of_any_size_costs_its_own_field_only(digits: str) -> None:
    for field, read_as in (("charged_cost", None), ("created_at", None)):
        run = read_run(json.dumps({**RUN, field: "@@"}).replace('"@@"', digits).encode())
        assert getattr(run, field) is read_as
        assert run.outputs[0].url == OUTPUTS[0]["url"]


@pytest.mark.parametrize(
    ("output", "url"),
    [
        ({"output_id": "o", "type": "imageUrl", "url": None}, None),
        ({"output_id": "o", "type": "imageUrl"}, None),
        ({"output_id": "o", "type": "text", "url": 5}, "5"),
        ({"output_id": "o", "type": "text", "url": {"a": ["\u00e9", True]}}, '{"a": ["\u00e9", true]}'),
        ({"output_id": "o", "url": "https://media.example/"}, "https://media.example/"),
        ({"output_id": "o", "type": None, "url": "https://media.example/"}, "https://media.example/"),
    ],
)
def test_an_output_that_is_not_complete_yet_leaves_its_run_readable(output: dict[str, Any], url: Any) -> None:
    [read] = [run.outputs[-1] for run in read_page([{**RUN, "outputs": [*OUTPUTS, output]}])]

    assert (read.output_id, read.url) == ("o", url)
    assert read.type == (output.get("type") or "")


@pytest.mark.parametrize("output", [None, "image", 5, []])
def test_what_is_no_output_is_left_out_of_its_run(output: Any) -> None:
    run = read_run({**RUN, "outputs": [OUTPUTS[0], output, OUTPUTS[1]]})

    assert [read.output_id for read in run.outputs] == ["image", "caption"]


@pytest.mark.parametrize("output_id", [{}, {"output_id": None}, {"output_id": ""}])
def test_an_output_without_an_id_was_paid_for_anyway(output_id: dict[str, Any]) -> None:
    run = read_run(
        {**RUN, "outputs": [OUTPUTS[0], {"type": "imageUrl", "url": "https://media.example/", **output_id}]}
    )

    assert [read.output_id for read in run.outputs] == ["image", ""]
    assert run.outputs[1].url == "https://media.example/"


@pytest.mark.parametrize(
    "missing", [{"run_id": None}, {"run_id": ""}, {"run_id": {}}, {"status": None}, {"status": []}]
)
def test_a_run_without_an_id_or_a_status_is_none(missing: dict[str, Any]) -> None:
    with pytest.raises(FloraAnswerError, match=next(iter(missing))):
        read_run({**RUN, **missing})


def test_the_price_of_a_technique_is_never_made_up() -> None:
    for wire, read_as in ((True, None), (-1, None), ("0.09", 0.09), ("dear", None), (None, None), (0, 0)):
        body = json.dumps({"technique_id": "tech_1", "name": "T", "run_cost": wire}).encode()
        assert answers.read_technique(Response(200, {}, body)).run_cost == read_as


def test_an_input_of_a_technique_that_cannot_be_read_is_an_error_for_it_decides_what_is_paid_for() -> None:
    body = json.dumps({"technique_id": "tech_1", "name": "T", "inputs": [{"id": "a", "type": "text"}, {}]}).encode()
    with pytest.raises(FloraAnswerError, match=r"inputs\.1\.id"):
        answers.read_technique(Response(200, {}, body))


# --- entries ----------------------------------------------------------------------------------------------

BAD_ENTRIES = [None, 5, "run_1", [], {}, {"run_id": "run_x"}, {"status": "running"}, {"run_id": {}, "status": "x"}]


@pytest.mark.parametrize("bad", BAD_ENTRIES)
def test_one_run_that_cannot_be_read_does_not_hide_the_others(bad: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger=lenient.__name__):
        runs = read_page([*PAGE[:50], bad, *PAGE[50:99]])

    assert [run.run_id for run in runs] == [run["run_id"] for run in PAGE[:99]]
    assert "Leaving out" in caplog.text


@pytest.mark.parametrize(
    ("pages", "name", "good", "model"),
    [
        (operations.list_techniques(None, None, 100), "techniques", {"technique_id": "t", "name": "T"}, Technique),
        (operations.list_assets(None, None, None, 100), "assets", {"asset_id": "a", "status": "ready"}, FloraAsset),
    ],
)
def test_the_lists_of_techniques_and_assets_are_read_as_leniently(
    pages: Any, name: str, good: Any, model: Any
) -> None:
    body = json.dumps({name: [{}, good, None, {**good, "name": {}}, 5]}).encode()

    read = pages.read(Response(200, {}, body))
    assert [type(item) for item in read] == [model, model]
    assert read[1].name == "{}"


def test_the_list_of_workspaces_is_read_as_leniently() -> None:
    body = json.dumps({"workspaces": [None, {"workspace_id": "ws_1"}, {"name": "no id"}]}).encode()

    assert answers.read_workspaces(Response(200, {}, body)) == [Workspace(workspace_id="ws_1")]


# --- anything ---------------------------------------------------------------------------------------------

ANY_TEXT = st.text(st.characters(exclude_categories=()) | st.sampled_from("\0\ud83d\udf75"))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda values: st.lists(values, max_size=3) | st.dictionaries(ANY_TEXT, values, max_size=3),
    max_leaves=6,
)
FIELD = st.sampled_from([*RUN, "outputs.0.url", "outputs.0.output_id", "outputs.1.type", "technique.technique_id"])
MANGLED = st.lists(st.tuples(FIELD, JSON | st.just("no such thing")), min_size=1, max_size=4)


def mangle(run: dict[str, Any], changes: list[tuple[str, Any]]) -> dict[str, Any]:
    run = copy.deepcopy(run)
    for path, value in changes:
        *way, last = path.split(".")
        place: Any = run
        for step in way:
            place = (
                place[int(step)]
                if isinstance(place, list) and len(place) > int(step or 0)
                else (place.get(step) if isinstance(place, dict) else None)
            )
        if isinstance(place, dict):
            place[last] = value
    return run


@given(MANGLED, st.integers(0, 99))
@example([("outputs.0.url", None)], 0)
@example([("run_id", None)], 99)
def test_a_mangled_run_never_hides_the_others_of_its_page(changes: list[tuple[str, Any]], place: int) -> None:
    wire = [*PAGE]
    wire[place] = mangle(PAGE[place], changes)

    runs = read_page(wire)
    others = [run for number, run in enumerate(PAGE) if number != place]
    assert [run for run in runs if run.run_id in {other["run_id"] for other in others}] == read_page(others)
    for run in runs:
        assert_storable(run)


@given(JSON, st.integers(0, 99))
def test_an_entry_of_any_form_never_hides_the_others_of_its_page(entry: Any, place: int) -> None:
    runs = read_page([*PAGE[:place], entry, *PAGE[place:]])

    assert runs == read_page(PAGE)


@given(MANGLED)
def test_a_mangled_run_is_read_or_refused(changes: list[tuple[str, Any]]) -> None:
    try:
        run = read_run(mangle(RUN, changes))
    except FloraAnswerError:
        assert {"run_id", "status"} & {path for path, _ in changes}
        return
    assert_storable(run)


@given(st.data())
def test_a_page_with_bytes_that_are_lost_or_changed_is_read_or_refused(data: st.DataObject) -> None:
    body = bytearray(json.dumps({"technique_runs": PAGE[:3], "meta": {"next_cursor": "2"}}).encode())
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, len(body) - 1))
        body[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    try:
        runs = read_page(bytes(body))
    except FloraAnswerError:
        return
    for run in runs:
        assert_storable(run)


# --- what it costs ----------------------------------------------------------------------------------------


def test_an_answer_in_order_is_read_without_a_line_of_python_a_run() -> None:
    pending = run_json("pending", progress=0, charged_cost=None, outputs=[], technique=None)
    body = json.dumps({"technique_runs": [*PAGE, pending], "meta": {"next_cursor": None}}).encode()
    called: set[str] = set()

    def note(frame: FrameType, event: str, arg: Any) -> None:
        if event == "call" and frame.f_code.co_filename == lenient.__file__:
            called.add(frame.f_code.co_name)

    sys.setprofile(note)
    try:
        page = lenient.parse(body, RunPage)
    finally:
        sys.setprofile(None)

    assert len(page.items) == 101
    assert called == {"parse"}
