"""FloraRunTechniqueOperator against an emulated Flora, waiting on a worker and in the triggerer."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from airflow_provider_flora.airflow_compat import AirflowFailException, AirflowTaskTimeout, TaskDeferred
from airflow_provider_flora.api.errors import (
    FloraAPIError,
    FloraConnectionError,
    FloraError,
    FloraRunFailedError,
    FloraRunTimeoutError,
    FloraSettingsError,
)
from airflow_provider_flora.emulator import Emulator
from airflow_provider_flora.operators.flora import FloraRunTechniqueOperator
from airflow_provider_flora.runs import outcome
from airflow_provider_flora.runs.events import WaitEvent
from airflow_provider_flora.task.deadline import NO_TRIGGERER_GRACE
from tests.unit.airflow_names import DAG
from tests.unit.flora_key import API_KEY
from tests.unit.operators.fake_task import HAS_STATE_STORE
from tests.unit.operators.still import MODES, life_of, posts_to, still

pytestmark = pytest.mark.usefixtures("quick")

# --- what a task gives ------------------------------------------------------------------------------------


@MODES
def test_the_value_describes_the_whole_run(flora: Emulator, deferrable: bool) -> None:
    life = life_of(
        still(
            technique_id="art-directors-critique",
            inputs={"asset": f"{flora.origin}/media/samples/poster.png", "brief": "for a café"},
            deferrable=deferrable,
        )
    )
    value = life.run()
    run = flora.ledger()["runs"][0]
    text, image = value["outputs"]
    assert {name: value[name] for name in ("run_id", "technique_id", "status", "charged_cost")} == {
        "run_id": run["run_id"],
        "technique_id": "art-directors-critique",
        "status": "completed",
        "charged_cost": 0.12,
    }
    assert (text["output_id"], text["type"]) == ("critique", "text")
    assert (image["output_id"], image["type"]) == ("redesign", "imageUrl")
    assert all(set(output) == {"output_id", "type", "url"} for output in value["outputs"])
    assert life.ti.xcoms["output_texts"] == [text["url"]]
    assert value["output_urls"] == [image["url"]]
    assert value["created_at"] <= value["started_at"] <= value["completed_at"]
    assert set(value) == {
        *("run_id", "technique_id", "status", "outputs", "output_urls", "charged_cost"),
        *("created_at", "started_at", "completed_at"),
    }
    assert json.loads(json.dumps(value)) == value


@MODES
def test_each_part_is_an_xcom_pushed_once_and_the_run_id_before_the_wait(flora: Emulator, deferrable: bool) -> None:
    life = life_of(still(deferrable=deferrable))
    value = life.run()
    assert sorted(life.ti.pushes) == sorted(
        [
            "flora_technique_url",
            "flora_run_cost",
            "run_id",
            "outputs",
            "output_urls",
            "output_texts",
            "charged_cost",
        ]
    )
    assert life.ti.pushes.index("run_id") < life.ti.pushes.index("outputs")
    for key in ("run_id", "outputs", "output_urls", "charged_cost"):
        assert life.ti.xcoms[key] == value[key]


@MODES
@pytest.mark.parametrize(("large", "copies"), [(64 * 1024, 2), (10, 1)])
def test_a_text_stands_twice_in_xcom_and_a_large_one_once(
    flora: Emulator, deferrable: bool, large: int, copies: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outcome, "LARGE_TEXT_BYTES", large)
    life = life_of(still(technique_id="tagline-writer", inputs={"brief": "a café"}, deferrable=deferrable))
    value = life.run()
    text = json.dumps(value["outputs"][0]["url"])
    assert "outputs" not in life.ti.xcoms
    assert json.dumps([value, life.ti.xcoms, life.events]).count(text) == copies
    assert len(life.events) == deferrable


@pytest.fixture
def long_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run has not ended by the first poll, so that the task defers."""
    monkeypatch.setattr(FloraRunTechniqueOperator, "_finishes_soon", lambda *_: False)


@pytest.mark.usefixtures("long_runs")
def test_the_run_id_is_an_xcom_when_the_task_defers(flora: Emulator) -> None:
    operator = still(deferrable=True)
    life = life_of(operator)
    with pytest.raises(TaskDeferred):
        operator.execute(life.context())
    assert life.ti.xcoms["run_id"] == flora.ledger()["runs"][0]["run_id"]


@MODES
def test_the_outputs_alone_can_be_the_value(flora: Emulator, deferrable: bool) -> None:
    life = life_of(still(returns="outputs", deferrable=deferrable))
    outputs = life.run()
    assert [output["output_id"] for output in outputs] == ["still"]
    assert life.ti.xcoms["outputs"] == outputs


@MODES
def test_a_task_that_pushes_no_xcoms_pushes_none(flora: Emulator, deferrable: bool) -> None:
    life = life_of(still(do_xcom_push=False, deferrable=deferrable))
    assert life.run()["status"] == "completed"
    assert life.ti.pushes == []


def test_a_task_that_does_not_wait_gives_the_run_as_it_begins(flora: Emulator) -> None:
    flora.order_fault(kind="stall_run")
    life = life_of(still(wait_for_completion=False, deferrable=True))
    value = life.run()
    assert value["status"] == "pending"
    assert value["outputs"] == []
    assert value["charged_cost"] is None
    assert life.ti.xcoms["run_id"] == value["run_id"]


@MODES
def test_an_unknown_cost_is_none_and_never_the_quote(
    connect: Callable[..., None], deferrable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_provider_flora.api.waiting.COST_GRACE", 0.2)
    with Emulator(run_seconds=0.05, cost_lag=60) as flora:
        connect(flora)
        assert life_of(still(deferrable=deferrable)).run()["charged_cost"] is None


@MODES
def test_a_late_cost_is_waited_for(
    connect: Callable[..., None], deferrable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_provider_flora.api.waiting.COST_GRACE", 60.0)
    with Emulator(run_seconds=0.05, cost_lag=0.4) as flora:
        connect(flora)
        assert life_of(still(deferrable=deferrable)).run()["charged_cost"] == 0.09


@pytest.mark.usefixtures("long_runs")
def test_resuming_costs_no_request(flora: Emulator) -> None:
    operator = still(deferrable=True)
    life = life_of(operator)
    context = life.context()
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(context)
    event = life.wait_in_triggerer(deferred.value)
    before = flora.ledger()["requests"]
    operator.execute_complete(context, event)
    assert flora.ledger()["requests"] == before


@MODES
def test_the_last_line_of_a_successful_task_names_its_outputs_and_its_charge(
    flora: Emulator, deferrable: bool, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO)
    value = life_of(still(deferrable=deferrable)).run()
    printed = "".join(capfd.readouterr()) or caplog.text
    last = printed.strip().splitlines()[-1]
    assert f"{value['run_id']} completed" in last
    assert f"charged 0.09 USD: still = {value['output_urls'][0]}" in last


# --- before anything is spent -----------------------------------------------------------------------------


def test_templates_may_render_numbers_as_text(flora: Emulator) -> None:
    operator = still(
        technique_id="{{ 'editorial-still' }}",
        inputs={"prompt": "{{ run_id }}"},
        flora_conn_id="{{ 'flora_default' }}",
        poll_interval="{{ 0.05 }}",
        timeout="{{ 60 }}",
        callback_url="{{ 'https://example.com/hook' }}",
        max_run_cost="{{ 0.5 }}",
        adopt_run_id="{{ '' }}",
    )
    with DAG("a_dag", schedule=None) as dag:
        operator.dag = dag
    assert life_of(operator).run(render=True)["status"] == "completed"
    assert flora.ledger()["runs"][0]["inputs"][0]["value"] == "a_dag_run"


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"timeout": "soon"}, "timeout takes a number of at least 0.001, not 'soon'"),
        ({"timeout": 0}, "timeout takes a number"),
        ({"poll_interval": None}, "poll_interval takes a number"),
        ({"max_run_cost": "cheap"}, "max_run_cost takes a number of at least 0"),
    ],
)
@MODES
def test_a_number_that_is_none_is_refused(
    flora: Emulator, given: dict[str, Any], named: str, deferrable: bool
) -> None:
    with pytest.raises(AirflowFailException, match=named):
        life_of(still(deferrable=deferrable, **given)).run()
    assert posts_to(flora) == 0


def test_a_price_above_the_limit_stops_the_task_for_good_before_anything_is_spent(flora: Emulator) -> None:
    with pytest.raises(AirflowFailException, match=r"costs 0\.09 USD, more than max_run_cost=0\.08 USD"):
        life_of(still(max_run_cost=0.08)).run()
    assert posts_to(flora) == 0


def test_a_price_at_the_limit_passes(flora: Emulator) -> None:
    assert life_of(still(max_run_cost="0.09")).run()["status"] == "completed"


def test_an_unknown_price_is_above_every_limit(flora: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow_provider_flora.api.client import FloraClient

    whole = FloraClient.get_technique
    monkeypatch.setattr(
        FloraClient, "get_technique", lambda self, name: whole(self, name).model_copy(update={"run_cost": None})
    )
    with pytest.raises(AirflowFailException, match="unknown price"):
        life_of(still(max_run_cost=100)).run()
    assert posts_to(flora) == 0


def test_every_mistake_in_the_inputs_is_reported_at_once(flora: Emulator) -> None:
    inputs = {"photo": "http://example.com/a.png", "light": "", "colour": "red", "background": ["a", "b"]}
    with pytest.raises(AirflowFailException) as caught:
        life_of(still(technique_id="product-relight", inputs=inputs)).run()
    message = str(caught.value)
    assert "4 mistakes" in message
    for name in inputs:
        assert f"'{name}'" in message
    assert posts_to(flora) == 0


def test_inputs_need_not_be_checked_here(flora: Emulator) -> None:
    operator = still(validate_inputs=False, inputs=[{"id": "prompt", "type": "text", "value": ""}])
    with pytest.raises(AirflowFailException, match="Must not be empty"):
        life_of(operator).run()
    assert posts_to(flora) == 1


def test_an_input_of_none_is_left_out(flora: Emulator) -> None:
    inputs = {"question": "What is on page 2?", "deck": None}
    life_of(still(technique_id="deck-answers", inputs=inputs)).run()
    assert [entry["id"] for entry in flora.ledger()["runs"][0]["inputs"]] == ["question"]


def test_the_callback_url_is_passed_on(flora: Emulator) -> None:
    with pytest.raises(AirflowFailException, match="callback_url: Must be an HTTPS URL"):
        life_of(still(callback_url="http://example.com/hook")).run()
    life_of(still(callback_url="https://example.com/hook")).run()


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"returns": "files"}, "returns takes 'run' or 'outputs', not 'files'"),
        ({"on_unknown_start": "guess"}, "on_unknown_start takes 'stop' or 'restart', not 'guess'"),
        ({"returns": "outputs", "wait_for_completion": False}, "needs wait_for_completion"),
    ],
)
def test_a_choice_that_is_none_is_refused_when_the_dag_is_parsed(given: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        still(**given)


# --- failures ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "message", "kind", "remedy"),
    [
        ("GENERATION_PROVIDER_TIMEOUT", "Too slow.", FloraRunFailedError, "retry now"),
        ("provider_error", "Broken.", FloraRunFailedError, "retry later"),
        ("LLM_REFUSAL", "No.", AirflowFailException, "change the input"),
        ("BILLING_NOT_ENOUGH_CREDITS", "Empty.", AirflowFailException, "give up"),
        ("GPU_PROVIDER_ERROR", "rejected by the safety system", AirflowFailException, "change the input"),
    ],
)
@MODES
def test_a_failed_run_is_reported_with_code_and_remedy_and_retried_only_if_that_may_help(
    flora: Emulator, code: str, message: str, kind: type[Exception], remedy: str, deferrable: bool
) -> None:
    flora.order_fault(kind="fail_run", error_code=code, error_message=message)
    life = life_of(still(deferrable=deferrable))
    with pytest.raises(kind) as caught:
        life.run()
    assert isinstance(caught.value, AirflowFailException) == (kind is AirflowFailException)
    reported = str(caught.value)
    assert all(
        part in reported for part in (code, message, f"remedy: {remedy}", flora.ledger()["runs"][0]["run_id"])
    )
    assert "request id req_" in reported
    assert "outputs" not in life.ti.pushes
    pushed = life.ti.xcoms["flora_error"]  # for the page of the task: Airflow keeps no errors
    assert (pushed["code"], pushed["remedy"], pushed["message"]) == (code, remedy, reported)


@pytest.mark.parametrize(
    ("status", "is_final"), [(401, True), (402, True), (403, True), (404, True), (429, False), (503, False)]
)
@pytest.mark.parametrize("operation", ["getTechnique", "startTechniqueRun"])
def test_an_error_of_flora_is_retried_by_airflow_only_where_that_may_help(
    flora: Emulator, operation: str, status: int, is_final: bool
) -> None:
    flora.order_fault(kind="status", status=status, operation=operation)
    with pytest.raises(AirflowFailException if is_final else FloraAPIError, match=f"Flora answered {status}"):
        life_of(still()).run()


def test_a_flora_that_is_down_is_retried_by_airflow(flora: Emulator) -> None:
    flora.order_fault(kind="outage", seconds=60)
    with pytest.raises(FloraConnectionError):
        life_of(still()).run()


@MODES
def test_transient_errors_during_the_wait_do_not_fail_the_task(flora: Emulator, deferrable: bool) -> None:
    for fault in ({"kind": "reset"}, {"kind": "html"}, {"kind": "status", "status": 429}, {"kind": "cut_json"}):
        flora.order_fault(operation="getTechniqueRun", **fault)
    for operation in ("getTechniqueRun", "listTechniqueRuns"):
        flora.order_fault(kind="reset", operation=operation)
    assert life_of(still(deferrable=deferrable)).run()["status"] == "completed"


# --- time is over -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "limits",
    [
        {"timeout": 0.3},
        {"timeout": 0.3, "execution_timeout": timedelta(minutes=5)},
        {"timeout": 300, "execution_timeout": timedelta(seconds=0.3)},
    ],
)
@MODES
def test_the_earlier_of_both_limits_ends_the_wait_and_the_next_attempt_resumes_the_run(
    flora: Emulator, limits: dict[str, Any], deferrable: bool
) -> None:
    flora.order_fault(kind="stall_run")
    life = life_of(still(deferrable=deferrable, **limits))
    for _ in range(2):
        began = time.monotonic()
        with pytest.raises(FloraError, match="goes on at Flora") as caught:
            life.run()
        assert time.monotonic() - began < 60
        assert caught.value.remedy.retryable
        assert flora.ledger()["runs"][0]["run_id"] in str(caught.value)
    assert flora.ledger()["started_runs"] == 1


def test_a_wait_that_airflow_interrupts_logs_that_the_run_goes_on(
    flora: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    flora.order_fault(kind="stall_run")
    operator = still(timeout=60, execution_timeout=timedelta(seconds=60))

    def interrupt(*_: object) -> None:
        raise AirflowTaskTimeout

    monkeypatch.setattr("airflow_provider_flora.api.client.time.sleep", interrupt)
    with pytest.raises(FloraRunTimeoutError, match="within the execution_timeout"):
        life_of(operator).run()


@pytest.mark.usefixtures("long_runs")
def test_airflow_itself_ends_a_deferral_that_no_triggerer_ends(flora: Emulator) -> None:
    operator = still(deferrable=True, timeout=100)
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(life_of(operator).context())
    grace = deferred.value.timeout - timedelta(seconds=100)
    assert NO_TRIGGERER_GRACE - timedelta(seconds=20) < grace <= NO_TRIGGERER_GRACE


def test_the_error_of_an_event_is_raised_as_it_was_in_the_trigger() -> None:
    operator = still(deferrable=True)
    error = FloraRunTimeoutError("run_1", "editorial-still", "within 60 s", last_error="reset")
    event = json.loads(json.dumps(WaitEvent.of_error(error, "editorial-still", "run_1")))
    with pytest.raises(FloraRunTimeoutError, match=r"run_1.*within 60 s.*reset") as caught:
        operator.execute_complete(life_of(operator).context(), event)
    assert caught.value.run_id == "run_1"


def test_a_killed_task_logs_what_goes_on(
    flora: Emulator, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    operator = still()
    operator.on_kill()
    assert "goes on at Flora" not in caplog.text + "".join(capfd.readouterr())
    run_id = operator.execute(life_of(operator).context())["run_id"]
    operator.on_kill()
    assert f"{run_id} goes on at Flora" in caplog.text + "".join(capfd.readouterr())


# --- several attempts -------------------------------------------------------------------------------------


@MODES
def test_a_transient_failure_costs_one_more_run_and_a_delivered_task_a_run_for_each_clear(
    flora: Emulator, deferrable: bool
) -> None:
    flora.order_fault(kind="fail_run", error_code="SERVER_ERROR")
    life = life_of(still(deferrable=deferrable))
    with pytest.raises(FloraRunFailedError):
        life.run()
    first = life.run()
    life.clear()
    second = life.run()
    assert flora.ledger()["started_runs"] == 3
    assert [first["run_id"], second["run_id"]] == [run["run_id"] for run in flora.ledger()["runs"]][1:]


@pytest.mark.skipif(not HAS_STATE_STORE, reason="this Airflow has no task state store")
@pytest.mark.usefixtures("long_runs")
def test_a_task_that_died_while_it_resumed_gets_its_result_without_a_new_run(flora: Emulator) -> None:
    operator = still(deferrable=True)
    life = life_of(operator)
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(life.context())
    life.wait_in_triggerer(deferred.value)  # and the process that resumes is killed
    life.clear()
    assert life.run()["run_id"] == flora.ledger()["runs"][0]["run_id"]
    assert flora.ledger()["charged_runs"] == 1
    assert life.ti.xcoms["flora_technique_url"].endswith("/techniques/editorial-still")


@MODES
def test_a_run_named_by_a_person_is_waited_for(flora: Emulator, deferrable: bool) -> None:
    (given,) = flora.seed_runs()
    assert life_of(still(adopt_run_id=given, deferrable=deferrable)).run()["run_id"] == given
    assert posts_to(flora) == 0


@pytest.mark.parametrize("nothing", [None, "", "None"])
def test_a_template_that_names_no_run_to_adopt_starts_one(flora: Emulator, nothing: str | None) -> None:
    life_of(still(adopt_run_id=nothing, callback_url=nothing)).run()
    assert posts_to(flora) == 1


@pytest.mark.parametrize("nothing", ["{{ params.limit }}", "", "None", "cheap", "nan"])
def test_a_price_limit_that_cannot_be_read_stops_the_task(flora: Emulator, nothing: str) -> None:
    life = life_of(still(max_run_cost=nothing))
    with pytest.raises(AirflowFailException, match="max_run_cost takes a number"):
        life.run(render=True)
    assert posts_to(flora) == 0


@pytest.mark.skipif(not HAS_STATE_STORE, reason="without a store a run is found by sending its start again")
def test_a_paid_run_is_resumed_even_if_its_technique_is_gone(flora: Emulator) -> None:
    flora.order_fault(kind="stall_run")
    life = life_of(still(timeout=0.2))
    with pytest.raises(FloraRunTimeoutError):
        life.run()
    flora.order_fault(kind="status", status=404, operation="getTechnique", times=None)
    with pytest.raises(FloraRunTimeoutError, match=flora.ledger()["runs"][0]["run_id"]):
        life.run()


def test_mapped_tasks_leave_their_siblings_runs_alone(flora: Emulator) -> None:
    others = flora.seed_runs(2, spacing_ms=0)
    flora.order_fault(kind="reset", when="after", operation="startTechniqueRun")
    life = life_of(still(), map_index=1, siblings=[*others, None])  # type: ignore[list-item]
    with pytest.raises(FloraConnectionError):
        life.run()
    assert life.run()["run_id"] == flora.ledger()["runs"][0]["run_id"]
    # Airflow 3 gives all map indexes only where none is named, and those of no mapped task for None.
    asked = {"task_ids": "still", "key": "run_id"}
    assert [pull for pull in life.ti.pulls if "map_indexes" not in pull] == [asked]
    assert [pull for pull in life.ti.pulls if "map_indexes" in pull] == [{**asked, "map_indexes": 1}]


def test_a_mapped_task_does_not_take_its_own_run_for_a_sibling_s(flora: Emulator) -> None:
    flora.order_fault(kind="stall_run")
    life = life_of(still(timeout=0.3), map_index=1, store=None)
    for _ in range(2):
        with pytest.raises(FloraError, match="goes on at Flora"):
            life.run()
        life.left_over = life.ti.xcoms["run_id"]
    assert flora.ledger()["started_runs"] == 1


# --- the operator as an object ----------------------------------------------------------------------------


def test_an_operator_survives_copying_and_pickling(flora: Emulator) -> None:
    operator = still()
    for twin in (copy.deepcopy(operator), pickle.loads(pickle.dumps(operator))):
        assert twin.inputs == operator.inputs
        assert life_of(twin).run()["status"] == "completed"


@MODES
@pytest.mark.usefixtures("long_runs")
def test_the_key_is_in_no_log_xcom_error_rendered_field_or_trigger(
    flora: Emulator, caplog: pytest.LogCaptureFixture, deferrable: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    seen: list[Any] = []
    life = life_of(still(deferrable=deferrable))
    life.run()
    seen += [life.ti.xcoms, life.events, vars(life.operator)]
    key, flora.api_key = flora.api_key, "sk_test_another"
    with pytest.raises(AirflowFailException) as caught:
        life_of(still(deferrable=deferrable)).run()
    seen += [repr(caught.value), repr(caught.value.__cause__)]
    operator = still(task_id="another", deferrable=True)
    flora.api_key = key
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(life_of(operator).context())
    seen += [deferred.value.trigger.serialize(), repr(deferred.value.trigger.__dict__)]
    out, err = capfd.readouterr()
    for text in (caplog.text, out, err, *map(str, seen)):
        assert API_KEY not in text


# --- a run that ends at once --------------------------------------------------------------------------------


def test_a_run_that_has_ended_by_the_first_poll_is_handed_over_without_deferring(flora: Emulator) -> None:
    operator = still(deferrable=True, poll_interval=1)
    assert operator.execute(life_of(operator).context())["status"] == "completed"


def test_a_task_whose_first_poll_fails_defers(flora: Emulator) -> None:
    flora.order_fault(kind="status", status=401, operation="getTechniqueRun")
    operator = still(deferrable=True)
    with pytest.raises(TaskDeferred):
        operator.execute(life_of(operator).context())


def test_a_worker_does_not_wait_long_for_the_first_poll(flora: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("airflow_provider_flora.operators.flora.time.sleep", pauses.append)
    flora.order_fault(kind="stall_run")
    operator = still(deferrable=True, poll_interval=600)
    with pytest.raises(TaskDeferred):
        operator.execute(life_of(operator).context())
    assert pauses == [10.0]


# --- what fails after the result was handed over -------------------------------------------------------------


@pytest.mark.skipif(not HAS_STATE_STORE, reason="this Airflow has no task state store")
def test_a_clear_of_a_task_that_failed_after_its_run_was_handed_over_pays_nothing(flora: Emulator) -> None:
    operator = still()
    life = life_of(operator)
    operator.execute(life.context())  # and post_execute, or pushing the return value, fails
    life.clear()
    life.run()
    assert flora.ledger()["charged_runs"] == 1
    life.clear()
    life.run()
    assert flora.ledger()["charged_runs"] == 2


# --- what a callback sees -----------------------------------------------------------------------------------


@MODES
def test_one_error_with_its_facts_reaches_the_callbacks(flora: Emulator, deferrable: bool) -> None:
    flora.order_fault(kind="fail_run", error_code="LLM_REFUSAL", error_message="No.")
    with pytest.raises(FloraRunFailedError) as caught:
        life_of(still(deferrable=deferrable)).run()
    error = caught.value
    assert isinstance(error, AirflowFailException)
    assert (error.kind, error.code, error.remedy.value) == ("run_failed", "LLM_REFUSAL", "change the input")
    assert error.run_id == flora.ledger()["runs"][0]["run_id"]
    assert error.__cause__ is None
    assert error.__suppress_context__


def test_a_missing_connection_is_one_error(flora: Emulator) -> None:
    with pytest.raises(FloraSettingsError, match="nowhere") as caught:
        life_of(still(flora_conn_id="nowhere")).run()
    assert caught.value.kind == "settings"
    assert caught.value.__cause__ is None


@pytest.mark.skipif(not HAS_STATE_STORE, reason="this Airflow has no task state store")
def test_a_connection_that_cannot_be_used_for_a_while_does_not_give_a_paid_run_up(
    flora: Emulator, connect: Callable[..., None]
) -> None:
    flora.order_fault(kind="stall_run")
    life = life_of(still(timeout=0.2))
    with pytest.raises(FloraRunTimeoutError):
        life.run()
    connect(flora, timeout="soon")
    with pytest.raises(FloraSettingsError, match="timeout") as caught:
        life.run()
    assert not isinstance(caught.value, AirflowFailException)
    assert caught.value.run_id == flora.ledger()["runs"][0]["run_id"]


# --- abandoning a run -----------------------------------------------------------------------------------------


@pytest.mark.skipif(not HAS_STATE_STORE, reason="this Airflow has no task state store")
def test_a_person_can_give_a_run_up_and_only_with_a_clear(flora: Emulator) -> None:
    flora.order_fault(kind="stall_run")
    life = life_of(still(timeout=0.2))
    with pytest.raises(FloraRunTimeoutError):
        life.run()
    life.operator.adopt_run_id = "none"
    with pytest.raises(FloraRunTimeoutError):
        life.run()  # a retry is no clear
    assert flora.ledger()["started_runs"] == 1
    life.clear()
    life.operator.timeout = 60
    assert life.run()["run_id"] == flora.ledger()["runs"][1]["run_id"]
    assert flora.ledger()["started_runs"] == 2
