"""From a brief to films: lines of text, a picture for each, a film of each picture. Files only at the end."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from airflow.providers.common.compat.sdk import Asset, Param, dag, task

from airflow_provider_flora.operators.flora import FloraRunTechniqueOperator

# A bucket with its Airflow connection, or a folder: file:///srv/films
STORAGE = os.environ.get("FLORA_PIPELINE_STORAGE", "s3://aws_default@films")
FILMS = Asset("flora_pipeline_films")


@dag(
    schedule=None,
    tags=["flora", "example"],
    # A retry takes up the run of the try before it, and the files that are there; it pays for a new run only where
    # that one failed.
    default_args={"retries": 2, "retry_delay": timedelta(seconds=10)},
    params={
        "brief": Param("A lantern shop that opens at night", type="string"),
        "scenes": Param(3, type="integer", minimum=1, maximum=6, description="At most so many films"),
        "storage": Param(STORAGE, type="string", description="Where the films go"),
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
        """A line is a scene: what each still is to show."""
        assert params is not None
        found = [line.strip(" -*0123456789.") for line in texts[0].splitlines() if line.strip()]
        return [{"prompt": line} for line in found[: params["scenes"]]]

    still = FloraRunTechniqueOperator.partial(
        task_id="still", technique_id="editorial-still", deferrable=True, poll_interval=2
    ).expand(inputs=scenes(texts["output_texts"]))

    def as_inputs(run: dict[str, Any]) -> dict[str, str]:
        return {"photo": run["output_urls"][0], "motion": "slow push in"}

    # Flora reads each still where it has put it. Only the films come home.
    film = FloraRunTechniqueOperator.partial(
        task_id="film",
        technique_id="product-motion",
        download_to="{{ params.storage }}/storyboard/{{ run_id | replace(':', '-') }}/",
        file_name="{{ '%02d' | format(ti.map_index + 1) }}-{run_id}-{output_id}.{ext}",
        deferrable=True,
        poll_interval=2,
        outlets=[FILMS],  # the event of each film tells its run, its file and its cost
    ).expand(inputs=still.output.map(as_inputs))
    # [END howto_flora_storyboard]

    @task
    def reel(runs: Any) -> list[str]:
        """The films in the order of the lines."""
        return [file["uri"] for run in runs for file in run["files"]]

    reel(film.output)


flora_pipeline_storyboard()
