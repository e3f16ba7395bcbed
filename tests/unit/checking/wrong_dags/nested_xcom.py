"""An XComArg made of an XComArg, with which Airflow cannot load the DAG."""

# MISTAKE still: 'prompt' is an XComArg of an XComArg, and Airflow cannot load such a DAG. Pass it without the outer
#    XComArg()

from __future__ import annotations

from airflow_provider_flora.operators.flora import FloraRunTechniqueOperator

try:
    from airflow.sdk import DAG, XComArg, task
except ImportError:  # Airflow 2.11
    from airflow.decorators import task
    from airflow.models.dag import DAG
    from airflow.models.xcom_arg import XComArg


@task
def prompt() -> str:
    return "a mug"


with DAG("nested_xcom", schedule=None):
    FloraRunTechniqueOperator(task_id="still", technique_id="editorial-still", inputs={"prompt": XComArg(prompt())})
