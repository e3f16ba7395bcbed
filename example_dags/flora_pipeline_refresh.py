"""A shop's pictures, every day: products.csv in storage, each product's photo relit, the pictures back in storage.

`products.csv` has the columns `product`, `photo` (a public https:// URL) and `light`. The pictures and a manifest
of the day go into a folder of the day. A row that fails has its line in the manifest, and takes nothing from the
others. The manifest is an asset: see flora_pipeline_on_refresh.py. Unpausing this DAG starts, and pays for, a day's
runs.
"""

from __future__ import annotations

import csv
import io
import os
from datetime import datetime, timedelta, timezone
from typing import Any

from airflow.providers.common.compat.sdk import Asset, ObjectStoragePath, Param, dag, task

from airflow_provider_flora.operators.flora import FloraRunTechniqueOperator

# A bucket with its Airflow connection, or a folder: file:///srv/shop
STORAGE = os.environ.get("FLORA_PIPELINE_STORAGE", "s3://aws_default@shop")
MANIFEST = Asset("flora_pipeline_manifest")
COLUMNS = ["product", "status", "file", "sha256", "cost", "run_id"]


@dag(
    schedule="@daily",
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
    catchup=False,
    tags=["flora", "example"],
    # A retry takes up the run of the try before it, and the files that are there; it pays for a new run only where
    # that one failed.
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
    relight = FloraRunTechniqueOperator.partial(
        task_id="relight",
        technique_id="product-relight",
        download_to="{{ params.storage }}/relit/{{ ds }}/",
        max_run_cost=0.50,  # USD a run; a dearer one is not started
        deferrable=True,
        poll_interval=2,
        max_active_tis_per_dagrun=8,
    ).expand(inputs=as_inputs(products))
    # [END howto_operator_flora_download]

    # [START howto_flora_manifest]
    @task(trigger_rule="all_done", outlets=[MANIFEST])
    def write_manifest(
        products: list[dict[str, str]],
        params: dict[str, Any] | None = None,
        ds: str | None = None,
        ti: Any = None,
        outlet_events: Any = None,
    ) -> dict[str, Any]:
        """Write what became of each row, and tell whoever is scheduled on the manifest."""
        assert params is not None
        # A row that failed has no result, and keeps its place.
        runs = [ti.xcom_pull(task_ids="relight", map_indexes=index) for index in range(len(products))]
        rows = [line_of(product["product"], run) for product, run in zip(products, runs, strict=True)]
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
        path = f"{params['storage']}/relit/{ds}/manifest.csv"
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
        """Not run when a row failed, which turns the DAG run red: somebody should look."""

    relight >> [write_manifest(products), all_relit()]
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
