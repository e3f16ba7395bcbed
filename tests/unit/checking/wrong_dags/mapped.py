"""Mapped tasks: an item with a wrong input, one with a wrong parameter, and what is common to all."""

# MISTAKE each: item 2: 'promt' is not an input of this technique; it has: 'prompt'
# MISTAKE each: item 2: 'prompt' is missing: it takes a text
# MISTAKE parameters: item 2: Airflow cannot make a FloraRunTechniqueOperator of it: ValueError: returns takes 'run'
#    or 'outputs', not 'videos'. Correct what the task is mapped over, or FloraRunTechniqueOperator itself
# MISTAKE own: item 2: Airflow cannot make a Poster of it: KeyError: 'name'. Correct what the task is mapped
#    over, or Poster itself
# MISTAKE unknown_items: A run of technique 'product-motion' costs 0.55 USD, more than max_run_cost=0.1 USD.
#    Nothing was started or charged. Raise max_run_cost or choose another technique.
# MISTAKE group.still: 'motion' is not an input of this technique; it has: 'prompt'
# MISTAKE any_group.run: item 1: 'promt' is not an input of this technique; it has: 'prompt'
# MISTAKE any_group.run: item 1: 'prompt' is missing: it takes a text
# MISTAKE any_group.run: item 3: 'prompt' is empty: it takes a text
# MISTAKE alike: A run of technique 'editorial-still' costs 0.09 USD, more than max_run_cost=0.01 USD. Nothing was
#    started or charged. Raise max_run_cost or choose another technique.
# MISTAKE alike: items 1, 3: 'prompt' is empty: it takes a text
# MISTAKE pairs: 'prompt' is not an input: each takes {"id": ..., "type": ..., "value": ...}
# MISTAKE pairs: 'a mug' is not an input: each takes {"id": ..., "type": ..., "value": ...}
# MISTAKE pairs: 'prompt' is missing: it takes a text

from __future__ import annotations

from typing import Any

from airflow_provider_flora.operators.flora import FloraRunTechniqueOperator

try:
    from airflow.sdk import DAG, task, task_group
except ImportError:  # Airflow 2.11
    from airflow.decorators import task, task_group
    from airflow.models.dag import DAG


@task
def prompts() -> list[dict[str, str]]:
    return [{"prompt": "a mug"}]


@task_group
def group(prompt: str) -> None:
    FloraRunTechniqueOperator(
        task_id="still", technique_id="editorial-still", inputs={"prompt": prompt, "motion": "fast"}
    )


@task_group
def any_group(technique_id: str, inputs: dict[str, str]) -> None:
    FloraRunTechniqueOperator(task_id="run", technique_id=technique_id, inputs=inputs)


class Poster(FloraRunTechniqueOperator):
    def __init__(self, *, product: dict[str, str], **kwargs: Any) -> None:
        super().__init__(technique_id="editorial-still", inputs={"prompt": product["name"]}, **kwargs)


with DAG("mapped", schedule=None):
    FloraRunTechniqueOperator.partial(task_id="each", technique_id="editorial-still").expand(
        inputs=[{"prompt": "a mug"}, {"promt": "a lamp"}]
    )
    FloraRunTechniqueOperator.partial(task_id="parameters", technique_id="editorial-still").expand_kwargs(
        [{"inputs": {"prompt": "a mug"}}, {"inputs": {"prompt": "a lamp"}, "returns": "videos"}]
    )
    FloraRunTechniqueOperator.partial(
        task_id="unknown_items", technique_id="product-motion", max_run_cost=0.1
    ).expand(inputs=prompts())
    group.expand(prompt=["a mug", "a lamp"])
    any_group.expand_kwargs(
        [
            {"technique_id": "editorial-still", "inputs": inputs}
            for inputs in ({"promt": "a mug"}, {"prompt": "a mug"})
        ]
        + [{"technique_id": "editorial-still", "inputs": {"prompt": ""}}]
    )
    Poster.partial(task_id="own").expand(product=[{"name": "mug"}, {"nome": "lamp"}])
    FloraRunTechniqueOperator.partial(task_id="alike", technique_id="editorial-still", max_run_cost=0.01).expand(
        inputs=[{"prompt": ""}, {"prompt": "a mug"}, {"prompt": ""}]
    )
    FloraRunTechniqueOperator.partial(task_id="pairs", technique_id="editorial-still").expand(
        inputs={"prompt": "a mug"}
    )
