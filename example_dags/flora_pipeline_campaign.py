"""A campaign from a table: a text technique writes taglines for each brief, an image technique makes its poster.

`briefs.csv` has the columns `campaign` and `brief`. The manifest of the first batch is the table of the second. If
you change the table and run the DAG again, only the rows that changed are run and paid, in both steps.
"""

import os
from datetime import timedelta

from airflow_provider_flora.operators.batch import FloraRunTechniqueBatchOperator

try:
    from airflow.sdk import dag
except ImportError:  # Airflow 2.11
    from airflow.decorators import dag

# A bucket with its Airflow connection, or a folder: file:///srv/shop
STORAGE = os.environ.get("FLORA_PIPELINE_STORAGE", "s3://aws_default@shop")


@dag(
    schedule=None,
    max_active_runs=1,  # two DAG runs must not write one manifest at once
    default_args={"retries": 2, "retry_delay": timedelta(seconds=10)},
    params={"storage": STORAGE},
    tags=["flora", "example"],
)
def flora_pipeline_campaign():
    # [START howto_operator_flora_batch_chain]
    taglines = FloraRunTechniqueBatchOperator(
        task_id="taglines",
        technique_id="tagline-writer",
        rows="{{ params.storage }}/briefs.csv",
        row_id="campaign",
        inputs={"brief": "{brief}"},
        manifest="{{ params.storage }}/campaign/taglines.jsonl",
        deferrable=True,
    )
    posters = FloraRunTechniqueBatchOperator(
        task_id="posters",
        technique_id="editorial-still",
        rows="{{ params.storage }}/campaign/taglines.jsonl",
        # The columns of a manifest: row_id, run_id, and the inputs and outputs of the run.
        inputs={"prompt": "A poster for {brief}. It says one of these lines: {taglines}"},
        manifest="{{ params.storage }}/campaign/posters.jsonl",
        download_to="{{ params.storage }}/campaign/posters/",
        file_name="{row_id}.{ext}",
        max_run_cost=0.50,  # USD
        deferrable=True,
    )
    taglines >> posters
    # [END howto_operator_flora_batch_chain]


flora_pipeline_campaign()
