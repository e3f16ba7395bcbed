"""What tasks count in Airflow's metrics: each run once, whatever becomes of the attempts around it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_flora.api import waiting
from airflow_provider_flora.api.errors import FloraError, FloraRunFailedError, FloraRunTimeoutError
from airflow_provider_flora.batch import running
from airflow_provider_flora.emulator import Emulator
from airflow_provider_flora.files.downloads.downloads import Downloads
from airflow_provider_flora.operators.downloads import FloraDownloadOutputsOperator
from airflow_provider_flora.runs.starting import Starter
from tests.statsd_receiver import StatsdReceiver
from tests.unit.operators.fake_task import HAS_STATE_STORE, FakeStore, TaskLife
from tests.unit.operators.still import MODES, batch_of, life_of, still

pytestmark = pytest.mark.usefixtures("quick")
STARTED, COMPLETED, COST, FAILED = (
    f"flora.{name},technique=editorial-still" for name in ("runs.started", "runs.completed", "cost", "runs.failed")
)
PRICE = 90_000
"""Of a run, in millionths of a USD."""
needs_store = pytest.mark.skipif(not HAS_STATE_STORE, reason="this Airflow has no task state store")
STORES = pytest.mark.parametrize("has_store", [pytest.param(True, marks=needs_store), False])


def counts(statsd: StatsdReceiver) -> dict[str, int]:
    """What was counted of runs and money."""
    return {**statsd.counts("flora.runs"), **statsd.counts("flora.cost")}


class Killed(BaseException):
    """The end of a process, whatever it does."""


def kill_once(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, *, after: bool = False) -> None:
    """End the process at the first call of a method, or right after it."""
    real = getattr(owner, name)
    calls: list[object] = []

    def killed(self: Any, *given: Any) -> Any:
        calls.append(given)
        if after or len(calls) > 1:
            result = real(self, *given)
            if len(calls) > 1:
                return result
        raise Killed

    monkeypatch.setattr(owner, name, killed)


# --- one run --------------------------------------------------------------------------------------------------


@MODES
@STORES
def test_a_run_is_started_completed_and_charged_once(
    flora: Emulator, statsd: StatsdReceiver, deferrable: bool, has_store: bool
) -> None:
    begun = time.time()
    life_of(still(deferrable=deferrable), store=FakeStore() if has_store else None).run()
    assert counts(statsd) == {STARTED: 1, COMPLETED: 1, COST: PRICE}
    [milliseconds] = statsd.values("flora.wait.seconds")
    assert 0 < milliseconds / 1000 <= time.time() - begun + 0.1


@MODES
def test_requests_are_those_that_flora_has_seen(flora: Emulator, statsd: StatsdReceiver, deferrable: bool) -> None:
    life_of(still(deferrable=deferrable)).run()
    seen = flora.ledger()["requests"]
    assert seen["startTechniqueRun"] == 1
    assert seen["getTechniqueRun"] >= 1
    counted = statsd.counts("flora.requests")
    assert {name.split("operation=")[1].split(",")[0]: count for name, count in counted.items()} == seen
    assert all(name.endswith((",status=200", ",status=201")) for name in counted)


@STORES
def test_a_failed_run_and_the_one_in_its_place_are_two(
    flora: Emulator, statsd: StatsdReceiver, has_store: bool
) -> None:
    flora.order_fault("fail_run", error_code="GENERATION_NO_RESULT", times=1)
    life = life_of(still(), store=FakeStore() if has_store else None)
    with pytest.raises(FloraRunFailedError):
        life.run()
    assert counts(statsd) == {STARTED: 1, f"{FAILED},remedy=retry_later": 1}
    life.run()
    assert counts(statsd) == {STARTED: 2, f"{FAILED},remedy=retry_later": 1, COMPLETED: 1, COST: PRICE}


@MODES
def test_the_remedy_says_what_a_failure_calls_for(
    flora: Emulator, statsd: StatsdReceiver, deferrable: bool
) -> None:
    flora.order_fault("fail_run", error_code="GENERATION_PROMPT_MODERATED")
    with pytest.raises(FloraRunFailedError):
        life_of(still(deferrable=deferrable)).run()
    assert counts(statsd) == {STARTED: 1, f"{FAILED},remedy=change_the_input": 1}


@needs_store
def test_a_run_that_failed_while_its_task_was_dead_is_counted_by_the_attempt_that_finds_it(
    flora: Emulator, statsd: StatsdReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    flora.order_fault("fail_run", error_code="GENERATION_PROMPT_MODERATED")
    life = life_of(still())
    with monkeypatch.context() as patch:
        kill_once(patch, type(life.operator), "_wait")
        with pytest.raises(Killed):
            life.run()
    [run] = flora.ledger()["runs"]
    ends = time.monotonic() + 30
    while flora.ledger()["runs"][0]["status"] != "failed":
        assert time.monotonic() < ends
    with pytest.raises(FloraRunFailedError, match=run["run_id"]):
        life.run()
    assert counts(statsd) == {STARTED: 1, f"{FAILED},remedy=change_the_input": 1}


@needs_store
def test_a_retry_that_takes_up_a_run_does_not_count_its_start_again(
    flora: Emulator, statsd: StatsdReceiver
) -> None:
    flora.order_fault("status", status=503, operation="getTechniqueRun", times=None)
    life = life_of(still(timeout=0.2))
    with pytest.raises(FloraRunTimeoutError):
        life.run()
    flora.clear_faults()
    assert counts(statsd) == {STARTED: 1}
    life.operator.timeout = 60
    life.run()
    assert counts(statsd) == {STARTED: 1, COMPLETED: 1, COST: PRICE}


def test_without_a_record_a_retry_that_finds_a_run_does_not_count_its_start_again(
    connect: Callable[..., None], statsd: StatsdReceiver
) -> None:
    with Emulator(run_seconds=0.05, cost_lag=0, idempotency="docs") as flora:
        connect(flora)
        flora.order_fault("status", status=503, operation="getTechniqueRun", times=None)
        life = life_of(still(timeout=0.2), store=None)
        with pytest.raises(FloraRunTimeoutError):
            life.run()
        flora.clear_faults()
        assert counts(statsd) == {STARTED: 1}
        life.operator.timeout = 60
        life.run()
        assert len(flora.ledger()["runs"]) == 1
    assert counts(statsd) == {STARTED: 1, COMPLETED: 1, COST: PRICE}


@pytest.mark.parametrize("idempotency", ["docs", "site"])
@STORES
def test_a_start_whose_answer_was_lost_is_counted_once(
    connect: Callable[..., None], statsd: StatsdReceiver, idempotency: Any, has_store: bool
) -> None:
    with Emulator(run_seconds=0.05, cost_lag=0, idempotency=idempotency) as flora:
        connect(flora, max_retries=1)
        flora.order_fault("reset", when="after", operation="startTechniqueRun")
        life_of(still(), store=FakeStore() if has_store else None).run()
        assert len(flora.ledger()["runs"]) == 1
    assert counts(statsd) == {STARTED: 1, COMPLETED: 1, COST: PRICE}
    assert statsd.counts()["flora.requests,operation=startTechniqueRun,status=no_answer"] == 1


@needs_store
def test_a_kill_before_the_run_is_stored_leaves_its_start_to_the_next_attempt(
    flora: Emulator, statsd: StatsdReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    life = life_of(still())
    with monkeypatch.context() as patch:
        kill_once(patch, Starter, "_save_run_id")
        with pytest.raises(Killed):
            life.run()
    assert counts(statsd) == {}
    life.run()
    assert len(flora.ledger()["runs"]) == 1
    assert counts(statsd) == {STARTED: 1, COMPLETED: 1, COST: PRICE}


def test_a_run_that_a_user_names_was_not_started_by_the_task(flora: Emulator, statsd: StatsdReceiver) -> None:
    run_id = life_of(still()).run()["run_id"]
    statsd.forget()
    life_of(still(adopt_run_id=run_id)).run()
    assert counts(statsd) == {COMPLETED: 1, COST: PRICE}


@needs_store
def test_a_run_whose_download_fails_is_completed_once_it_is_handed_over(
    flora: Emulator, statsd: StatsdReceiver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    life = life_of(still(download_to=str(tmp_path)))
    with monkeypatch.context() as patch:
        kill_once(patch, Downloads, "download")
        with pytest.raises(Killed):
            life.run()
    assert counts(statsd) == {STARTED: 1}
    life.run()
    assert counts(statsd) == {STARTED: 1, COMPLETED: 1, COST: PRICE}


def test_a_task_whose_success_airflow_has_not_recorded_has_completed_nothing(
    flora: Emulator, statsd: StatsdReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    life = life_of(still())
    with monkeypatch.context() as patch:
        kill_once(patch, TaskLife, "succeed")
        with pytest.raises(Killed):
            life.run()
    assert counts(statsd) == {STARTED: 1}


def test_a_run_that_nobody_waits_for_is_only_started(flora: Emulator, statsd: StatsdReceiver) -> None:
    life_of(still(wait_for_completion=False)).run()
    assert counts(statsd) == {STARTED: 1}


def test_a_download_of_a_run_that_another_task_has_handed_over_counts_nothing(
    flora: Emulator, statsd: StatsdReceiver, tmp_path: Path
) -> None:
    run_id = life_of(still()).run()["run_id"]
    statsd.forget()
    download = FloraDownloadOutputsOperator(
        task_id="get", technique_id="editorial-still", run_id=run_id, download_to=str(tmp_path)
    )
    assert life_of(download).run()["files"]
    assert counts(statsd) == {}


def test_a_refused_start_is_no_run(flora: Emulator, statsd: StatsdReceiver) -> None:
    flora.order_fault("status", status=402, code="insufficient_credits", operation="startTechniqueRun")
    with pytest.raises(FloraError):
        life_of(still()).run()
    assert counts(statsd) == {}
    assert statsd.counts()["flora.requests,operation=startTechniqueRun,status=402"] == 1


def test_each_429_is_counted_for_its_connection(
    flora: Emulator, connect: Callable[..., None], statsd: StatsdReceiver
) -> None:
    connect(flora, max_retries=3)
    flora.order_fault("status", status=429, operation="getTechnique", times=2)
    life_of(still()).run()
    assert statsd.counts("flora.rate_limited") == {"flora.rate_limited,conn_id=flora_default": 2}
    assert statsd.counts()["flora.requests,operation=getTechnique,status=429"] == 2


# --- a batch --------------------------------------------------------------------------------------------------


@pytest.fixture
def batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., TaskLife]:
    """Makes the life of a batch of five rows."""
    monkeypatch.setattr(running, "TICK", 0.05)
    monkeypatch.setattr(running, "RETRY_ROW_LATER", 0.1)
    rows = [{"sku": f"cup-{number}", "prompt": f"a cup, number {number}"} for number in range(1, 6)]
    return lambda **given: batch_of(rows, tmp_path, **{"technique_id": "editorial-still", "row_id": "sku", **given})


ALL_ROWS = {STARTED: 5, COMPLETED: 5, COST: 5 * PRICE}


def test_each_row_of_a_batch_is_counted(
    flora: Emulator, batch: Callable[..., TaskLife], statsd: StatsdReceiver
) -> None:
    batch().run()
    assert counts(statsd) == ALL_ROWS
    assert len(statsd.values("flora.wait.seconds")) == 5
    batch().run()
    assert counts(statsd) == ALL_ROWS  # the second night reuses all of them


def test_a_deferred_batch_counts_as_one_that_waits(
    flora: Emulator, batch: Callable[..., TaskLife], statsd: StatsdReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "IDLE_SECONDS", 0.1)
    flora.order_fault("slow_run", seconds=0.6, times=None)
    flora.order_fault("fail_run", error_code="SERVER_ERROR", contains="number 4", times=1)
    life = batch(deferrable=True, max_active_runs=2)
    life.run()
    assert len(life.events) >= 2
    assert counts(statsd) == {**ALL_ROWS, STARTED: 6, f"{FAILED},remedy=retry_now": 1}


def test_a_row_that_is_run_again_has_a_failed_run_and_a_completed_one(
    flora: Emulator, batch: Callable[..., TaskLife], statsd: StatsdReceiver
) -> None:
    flora.order_fault("fail_run", error_code="SERVER_ERROR", contains="number 4", times=2)
    batch().run()
    assert counts(statsd) == {**ALL_ROWS, STARTED: 7, f"{FAILED},remedy=retry_now": 2}


def test_a_retry_of_a_batch_counts_no_row_again(
    flora: Emulator, batch: Callable[..., TaskLife], statsd: StatsdReceiver
) -> None:
    flora.order_fault("fail_run", error_code="SERVER_ERROR", contains="number 4", times=1)
    life = batch(row_retries=0)
    with pytest.raises(FloraError):
        life.run()
    first = {STARTED: 5, COMPLETED: 4, COST: 4 * PRICE, f"{FAILED},remedy=retry_now": 1}
    assert counts(statsd) == first
    life.run()
    assert counts(statsd) == {**first, STARTED: 6, COMPLETED: 5, COST: 5 * PRICE}


@pytest.mark.parametrize(("place", "after"), [("_finish", False), ("_note", True), ("_save", False)])
def test_what_a_killed_batch_has_not_stored_is_counted_by_the_next_attempt(
    flora: Emulator,
    batch: Callable[..., TaskLife],
    statsd: StatsdReceiver,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    after: bool,
) -> None:
    life = batch()
    with monkeypatch.context() as patch:
        if place != "_save":
            patch.setattr(running.Running, "_save", lambda self: None)  # a killed process stores nothing more
        kill_once(patch, running.Running, place, after=after)
        with pytest.raises((Killed, FloraError)):
            life.run()
    life.run()
    assert len(flora.ledger()["runs"]) == 5
    assert counts(statsd) == ALL_ROWS


def test_a_charge_that_is_late_is_counted_once(
    connect: Callable[..., None],
    batch: Callable[..., TaskLife],
    statsd: StatsdReceiver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(waiting, "COST_GRACE", 60.0)
    with Emulator(run_seconds=0.05, cost_lag=1.0) as flora:
        connect(flora)
        batch().run()
    assert counts(statsd) == ALL_ROWS


def test_a_row_that_is_brought_home_again_is_not_charged_again(
    flora: Emulator, batch: Callable[..., TaskLife], statsd: StatsdReceiver, tmp_path: Path
) -> None:
    given = {"download_to": str(tmp_path / "files"), "file_name": "{sku}-{output_id}.{ext}"}
    batch(**given).run()
    (tmp_path / "files" / "cup-3-still.png").unlink()
    batch(**given).run()
    assert counts(statsd) == ALL_ROWS


def test_a_batch_shows_no_gauges(flora: Emulator, batch: Callable[..., TaskLife], statsd: StatsdReceiver) -> None:
    batch().run()
    assert not [sample for sample in statsd.samples if sample.kind == "g"]
