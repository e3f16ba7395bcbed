"""Relight the photo of every product in a bucket each day, and store the pictures in the bucket.

`products.csv` has the columns `product`, `photo` (a public https:// URL) and `light`. The pictures and a manifest
go into one folder per day. A row that fails has its line in the manifest and does not affect the others. The
manifest is an Airflow asset: see flora_pipeline_on_refresh.py. Unpausing this DAG starts, and pays for, the runs of
one day.
"""

from __future__ import annotations

import csv
import io
import os
from datetime import datetime, timedelta, timezone
from typing import Any

from airflow_provider_flora.operators.flora import FloraRunTechniqueOperator

try:
    from airflow.sdk import Asset, ObjectStoragePath, Param, dag, task
except ImportError:  # Airflow 2.11
    from airflow.datasets import Dataset as Asset
    from airflow.decorators import dag, task
    from airflow.io.path import ObjectStoragePath
    from airflow.models.param import Param

# A bucket with its Airflow connection, or a folder: file:///srv/shop
STORAGE = os.environ.get("FLORA_PIPELINE_STORAGE", "s3://aws_default@shop")
MANIFEST = Asset("flora_pipeline_manifest")
COLUMNS = ["product", "status", "file", "sha256", "cost", "run_id"]


@dag(
    schedule="@daily",
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
    catchup=False,
    tags=["flora", "example"],
    # A retry resumes the run of the attempt before it and keeps the files that are there. It pays for a new run
    # only if that one failed.
    default_args={"retries": 2, "retry_delay": timedelta(seconds=10)},
    params={"storage": Param(STORAGE, type="string", description="Where products.csv is and the pictures go")},
)
def flora_pipeline_refresh():
    @task
    def read_products(params: dict[str, Any] | None = None) -> list[dict[str, str]]:
        assert params is not None
        text = ObjectStoragePath(f"{params['storage']}/products.csv").read_text()
        return list(csv.DictReader(io.StringIO(text)))

    @task
    def as_inputs(products: list[dict[str, str]]) -> list[dict[str, str]]:
        """The technique's inputs for each row."""
        return [{"photo": product["photo"], "light": product["light"]} for product in products]

    products = read_products()

    # [START howto_operator_flora_download]
    # One folder per day. A DAG run without a logical date (Airflow 3) has no `ds`: it takes the day of `run_after`.
    folder = "{{ params.storage }}/relit/{{ (dag_run.logical_date or dag_run.run_after) | ds }}"

    relight = FloraRunTechniqueOperator.partial(
        task_id="relight",
        technique_id="product-relight",
        download_to=folder,
        max_run_cost=0.50,  # USD per run; a more expensive one is not started
        deferrable=True,
        poll_interval=2,
        max_active_tis_per_dagrun=8,
    ).expand(inputs=as_inputs(products))
    # [END howto_operator_flora_download]

    # [START howto_flora_manifest]
    @task(trigger_rule="all_done", outlets=[MANIFEST])
    def write_manifest(
        products: list[dict[str, str]], folder: str, ti: Any = None, outlet_events: Any = None
    ) -> dict[str, Any]:
        """Write the result of each row. The asset event carries a summary."""
        # A row that failed has no result, and keeps its place.
        runs = [ti.xcom_pull(task_ids="relight", map_indexes=index) for index in range(len(products))]
        rows = [line_of(product["product"], run) for product, run in zip(products, runs, strict=True)]
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
        path = f"{folder}/manifest.csv"
        manifest = ObjectStoragePath(path)
        manifest.parent.mkdir(parents=True, exist_ok=True)
        manifest.write_text(text.getvalue())
        summary = {
            "manifest": path,
            "relit": [row["product"] for row in rows if row["status"] == "completed"],
            "failed": [row["product"] for row in rows if row["status"] == "failed"],
            "cost": round(sum(row["cost"] or 0 for row in rows), 2),
        }
        outlet_events[MANIFEST].extra = summary
        return summary

    @task
    def all_relit() -> None:
        """Not run if a row failed. The DAG run then fails, so that somebody notices."""

    relight >> [write_manifest(products, folder), all_relit()]
    # [END howto_flora_manifest]


def line_of(product: str, run: dict[str, Any] | None) -> dict[str, Any]:
    """One line of the manifest."""
    if run is None:
        return {"product": product, "status": "failed", "file": "", "sha256": "", "cost": None, "run_id": ""}
    [file] = run["files"]
    return {
        "product": product,
        "status": run["status"],
        "file": file["uri"],
        "sha256": file["sha256"],
        "cost": run["charged_cost"],
        "run_id": run["run_id"],
    }


flora_pipeline_refresh()
