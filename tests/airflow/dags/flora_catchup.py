"""A DAG of each hour, which has most of a day to catch up with."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from airflow.sdk import DAG

from airflow_provider_flora.operators.flora import FloraRunTechniqueOperator

HOURS = 18
_NOW = datetime.now(timezone.utc).replace(minute=0, second=0, microsecond=0)

with DAG(
    "flora_catchup",
    schedule=timedelta(hours=1),
    start_date=_NOW - timedelta(hours=HOURS),
    end_date=_NOW - timedelta(hours=2),
    catchup=True,
    max_active_runs=HOURS,
    is_paused_upon_creation=True,
    default_args={"retries": 2, "retry_delay": timedelta(seconds=1)},
):
    FloraRunTechniqueOperator(
        task_id="picture",
        technique_id="editorial-still",
        inputs={"prompt": "{{ logical_date }}"},
        deferrable=True,
        poll_interval=2,
    )
