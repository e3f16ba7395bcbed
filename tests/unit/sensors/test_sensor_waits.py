"""FloraTechniqueRunSensor: the three ways to wait for a run that something else started."""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from airflow_provider_flora.airflow_compat import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    TaskDeferred,
)
from airflow_provider_flora.api import waiting
from airflow_provider_flora.api.errors import (
    FloraAPIError,
    FloraInternalError,
    FloraRunFailedError,
    FloraSettingsError,
)
from airflow_provider_flora.emulator import Emulator
from airflow_provider_flora.hooks.flora import FloraHook
from airflow_provider_flora.sensors.flora import FloraTechniqueRunSensor
from tests.statsd_receiver import StatsdReceiver
from tests.unit.airflow_names import AirflowRescheduleException
from tests.unit.operators.fake_task import FakeStore, TaskLife
from tests.unit.operators.still import life_of, still

pytestmark = pytest.mark.usefixtures("quick")
WAYS = pytest.mark.parametrize(
    "way", [{"mode": "poke"}, {"mode": "reschedule"}, {"deferrable": True}], ids=["poke", "reschedule", "deferred"]
)
TRANSIENT_ERRORS: tuple[dict[str, Any], ...] = (
    {"kind": "reset"},
    {"kind": "html"},
    {"kind": "status", "status": 429},
    {"kind": "status", "status": 408},
    {"kind": "status", "status": 500},
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
            time.sleep(0.02)


def start(technique: str = "editorial-still", **inputs: str) -> str:
    return FloraHook().start_technique_run(technique, inputs or {"prompt": "a cup"}).run_id


@WAYS
def test_the_value_is_that_of_the_operator(flora: Emulator, way: dict[str, Any]) -> None:
    of_operator = life_of(still())
    value = of_operator.run()
    seen, life = run_of(sensor(value["run_id"], **way))
    assert seen == value
    for of_a_start in ("flora_technique_url", "flora_run_cost"):
        of_operator.ti.xcoms.pop(of_a_start)
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
def test_transient_errors_never_fail_it(flora: Emulator, way: dict[str, Any]) -> None:
    run_id = start()
    for fault in TRANSIENT_ERRORS:
        flora.order_fault(operation="getTechniqueRun", **fault)
    value, _ = run_of(sensor(run_id, **way))
    assert value["status"] == "completed"


def test_a_rescheduled_sensor_holds_no_worker_between_two_polls(flora: Emulator) -> None:
    flora.order_fault(kind="stall_run")
    with pytest.raises(AirflowRescheduleException):
        TaskLife(sensor(start(), mode="reschedule")).run()


@WAYS
def test_a_run_that_is_missing_at_first_is_waited_for(flora: Emulator, way: dict[str, Any]) -> None:
    run_id = start()
    flora.order_fault(kind="status", status=404, operation="getTechniqueRun", times=2)
    value, _ = run_of(sensor(run_id, **way))
    assert value["run_id"] == run_id


REFUSALS: tuple[dict[str, Any], ...] = (
    {"kind": "status", "status": 401},
    {"kind": "status", "status": 403},
    {"kind": "status", "status": 404},
    {"kind": "html", "status": 403},
    {"kind": "redirect"},
    {"kind": "oversize"},
    {"kind": "not_a_run"},
)


@pytest.mark.parametrize("fault", REFUSALS, ids=str)
@WAYS
def test_one_refusal_never_fails_it(flora: Emulator, way: dict[str, Any], fault: dict[str, Any]) -> None:
    run_id = start()
    flora.order_fault(operation="getTechniqueRun", **fault)
    assert run_of(sensor(run_id, **way))[0]["run_id"] == run_id


@WAYS
def test_a_connection_that_is_not_found_for_a_while_never_fails_it(
    flora: Emulator, way: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = start()
    tries: list[str] = []
    sync, aio = FloraHook.get_conn, FloraHook.async_settings

    def fail() -> None:
        tries.append("x")
        if len(tries) < 4:
            raise (
                FloraSettingsError("There is no connection 'flora_default'.")
                if len(tries) == 1
                else OSError("the database is away")
            )

    def get_conn(self: FloraHook) -> Any:
        fail()
        return sync(self)

    async def async_settings(self: FloraHook) -> Any:
        fail()
        return await aio(self)

    monkeypatch.setattr(FloraHook, "get_conn", get_conn)
    monkeypatch.setattr(FloraHook, "async_settings", async_settings)
    monkeypatch.setattr("airflow_provider_flora.runs.gate.CONNECTION_RETRY", 0.05)
    assert run_of(sensor(run_id, **way))[0]["run_id"] == run_id


@WAYS
def test_a_bug_fails_it_at_once_and_may_be_retried(
    flora: Emulator, way: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any) -> Any:
        raise TypeError("a bug")

    monkeypatch.setattr(FloraHook, "get_conn", broken)
    with pytest.raises(FloraInternalError, match="TypeError: a bug") as caught:
        run_of(sensor("run_1", **way))
    assert caught.value.remedy.retryable


@pytest.mark.parametrize(("run_id", "key"), [("run_of_nobody", None), (None, "sk_test_another")])
@pytest.mark.parametrize("way", [{"mode": "poke"}, {"deferrable": True}], ids=["poke", "deferred"])
def test_what_flora_refuses_for_minutes_fails_it_and_may_be_retried(
    flora: Emulator,
    way: dict[str, Any],
    run_id: str | None,
    key: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(waiting, "REFUSAL_CONFIRMED_AFTER", 0.3)
    run_id = run_id or start()
    flora.api_key = key or flora.api_key
    with pytest.raises(FloraAPIError, match=r"40[14]") as caught:
        run_of(sensor(run_id, **way))
    assert caught.value.remedy.retryable
    assert caught.value.run_id == run_id


def poll_once(
    task: FloraTechniqueRunSensor,
    *,
    rescheduled: float | None,
    started: float = 0.0,
    store: FakeStore | None = None,
) -> Any:
    """Poll once, as a new process; times are seconds ago."""
    life = TaskLife(task, store=store)
    context = life.context()
    now = datetime.now(timezone.utc)
    first = None if rescheduled is None else now - timedelta(seconds=rescheduled)
    life.ti.start_date = now - timedelta(seconds=started)
    life.ti.get_first_reschedule_date = lambda context: first  # type: ignore[method-assign]
    try:
        return copy.deepcopy(task).execute(context)
    except AirflowRescheduleException:
        return "rescheduled"


def test_a_rescheduled_sensor_goes_on_while_a_run_has_been_missing_for_a_moment(flora: Emulator) -> None:
    task = sensor("run_of_nobody", mode="reschedule", timeout=86400)
    assert poll_once(task, rescheduled=None) == "rescheduled"
    assert poll_once(task, rescheduled=100) == "rescheduled"


def test_a_rescheduled_sensor_ends_when_a_run_has_been_missing_for_minutes(flora: Emulator) -> None:
    task = sensor("run_of_nobody", mode="reschedule", timeout=86400)
    with pytest.raises(FloraAPIError, match="404") as caught:
        poll_once(task, rescheduled=190)
    assert caught.value.remedy.retryable


def test_a_rescheduled_sensor_of_airflow_2_takes_its_start_for_the_first_poll(
    flora: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = sensor("run_of_nobody", mode="reschedule", timeout=86400)
    assert poll_once(task, rescheduled=None, started=100) == "rescheduled"
    with pytest.raises(FloraAPIError, match="404"):
        poll_once(task, rescheduled=None, started=190)


def test_a_rescheduled_sensor_is_not_ended_by_the_error_of_a_proxy(flora: Emulator) -> None:
    (run_id,) = flora.seed_runs()
    task = sensor(run_id, mode="reschedule", timeout=86400)
    flora.order_fault(kind="html", status=404, operation="getTechniqueRun")
    assert poll_once(task, rescheduled=7200) == "rescheduled"
    assert poll_once(task, rescheduled=7200)["run_id"] == run_id


def test_where_there_is_a_state_store_one_refusal_in_a_long_wait_ends_no_rescheduled_sensor(
    flora: Emulator,
) -> None:
    store = FakeStore()
    flora.order_fault(kind="stall_run")
    task = sensor(start(), mode="reschedule", timeout=86400)
    for _ in range(3):
        flora.order_fault(kind="status", status=404, operation="getTechniqueRun")
        assert poll_once(task, rescheduled=7200, store=store) == "rescheduled"  # refused
        assert store.rows
        assert poll_once(task, rescheduled=7200, store=store) == "rescheduled"  # and seen again
        assert not store.rows


def test_where_there_is_a_state_store_a_refusal_that_stays_ends_a_rescheduled_sensor(
    flora: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "REFUSAL_CONFIRMED_AFTER", 0.3)
    store = FakeStore()
    task = sensor("run_of_nobody", mode="reschedule", timeout=86400)
    assert poll_once(task, rescheduled=7200, store=store) == "rescheduled"
    time.sleep(0.4)
    with pytest.raises(FloraAPIError, match="404"):
        poll_once(task, rescheduled=7200, store=store)
    assert not store.rows  # a retry begins again


def test_a_state_store_that_is_away_does_not_end_a_rescheduled_sensor(flora: Emulator) -> None:
    class Away(FakeStore):
        def get(self, key: str, default: Any = None) -> Any:
            raise OSError("away")

        set = delete = get

    task = sensor("run_of_nobody", mode="reschedule", timeout=86400)
    assert poll_once(task, rescheduled=7200, store=Away()) == "rescheduled"


@WAYS
def test_a_poke_interval_of_0_is_the_smallest_that_makes_sense(flora: Emulator, way: dict[str, Any]) -> None:
    task = sensor(flora.seed_runs()[0], poke_interval=0, **way)
    assert task.poke_interval == 1.0
    assert run_of(task)[0]["status"] == "completed"


@pytest.mark.parametrize("way", [{"mode": "poke"}, {"deferrable": True}], ids=["poke", "deferred"])
def test_when_the_time_is_over_the_last_error_is_named(flora: Emulator, way: dict[str, Any]) -> None:
    run_id = start()
    flora.order_fault(kind="status", status=503, times=None)
    with pytest.raises(AirflowSensorTimeout, match=r"fail.*Flora answered 503") as caught:
        run_of(sensor(run_id, timeout=0.3, **way))
    assert run_id in str(caught.value)
    assert caught.value.__suppress_context__


def test_a_rescheduled_sensor_names_the_last_error_too_when_the_time_is_over(flora: Emulator) -> None:
    task = sensor(start(), mode="reschedule", timeout=0)
    flora.order_fault(kind="status", status=503, times=None)
    with pytest.raises(AirflowSensorTimeout, match="The last poll failed: Flora answered 503"):
        poll_once(task, rescheduled=100, started=100)


def test_a_sensor_that_pokes_logs_an_outage_once(
    flora: Emulator, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    run_id = start()
    flora.order_fault(kind="status", status=503, operation="getTechniqueRun", times=5)
    run_of(sensor(run_id))
    printed = "".join(capfd.readouterr()) or caplog.text
    assert printed.count(f"{run_id} cannot be polled now. The sensor goes on: Flora answered 503") == 1


def test_texts_of_a_deferred_sensor_are_handed_over_whole(flora: Emulator) -> None:
    run_id = start("tagline-writer", brief="a cup")
    value, life = run_of(sensor(run_id, technique_id="tagline-writer", deferrable=True))
    texts = [output["url"] for output in value["outputs"]]
    assert all(texts)
    assert life.ti.xcoms["output_texts"] == texts


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
def test_a_late_cost_is_waited_for_or_none(
    connect: Callable[..., None], monkeypatch: pytest.MonkeyPatch, way: dict[str, Any]
) -> None:
    monkeypatch.setattr("airflow_provider_flora.api.waiting.COST_GRACE", 60.0)
    with Emulator(run_seconds=0, cost_lag=0.4) as flora:
        connect(flora)
        assert run_of(sensor(start(), **way))[0]["charged_cost"] == 0.09
    monkeypatch.setattr("airflow_provider_flora.api.waiting.COST_GRACE", 0.2)
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


def test_the_deferral_carries_the_parameters_of_the_sensor(stalled: str) -> None:
    task = sensor(stalled, deferrable=True, poke_interval=7)
    with pytest.raises(TaskDeferred) as deferred:
        task.execute(TaskLife(task).context())
    _, arguments = deferred.value.trigger.serialize()
    assert arguments["run_id"] == stalled
    assert arguments["poll_interval"] == 7
    assert arguments["flora_conn_id"] == "flora_default"
    assert arguments["timeout"] == 20


def test_an_error_that_may_pass_in_an_event_is_retried(flora: Emulator) -> None:
    task = sensor("run_1", deferrable=True)
    with pytest.raises(Exception, match="The database is away") as caught:
        task.execute_complete(TaskLife(task).context(), {"error": "The database is away", "retryable": True})
    assert not isinstance(caught.value, (AirflowFailException, FloraAPIError))


# --- what it counts -------------------------------------------------------------------------------------------


@WAYS
def test_a_run_that_a_sensor_hands_over_is_completed_and_not_started(
    flora: Emulator, statsd: StatsdReceiver, way: dict[str, Any]
) -> None:
    run_of(sensor(start(), **way))
    counts = {**statsd.counts("flora.runs"), **statsd.counts("flora.cost")}
    technique = "technique=editorial-still"
    assert counts == {f"flora.runs.completed,{technique}": 1, f"flora.cost,{technique}": 90_000}


@pytest.mark.parametrize(
    ("code", "tries", "remedy"),
    [("SERVER_ERROR", 3, "retry_now"), ("GENERATION_PROMPT_MODERATED", 1, "change_the_input")],
)
def test_a_failed_run_that_each_attempt_finds_again_is_counted_by_the_last(
    flora: Emulator, statsd: StatsdReceiver, code: str, tries: int, remedy: str
) -> None:
    flora.order_fault("fail_run", error_code=code)
    life = TaskLife(sensor(start()), retries=2)
    for _ in range(tries):
        assert not statsd.counts("flora.runs")
        with pytest.raises(FloraRunFailedError):
            life.run()
    assert statsd.counts("flora.runs") == {f"flora.runs.failed,technique=editorial-still,remedy={remedy}": 1}
