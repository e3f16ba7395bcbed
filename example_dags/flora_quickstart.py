"""Run one Flora technique and print its outputs.

Needs a connection `flora_default` of type `flora` with your API key. To run another technique,
trigger the DAG with its id and its inputs.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow_provider_flora.operators.flora import FloraRunTechniqueOperator

try:
    from airflow.sdk import Param, dag, task
except ImportError:  # Airflow 2.11
    from airflow.decorators import dag, task
    from airflow.models.param import Param


@dag(
    schedule=None,
    tags=["flora", "example"],
    # A retry resumes the run of the attempt before it. It pays for a new run only if that one failed.
    default_args={"retries": 2, "retry_delay": timedelta(seconds=10)},
    # The inputs are a dict. Without this, the template below would turn them into a string.
    render_template_as_native_obj=True,
    params={
        "technique_id": Param("editorial-still", type="string", description="Id or slug of the technique"),
        "inputs": Param(
            {"prompt": "A red sneaker on wet asphalt at night"},
            type="object",
            description="A value for each input, by the input's id",
        ),
    },
)
def flora_quickstart():
    # [START howto_operator_flora_run_technique]
    run = FloraRunTechniqueOperator(
        task_id="run_technique",
        technique_id="{{ params.technique_id }}",
        inputs="{{ params.inputs }}",
        deferrable=True,  # no worker slot is used while the run goes on
        poll_interval=2,
    )
    # [END howto_operator_flora_run_technique]

    @task
    def show(urls: list[str], texts: list[str], cost: float | None) -> None:
        print(f"The run cost {cost} USD")
        for output in urls + texts:
            print(output)

    outputs: Any = run.output
    show(outputs["output_urls"], outputs["output_texts"], outputs["charged_cost"])


flora_quickstart()
