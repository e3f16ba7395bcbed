"""Rows with mistakes, in a list and in a file."""

# MISTAKE listed: row '2', position 2: 'light' is missing: it takes a text
# MISTAKE listed: row '3', position 3: 'photo' takes the https:// URL of an image, not
#    'http://shop.example.com/mug.png'
# MISTAKE table: row 'lamp', position 3: 'sku' is 'lamp', as in row 2. Give each row its own
# MISTAKE table: row 'mug', position 1: 'light' is missing: it takes a text
# MISTAKE columns: inputs['light'] is '{lihgt}', and no row has such a column. They have 'sku', 'photo',
#    'light'.
# MISTAKE names: row '1', position 1: 'lite' is not an input of this technique; it has: 'photo', 'light',
#    'background'
# MISTAKE names: row '1', position 1: 'light' is missing: it takes a text
# MISTAKE gone: There is no file '{folder}/gone.csv' on the worker. Use its full path, or a storage that all workers
#    reach. Nothing comes before this task that could write it.
# MISTAKE form: rows takes a path or URI that ends in .csv, .jsonl, .ndjson, or a list of dicts, not
#    's3://shop/products.xlsx'.

from __future__ import annotations

from pathlib import Path

from airflow_provider_flora.operators.batch import FloraRunTechniqueBatchOperator

try:
    from airflow.sdk import DAG
except ImportError:  # Airflow 2.11
    from airflow.models.dag import DAG

PHOTO = "https://shop.example.com/mug.png"
BATCH = {"technique_id": "product-relight", "manifest": "/nowhere/relit.jsonl"}
TABLE = str(Path(__file__).parent / "products.csv")

with DAG("batch_rows", schedule=None):
    FloraRunTechniqueBatchOperator(
        task_id="listed",
        rows=[
            {"photo": PHOTO, "light": "neon"},
            {"photo": PHOTO},
            {"photo": "http://shop.example.com/mug.png", "light": "x"},
        ],
        **BATCH,
    )
    for name, inputs in {
        "table": {"photo": "{photo}", "light": "{light}"},
        "columns": {"photo": "{photo}", "light": "{lihgt}"},
    }.items():
        FloraRunTechniqueBatchOperator(task_id=name, rows=TABLE, row_id="sku", inputs=inputs, **BATCH)
    FloraRunTechniqueBatchOperator(
        task_id="names",
        rows=[{"photo": PHOTO, "light": "neon"}],
        inputs={"photo": "{photo}", "lite": "{light}"},
        **BATCH,
    )
    FloraRunTechniqueBatchOperator(task_id="gone", rows=Path(__file__).parent / "gone.csv", **BATCH)
    FloraRunTechniqueBatchOperator(task_id="form", rows="s3://shop/products.xlsx", **BATCH)
