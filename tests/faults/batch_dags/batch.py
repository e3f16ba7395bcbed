"""One batch. What it runs, and where, is in the environment: an attempt may be any process."""

import os
from datetime import timedelta

from airflow.sdk import DAG

from airflow_provider_flora.operators.batch import FloraRunTechniqueBatchOperator

PLACE = os.environ["FLORA_BATCH_PLACE"]

with DAG("flora_batch", schedule=None):
    FloraRunTechniqueBatchOperator(
        task_id="run",
        technique_id="editorial-still",
        rows=f"{PLACE}/rows.csv",
        row_id="sku",
        inputs={"prompt": "{prompt}"},
        manifest=f"{PLACE}/manifest.jsonl",
        download_to=f"{PLACE}/files/",
        starts_at_once=int(os.environ["FLORA_BATCH_STARTS_AT_ONCE"]),
        max_active_runs=40,
        max_failed_rows="5%",
        deferrable=True,
        poll_interval=2.0,
        timeout=1200.0,
        retries=200,
        retry_delay=timedelta(seconds=1),
    )
