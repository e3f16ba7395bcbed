"""``run_dag``: finds the DAG, has it run, and reads what became of it from the log and the database."""

from __future__ import annotations

import inspect
import json
import re
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import pytest

from airflow_provider_flora.testing.airflow_process import TemporaryAirflow
from airflow_provider_flora.testing.emulator import FloraEmulator
from airflow_provider_flora.testing.process import MARK
from airflow_provider_flora.testing.results import (
    DagImportError,
    DagRunError,
    DagRunResult,
    DagRunTimeoutError,
    TaskResult,
    show_end,
    show_tasks,
)

_MARKS = re.compile(f"{MARK}(.*)\n")
_STYLES = re.compile(r"\x1b\[[0-9;]*m")  # Airflow 3.0 writes tracebacks in bold, whatever it is told


class RunDag:
    """Runs DAGs against the emulator of a test: what the fixture ``run_dag`` is.

    :param emulator: the emulator.
    :param airflow: the Airflow that runs them.
    :param test: the test.
    """

    def __init__(self, emulator: FloraEmulator, airflow: TemporaryAirflow, test: pytest.Item) -> None:
        self._emulator = emulator
        self._airflow = airflow
        self._test = test

    def __call__(
        self,
        dag: Any,
        dag_id: str | None = None,
        *,
        conf: Mapping[str, Any] | None = None,
        logical_date: datetime | Literal["now"] | None = "now",
        timeout: float = 120.0,
    ) -> DagRunResult:
        """Run a DAG to its end, with its deferrals and retries, as Airflow's ``dag.test()`` does.

        It runs in a process of its own, with a temporary Airflow: your ``AIRFLOW_HOME``, its configuration and its
        database are not used. Connections and variables come from the environment. Retries are made at once; a
        sensor and a wait for a run ask each second. A connection that a task has as ``flora_conn_id`` leads to the
        emulator.

        :param dag: the path of a file with a DAG, as a ``str`` or a ``Path``, or a DAG of a module, or a function
            with ``@dag``. A relative path is looked up in the folder of the test, and then in those above it. The
            file of a DAG is loaded anew: changes that the test made to the DAG are not seen.
        :param dag_id: the DAG to run, if the file has several.
        :param conf: the ``conf`` of the DAG run.
        :param logical_date: the logical date, in UTC if it has no time zone; ``None`` for none, which Airflow 2.11
            cannot do.
        :param timeout: seconds after which the DAG run is ended.
        :return: what became of it. A DAG run that failed is a result too.
        :raises DagImportError: the file cannot be imported.
        :raises DagRunTimeoutError: the DAG run took longer.
        :raises DagRunError: the file has no such DAG, or the DAG run could not be made.
        :raises FileNotFoundError: there is no such file.
        """
        file, dag_id = self._file_of(dag), dag_id or getattr(dag, "dag_id", None)
        wanted = {
            "file": str(file),
            "dag_id": dag_id,
            "conf": dict(conf or {}),
            "logical_date": _as_text(logical_date),
            "variable": self._emulator.connection.variable,
        }
        before = self._emulator.ledger(with_runs=False)
        ended, output = self._airflow.run(wanted, _dags_folder(file), timeout)
        log = _Log(output)
        if log.import_error:
            raise DagImportError(f"{file} cannot be imported:\n{log.import_error}")
        run_id, state, tasks = _read_database(self._airflow.database, log)
        if not ended:
            raise DagRunTimeoutError(_over(log.dag_id or file.name, timeout, log.text, tasks))
        if log.dag_id is None:
            raise DagRunError(_why_no_dag(file, dag_id, log))
        if state not in ("success", "failed"):
            what = (
                f"stopped in the middle.\n{show_tasks(tasks)}\nThe end of the log" if tasks else "could not be run"
            )
            raise DagRunError(f"{log.dag_id} {what}:\n{show_end(log.text)}")
        if not tasks:
            raise DagRunError(
                f"{log.dag_id} has no task to run in this DAG run. Airflow leaves out each task whose start_date "
                "is after the logical date."
            )
        after = self._emulator.ledger(with_runs=False)
        charged = round(after["charged_total"] - before["charged_total"], 6)
        count = after["charged_runs"] - before["charged_runs"]
        result = DagRunResult(log.dag_id, run_id, state, tasks, log.text, charged, count)
        self._test.add_report_section("call", "DAG run", str(result))  # pytest shows it if the test fails
        return result

    def _file_of(self, dag: Any) -> Path:
        if isinstance(dag, (str, Path)):
            tried = [folder / dag for folder in self._test.path.parents]
            found = next((path for path in tried if path.is_file()), None)
            if found is None:
                raise FileNotFoundError(f"There is no {dag} in {self._test.path.parent} or a folder above it")
            return found.resolve()
        if hasattr(dag, "fileloc"):
            return Path(dag.fileloc).resolve()
        if callable(dag):  # a function with @dag
            return Path(inspect.getfile(inspect.unwrap(dag))).resolve()
        raise TypeError(f"run_dag takes the path of a file or a DAG, not {dag!r}")


def _as_text(date: datetime | str | None) -> str | None:
    if not isinstance(date, datetime):
        return date
    return (date if date.tzinfo else date.replace(tzinfo=timezone.utc)).isoformat()


def _dags_folder(file: Path) -> Path:
    """The folder named ``dags`` that the file is in; if there is none, its own."""
    return next((folder for folder in file.parents if folder.name == "dags"), file.parent)


class _Log:
    """The output of the process, cut at its marks.

    :param output: the output.
    """

    def __init__(self, output: str) -> None:
        output = _STYLES.sub("", output)
        self.dag_id: str | None = None
        self.dag_ids: list[str] | None = None
        self.import_error = ""
        self.of_tasks: dict[tuple[str, int], str] = {}
        self.text = _MARKS.sub("", output)
        _, *rest = _MARKS.split(output)
        for mark, text in zip(rest[::2], rest[1::2], strict=True):
            said = json.loads(mark)
            self.dag_id = said.get("dag_id", self.dag_id)
            self.dag_ids = said.get("dag_ids", self.dag_ids)
            self.import_error = said.get("import_error", self.import_error)
            if said.get("task_id"):
                task = (said["task_id"], said["map_index"])
                self.of_tasks[task] = self.of_tasks.get(task, "") + text


def _why_no_dag(file: Path, dag_id: str | None, log: _Log) -> str:
    if log.dag_ids is None:
        return f"Airflow could not load {file}:\n{show_end(log.text)}"
    if not log.dag_ids:
        return f"{file} has no DAG"
    has = f"{file} has these DAGs: {', '.join(log.dag_ids)}."
    return f"{has} It has no {dag_id!r}." if dag_id else f"{has} Say which, as dag_id."


def _over(what: str, timeout: float, log: str, tasks: list[TaskResult]) -> str:
    states = f"\n{show_tasks(tasks)}" if tasks else ""
    return (
        f"{what} was ended, since it took longer than {timeout:g} s.{states}\nThe end of the log:\n{show_end(log)}"
    )


def _read_database(path: Path, log: _Log) -> tuple[str, str, list[TaskResult]]:
    """Read the id and state of the DAG run, empty if there is none, and its task instances."""
    with closing(sqlite3.connect(path)) as database:
        found = database.execute("SELECT run_id, state FROM dag_run WHERE dag_id = ?", (log.dag_id,)).fetchone()
        if found is None:
            return "", "", []
        run = (log.dag_id, found[0])
        xcoms: dict[tuple[str, int], dict[str, Any]] = {}
        for task_id, map_index, key, value in database.execute(
            "SELECT task_id, map_index, key, value FROM xcom WHERE dag_id = ? AND run_id = ?", run
        ):
            xcoms.setdefault((task_id, map_index), {})[key] = _xcom(value)
        rows = database.execute(
            "SELECT task_id, map_index, state, try_number FROM task_instance WHERE dag_id = ? AND run_id = ? "
            "ORDER BY start_date IS NULL, start_date, task_id, map_index",
            run,
        )
        tasks = [
            TaskResult(task_id, map_index, state, attempts, xcoms.get(task, {}), log.of_tasks.get(task, ""))
            for task_id, map_index, state, attempts in rows
            if (task := (task_id, map_index))
        ]
    return found[0], found[1], tasks


def _xcom(stored: str | bytes | float | None) -> Any:
    """Read a stored XCom. SQLite keeps the JSON of a number as a number."""
    return json.loads(stored, object_hook=_plain) if isinstance(stored, (str, bytes)) else stored


def _plain(value: dict[str, Any]) -> Any:
    """The content of a value that Airflow stores together with its class."""
    return value["__data__"] if {"__classname__", "__data__"} <= value.keys() else value
