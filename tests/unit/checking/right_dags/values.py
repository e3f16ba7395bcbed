"""Values in forms that Airflow turns into others at run time: functions, template files, arguments of the DAG."""

# LEFT function: 'inputs' is what write() returns at run time
# LEFT rows_of_a_function: 'rows' is what read() returns at run time
# LEFT template_of_a_worker: 'inputs' is read from the template gone.json at run time
# LEFT empty_argument: 'prompt' is a param of the DAG
# LEFT upper: its parameters are given at run time
# COST values: 6 x 0.09 = 0.54 USD, 0.09 USD for each row of read, and the price of upper for each item of names,
#    which is not known

from __future__ import annotations

from typing import Any

from airflow_provider_flora.operators.batch import FloraRunTechniqueBatchOperator
from airflow_provider_flora.operators.flora import FloraRunTechniqueOperator

try:
    from airflow.sdk import dag, task
except ImportError:  # Airflow 2.11
    from airflow.decorators import dag, task


class OfAFile(FloraRunTechniqueOperator):
    template_ext = (".json",)


class Upper(FloraRunTechniqueOperator):
    def __init__(self, *, name: str, **kwargs: Any) -> None:
        super().__init__(technique_id="editorial-still", inputs={"prompt": name.upper()}, **kwargs)


def write(context: Any, jinja_env: Any) -> dict[str, str]:
    return {"prompt": f"a mug on {context['ds']}"}


def read(context: Any, jinja_env: Any) -> list[dict[str, str]]:
    return [{"prompt": context["ds"]}]


@task
def names() -> list[str]:
    return ["mug"]


@dag(schedule=None, render_template_as_native_obj=True)
def values(prompt: str = "a mug", later: str = "") -> None:
    FloraRunTechniqueOperator(task_id="function", technique_id="editorial-still", inputs=write)  # type: ignore[arg-type]
    FloraRunTechniqueBatchOperator(
        task_id="rows_of_a_function",
        technique_id="editorial-still",
        rows=read,  # type: ignore[arg-type]
        manifest="s3://shop/stills.jsonl",
    )
    OfAFile(task_id="template_file", technique_id="editorial-still", inputs="inputs.json")  # type: ignore[arg-type]
    OfAFile(task_id="template_of_a_worker", technique_id="editorial-still", inputs="gone.json")  # type: ignore[arg-type]
    FloraRunTechniqueOperator(task_id="argument", technique_id="editorial-still", inputs={"prompt": prompt})
    FloraRunTechniqueOperator(task_id="empty_argument", technique_id="editorial-still", inputs={"prompt": later})
    FloraRunTechniqueOperator.partial(task_id="argument_of_an_item", technique_id="editorial-still").expand(
        inputs=[{"prompt": prompt}]
    )
    Upper.partial(task_id="upper").expand(name=names())


values()
