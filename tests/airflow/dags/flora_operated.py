"""A task without retries, with a connection in the database: a person decides what follows a failure."""

from __future__ import annotations

from airflow_provider_flora.operators.flora import FloraRunTechniqueOperator

try:
    from airflow.sdk import dag
except ImportError:  # Airflow 2.11
    from airflow.decorators import dag


@dag(schedule=None)
def flora_operated():
    FloraRunTechniqueOperator(
        task_id="still",
        technique_id="editorial-still",
        # Other inputs in each attempt, as a careless template makes them: a person's decision holds all the same.
        inputs={"prompt": "A red sneaker, attempt {{ ti.try_number }}"},
        flora_conn_id="flora_operated",
        retries=0,
        poll_interval=1,
    )


flora_operated()
