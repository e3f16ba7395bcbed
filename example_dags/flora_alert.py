"""Report when Flora is out of credits, from the exception that a callback gets."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow_provider_flora import FloraCreditsError
from airflow_provider_flora.operators.flora import FloraRunTechniqueOperator

try:
    from airflow.sdk import Param, dag
except ImportError:  # Airflow 2.11
    from airflow.decorators import dag
    from airflow.models.param import Param


# [START howto_flora_alert]
def report_credits(context: Any) -> None:
    """Called by Airflow when the task has failed. In your DAG: send a message."""
    error = context["exception"]
    if isinstance(error, FloraCreditsError):
        print(f"Flora is out of credits, top up the workspace ({error.kind}, {error.code}, run {error.run_id})")


# [END howto_flora_alert]


@dag(
    schedule=None,
    tags=["flora", "example"],
    # A retry resumes the run of the attempt before it. It pays for a new run only if that one failed.
    default_args={"retries": 2, "retry_delay": timedelta(seconds=10)},
    params={"prompt": Param("A paper boat", type="string")},
)
def flora_alert():
    # [START howto_flora_alert_task]
    FloraRunTechniqueOperator(
        task_id="picture",
        technique_id="editorial-still",
        inputs={"prompt": "{{ params.prompt }}"},
        deferrable=True,
        on_failure_callback=report_credits,
    )
    # [END howto_flora_alert_task]


flora_alert()
