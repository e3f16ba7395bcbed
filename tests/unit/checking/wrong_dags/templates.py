"""A template that cannot be read, and defaults of params that do not fit."""

# MISTAKE broken: 'prompt' is not a valid template: unexpected '}': {{ params.prompt }
# MISTAKE default: Flora answered 404 not_found: Not found. [request id REQUEST] Technique
#    'editorial-stil' was not found with the key in FLORA_API_KEY. Check the id, and that the key belongs to
#    the id's workspace.
# MISTAKE wrong_default: 'photo' takes the https:// URL of an image, not 'http://shop.example.com/mug.png'

from __future__ import annotations

from airflow_provider_flora.operators.flora import FloraRunTechniqueOperator

try:
    from airflow.sdk import DAG
except ImportError:  # Airflow 2.11
    from airflow.models.dag import DAG

with DAG(
    "templates",
    schedule=None,
    params={"prompt": "a mug", "technique": "editorial-stil", "base": "http://shop.example.com", "later": ""},
):
    FloraRunTechniqueOperator(
        task_id="broken", technique_id="editorial-still", inputs={"prompt": "{{ params.prompt }"}
    )
    FloraRunTechniqueOperator(
        task_id="default", technique_id="{{ params.technique }}", inputs={"prompt": "{{ params.prompt }}"}
    )
    FloraRunTechniqueOperator(
        task_id="wrong_default",
        technique_id="product-motion",
        inputs={"photo": "{{ params.base }}/mug.png", "motion": "{{ params.later }}"},
    )
