"""A DAG with two mistakes, which the page about checks shows."""

from __future__ import annotations

from pathlib import Path

from airflow_provider_flora.operators.batch import FloraRunTechniqueBatchOperator
from airflow_provider_flora.operators.flora import FloraRunTechniqueOperator

try:
    from airflow.sdk import DAG, task
except ImportError:  # Airflow 2.11
    from airflow.decorators import task
    from airflow.models.dag import DAG


@task
def new_photos() -> list[dict[str, str]]:
    """The inputs of a run for each photo of today."""
    return []


with DAG("shop", schedule=None, params={"light": "golden hour"}):
    # [START howto_check]
    FloraRunTechniqueOperator(
        task_id="hero",
        technique_id="product-motion",
        inputs={"foto": "https://shop.example.com/mug.png", "motion": "{{ var.value.motion }}"},
    )
    FloraRunTechniqueBatchOperator(
        task_id="posters",
        technique_id="editorial-still",
        rows=Path(__file__).parent / "products.csv",
        row_id="product",
        inputs={"prompt": "A poster of {scene}"},
        manifest="s3://aws_default@shop/posters.jsonl",
    )
    FloraRunTechniqueOperator.partial(task_id="relight", technique_id="product-relight").expand(inputs=new_photos())
    # [END howto_check]
