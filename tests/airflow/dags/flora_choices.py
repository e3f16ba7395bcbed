"""A task for each way to ask and to answer."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from airflow.sdk import Param, dag, task

from airflow_provider_flora.operators.choose import FloraChooseOutputOperator

MOMENT = timedelta(seconds=10)  # longer than a task needs to begin: before 3.3 it limits that too
PICTURES = os.environ["FLORA_MEDIA_BASE"]


@dag(
    schedule=None,
    # Airflow may lose an attempt that resumes. The next one asks again.
    default_args={"retries": 1, "retry_delay": timedelta(seconds=1)},
    params={"colour": Param("red", type="string"), "manifest": Param("", type="string")},
)
def flora_choices():
    @task
    def pictures(name: str, **context: Any) -> dict[str, Any]:
        """Return what FloraRunTechniqueOperator would. Each attempt has another URL."""
        url = f"{PICTURES}/{name}.png?attempt={context['ti'].try_number}"
        return {"run_id": f"run_{name}", "outputs": [{"output_id": "image", "type": "imageUrl", "url": url}]}

    @task
    def after(choice: dict[str, Any]) -> list[str]:
        return [output["label"] for output in choice["chosen"]]

    shown: Any = pictures.expand(name=["lamp", "mug", "chair"])

    def choose(task_id: str, **parameters: Any) -> Any:
        choice = FloraChooseOutputOperator(task_id=task_id, **{"outputs": shown, **parameters})
        after.override(task_id=f"after_{task_id}")(choice.output)

    choose("one", subject="A picture in {{ params.colour }}", body="For the *front* page.")
    choose("several", multiple=True, labels=["lamp", "mug", "chair"])
    choose("skipped")
    choose("failed", on_reject="fail")
    choose("returned", on_reject="return")
    choose("of_a_manifest", outputs="{{ params.manifest }}")
    choose("default", response_timeout=MOMENT, defaults="2")
    choose("too_late", response_timeout=MOMENT, retries=0)
    choose("nothing", outputs=[])
    choose("for_others", assigned_users={"id": "nobody", "name": "Nobody"})
    choose("cleared")


flora_choices()
