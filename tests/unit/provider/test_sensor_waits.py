"""FloraTechniqueRunSensor: the three ways to wait for a run that something else started."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    TaskDeferred,
)
from fake_task import TaskLife
from test_operator_runs import life_of, still

from airflow_provider_flora.api.errors import FloraAPIError, FloraRunFailedError
from airflow_provider_flora.emulator import Emulator
from airflow_provider_flora.hooks.flora import FloraHook
from airflow_provider_flora.sensors.flora import FloraTechniqueRunSensor

try:
    from airflow.sdk.exceptions import AirflowRescheduleException
except ImportError:
    from airflow.exceptions import AirflowRescheduleException

WAYS = pytest.mark.parametrize(
    "way", [{"mode": "poke"}, {"mode": "reschedule"}, {"deferrable": True}], ids=["poke", "reschedule", "deferred"]
)
HICCUPS: tuple[dict[str, Any], ...] = (
    {"kind": "reset"},
    {"kind": "html"},
    {"kind": "status", "status": 429},
    {"kind": "status", "status": 408},
    {"kind": "cut_json"},
)


@pytest.fixture(autouse=True)
def _no_reschedules_in_a_database(monkeypatch: pytest.MonkeyPatch) -> None:
    """Airflow 2 asks its database when a rescheduled sensor began; there is none here."""
    with contextlib.suppress(ImportError, AttributeError):
        monkeypatch.setattr("airflow.sensors.base._orig_start_date", lambda **_: None)


def sensor(run_id: str, **given: Any) -> FloraTechniqueRunSensor:
    return FloraTechniqueRunSensor(
        **{
            "task_id": "wait",
            "technique_id": "editorial-still",
            "run_id": run_id,
            "poke_interval": 0.05,
            "timeout": 20,
            "deferrable": False,
            **given,
        }
    )


def run_of(task: FloraTechniqueRunSensor) -> tuple[Any, TaskLife]:
    """Run a sensor to its end, rescheduled as often as it takes."""
    life = TaskLife(task)
    while True:
        try:
            return life.run(), life
        except AirflowRescheduleException:
            continue


def start(technique: str = "editorial-still", **inputs: str) -> str:
    return FloraHook().start_technique_run(technique, inputs or {"prompt": "a cup"}).run_id


@WAYS
def test_the_value_is_that_of_the_operator(flora: Emulator, way: dict[str, Any]) -> None:
    of_operator = life_of(still())
    value = of_operator.run()
    seen, life = run_of(sensor(value["run_id"], **way))
    assert seen == value
    of_operator.ti.xcoms.pop("flora_technique_url")
    assert life.ti.xcoms == of_operator.ti.xcoms


@WAYS
def test_an_active_run_is_waited_for(flora: Emulator, way: dict[str, Any]) -> None:
    outputs, life = run_of(sensor(start(), returns="outputs", **way))
    assert [output["output_id"] for output in outputs] == ["still"]
    assert sorted(life.ti.pushes) == ["charged_cost", "output_texts", "output_urls", "outputs", "run_id"]


@WAYS
def test_without_xcoms_none_is_pushed(flora: Emulator, way: dict[str, Any]) -> None:
    _, life = run_of(sensor(start(), do_xcom_push=False, **way))
    assert life.ti.pushes == []


@WAYS
def test_hiccups_never_fail_it(flora: Emulator, way: dict[str, Any]) -> None:
    run_id = start()
    for fault in HICCUPS:
        flora.order_fault(operation="getTechniqueRun", **fault)
    value, _ = run_of(sensor(run_id, **way))
    assert value["status"] == "completed"


def test_a_rescheduled_sensor_holds_no_worker_between_two_looks(flora: Emulator) -> None:
    flora.order_fault(kind="stall_run")
    with pytest.raises(AirflowRescheduleException):
        TaskLife(sensor(start(), mode="reschedule")).run()


@WAYS
def test_a_run_that_is_missing_at_first_is_waited_for(flora: Emulator, way: dict[str, Any]) -> None:
    run_id = start()
    flora.order_fault(kind="status", status=404, operation="getTechniqueRun", times=2)
    value, _ = run_of(sensor(run_id, **way))
    assert value["run_id"] == run_id


@pytest.mark.parametrize("way", [{"mode": "poke"}, {"mode": "reschedule"}])
def test_a_run_that_stays_missing_fails_the_task_for_good(flora: Emulator, way: dict[str, Any]) -> None:
    task = sensor("run_of_nobody", **way)
    life = TaskLife(task)
    context = life.context()
    life.ti.start_date = datetime.now(timezone.utc) - timedelta(minutes=2)
    with pytest.raises(AirflowFailException, match="404"):
        task.execute(context)


@WAYS
def test_a_rejected_key_fails_it_for_good(flora: Emulator, way: dict[str, Any]) -> None:
    run_id = start()
    flora.api_key = "sk_test_another"
    with pytest.raises(AirflowFailException, match="401"):
        run_of(sensor(run_id, **way))


@pytest.mark.parametrize(
    ("code", "kind"), [("SERVER_ERROR", FloraRunFailedError), ("LLM_REFUSAL", AirflowFailException)]
)
@WAYS
def test_a_failed_run_fails_it_with_the_runs_error(
    flora: Emulator, way: dict[str, Any], code: str, kind: type[Exception]
) -> None:
    flora.order_fault(kind="fail_run", error_code=code, error_message="It did not work.")
    with pytest.raises(kind, match=f"{code}: It did not work"):
        run_of(sensor(start(), **way))


@pytest.fixture
def stalled(flora: Emulator) -> str:
    flora.order_fault(kind="stall_run")
    return start()


@pytest.mark.parametrize("way", [{"mode": "poke"}, {"deferrable": True}], ids=["poke", "deferred"])
def test_when_the_time_is_over_the_run_is_named_and_goes_on(stalled: str, way: dict[str, Any]) -> None:
    with pytest.raises(AirflowSensorTimeout, match=stalled) as caught:
        run_of(sensor(stalled, timeout=0.3, **way))
    assert "goes on at Flora" in str(caught.value)


def test_the_earlier_of_both_limits_ends_a_deferred_wait(stalled: str) -> None:
    with pytest.raises(AirflowSensorTimeout, match=stalled):
        run_of(sensor(stalled, timeout=600, execution_timeout=timedelta(seconds=0.3), deferrable=True))


@pytest.mark.parametrize("way", [{"mode": "poke"}, {"deferrable": True}], ids=["poke", "deferred"])
def test_a_soft_sensor_is_skipped_when_the_time_is_over(stalled: str, way: dict[str, Any]) -> None:
    with pytest.raises(AirflowSkipException):
        run_of(sensor(stalled, timeout=0.3, soft_fail=True, **way))


@pytest.mark.parametrize("way", [{"mode": "poke"}, {"deferrable": True}], ids=["poke", "deferred"])
def test_a_cost_that_is_told_late_is_waited_for_or_none(
    connect: Callable[..., None], monkeypatch: pytest.MonkeyPatch, way: dict[str, Any]
) -> None:
    with Emulator(run_seconds=0, cost_lag=0.4) as flora:
        connect(flora)
        assert run_of(sensor(start(), **way))[0]["charged_cost"] == 0.09
    monkeypatch.setattr("airflow_provider_flora.api.protocol.COST_GRACE", 0.2)
    with Emulator(run_seconds=0, cost_lag=60) as flora:
        connect(flora)
        assert run_of(sensor(start(), **way))[0]["charged_cost"] is None


def test_a_finished_run_needs_no_deferral(flora: Emulator) -> None:
    run_id = flora.seed_runs()[0]
    life = TaskLife(sensor(run_id, deferrable=True))
    assert life.run()["run_id"] == run_id
    assert life.events == []


def test_a_choice_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="returns takes"):
        sensor("run_1", returns="files")


def test_the_deferral_carries_what_the_sensor_was_told(stalled: str) -> None:
    task = sensor(stalled, deferrable=True, poke_interval=7)
    with pytest.raises(TaskDeferred) as deferred:
        task.execute(TaskLife(task).context())
    _, arguments = deferred.value.trigger.serialize()
    assert arguments["run_id"] == stalled
    assert arguments["poll_interval"] == 7
    assert arguments["flora_conn_id"] == "flora_default"


def test_an_error_that_may_pass_in_an_event_is_retried(flora: Emulator) -> None:
    task = sensor("run_1", deferrable=True)
    with pytest.raises(Exception, match="The database is away") as caught:
        task.execute_complete(TaskLife(task).context(), {"error": "The database is away", "retryable": True})
    assert not isinstance(caught.value, (AirflowFailException, FloraAPIError))
