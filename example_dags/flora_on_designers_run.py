"""A designer's film is finished in Flora, and is downloaded and published: on Airflow 3.0 and later."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from airflow_provider_flora.operators.downloads import FloraDownloadOutputsOperator
from airflow_provider_flora.triggers.runs import FloraRunsTrigger

try:
    from airflow.sdk import Asset, AssetWatcher, dag, task
except ImportError:  # Airflow 2.11 has no asset watchers
    Asset = None

# A bucket with its Airflow connection, or a folder: file:///srv/videos
STORAGE = os.environ.get("FLORA_PIPELINE_STORAGE", "s3://aws_default@videos")

if Asset is not None:
    # [START howto_flora_on_designers_run]
    films = Asset(
        "designers_films",
        watchers=[
            AssetWatcher(name="flora", trigger=FloraRunsTrigger(technique_id="product-motion", exclude_own=True))
        ],
    )

    @dag(
        schedule=[films],
        tags=["flora", "example"],
        default_args={"retries": 2, "retry_delay": timedelta(seconds=10)},
    )
    def flora_on_designers_run():
        @task
        def finished(triggering_asset_events: Any = None) -> list[dict[str, str]]:
            """Return the films of all events that started this DAG run. By hand, there are none."""
            payloads = [event.extra["payload"] for events in triggering_asset_events.values() for event in events]
            return [{key: payload[key] for key in ("technique_id", "run_id")} for payload in payloads]

        download = FloraDownloadOutputsOperator.partial(
            task_id="download", download_to=f"{STORAGE}/films"
        ).expand_kwargs(finished())

        @task
        def publish(run: dict[str, Any]) -> list[str]:
            """Put your shop's or your channel's call here."""
            print(f"Published {run['run_id']}: {run['files'][0]['uri']}")
            return [file["uri"] for file in run["files"]]

        publish.expand(run=download.output)

    # [END howto_flora_on_designers_run]

    flora_on_designers_run()
