"""What all Flora tasks of a DAG run may spend together: ``max_dag_run_cost``.

Tasks run on different workers at the same moment, and Airflow 3 gives them no database. What each of them can
write, and all others can read, are XComs. So each task instance has one XCom, its *register*, which only it writes:
what it holds, and what it asks for.
To ask, it writes its register, then reads those of all others, and :func:`judge` says:

    =============================================================================  ==========================
    what the registers show                                                        verdict
    =============================================================================  ==========================
    all that is held and asked for is within the limit, and nothing is unknown     GRANTED
    what is held and this price are above the limit; or they are with what others  REFUSED
    ask for whose turn is earlier (position in the DAG, map index) and which fits
    otherwise: others ask whose turn is later, or have not written theirs yet      WAIT, and read again
    =============================================================================  ==========================

Why the limit is never exceeded: what is asked for counts as spent from the moment it is written, and only a refusal
takes it back. Of the tasks that were granted something, one was the last to write what it asked for. It read after
that, so it saw the registers of all others that were granted something, and all of them were within the limit.

Why somebody is granted something: of those that ask, the first in the order whose price fits is never refused, and
all whose price does not fit beside it take theirs back.

A register outlives its process, but not its try: Airflow deletes the XComs of a task instance when its next try has
begun, and keeps them when it resumes. So writing it again is the first that a try does. A task instance without a
register that has begun counts as unknown until then. The registers are read before the states, so a register that
is deleted between the two is not taken for one that never was. From Airflow 3.3 on, the next try reads what the
register has to say from the task state store. Before, it cannot know, and asks again for the same run.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

import tenacity

from airflow_provider_flora.airflow_compat import (
    AirflowSkipException,
    expand_value_of,
    operator_class_of,
    states_of_tasks,
)
from airflow_provider_flora.api.errors import (
    FloraBudgetError,
    FloraError,
    FloraParameterError,
    FloraPriceError,
    Remedy,
    remedy_of,
)
from airflow_provider_flora.runs.techniques import exceeds
from airflow_provider_flora.task.attempt import Attempt, execution_id
from airflow_provider_flora.task.state import SHARE, save, store_of

if TYPE_CHECKING:
    from airflow_provider_flora.api.models import Run
    from airflow_provider_flora.runs.record import Record, Records
    from airflow_provider_flora.runs.starting import Starter
    from airflow_provider_flora.task.log import Log

REGISTER_KEY = "flora_dag_run_cost"
"""XCom of each Flora task of a DAG with a budget: its register."""
LIMIT_NAME = "max_dag_run_cost"
WAIT_FOR = 300.0
"""Seconds to wait for what other tasks say. One that has lost its record looks for its run for some 150 s first."""
WRITE_FOR = 15.0
"""Seconds for which a register is written, and read, again."""
SAY_WITHIN = 15.0
"""Seconds within which a task that failed before it began says what it has spent. See ``plugins.late_shares``."""
NAMED_TASKS = 20
NOT_BEGUN = (None, "none", "scheduled", "queued", "skipped", "upstream_failed", "removed")
"""States of a task instance that has not begun, or that a clear sends back: then its register is still there."""
MARKED = "success"
"""State of a task instance without a register that a person has marked: a task that succeeds has one."""
FAILED = "failed"


@dataclass(frozen=True)
class Register:
    """What one task instance says about its spending in the DAG run, in USD.

    :param before: what its earlier runs have cost, or may have; ``None`` while it is not known.
    :param reserved: what it was granted for the run, or the runs of a batch, that it has now.
    :param asked: what it asks for in addition.
    """

    task_id: str
    map_index: int
    before: float | None = 0.0
    reserved: float = 0.0
    asked: float = 0.0

    @property
    def name(self) -> str:
        """The task instance as Airflow's UI shows it: ``relight[3]``."""
        return self.task_id if self.map_index < 0 else f"{self.task_id}[{self.map_index}]"

    @property
    def held(self) -> float:
        """USD that it has spent, or may spend without asking."""
        return (self.before or 0.0) + self.reserved

    @classmethod
    def from_plain(cls, plain: object) -> Register | None:
        """Return the register in an XCom, or ``None`` if that is none. One with odd amounts is unknown."""
        if not isinstance(plain, Mapping):
            return None
        task_id, map_index = plain.get("task_id"), plain.get("map_index")
        if not isinstance(task_id, str) or not isinstance(map_index, int):
            return None
        amounts: list[Any] = [plain.get(name) for name in ("before", "reserved", "asked")]
        if all(isinstance(amount, (int, float)) and 0 <= amount < math.inf for amount in amounts):
            return cls(task_id, map_index, *amounts)
        return cls(task_id, map_index, None)


class Verdict(Enum):
    """What becomes of what a task asks for. The table at the top of this file says when."""

    GRANTED = auto()
    REFUSED = auto()
    WAIT = auto()


def judge(limit: float, mine: Register, others: Sequence[Register], place: Callable[[Register], Any]) -> Verdict:
    """Return what becomes of what a task asks for. A pure function.

    :param limit: USD.
    :param others: all other registers, those of unknown ones with ``before=None``.
    :param place: returns the place of a register in the order of the DAG.
    """
    held = mine.held + sum(other.held for other in others)
    is_known = all(other.before is not None for other in others)
    if is_known and not exceeds(held + mine.asked + sum(other.asked for other in others), limit):
        return Verdict.GRANTED
    for other in sorted((other for other in others if other.asked and place(other) < place(mine)), key=place):
        if not exceeds(held + other.asked, limit):
            held += other.asked
    return Verdict.REFUSED if exceeds(held + mine.asked, limit) else Verdict.WAIT


def find_spenders(dag: Any) -> tuple[list[str], bool]:
    """Return the ids of a DAG's tasks that start runs, in its order, and whether one of them has a limit."""
    found, has_limit = [], False
    for task in () if dag is None else dag.task_dict.values():
        if getattr(operator_class_of(task), "starts_runs", False):
            found.append(task.task_id)
            has_limit = has_limit or _has_limit(task)
    return found, has_limit


def _has_limit(task: Any) -> bool:
    if not hasattr(task, "partial_kwargs"):  # not mapped
        return getattr(task, LIMIT_NAME, None) is not None
    mapped = expand_value_of(task)
    entries = [mapped] if isinstance(mapped, Mapping) else mapped if isinstance(mapped, Sequence) else []
    sources = [task.partial_kwargs, *(entry for entry in entries if isinstance(entry, Mapping))]
    sources.append(task.dag.default_args)  # which Airflow looks at when it makes the instance of a mapped task
    group = task.task_group
    while group is not None:
        sources.append(group.default_args or {})
        group = group.parent_group
    return any(source.get(LIMIT_NAME) is not None for source in sources)


class Share:
    """One task instance's share of its DAG run's budget. :meth:`begin` and :meth:`resume` make it."""

    def __init__(self, context: Mapping[str, Any], task_ids: Sequence[str], log: Log) -> None:
        self._ti = context["ti"]
        self._store = store_of(context)
        self._execution = execution_id(context)
        self._log = log
        self._task_ids = task_ids
        attempt = Attempt.of(context)
        self._register = Register(attempt.task_id, attempt.map_index)
        self._attempt = attempt
        self._carried = 0.0
        self._runs_left = 0
        self._is_presumed = False
        self._asked_at: float | None = None
        self.is_new_execution = False
        """Whether what earlier tries have reserved was for another execution."""

    @classmethod
    def begin(cls, context: Mapping[str, Any], log: Log) -> Share | None:
        """Write the task instance's register. To be called before anything else in a try.

        :return: ``None`` if no task of the DAG has a limit: then nothing is written.
        :raises FloraBudgetError: it cannot be written now.
        """
        share = cls._of(context, log)
        if share is not None:
            share._load()
            share._write()
        return share

    @classmethod
    def begin_late(cls, context: Mapping[str, Any], log: Log) -> None:
        """Write the register of a task instance that has failed, if it has none: then it has not begun.

        :raises FloraBudgetError: it cannot be written now.
        """
        task_ids, has_limit = find_spenders(context.get("dag"))
        if has_limit:
            share = cls(context, task_ids, log)
            if not any(map(share._is_own, share._read())):
                share._load()
                share._write()

    @classmethod
    def resume(cls, context: Mapping[str, Any], log: Log) -> Share | None:
        """Read the register again after a deferral. ``None`` if no task of the DAG has a limit.

        :raises FloraBudgetError: it cannot be read now.
        """
        share = cls._of(context, log)
        if share is not None:
            own = [register for register in share._read() if share._is_own(register)]
            share._register = own[0] if own else replace(share._register, before=None)
        return share

    @classmethod
    def _of(cls, context: Mapping[str, Any], log: Log) -> Share | None:
        task_ids, has_limit = find_spenders(context.get("dag"))
        if has_limit:
            return cls(context, task_ids, log)
        if getattr(context["task"], LIMIT_NAME, None) is not None:
            raise FloraParameterError(
                f"{LIMIT_NAME} was set when the task ran, so the other tasks of its DAG do not know of it. Set it "
                "where the DAG is written, or in partial(), or in a task policy of the cluster."
            )
        return None

    @property
    def is_known(self) -> bool:
        """Whether it is known what earlier tries have spent. If not, :meth:`presume` comes first."""
        return self._register.before is not None

    @property
    def reserved(self) -> float:
        """USD that it was granted for the run, or the runs of a batch, that it has now."""
        return self._register.reserved

    def presume(self, price: float, reserved: float = 0.0) -> None:
        """Presume what earlier tries have spent, if it is not known: the price once for each earlier execution.

        :param reserved: USD that the present execution has spent.
        """
        if not self.is_known:
            tries = self._attempt.try_number
            # A clear while the task runs does not change its number. The DAG run's may count other tasks' clears.
            clears = min(self._attempt.clear_number or 0, tries - 1)
            executions = max(tries - self._attempt.number, clears)
            self._register = replace(self._register, before=executions * price, reserved=reserved)
            self._carried = reserved
            self._is_presumed = True

    def reserve(
        self,
        price: float | None,
        limit: float | None,
        technique_id: str,
        *,
        runs: int = 1,
        spent: float = 0.0,
        runs_left: int = 0,
    ) -> None:
        """Reserve what the present run, or the runs of a batch, will cost. Repeated calls ask for the rest.

        :param price: USD of one run; ``None`` if it is not known, which only a task without a limit may start with.
        :param limit: USD; ``None`` if the task has none. It only says then what it spends.
        :param technique_id: the technique, as the user named it.
        :param spent: USD that runs of the same batch have cost, or may have.
        :param runs_left: number of earlier runs of this try in whose place the present one is started, and that may
            be charged all the same.
        :raises FloraBudgetError: with it, the limit would be exceeded; or others do not say what they spend.
        :raises FloraPriceError: the price is not known.
        """
        if price is None:
            if limit is not None:
                raise FloraPriceError(technique_id, None, limit, LIMIT_NAME)
            self._register = replace(self._register, before=None)
            self._write()
            return
        self.presume(price)
        if runs_left > self._runs_left:
            self.move_on(price * (runs_left - self._runs_left) if self._is_presumed else 0.0)
            self._runs_left = runs_left
        more = spent + runs * price - self.reserved
        if not exceeds(more, 0.0):
            return
        if limit is not None:
            what = f"A run of technique {technique_id!r} costs" if runs == 1 else f"{runs:,} rows cost"
            self._ask(more, limit, f"{what} {runs * price:g} USD")
        self._register = replace(self._register, reserved=self.reserved + more, asked=0.0)
        # In this order: a try that is killed in between has not started anything.
        self._save()
        self._write()

    def confirm(self, limit: float | None, technique_id: str) -> None:
        """Make sure, before a new start, that what an earlier try has reserved is still within the limit.

        While the task instance had no register, a person may have marked it as success, so that it did not count.

        :raises FloraBudgetError: the limit would be exceeded; or others do not say what they spend.
        """
        if limit is None or not self._carried or self._asked_at is not None:
            return
        try:
            self._ask(0.0, limit, f"A run of technique {technique_id!r} costs {self.reserved:g} USD")
        except FloraBudgetError as error:
            if not error.remedy.retryable:
                self._carried = 0.0  # so that it is given back
            raise

    def move_on(self, more: float = 0.0) -> None:
        """Count what was reserved so far, and USD of which nothing is known, as spent by earlier runs."""
        if self.is_known:
            self._register = replace(self._register, before=self._register.held + more, reserved=0.0)
            self._carried = 0.0

    def leave_run(self) -> None:
        """Count what was reserved as spent by a run in whose place a person has named another one.

        :raises FloraBudgetError: that cannot be written now.
        """
        if self.is_known and self.reserved:
            self.move_on()
            self._save()
            self._write()

    def take_up(self, run: Run) -> None:
        """Say what a run of an earlier try costs, if it is not known what that has spent."""
        cost = 0.0 if run.status == "failed" else run.charged_cost
        if not self.is_known and cost is not None:
            self.settle(cost)

    def settle_run(self, run: Run, records: Records) -> None:
        """Replace the price of a run by what was charged. For one that failed, give it back if no retry follows.

        :param records: storage of the record of the task's run.
        """
        if self.is_known and not self.reserved:
            return  # a person has named the run, and it is paid elsewhere
        if run.completed:
            self.settle(run.charged_cost)
        elif run.status == "failed" and (self._attempt.is_last or not remedy_of(run).retryable):
            record = records.load()
            if record is None or not record.hides_start:  # else that start may have a run, which is charged
                self.settle(0.0)

    def settle(self, cost: float | None) -> None:
        """Replace what is reserved by what was charged. If that fails, more stays reserved than was spent.

        :param cost: USD; ``None`` if it is not known, which counts as what was reserved.
        """
        if cost is None:
            return
        before = self._register
        self.presume(cost, cost)
        self._register = replace(self._register, reserved=cost, asked=0.0)
        if self._register == before:
            return
        try:
            self._save()
            self._write()
        except FloraError as error:  # the run that was paid matters more
            self._log.warning("Could not note that %g USD were spent: %s", cost, error)

    def give_back(self) -> None:
        """Give back what was reserved in this try: it has started nothing."""
        if self.is_known:
            self.settle(min(self._carried, self.reserved))

    # --- asking -----------------------------------------------------------------------------------------------

    def _ask(self, more: float, limit: float, subject: str) -> None:
        self._register = replace(self._register, asked=more)
        self._write()
        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_delay(WAIT_FOR),
            wait=tenacity.wait_random_exponential(multiplier=0.25, min=0.1, max=3),
            retry=tenacity.retry_if_result(lambda answer: answer[0] is Verdict.WAIT),
            retry_error_callback=lambda state: state.outcome and state.outcome.result(),
        )
        self._asked_at = time.monotonic()
        verdict, others = retrying(self._look, more, limit)
        if verdict is Verdict.WAIT:
            verdict, others = self._look(more, limit, is_last=True)
        if verdict is Verdict.REFUSED:
            raise self._refusal(more, limit, subject, others)
        if verdict is Verdict.WAIT:
            waited_for = [one.name for one in others if one.before is None or one.asked]
            raise FloraBudgetError(
                f"{_enumerate(waited_for)} did not say within {WAIT_FOR:g} s what they spend in this DAG run, and "
                f"{LIMIT_NAME}={limit:g} USD could be exceeded. Nothing was started now. A retry asks again. For a "
                "task that failed before it could say so, clear it, or mark it as success.",
                Remedy.RETRY_LATER,
            )

    def _look(self, more: float, limit: float, *, is_last: bool = False) -> tuple[Verdict, list[Register]]:
        """Read the registers of all others, and judge."""
        found = self._read()
        if not any(one == self._register for one in found):  # an earlier write was late, and stands there now
            self._write()
            return Verdict.WAIT, found
        others = [one for one in found if not self._is_own(one)]
        verdict = judge(limit, self._register, others, self._place)
        if verdict is Verdict.GRANTED:
            others += self._find_unknown(found, more or self.reserved, is_last=is_last)
            verdict = judge(limit, self._register, others, self._place)
        return verdict, others

    def _find_unknown(self, found: Sequence[Register], price: float, *, is_last: bool) -> list[Register]:
        """Return registers for the task instances that have begun and have none.

        One of the same task counts with the price of this one, if it does not come by itself.
        """
        says_late = self._store is not None and time.monotonic() - (self._asked_at or 0.0) < SAY_WITHIN
        with_register = {(one.task_id, one.map_index) for one in found}
        states = self._patiently(lambda: states_of_tasks(self._ti, self._task_ids))
        unknown = []
        for (task_id, map_index), state in states.items():
            if (task_id, map_index) in with_register or state in NOT_BEGUN or state == MARKED:
                continue
            is_sibling = task_id == self._register.task_id
            is_over = is_last or (state == FAILED and not says_late)
            unknown.append(Register(task_id, map_index, price if is_sibling and is_over else None))
        return unknown

    def _refusal(self, more: float, limit: float, subject: str, others: Sequence[Register]) -> FloraBudgetError:
        own = replace(self._register, asked=0.0, reserved=self.reserved if more else 0.0)
        spent = [one for one in (*others, own) if one.held or one.asked]
        spent.sort(key=lambda one: (-(one.held + one.asked), one.name))
        total = sum(one.held + one.asked for one in spent)
        parts = [f"{one.name} {one.held + one.asked:g}" for one in spent]
        return FloraBudgetError(
            f"{subject}, and the Flora tasks of this DAG run have spent or reserved {total:g} USD"
            f"{': ' if parts else ''}{_enumerate(parts)}. Together, that is more than {LIMIT_NAME}={limit:g} USD. "
            f"Nothing was started or charged now. Raise {LIMIT_NAME} and clear the task, or set on_budget='skip' "
            "to skip what is refused."
        )

    # --- writing and reading ----------------------------------------------------------------------------------

    def _load(self) -> None:
        plain = None if self._store is None else self._patiently(lambda: self._store.get(SHARE))
        if isinstance(plain, Mapping):
            own = {"task_id": self._register.task_id, "map_index": self._register.map_index}
            self._register = Register.from_plain({"asked": 0.0, **plain, **own}) or self._register
            self.is_new_execution = plain.get("execution") != self._execution
        elif self._attempt.try_number > 1:
            self._register = replace(self._register, before=None)
        else:
            self._save()  # from now on, a missing one is a lost one
        self._carried = self.reserved

    def _save(self) -> None:
        """Store what the next try has to know.

        :raises FloraBudgetError: it cannot be stored now.
        """
        if self._store is None:
            return
        amounts = {"before": self._register.before, "reserved": self._register.reserved}
        self._patiently(lambda: save(self._store, SHARE, {**amounts, "execution": self._execution}))

    def _write(self) -> None:
        self._patiently(lambda: self._ti.xcom_push(key=REGISTER_KEY, value=vars(self._register)))

    def _read(self) -> list[Register]:
        found = self._patiently(lambda: self._ti.xcom_pull(task_ids=[*self._task_ids], key=REGISTER_KEY))
        return [one for one in map(Register.from_plain, found or ()) if one is not None]

    def _patiently(self, action: Callable[[], Any]) -> Any:
        """Read or write, and try it again: two requests with the same XCom may meet (apache/airflow#69956)."""
        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_delay(WRITE_FOR), wait=tenacity.wait_exponential(max=5), reraise=True
        )
        try:
            return retrying(action)
        except Exception as error:
            raise FloraBudgetError(
                "What the Flora tasks of this DAG run spend cannot be read or written now: "
                f"{type(error).__name__}: {error}. Nothing was started now. A retry asks again.",
                Remedy.RETRY_LATER,
            ) from error

    def _is_own(self, register: Register) -> bool:
        own = self._register
        return (register.task_id, register.map_index) == (own.task_id, own.map_index)

    def _place(self, register: Register) -> tuple[int, str, int]:
        known = self._task_ids
        position = known.index(register.task_id) if register.task_id in known else len(known)
        return position, register.task_id, register.map_index


def share_after(share: Mapping[str, Any], earlier: Record | None, record: Record) -> Mapping[str, Any]:
    """Return a stored share after a command has changed the record of the task's run.

    If another run is named, what was reserved counts as spent by the one that is left.
    """
    is_left = earlier is not None and earlier.run_id and record.run_id not in (None, earlier.run_id)
    if not is_left or share.get("before") is None:
        return share
    return {**share, "before": share["before"] + share.get("reserved", 0.0), "reserved": 0.0}


@contextmanager
def giving_back(share: Share | None, starter: Starter) -> Iterator[None]:
    """Give back what was reserved for a start that ends with an error, if it cannot have started anything."""
    try:
        yield
    except BaseException:
        if share is not None and not starter.may_be_charged:
            share.give_back()
        raise


@contextmanager
def skipping(on_budget: str) -> Iterator[None]:
    """Skip the task if a budget refuses what it would start, and it is to be skipped then.

    :param on_budget: ``fail`` or ``skip``.
    :raises AirflowSkipException: it is refused.
    """
    try:
        yield
    except FloraBudgetError as error:
        if on_budget != "skip" or error.remedy.retryable:
            raise
        raise AirflowSkipException(str(error)) from None


def _enumerate(parts: Sequence[str]) -> str:
    named = ", ".join(parts[:NAMED_TASKS])
    return named + (f" and {len(parts) - NAMED_TASKS:,} more" if len(parts) > NAMED_TASKS else "")
