"""A DAG that an asset starts, which hears of all runs that end. Its task needs no worker."""

from __future__ import annotations

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, Asset, AssetWatcher

from airflow_provider_flora.triggers.runs import FloraRunsTrigger

ended = Asset(
    "ended_runs", watchers=[AssetWatcher(name="flora", trigger=FloraRunsTrigger(status=None, poll_interval=1))]
)

# Airflow reads watchers when it parses a DAG that is not paused.
with DAG("flora_watched", schedule=[ended], max_active_runs=1, is_paused_upon_creation=False):
    EmptyOperator(task_id="heard")
