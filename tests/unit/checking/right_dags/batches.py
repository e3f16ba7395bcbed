"""Batches: the rows that can be read are counted, those that a manifest has are not, and the others are named."""

# LEFT written: '{folder}/briefs.csv' is not there yet: a task before this one may write it; it is read at run time
# LEFT elsewhere: '/nowhere/briefs.csv' is not looked for: this machine has no folder '/nowhere'; it is read at run
#    time
# LEFT stored: 's3://shop/briefs.csv' is in a storage; it is read at run time
# LEFT of_a_task: 'rows' comes from the task 'briefs' at run time
# LEFT columns: 'inputs' is a template: {{ var.json.columns }}
# LEFT limited: 3 rows cost 0.54 USD (0.18 USD each), more than max_total_cost=0.2 USD. Nothing was started now.
#    Raise max_total_cost, or give fewer rows. At run time, rows that the manifest has are not counted.
# LEFT photos: '/nowhere/a.png' is not looked for: this machine has no folder '/nowhere'; it is read at run time
# LEFT photos: 's3://shop/b.png' is in a storage; it is read at run time
# LEFT photos: 'photo' comes from the task 'briefs' at run time
# COST batches: 11 x 0.18 + 2 x 0.01 = 2.00 USD, 0.09 USD for each row of briefs.csv, 0.09 USD for each row of
#    briefs.csv, 0.09 USD for each row of s3://shop/briefs.csv, and 0.09 USD for each row of briefs

from __future__ import annotations

from pathlib import Path

from airflow_provider_flora.operators.batch import FloraRunTechniqueBatchOperator

try:
    from airflow.sdk import DAG, task
except ImportError:  # Airflow 2.11
    from airflow.decorators import task
    from airflow.models.dag import DAG

FOLDER = Path(__file__).parent
RELIGHT = {"technique_id": "product-relight", "rows": str(FOLDER / "products.csv"), "row_id": "sku"}
STILL = {"technique_id": "editorial-still", "manifest": "s3://shop/stills.jsonl"}


@task
def briefs() -> list[dict[str, str]]:
    return []


with DAG("batches", schedule=None):
    found = briefs()
    FloraRunTechniqueBatchOperator(task_id="counted", manifest=str(FOLDER / "none.jsonl"), **RELIGHT)
    FloraRunTechniqueBatchOperator(task_id="has_some", manifest=str(FOLDER / "relit.jsonl"), **RELIGHT)
    FloraRunTechniqueBatchOperator(
        task_id="limited", manifest="s3://shop/relit.jsonl", max_total_cost=0.2, **RELIGHT
    )
    FloraRunTechniqueBatchOperator(
        task_id="photos",
        technique_id="product-relight",
        rows=[
            {"photo": photo, "light": "neon"}
            for photo in ("/nowhere/a.png", "s3://shop/b.png", found, "https://shop.example.com/c.png")
        ][:3],
        manifest="/nowhere/relit.jsonl",
        download_to="/nowhere",
    )
    FloraRunTechniqueBatchOperator(
        task_id="columns",
        technique_id="tagline-writer",
        rows=[{"name": "mug"}, {"name": "lamp"}],
        inputs="{{ var.json.columns }}",
        manifest="/nowhere/taglines.jsonl",
    )
    found >> FloraRunTechniqueBatchOperator(task_id="written", rows=FOLDER / "briefs.csv", **STILL)
    FloraRunTechniqueBatchOperator(task_id="elsewhere", rows="/nowhere/briefs.csv", **STILL)
    FloraRunTechniqueBatchOperator(
        task_id="stored", rows="s3://shop/briefs.csv", inputs={"prompt": "A poster of {name}"}, **STILL
    )
    FloraRunTechniqueBatchOperator(task_id="of_a_task", rows=found, **STILL)
