"""A connection's limits, as tasks and batches meet them: nothing is started, and nothing that runs is lost."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_flora import airflow_compat
from airflow_provider_flora.airflow_compat import AirflowFailException, TaskDeferred
from airflow_provider_flora.api.errors import (
    FloraAPIError,
    FloraCreditsError,
    FloraError,
    FloraLimitError,
    FloraRunFailedError,
)
from airflow_provider_flora.api.settings import ClientSettings
from airflow_provider_flora.batch import running
from airflow_provider_flora.cli.main import main
from airflow_provider_flora.emulator import Emulator
from airflow_provider_flora.hooks.flora import FloraHook
from airflow_provider_flora.runs import catchups, limits, shared_files
from airflow_provider_flora.runs.catchups import CatchupRuns
from airflow_provider_flora.task.attempt import Attempt
from airflow_provider_flora.task.catchup import MEANT_TAG, catchup_of
from tests.unit.forks import CONTEXT
from tests.unit.operators.fake_task import HAS_STATE_STORE, TaskLife
from tests.unit.operators.still import MODES, batch_of, life_of, posts_to, still

pytestmark = pytest.mark.usefixtures("quick")
EMPTY = "insufficient_credits"
ROWS = [{"sku": f"cup-{number}", "prompt": f"a cup, number {number}"} for number in range(1, 6)]


@pytest.fixture(autouse=True)
def _quick_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "TICK", 0.05)


@pytest.fixture
def noon(connect: Callable[..., None]) -> Iterator[Emulator]:
    """A Flora by whose clock it is noon. What runs cost is known at once."""
    skew = 43_200 - time.time() % 86_400
    with Emulator(seed=0, run_seconds=0.05, cost_lag=0, clock_skew=skew) as flora:
        yield flora


def batch(folder: Path, **given: Any) -> TaskLife:
    return batch_of(ROWS, folder, **{"technique_id": "editorial-still", "row_id": "sku", **given})


def make_old(folder: Path, kind: str, seconds: float) -> None:
    for file in folder.glob(f"*.{kind}"):
        before = file.stat().st_mtime - seconds
        content = json.loads(file.read_text())
        for name in ("read_at", "posted_at"):
            if name in content:
                content[name] -= seconds
        file.write_text(json.dumps(content))
        os.utime(file, (before, before))


# --- max_daily_cost ---------------------------------------------------------------------------------------


@MODES
def test_a_day_that_would_cost_more_than_its_limit_starts_nothing(
    noon: Emulator, connect: Callable[..., None], kept_techniques: Path, deferrable: bool
) -> None:
    connect(noon, max_daily_cost=0.2)
    for _ in range(2):
        assert life_of(still(deferrable=deferrable)).run()["status"] == "completed"
        make_old(kept_techniques, "daily", 61)
    life = life_of(still(deferrable=deferrable))
    with pytest.raises(
        AirflowFailException, match=r"would cost 0\.27 USD, more than max_daily_cost=0\.2 USD"
    ) as caught:
        life.run()
    assert isinstance(caught.value, FloraLimitError)
    assert life.ti.xcoms["flora_error"]["kind"] == "limit"
    assert life.ti.xcoms["flora_error"]["details"]["limit_name"] == "max_daily_cost"
    assert posts_to(noon) == 2


def test_the_hook_and_the_command_line_keep_the_days_limit_too(
    noon: Emulator, connect: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    connect(noon, max_daily_cost=0.1)
    FloraHook().start_technique_run("editorial-still", {"prompt": "a cup"})
    connect(noon, max_daily_cost=0.08)
    with pytest.raises(FloraLimitError, match=r"max_daily_cost=0\.08"):
        FloraHook().start_technique_run("editorial-still", {"prompt": "a cup"})
    given = ["start", "editorial-still", "-i", "prompt=a cup", "--yes", "--conn-id", "flora_default"]
    assert main(given) == 1
    assert "max_daily_cost=0.08 USD of the connection 'flora_default'" in " ".join(capsys.readouterr().err.split())
    assert posts_to(noon) == 1


def test_within_a_minute_of_a_reading_it_may_be_exceeded(noon: Emulator, connect: Callable[..., None]) -> None:
    connect(noon, max_daily_cost=0.1)
    for _ in range(3):
        life_of(still()).run()
    assert noon.ledger()["requests"]["listTechniqueRuns"] == 1


@pytest.mark.skipif(not HAS_STATE_STORE, reason="without a task state store, no record says that a run is there")
def test_a_run_that_is_there_is_taken_up_whatever_the_day_has_cost(
    noon: Emulator, connect: Callable[..., None], kept_techniques: Path
) -> None:
    connect(noon, max_daily_cost=0.1)
    operator = still(deferrable=True)
    life = life_of(operator)
    operator._finishes_soon = lambda *_: False
    with pytest.raises(TaskDeferred):
        operator.execute(life.context())
    make_old(kept_techniques, "daily", 61)
    assert life_of(operator, store=life.store).run()["status"] == "completed"
    assert posts_to(noon) == 1


@pytest.mark.skipif(not HAS_STATE_STORE, reason="without a task state store, each retry looks in the history")
def test_a_start_whose_answer_was_lost_is_sent_again_whatever_the_day_has_cost(
    noon: Emulator, connect: Callable[..., None], kept_techniques: Path
) -> None:
    connect(noon, max_daily_cost=0.1)
    noon.order_fault("reset", operation="startTechniqueRun", when="after")
    life = life_of(still())
    with pytest.raises(FloraError):
        life.run()
    make_old(kept_techniques, "daily", 61)
    assert life.run()["status"] == "completed"
    assert noon.ledger()["started_runs"] == 1


def test_a_history_that_cannot_be_read_starts_nothing_until_it_can(
    noon: Emulator, connect: Callable[..., None]
) -> None:
    connect(noon, max_daily_cost=10)
    noon.order_fault("status", status=500, code="internal_error", operation="listTechniqueRuns")
    life = life_of(still())
    with pytest.raises(FloraLimitError, match="cannot be read") as caught:
        life.run()
    assert not isinstance(caught.value, AirflowFailException)
    assert posts_to(noon) == 0
    assert life.run()["status"] == "completed"


def test_a_batch_that_meets_the_limit_starts_no_further_row_and_brings_home_what_runs(
    noon: Emulator, connect: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow_provider_flora.runs import daily_cost

    monkeypatch.setattr(daily_cost, "READ_EVERY", -3.0)  # each row reads
    connect(noon, max_daily_cost=0.2)
    life = batch(tmp_path)
    with pytest.raises(AirflowFailException, match=r"max_daily_cost=0\.2 USD"):
        life.run()
    value = life.ti.xcoms["flora_batch_value"]
    assert (value["completed"], value["skipped"], value["failed"]) == (2, 3, 0)
    assert posts_to(noon) == 2
    connect(noon, max_daily_cost=10)
    life.clear()
    assert life.run()["completed"] == 5
    assert posts_to(noon) == 5


# --- credits ----------------------------------------------------------------------------------------------


def empty(flora: Emulator, **order: Any) -> None:
    flora.order_fault(
        "status", **{"status": 402, "code": EMPTY, "operation": "startTechniqueRun", "times": None, **order}
    )


def test_a_refused_start_is_a_credits_error_and_an_api_error(flora: Emulator) -> None:
    empty(flora)
    with pytest.raises(FloraCreditsError) as caught:
        life_of(still()).run()
    assert isinstance(caught.value, (FloraAPIError))
    assert isinstance(caught.value, AirflowFailException)
    assert (caught.value.status, caught.value.code) == (402, EMPTY)


@MODES
@pytest.mark.parametrize("code", ["BILLING_NOT_ENOUGH_CREDITS", "BILLING_OF_TOMORROW", "GENERATION_NOT_PAID"])
def test_a_run_that_fails_for_want_of_credits_is_one_too(flora: Emulator, code: str, deferrable: bool) -> None:
    flora.order_fault("fail_run", error_code=code, error_message="Empty.")
    with pytest.raises(FloraCreditsError) as caught:
        life_of(still(deferrable=deferrable)).run()
    assert isinstance(caught.value, FloraRunFailedError)
    assert isinstance(caught.value, AirflowFailException)
    assert "Top up the workspace's credits" in str(caught.value)


def test_the_next_tasks_fail_with_the_same_words_without_asking(flora: Emulator) -> None:
    empty(flora)
    with pytest.raises(FloraCreditsError) as first:
        life_of(still()).run()
    for _ in range(3):
        life = life_of(still())
        with pytest.raises(AirflowFailException) as caught:
            life.run()
        assert isinstance(caught.value, FloraCreditsError)
        assert caught.value.code == EMPTY
        assert str(first.value) in str(caught.value)
        assert "Another task on this machine was told so" in str(caught.value)
        assert life.ti.xcoms["flora_error"]["kind"] == "credits"
    assert posts_to(flora) == 1


@MODES
def test_they_do_so_after_a_run_has_failed_too(flora: Emulator, deferrable: bool) -> None:
    flora.order_fault("fail_run", error_code="BILLING_NOT_ENOUGH_CREDITS")
    with pytest.raises(FloraRunFailedError):
        life_of(still(deferrable=deferrable)).run()
    with pytest.raises(FloraCreditsError, match="Another task on this machine"):
        life_of(still()).run()
    assert posts_to(flora) == 1


def test_after_three_minutes_they_ask_again(flora: Emulator, kept_techniques: Path) -> None:
    empty(flora)
    for requests in (1, 2):
        with pytest.raises(FloraAPIError):
            life_of(still()).run()
        assert posts_to(flora) == requests
        make_old(kept_techniques, "credits", 181)


def test_a_cleared_task_asks_again_and_a_start_that_succeeds_ends_the_notice(flora: Emulator) -> None:
    empty(flora, times=1)
    life = life_of(still())
    with pytest.raises(FloraCreditsError):
        life.run()
    with pytest.raises(FloraCreditsError):
        life_of(still()).run()
    life.clear()
    assert life.run()["status"] == "completed"
    assert life_of(still()).run()["status"] == "completed"
    assert posts_to(flora) == 3


def test_of_many_cleared_tasks_those_that_begin_after_an_answer_ask_and_the_others_do_not(flora: Emulator) -> None:
    empty(flora)
    lives = [life_of(still()) for _ in range(2)]
    for life in lives:
        with pytest.raises(FloraCreditsError):
            life.run()
        life.clear()
    contexts = [life.context() for life in lives]  # both attempts begin
    with pytest.raises(FloraAPIError):
        lives[0].operator.execute(contexts[0])
    with pytest.raises(FloraCreditsError, match="Another task on this machine"):
        lives[1].operator.execute(contexts[1])
    assert posts_to(flora) == 2


def test_another_key_is_not_told(flora: Emulator, connect: Callable[..., None]) -> None:
    empty(flora, times=1)
    with pytest.raises(FloraCreditsError):
        life_of(still()).run()
    flora.api_key = "sk_test_another"
    connect(flora)
    assert life_of(still()).run()["status"] == "completed"


def test_any_other_refusal_is_no_notice(flora: Emulator) -> None:
    flora.order_fault("status", status=403, code="paid_plan_required", operation="startTechniqueRun")
    with pytest.raises(FloraAPIError):
        life_of(still()).run()
    assert life_of(still()).run()["status"] == "completed"


def test_a_proxys_402_is_not_about_credits(flora: Emulator) -> None:
    flora.order_fault("html", status=402, operation="startTechniqueRun")
    with pytest.raises(FloraAPIError) as caught:
        life_of(still()).run()
    assert not isinstance(caught.value, FloraCreditsError)


def test_the_notice_does_not_hold_the_key(flora: Emulator, kept_techniques: Path) -> None:
    empty(flora)
    with pytest.raises(FloraCreditsError):
        life_of(still()).run()
    [file] = kept_techniques.glob("*.credits")
    assert flora.api_key not in f"{file} {file.read_text()}"


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"posted_at": "x"}'])
def test_a_notice_that_cannot_be_read_is_none(flora: Emulator, kept_techniques: Path, content: bytes) -> None:
    empty(flora, times=1)
    with pytest.raises(FloraCreditsError):
        life_of(still()).run()
    [file] = kept_techniques.glob("*.credits")
    file.write_bytes(content)
    assert life_of(still()).run()["status"] == "completed"


@pytest.mark.parametrize("by", ["start", "run"])
def test_a_batch_without_credits_starts_no_further_row_and_tells_other_tasks(
    flora: Emulator, tmp_path: Path, by: str
) -> None:
    if by == "start":
        empty(flora)
    else:
        flora.order_fault("fail_run", error_code="BILLING_NOT_ENOUGH_CREDITS", times=None)
    life = batch(tmp_path, max_active_runs=1)
    with pytest.raises(AirflowFailException) as caught:
        life.run()
    assert isinstance(caught.value, FloraCreditsError)
    assert life.ti.xcoms["flora_batch_value"]["skipped"] == (5 if by == "start" else 4)
    with pytest.raises(FloraCreditsError, match="Another task on this machine"):
        life_of(still()).run()
    assert posts_to(flora) == 1


# --- max_catchup_runs -------------------------------------------------------------------------------------


def of_dag_run(number: int, run_type: str, late: float) -> dict[str, Any]:
    began = datetime.now(timezone.utc)
    due = began - timedelta(seconds=late)
    interval = {"data_interval_start": due - timedelta(days=1), "data_interval_end": due}
    return {
        "run_id": f"{run_type}__{number}",
        "run_type": run_type,
        "start_date": began,
        "run_after": due,
        **interval,
    }


def scheduled(number: int, run_type: str = "scheduled", late: float = 86_400, **given: Any) -> TaskLife:
    life = life_of(still(), **given)
    life.of_dag_run = of_dag_run(number, run_type, late)
    return life


@pytest.mark.parametrize("run_type", ["scheduled", "backfill"])
def test_a_catchup_or_backfill_stops_after_so_many_dag_runs(
    flora: Emulator, connect: Callable[..., None], run_type: str
) -> None:
    connect(flora, max_catchup_runs=3)
    for number in range(3):
        assert scheduled(number, run_type).run()["status"] == "completed"
    for number in range(3, 6):
        life = scheduled(number, run_type)
        with pytest.raises(
            AirflowFailException, match="max_catchup_runs=3 of the connection 'flora_default'"
        ) as caught:
            life.run()
        assert isinstance(caught.value, FloraLimitError)
        assert "give it the tag 'flora-catchup-ok'" in str(caught.value)
    assert posts_to(flora) == 3


def test_a_person_who_clears_a_task_of_a_catchup_means_it(flora: Emulator, connect: Callable[..., None]) -> None:
    connect(flora, max_catchup_runs=1)
    scheduled(1).run()
    life = scheduled(2)
    with pytest.raises(FloraLimitError, match=r"alone, clear the task\.$"):
        life.run()
    life.clear()
    assert life.run()["status"] == "completed"


def test_a_backfill_that_processes_dag_runs_again_clears_their_tasks_and_is_stopped_too(
    flora: Emulator, connect: Callable[..., None], kept_techniques: Path
) -> None:
    lives = [scheduled(number, late=0) for number in range(3)]
    for life in lives:
        life.run()
        life.clear()
        life.of_dag_run["run_type"] = "backfill"
    connect(flora, max_catchup_runs=2)
    for life in lives[:2]:
        assert life.run()["status"] == "completed"
    with pytest.raises(FloraLimitError, match="clear the task 10 minutes later"):
        lives[2].run()
    make_old(kept_techniques, "catchups", 601)
    lives[2].clear()
    assert lives[2].run()["status"] == "completed"


def test_ten_is_the_default_and_ten_minutes_is_the_time(flora: Emulator, kept_techniques: Path) -> None:
    for number in range(10):
        scheduled(number).run()
    with pytest.raises(FloraLimitError):
        scheduled(10).run()
    [file] = kept_techniques.glob("*.catchups")
    counts = json.loads(file.read_text())
    [(task, times)] = counts.items()
    assert task == "a_dag/still"
    file.write_text(json.dumps({task: {name: at - 601 for name, at in times.items()}}))
    assert scheduled(11).run()["status"] == "completed"


@pytest.mark.parametrize(
    ("run_type", "late"), [("scheduled", 590), ("scheduled", 0), ("manual", 86_400), ("asset_triggered", 86_400)]
)
def test_ordinary_dag_runs_are_never_stopped(
    flora: Emulator, connect: Callable[..., None], run_type: str, late: float
) -> None:
    connect(flora, max_catchup_runs=1)
    for number in range(3):
        assert scheduled(number, run_type, late).run()["status"] == "completed"


def test_a_dag_that_says_it_means_it_is_not_stopped(flora: Emulator, connect: Callable[..., None]) -> None:
    connect(flora, max_catchup_runs=1)
    for number in range(3):
        life = scheduled(number)
        life.dag = SimpleNamespace(tags={MEANT_TAG}, task_dict={})
        assert life.run()["status"] == "completed"


@pytest.mark.skipif(not HAS_STATE_STORE, reason="a retry needs a record that its run failed")
def test_mapped_tasks_rows_and_retries_of_one_dag_run_count_once(
    flora: Emulator, connect: Callable[..., None], tmp_path: Path
) -> None:
    connect(flora, max_catchup_runs=1)
    for map_index in range(3):
        scheduled(1, map_index=map_index).run()
    flora.order_fault("fail_run", error_code="provider_error")
    life = scheduled(1)
    with pytest.raises(FloraRunFailedError):
        life.run()
    assert life.run()["status"] == "completed"
    rows = batch(tmp_path)
    rows.of_dag_run = of_dag_run(1, "backfill", 0)
    assert rows.run()["completed"] == 5


def test_each_task_is_counted_by_itself(flora: Emulator, connect: Callable[..., None]) -> None:
    connect(flora, max_catchup_runs=1)
    for number, task_id in enumerate(("one", "two")):
        life = life_of(still(task_id=task_id))
        life.of_dag_run = of_dag_run(number, "backfill", 0)
        assert life.run()["status"] == "completed"


@pytest.mark.skipif(not HAS_STATE_STORE, reason="without a task state store, no record says that a run is there")
def test_a_paid_run_of_a_catchup_is_taken_up(
    flora: Emulator, connect: Callable[..., None], kept_techniques: Path
) -> None:
    connect(flora, max_catchup_runs=1)
    life = scheduled(1)
    life.operator.deferrable = True
    life.operator._finishes_soon = lambda *_: False
    with pytest.raises(TaskDeferred):
        life.operator.execute(life.context())
    [file] = kept_techniques.glob("*.catchups")
    file.unlink()
    scheduled(2).run()
    assert life.run()["status"] == "completed"
    assert posts_to(flora) == 2


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b'{"a_dag/still": 3}', b'{"a_dag/still": {"x": "y"}}'])
def test_a_count_that_cannot_be_read_begins_anew(flora: Emulator, kept_techniques: Path, content: bytes) -> None:
    scheduled(1).run()
    [file] = kept_techniques.glob("*.catchups")
    file.write_bytes(content)
    assert scheduled(2).run()["status"] == "completed"
    assert list(json.loads(file.read_text())["a_dag/still"]) == ["scheduled__2"]


def count_in_process(folder: Path, numbers: list[int], start: float) -> int:
    shared_files.FOLDER = folder
    counted = CatchupRuns(ClientSettings("sk_test_x", "http://127.0.0.1:1"), 10, "flora_default")
    time.sleep(max(0.0, start - time.time()))
    passed = 0
    for number in numbers:
        attempt = Attempt("a_dag", f"run_{number}", "still", -1, 0.0, 0.0, 1, 0, 0.0, 0, 0.0)
        try:
            counted.check(attempt, "catchup")
        except FloraLimitError:
            continue
        passed += 1
    return passed


def test_tasks_of_a_machine_count_together_to_the_last_one(kept_techniques: Path) -> None:
    tasks = 4
    with CONTEXT.Pool(tasks) as pool:
        work = [(kept_techniques, list(range(one, 40, tasks)), time.time() + 3.0) for one in range(tasks)]
        assert sum(pool.starmap(count_in_process, work)) == 10


def test_where_airflow_has_no_run_after_the_interval_counts() -> None:
    began = datetime.now(timezone.utc)
    dag_run = SimpleNamespace(
        run_type=SimpleNamespace(value="scheduled"), start_date=began, data_interval_end=began - timedelta(hours=1)
    )
    context = {"dag_run": dag_run, "dag": SimpleNamespace(tags=["other"])}
    assert catchup_of(context) == "catchup"
    dag_run.data_interval_end = None
    assert catchup_of(context) is None


def test_the_lateness_of_a_catchup_is_the_time_in_which_it_is_counted() -> None:
    from airflow_provider_flora.task import catchup

    # Otherwise a DAG that is late, and starts as often as its schedule says, could be stopped.
    assert catchup.LATE_AFTER >= catchups.COUNTED_FOR


# --- tests of DAGs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_test", [True, False])
def test_a_test_of_a_dag_says_the_price_before_the_start(
    flora: Emulator,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    is_test: bool,
) -> None:
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(limits, "is_dag_test", lambda _: is_test)
    flora.order_fault("status", status=403, code="forbidden", operation="startTechniqueRun", times=None)
    for life, words in (
        (life_of(still()), f"starts 1 run of Editorial Still at {flora.base_url} and pays 0.09 USD"),
        (batch(tmp_path), f"starts 5 runs of Editorial Still at {flora.base_url} and pays 0.45 USD"),
    ):
        with pytest.raises(FloraError):
            life.run()
        said = "".join(capfd.readouterr()) + caplog.text
        assert (words in said) is is_test
        assert ("Each test pays again" in said) is is_test


def test_a_task_of_a_job_is_no_test_and_one_without_is(monkeypatch: pytest.MonkeyPatch) -> None:
    if airflow_compat.airflow_is_at_least(3, 0):
        from airflow.sdk.execution_time import supervisor, task_runner

        for comms, is_test in ((supervisor.InProcessSupervisorComms, True), (task_runner.CommsDecoder, False)):
            monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", comms.__new__(comms), raising=False)
            assert airflow_compat.is_dag_test(None) is is_test
        return
    for ti, is_test in (
        (SimpleNamespace(test_mode=False, job_id=7), False),
        (SimpleNamespace(test_mode=False, job_id=None), True),
        (SimpleNamespace(test_mode=True, job_id=7), True),
    ):
        assert airflow_compat.is_dag_test(ti) is is_test
