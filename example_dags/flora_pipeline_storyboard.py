"""From a brief to videos: lines of text, a still for each line, a video for each still.

Only the videos are downloaded.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from airflow_provider_flora.operators.flora import FloraRunTechniqueOperator

try:
    from airflow.sdk import Asset, Param, dag, task
except ImportError:  # Airflow 2.11
    from airflow.datasets import Dataset as Asset
    from airflow.decorators import dag, task
    from airflow.models.param import Param

# A bucket with its Airflow connection, or a folder: file:///srv/videos
STORAGE = os.environ.get("FLORA_PIPELINE_STORAGE", "s3://aws_default@videos")
VIDEOS = Asset("flora_pipeline_videos")


@dag(
    schedule=None,
    tags=["flora", "example"],
    # A retry resumes the run of the attempt before it and keeps the files that are there. It pays for a new run
    # only if that one failed.
    default_args={"retries": 2, "retry_delay": timedelta(seconds=10)},
    params={
        "brief": Param("A lantern shop that opens at night", type="string"),
        "scenes": Param(3, type="integer", minimum=1, maximum=6, description="The number of videos at most"),
        "storage": Param(STORAGE, type="string", description="Where the videos go"),
    },
)
def flora_pipeline_storyboard():
    # [START howto_flora_storyboard]
    lines = FloraRunTechniqueOperator(
        task_id="lines",
        technique_id="tagline-writer",
        inputs={"brief": "{{ params.brief }}"},
        deferrable=True,
        poll_interval=2,
    )
    texts: Any = lines.output

    @task
    def scenes(texts: list[str], params: dict[str, Any] | None = None) -> list[dict[str, str]]:
        """Each line is a scene: the prompt of one still."""
        assert params is not None
        found = [line.strip(" -*0123456789.") for line in texts[0].splitlines() if line.strip()]
        return [{"prompt": line} for line in found[: params["scenes"]]]

    still = FloraRunTechniqueOperator.partial(
        task_id="still", technique_id="editorial-still", deferrable=True, poll_interval=2
    ).expand(inputs=scenes(texts["output_texts"]))

    def as_inputs(run: dict[str, Any]) -> dict[str, str]:
        return {"photo": run["output_urls"][0], "motion": "slow push in"}

    # Flora reads each still from its own URL. Only the videos are downloaded.
    video = FloraRunTechniqueOperator.partial(
        task_id="video",
        technique_id="product-motion",
        download_to="{{ params.storage }}/storyboard/{{ run_id | replace(':', '-') }}/",
        file_name="{{ '%02d' | format(ti.map_index + 1) }}-{flora_run_id}-{output_id}.{ext}",
        deferrable=True,
        poll_interval=2,
        outlets=[VIDEOS],  # the asset event of each video has its run, its file and its cost
    ).expand(inputs=still.output.map(as_inputs))
    # [END howto_flora_storyboard]

    @task
    def reel(runs: Any) -> list[str]:
        """The videos in the order of the lines."""
        return [file["uri"] for run in runs for file in run["files"]]

    reel(video.output)


flora_pipeline_storyboard()
