"""The record of a task's run in Airflow's task state store, read and changed from outside the task.

A change is made only while no attempt is under way, and in the transaction that has made sure of that. What a
record means, and what a changed one says, is in ``runs.record``. Airflow before 3.3 has no such store.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from airflow_provider_flora.airflow_compat import DagRun, TaskInstance, airflow_is_at_least
from airflow_provider_flora.api.errors import FloraError, FloraParameterError
from airflow_provider_flora.metadata.reading import Task, plain
from airflow_provider_flora.runs.dag_run_budget import Register, share_after
from airflow_provider_flora.runs.record import Record
from airflow_provider_flora.task.state import BATCH, BATCH_ROWS, RUN, SHARE

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy.orm import Session

AT_REST = frozenset({None, "success", "failed", "upstream_failed", "skipped", "removed", "up_for_retry"})
"""States of a task instance of which no attempt is under way."""


@dataclass(frozen=True)
class Instance:
    """What Airflow counts of a task instance.

    :param due: unix time (s) before which its DAG run cannot have begun.
    """

    state: str | None
    try_number: int
    max_tries: int
    clear_number: int | None
    due: float

    @property
    def at_rest(self) -> bool:
        """Whether no attempt is under way."""
        return self.state in AT_REST

    def blank(self, technique_id: str) -> Record:
        """Return an empty record of now, for whatever inputs."""
        return Record(technique_id=technique_id, max_tries=self.max_tries, clear_number=self.clear_number)


def has_store() -> bool:
    """Whether this Airflow has a task state store."""
    return airflow_is_at_least(3, 3)


def read_instance(session: Session, task: Task, *, lock: bool = False) -> Instance:
    """Return what Airflow counts of a task instance.

    :param lock: keep Airflow from starting it until the transaction ends.
    :raises FloraParameterError: Airflow does not have it.
    """
    query = select(TaskInstance.state, TaskInstance.try_number, TaskInstance.max_tries).where(
        *(getattr(TaskInstance, name) == value for name, value in asdict(task).items())
    )
    found = session.execute(query.with_for_update() if lock else query).first()
    if found is None:
        raise FloraParameterError(f"Airflow has no {describe(task)}.")
    names = [name for name in ("start_date", "run_after", "clear_number") if hasattr(DagRun, name)]
    columns = [getattr(DagRun, name) for name in names]
    row = session.execute(
        select(*columns).where(DagRun.dag_id == task.dag_id, DagRun.run_id == task.run_id)
    ).first()
    dag_run: Mapping[str, Any] = dict(zip(names, row, strict=True)) if row is not None else {}
    return Instance(
        state=found.state,
        try_number=found.try_number or 0,
        max_tries=found.max_tries or 0,
        clear_number=dag_run.get("clear_number"),
        due=_earliest(dag_run.get("start_date"), dag_run.get("run_after")),
    )


def _earliest(*moments: datetime | None) -> float:
    return min((moment.timestamp() for moment in moments if moment is not None), default=0.0)


def describe(task: Task) -> str:
    """Return a task instance in words."""
    mapped = "" if task.map_index < 0 else f", map index {task.map_index}"
    return f"task {task.task_id!r} of DAG {task.dag_id!r} in the DAG run {task.run_id!r}{mapped}"


class TaskState:
    """The task state store of one task instance, as the API server writes it.

    :raises FloraError: (all methods) a value lies in a store that only workers reach.
    """

    def __init__(self, session: Session, task: Task) -> None:
        from airflow_provider_flora.airflow_compat import TaskScope, get_state_backend

        self._backend: Any = get_state_backend()
        self._scope = TaskScope(**asdict(task))
        self._session = session

    def get(self, key: str) -> Any:
        """Return a value, or ``None`` if there is none."""
        text = self._backend.get(self._scope, key, session=self._session)
        value = None if text is None else plain(text)
        if isinstance(value, dict) and "__airflow_state_ref__" in value:
            raise FloraError(
                "The record lies in the store that [workers] state_store_backend names. Only workers reach it: set "
                "adopt_run_id in the DAG instead."
            )
        return value

    def set(self, key: str, value: Any) -> None:
        """Store a value for as long as the task instance can be cleared."""
        self._backend.set(self._scope, key, json.dumps(value), expires_at=None, session=self._session)


def read_record(session: Session, task: Task) -> Record | None:
    """Return the record of a task's run, or ``None`` if none can be read."""
    return Record.from_plain(TaskState(session, task).get(RUN)) if has_store() else None


def read_share(session: Session, task: Task) -> Register | None:
    """Return what a task instance has spent and reserved of its DAG run's budget, or ``None`` if there is none."""
    share = TaskState(session, task).get(SHARE) if has_store() else None
    return Register.from_plain({**vars(task), "asked": 0.0, **share}) if isinstance(share, Mapping) else None


def read_rows(session: Session, task: Task, *, every: bool = False) -> dict[str, Record] | None:
    """Return the records of a batch's rows by their ids, or ``None`` if the task is no batch with a journal here.

    :param every: also those of the rows that the task has handed over. Otherwise, since its last success.
    """
    if not has_store():
        return None
    state = TaskState(session, task)
    head = state.get(BATCH)
    if not isinstance(head, Mapping):
        return None
    first = head.get("first_page")
    page = first if type(first) is int and not every else 0
    common = head.get("common")
    usual = common if isinstance(common, Mapping) else {}
    records: dict[str, Record] = {}
    while isinstance(rows := state.get(f"{BATCH_ROWS}{page}"), Mapping):
        for row_id, short in rows.items():
            record = Record.from_plain({"key": "", **usual, **short}) if isinstance(short, Mapping) else None
            if record is not None:
                records[row_id] = record
        page += 1
    return records


def check_is_changeable(session: Session, task: Task, *, lock: bool = False) -> Instance:
    """Check that the record of a task's run can be changed now, and return what Airflow counts of the task.

    :param lock: keep Airflow from starting it until the transaction ends.
    :raises FloraError: an attempt is under way, the task is a batch, or there is no store.
    """
    if not has_store():
        raise FloraError(
            "This Airflow has no task state store, which came with 3.3, so there is no record to change. Set "
            "adopt_run_id in the DAG."
        )
    instance = read_instance(session, task, lock=lock)
    if not instance.at_rest:
        raise FloraError(
            f"The {describe(task)} is {instance.state}: an attempt is under way, and would write over the change. "
            "Wait until it has ended, or mark the task as failed."
        )
    if isinstance(TaskState(session, task).get(BATCH), Mapping):
        raise FloraError(
            f"The {describe(task)} is a batch, which has a run for each row. Clear it: it goes on with its rows, "
            "and its manifest names those whose run is not known."
        )
    return instance


def change_record(session: Session, task: Task, change: Callable[[Record | None, Instance], Record]) -> Record:
    """Change the record of a task's run, unless an attempt is under way. The caller commits.

    :param change: returns the new record for the one until now.
    :raises FloraError: as :func:`check_is_changeable` says.
    """
    instance = check_is_changeable(session, task, lock=True)
    state = TaskState(session, task)
    earlier = Record.from_plain(state.get(RUN))
    record = change(earlier, instance)
    share = state.get(SHARE)
    if isinstance(share, Mapping):
        state.set(SHARE, share_after(share, earlier, record))
    state.set(RUN, record.to_plain())
    return record
