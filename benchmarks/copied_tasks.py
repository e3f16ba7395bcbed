"""Many task instances in the SQLite database of an Airflow home, copied from a few that have really run.

Running 10,000 tasks takes hours, and a page reads only what they have left. So each copy has the rows that Airflow
keeps of its original, in all tables that the pages read, with names, times and Flora's run of its own.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

Row = dict[str, Any]

# In an order in which no row refers to one that is not there yet.
TABLES = ("task_instance", "rendered_task_instance_fields", "xcom", "task_state_store")
AT_START = frozenset({"flora_technique_url", "flora_run_cost", "run_id", "flora_run"})
"""What a task has stored when its run is active."""


@dataclass(frozen=True)
class Original:
    """What Airflow stores of a task instance, by table."""

    rows: Mapping[str, list[Row]]

    @property
    def flora_run(self) -> str:
        """Flora's run as it is in the rows, or a text that is nowhere in them."""
        found = [row["value"].strip('"') for row in self.rows["xcom"] if row["key"] == "run_id"]
        return found[0] if found else "no run"

    def only(self, keys: frozenset[str], **columns: Any) -> Original:
        """Return it with a part of its values, and with other columns of the task instance."""
        rows = {
            name: [row for row in self.rows[name] if row["key"] in keys] for name in ("xcom", "task_state_store")
        }
        return Original({**self.rows, **rows, "task_instance": [{**self.rows["task_instance"][0], **columns}]})


@dataclass(frozen=True)
class DagRun:
    """A DAG run of the database.

    :param ended: its end, in UTC.
    """

    dag_id: str
    run_id: str
    number: int
    version: str
    ended: datetime


@dataclass
class Copies:
    """The copies that were made; :meth:`write` stores them."""

    connection: sqlite3.Connection
    _rows: dict[str, list[Row]] = field(default_factory=lambda: {"dag_run": [], **{name: [] for name in TABLES}})
    _count: int = 0

    def read(self, dag_id: str, run_id: str, task_id: str) -> Original:
        """Return the first instance of a task."""
        where = f"dag_id = '{dag_id}' AND run_id = '{run_id}' AND task_id = '{task_id}' AND map_index < 1"
        return Original({name: self._select(name, where) for name in TABLES})

    def dag_run(self, dag_id: str, run_id: str) -> DagRun:
        """Return a DAG run that is there."""
        (row,) = self._select("dag_run", f"dag_id = '{dag_id}' AND run_id = '{run_id}'")
        return DagRun(
            dag_id, run_id, row["id"], row["created_dag_version_id"], datetime.fromisoformat(row["end_date"])
        )

    def add_dag_run(self, original: DagRun, dag_id: str, ended: datetime) -> DagRun:
        """Copy a DAG run into another DAG, or to another time."""
        (row,) = self._select("dag_run", f"id = {original.number}")
        (version,) = self._select("dag_version", f"dag_id = '{dag_id}'")
        number = 1000 + len(self._rows["dag_run"])
        copy = DagRun(dag_id, f"scheduled__{ended.isoformat()}", number, version["id"], ended)
        times = dict.fromkeys(("queued_at", "logical_date", "start_date", "end_date", "run_after"), _text(ended))
        names = {"id": number, "dag_id": dag_id, "run_id": copy.run_id, "created_dag_version_id": copy.version}
        self._rows["dag_run"].append({**row, **names, **times})
        return copy

    def add(self, original: Original, into: DagRun, task_id: str, map_index: int) -> None:
        """Copy a task instance."""
        self._count += 1
        ended = into.ended - timedelta(seconds=self._count % 3600)
        old, new = original.flora_run, f"run_{self._count:012}"
        own = {
            "dag_id": into.dag_id,
            "run_id": into.run_id,
            "dag_run_id": into.number,
            "task_id": task_id,
            "map_index": map_index,
            "id": uuid4().hex,
            "dag_version_id": into.version,
            "start_date": _text(ended - timedelta(seconds=90)),
            "end_date": _text(ended),
        }
        for name in TABLES:
            for row in original.rows[name]:
                copied = {key: own.get(key, value) for key, value in row.items()}
                if name == "task_instance":
                    copied["end_date"] = None if row["state"] == "deferred" else copied["end_date"]
                else:
                    copied.pop("id", None)  # a number, which SQLite gives
                for key, value in copied.items():
                    if isinstance(value, str) and key != "run_id":
                        copied[key] = value.replace(old, new)
                self._rows[name].append(copied)

    def write(self) -> None:
        """Store all copies."""
        with self.connection:
            for table, rows in self._rows.items():
                names = list(rows[0]) if rows else []
                columns, places = ", ".join(f'"{name}"' for name in names), ", ".join("?" * len(names))
                insert = f"INSERT INTO {table} ({columns}) VALUES ({places})"
                self.connection.executemany(insert, [tuple(row.values()) for row in rows])
                rows.clear()

    def _select(self, table: str, where: str) -> list[Row]:
        found = self.connection.execute(f"SELECT * FROM {table} WHERE {where}")
        names = [column[0] for column in found.description]
        return [dict(zip(names, row, strict=True)) for row in found]


def _text(time: datetime) -> str:
    """Return a time as Airflow stores it in SQLite."""
    return time.strftime("%Y-%m-%d %H:%M:%S.%f")
