"""Finds the Flora tasks of a DAG. A mapped task becomes its items, as far as they are known before a run."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from airflow_provider_flora.airflow_compat import expand_value_of, unmap
from airflow_provider_flora.checking.dags import line_of, shown
from airflow_provider_flora.checking.known import has_reference, is_reference, source_of
from airflow_provider_flora.checking.report import Place
from airflow_provider_flora.operators.batch import FloraRunTechniqueBatchOperator
from airflow_provider_flora.operators.flora import FloraRunTechniqueOperator
from airflow_provider_flora.sensors.flora import FloraTechniqueRunSensor

WITH_A_TECHNIQUE = (FloraRunTechniqueOperator, FloraRunTechniqueBatchOperator, FloraTechniqueRunSensor)


@dataclass
class FloraTask:
    """A task that names a technique.

    :param place: where it is.
    :param items: its operators: one, or one for each item that it is mapped over. ``None`` for one that Airflow
        makes at run time only.
    :param times: how often its mapped task groups run it.
    :param for_each: what it is mapped over at run time.
    :param mistakes: items that no operator can be made of.
    """

    place: Place
    items: list[Any] = field(default_factory=list)
    times: int = 1
    for_each: list[str] = field(default_factory=list)
    mistakes: list[str] = field(default_factory=list)


def find_tasks(dag: Any) -> Iterator[FloraTask]:
    """Find the Flora tasks of a DAG, in its order."""
    for task in dag.tasks:
        is_mapped = hasattr(task, "partial_kwargs")
        if issubclass(task.operator_class if is_mapped else type(task), WITH_A_TECHNIQUE):
            place = Place(
                file=shown(dag.fileloc),
                line=line_of(dag.fileloc, task.task_id),
                dag_id=dag.dag_id,
                task_id=task.task_id,
            )
            found = FloraTask(place)
            _multiply(found, task)
            if is_mapped:
                _expand(found, task)
            else:
                found.items = [task]
            yield found


def _multiply(found: FloraTask, task: Any) -> None:
    for group in task.iter_mapped_task_groups():
        items, sources = _items(expand_value_of(group))
        found.times *= len(items)
        found.for_each += sources


def _expand(found: FloraTask, task: Any) -> None:
    items, sources = _items(expand_value_of(task))
    found.for_each += sources
    for number, item in enumerate(items, 1):
        is_whole = not is_reference(item)
        kwargs = dict(item) if is_whole else _required(task, item)
        try:
            found.items.append(unmap(task, kwargs))
        except Exception as error:
            found.items.append(None)
            if is_whole and not has_reference(kwargs):  # an ``__init__`` of one's own may need the value itself
                found.mistakes.append(f"item {number}: {error}")


def _items(value: Any) -> tuple[list[Any], list[str]]:
    """Return the items that something is mapped over, and the sources of those that are known at run time only.

    An item is a dict of parameters, or a reference that becomes one.
    """
    if is_reference(value):
        return [value], [f"item of {source_of(value)}"]
    if not isinstance(value, Mapping):
        return [*value], []
    sources = [f"item of {source_of(each)}" for each in value.values() if is_reference(each)]
    choices = [[(name, one) for one in _values(each)] for name, each in value.items()]
    return [dict(chosen) for chosen in product(*choices)], list(dict.fromkeys(sources))


def _values(mapped: Any) -> Iterable[Any]:
    """Return what one parameter is mapped over. Airflow makes pairs of a dict."""
    if is_reference(mapped):
        return [mapped]
    values: Iterable[Any] = mapped.items() if isinstance(mapped, Mapping) else mapped
    return values


def _required(task: Any, reference: Any) -> dict[str, Any]:
    """Return a reference as each parameter that an operator, or its function, needs and does not have yet."""
    function = getattr(task, "python_callable", None)
    known = task.partial_kwargs if function is None else task.partial_kwargs.get("op_kwargs", {})
    needed = inspect.signature(function or task.operator_class.__init__).parameters
    return {
        name: reference
        for name, parameter in needed.items()
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        and name not in (*known, "self")
    }
