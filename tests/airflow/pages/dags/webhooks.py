"""A DAG that Flora's webhooks start."""

from __future__ import annotations

from itertools import islice
from typing import Any

from airflow.sdk import Asset, dag, task

from airflow_provider_flora.hooks.flora import FloraHook


# [START howto_flora_webhook]
@dag(schedule=[Asset("flora://flora_default/runs/completed")])
def flora_webhook():
    @task(retries=5, retry_delay=10)
    def find_runs(triggering_asset_events: Any = None) -> list[dict[str, Any]]:
        """Return the runs that have completed, with their techniques and outputs. There may be several."""
        events = [event for found in triggering_asset_events.values() for event in found]
        ids = {event.extra["payload"]["run_id"] for event in events}
        history = islice(FloraHook().list_technique_runs(status="completed"), 1000)
        runs = [run.model_dump() for run in history if run.run_id in ids]
        if len(runs) < len(ids):
            raise LookupError(f"Flora's history does not show all of {ids} yet")
        return runs

    find_runs()


flora_webhook()
# [END howto_flora_webhook]
