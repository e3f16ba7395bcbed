"""A connection that cannot be used: said once, for all tasks."""

# MISTAKE first: The connection 'nobody' cannot be used: its type is 'http'. Create a connection of type
#    'flora', with the API key as its password. These 3 tasks are not checked: unusable_connection.first,
#    unusable_connection.second, unusable_connection.upload

from __future__ import annotations

from airflow_provider_flora.operators.flora import FloraRunTechniqueOperator
from airflow_provider_flora.operators.uploads import FloraUploadAssetOperator

try:
    from airflow.sdk import DAG
except ImportError:  # Airflow 2.11
    from airflow.models.dag import DAG

with DAG("unusable_connection", schedule=None):
    for name in ("first", "second"):
        FloraRunTechniqueOperator(
            task_id=name, technique_id="editorial-still", inputs={"prompt": "a mug"}, flora_conn_id="nobody"
        )
    FloraUploadAssetOperator(task_id="upload", file="https://shop.example.com/mug.png", flora_conn_id="nobody")
