"""A technique that needs an input which Flora's API does not take."""

# MISTAKE speak: 'speech' is missing: it takes audio, which Flora's API does not support as an input of a run
#    (10 s)

from __future__ import annotations

from airflow_provider_flora.operators.flora import FloraRunTechniqueOperator

try:
    from airflow.sdk import DAG
except ImportError:  # Airflow 2.11
    from airflow.models.dag import DAG

with DAG("unsupported", schedule=None):
    FloraRunTechniqueOperator(
        task_id="speak", technique_id="lip-sync", inputs={"portrait": "https://people.example.com/ada.png"}
    )
