"""A limit below the price, and limits and waits that are no numbers."""

# MISTAKE dear: A run of technique 'product-motion' costs 0.55 USD, more than max_run_cost=0.5 USD. Nothing
#    was started or charged. Raise max_run_cost or choose another technique.
# MISTAKE together: A run of technique 'product-motion' costs 0.55 USD, more than max_dag_run_cost=0.5 USD. Nothing
#    was started or charged. Raise max_dag_run_cost or choose another technique.
# MISTAKE words: max_dag_run_cost takes a number of at least 0, not 'five'.
# MISTAKE words: timeout takes a number of at least 0.001, not 'an hour'.
# MISTAKE words: max_run_cost takes a number of at least 0, not 'cheap'.

from __future__ import annotations

from airflow_provider_flora.operators.flora import FloraRunTechniqueOperator

try:
    from airflow.sdk import DAG
except ImportError:  # Airflow 2.11
    from airflow.models.dag import DAG

VIDEO = {"technique_id": "product-motion", "inputs": {"photo": "https://shop.example.com/mug.png"}}

with DAG("too_expensive", schedule=None):
    FloraRunTechniqueOperator(task_id="dear", max_run_cost=0.5, **VIDEO)
    FloraRunTechniqueOperator(task_id="together", max_dag_run_cost=0.5, **VIDEO)
    FloraRunTechniqueOperator(
        task_id="words", max_run_cost="cheap", max_dag_run_cost="five", timeout="an hour", **VIDEO
    )
