"""An operator of one's own, with an input that the technique does not have."""

# MISTAKE relight: 'lamp' is not an input of this technique; it has: 'photo', 'light', 'background'
# MISTAKE relight: 'light' is missing: it takes a text
# MISTAKE mapped: 'lamp' is not an input of this technique; it has: 'photo', 'light', 'background'
# MISTAKE mapped: 'light' is missing: it takes a text

from __future__ import annotations

from typing import Any

from airflow_provider_flora.operators.flora import FloraRunTechniqueOperator

try:
    from airflow.sdk import DAG
except ImportError:  # Airflow 2.11
    from airflow.models.dag import DAG


class Relight(FloraRunTechniqueOperator):
    def __init__(self, *, photo: str, **kwargs: Any) -> None:
        super().__init__(technique_id="product-relight", inputs={"photo": photo, "lamp": "neon"}, **kwargs)


with DAG("subclass", schedule=None):
    Relight(task_id="relight", photo="{{ ti.xcom_pull(task_ids='photo') }}")
    Relight.partial(task_id="mapped").expand(photo=["https://shop.example.com/mug.png"])
