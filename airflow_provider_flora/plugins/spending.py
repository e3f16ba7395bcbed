"""What Flora's runs have cost in the last 30 days, from Airflow's database alone. No request to Flora.

The source is what the latest attempt of each task has pushed. A run that several tasks have handed over counts
once: one that a sensor waited for, for example.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, select

from airflow_provider_flora.airflow_compat import TaskInstance, XComModel
from airflow_provider_flora.links.flora import TECHNIQUE_URL_KEY
from airflow_provider_flora.metadata.reading import (
    UNFINISHED,
    Task,
    as_number,
    as_text,
    instance_query,
    is_flora,
    is_floras,
    of_instance,
    plain,
    technique_in,
)
from airflow_provider_flora.runs.outcome import BATCH_KEY, ERROR_KEY

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

DAYS = 30
MOST_TASKS = 20_000
"""Number of task instances that are read, the latest first."""
SHOWN = 20
_FLORAS = (TECHNIQUE_URL_KEY, BATCH_KEY, ERROR_KEY, "charged_cost")
"""XComs by which a Flora task is found. The index of their keys makes it quick."""
_KEYS = (*_FLORAS, "run_id")
_OF_BATCH = ("completed", "reused", "failed", "unknown", "skipped")


@dataclass(frozen=True)
class Waiting:
    """A task instance that has not ended.

    :param since: when its attempt began.
    """

    task: Task
    state: str
    since: datetime | None


@dataclass
class Spending:
    """What is known of the last days.

    :param by_day: USD by day in UTC, every day among them; the others by DAG and by technique.
    :param outcomes: number of runs by outcome.
    :param remedies: number of failures by what they call for.
    :param waiting: task instances that have not ended, the longest first.
    :param saved: USD that runs had cost which batches have reused.
    :param is_complete: whether all task instances were read.
    """

    by_day: dict[date, float] = field(default_factory=dict)
    by_dag: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    by_technique: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    outcomes: Counter[str] = field(default_factory=Counter)
    remedies: Counter[str] = field(default_factory=Counter)
    waiting: list[Waiting] = field(default_factory=list)
    saved: float = 0.0
    is_complete: bool = True

    @property
    def total(self) -> float:
        """USD of all days."""
        return sum(self.by_day.values())


def dags_with_runs(session: Session) -> list[str]:
    """Return the ids of the DAGs that have Flora tasks, whoever may read them."""
    with_values = select(XComModel.dag_id).where(XComModel.key.in_(_FLORAS)).distinct()
    waiting = select(TaskInstance.dag_id).where(TaskInstance.state.in_(UNFINISHED), is_floras()).distinct()
    return sorted({*session.scalars(with_values), *session.scalars(waiting)})


def read_spending(session: Session, dag_ids: Collection[str], now: datetime) -> Spending:
    """Return what the tasks of some DAGs have cost.

    :param now: the time in UTC. The last day is today's.
    """
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    since = midnight - timedelta(days=DAYS - 1)
    found = Spending(by_day={(since + timedelta(days=day)).date(): 0.0 for day in range(DAYS)})
    found.waiting = _read_waiting(session, dag_ids)
    tasks = _read_tasks(session, dag_ids, since)
    found.is_complete = len(tasks) < MOST_TASKS
    seen: set[str] = set()
    for task in sorted(tasks, key=lambda task: task.ended):  # the first that handed a run over counts
        if is_flora(task.operator, task.value):
            _add(found, task, seen)
    return found


def _read_waiting(session: Session, dag_ids: Collection[str]) -> list[Waiting]:
    query = instance_query().where(
        TaskInstance.dag_id.in_(dag_ids), TaskInstance.state.in_(UNFINISHED), is_floras()
    )
    waiting = [
        Waiting(Task(row.dag_id, row.run_id, row.task_id, row.map_index), row.state, row.start_date)
        for row in session.execute(query.order_by(TaskInstance.start_date).limit(MOST_TASKS))
    ]
    return sorted(waiting, key=lambda one: (one.since is None, one.since))


@dataclass
class _Ended:
    """A task instance that has ended, with its small XComs by their keys."""

    dag_id: str
    operator: str | None
    state: str | None
    ended: datetime
    value: dict[str, Any]


def _read_tasks(session: Session, dag_ids: Collection[str], since: datetime) -> list[_Ended]:
    names = ("dag_id", "run_id", "task_id", "map_index")
    query = (
        select(
            *(getattr(XComModel, name) for name in names),
            TaskInstance.operator,
            TaskInstance.state,
            TaskInstance.end_date,
            XComModel.key,
            XComModel.value,
        )
        .join(TaskInstance, and_(*of_instance(XComModel)))
        .where(XComModel.key.in_(_KEYS), XComModel.dag_id.in_(dag_ids), TaskInstance.end_date >= since)
        .order_by(TaskInstance.end_date.desc())
        .limit(MOST_TASKS * len(_KEYS))
    )
    tasks: dict[tuple[Any, ...], _Ended] = {}
    found: Any = session.execute(query)
    for dag_id, run_id, task_id, map_index, operator, state, ended, key, value in found:
        identity = dag_id, run_id, task_id, map_index  # a Task for each of so many XComs takes half as long again
        if identity not in tasks:
            if len(tasks) == MOST_TASKS:
                break
            tasks[identity] = _Ended(dag_id, operator, state, ended, {})
        tasks[identity].value[key] = plain(value)
    return list(tasks.values())


def _add(found: Spending, task: _Ended, seen: set[str]) -> None:
    value = task.value
    batch, error, run_id = value.get(BATCH_KEY), value.get(ERROR_KEY), as_text(value.get("run_id"))
    if isinstance(batch, Mapping):
        _add_batch(found, batch)
        cost = as_number(batch.get("charged_cost"))
    else:
        cost = as_number(value.get("charged_cost"))
        if isinstance(error, Mapping) and task.state == "failed":
            found.outcomes["failed"] += 1
            found.remedies[as_text(error.get("remedy")) or "not known"] += 1
    if run_id is not None and "charged_cost" in value:
        if run_id in seen or cost is None:
            return
        seen.add(run_id)
        found.outcomes["completed"] += 1
    if cost and task.ended.date() in found.by_day:
        found.by_day[task.ended.date()] += cost
        found.by_dag[task.dag_id] += cost
        found.by_technique[technique_in(as_text(value.get(TECHNIQUE_URL_KEY))) or "not known"] += cost


def _add_batch(found: Spending, value: Mapping[str, Any]) -> None:
    counts = {name: as_number(value.get(name)) or 0 for name in _OF_BATCH}
    counts["completed"] = max(0, counts["completed"] - counts["reused"])
    found.outcomes.update({name: int(count) for name, count in counts.items() if count})
    found.saved += as_number(value.get("saved_cost")) or 0.0
    failures = value.get("failures")
    if isinstance(failures, Mapping):
        found.remedies.update({str(name): int(as_number(count) or 0) for name, count in failures.items()})
