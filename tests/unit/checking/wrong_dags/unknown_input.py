"""An input that the technique does not have, in place of one that it needs."""

# MISTAKE relight: 'foto' is not an input of this technique; it has: 'photo', 'light', 'background'
# MISTAKE relight: 'photo' is missing: it takes the https:// URL of an image

from __future__ import annotations

from airflow_provider_flora.operators.flora import FloraRunTechniqueOperator

try:
    from airflow.sdk import DAG
except ImportError:  # Airflow 2.11
    from airflow.models.dag import DAG

with DAG("unknown_input", schedule=None):
    FloraRunTechniqueOperator(
        task_id="relight",
        technique_id="product-relight",
        inputs={"foto": "https://shop.example.com/mug.png", "light": "neon"},
    )
