"""Relight the photo of every product in a bucket each night. Only what is new or changed is run and paid.

`products.csv` has the columns `product`, `photo` (a public https:// URL) and `light`. The manifest has a line for
each product. It is an Airflow asset: see flora_pipeline_on_refresh.py. Unpausing this DAG pays for one night.
"""

import os
from datetime import datetime, timedelta, timezone

from airflow_provider_flora.operators.batch import FloraRunTechniqueBatchOperator

try:
    from airflow.sdk import Asset, dag
except ImportError:  # Airflow 2.11
    from airflow.datasets import Dataset as Asset
    from airflow.decorators import dag

# A bucket with its Airflow connection, or a folder: file:///srv/shop
STORAGE = os.environ.get("FLORA_PIPELINE_STORAGE", "s3://aws_default@shop")


@dag(
    schedule="@daily",
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
    catchup=False,
    max_active_runs=1,  # two DAG runs must not write one manifest at once
    default_args={"retries": 2, "retry_delay": timedelta(seconds=10)},
    params={"storage": STORAGE},
    tags=["flora", "example"],
)
def flora_pipeline_refresh():
    # [START howto_operator_flora_batch]
    FloraRunTechniqueBatchOperator(
        task_id="relight",
        technique_id="product-relight",
        rows="{{ params.storage }}/products.csv",
        row_id="product",
        inputs={"photo": "{photo}", "light": "{light}"},
        manifest="{{ params.storage }}/relit/manifest.jsonl",
        download_to="{{ params.storage }}/relit/files/",
        max_total_cost=50.0,  # USD; if the rows that changed cost more, none is started
        max_failed_rows="5%",
        deferrable=True,
        outlets=[Asset("flora_pipeline_manifest")],
    )
    # [END howto_operator_flora_batch]


flora_pipeline_refresh()
