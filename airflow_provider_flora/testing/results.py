"""What became of a DAG run: its state, and its task instances with states, XComs and logs. It holds and shows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

FAILURES = ("failed", "up_for_retry", "upstream_failed")
_ERROR = re.compile(r"^(?:\w+\.)*(\w*(?:Error|Exception|Fail|Timeout|Exit|Interrupt)\w*: .*)$", re.MULTILINE)
_SHOWN_LINES = 15


class DagRunError(Exception):
    """A DAG could not be run, such as with a ``conf`` that is not valid. The message has the end of the log."""


class DagImportError(DagRunError):
    """The file of a DAG could not be imported. The message is the traceback."""


class DagRunTimeoutError(DagRunError):
    """A DAG run took too long and was ended. The message has the states of its tasks and the end of its log."""


@dataclass(frozen=True)
class TaskResult:
    """One task instance of a DAG run.

    :param task_id: its task.
    :param map_index: its number among the instances of a mapped task, from 0; -1 if the task is not mapped.
    :param state: Airflow's state, such as ``success``, ``failed``, ``skipped`` or ``upstream_failed``; ``None`` if
        it was never scheduled.
    :param attempts: how many attempts were made.
    :param xcoms: its XComs by key, as JSON: a tuple or a set is a list.
    :param log: what all its attempts and triggers logged and printed.
    """

    task_id: str
    map_index: int
    state: str | None
    attempts: int
    xcoms: Mapping[str, Any] = field(repr=False)
    log: str = field(repr=False)

    @property
    def name(self) -> str:
        """The id of the task, and its map index if it has one: ``caption`` or ``picture[2]``."""
        return self.task_id if self.map_index < 0 else f"{self.task_id}[{self.map_index}]"

    @property
    def error(self) -> str | None:
        """The line of the log that names the last error; ``None`` if the task did not fail."""
        if self.state not in ("failed", "up_for_retry"):
            return None
        found = _ERROR.findall(self.log)
        return found[-1] if found else _last_lines(self.log, 1)


@dataclass(frozen=True, repr=False)
class DagRunResult:
    """A DAG run that has ended.

    :param dag_id: the DAG.
    :param run_id: the id that Airflow gave the DAG run.
    :param state: ``success`` or ``failed``.
    :param tasks: its task instances, in the order in which they began.
    :param log: everything that was logged and printed.
    :param charged: what the runs that it started have cost so far, in USD.
    :param charged_runs: how many of these runs were charged.
    """

    dag_id: str
    run_id: str
    state: str
    tasks: Sequence[TaskResult]
    log: str
    charged: float
    charged_runs: int

    @property
    def states(self) -> dict[str, str | None]:
        """The state of each task instance, by its name: ``{"caption": "success", "picture[0]": "failed"}``."""
        return {task.name: task.state for task in self.tasks}

    def task(self, task_id: str, map_index: int = -1) -> TaskResult:
        """Return a task instance.

        :param task_id: its task.
        :param map_index: its number among the instances of a mapped task.
        :raises LookupError: the DAG run has no such task instance.
        """
        for task in self.tasks:
            if (task.task_id, task.map_index) == (task_id, map_index):
                return task
        wanted = task_id if map_index < 0 else f"{task_id}[{map_index}]"
        raise LookupError(f"{self.dag_id} has no task instance {wanted}. It has: {', '.join(self.states)}")

    def xcom(self, task_id: str, key: str = "return_value", map_index: int = -1) -> Any:
        """Return the value of an XCom, as JSON.

        :param task_id: the task that pushed it.
        :param key: its key.
        :param map_index: the number of the instance of a mapped task.
        :raises LookupError: there is no such task instance, or it has no such XCom.
        """
        task = self.task(task_id, map_index)
        if key not in task.xcoms:
            has = f"It has: {', '.join(task.xcoms)}" if task.xcoms else "It has none"
            raise LookupError(f"{task.name} ({task.state}) has no XCom {key!r}. {has}.")
        return task.xcoms[key]

    def __repr__(self) -> str:
        """One line: pytest shows no more when an assertion fails."""
        notable = [f"{task.name} {_what(task)}" for task in self.tasks if task.state in FAILURES]
        return f"<{self.dag_id} {self.state}{': ' if notable else ''}{'; '.join(notable)}>"

    def __str__(self) -> str:
        """The whole picture: the state of each task, its error, and the end of the log of those that failed."""
        return f"{self.dag_id} {self.state}, charged {self.charged:g} USD\n{show_tasks(self.tasks)}"


def show_tasks(tasks: Sequence[TaskResult]) -> str:
    """Return a line for each task, with the end of the log for each that failed or has not ended."""
    lines = []
    for task in tasks:
        lines.append(f"  {task.name}: {_what(task)}")
        if task.state not in ("success", "skipped", "removed", None) and task.log:
            lines += [f"    | {line}" for line in _last_lines(task.log, _SHOWN_LINES).splitlines()]
    return "\n".join(lines)


def show_end(log: str) -> str:
    """Return the last lines of a log."""
    return _last_lines(log, _SHOWN_LINES)


def _what(task: TaskResult) -> str:
    error = f", {task.error}" if task.error else ""
    attempts = f" after {task.attempts} attempts" if task.attempts > 1 else ""
    return f"{task.state or 'not started'}{attempts}{error}"


def _last_lines(text: str, count: int) -> str:
    return "\n".join([line for line in text.splitlines() if line.strip()][-count:])
