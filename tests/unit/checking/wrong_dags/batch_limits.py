"""Batches that cost more than they may."""

# MISTAKE total: 3 rows cost 0.27 USD (0.09 USD each), more than max_total_cost=0.2 USD. Nothing was started
#    now. Raise max_total_cost, or give fewer rows.
# MISTAKE each: A run of technique 'editorial-still' costs 0.09 USD, more than max_run_cost=0.05 USD. Nothing
#    was started or charged. Raise max_run_cost or choose another technique.
# MISTAKE later: A run of technique 'editorial-still' costs 0.09 USD, more than max_run_cost=0.05 USD. Nothing
#    was started or charged. Raise max_run_cost or choose another technique.
# MISTAKE later: 'promt' is not an input of this technique; it has: 'prompt'
# MISTAKE later: 'prompt' is missing: it takes a text

from __future__ import annotations

from pathlib import Path

from airflow_provider_flora.operators.batch import FloraRunTechniqueBatchOperator

try:
    from airflow.sdk import DAG
except ImportError:  # Airflow 2.11
    from airflow.models.dag import DAG

BATCH = {
    "technique_id": "editorial-still",
    "rows": [{"prompt": "a mug"}, {"prompt": "a lamp"}, {"prompt": "a chair"}],
}

with DAG("batch_limits", schedule=None):
    FloraRunTechniqueBatchOperator(
        task_id="total", max_total_cost=0.2, manifest=str(Path(__file__).parent / "stills.jsonl"), **BATCH
    )
    FloraRunTechniqueBatchOperator(task_id="each", max_run_cost=0.05, manifest="/nowhere/stills.jsonl", **BATCH)
    FloraRunTechniqueBatchOperator(
        task_id="later",
        technique_id="editorial-still",
        rows="s3://shop/products.csv",
        inputs={"promt": "A poster of {name}"},
        max_run_cost=0.05,
        manifest="s3://shop/stills.jsonl",
    )
