"""Runs when flora_pipeline_refresh has written a manifest, and reads in the event what there is to publish."""

from __future__ import annotations

import csv
import io
from datetime import datetime, timedelta, timezone
from typing import Any

from airflow.providers.common.compat.sdk import Asset, ObjectStoragePath, dag, get_current_context, task


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
        """What the events that started this run carry; there may be several."""
        context: Any = get_current_context()
        # The first name is Airflow 3's, the other Airflow 2's.
        name = "triggering_asset_events" if "triggering_asset_events" in context else "triggering_dataset_events"
        return [event.extra for events in context[name].values() for event in events]

    # [END howto_flora_on_asset]

    @task
    def publish(told: list[dict[str, Any]]) -> dict[str, int]:
        """The size of each picture that is new. In your DAG: put it into the shop."""
        published = {}
        for manifest in told:
            text = ObjectStoragePath(manifest["manifest"]).read_text()
            for row in csv.DictReader(io.StringIO(text)):
                if row["status"] == "completed":
                    published[row["product"]] = ObjectStoragePath(row["file"]).stat().st_size
        return published

    publish(manifests())


flora_pipeline_on_refresh()
