"""Wait for what a run cost, which Flora reports some time after the run has completed."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow_provider_flora.hooks.flora import FloraHook
from airflow_provider_flora.operators.flora import FloraRunTechniqueOperator

try:
    from airflow.sdk import Param, PokeReturnValue, dag, task
except ImportError:  # Airflow 2.11
    from airflow.decorators import dag, task
    from airflow.models.param import Param
    from airflow.sensors.base import PokeReturnValue


@dag(
    schedule=None,
    tags=["flora", "example"],
    # A retry resumes the run of the attempt before it. It pays for a new run only if that one failed.
    default_args={"retries": 2, "retry_delay": timedelta(seconds=10)},
    params={"prompt": Param("A paper boat", type="string")},
)
def flora_late_charge():
    picture = FloraRunTechniqueOperator(
        task_id="picture",
        technique_id="editorial-still",
        inputs={"prompt": "{{ params.prompt }}"},
        deferrable=True,
        poll_interval=2,
    )

    # [START howto_flora_late_charge]
    @task.sensor(poke_interval=60, timeout=24 * 60 * 60, mode="reschedule")
    def charge(run: dict[str, Any]) -> PokeReturnValue:
        """Return the charge in USD once Flora reports it."""
        cost = FloraHook().get_technique_run(run["technique_id"], run["run_id"]).charged_cost
        return PokeReturnValue(is_done=cost is not None, xcom_value=cost)

    charge(picture.output)
    # [END howto_flora_late_charge]


flora_late_charge()
