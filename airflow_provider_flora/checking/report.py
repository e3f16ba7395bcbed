"""What a check of DAG files has found: data, which goes from the process that checks to the one that prints."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Place(_Data):
    """Where something was found.

    :param file: path of the DAG file.
    :param line: line of the task or of the error, if it is known.
    :param dag_id: ``None`` if the file has no DAG.
    :param task_id: ``None`` if it is about the file or the DAG.
    """

    file: str
    line: int | None = None
    dag_id: str | None = None
    task_id: str | None = None


class Finding(_Data):
    """A mistake, or what is left for run time.

    :param place: where it is.
    :param message: what it is, in one or more lines.
    """

    place: Place
    message: str


class Cost(_Data):
    """What a task costs in one DAG run, without retries.

    :param task_id: the task.
    :param runs: number of runs; for each of ``for_each``, if that is not empty.
    :param run_cost: price of one run in USD; ``None`` if it is not known.
    :param for_each: what is counted at run time only: ``row of products.csv``, ``item of fetch``.
    :param technique: the technique, as the task names it; ``None`` if it is named at run time.
    """

    task_id: str
    runs: int
    run_cost: float | None
    for_each: Sequence[str] = ()
    technique: str | None = None


class DagCost(_Data):
    """What a DAG run costs.

    :param dag_id: the DAG.
    :param known_cost: USD of the runs whose number and price are known.
    :param tasks: all costs, task by task.
    """

    dag_id: str
    known_cost: float
    tasks: Sequence[Cost]


class Report(_Data):
    """What a check has found.

    :param dags: number of DAGs.
    :param tasks: number of Flora tasks in them.
    :param mistakes: what is wrong.
    :param left: what is known at run time only.
    :param costs: what a run of each DAG with Flora tasks costs.
    """

    dags: int
    tasks: int
    mistakes: Sequence[Finding]
    left: Sequence[Finding]
    costs: Sequence[DagCost]
