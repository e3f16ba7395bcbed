"""Files of inputs: one that is there, and those about which this machine cannot tell."""

# LEFT stored: 's3://shop/mug.png' is in a storage; it is read at run time
# LEFT elsewhere: '/nowhere/mug.png' is not looked for: this machine has no folder '/nowhere'; it is
#    read at run time
# LEFT written: '{folder}/new.png' is not there yet: a task before this one may write it; it is read at run time
# COST files: 4 x 0.55 = 2.20 USD

from __future__ import annotations

from pathlib import Path

from airflow_provider_flora.operators.flora import FloraRunTechniqueOperator

try:
    from airflow.sdk import DAG, task
except ImportError:  # Airflow 2.11
    from airflow.decorators import task
    from airflow.models.dag import DAG

FOLDER = Path(__file__).parent


@task
def paint() -> None:
    """Write a file."""


def animate(task_id: str, photo: object) -> FloraRunTechniqueOperator:
    return FloraRunTechniqueOperator(task_id=task_id, technique_id="product-motion", inputs={"photo": photo})


with DAG("files", schedule=None):
    animate("there", FOLDER / "mug.png")
    animate("stored", "s3://shop/mug.png")
    animate("elsewhere", "/nowhere/mug.png")
    paint() >> animate("written", FOLDER / "new.png")
