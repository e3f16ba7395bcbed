"""Feed the outputs of one technique to another: a prompt becomes a still, the still becomes a film."""

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
    params={"prompt": Param("A paper lantern adrift on a calm lake", type="string")},
)
def flora_chain():
    # [START howto_operator_flora_chain]
    still = FloraRunTechniqueOperator(
        task_id="still",
        technique_id="editorial-still",
        inputs={"prompt": "{{ params.prompt }}"},
        returns="outputs",  # a list: the next task can be mapped over it
        deferrable=True,
        poll_interval=2,
    )

    def as_inputs(output: dict[str, str]) -> dict[str, str]:
        return {"photo": output["url"], "motion": "slow push in"}

    # One paid run for each output of `still`, however many there are.
    film = FloraRunTechniqueOperator.partial(
        task_id="film", technique_id="product-motion", deferrable=True, poll_interval=2
    ).expand(inputs=still.output.map(as_inputs))
    # [END howto_operator_flora_chain]

    @task
    def show(runs: Any) -> list[str]:
        urls = [url for run in runs for url in run["output_urls"]]
        print("\n".join(urls))
        return urls

    show(film.output)


flora_chain()
