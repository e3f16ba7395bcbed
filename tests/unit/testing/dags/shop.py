"""A DAG with a bit of everything: it defers, retries, maps, skips, and has a connection of its own."""

from __future__ import annotations

import os
from datetime import timedelta

from airflow_provider_flora.api.errors import FloraSettingsError
from airflow_provider_flora.hooks.flora import FloraHook
from airflow_provider_flora.operators.flora import FloraRunTechniqueOperator

try:
    from airflow.sdk import Param, dag, task
except ImportError:  # Airflow 2.11
    from airflow.decorators import dag, task
    from airflow.models.param import Param

# The tests read what is asked of the real Flora, and of any other Airflow.
OUTSIDE = {name: value for name, value in os.environ.items() if name.startswith("AIRFLOW__SECRETS")}


@dag(
    schedule=None,
    default_args={"retries": 1, "retry_delay": timedelta(hours=1)},
    params={"prompt": Param("A paper boat", type="string")},
)
def shop():
    @task
    def things() -> tuple[str, ...]:
        try:
            FloraHook("old").get_conn()  # an id that is in code
        except FloraSettingsError as error:
            print(error)
        print(f"secrets backend: {OUTSIDE}, home: {os.environ['AIRFLOW_HOME']}")
        return ("lamp", "mug")

    @task
    def sell(thing: str) -> str:
        print(f"selling a {thing}")
        if thing == "mug":
            raise ValueError("a mug is not for sale")
        return f"one {thing}"

    @task.short_circuit
    def is_open() -> bool:
        return False

    @task
    def close() -> None:
        raise AssertionError("this is skipped")

    FloraRunTechniqueOperator(
        task_id="picture",
        technique_id="my-still",
        inputs={"prompt": "{{ params.prompt }}"},
        flora_conn_id="flora_prod",
        deferrable=True,
        poll_interval=60,
    )
    sell.expand(thing=things())
    is_open() >> close()


shop()
