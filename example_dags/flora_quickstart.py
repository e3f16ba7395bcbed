"""Run one Flora technique and print what it gave.

Needs a connection `flora_default` of type `flora` with your API key. Trigger the DAG with another technique
and its inputs to run that one.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.providers.common.compat.sdk import Param, dag, task

from airflow_provider_flora.operators.flora import FloraRunTechniqueOperator


@dag(
    schedule=None,
    tags=["flora", "example"],
    # A retry takes up the run of the try before it; it pays for a new one only where that one failed.
    default_args={"retries": 2, "retry_delay": timedelta(seconds=10)},
    # The inputs are a dict: without this the template below would turn them into its text.
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
        deferrable=True,  # no worker is held while Flora works
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
