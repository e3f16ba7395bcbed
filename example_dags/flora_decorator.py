"""Write the inputs of runs in Python: a function for each product, with `@task.flora_technique`."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

try:
    from airflow.sdk import Param, dag, task
except ImportError:  # Airflow 2.11
    from airflow.decorators import dag, task
    from airflow.models.param import Param


@dag(
    schedule=None,
    tags=["flora", "example"],
    # A retry resumes the run of the attempt before it. It pays for a new run only if that one failed.
    default_args={"retries": 2, "retry_delay": timedelta(seconds=10)},
    params={"season": Param("spring", type="string")},
)
def flora_decorator():
    # [START howto_decorator_flora_technique]
    @task
    def products() -> list[dict[str, Any]]:
        return [
            {"name": "linen shirt", "colors": ["white", "sand"]},
            {"name": "straw hat", "colors": ["natural"]},
        ]

    @task.flora_technique(technique_id="editorial-still", deferrable=True, poll_interval=2, max_run_cost=0.50)
    def picture(product: dict[str, Any], params: Any = None) -> dict[str, str]:
        colors = " and ".join(product["colors"])
        return {"prompt": f"A {product['name']} in {colors}, {params['season']} light"}

    # One paid run for each product.
    pictures = picture.expand(product=products())
    # [END howto_decorator_flora_technique]

    @task
    def show(runs: Any) -> list[str]:
        urls = [url for run in runs for url in run["output_urls"]]
        print("\n".join(urls))
        return urls

    show(pictures)


flora_decorator()
