"""Runs that this Airflow's tasks have started, and that no task has handed over.

The sources are the records in the task state store (Airflow 3.3 and later), and the XComs of the latest attempts.
Before Airflow 3.3, nothing remains of an attempt once the next one has begun.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import String, and_, cast, or_, select

from airflow_provider_flora.airflow_compat import TaskInstance, XComModel
from airflow_provider_flora.links.flora import TECHNIQUE_URL_KEY
from airflow_provider_flora.metadata.reading import (
    UNFINISHED,
    Task,
    as_text,
    of_instance,
    plain,
    technique_in,
)
from airflow_provider_flora.metadata.records import describe, has_store, read_record, read_rows
from airflow_provider_flora.runs.outcome import BATCH_KEY
from airflow_provider_flora.runs.record import Record
from airflow_provider_flora.task.state import BATCH, BATCH_ROWS, RUN

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

_KEYS = ("run_id", "return_value", "manifest", TECHNIQUE_URL_KEY, BATCH_KEY)
_ONLY_WAITS = "FloraTechniqueRunSensor"
_NAMES = ("dag_id", "run_id", "task_id", "map_index")


@dataclass(frozen=True)
class Undelivered:
    """A run, or a start without an answer, that a task has left, or has ended without handing over.

    :param state: Airflow's state of the task instance, or ``None``.
    :param run_id: the run; ``None`` if the start was not answered.
    :param row_id: the row, if the task is a batch.
    :param sent: unix time (s) of the first start without an answer.
    :param is_left: whether the task has another run since.
    """

    task: Task
    state: str | None
    run_id: str | None
    technique_id: str | None
    row_id: str | None = None
    sent: float | None = None
    is_left: bool = False


@dataclass
class Started:
    """What this Airflow has of its tasks' runs.

    :param known: ids of all runs that its tasks have started or waited for.
    :param undelivered: those that no task has handed over, and starts without an answer.
    :param manifests: URIs of manifests that name more runs: of batches whose journal is not in the database.
    """

    known: set[str] = field(default_factory=set)
    undelivered: list[Undelivered] = field(default_factory=list)
    manifests: set[str] = field(default_factory=set)


@dataclass
class _Ended:
    state: str | None
    operator: str | None
    xcoms: dict[str, Any]


def read_started(session: Session, since: datetime) -> Started:
    """Return what this Airflow has of the runs that its tasks have started since a moment, and a few earlier ones.

    :raises FloraError: the records lie in a store that only workers reach.
    """
    found = Started()
    handed_over: set[str | None] = set()
    instances = _read_instances(session, since)
    recorded = set()
    for task, instance in _instances_with_records(session, since, instances):
        rows = read_rows(session, task, every=True)
        recorded.add(task)
        if rows is not None:
            _add_rows(found, task, instance, rows, read_rows(session, task) or {})
            handed_over |= {record.run_id for record in rows.values() if record.delivered}
        elif (record := read_record(session, task)) is not None:
            found.known.update(record.known_runs)
            found.undelivered += _left_by(task, instance, record)
            if record.delivered:
                handed_over.add(record.run_id)
            if record.was_sent and not record.delivered and _is_over(instance):
                found.undelivered.append(_of_record(task, instance, record))
    for task, instance in instances.items():
        run_id = as_text(instance.xcoms.get("run_id"))
        if run_id:
            found.known.add(run_id)
            if "return_value" in instance.xcoms:
                handed_over.add(run_id)
            if task not in recorded and instance.operator != _ONLY_WAITS and _is_over(instance):
                technique = technique_in(as_text(instance.xcoms.get(TECHNIQUE_URL_KEY)))
                found.undelivered.append(Undelivered(task, instance.state, run_id, technique))
        manifest = as_text(instance.xcoms.get("manifest"))
        if manifest and task not in recorded:
            found.manifests.add(manifest)
    found.undelivered = [one for one in found.undelivered if not (one.is_left and one.run_id in handed_over)]
    return found


def _is_over(instance: _Ended) -> bool:
    """Whether no attempt is on its way, and none has returned a value. A person may have marked it as a success."""
    return instance.state not in UNFINISHED and "return_value" not in instance.xcoms


def _of_record(task: Task, instance: _Ended, record: Record, row_id: str | None = None) -> Undelivered:
    return Undelivered(
        task,
        instance.state,
        record.run_id,
        record.run_technique or None,
        row_id,
        None if record.run_id else record.sent[0][0],
    )


def _left_by(task: Task, instance: _Ended, record: Record, row_id: str | None = None) -> Iterator[Undelivered]:
    """Return the runs in whose place the task has another one by now, be it on its way or not."""
    technique = record.history_id or record.technique_id or None
    for run_id in record.left:
        yield Undelivered(task, instance.state, run_id, technique, row_id, is_left=True)


def _add_rows(
    found: Started,
    task: Task,
    instance: _Ended,
    every: Mapping[str, Record],
    latest: Mapping[str, Record],
) -> None:
    for row_id, record in every.items():
        found.known.update(record.known_runs)
        found.undelivered += _left_by(task, instance, record, row_id)
    if instance.state in UNFINISHED:
        return
    in_manifest = BATCH_KEY in instance.xcoms  # which is written before the batch ends
    for row_id, record in latest.items():
        if record.was_sent and not record.delivered and not (in_manifest and record.run_id):
            found.undelivered.append(_of_record(task, instance, record, row_id))


def _read_instances(session: Session, since: datetime) -> dict[Task, _Ended]:
    """Return the task instances with XComs of Flora's since a moment."""
    in_time = (
        select(*(getattr(XComModel, name) for name in _NAMES))
        .where(XComModel.key.in_(("run_id", TECHNIQUE_URL_KEY)), XComModel.timestamp >= since)
        .distinct()
        .subquery()
    )
    query = (
        select(
            *(getattr(XComModel, name) for name in _NAMES),
            TaskInstance.state,
            TaskInstance.operator,
            XComModel.key,
            XComModel.value,
        )
        .join(TaskInstance, and_(*of_instance(XComModel)))
        .join(in_time, and_(*(getattr(XComModel, name) == in_time.c[name] for name in _NAMES)))
        .where(XComModel.key.in_(_KEYS))
    )
    found: dict[Task, _Ended] = {}
    rows: Any = session.execute(query)
    for *names, state, operator, key, value in rows:
        instance = found.setdefault(Task(*names), _Ended(state, operator, {}))
        # The outputs of many runs are not kept: that there is a value is enough.
        instance.xcoms[key] = None if key in ("return_value", BATCH_KEY) else plain(value)
    return {
        task: instance
        for task, instance in found.items()
        if TECHNIQUE_URL_KEY in instance.xcoms or (instance.operator or "").startswith("Flora")
    }


def _instances_with_records(
    session: Session, since: datetime, instances: Mapping[Task, _Ended]
) -> Iterator[tuple[Task, _Ended]]:
    if not has_store():
        return
    from airflow_provider_flora.airflow_compat import TaskStateStoreModel as Stored

    query = (
        select(*(getattr(Stored, name) for name in _NAMES), TaskInstance.state, TaskInstance.operator)
        .join(TaskInstance, and_(*of_instance(Stored)))
        .where(
            or_(Stored.key.in_((RUN, BATCH)), Stored.key.startswith(BATCH_ROWS, autoescape=True)),
            Stored.updated_at >= since,
        )
        .distinct()
    )
    found: Any = session.execute(query).all()
    for *names, state, operator in found:
        task = Task(*names)
        yield task, instances.get(task) or _Ended(state, operator, {})


def tasks_of_run(session: Session, run_id: str) -> list[str]:
    """Return the task instances whose run it is, in words. A sensor that waits for it has no run of its own."""
    query = (
        select(*(getattr(XComModel, name) for name in _NAMES), TaskInstance.operator, XComModel.value)
        .join(TaskInstance, and_(*of_instance(XComModel)))
        .where(XComModel.key == "run_id", cast(XComModel.value, String).contains(run_id, autoescape=True))
    )
    rows: Any = session.execute(query).all()
    found = {Task(*names) for *names, operator, value in rows if plain(value) == run_id and operator != _ONLY_WAITS}
    if not has_store():
        return sorted(map(describe, found))
    from airflow_provider_flora.airflow_compat import TaskStateStoreModel as Stored

    stored = select(*(getattr(Stored, name) for name in _NAMES)).where(
        or_(Stored.key == RUN, Stored.key.startswith(BATCH_ROWS, autoescape=True)),
        Stored.value.contains(run_id, autoescape=True),
    )
    tasks: Any = session.execute(stored.distinct()).all()
    return sorted(
        describe(task) for task in found | {Task(*names) for names in tasks} if _has(session, task, run_id)
    )


def _has(session: Session, task: Task, run_id: str) -> bool:
    """Whether a run is a task's by its record, or by its XCom if it has none. One that it has left is not."""
    if (rows := read_rows(session, task, every=True)) is not None:
        return any(record.run_id == run_id for record in rows.values())
    record = read_record(session, task)
    return record is None or record.run_id == run_id
