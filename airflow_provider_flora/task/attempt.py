"""The identity of a task instance, its attempt and its execution. Reads Airflow's context only."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Attempt:
    """One attempt of a task instance.

    An *execution* begins with the first attempt. Each clear begins a new one.

    :param dag_run_began: unix time (s) when the DAG run began, the same for all attempts. It distinguishes
        deployments that run one DAG in one Flora workspace: no two begin a DAG run in the same microsecond.
    :param dag_run_due: unix time (s) before which the DAG run cannot have begun. A clear does not change it.
    :param began: unix time (s) when this attempt began.
    :param retries: current ``retries`` of the task.
    :param retry_delay: seconds.
    :param clear_number: number of clears in the DAG run (Airflow 3.0 and later).
    :param row_id: the row of a batch that the attempt is about, if it is about one.
    """

    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    dag_run_began: float
    dag_run_due: float
    try_number: int
    max_tries: int
    began: float
    retries: int
    retry_delay: float
    clear_number: int | None = None
    row_id: str | None = None

    @classmethod
    def of(cls, context: Mapping[str, Any]) -> Attempt:
        """Return the attempt of a context."""
        ti, dag_run, task = context["ti"], context["dag_run"], context["task"]
        dag_run_began = dag_run.start_date or dag_run.logical_date
        run_after = getattr(dag_run, "run_after", None)  # Airflow 3; the logical date may be long before it
        moments = (dag_run.start_date, dag_run.logical_date if run_after is None else run_after)
        began = ti.start_date
        return cls(
            dag_id=ti.dag_id,
            run_id=ti.run_id,
            task_id=ti.task_id,
            map_index=-1 if ti.map_index is None else ti.map_index,
            dag_run_began=0.0 if dag_run_began is None else dag_run_began.timestamp(),
            dag_run_due=min((moment.timestamp() for moment in moments if moment is not None), default=0.0),
            try_number=ti.try_number,
            max_tries=ti.max_tries,
            began=time.time() if began is None else began.timestamp(),
            retries=task.retries or 0,
            retry_delay=task.retry_delay.total_seconds(),
            clear_number=getattr(dag_run, "clear_number", None),
        )

    @property
    def identity(self) -> list[str | int | float]:
        """The identity of the task instance, or of its row, the same in all its attempts."""
        row = [] if self.row_id is None else [self.row_id]
        return [self.dag_id, self.run_id, self.task_id, self.map_index, self.dag_run_began, *row]

    @property
    def number(self) -> int:
        """The number of the attempt in its execution: 1 for the first attempt, 2 for the first retry.

        A clear sets ``max_tries`` to the number of attempts so far plus the task's ``retries``. A change of the
        DAG's ``retries`` shifts the number. It is at least 1.
        """
        return max(1, self.try_number - (self.max_tries - self.retries))

    @property
    def is_last(self) -> bool:
        """Whether no retry follows if this attempt fails."""
        return self.try_number > self.max_tries

    @property
    def was_cleared(self) -> bool:
        """Whether a user has cleared the task instance, in this execution or before it."""
        return self.try_number > self.number


def execution_id(context: Mapping[str, Any]) -> str:
    """Return the id of an execution: all attempts share it until the task is cleared."""
    ti = context["ti"]
    return json.dumps([ti.dag_id, ti.run_id, ti.task_id, ti.map_index, ti.max_tries])


def xcoms_of_siblings(context: Mapping[str, Any], key: str) -> set[str]:
    """Return the texts that the other mapped instances of this task have pushed under a key so far."""
    ti = context["ti"]
    if ti.map_index is None or ti.map_index < 0:
        return set()
    # Without map_indexes, all instances. A single value is not in a list.
    found = ti.xcom_pull(task_ids=ti.task_id, key=key)
    values = {found} if isinstance(found, str) else {value for value in found or () if isinstance(value, str)}
    # Airflow 3.0 does not delete the XComs of a mapped task before its next attempt.
    own = ti.xcom_pull(task_ids=ti.task_id, key=key, map_indexes=ti.map_index)
    return values - {own} if isinstance(own, str) else values
