"""What mapped tasks cost, as far as the number of their items is known."""

# LEFT each: 'inputs' comes from the task 'photos' at run time
# LEFT both: 'inputs' comes from the task 'photos' at run time
# LEFT parameters: 'technique_id' comes from the task 'photos' at run time
# LEFT parameters: 'inputs' comes from the task 'photos' at run time
# LEFT some: 'inputs' comes from the task 'photos' at run time
# LEFT any_group.run: 'inputs' comes from the task 'photos' at run time
# LEFT unknown_group.still: 'prompt' comes from the task 'photos' at run time
# LEFT function: 'inputs' is what the task's own function returns at run time
# LEFT fetched_function: 'inputs' is what the task's own function returns at run time
# LEFT mapped_function: 'inputs' is what the task's own function returns at run time
# COST mapped_costs: 13 x 0.18 + 9 x 0.09 = 3.15 USD, 0.18 USD for each item of photos, 2 x 0.09 USD for each item
#    of photos, the price of parameters for each item of photos, which is not known, 0.09 USD for each item of
#    photos, and 0.09 USD for each item of photos

from __future__ import annotations

from typing import Any

from airflow_provider_flora.decorators.flora import flora_technique
from airflow_provider_flora.operators.flora import FloraRunTechniqueOperator

try:
    from airflow.sdk import DAG, task, task_group
except ImportError:  # Airflow 2.11
    from airflow.decorators import task, task_group
    from airflow.models.dag import DAG

SHOP = "https://shop.example.com"


@task
def photos() -> Any:
    return []


@flora_technique(technique_id="editorial-still")
def function(what: str) -> dict[str, str]:
    return {"prompt": what}


@flora_technique(technique_id="editorial-still")
def fetched_function(what: str, light: str = "noon") -> dict[str, str]:
    return {"prompt": f"{what} at {light}"}


@flora_technique(technique_id="editorial-still")
def mapped_function(what: str) -> dict[str, str]:
    return {"prompt": what}


@task_group
def group(prompt: str) -> None:
    FloraRunTechniqueOperator(task_id="still", technique_id="editorial-still", inputs={"prompt": prompt})


@task_group
def unknown_group(prompt: str) -> None:
    FloraRunTechniqueOperator(task_id="still", technique_id="editorial-still", inputs={"prompt": prompt})


@task_group
def any_group(technique_id: str, inputs: Any) -> None:
    FloraRunTechniqueOperator(task_id="run", technique_id=technique_id, inputs=inputs)


with DAG("mapped_costs", schedule=None):
    found = photos()
    FloraRunTechniqueOperator.partial(task_id="literal", technique_id="product-relight").expand(
        inputs=[{"photo": f"{SHOP}/{number}.png", "light": "neon"} for number in range(12)]
    )
    FloraRunTechniqueOperator.partial(task_id="each", technique_id="product-relight").expand(inputs=found)
    FloraRunTechniqueOperator.partial(task_id="both").expand(
        technique_id=["editorial-still", "editorial-still"], inputs=found
    )
    FloraRunTechniqueOperator.partial(task_id="parameters").expand_kwargs(found)
    FloraRunTechniqueOperator.partial(task_id="some", technique_id="editorial-still").expand_kwargs(
        [{"inputs": {"prompt": "a mug"}}, found]
    )
    group.expand(prompt=["a mug", "a lamp"])
    any_group.expand_kwargs(
        [
            {"technique_id": "product-relight", "inputs": {"photo": f"{SHOP}/1.png", "light": "{{ no template }}"}},
            {"technique_id": "editorial-still", "inputs": {"prompt": "a mug"}},
            {"technique_id": "editorial-still", "inputs": found},
        ]
    )
    unknown_group.expand(prompt=found)
    function("a mug")
    fetched_function.expand_kwargs(found)
    mapped_function.expand(what=["a mug", "a lamp"])
