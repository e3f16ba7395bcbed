"""Fifty pictures that start together and a budget for twenty of them; and a task that fails before it begins."""

from __future__ import annotations

from airflow.sdk import DAG

from airflow_provider_flora.operators.flora import FloraRunTechniqueOperator

PRICE = 0.09

with DAG("flora_budget", schedule=None, max_active_tasks=50):
    FloraRunTechniqueOperator.partial(
        task_id="picture",
        technique_id="editorial-still",
        deferrable=False,
        poll_interval=1,
        max_dag_run_cost=20 * PRICE,
        on_budget="skip",
        retries=2,
        retry_delay=5,
    ).expand(inputs=[{"prompt": f"picture {number}"} for number in range(50)])

with DAG("flora_budget_early", schedule=None):
    broken = FloraRunTechniqueOperator(
        task_id="broken", technique_id="editorial-still", inputs={"prompt": "{{ 1 / 0 }}"}
    )
    broken >> FloraRunTechniqueOperator(
        task_id="picture",
        technique_id="editorial-still",
        inputs={"prompt": "a cup"},
        max_dag_run_cost=PRICE,
        trigger_rule="all_done",
    )
