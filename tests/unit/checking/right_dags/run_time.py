"""What is known at run time only is left, and named."""

# LEFT photo_of_a_task: 'photo' comes from the task 'photos' at run time
# LEFT template: 'prompt' is a template: {{ ti.xcom_pull(task_ids='photos') }}
# LEFT any_inputs: 'inputs' comes from the task 'photos' at run time
# LEFT any_technique: 'technique_id' is a template: {{ var.value.technique }}
# LEFT any_technique: 'max_run_cost' is a template: {{ var.value.limit }}
# LEFT empty_param: 'prompt' is a template: {{ params.later }}
# LEFT missing_param: 'prompt' is a template: {{ params.never }}
# LEFT own_list: 'prompt' comes from the task 'photos' at run time
# COST run_time: 2 x 0.55 + 6 x 0.09 = 1.64 USD, and the price of any_technique, which is not known

from __future__ import annotations

from airflow_provider_flora.operators.flora import FloraRunTechniqueOperator
from airflow_provider_flora.sensors.flora import FloraTechniqueRunSensor

try:
    from airflow.sdk import DAG, task
except ImportError:  # Airflow 2.11
    from airflow.decorators import task
    from airflow.models.dag import DAG


@task
def photos() -> list[str]:
    return ["https://shop.example.com/mug.png"]


with DAG(
    "run_time",
    schedule=None,
    params={"technique": "product-motion", "base": "https://shop.example.com", "later": " "},
):
    found = photos()
    FloraRunTechniqueOperator(
        task_id="photo_of_a_task", technique_id="{{ params.technique }}", inputs={"photo": found, "motion": "slow"}
    )
    FloraRunTechniqueOperator(
        task_id="photo_of_a_param", technique_id="product-motion", inputs={"photo": "{{ params.base }}/mug.png"}
    )
    for name, inputs in {
        "template": {"prompt": "{{ ti.xcom_pull(task_ids='photos') }}"},
        "any_inputs": found,
        "empty_param": {"prompt": "{{ params.later }}"},
        "missing_param": {"prompt": "{{ params.never }}"},
        "own_list": [{"id": "prompt", "type": "text", "value": found}],
    }.items():
        FloraRunTechniqueOperator(task_id=name, technique_id="editorial-still", inputs=inputs)
    FloraRunTechniqueOperator(
        task_id="any_technique",
        technique_id="{{ var.value.technique }}",
        inputs={"prompt": "a mug"},
        max_run_cost="{{ var.value.limit }}",
    )
    FloraRunTechniqueOperator(
        task_id="adopted", technique_id="editorial-still", inputs={"prompt": "a mug"}, adopt_run_id="run_123"
    )
    FloraRunTechniqueOperator(
        task_id="abandoned", technique_id="editorial-still", inputs={"prompt": "a mug"}, adopt_run_id="none"
    )
    FloraTechniqueRunSensor(task_id="wait", technique_id="editorial-still", run_id=found)
