"""A budget of a DAG run, through whole tasks and an emulated Flora: what is paid, what a person is told."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_flora.airflow_compat import AirflowFailException, AirflowSkipException, TaskDeferred
from airflow_provider_flora.api.errors import FloraBudgetError, FloraError
from airflow_provider_flora.batch import read_manifest, running
from airflow_provider_flora.decorators.flora import flora_technique
from airflow_provider_flora.emulator import Emulator
from airflow_provider_flora.hooks.flora import FloraHook
from airflow_provider_flora.plugins import late_shares
from airflow_provider_flora.runs import dag_run_budget
from airflow_provider_flora.runs.record import Record, adopt
from airflow_provider_flora.task.state import RUN, SHARE
from tests.unit.operators.fake_task import HAS_STATE_STORE, FakeStore, TaskLife
from tests.unit.operators.still import MODES, batch_of, life_of, posts_to, still
from tests.unit.runs.dag_run_of_tasks import SharedRun, SharingInstance, quick_budgets  # noqa: F401

pytestmark = pytest.mark.usefixtures("quick", "quick_budgets")
PRICE = 0.09
"""USD of a run of editorial-still."""
needs_store = pytest.mark.skipif(not HAS_STATE_STORE, reason="this Airflow has no task state store")


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "TICK", 0.05)
    monkeypatch.setattr(
        dag_run_budget, "states_of_tasks", lambda ti, task_ids: ti.shared.states_of_tasks(ti, task_ids)
    )


class SharingLife(TaskLife):
    """The life of a task instance whose XComs the other tasks of its DAG run can read."""

    shared: SharedRun

    def context(self, *, next_try: bool = True, task: Any = None) -> dict[str, Any]:
        context = super().context(next_try=next_try, task=task)
        self.shared.delete_xcoms(self.operator.task_id, self.map_index)
        instance = SharingInstance(
            self.shared,
            self.operator.task_id,
            self.map_index,
            try_number=self.try_number,
            max_tries=self.max_tries,
        )
        context.update(ti=instance, task_instance=instance, dag=self.shared.dag)
        return context


def lives_of(*operators: Any, **given: Any) -> list[SharingLife]:
    """The lives of the tasks of one DAG run."""
    shared = SharedRun(*operators)
    return [sharing(life_of(operator, **given), shared) for operator in operators]


def sharing(life: Any, shared: SharedRun) -> SharingLife:
    life.__class__ = SharingLife
    life.shared = shared
    return life  # type: ignore[no-any-return]


def two(limit: float, **given: Any) -> list[SharingLife]:
    names = ("first", "second")
    return lives_of(*(still(task_id=name, max_dag_run_cost=limit, **given) for name in names))


@MODES
def test_no_run_is_started_that_would_exceed_the_limit_and_the_error_names_what_was_spent(
    flora: Emulator, deferrable: bool
) -> None:
    first, second = two(1.5 * PRICE, deferrable=deferrable)
    first.run()
    with pytest.raises(
        AirflowFailException, match=r"costs 0\.09 USD.*first 0\.09.*max_dag_run_cost=0\.135"
    ) as caught:
        second.run()
    assert isinstance(caught.value, FloraBudgetError)
    assert posts_to(flora) == 1
    assert second.shared.registers() == {"first": (0.0, PRICE, 0.0), "second": (0.0, 0.0, 0.0)}


def test_a_refused_task_is_skipped_if_it_is_to_be_with_the_same_words(flora: Emulator) -> None:
    first, second = two(PRICE, on_budget="skip")
    first.run()
    with pytest.raises(AirflowSkipException, match=r"first 0\.09"):
        second.run()
    assert posts_to(flora) == 1


def test_a_deferred_task_that_resumes_is_not_asked_again(flora: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    (task,) = lives_of(still(max_dag_run_cost=PRICE, deferrable=True))
    monkeypatch.setattr(type(task.operator), "_finishes_soon", lambda *_: False)
    operator = copy.deepcopy(task.operator)
    context = task.context(task=operator)
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(context)
    event = task.wait_in_triggerer(deferred.value)
    # Whatever the others have spent since.
    register = {"task_id": "other", "map_index": -1, "before": 9.0, "reserved": 0.0, "asked": 0.0}
    SharingInstance(task.shared, "other").xcom_push(dag_run_budget.REGISTER_KEY, register)
    before = task.shared.registers()
    resumed = copy.deepcopy(task.operator)
    context["task"] = resumed
    assert resumed.execute_complete(context, event=event)["status"] == "completed"
    assert task.shared.registers() == before
    assert posts_to(flora) == 1


def test_a_run_is_handed_over_though_the_budget_cannot_be_read_when_its_task_resumes(
    flora: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    (task,) = lives_of(still(max_dag_run_cost=PRICE, deferrable=True))
    monkeypatch.setattr(type(task.operator), "_finishes_soon", lambda *_: False)
    monkeypatch.setattr(dag_run_budget, "WRITE_FOR", 0.1)
    operator = copy.deepcopy(task.operator)
    context = task.context(task=operator)
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(context)
    event = task.wait_in_triggerer(deferred.value)

    def away(**_: Any) -> Any:
        raise OSError("the API server is away")

    monkeypatch.setattr(context["ti"], "xcom_pull", away)
    resumed = copy.deepcopy(task.operator)
    context["task"] = resumed
    assert resumed.execute_complete(context, event=event)["status"] == "completed"
    assert task.shared.registers() == {"still": (0.0, PRICE, 0.0)}


@needs_store
def test_a_run_that_is_taken_up_is_not_asked_for(flora: Emulator) -> None:
    flora.order_fault("stall_run")
    (task,) = lives_of(still(max_dag_run_cost=PRICE, timeout=0.2))
    with pytest.raises(FloraError):
        task.run()
    task.operator.max_dag_run_cost = 0.0  # which allows nothing
    with pytest.raises(FloraError, match="did not finish"):
        task.run()
    assert posts_to(flora) == 1
    assert task.shared.registers() == {"still": (0.0, PRICE, 0.0)}


@needs_store
def test_a_run_that_failed_leaves_its_share_to_the_one_in_its_place(flora: Emulator) -> None:
    flora.order_fault("fail_run", error_code="GENERATION_FAILED")
    first, second = two(PRICE)
    with pytest.raises(FloraError):
        first.run()
    with pytest.raises(FloraBudgetError):
        second.run()
    assert first.run()["status"] == "completed"
    assert posts_to(flora) == 2


@needs_store
def test_a_share_that_others_could_not_see_is_asked_for_again_before_the_next_start(flora: Emulator) -> None:
    flora.order_fault("fail_run", error_code="GENERATION_FAILED")
    first, second = two(PRICE)
    with pytest.raises(FloraError):
        first.run()
    # Its next try dies before it has written its register, and a person marks it as success.
    first.shared.delete_xcoms("first")
    first.shared.states["first", -1] = "success"
    second.run()
    with pytest.raises(FloraBudgetError) as refused:
        first.run()
    assert "costs 0.09 USD" in str(refused.value)
    assert "have spent or reserved 0.09 USD: second 0.09. Together" in str(refused.value)
    assert posts_to(flora) == 2
    assert first.shared.registers() == {"first": (0.0, 0.0, 0.0), "second": (0.0, PRICE, 0.0)}


def fail_early(task: SharingLife) -> None:
    """Fail a try before the operator is asked anything, as Airflow does if a template cannot be rendered."""
    context = task.context()
    context["task"] = task.operator
    task.shared.states[task.operator.task_id, task.map_index] = "failed"
    RuntimeTaskInstance = type(  # noqa: N806  as Airflow names it
        "RuntimeTaskInstance", (), {"task": task.operator, "get_template_context": lambda self: context}
    )
    late_shares.on_task_instance_failed(task_instance=RuntimeTaskInstance())


@needs_store
def test_what_a_mapped_instance_has_spent_counts_though_its_next_try_fails_early(
    flora: Emulator,
) -> None:
    shared = SharedRun(picture := still(task_id="picture", max_dag_run_cost=3 * PRICE))
    first, second, third = (sharing(life_of(picture, map_index=index), shared) for index in range(3))
    first.run()
    first.clear()
    first.run()
    first.clear()
    fail_early(first)
    second.run()
    with pytest.raises(FloraBudgetError, match=r"picture\[0\] 0\.18"):
        third.run()
    assert posts_to(flora) == 3


@needs_store
def test_a_task_that_failed_before_it_began_holds_nobody_back(flora: Emulator) -> None:
    first, second = two(PRICE)
    fail_early(first)
    assert second.run()["status"] == "completed"
    before = first.shared.registers()
    fail_early(second)  # which deletes its register
    assert second.shared.registers() == before


@needs_store
def test_a_task_that_failed_later_has_said_what_it_asks_for(flora: Emulator) -> None:
    (task,) = lives_of(still(max_dag_run_cost=PRICE))
    context = task.context()
    register = {"task_id": "still", "map_index": -1, "before": 0.0, "reserved": 0.09, "asked": 0.0}
    context["ti"].xcom_push(dag_run_budget.REGISTER_KEY, register)
    dag_run_budget.Share.begin_late({**context, "task": task.operator}, task.operator.log)
    assert task.shared.registers() == {"still": (0.0, 0.09, 0.0)}


@MODES
def test_a_run_that_failed_for_good_gives_its_share_back(flora: Emulator, deferrable: bool) -> None:
    flora.order_fault("fail_run", error_code="GENERATION_PROMPT_MODERATED")
    first, second = two(PRICE, deferrable=deferrable)
    with pytest.raises(AirflowFailException):
        first.run()
    assert first.shared.registers() == {"first": (0.0, 0.0, 0.0)}
    assert second.run()["status"] == "completed"


@needs_store
def test_a_run_that_failed_in_the_last_try_gives_its_share_back(flora: Emulator) -> None:
    first, second = two(PRICE)
    flora.order_fault("fail_run", error_code="GENERATION_FAILED", times=first.max_tries + 1)
    for _ in range(first.max_tries):
        with pytest.raises(FloraError):
            first.run()
        with pytest.raises(FloraBudgetError):
            second.run()
    with pytest.raises(FloraError):
        first.run()
    assert second.run()["status"] == "completed"
    first.clear()
    with pytest.raises(FloraBudgetError, match=r"second 0\.09"):
        first.run()


def test_a_start_that_flora_refuses_gives_its_share_back(flora: Emulator) -> None:
    flora.order_fault("status", operation="startTechniqueRun", status=403, code="forbidden")
    first, second = two(PRICE)
    with pytest.raises(FloraError):
        first.run()
    assert first.shared.registers() == {"first": (0.0, 0.0, 0.0)}
    assert second.run()["status"] == "completed"


@needs_store
def test_a_clear_of_a_task_that_succeeded_asks_for_another_run_in_addition(flora: Emulator) -> None:
    (task,) = lives_of(still(max_dag_run_cost=1.5 * PRICE))
    task.run()
    task.clear()
    with pytest.raises(FloraBudgetError, match=r"still 0\.09"):
        task.run()
    assert posts_to(flora) == 1
    assert task.shared.registers() == {"still": (PRICE, 0.0, 0.0)}


@needs_store
def test_a_run_that_was_paid_counts_though_a_person_names_a_failed_one_in_its_place(flora: Emulator) -> None:
    flora.order_fault("fail_run", error_code="GENERATION_PROVIDER_TIMEOUT")
    failed = FloraHook().start_technique_run("editorial-still", {"prompt": "a cup"})
    (task,) = lives_of(still(max_dag_run_cost=1.5 * PRICE))
    task.run()
    task.operator.adopt_run_id = failed.run_id
    with pytest.raises(FloraError):
        task.run()
    task.operator.adopt_run_id = None
    task.clear()
    with pytest.raises(FloraBudgetError, match=r"still 0\.09"):
        task.run()
    assert posts_to(flora) == 2


def adopt_by_command(task: SharingLife, run_id: str) -> None:
    """Do what `airflow flora adopt` does to the task's store."""
    assert task.store is not None
    earlier = Record.from_plain(task.store.get(RUN))
    blank = Record(technique_id="editorial-still", max_tries=task.max_tries, clear_number=task.clear_number)
    record = adopt(run_id, earlier, blank)
    task.store.set(SHARE, dag_run_budget.share_after(task.store.get(SHARE), earlier, record))
    task.store.set(RUN, record.to_plain())


@needs_store
@pytest.mark.parametrize("error_code", ["GENERATION_PROVIDER_TIMEOUT", "MODERATION_FAILED"])
def test_a_run_that_was_paid_counts_though_a_command_names_one_that_fails_in_its_place(
    flora: Emulator, error_code: str
) -> None:
    (task,) = lives_of(still(max_dag_run_cost=1.5 * PRICE))
    task.run()
    flora.order_fault("fail_run", error_code=error_code)
    other = FloraHook().start_technique_run("editorial-still", {"prompt": "a cup"})
    adopt_by_command(task, other.run_id)
    task.clear()
    with pytest.raises((FloraError, AirflowFailException)):
        task.run()
    task.clear()
    with pytest.raises(FloraBudgetError, match=r"still 0\.09"):
        task.run()
    assert posts_to(flora) == 2


@needs_store
def test_a_start_without_an_answer_counts_though_the_run_that_is_named_in_its_place_fails(flora: Emulator) -> None:
    task, other = two(1.5 * PRICE)
    flora.order_fault("reset", when="after", operation="startTechniqueRun", times=None)
    with pytest.raises(FloraError):
        task.run()
    flora.clear_faults()
    flora.order_fault("fail_run", error_code="MODERATION_FAILED")
    named = FloraHook().start_technique_run("editorial-still", {"prompt": "a cup"})
    adopt_by_command(task, named.run_id)
    with pytest.raises((FloraError, AirflowFailException)):
        task.run()
    with pytest.raises(FloraBudgetError, match=r"first 0\.09"):
        other.run()


def test_a_task_without_a_limit_counts_too(flora: Emulator) -> None:
    limited, free = lives_of(still(task_id="limited", max_dag_run_cost=PRICE), still(task_id="free"))
    free.run()
    with pytest.raises(FloraBudgetError, match=r"free 0\.09"):
        limited.run()


def test_a_function_that_makes_the_inputs_is_called_when_its_task_has_said_what_it_spends(flora: Emulator) -> None:
    said = []

    def inputs() -> dict[str, str]:
        said.append(task.shared.registers())
        return {"prompt": "a cup"}

    made = flora_technique(technique_id="editorial-still", max_dag_run_cost=PRICE, poll_interval=0.05)(inputs)
    (task,) = lives_of(made().operator)
    task.run()
    assert said == [{"inputs": (0.0, 0.0, 0.0)}]


@pytest.mark.parametrize("limit", ["much", None, "nan"])
def test_a_limit_that_cannot_be_read_stops_the_task(flora: Emulator, limit: Any) -> None:
    task, _ = two(1.0)
    task.operator.max_dag_run_cost = limit
    with pytest.raises(AirflowFailException, match="max_dag_run_cost takes a number"):
        task.run()
    assert posts_to(flora) == 0


def test_a_choice_that_is_none_is_refused_when_the_dag_is_parsed() -> None:
    with pytest.raises(ValueError, match="on_budget takes 'fail' or 'skip'"):
        still(on_budget="ignore")


@needs_store
def test_a_task_of_a_dag_without_a_budget_stores_nothing_for_it(flora: Emulator) -> None:
    store = FakeStore()
    task = life_of(still(), store=store)
    task.run()
    assert "flora_share" not in store.rows
    assert dag_run_budget.REGISTER_KEY not in task.ti.xcoms


# --- batches ----------------------------------------------------------------------------------------------


@pytest.fixture
def batch(tmp_path: Path) -> Callable[..., SharingLife]:
    def make(rows: int, shared: SharedRun | None = None, **given: Any) -> SharingLife:
        table = [{"sku": f"cup-{number}", "prompt": f"a cup, number {number}"} for number in range(rows)]
        life = batch_of(table, tmp_path, technique_id="editorial-still", row_id="sku", **given)
        shared = shared or SharedRun()
        shared.dag.task_dict[life.operator.task_id] = life.operator
        return sharing(life, shared)

    return make


Batch = Callable[..., SharingLife]


def test_a_batch_asks_for_all_its_rows_and_is_charged_for_those_that_ran(flora: Emulator, batch: Batch) -> None:
    flora.order_fault("fail_run", error_code="GENERATION_PROMPT_MODERATED", times=1)
    task = batch(4, max_dag_run_cost=4 * PRICE, max_failed_rows=1)
    assert task.run()["failed"] == 1
    assert task.shared.registers() == {"stills": (0.0, pytest.approx(3 * PRICE), 0.0)}


def test_a_batch_that_is_refused_starts_nothing_and_its_rows_say_why(flora: Emulator, batch: Batch) -> None:
    task = batch(4, max_dag_run_cost=3.5 * PRICE)
    with pytest.raises(FloraBudgetError, match=r"4 rows cost 0\.36 USD") as caught:
        task.run()
    assert isinstance(caught.value, AirflowFailException)
    assert posts_to(flora) == 0
    lines = list(read_manifest(task.operator.manifest))
    assert {line["error"]["code"] for line in lines} == {"max_dag_run_cost"}
    assert task.shared.registers() == {"stills": (0.0, 0.0, 0.0)}


def test_a_batch_that_is_refused_is_skipped_if_it_is_to_be(flora: Emulator, batch: Batch) -> None:
    with pytest.raises(AirflowSkipException, match="max_dag_run_cost"):
        batch(4, max_dag_run_cost=PRICE, on_budget="skip").run()
    assert posts_to(flora) == 0


def test_a_retry_of_a_batch_asks_for_the_rows_that_are_left(flora: Emulator, batch: Batch) -> None:
    flora.order_fault("fail_run", error_code="GENERATION_FAILED", times=1)
    task = batch(3, max_dag_run_cost=3 * PRICE, row_retries=0)
    with pytest.raises(FloraError):
        task.run()
    assert task.shared.registers() == {"stills": (0.0, pytest.approx(2 * PRICE), 0.0)}
    assert task.run()["completed"] == 3
    assert posts_to(flora) == 4
    assert task.shared.registers() == {"stills": (0.0, pytest.approx(3 * PRICE), 0.0)}


def test_a_batch_and_a_single_run_count_together(flora: Emulator, batch: Batch) -> None:
    (single,) = lives_of(still(task_id="single", max_dag_run_cost=3 * PRICE))
    single.run()
    with pytest.raises(FloraBudgetError, match=r"single 0\.09"):
        batch(3, single.shared, max_dag_run_cost=3 * PRICE).run()
    assert batch(2, single.shared, max_dag_run_cost=3 * PRICE).run()["completed"] == 2


def test_a_batch_that_resumes_goes_on_within_what_it_was_granted(
    flora: Emulator, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "IDLE_SECONDS", 0.0)
    task = batch(4, max_dag_run_cost=4 * PRICE, max_active_runs=2, deferrable=True)
    assert task.run()["completed"] == 4
    assert task.events
    assert task.shared.registers() == {"stills": (0.0, pytest.approx(4 * PRICE), 0.0)}


@needs_store
@pytest.mark.parametrize("on_budget", ["fail", "skip"])
def test_a_batch_that_was_refused_and_waits_for_its_runs_says_so_when_it_resumes(
    flora: Emulator, batch: Batch, monkeypatch: pytest.MonkeyPatch, on_budget: str
) -> None:
    flora.order_fault("slow_run", seconds=9, times=2)
    given = {"max_active_runs": 2, "on_budget": on_budget}
    task = batch(4, max_dag_run_cost=4 * PRICE, timeout=30.0, **given)

    def late_once_two_are_active() -> float:
        return time.time() + 60 * (posts_to(flora) == 2)

    with monkeypatch.context() as patch:
        patch.setattr(running, "time", SimpleNamespace(monotonic=time.monotonic, time=late_once_two_are_active))
        with pytest.raises(FloraError, match="were not over"):
            task.run()
    monkeypatch.setattr(running, "IDLE_SECONDS", 0.0)
    task.operator.deferrable, task.operator.timeout = True, 60.0
    task.operator.max_dag_run_cost = 2 * PRICE
    error = AirflowSkipException if on_budget == "skip" else AirflowFailException
    with pytest.raises(error, match=r"2 rows cost 0\.18 USD"):
        task.run()
    assert task.events
    assert posts_to(flora) == 2
    assert {line["status"] for line in read_manifest(task.operator.manifest)} == {"completed", "skipped"}


def test_a_price_that_rises_while_a_batch_runs_does_not_exceed_what_it_was_granted() -> None:
    from airflow_provider_flora.batch.money import Budget

    budget, technique = Budget("still", None, None), SimpleNamespace(run_cost=0.1)
    budget.granted = 0.25
    budget.reserve("one", technique)  # type: ignore[arg-type]
    technique.run_cost = 0.2
    with pytest.raises(FloraBudgetError, match=r"0\.30 USD would be spent, more than the 0\.25 USD") as caught:
        budget.reserve("two", technique)  # type: ignore[arg-type]
    assert caught.value.remedy.retryable
    assert budget.is_spent
