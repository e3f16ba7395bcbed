"""What releases have put into Airflow's database must be readable for ever: trigger arguments, events, errors.

Each payload here was written by the release that it is named after. Add payloads of new releases; never change one.
"""

from __future__ import annotations

import asyncio
from datetime import datetime, timezone
from typing import Any

import pytest

from airflow_provider_flora.api.client import FloraClient
from airflow_provider_flora.api.errors import (
    FloraAPIError,
    FloraError,
    FloraInternalError,
    FloraRunTimeoutError,
    FloraWaitError,
    Remedy,
)
from airflow_provider_flora.decorators.flora import flora_technique
from airflow_provider_flora.emulator import Emulator
from airflow_provider_flora.hooks.flora import FloraHook
from airflow_provider_flora.operators.choose import FloraChooseOutputOperator
from airflow_provider_flora.runs.events import WaitEvent, finished_run
from airflow_provider_flora.triggers.flora import FloraTechniqueRunTrigger
from tests.unit.airflow_names import DAG, HAS_HITL
from tests.unit.operators.fake_task import first_event
from tests.unit.operators.still import life_of

TRIGGER_0_1: dict[str, Any] = {
    "version": 1,
    "technique_id": "editorial-still",
    "run_id": "run_5f1d3a000001",
    "deadline": 1796000000.25,
    "poll_interval": 5.0,
    "flora_conn_id": "flora_default",
    "timeout": 3600.0,
}
COMPLETED_0_1: dict[str, Any] = {
    "version": 1,
    "technique_id": "editorial-still",
    "run_id": "run_5f1d3a000001",
    "run": {
        "run_id": "run_5f1d3a000001",
        "status": "completed",
        "progress": 100.0,
        "created_at": 1795999000000,
        "started_at": 1795999001200,
        "completed_at": 1795999008000,
        "charged_cost": 0.09,
        "outputs": [{"output_id": "still", "type": "imageUrl", "url": "https://media.flora.ai/still.png"}],
        "technique": {"technique_id": "tech_editorial-still", "name": "Editorial Still"},
        "workspace_id": "ws_1",
        "project_id": "prj_1",
        "request_id": "req_1",
    },
    "whole": True,
}
FAILED_0_1: dict[str, Any] = {
    "version": 1,
    "technique_id": "editorial-still",
    "run_id": "run_5f1d3a000001",
    "run": {
        "run_id": "run_5f1d3a000001",
        "status": "failed",
        "progress": 100.0,
        "created_at": 1795999000000,
        "completed_at": 1795999008000,
        "error_code": "LLM_REFUSAL",
        "error_message": "The model refused.",
        "outputs": [],
    },
    "whole": True,
}
WITH_TEXTS_0_1: dict[str, Any] = {
    "version": 1,
    "technique_id": "tagline-writer",
    "run_id": "run_5f1d3a000002",
    "run": {
        "run_id": "run_5f1d3a000002",
        "status": "completed",
        "progress": 100.0,
        "outputs": [{"output_id": "taglines", "type": "text", "url": ""}],
    },
    "whole": False,
}
TIMED_OUT_0_1: dict[str, Any] = {
    "version": 1,
    "technique_id": "editorial-still",
    "run_id": "run_5f1d3a000001",
    "error": {
        "kind": "timeout",
        "message": "Run run_5f1d3a000001 of technique 'editorial-still' did not end within 60 s.",
        "remedy": "retry later",
        "code": None,
        "status": None,
        "run_id": "run_5f1d3a000001",
        "technique_id": "editorial-still",
        "request_id": None,
        "details": {},
    },
}
REFUSED_0_1: dict[str, Any] = {
    "version": 1,
    "technique_id": "editorial-still",
    "run_id": "run_5f1d3a000001",
    "error": {
        "kind": "api",
        "message": "Flora answered 404 not_found: No such run. [request id req_7]",
        "remedy": "retry later",
        "code": "not_found",
        "status": 404,
        "run_id": "run_5f1d3a000001",
        "technique_id": "editorial-still",
        "request_id": "req_7",
        "details": {"message": "No such run.", "fields": {}, "retry_after": None, "transient": False},
    },
}
BROKEN_0_1: dict[str, Any] = {
    "version": 1,
    "technique_id": "editorial-still",
    "run_id": "run_5f1d3a000001",
    "error": {
        "kind": "internal",
        "message": "A fault of the Flora provider, not an outage, ended the wait: TypeError: x.",
        "remedy": "retry later",
        "code": None,
        "status": None,
        "run_id": "run_5f1d3a000001",
        "technique_id": "editorial-still",
        "request_id": None,
        "details": {},
    },
}

pytestmark = pytest.mark.usefixtures("quick")


def no_client() -> FloraClient:
    raise AssertionError("nobody is to be asked")


def test_trigger_arguments_of_0_1_make_a_trigger() -> None:
    assert FloraTechniqueRunTrigger(**TRIGGER_0_1).serialize() == (
        "airflow_provider_flora.triggers.flora.FloraTechniqueRunTrigger",
        TRIGGER_0_1,
    )


def test_trigger_arguments_of_a_newer_release_make_a_trigger() -> None:
    newer = {**TRIGGER_0_1, "version": 2, "webhook_id": "whd_1", "rows": [{"a": 1}]}
    assert FloraTechniqueRunTrigger(**newer).serialize()[1] == TRIGGER_0_1


async def test_trigger_arguments_without_what_was_added_later_make_a_trigger_that_waits(flora: Emulator) -> None:
    (run_id,) = flora.seed_runs(1, status="running")
    oldest = {"technique_id": "editorial-still", "run_id": run_id, "deadline": 0.0}
    event = await asyncio.wait_for(first_event(FloraTechniqueRunTrigger(**oldest)), 10)
    assert event["error"]["kind"] == "timeout"


def test_a_completed_run_of_0_1_is_read() -> None:
    run = finished_run(COMPLETED_0_1, no_client, "another")
    assert (run.run_id, run.charged_cost, run.started_at) == ("run_5f1d3a000001", 0.09, 1795999001200)
    assert [output.url for output in run.outputs] == ["https://media.flora.ai/still.png"]


def test_a_failed_run_of_0_1_is_read() -> None:
    run = finished_run(FAILED_0_1, no_client, "another")
    assert (run.failed, run.error_code, run.error_message) == (True, "LLM_REFUSAL", "The model refused.")


def test_texts_that_an_event_of_0_1_leaves_out_are_fetched(flora: Emulator) -> None:
    (run_id,) = flora.seed_runs(1, technique_id="tagline-writer")
    content = {**WITH_TEXTS_0_1["run"], "run_id": run_id}
    run = finished_run({**WITH_TEXTS_0_1, "run_id": run_id, "run": content}, FloraHook().get_conn, "another")
    assert [(output.type, bool(output.url)) for output in run.outputs] == [("text", True)]


@pytest.mark.parametrize(
    ("event", "kind", "status", "code"),
    [
        (TIMED_OUT_0_1, FloraRunTimeoutError, None, None),
        (REFUSED_0_1, FloraAPIError, 404, "not_found"),
        (BROKEN_0_1, FloraInternalError, None, None),
    ],
    ids=["timed out", "refused", "broken"],
)
def test_an_error_of_0_1_is_raised_as_it_was(
    event: dict[str, Any], kind: type[FloraError], status: int | None, code: str | None
) -> None:
    with pytest.raises(kind) as caught:
        finished_run(event, no_client, "another")
    error = caught.value
    assert str(error) == event["error"]["message"]
    assert (error.status, error.code) == (status, code)
    assert (error.run_id, error.technique_id) == ("run_5f1d3a000001", "editorial-still")
    assert error.remedy is Remedy.RETRY_LATER
    if isinstance(error, FloraAPIError):
        assert (error.message, error.fields, error.retry_after) == ("No such run.", {}, None)
        assert error.request_id == "req_7"


@pytest.mark.parametrize("event", [COMPLETED_0_1, FAILED_0_1], ids=["completed", "failed"])
def test_entries_of_a_newer_release_are_left_out(event: dict[str, Any]) -> None:
    newer = {**event, "version": 2, "lineage": {"x": 1}, "run": {**event["run"], "seconds": 8, "tags": ["a"]}}
    assert finished_run(newer, no_client, "x") == finished_run(event, no_client, "x")


def test_an_error_of_a_kind_that_a_newer_release_added_keeps_its_words_and_attributes() -> None:
    content = {
        **REFUSED_0_1["error"],
        "kind": "quota",
        "remedy": "call them",
        "details": {"until": 5},
        "colour": "red",
    }
    with pytest.raises(FloraError, match="No such run") as caught:
        finished_run({"version": 2, "error": content}, no_client, "x")
    assert type(caught.value) is FloraError
    assert (caught.value.kind, caught.value.status, caught.value.run_id) == ("quota", 404, "run_5f1d3a000001")
    assert caught.value.remedy.retryable


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (None, "a run"),
        ("done", "a run"),
        ({}, "a run"),
        ({"run_id": "run_7"}, "run run_7"),
        ({"version": 3, "run_id": "run_7", "outcome": {}}, "run run_7"),
        ({"run_id": 5, "run": 7}, "run 5"),
        ({"run": {"run_id": "run_7"}}, "run run_7"),
        ({"run": {"run_id": "run_7", "status": "running"}}, "run run_7"),
        ({"run": {**COMPLETED_0_1["run"], "outputs": "many"}}, "run run_5f1d3a000001"),
        ({"error": "The database is away", "retryable": False}, "The database is away"),
        ({"timeout": "Run run_7 did not end"}, "Run run_7 did not end"),
        ({"error": {}}, "an error without a message"),
    ],
)
def test_an_event_of_another_shape_is_an_error_that_names_the_run_and_may_be_retried(
    event: Any, words: str
) -> None:
    with pytest.raises(FloraError, match=words) as caught:
        finished_run(event, no_client, "x")
    assert caught.value.remedy.retryable
    assert isinstance(caught.value, FloraWaitError) or event == {"error": {}}


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (COMPLETED_0_1, "<run_5f1d3a000001 completed, 1 output>"),
        (FAILED_0_1, "<run_5f1d3a000001 failed, 0 outputs>"),
        (TIMED_OUT_0_1, "<run_5f1d3a000001 timeout>"),
        (REFUSED_0_1, "<run_5f1d3a000001 api>"),
        ({"version": 9}, "<None event>"),
    ],
)
def test_the_repr_of_an_event_is_one_short_line(event: dict[str, Any], line: str) -> None:
    assert repr(WaitEvent(event)) == line


# --- a task that waits for a person -----------------------------------------------------------------------

CHOICE_0_1: list[dict[str, Any]] = [
    {
        "output_id": "still",
        "type": "imageUrl",
        "url": "https://media.flora.ai/1.png",
        "run_id": "r_1",
        "label": "a",
    },
    {
        "output_id": "still",
        "type": "imageUrl",
        "url": "https://media.flora.ai/2.png",
        "run_id": "r_2",
        "label": "b",
    },
]


@pytest.mark.skipif(not HAS_HITL, reason="Airflow 3.1 and newer")
def test_an_answer_to_a_question_of_another_release_chooses_what_was_shown() -> None:
    task = FloraChooseOutputOperator(task_id="choose", outputs=[])
    event = {
        "chosen_options": ["b"],
        "params_input": {},
        "responded_at": datetime(2026, 11, 28, tzinfo=timezone.utc),
        "responded_by_user": None,
    }
    newer = [{**output, "row_id": None} for output in CHOICE_0_1]
    for outputs in (CHOICE_0_1, newer):
        value = task.execute_complete({}, event, outputs=outputs)  # type: ignore[typeddict-item]
        assert (value["chosen"], value["rejected"]) == (outputs[1:], outputs[:1])


DECORATED_0_1: dict[str, Any] = {"inputs": {"prompt": "a cup"}}


@pytest.mark.usefixtures("flora")
def test_a_decorated_task_that_another_release_has_deferred_resumes_with_its_inputs() -> None:
    def write() -> dict[str, str]:
        raise AssertionError("it is not called again")

    with DAG("a_dag", schedule=None):
        operator = flora_technique(technique_id="editorial-still")(write)().operator
    for arguments in (DECORATED_0_1, {}):
        value = operator.execute_complete(life_of(operator).context(), event=COMPLETED_0_1, **arguments)
        assert value["run_id"] == COMPLETED_0_1["run_id"]
        assert operator.inputs == arguments.get("inputs")
