"""The state that a task passes to its next attempt: plain JSON in Airflow's task state store (3.3 and later).

    key             value                                                     read by
    flora_run       the record of the task's run                              ``runs.record``
    flora_assets    the Flora assets that the task has uploaded               ``files.uploads.record``
    flora_files     the files that the task has downloaded                    ``files.downloads.record``
    flora_batch     the head of a batch's journal                             ``batch.journal``
    flora_rows_0    the records of a batch's rows, in pages                   ``batch.journal``
    flora_progress  how far a batch is, in words                              people
    flora_refused   the first of Flora's refusals to show a run               ``sensors.flora``
    flora_share     what the task has spent of its DAG run's budget           ``runs.dag_run_budget``

Values are read leniently: the next attempt may run another release.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

RUN, FLORA_ASSETS, FILES, REFUSAL = "flora_run", "flora_assets", "flora_files", "flora_refused"
BATCH, BATCH_ROWS, PROGRESS = "flora_batch", "flora_rows_", "flora_progress"
SHARE = "flora_share"


def store_of(context: Mapping[str, Any]) -> Any:
    """Return the task state store, or ``None`` if this Airflow has none."""
    return context.get("task_state_store")


def save(store: Any, key: str, value: Any) -> None:
    """Store a value of plain JSON for as long as the task instance can be cleared.

    :param store: the store that :func:`store_of` returns.
    """
    from airflow_provider_flora.airflow_compat import NEVER_EXPIRE

    store.set(key, value, retention=NEVER_EXPIRE)
