"""Deliberate breakages of the package, one line each: what the simulator has to find.

A breakage is a line of a module and what stands in its place. It is applied when the module is loaded, in a
process of its own; the files stay as they are. Each says which promise it breaks, and has to be found by that
one.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.machinery import PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from .promises import (
    BUDGET,
    DAILY_COST,
    ENDS,
    NO_OTHERS,
    NO_SURPRISE,
    NOT_LOST,
    NOT_STUCK,
    ONE_CHARGE,
    OWN_RUN,
    PRICE,
    RETRYABLE,
)

PACKAGE = "airflow_provider_flora"


@dataclass(frozen=True)
class Breakage:
    """One line of a module, as it is and as it is broken.

    :param promises: one of these has to be found broken.
    :param skip: histories to pass over, where few find the breakage: minutes are saved.
    """

    name: str
    module: str
    line: str
    broken: str
    promises: tuple[str, ...]
    of_batches: bool = False
    skip: int = 0

    def applied_to(self, source: str) -> str:
        """Return a module's source with the breakage in it.

        :raises ValueError: the line is not there once: the code has changed, and the breakage has to follow.
        """
        if source.count(self.line) != 1:
            raise ValueError(
                f"{self.name}: {self.module} has {self.line!r} {source.count(self.line)} times, not once"
            )
        return source.replace(self.line, self.broken)


BREAKAGES = (
    # --- batches ---
    Breakage(
        "a clear gives the keys of rows another identity",
        "batch.journal",
        'self.identity: list[Any] = head.get("identity") or attempt.identity',
        "self.identity: list[Any] = attempt.identity",
        (ONE_CHARGE,),
        of_batches=True,
    ),
    Breakage(
        "a failed run that is known counts for any record",
        "runs.starting",
        "if self._known is not None and self._known.run_id == self._record.run_id:",
        "if self._known is not None:",
        (ONE_CHARGE,),
        of_batches=True,
    ),
    Breakage(
        "pages of completed rows are left out without reuse, too",
        "batch.batch",
        "completed if self._order.reuse else ()",
        "completed",
        (ONE_CHARGE,),
        of_batches=True,
    ),
    Breakage(
        "the intent of a row is stored later",
        "batch.journal",
        "now=record.run_id is None)",
        "now=False)",
        (ONE_CHARGE,),
        of_batches=True,
    ),
    Breakage(
        "the thread of an attempt that is over still starts its row",
        "batch.journal",
        "if self._is_closed:",
        "if False:",
        (ONE_CHARGE,),
        of_batches=True,
    ),
    Breakage(
        "a row of another execution is reused whatever its inputs",
        "batch.entries",
        'if line.get("digest") != entry.digest or digests_differ(str(line.get("digest")), entry.digest):',
        "if False:",
        (OWN_RUN,),
        of_batches=True,
    ),
    Breakage(
        "a batch succeeds although rows failed",
        "batch.batch",
        "if bad <= self._allowed_failures():",
        "if True:",
        (OWN_RUN,),
        of_batches=True,
    ),
    # --- single runs ---
    # --- charged twice ---
    Breakage(
        "a start of unknown fate is sent again at once",
        "runs.starting",
        "if facts.now < record.latest_end:",
        "if False:",
        (ONE_CHARGE,),
    ),
    Breakage(
        "a proxy's error counts as Flora's",
        "api.starts",
        "    if not error.is_floras_own or (gave_up and error.code not in _FAILURE_CODES):",
        "    if False:",
        (ONE_CHARGE,),
    ),
    Breakage(
        "a reset counts as never sent",
        "api.starts",
        "return Fate.UNKNOWN if error.was_sent else Fate.REFUSED",
        "return Fate.REFUSED",
        (ONE_CHARGE,),
    ),
    Breakage(
        "the history is read at once, before it has caught up",
        "runs.starting",
        "HISTORY_LAG = 30.0",
        "HISTORY_LAG = 0.0",
        (ONE_CHARGE, OWN_RUN),
    ),
    Breakage(
        "a request counts as ended when it begins",
        "runs.starting",
        "sent=(*record.sent, (began, began + slow + self._start_duration))",
        "sent=(*record.sent, (began, began))",
        (ONE_CHARGE,),
    ),
    Breakage(
        "the key counts as known for a day",
        "runs.starting",
        "KEY_LIFETIME = 2 * 3600.0",
        "KEY_LIFETIME = 24 * 3600.0",
        (ONE_CHARGE,),
    ),
    Breakage(
        "the intent is stored after the start",
        "runs.starting",
        "            self._records.save(self._record)\n            if",
        "            if",
        (ONE_CHARGE,),
    ),
    Breakage(
        "what came of the start is not stored",
        "runs.starting",
        "            retrying(self._records.save, record)",
        "            pass",
        (ONE_CHARGE, OWN_RUN, NOT_STUCK),
    ),
    Breakage(
        "delivered before Airflow has recorded the success",
        "operators.flora",
        "do_after_success(self, records.record_delivery)",
        "records.record_delivery()",
        (ONE_CHARGE, NOT_LOST),
    ),
    Breakage(
        "a lost record counts as none",
        "runs.record",
        "lost = self._store is not None and record.generation",
        "lost = False and record.generation",
        (ONE_CHARGE,),
    ),
    Breakage(
        "without a store a retry is a new start",
        "runs.record",
        "key=derive_key(self.attempt.identity, intent)",
        "key=derive_key([*self.attempt.identity, self.attempt.try_number], intent)",
        (ONE_CHARGE,),
    ),
    Breakage(
        "a run with an unknown status is retried",
        "api.remedies",
        'if run.status == "failed" else Remedy.GIVE_UP',
        'if run.status == "failed" else Remedy.RETRY_NOW',
        (ONE_CHARGE,),
    ),
    Breakage(
        "every failed run is retried",
        "runs.starting",
        "return State.FAILED if facts.cleared or remedy_of(run).retryable else State.FAILED_FOR_GOOD",
        "return State.FAILED",
        (ONE_CHARGE,),
    ),
    Breakage(
        "a clear is distinguished from a retry by the wrong number",
        "task.attempt",
        "max_tries=ti.max_tries,",
        "max_tries=ti.try_number,",
        (ONE_CHARGE,),
    ),
    Breakage(
        "an adopted run hides the starts that are unanswered",
        "runs.record",
        "if not (earlier.unanswered or is_open):",
        "if True:",
        (ONE_CHARGE,),
        skip=11_000,
    ),
    Breakage(
        "a slow save is not noticed",
        "runs.starting",
        "if saved - began <= max(slow, SLOW_SAVE):",
        "if True:",
        (ONE_CHARGE, OWN_RUN),
    ),
    Breakage(
        "the price is not asked for again after a slow save",
        "runs.starting",
        "if self._is_plan_outdated():",
        "if False:",
        (PRICE,),
    ),
    Breakage(
        "one answer without a date is enough to trust the machine's clock",
        "runs.starting",
        "UNDATED_ANSWERS = 3",
        "UNDATED_ANSWERS = 1",
        (ONE_CHARGE, NOT_LOST),
    ),
    Breakage(
        "a run without a date is no candidate",
        "runs.starting",
        "created = oldest if run.created_at is None",
        "created = 0.0 if run.created_at is None",
        (ONE_CHARGE, OWN_RUN, NOT_LOST),
    ),
    Breakage(
        "only the first page of the history is read",
        "runs.starting",
        "if _reaches_back(page, oldest) or",
        "if True or",
        (ONE_CHARGE, OWN_RUN),
    ),
    Breakage(
        "a run is abandoned again by each retry",
        "runs.starting",
        "if facts.abandoned and facts.cleared and",
        "if facts.abandoned and",
        (ONE_CHARGE,),
    ),
    Breakage(
        "a start that cannot be sent again counts as one that started nothing",
        "runs.starting",
        'candidates = [run for run in found if run.status != "failed"]',
        "candidates = []",
        (NOT_LOST, RETRYABLE),
    ),
    Breakage(
        "the time of a refused start is forgotten with that of an earlier one",
        "runs.starting",
        "(*earlier, last) if fate is Fate.FAILED else earlier",
        "()",
        (ONE_CHARGE,),
    ),
    Breakage(
        "a clock that is set is not noticed",
        "runs.starting",
        "        if answers.clock_was_set(self._clocks_apart):\n            self._client",
        "        if False:\n            self._client",
        (ONE_CHARGE, OWN_RUN),
    ),
    Breakage(
        "the monotonic clock counts on while the machine is suspended",
        "runs.starting",
        "if self._epoch is None or answers.clock_was_set(self._clocks_apart):",
        "if self._epoch is None:",
        (ONE_CHARGE, OWN_RUN),
    ),
    Breakage(
        "a start is sent although its intent was not stored, as another attempt has begun",
        "runs.starting",
        "            self._records.save(self._record)\n            if",
        "            self._save_if_possible(self._record)\n            if",
        (ONE_CHARGE,),
        skip=1_500,
    ),
    Breakage(
        "a start that is sent again is not noted",
        "runs.starting",
        "            self._records.save(self._record)\n            if",
        "            record.sent or self._records.save(self._record)\n            if",
        (ONE_CHARGE,),
    ),
    Breakage(
        "an attempt with the number of a first one counts as cleared",
        "runs.starting",
        "        return is_first and one_was_cleared\n",
        "        return is_first\n",
        (ONE_CHARGE,),
    ),
    Breakage(
        "a clear of the DAG run's other tasks counts as one of this task",
        "runs.starting",
        "        return is_first and one_was_cleared\n",
        "        return one_was_cleared\n",
        (ONE_CHARGE,),
    ),
    Breakage(
        "a cached date counts as one of now",
        "api.answers",
        ".timestamp() + age + 0.5 - now",
        ".timestamp() + 0.5 - now",
        (ONE_CHARGE,),
    ),
    # --- somebody else's run ---
    Breakage(
        "runs of mapped siblings are candidates",
        "runs.starting",
        "others = {*self._siblings(), *record.past}",
        "others = {*record.past}",
        (NO_OTHERS,),
    ),
    Breakage(
        "earlier runs of the task are candidates",
        "runs.starting",
        "others = {*self._siblings(), *record.past}",
        "others = {*self._siblings()}",
        (NO_OTHERS,),
    ),
    Breakage(
        "a run is searched for a key that was never sent",
        "runs.starting",
        "if fate is Fate.KEY_WAS_USED and earlier:",
        "if isinstance(error, FloraAPIError) and error.status == 409:",
        (OWN_RUN, ONE_CHARGE),
        skip=3_000,
    ),
    Breakage(
        "two deployments make the same keys",
        "task.attempt",
        "return [self.dag_id, self.run_id, self.task_id, self.map_index, self.dag_run_began, *row]",
        "return [self.dag_id, self.run_id, self.task_id, self.map_index, *row]",
        (OWN_RUN,),
    ),
    Breakage(
        "mapped instances make the same keys",
        "task.attempt",
        "return [self.dag_id, self.run_id, self.task_id, self.map_index, self.dag_run_began, *row]",
        "return [self.dag_id, self.run_id, self.task_id, self.dag_run_began, *row]",
        (OWN_RUN, ONE_CHARGE, NOT_LOST),
    ),
    Breakage(
        "the first of several candidates is taken",
        "runs.starting",
        "is_only_one = len(candidates) == 1 and",
        "is_only_one = bool(candidates) and",
        (OWN_RUN,),
    ),
    Breakage(
        "inputs are not compared",
        "runs.starting",
        "if not record.delivered and not facts.same_inputs:",
        "if False:",
        (OWN_RUN,),
    ),
    Breakage(
        "a clear of a succeeded task returns its run again",
        "runs.starting",
        "        return State.DELIVERED\n",
        "        return State.STARTED if run is None else State.COMPLETED\n",
        (OWN_RUN,),
    ),
    # --- paid runs lost, waits without an end, limits ---
    Breakage(
        "a refusal that ends a wait is not retried",
        "api.waiting",
        "            error.remedy = Remedy.RETRY_LATER\n",
        "",
        (RETRYABLE,),
    ),
    Breakage(
        "what goes wrong beside a paid run is not retried",
        "runs.record",
        "            if may_be_paid:",
        "            if False:",
        (RETRYABLE, NOT_LOST),
    ),
    Breakage(
        "a wait has no deadline",
        "api.waiting",
        "        if left <= 0:\n            raise self.timeout_error()",
        "        left = max(left, 1.0)",
        (ENDS,),
    ),
    Breakage(
        "the cost of the day is not compared with the limit",
        "runs.daily_cost",
        "if exceeds(reading.charged + price, self._limit):",
        "if False:",
        (DAILY_COST,),
    ),
    Breakage(
        "a reading of the history is used for the whole day",
        "runs.daily_cost",
        "READ_EVERY = 60.0",
        "READ_EVERY = 86_400.0",
        (DAILY_COST,),
    ),
    Breakage(
        "a price is not compared with the limit",
        "runs.techniques",
        "if technique.run_cost is None or technique.run_cost > limit:",
        "if technique.run_cost is None:",
        (PRICE,),
    ),
    Breakage(
        "a price is asked for once, and not before a start is sent again",
        "runs.starting",
        "        plan.check_before_start()\n",
        "        if not self._record.sent:\n            plan.check_before_start()\n",
        (PRICE,),
    ),
    # --- the budget of a DAG run ---
    Breakage(
        "what others only ask for is not counted",
        "runs.dag_run_budget",
        "if is_known and not exceeds(held + mine.asked + sum(other.asked for other in others), limit):",
        "if is_known and not exceeds(held + mine.asked, limit):",
        (BUDGET,),
    ),
    Breakage(
        "without a store, what earlier tries have spent counts as nothing",
        "runs.dag_run_budget",
        "        elif self._attempt.try_number > 1:\n",
        "        elif False:\n",
        (BUDGET,),
    ),
    Breakage(
        "a run in the place of one that may be charged takes its share",
        "runs.dag_run_budget",
        "        if runs_left > self._runs_left:\n",
        "        if False:\n",
        (BUDGET,),
    ),
    Breakage(
        "a share is given back although a run may have started",
        "runs.dag_run_budget",
        "        if share is not None and not starter.may_be_charged:\n",
        "        if share is not None:\n",
        (BUDGET,),
    ),
    Breakage(
        "a run that has completed without its cost is no run",
        "runs.outcome",
        '"charged_cost": run.charged_cost if run.completed else None,',
        '"charged_cost": round(run.charged_cost, 2) if run.completed else None,',
        (NO_SURPRISE,),
    ),
    Breakage(
        "the link to the technique is pushed again after a pause",
        "operators.flora",
        "        if self.do_xcom_push and not self._has_link:\n",
        "        if self.do_xcom_push:\n",
        (NO_SURPRISE,),
    ),
)


def check_that_they_apply() -> None:
    """Read each module that is to be broken.

    :raises ValueError: a breakage has to follow the code.
    """
    for breakage in BREAKAGES:
        spec: Any = PathFinder.find_spec(PACKAGE)
        (folder,) = spec.submodule_search_locations
        breakage.applied_to(Path(folder, *breakage.module.split(".")).with_suffix(".py").read_text())


class _BreakingLoader(SourceFileLoader):
    breakage: Breakage

    def get_code(self, fullname: str) -> CodeType | None:
        path = self.get_filename(fullname)
        source = self.breakage.applied_to(self.get_data(path).decode())
        return self.source_to_code(source.encode(), path)


class _Breaker(importlib.abc.MetaPathFinder):
    def __init__(self, breakage: Breakage) -> None:
        self._breakage = breakage

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != f"{PACKAGE}.{self._breakage.module}":
            return None
        spec: Any = PathFinder.find_spec(fullname, path, target)
        spec.loader = _BreakingLoader(fullname, spec.origin)
        spec.loader.breakage = self._breakage
        return spec  # type: ignore[no-any-return]


def apply(breakage: Breakage) -> None:
    """Break the package in this process, which must not have loaded it yet."""
    if f"{PACKAGE}.{breakage.module}" in sys.modules:
        raise RuntimeError(f"{breakage.module} is loaded already")
    sys.meta_path.insert(0, _Breaker(breakage))
