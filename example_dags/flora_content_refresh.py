"""Relight the photo of every product each day, several at a time.

Each product is a task instance of its own. If one fails, it is retried alone, and the others keep their results.
Unpausing this DAG starts, and pays for, the run of the last day.
"""

from __future__ import annotations

import os
from datetime import datetime, timedelta, timezone
from typing import Any

from airflow_provider_flora.operators.flora import FloraRunTechniqueOperator

try:
    from airflow.sdk import Param, dag, task
except ImportError:  # Airflow 2.11
    from airflow.decorators import dag, task
    from airflow.models.param import Param

# Flora fetches the photos itself, so they must have public URLs. Set this to the folder of yours.
MEDIA_BASE = os.environ.get("FLORA_MEDIA_BASE", "https://shop.example.com/photos")


@dag(
    schedule="@daily",
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
    catchup=False,
    tags=["flora", "example"],
    # A retry resumes the run of the attempt before it. It pays for a new run only if that one failed.
    default_args={"retries": 2, "retry_delay": timedelta(seconds=10)},
    params={
        "media_base": Param(MEDIA_BASE, type="string", description="The folder of the photos"),
        "products": Param(["sneaker", "lamp", "mug", "chair"], type="array"),
        "light": Param("golden hour", type="string"),
    },
)
def flora_content_refresh():
    @task
    def photos(params: dict[str, Any] | None = None) -> list[dict[str, str]]:
        """The technique's inputs for each product. In your DAG: the rows of your catalogue."""
        assert params is not None
        return [
            {"photo": f"{params['media_base']}/{product}.png", "light": params["light"]}
            for product in params["products"]
        ]

    rows = photos()

    # [START howto_operator_flora_mapped]
    relight = FloraRunTechniqueOperator.partial(
        task_id="relight",
        technique_id="product-relight",
        deferrable=True,
        poll_interval=2,
        max_run_cost=0.50,  # USD per run; a more expensive one is not started
        max_dag_run_cost=20.00,  # USD for all Flora tasks of the DAG run together
        max_active_tis_per_dagrun=8,
    ).expand(inputs=rows)
    # [END howto_operator_flora_mapped]

    # [START howto_flora_mapped_results]
    @task(trigger_rule="all_done")
    def summarize(rows: list[dict[str, str]], ti: Any = None) -> dict[str, Any]:
        """Collect the results. A row that failed has none, and keeps its place."""
        runs = {row["photo"]: ti.xcom_pull(task_ids="relight", map_indexes=index) for index, row in enumerate(rows)}
        relit = {photo: run for photo, run in runs.items() if run}
        return {
            "relit": {photo: run["output_urls"][0] for photo, run in relit.items()},
            "failed": [photo for photo in runs if photo not in relit],
            "cost": sum(run["charged_cost"] or 0 for run in relit.values()),
        }

    @task
    def all_relit() -> None:
        """Not run if a row failed. The DAG run then fails, so that somebody notices."""

    relight >> [summarize(rows), all_relit()]
    # [END howto_flora_mapped_results]


flora_content_refresh()
