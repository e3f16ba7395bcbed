"""One task instance and its attempts, as Airflow would run them, without Airflow's processes and database.

Only what Airflow itself provides is made up here: the context with its task instance and state store. Operators,
hooks, triggers and the HTTP below them are the real ones.
"""

from __future__ import annotations

import asyncio
import copy
import json
from contextlib import aclosing
from datetime import datetime, timezone
from functools import partial
from types import SimpleNamespace
from typing import Any

from airflow_provider_flora.airflow_compat import TaskDeferred
from tests.unit.loop_tasks import quiet

try:
    from airflow.sdk.execution_time.context import TaskStateStoreAccessor  # noqa: F401

    HAS_STATE_STORE = True
except ImportError:
    HAS_STATE_STORE = False


class FakeStore:
    """Takes what Airflow's task state store takes: JSON, nothing else, and not null."""

    def __init__(self) -> None:
        self.rows: dict[str, str] = {}
        self.writes: list[Any] = []
        self.broken: list[Exception] = []
        """What the next writes raise, one after the other."""

    def get(self, key: str, default: Any = None) -> Any:
        return json.loads(self.rows[key]) if key in self.rows else default

    def set(self, key: str, value: Any, *, retention: Any = None) -> None:
        if self.broken:
            raise self.broken.pop(0)
        if value is None:
            raise ValueError("Cannot set value as None")
        text = json.dumps(value)
        if json.loads(text) != value:
            raise TypeError(f"not plain JSON: {value!r}")
        self.rows[key] = text
        self.writes.append(json.loads(text))

    def delete(self, key: str) -> None:
        self.rows.pop(key, None)


class FakeTaskInstance:
    """A task instance in one of its attempts. An XCom key may be pushed once in an attempt."""

    def __init__(
        self,
        task: Any,
        *,
        try_number: int,
        max_tries: int,
        map_index: int,
        siblings: list[str],
        left_over: str | None = None,
    ) -> None:
        self.task = task
        self.dag_id = "a_dag"
        self.run_id = "a_dag_run"
        self.task_id = task.task_id
        self.map_index = map_index
        self.try_number = try_number
        self.max_tries = max_tries
        self.start_date = datetime.now(timezone.utc)
        self.xcoms: dict[str, Any] = {}
        self.pushes: list[str] = []
        self.pulls: list[dict[str, Any]] = []
        self._siblings = siblings
        self._left_over = left_over

    def xcom_push(self, key: str, value: Any, **_: Any) -> None:
        assert key not in self.xcoms, f"{key} is pushed twice in one attempt"
        self.pushes.append(key)
        self.xcoms[key] = json.loads(json.dumps(value))

    def xcom_pull(self, **asked: Any) -> Any:
        """All XComs of the mapped task, or with `map_indexes` that of this index: what the last try left."""
        self.pulls.append(asked)
        return self._left_over if "map_indexes" in asked else [*self._siblings, self._left_over]

    def get_first_reschedule_date(self, context: Any) -> datetime | None:
        return None


class TaskLife:
    """The attempts and clears of one task instance.

    :param operator: the task, as the DAG declares it.
    :param store: the state store; ``None`` for an Airflow that has none.
    """

    def __init__(
        self,
        operator: Any,
        *,
        store: FakeStore | None = None,
        retries: int = 2,
        map_index: int = -1,
        siblings: list[str] | None = None,
    ) -> None:
        operator.retries = retries  # as Airflow has it in `max_tries` until somebody clears the task
        self.operator = operator
        self.store = store
        self.retries = retries
        self.map_index = map_index
        self.siblings = siblings or []
        self.left_over: str | None = None
        """The XCom `run_id` of the last try, which Airflow 3.0 does not clear where a task is mapped."""
        self.try_number = 0
        self.max_tries = retries
        self.clear_number = 0
        self.started = datetime.now(timezone.utc)
        self.dag: Any = None
        self.of_dag_run: dict[str, Any] = {}
        """Further fields of the DAG run, and others in place of those that it has."""
        self.ti: FakeTaskInstance
        self.events: list[dict[str, Any]] = []

    def clear(self) -> None:
        """Do what a user's clear does."""
        self.max_tries = self.try_number + self.retries
        self.clear_number += 1

    def context(self, *, next_try: bool = True, task: Any = None) -> dict[str, Any]:
        self.try_number += next_try
        task = task or self.operator
        self.ti = FakeTaskInstance(
            task,
            try_number=self.try_number,
            max_tries=self.max_tries,
            map_index=self.map_index,
            siblings=self.siblings,
            left_over=self.left_over,
        )
        fields = {
            "start_date": self.started,
            "logical_date": self.started,
            "run_id": "a_dag_run",
            "clear_number": self.clear_number,
            **self.of_dag_run,
        }
        self.ti.run_id = fields["run_id"]
        context: dict[str, Any] = {"ti": self.ti, "task_instance": self.ti, "task": task}
        context.update(dag_run=SimpleNamespace(**fields), params={}, dag=self.dag, run_id=fields["run_id"])
        if self.store is not None:
            context["task_state_store"] = self.store
        return context

    def run(self, *, render: bool = False) -> Any:
        """Make the next attempt, deferral and resumption included, each in a process of its own."""
        task = copy.deepcopy(self.operator)
        context = self.context(task=task)
        if render:
            task.render_template_fields(context)
        work = partial(task.execute, context)
        while True:
            try:
                value = work()
            except TaskDeferred as deferred:
                event = self.wait_in_triggerer(deferred)
                context["task"] = self.ti.task = task = copy.deepcopy(self.operator)
                if render:
                    task.render_template_fields(context)
                arguments = json.loads(json.dumps(deferred.kwargs or {}))
                work = partial(getattr(task, deferred.method_name), context, event=event, **arguments)
            else:
                self.succeed(task, context)
                return value

    def succeed(self, task: Any, context: dict[str, Any]) -> None:
        """Do what Airflow does once it has recorded the task's success."""
        callbacks = task.on_success_callback or ()
        for callback in callbacks if isinstance(callbacks, (list, tuple)) else [callbacks]:
            callback(context)

    def wait_in_triggerer(self, deferred: TaskDeferred) -> dict[str, Any]:
        """Run a deferral's trigger as the triggerer does: from what the database keeps of it."""
        path, arguments = deferred.trigger.serialize()
        trigger_class = type(deferred.trigger)
        assert path == f"{trigger_class.__module__}.{trigger_class.__qualname__}"
        event = asyncio.run(first_event(trigger_class(**json.loads(json.dumps(arguments)))))
        self.events.append(event)
        return event


async def first_event(trigger: Any) -> dict[str, Any]:
    """Return what a trigger's first event carries, after its way through the database."""
    try:
        async with aclosing(trigger.run()) as events:
            async for event in events:
                payload: dict[str, Any] = json.loads(json.dumps(event.payload))
                return payload
        raise AssertionError("the trigger fired no event")
    finally:
        await quiet()  # what a closed event loop still had to run would be logged in some later test
