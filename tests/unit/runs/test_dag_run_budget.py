"""What the Flora tasks of a DAG run may spend together, asked by many at once."""

from __future__ import annotations

import logging
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_flora.api.errors import FloraBudgetError, FloraParameterError, FloraPriceError, Remedy
from airflow_provider_flora.runs import dag_run_budget
from airflow_provider_flora.runs.dag_run_budget import (
    REGISTER_KEY,
    Register,
    Share,
    Verdict,
    find_spenders,
    giving_back,
    judge,
)
from tests.unit.operators.fake_task import HAS_STATE_STORE, FakeStore
from tests.unit.runs.dag_run_of_tasks import SharedRun, SharingInstance, quick_budgets  # noqa: F401

LOG = logging.getLogger(__name__)
needs_store = pytest.mark.skipif(not HAS_STATE_STORE, reason="this Airflow has no task state store")


class Spender:
    """A task that starts runs, as far as a budget is concerned."""

    starts_runs = True

    def __init__(self, task_id: str, limit: float | None = 1.0, retries: int = 2) -> None:
        self.task_id = task_id
        self.max_dag_run_cost = limit
        self.retries = retries
        self.retry_delay = timedelta(0)


@pytest.fixture(autouse=True)
def here(quick_budgets: None, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    # A task instance of these tests knows its DAG run, and its states.
    monkeypatch.setattr(
        dag_run_budget, "states_of_tasks", lambda ti, task_ids: ti.shared.states_of_tasks(ti, task_ids)
    )


def share_of(shared: SharedRun, task_id: str, map_index: int = -1, *, store: Any = None, **attempt: Any) -> Share:
    instance = SharingInstance(shared, task_id, map_index, **attempt)
    share = Share.begin(instance.context(shared.dag.task_dict[task_id], store), LOG)
    assert share is not None
    return share


def resumed(shared: SharedRun, task_id: str) -> Share:
    share = Share.resume(SharingInstance(shared, task_id).context(shared.dag.task_dict[task_id]), LOG)
    assert share is not None
    return share


# --- judging ----------------------------------------------------------------------------------------------


def place(register: Register) -> int:
    return register.map_index


def asks(index: int, price: float, **held: Any) -> Register:
    return Register("still", index, asked=price, **held)


@pytest.mark.parametrize(
    ("others", "verdict"),
    [
        ([], Verdict.GRANTED),
        ([asks(0, 0.0, reserved=0.6)], Verdict.GRANTED),
        ([asks(0, 0.0, before=0.3, reserved=0.4)], Verdict.REFUSED),
        ([asks(0, 0.7)], Verdict.REFUSED),
        ([asks(9, 0.7)], Verdict.WAIT),
        ([asks(0, 1.1)], Verdict.WAIT),  # which is refused itself
        ([asks(0, 0.0, before=None)], Verdict.WAIT),
        ([asks(0, 0.0, before=None), asks(1, 0.0, reserved=0.7)], Verdict.REFUSED),
    ],
)
def test_a_price_is_granted_refused_or_waits_for_what_others_say(others: list[Register], verdict: Verdict) -> None:
    assert judge(1.0, asks(5, 0.4), others, place) is verdict


def test_a_limit_that_is_met_exactly_is_not_exceeded_by_the_error_of_floats() -> None:
    assert (
        judge(0.3, asks(2, 0.1), [asks(0, 0.0, reserved=0.1), asks(1, 0.0, reserved=0.1)], place) is Verdict.GRANTED
    )


class Model:
    """Tasks that take one step after the other: write, read, judge, act; or die and begin again.

    A try that begins anew has its register deleted first, and writes it again with the next step, while others see
    that it runs and has none.
    """

    def __init__(self, prices: list[float], limit: float) -> None:
        self.prices, self.limit = prices, limit
        self.registers: dict[int, Register] = {}
        self.read: dict[int, list[Register]] = {}
        self.paid: dict[int, float] = {}
        self.steps = ["write"] * len(prices)
        self.has_begun = [False] * len(prices)

    def act(self, index: int) -> None:
        """Take a task's next step."""
        step = self.steps[index]
        held = self.paid.get(index, 0.0)
        if step == "write":
            self.has_begun[index] = True
            self.registers[index] = Register("still", index, reserved=held)
            self.steps[index] = "over" if held else "ask"
        elif step == "ask":
            self.registers[index] = asks(index, self.prices[index])
            self.steps[index] = "read"
        elif step == "read":
            unknown = [
                Register("still", other, None)
                for other in range(len(self.prices))
                if self.has_begun[other] and other not in self.registers
            ]
            self.read[index] = [one for one in self.registers.values() if one.map_index != index] + unknown
            self.steps[index] = "judge"
        elif step == "judge":
            verdict = judge(self.limit, self.registers[index], self.read[index], place)
            self.steps[index] = {"GRANTED": "take", "REFUSED": "give back", "WAIT": "read"}[verdict.name]
        elif step == "take":
            self.paid[index] = self.prices[index]  # stored, and paid, before the register says so
            self.steps[index] = "write"
        elif step == "give back":
            self.registers[index] = replace(self.registers[index], asked=0.0)
            self.steps[index] = "over"

    def begin_again(self, index: int) -> None:
        """Kill a task's process, and delete the XComs of its next try."""
        if self.has_begun[index]:
            self.registers.pop(index, None)
            self.steps[index] = "write"


@settings(max_examples=400, deadline=None)
@given(
    prices=st.lists(st.sampled_from([0.1, 0.25, 0.4, 0.6, 1.1]), min_size=2, max_size=7),
    steps=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 19)), max_size=120),
)
def test_no_order_of_steps_and_deaths_exceeds_the_limit_and_all_are_decided_in_the_end(
    prices: list[float], steps: list[tuple[int, int]]
) -> None:
    model = Model(prices, 1.0)
    for number, luck in steps:
        index = number % len(prices)
        if luck == 0:
            model.begin_again(index)
        else:
            model.act(index)
        assert sum(model.paid.values()) <= 1.0 + 1e-9
    for _ in range(20 * len(prices)):  # nobody dies any more
        for index in range(len(prices)):
            model.act(index)
    assert set(model.steps) == {"over"}
    assert 0 < sum(model.paid.values()) <= 1.0 + 1e-9 or min(prices) > 1.0


# --- a task instance's share ------------------------------------------------------------------------------


def test_fifty_tasks_that_ask_at_once_are_granted_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dag_run_budget, "WAIT_FOR", 60.0)
    shared = SharedRun(Spender("still", limit=1.0))

    def ask(index: int) -> bool:
        share = share_of(shared, "still", index)
        try:
            share.reserve(0.05, 1.0, "editorial-still")
        except FloraBudgetError as error:
            refusals.append(error)
            share.give_back()
            return False
        return True

    refusals: list[FloraBudgetError] = []

    indexes = [*range(50)]
    random.Random(5).shuffle(indexes)
    with ThreadPoolExecutor(50) as threads:
        granted = sum(threads.map(ask, indexes))
    assert granted == 20
    assert {error.remedy for error in refusals} == {Remedy.GIVE_UP}
    assert sum(reserved for _, reserved, _ in shared.registers().values()) == pytest.approx(1.0)
    assert not any(asked for *_, asked in shared.registers().values())


def test_all_tasks_of_the_dag_count_together_and_one_without_a_limit_only_says_what_it_spends() -> None:
    shared = SharedRun(Spender("first"), Spender("second", limit=None), SimpleNamespace(task_id="other"))
    free = share_of(shared, "second")
    free.reserve(0.8, None, "film")
    assert shared.pulls == 0
    with pytest.raises(
        FloraBudgetError, match=r"costs 0\.3 USD.*reserved 0\.8 USD: second 0\.8\. .*max_dag_run_cost=1"
    ):
        share_of(shared, "first").reserve(0.3, 1.0, "still")


def test_a_dag_without_a_budget_pays_nothing_for_it() -> None:
    shared = SharedRun(Spender("first", limit=None), Spender("second", limit=None))
    instance = SharingInstance(shared, "first")
    context = instance.context(shared.dag.task_dict["first"])
    assert Share.begin(context, LOG) is None
    assert Share.resume(context, LOG) is None
    assert (shared.pushes, shared.pulls) == (0, 0)


def test_a_limit_that_appears_when_the_task_runs_is_refused_since_the_others_do_not_know_of_it() -> None:
    shared = SharedRun(Spender("first", limit=None))
    with pytest.raises(FloraParameterError, match="where the DAG is written"):
        Share.begin(SharingInstance(shared, "first").context(Spender("first", limit=1.0)), LOG)


def test_the_same_price_is_asked_for_once_and_a_higher_one_by_the_difference() -> None:
    shared = SharedRun(Spender("still"))
    share = share_of(shared, "still")
    share.reserve(0.4, 1.0, "still")
    pushes = shared.pushes
    share.reserve(0.4, 1.0, "still")
    assert shared.pushes == pushes
    share.reserve(0.7, 1.0, "still")
    assert shared.registers()["still"] == (0.0, 0.7, 0.0)
    with pytest.raises(FloraBudgetError):
        share.reserve(1.2, 1.0, "still")


@needs_store
def test_the_next_try_knows_from_the_store_what_it_was_granted() -> None:
    shared, store = SharedRun(Spender("still"), Spender("film")), FakeStore()
    share_of(shared, "still", store=store).reserve(0.7, 1.0, "still")
    shared.delete_xcoms("still")
    with pytest.raises(FloraBudgetError, match="still did not say within") as caught:
        share_of(shared, "film").reserve(0.1, 1.0, "film")
    assert caught.value.remedy is Remedy.RETRY_LATER
    again = share_of(shared, "still", store=store, try_number=2)
    assert again.is_known
    again.reserve(0.7, 1.0, "still")  # asks nothing, though with another 0.7 the limit would be exceeded
    assert shared.registers()["still"] == (0.0, 0.7, 0.0)


def test_without_a_store_the_next_try_is_unknown_and_asks_again() -> None:
    shared = SharedRun(Spender("still"))
    share_of(shared, "still").reserve(0.7, 1.0, "still")
    shared.delete_xcoms("still")
    again = share_of(shared, "still", try_number=2)
    assert not again.is_known
    assert shared.registers()["still"][0] is None
    again.reserve(0.7, 1.0, "still")
    assert shared.registers()["still"] == (0.0, 0.7, 0.0)


def test_without_a_store_each_earlier_execution_counts_as_paid() -> None:
    shared = SharedRun(Spender("still", retries=0))
    # Two clears: three executions of one try each.
    cleared = share_of(shared, "still", try_number=3, max_tries=2)
    with pytest.raises(FloraBudgetError):
        cleared.reserve(0.4, 1.0, "still")
    cleared.give_back()
    assert shared.registers()["still"] == (0.8, 0.0, 0.0)


@needs_store
def test_a_run_that_is_replaced_but_may_be_charged_is_counted_beside_the_new_one() -> None:
    shared, store = SharedRun(Spender("still")), FakeStore()
    share_of(shared, "still", store=store).reserve(0.4, 1.0, "still")
    cleared = share_of(shared, "still", store=store, try_number=2, max_tries=3)
    cleared.reserve(0.4, 1.0, "still", runs_left=1)
    cleared.reserve(0.4, 1.0, "still", runs_left=1)
    assert shared.registers()["still"] == (0.4, 0.4, 0.0)
    again = share_of(shared, "still", store=store, try_number=3, max_tries=4)
    with pytest.raises(FloraBudgetError):
        again.reserve(0.4, 1.0, "still", runs_left=1)


@needs_store
@pytest.mark.parametrize(("may_be_charged", "left"), [(False, 0.0), (True, 0.4)])
def test_what_was_reserved_is_given_back_if_nothing_can_have_started(may_be_charged: bool, left: float) -> None:
    shared, store = SharedRun(Spender("still")), FakeStore()
    share = share_of(shared, "still", store=store)
    starter: Any = SimpleNamespace(may_be_charged=may_be_charged)

    def start() -> None:
        with giving_back(share, starter):
            share.reserve(0.4, 1.0, "still")
            raise KeyError("refused")

    with pytest.raises(KeyError):
        start()
    assert shared.registers()["still"] == (0.0, left, 0.0)
    assert store.get("flora_share")["reserved"] == left


@needs_store
def test_a_grant_that_cannot_be_stored_starts_nothing_and_stays_counted() -> None:
    shared, store = SharedRun(Spender("still")), FakeStore()
    share = share_of(shared, "still", store=store)
    store.broken = [OSError("away")] * 100
    starter: Any = SimpleNamespace(may_be_charged=False)
    with pytest.raises(FloraBudgetError, match="OSError: away") as caught, giving_back(share, starter):
        share.reserve(0.4, 1.0, "still")
    assert caught.value.remedy is Remedy.RETRY_LATER
    assert shared.registers()["still"] == (0.0, 0.0, 0.4)


def test_a_write_that_fails_for_a_moment_is_made_again() -> None:
    shared = SharedRun(Spender("still"))
    share = share_of(shared, "still")
    shared.broken = [RuntimeError("409 Conflict")]
    share.reserve(0.4, 1.0, "still")
    assert shared.registers()["still"] == (0.0, 0.4, 0.0)


def test_an_earlier_write_that_comes_late_is_written_over(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = SharedRun(Spender("still"), Spender("film"))
    share = share_of(shared, "still")
    late = shared.xcoms["still", -1, REGISTER_KEY]
    pull = SharingInstance.xcom_pull

    def pull_after_late_write(self: Any, **asked: Any) -> Any:
        monkeypatch.setattr(SharingInstance, "xcom_pull", pull)
        shared.xcoms["still", -1, REGISTER_KEY] = late
        return self.xcom_pull(**asked)

    monkeypatch.setattr(SharingInstance, "xcom_pull", pull_after_late_write)
    share.reserve(0.7, 1.0, "still")
    with pytest.raises(FloraBudgetError):
        share_of(shared, "film").reserve(0.7, 1.0, "film")


@pytest.mark.parametrize("state", ["running", "restarting", "deferred", "up_for_retry", "failed"])
def test_a_task_that_has_begun_and_does_not_say_what_it_spends_holds_the_others_back(state: str) -> None:
    shared = SharedRun(Spender("still"), Spender("film"))
    shared.states["film", -1] = state
    share = share_of(shared, "still")
    with pytest.raises(FloraBudgetError, match=r"^film did not say") as caught:
        share.reserve(0.1, 1.0, "still")
    assert caught.value.remedy is Remedy.RETRY_LATER


@pytest.mark.parametrize("state", [None, "scheduled", "queued", "skipped", "upstream_failed", "removed", "success"])
def test_a_task_that_has_not_begun_or_that_a_person_has_marked_holds_nobody_back(state: str | None) -> None:
    shared = SharedRun(Spender("still"), Spender("film"))
    shared.states["film", -1] = state
    share_of(shared, "still").reserve(0.1, 1.0, "still")


def test_a_sibling_that_failed_before_it_could_say_so_counts_with_the_price() -> None:
    shared = SharedRun(Spender("still"))
    shared.states["still", 1] = "failed"
    share_of(shared, "still", 0).reserve(0.5, 1.0, "still")
    with pytest.raises(FloraBudgetError):
        share_of(shared, "still", 2).reserve(0.5, 1.0, "still")


def test_a_price_that_is_not_known_is_above_every_limit_and_holds_the_others_back() -> None:
    shared = SharedRun(Spender("still"), Spender("film", limit=None))
    with pytest.raises(FloraPriceError, match="max_dag_run_cost"):
        share_of(shared, "still").reserve(None, 1.0, "still")
    film = share_of(shared, "film")
    film.reserve(None, None, "film")
    still = share_of(shared, "still")
    with pytest.raises(FloraBudgetError, match="film did not say"):
        still.reserve(0.1, 1.0, "still")
    film.settle(0.2)
    still.reserve(0.1, 1.0, "still")
    assert shared.registers()["film"] == (0.0, 0.2, 0.0)


def test_a_resumed_task_reads_its_register_and_replaces_the_price_by_the_charge() -> None:
    shared = SharedRun(Spender("still"))
    share_of(shared, "still").reserve(0.4, 1.0, "still")
    share = resumed(shared, "still")
    assert share.reserved == 0.4
    share.settle(0.3)
    assert shared.registers()["still"] == (0.0, 0.3, 0.0)
    pushes = shared.pushes
    share.settle(0.3)
    assert shared.pushes == pushes


@pytest.mark.parametrize(
    "odd",
    ["text", None, 7, {}, {"task_id": "film"}, {"task_id": 1, "map_index": 0}, {"task_id": "x", "map_index": "y"}],
)
def test_an_xcom_that_is_no_register_is_none(odd: object) -> None:
    assert Register.from_plain(odd) is None


@pytest.mark.parametrize("amount", [None, "1", float("nan"), float("inf"), -1.0])
def test_a_register_with_an_odd_amount_is_unknown(amount: object) -> None:
    plain = {"task_id": "film", "map_index": -1, "before": 0.0, "reserved": amount, "asked": 0.0, "more": 1}
    assert Register.from_plain(plain) == Register("film", -1, None)


def test_an_error_names_twenty_tasks_and_counts_the_rest() -> None:
    shared = SharedRun(Spender("still", limit=1.0))
    for index in range(25):
        share_of(shared, "still", index).reserve(0.04, 1.0, "still")
    with pytest.raises(FloraBudgetError) as caught:
        share_of(shared, "still", 25).reserve(0.04, 1.0, "still")
    assert str(caught.value).count("still[") == 20
    assert "and 5 more" in str(caught.value)


def test_the_spenders_of_a_dag_are_its_tasks_that_start_runs() -> None:
    from airflow_provider_flora.operators.flora import FloraRunTechniqueOperator
    from tests.unit.airflow_names import DAG, TaskGroup

    def still(task_id: str) -> Any:
        return FloraRunTechniqueOperator.partial(task_id=task_id, technique_id="a", deferrable=False)

    limit: Any = {"max_dag_run_cost": 1.0}

    def dag_of(limit: Any) -> Any:
        with DAG("a_dag", schedule=None, default_args=limit) as dag:
            still("mapped").expand(inputs=[{"prompt": "a cup"}])
        return dag

    assert find_spenders(dag_of({})) == (["mapped"], False)
    assert find_spenders(dag_of({"max_dag_run_cost": 3.0})) == (["mapped"], True)
    with DAG("a_dag", schedule=None) as dag:
        FloraRunTechniqueOperator.partial(task_id="each", technique_id="a", inputs={}).expand(
            max_dag_run_cost=[1.0]
        )
    assert find_spenders(dag) == (["each"], True)
    with DAG("a_dag", schedule=None) as dag, TaskGroup("g", default_args=limit), TaskGroup("h"):
        still("in_group").expand(inputs=[{"prompt": "a cup"}])
    assert find_spenders(dag) == (["g.h.in_group"], True)
    with DAG("a_dag", schedule=None) as dag:
        still("each").expand_kwargs([{"inputs": {}, "max_dag_run_cost": 1.0}])
    assert find_spenders(dag) == (["each"], True)
