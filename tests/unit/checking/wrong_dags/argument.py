"""The default of an argument of the DAG, which a scheduled run has, does not fit."""

# MISTAKE still: 'prompt' takes a text, not 7

from __future__ import annotations

from airflow_provider_flora.operators.flora import FloraRunTechniqueOperator

try:
    from airflow.sdk import dag
except ImportError:  # Airflow 2.11
    from airflow.decorators import dag


@dag(schedule=None)
def argument(number: int = 7) -> None:
    FloraRunTechniqueOperator(task_id="still", technique_id="editorial-still", inputs={"prompt": number})


argument()
