"""Airflow's task state store (3.3 and later), for what a task must still know in its next try."""

from __future__ import annotations

from typing import Any


def keep(store: Any, key: str, value: Any) -> None:
    """Keep a value of plain JSON for as long as the task instance can be cleared.

    :param store: ``context["task_state_store"]``.
    """
    from airflow.sdk.execution_time.context import NEVER_EXPIRE

    store.set(key, value, retention=NEVER_EXPIRE)
