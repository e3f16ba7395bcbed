"""Checks DAG files, in the process that it is called in. ``process`` calls it in one of its own."""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

from airflow_provider_flora.checking.catalogue import Catalogue
from airflow_provider_flora.checking.checks import Checked, check_task
from airflow_provider_flora.checking.dags import parse
from airflow_provider_flora.checking.report import Cost, DagCost, Finding, Place, Report
from airflow_provider_flora.checking.tasks import find_tasks, read_task

_LAST_FRAMES = 5


def check(paths: Iterable[Path], catalogue: Catalogue, *, debug: bool = False) -> Report:
    """Check the Flora tasks of DAG files. The files' code is run, and nothing is started.

    :param paths: files, and folders in which Airflow finds DAG files.
    :param catalogue: the techniques.
    :param debug: whether a bug of the check is shown with its traceback.
    """
    parsed = parse(paths)
    mistakes = [*parsed.mistakes]
    left: list[Finding] = []
    costs: dict[str, list[Cost]] = {}
    unchecked: dict[str, list[Place]] = {}
    tasks = [task for dag in parsed.dags for task in find_tasks(dag)]
    for place, task in tasks:
        try:
            found = check_task(read_task(place, task), catalogue)
        except Exception as error:  # one odd task must not hide what the others have
            found = Checked(mistakes=[_bug(error, debug=debug)], costs=[_unknown_cost(place)])
        if found.unusable is not None:
            unchecked.setdefault(str(found.unusable), []).append(place)
        mistakes += (Finding(place=place, message=message) for message in found.mistakes)
        left += (Finding(place=place, message=message) for message in found.left)
        costs.setdefault(place.dag_id or "", []).extend(found.costs)
    mistakes += (_unchecked(places, message) for message, places in unchecked.items())
    return Report(
        dags=len(parsed.dags),
        tasks=len(tasks),
        mistakes=mistakes,
        left=left,
        costs=[DagCost(dag_id=dag_id, known_cost=_sum(own), tasks=_merged(own)) for dag_id, own in costs.items()],
    )


def _bug(error: Exception, *, debug: bool) -> str:
    what = f"This task is not checked, for a bug of this check: {type(error).__name__}: {error}"
    if not debug:
        return f"{what}. --debug shows where."
    return f"{what}\n{''.join(traceback.format_tb(error.__traceback__)[-_LAST_FRAMES:])}"


def _unknown_cost(place: Place) -> Cost:
    return Cost(task_id=place.task_id or "", runs=1, run_cost=None)


def _unchecked(places: list[Place], message: str) -> Finding:
    names = ", ".join(f"{place.dag_id}.{place.task_id}" for place in places)
    tasks = "This task is" if len(places) == 1 else f"These {len(places)} tasks are"
    return Finding(place=places[0], message=f"{message}\n{tasks} not checked: {names}")


def _sum(costs: list[Cost]) -> float:
    return round(sum(cost.runs * (cost.run_cost or 0.0) for cost in costs if not cost.for_each), 6)


def _merged(costs: list[Cost]) -> list[Cost]:
    """Return costs with one entry for all items of a task that are alike."""
    merged = []
    for alike, group in groupby(costs, key=lambda cost: cost.model_copy(update={"runs": 0})):
        merged.append(alike.model_copy(update={"runs": sum(cost.runs for cost in group)}))
    return merged
