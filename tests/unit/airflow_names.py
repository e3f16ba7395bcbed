"""What only the tests take from Airflow, on 2.11 and 3.x. What the package takes is in its own `airflow_compat`."""

from __future__ import annotations

from airflow_provider_flora.airflow_compat import airflow_is_at_least

HAS_HITL = airflow_is_at_least(3, 1)
"""Whether this Airflow has human-in-the-loop tasks."""

try:
    from airflow.sdk import DAG, AssetAlias, TaskGroup, task
    from airflow.sdk.io.store import _STORE_CACHE as STORES
    from airflow.sdk.io.store import attach
except ImportError:
    from airflow.datasets import DatasetAlias as AssetAlias
    from airflow.decorators import task
    from airflow.io.store import _STORE_CACHE as STORES
    from airflow.io.store import attach
    from airflow.models.dag import DAG
    from airflow.utils.task_group import TaskGroup

try:
    from airflow.sdk.exceptions import AirflowRescheduleException
except ImportError:
    from airflow.exceptions import AirflowRescheduleException

try:
    from airflow.serialization.serialized_objects import DagSerialization
except ImportError:
    from airflow.serialization.serialized_objects import SerializedDAG as DagSerialization

__all__ = [
    "DAG",
    "HAS_HITL",
    "STORES",
    "AirflowRescheduleException",
    "AssetAlias",
    "DagSerialization",
    "TaskGroup",
    "attach",
    "task",
]
