"""Run when flora_pipeline_refresh has written a manifest, and read from the asset event what to publish."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

from airflow_provider_flora.batch import read_manifest

try:
    from airflow.sdk import Asset, ObjectStoragePath, dag, get_current_context, task
except ImportError:  # Airflow 2.11
    from airflow.datasets import Dataset as Asset
    from airflow.decorators import dag, task
    from airflow.io.path import ObjectStoragePath
    from airflow.operators.python import get_current_context


@dag(
    # [START howto_flora_on_asset_schedule]
    schedule=[Asset("flora_pipeline_manifest")],
    # [END howto_flora_on_asset_schedule]
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
    catchup=False,
    tags=["flora", "example"],
    default_args={"retries": 2, "retry_delay": timedelta(seconds=10)},
)
def flora_pipeline_on_refresh():
    # [START howto_flora_on_asset]
    @task
    def manifests() -> list[dict[str, Any]]:
        """The extra of each asset event that started this DAG run. There may be several."""
        context: Any = get_current_context()
        # Airflow 3 has the first name, Airflow 2 the other.
        name = "triggering_asset_events" if "triggering_asset_events" in context else "triggering_dataset_events"
        return [event.extra for events in context[name].values() for event in events]

    # [END howto_flora_on_asset]

    # [START howto_flora_read_manifest]
    @task
    def publish(refreshed: list[dict[str, Any]]) -> dict[str, int]:
        """Return the size of each picture. In your DAG: put it into the shop."""
        published = {}
        for manifest in {event["manifest"] for event in refreshed}:
            for row in read_manifest(manifest):
                for file in row["files"]:
                    published[row["row_id"]] = ObjectStoragePath(file["uri"]).stat().st_size
        return published

    # [END howto_flora_read_manifest]

    publish(manifests())


flora_pipeline_on_refresh()
