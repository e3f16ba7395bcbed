"""What the examples leave out: waits in the worker, connections from each place that Airflow reads, an upload."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from airflow_provider_flora.operators.flora import FloraRunTechniqueOperator
from airflow_provider_flora.operators.uploads import FloraUploadAssetOperator

try:
    from airflow.sdk import DAG
except ImportError:  # Airflow 2.11
    from airflow.models.dag import DAG

STILL: dict[str, Any] = {"technique_id": "editorial-still", "poll_interval": 1}
DEFERRED: dict[str, dict[str, Any]] = {
    "environment": {},
    "database": {"flora_conn_id": "flora_in_database"},
    "secrets_backend": {"flora_conn_id": "flora_in_secrets_backend"},
}

with DAG(
    "flora_ways_to_run", schedule=None, default_args={"retries": 2, "retry_delay": timedelta(seconds=5)}
) as dag:
    FloraRunTechniqueOperator(task_id="synchronous", inputs={"prompt": "synchronous"}, deferrable=False, **STILL)
    for place, connection in DEFERRED.items():
        FloraRunTechniqueOperator(
            task_id=f"deferred_{place}", inputs={"prompt": place}, deferrable=True, **STILL, **connection
        )
    FloraRunTechniqueOperator.partial(
        task_id="mapped",
        flora_conn_id="flora_in_database",
        deferrable=True,
        **STILL,
    ).expand(inputs=[{"prompt": f"mapped {row}"} for row in (1, 2)])
    FloraUploadAssetOperator(task_id="upload", file=os.environ["FLORA_PHOTO"])
