"""Start a run, do something else in the meantime, and wait for the run only where its outputs are needed."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow_provider_flora.operators.flora import FloraRunTechniqueOperator
from airflow_provider_flora.sensors.flora import FloraTechniqueRunSensor

try:
    from airflow.sdk import Param, dag, task
except ImportError:  # Airflow 2.11
    from airflow.decorators import dag, task
    from airflow.models.param import Param

TECHNIQUE = "editorial-still"


@dag(
    schedule=None,
    tags=["flora", "example"],
    # A retry resumes the run of the attempt before it. It pays for a new run only if that one failed.
    default_args={"retries": 2, "retry_delay": timedelta(seconds=10)},
    params={"prompt": Param("A ceramic mug in morning light", type="string")},
)
def flora_start_then_wait():
    # [START howto_sensor_flora_technique_run]
    start = FloraRunTechniqueOperator(
        task_id="start",
        technique_id=TECHNIQUE,
        inputs={"prompt": "{{ params.prompt }}"},
        wait_for_completion=False,
    )
    started: Any = start.output
    wait = FloraTechniqueRunSensor(
        task_id="wait",
        technique_id=TECHNIQUE,
        run_id=started["run_id"],
        deferrable=True,
        poke_interval=2,
        timeout=3600,
    )
    # [END howto_sensor_flora_technique_run]

    @task
    def write_caption(prompt: str) -> str:
        return f"Today: {prompt}."

    @task
    def publish(caption: str, pictures: list[str]) -> str:
        return f"{caption} {pictures[0]}"

    finished: Any = wait.output
    publish(write_caption("{{ params.prompt }}"), finished["output_urls"])


flora_start_then_wait()
