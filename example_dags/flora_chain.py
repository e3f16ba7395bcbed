"""Feed the outputs of one technique to another: a prompt becomes a still, the still becomes a video."""

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
    video = FloraRunTechniqueOperator.partial(
        task_id="video", technique_id="product-motion", deferrable=True, poll_interval=2
    ).expand(inputs=still.output.map(as_inputs))
    # [END howto_operator_flora_chain]

    @task
    def show(runs: Any) -> list[str]:
        urls = [url for run in runs for url in run["output_urls"]]
        print("\n".join(urls))
        return urls

    show(video.output)


flora_chain()
