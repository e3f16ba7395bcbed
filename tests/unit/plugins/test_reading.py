"""What the pages read of a task: its XComs, in every form in which tasks push them, and broken ones."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_flora.metadata.reading import Neighbours, Task, is_safe, read_neighbours, read_task

STILL = Task("shop", "monday", "still")
OUTPUT = {"output_id": "still", "type": "imageUrl", "url": "https://media.example/still.png"}
FILE = {"uri": "s3://files/a.png", "media_type": "image/png", "bytes": 5, "sha256": "ab", "output_id": "still"}
PAGE = "https://app.flora.ai/techniques/editorial-still"


def test_a_run_is_read_from_the_tasks_value(session: Any, instances: Any) -> None:
    value = {"run_id": "run_1", "status": "completed", "outputs": [OUTPUT], "files": [FILE], "charged_cost": 0.09}
    instances.add(return_value=value, flora_technique_url=PAGE, flora_run_cost=0.1, inputs={"prompt": "a cup"})
    view = read_task(session, STILL)
    assert view is not None
    run = view.run
    assert (run.run_id, run.status, run.charged_cost, run.inputs) == (
        "run_1",
        "completed",
        0.09,
        (("prompt", "a cup"),),
    )
    assert [(output.kind, output.file and output.file.uri) for output in run.outputs] == [("image", FILE["uri"])]
    assert (view.technique, view.own_origin, view.run_cost) == ("editorial-still", "https://app.flora.ai", 0.1)


def test_a_value_that_is_the_list_of_outputs_is_completed_by_the_other_xcoms(session: Any, instances: Any) -> None:
    instances.add(return_value=[OUTPUT], run_id="run_1", charged_cost=0.09, files=[FILE])
    view = read_task(session, STILL)
    assert view is not None
    assert (view.run.run_id, view.run.charged_cost, len(view.run.outputs), len(view.run.files)) == (
        "run_1",
        0.09,
        1,
        1,
    )


def test_xcoms_that_an_airflow_has_stored_as_text_are_read(session: Any, instances: Any) -> None:
    instances.add(return_value='{"run_id": "run_1", "outputs": [{"output_id": "a", "type": "text", "url": "hi"}]}')
    view = read_task(session, STILL)
    assert view is not None
    assert [output.url for output in view.run.outputs] == ["hi"]


def test_a_task_that_waits_has_its_run_and_a_batch_its_progress(session: Any, instances: Any) -> None:
    instances.add(state="deferred", ended=None, run_id="run_1")
    instances.add("table", state="running", ended=None, manifest="s3://files/m.jsonl", progress="3 of 9 rows")
    view, batch = read_task(session, STILL), read_task(session, Task("shop", "monday", "table"))
    assert view is not None
    assert batch is not None
    assert (view.is_unfinished, view.run.run_id, view.run.outputs) == (True, "run_1", ())
    assert (batch.progress, batch.manifest) == ("3 of 9 rows", "s3://files/m.jsonl")


def test_a_failed_task_has_its_error_and_a_failed_batch_its_numbers(session: Any, instances: Any) -> None:
    error = {"kind": "run_failed", "code": "LLM_REFUSAL", "message": "Refused", "remedy": "change the input"}
    instances.add(state="failed", flora_error=error)
    instances.add("table", state="failed", flora_error=error, flora_batch_value={"manifest": "m.jsonl", "rows": 9})
    view, batch = read_task(session, STILL), read_task(session, Task("shop", "monday", "table"))
    assert view is not None
    assert batch is not None
    assert (view.run.status, view.run.error) == (
        "failed",
        {"code": "LLM_REFUSAL", "message": "Refused", "remedy": "change the input"},
    )
    assert (batch.manifest, batch.counts["rows"]) == ("m.jsonl", 9)


BROKEN: list[Any] = [
    None,
    7,
    "text",
    [],
    {"outputs": "no list", "files": 3, "charged_cost": "free", "completed_at": -1, "run_id": 5},
    {"outputs": [None, 5, {}, {"type": ["x"], "url": {"a": 1}}], "files": [{"uri": "x"}, None]},
    {"charged_cost": True, "created_at": 1e400, "manifest": 5, "error": "?"},
]


@pytest.mark.parametrize("value", BROKEN)
def test_what_is_broken_is_left_out(session: Any, instances: Any, client: Any, value: Any) -> None:
    instances.add(return_value=value, flora_error=value, files=value, flora_batch_value=value, inputs=value)
    view = read_task(session, STILL)
    assert view is not None
    assert (view.run.charged_cost, view.run.completed_at, view.run.files) == (None, None, [])
    query = {"dag_id": "shop", "run_id": "monday", "task_id": "still"}
    for page in ("outputs", "run"):
        assert client.get(page, params=query).status_code == 200


def test_files_are_of_the_outputs_in_their_order_or_by_their_ids(session: Any, instances: Any) -> None:
    alike = [{**OUTPUT, "output_id": "take"}, {**OUTPUT, "output_id": "take"}, {**OUTPUT, "output_id": "last"}]
    files = [{**FILE, "output_id": "take", "uri": "1"}, {**FILE, "output_id": "take-2", "uri": "2"}]
    last = {**FILE, "output_id": "last", "uri": "3"}
    instances.add(return_value={"outputs": alike, "files": [*files, last]})
    instances.add("some", return_value={"outputs": alike, "files": [last]})
    for task_id, uris in (("still", ["1", "2", "3"]), ("some", [None, None, "3"])):
        view = read_task(session, Task("shop", "monday", task_id))
        assert view is not None
        assert [output.file and output.file.uri for output in view.run.outputs] == uris


def test_a_plus_that_became_a_blank_is_a_plus(session: Any, instances: Any) -> None:
    instances.add(dag_run="manual__2026-01-01T00:00:00+00:00")
    view = read_task(session, Task("shop", "manual__2026-01-01T00:00:00 00:00", "still"))
    assert view is not None
    assert view.task.run_id == "manual__2026-01-01T00:00:00+00:00"
    assert read_task(session, Task("shop", "no such run", "still")) is None


def test_a_mapped_instance_knows_its_neighbours(session: Any, instances: Any) -> None:
    for index in (0, 1, 2, 9):
        instances.add("each", map_index=index)
    found = [read_neighbours(session, Task("shop", "monday", "each", index)) for index in (0, 2, 9)]
    assert found == [Neighbours(None, 1, 1, 4), Neighbours(1, 9, 3, 4), Neighbours(2, None, 4, 4)]
    assert read_neighbours(session, STILL) is None


@pytest.mark.parametrize(
    "url",
    [
        "https://media.example",
        "https://media.example/a.png?x=1#y",
        "https://a:8443/",
        "http://127.0.0.1:8765/media/a",
    ],
)
def test_a_url_is_fetched_by_https_or_from_the_connections_own_origin(url: str) -> None:
    assert is_safe(url, "http://127.0.0.1:8765")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "javascript:alert(1)",
        "JaVaScRiPt:alert(1)",
        " https://media.example/",
        "https://media.example/a b",
        "https://media.example/\n",
        "https://user@media.example/",
        "https://media.example:80@evil.example/",
        "https:\\\\media.example",
        "https://media.example\\@evil.example",
        "https://mädia.example/",
        "http://media.example/",
        "http://127.0.0.1:8765.evil.example/",
        "http://127.0.0.1:8765@evil.example/",
        "http://127.0.0.1:87650/",
        "//media.example/",
        "data:text/html,<script>alert(1)</script>",
        "file:///etc/passwd",
        "blob:https://media.example/x",
        "vbscript:msgbox(1)",
    ],
)
def test_every_other_url_is_a_text(url: str) -> None:
    assert not is_safe(url, "http://127.0.0.1:8765")
    assert not is_safe(url, None)
