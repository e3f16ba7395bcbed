"""Techniques that Flora does not have, in an operator, a batch and a sensor."""

# MISTAKE run: Flora answered 404 not_found: Not found. [request id REQUEST] Technique
#    'product-relite' was not found with the key in FLORA_API_KEY. Check the id, and that the key belongs to
#    the id's workspace.
# MISTAKE batch: Flora answered 404 not_found: Not found. [request id REQUEST] Technique
#    'product-relite' was not found with the key in FLORA_API_KEY. Check the id, and that the key belongs to
#    the id's workspace.
# MISTAKE wait: Flora answered 404 not_found: Not found. [request id REQUEST] Technique
#    'product-relite' was not found with the key in FLORA_API_KEY. Check the id, and that the key belongs to
#    the id's workspace.

from __future__ import annotations

from airflow_provider_flora.operators.batch import FloraRunTechniqueBatchOperator
from airflow_provider_flora.operators.flora import FloraRunTechniqueOperator
from airflow_provider_flora.sensors.flora import FloraTechniqueRunSensor

try:
    from airflow.sdk import DAG
except ImportError:  # Airflow 2.11
    from airflow.models.dag import DAG

with DAG("unknown_technique", schedule=None):
    FloraRunTechniqueOperator(task_id="run", technique_id="product-relite", inputs={"light": "neon"})
    FloraRunTechniqueBatchOperator(
        task_id="batch", technique_id="product-relite", rows=[{"light": "neon"}], manifest="/nowhere/relit.jsonl"
    )
    FloraTechniqueRunSensor(task_id="wait", technique_id="product-relite", run_id="{{ params.run_id }}")
