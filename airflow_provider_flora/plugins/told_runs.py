"""Notes with each asset event of a run that the asset was told of it: Airflow's listener of asset events.

Airflow calls it in the process that stores the event, for events of triggers the triggerer's. It has a database,
which triggers have not. What is written here is stored with the event or not at all: so a watch that was killed at
any moment finds out whether its event was stored. Airflow logs errors of listeners and goes on.
"""

from __future__ import annotations

from typing import Any

from airflow_provider_flora.airflow_compat import hookimpl
from airflow_provider_flora.runs.run_events import TOLD_KEY, add_told_run, run_told_by


@hookimpl
def on_asset_event_emitted(asset_event: Any) -> None:
    """Note the run of an event that a trigger of the provider has fired."""
    run_id = None if asset_event.source_dag_id else run_told_by(asset_event.extra)
    if run_id is None:
        return
    from airflow_provider_flora.airflow_compat import change_asset_state

    change_asset_state(asset_event.asset, TOLD_KEY, lambda told: add_told_run(told, run_id))
