"""Names of output files: one for several outputs, a field that there is not, a folder that leads out."""

# MISTAKE alike: file_name='{technique}.{ext}' gives one name to several outputs of technique
#    'tech_book-drop': 'front', 'back'. Add {output_id} or {index} to it. Nothing was started or charged.
# MISTAKE batch: row '1', position 1: file_name gives one name to several of its outputs. Add {output_id} or
#    {index} to it
# MISTAKE relative: The folder 'covers' is a relative path. Use an absolute path or a URI such as
#    s3://bucket/folder.

from __future__ import annotations

from airflow_provider_flora.operators.batch import FloraRunTechniqueBatchOperator
from airflow_provider_flora.operators.flora import FloraRunTechniqueOperator

try:
    from airflow.sdk import DAG
except ImportError:  # Airflow 2.11
    from airflow.models.dag import DAG

COVERS = {"technique_id": "book-drop", "inputs": {"cover": "https://books.example.com/1.png"}}

with DAG("file_names", schedule=None):
    FloraRunTechniqueOperator(
        task_id="alike", download_to="s3://books/{{ ds }}/", file_name="{technique}.{ext}", **COVERS
    )
    FloraRunTechniqueOperator(task_id="relative", download_to="covers", **COVERS)
    FloraRunTechniqueBatchOperator(
        task_id="batch",
        technique_id="book-drop",
        rows=[{"cover": "https://books.example.com/1.png"}],
        manifest="s3://books/covers.jsonl",
        download_to="s3://books/covers/",
        file_name="{row_id}.{ext}",
    )
