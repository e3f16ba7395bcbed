"""Whether a DAG run makes up for the past. Reads Airflow's context only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

BACKFILL, CATCHUP = "backfill", "catchup"
MEANT_TAG = "flora-catchup-ok"
"""Tag of a DAG whose catchups and backfills have no limit."""
LATE_AFTER = 600.0
"""Seconds. A scheduled DAG run that began so long after it was due is a catchup. It is the period in which such
DAG runs are counted, so a DAG that is late, but not by as much, is never stopped, however often it runs."""


def catchup_of(context: Mapping[str, Any]) -> str | None:
    """Return ``backfill`` or ``catchup`` if the DAG run is one, and its DAG does not say that it means it."""
    dag_run, tags = context["dag_run"], getattr(context.get("dag"), "tags", None) or ()
    # An enumeration or a text, by version.
    run_type = getattr(dag_run, "run_type", None)
    run_type = getattr(run_type, "value", run_type)
    if MEANT_TAG in tags or run_type not in (BACKFILL, "scheduled"):
        return None
    if run_type == BACKFILL:
        return BACKFILL
    due = getattr(dag_run, "run_after", None) or dag_run.data_interval_end  # Airflow 2.11 has no run_after
    began = dag_run.start_date
    if due is None or began is None or (began - due).total_seconds() < LATE_AFTER:
        return None
    return CATCHUP
