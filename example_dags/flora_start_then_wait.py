"""Start a run, do something else while Flora works, and wait for the run only where its outputs are needed."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.providers.common.compat.sdk import Param, dag, task

from airflow_provider_flora.operators.flora import FloraRunTechniqueOperator
from airflow_provider_flora.sensors.flora import FloraTechniqueRunSensor

TECHNIQUE = "editorial-still"


@dag(
    schedule=None,
    tags=["flora", "example"],
    # A retry takes up the run of the try before it; it pays for a new one only where that one failed.
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
