"""A DAG run whose task instances read each other's XComs and states, without Airflow's processes and database."""

from __future__ import annotations

import json
import threading
from datetime import datetime, timezone
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_flora.runs import dag_run_budget


class SharedRun:
    """A DAG run: its DAG's tasks, and the XComs and states of their instances. Several threads may use it."""

    def __init__(self, *tasks: Any) -> None:
        self.dag = SimpleNamespace(task_dict={task.task_id: task for task in tasks})
        self.xcoms: dict[tuple[str, int, str], str] = {}
        self.states: dict[tuple[str, int], str | None] = {}
        self.pulls = self.pushes = 0
        self.broken: list[Exception] = []
        """What the next pushes raise, one after the other."""
        self.lock = threading.RLock()

    def registers(self) -> dict[str, tuple[float | None, float, float]]:
        """What each task instance holds from before, has reserved, and asks for."""
        found = {}
        for (task_id, index, key), text in self.xcoms.items():
            if key == dag_run_budget.REGISTER_KEY:
                plain = json.loads(text)
                name = task_id if index < 0 else f"{task_id}[{index}]"
                found[name] = (plain["before"], plain["reserved"], plain["asked"])
        return found

    def delete_xcoms(self, task_id: str, map_index: int = -1) -> None:
        """Do what Airflow does when the next try of a task instance has begun."""
        with self.lock:
            for name in [name for name in self.xcoms if name[:2] == (task_id, map_index)]:
                del self.xcoms[name]

    def states_of_tasks(self, ti: Any, task_ids: Any) -> dict[tuple[str, int], str | None]:
        """Stand in for the function of that name, which asks Airflow."""
        with self.lock:
            return {**self.states}


class SharingInstance:
    """A task instance of such a DAG run, in one try."""

    def __init__(
        self, shared: SharedRun, task_id: str, map_index: int = -1, *, try_number: int = 1, max_tries: int = 2
    ) -> None:
        self.shared = shared
        self.dag_id, self.run_id, self.task_id, self.map_index = "a_dag", "a_dag_run", task_id, map_index
        self.try_number, self.max_tries = try_number, max_tries
        self.start_date = datetime.now(timezone.utc)
        shared.states[task_id, map_index] = "running"

    def xcom_push(self, key: str, value: Any, **_: Any) -> None:
        with self.shared.lock:
            if self.shared.broken:
                raise self.shared.broken.pop(0)
            self.shared.pushes += 1
            self.shared.xcoms[self.task_id, self.map_index, key] = json.dumps(value)

    def xcom_pull(self, task_ids: Any = None, key: str = "return_value", **_: Any) -> Any:
        with self.shared.lock:
            self.shared.pulls += 1
            asked = [task_ids] if isinstance(task_ids, str) else task_ids
            names = [name for name in self.shared.xcoms if name[0] in asked and name[2] == key]
            return [json.loads(self.shared.xcoms[name]) for name in names]

    def context(self, task: Any, store: Any = None) -> dict[str, Any]:
        dag_run = SimpleNamespace(start_date=self.start_date, logical_date=self.start_date, clear_number=0)
        context = {"ti": self, "task": task, "dag": self.shared.dag, "dag_run": dag_run}
        return context if store is None else {**context, "task_state_store": store}


@pytest.fixture
def quick_budgets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits for other tasks, and for Airflow, are over in a moment."""
    monkeypatch.setattr(dag_run_budget, "WAIT_FOR", 0.3)
    monkeypatch.setattr(dag_run_budget, "WRITE_FOR", 0.2)
