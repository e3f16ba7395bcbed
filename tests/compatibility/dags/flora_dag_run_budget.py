"""Four pictures that start together, and a budget for two of them. The tasks defer."""

from __future__ import annotations

from airflow_provider_flora.operators.flora import FloraRunTechniqueOperator

try:
    from airflow.sdk import DAG
except ImportError:
    from airflow.models.dag import DAG

with DAG("flora_dag_run_budget", schedule=None):
    FloraRunTechniqueOperator.partial(
        task_id="picture",
        technique_id="editorial-still",
        deferrable=True,
        poll_interval=2,
        max_dag_run_cost=0.20,  # two runs cost 0.18
        on_budget="skip",
    ).expand(inputs=[{"prompt": f"budget {number}"} for number in range(4)])
