"""Finds the Flora tasks of a DAG. A mapped task becomes its items, as far as they are known before a run."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any, NamedTuple

from airflow_provider_flora.airflow_compat import expand_value_of, operator_class_of, unmap
from airflow_provider_flora.checking.dags import line_of, shown
from airflow_provider_flora.checking.known import has_reference, is_reference, source_of
from airflow_provider_flora.checking.report import Place
from airflow_provider_flora.operators.batch import FloraRunTechniqueBatchOperator
from airflow_provider_flora.operators.choose import FloraChooseOutputOperator
from airflow_provider_flora.operators.downloads import FloraDownloadOutputsOperator
from airflow_provider_flora.operators.flora import FloraRunTechniqueOperator
from airflow_provider_flora.operators.uploads import FloraUploadAssetOperator
from airflow_provider_flora.sensors.flora import FloraTechniqueRunSensor

FLORA_OPERATORS = (
    FloraRunTechniqueOperator,
    FloraRunTechniqueBatchOperator,
    FloraTechniqueRunSensor,
    FloraUploadAssetOperator,
    FloraDownloadOutputsOperator,
    FloraChooseOutputOperator,
)


class Item(NamedTuple):
    """What a task does once in a DAG run.

    :param operator: the operator; ``None`` if Airflow makes it at run time only, or cannot make it.
    :param group: what the task's mapped groups give it, by name.
    :param mistake: why Airflow cannot make an operator, if that is so.
    """

    operator: Any
    group: Mapping[str, Any]
    mistake: str | None = None


@dataclass
class FloraTask:
    """A task of one of Flora's operators.

    :param place: where it is.
    :param items: one, or one for each item that it or its task group is mapped over.
    :param for_each: what they are mapped over at run time.
    """

    place: Place
    items: list[Item] = field(default_factory=list)
    for_each: list[str] = field(default_factory=list)


def find_tasks(dag: Any) -> Iterator[tuple[Place, Any]]:
    """Find the Flora tasks of a DAG, in its order, as Airflow has them."""
    for task in dag.tasks:
        if issubclass(operator_class_of(task), FLORA_OPERATORS):
            place = Place(
                file=shown(dag.fileloc),
                line=line_of(dag.fileloc, task.task_id),
                dag_id=dag.dag_id,
                task_id=task.task_id,
            )
            yield place, task


def read_task(place: Place, task: Any) -> FloraTask:
    """Return a task with its items."""
    found = FloraTask(place)
    groups: list[dict[str, Any]] = [{}]
    for group in task.iter_mapped_task_groups():
        items, sources = _items(expand_value_of(group))
        groups = [{**outer, **({} if is_reference(item) else item)} for outer in groups for item in items]
        found.for_each += sources
    for group in groups:
        found.items += _expand(found, task, group) if _is_mapped(task) else [Item(task, group)]
    return found


def _is_mapped(task: Any) -> bool:
    return hasattr(task, "partial_kwargs")


def _expand(found: FloraTask, task: Any, group: Mapping[str, Any]) -> Iterator[Item]:
    items, sources = _items(expand_value_of(task))
    found.for_each += sources
    for item in items:
        is_whole = not is_reference(item)
        kwargs = dict(item) if is_whole else _required(task, item)
        try:
            yield Item(unmap(task, kwargs), group)
        except Exception as error:
            # An ``__init__`` of one's own may need the value itself.
            mistake = _unmade(task, error) if is_whole and not has_reference(kwargs) else None
            yield Item(None, group, mistake)


def _unmade(task: Any, error: Exception) -> str:
    name = task.operator_class.__name__
    return (
        f"Airflow cannot make a {name} of it: {type(error).__name__}: {error}. Correct what the task is mapped "
        f"over, or {name} itself"
    )


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
