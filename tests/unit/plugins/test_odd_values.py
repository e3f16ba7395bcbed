"""Values that no task of this release stores: none of them makes a page fail."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_provider_flora.metadata.reading import RunView, Task, TaskView, plain
from airflow_provider_flora.plugins.rendering import page

QUERY = {"dag_id": "shop", "run_id": "monday", "task_id": "still"}
ACCEPTED = ("text/html", "application/json")
HALF = "\ud800 half of an emoji"
FILE = {"uri": "/none", "media_type": "image/png", "bytes": 5, "sha256": "ab", "output_id": "still"}


def deep(levels: int, innermost: Any = 0) -> Any:
    for _ in range(levels):
        innermost = [innermost]
    return innermost


def assert_shown(client: Any, *pages: str, statuses: frozenset[int] = frozenset({200})) -> None:
    """Assert that pages can be read in each form, the JSON by a program that takes no NaN."""
    for address in pages:
        for accepted in ACCEPTED:
            answer = client.get(address, params={**QUERY, "index": 0}, headers={"accept": accepted})
            assert answer.status_code in statuses, (address, accepted, answer.text)
            if answer.headers["content-type"] == "application/json":
                answer.content.decode()
                json.loads(answer.content, parse_constant=pytest.fail)


VALUE = {"run_id": "run_1", "outputs": [{"output_id": "t", "type": "text", "url": "words"}]}
ODD: list[dict[str, Any]] = [
    {"return_value": {**VALUE, "outputs": [{"output_id": HALF, "type": "text", "url": HALF}]}},
    {"flora_error": {"code": HALF, "message": HALF, "remedy": HALF}, "state": "failed"},
    {"run_id": ["run_1"], "charged_cost": 1.0},
    {"run_id": {"id": "run_1"}, "flora_run_cost": 1.0, "state": "deferred"},
    {"outputs": [{"type": "imageUrl"}], "files": [{**FILE, "bytes": 10**400}]},
    {"return_value": {"manifest": "/none", "charged_cost": "free", "saved_cost": ["much"], "rows": "9"}},
    {"return_value": {"manifest": "/none", "completed": None, "rows": {}, "charged_cost": float("nan")}},
    {"inputs": {"strength": float("nan"), "size": [float("-inf")], HALF: HALF}},
    {"inputs": "[" * 100_000},
    {"return_value": "[" * 100_000, "flora_technique_url": "[" * 100_000},
]


@pytest.mark.parametrize("odd", ODD, ids=range(len(ODD)))
def test_an_odd_value_leaves_the_rest_of_the_page(client: Any, instances: Any, odd: dict[str, Any]) -> None:
    instances.add(**odd)
    instances.add("other", **odd)
    assert_shown(client, "outputs", "run", "spending")


def test_an_odd_line_leaves_the_rest_of_a_manifest(client: Any, instances: Any, tmp_path: Path) -> None:
    outputs = [{"output_id": HALF, "type": "text", "url": HALF}, {"output_id": "b", "type": "imageUrl"}]
    line = {"row_id": HALF, "status": "completed", "outputs": outputs, "files": [FILE, FILE]}
    (tmp_path / "m.jsonl").write_text(json.dumps({**line, "inputs": {"x": float("nan"), "y": 10**4000}}))
    instances.add(manifest=str(tmp_path / "m.jsonl"))
    assert_shown(client, "outputs", "run")


def test_an_input_that_is_nested_too_deeply_is_a_sentence() -> None:
    value = deep(5000)
    run = RunView(inputs=(("x", value),))
    view = TaskView(Task("shop", "monday", "still"), "success", "FloraOperator", 1, None, None, run, is_flora=True)
    shown = page("outputs.html", view=view, neighbours=None, batch=None, status="", search="")
    assert "(nested too deeply to be shown)" in shown


def test_a_text_that_looks_like_json_and_is_none_stays_a_text() -> None:
    for text in ("[" * 100_000, "[" + "1" * 5000 + "]", "{", '"'):
        assert plain(text) == text


@pytest.mark.parametrize("map_index", ["99999999999999999999", "-9999999999999999999", "2147483648"])
def test_an_index_that_no_database_has_is_not_there(client: Any, instances: Any, map_index: str) -> None:
    instances.add(map_index=0)
    answer = client.get("outputs", params={**QUERY, "map_index": map_index})
    assert answer.status_code == 404


NAMES = [
    *QUERY,
    *FILE,
    "outputs",
    "files",
    "charged_cost",
    "error",
    "chosen",
    "rejected",
    "by",
    "note",
    "type",
    "url",
]
NAMES += [
    "manifest",
    "rows",
    "completed",
    "reused",
    "failed",
    "saved_cost",
    "failures",
    "message",
    "remedy",
    "status",
]
TEXTS = st.sampled_from(
    ["", "text", "imageUrl", HALF, "\0", "[[", "https://a.example/b.png", "/none", "nosuch://a/b"]
)
SIMPLE = st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats() | st.just(10**400) | TEXTS
VALUES = st.recursive(
    SIMPLE,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=6),
    max_leaves=20,
)
KEYS = ["return_value", "run_id", "outputs", "charged_cost", "files", "manifest", "flora_technique_url"]
KEYS += ["flora_run_cost", "flora_batch_value", "flora_error", "inputs"]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tasks=st.lists(
        st.tuples(
            st.sampled_from(["success", "failed", "deferred", None]), st.dictionaries(st.sampled_from(KEYS), VALUES)
        ),
        min_size=8,
        max_size=8,
    )
)
def test_whatever_tasks_have_stored_there_is_a_page(
    engine: Any, client: Any, instances: Any, tasks: list[tuple[str | None, Mapping[str, Any]]]
) -> None:
    from airflow.models.base import Base

    with engine.begin() as connection:
        for name in ("xcom", "rendered_task_instance_fields", "task_instance"):
            connection.execute(Base.metadata.tables[name].delete())
    for number, (state, values) in enumerate(tasks):
        with suppress(OverflowError, ValueError):  # what the database itself refuses
            instances.add("still" if not number else f"task-{number}", state=state, **values)
    assert_shown(client, "outputs", "run", "spending", "file", statuses=frozenset({200, 404}))
