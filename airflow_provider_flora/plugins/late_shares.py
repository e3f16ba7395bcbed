"""Says for a task that failed too early what it has spent, if its DAG run has a budget.

If a template cannot be rendered, for example, a task fails before its operator can say so, and the others would
wait for it. Airflow calls this listener in the process of the task. It logs errors of listeners and goes on.
"""

from __future__ import annotations

from typing import Any

from airflow_provider_flora.airflow_compat import hookimpl, operator_class_of


@hookimpl
def on_task_instance_failed(task_instance: Any) -> None:
    """Write the register of a Flora task that has failed without one."""
    # The API server calls listeners too, with its row of a task that a person marks.
    if type(task_instance).__name__ != "RuntimeTaskInstance":
        return
    task = task_instance.task
    if getattr(operator_class_of(task), "starts_runs", False):
        from airflow_provider_flora.runs.dag_run_budget import Share

        Share.begin_late(task_instance.get_template_context(), task.log)
