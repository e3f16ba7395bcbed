"""Task instances in Airflow's tables, empty ones in a file of the tests' own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

from airflow_provider_flora.airflow_compat import airflow_is_at_least

NOW = datetime.now(timezone.utc)
TABLES = ("xcom", "task_state_store", "rendered_task_instance_fields", "task_instance", "dag_run")
_USUAL = {"pool": "default_pool", "pool_slots": 1, "dag_run_id": 1, "timestamp": NOW, "updated_at": NOW}


class Instances:
    """The task instances of a test. They need no DAG: what reads them reads a few tables only."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self._ids = 0

    def add_dag_run(self, dag_id: str = "shop", dag_run: str = "monday", *, clear_number: int = 0) -> None:
        """Add a DAG run, which has begun ten minutes ago."""
        self._ids += 1
        began = NOW - timedelta(minutes=10)
        moments = ("start_date", "run_after", "execution_date", "logical_date", "queued_at")
        self._insert(
            "dag_run",
            id=self._ids,
            dag_id=dag_id,
            run_id=dag_run,
            clear_number=clear_number,
            state="success",
            run_type="manual",
            log_template_id=1,
            **dict.fromkeys(moments, began),
        )

    def add(
        self,
        task_id: str = "still",
        *,
        dag_id: str = "shop",
        dag_run: str = "monday",
        map_index: int = -1,
        state: str | None = "success",
        operator: str = "FloraRunTechniqueOperator",
        ended: datetime | None = NOW,
        try_number: int = 1,
        max_tries: int = 2,
        inputs: Any = None,
        conn_id: str | None = None,
        progress: str | None = None,
        stored: Mapping[str, Any] | None = None,
        **xcoms: Any,
    ) -> None:
        """Add one with its XComs.

        :param stored: values of the task state store.
        """
        identity = {"dag_id": dag_id, "run_id": dag_run, "task_id": task_id, "map_index": map_index}
        began = (ended or NOW) - timedelta(seconds=90)
        numbers = {"try_number": try_number, "max_tries": max_tries}  # and an id, as each Airflow makes it
        self._insert(
            "task_instance", **identity, **numbers, state=state, operator=operator, start_date=began, end_date=ended
        )
        for key, value in xcoms.items():
            form = value if airflow_is_at_least(3, 0) else json.dumps(value).encode()
            self._insert("xcom", **identity, key=key, value=form)
        if inputs is not None or conn_id is not None:
            rendered = {"inputs": inputs, "flora_conn_id": conn_id}
            self._insert("rendered_task_instance_fields", **identity, rendered_fields=rendered)
        if progress is not None:
            self._insert("task_state_store", **identity, key="flora_progress", value=progress)
        for key, value in (stored or {}).items():
            self._insert("task_state_store", **identity, key=key, value=json.dumps(value))

    def change(self, name: str, **values: Any) -> None:
        """Change all rows of a table."""
        from sqlalchemy import update

        with self.engine.begin() as connection:
            connection.execute(update(_table(name)).values(**values))

    def stored(self, key: str = "flora_run", task_id: str = "still") -> Any:
        """Return a value of the task state store, or ``None``."""
        text = self._value("task_state_store", key, task_id)
        return None if text is None else json.loads(text)

    def xcom(self, key: str, task_id: str = "still") -> Any:
        """Return an XCom as the database has it."""
        return self._value("xcom", key, task_id)

    def _value(self, name: str, key: str, task_id: str) -> Any:
        from sqlalchemy import select

        table = _table(name)
        with self.engine.begin() as connection:
            query = select(table.c.value).where(table.c.key == key, table.c.task_id == task_id)
            return connection.execute(query).scalar()

    def _insert(self, name: str, **values: Any) -> None:
        """Insert a row, without the columns that this Airflow does not have."""
        from sqlalchemy import insert

        table = _table(name)
        known = {key: value for key, value in {**_USUAL, **values}.items() if key in table.columns}
        with self.engine.begin() as connection:
            connection.execute(insert(table).values(**known))


def _table(name: str) -> Any:
    from airflow.models.base import Base

    return Base.metadata.tables[name]
