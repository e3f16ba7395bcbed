"""What a task's parameters are before a run. Templates and XComs are left for run time, and named."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from types import MappingProxyType
from typing import Any

from airflow_provider_flora.airflow_compat import DagParam, name_in_group
from airflow_provider_flora.task.parameters import none_if_empty

_MARKS = ("{{", "{%", "{#")
_LONGEST_TEMPLATE = 100
_BY_NAME = ("inputs", "rows")
"""Parameters whose values have names: of inputs, of columns."""


class Unknown:
    """A value that is known at run time only.

    :param source: where it comes from: ``fetch``, or the text of a template.
    """

    def __init__(self, source: str) -> None:
        self.source = source


def is_reference(value: object) -> bool:
    """Whether a value refers to an XCom, or to what a task group is mapped over."""
    return hasattr(value, "resolve") and hasattr(value, "iter_references")


def has_reference(value: object) -> bool:
    """Whether a value is a reference, or has one within its dicts and lists."""
    if isinstance(value, Mapping):
        return any(map(has_reference, value.values()))
    if isinstance(value, (list, tuple, set)):
        return any(map(has_reference, value))
    return is_reference(value)


def source_of(reference: Any) -> str:
    """Return the ids of the tasks that a reference refers to."""
    return (
        " and ".join(dict.fromkeys(operator.task_id for operator in _operators_of(reference))) or "its task group"
    )


def _operators_of(reference: Any) -> Iterator[Any]:
    for operator, _ in reference.iter_references():
        if is_reference(operator):
            yield from _operators_of(operator)
        else:
            yield operator


class Known:
    """The parameters of an operator, as far as they are known before a run.

    A template of ``params`` alone has the value that their defaults give, unless that is empty: then a person or
    another DAG gives it.

    :param operator: the operator, not a mapped one.
    :param group: what its mapped task groups give it, by name.
    :ivar left: what is known at run time only, in words.
    :ivar mistakes: templates that cannot be read.
    """

    def __init__(self, operator: Any, group: Mapping[str, Any] = MappingProxyType({})) -> None:
        self.left: list[str] = []
        self.mistakes: list[str] = []
        self._operator = operator
        self._group = group
        self._stand_ins = 0

    def get(self, name: str) -> Any:
        """Return a parameter, or :class:`Unknown`. Within a dict or list, a stand-in is in its place.

        A stand-in is valid as a text and as a URL, and differs from all others.
        """
        value = getattr(self._operator, name, None)
        if name == "inputs" and hasattr(self._operator, "python_callable"):
            return self._leave(
                name, "the task's own function", "is what the task's own function returns at run time"
            )
        if name not in self._operator.template_fields:
            return value
        if callable(value):  # Airflow calls it in place of rendering it
            function = getattr(value, "__name__", "a function")
            return self._leave(name, function, f"is what {function}() returns at run time")
        return self._read(name, value)

    def _read(self, label: str, value: Any) -> Any:
        if isinstance(value, str):
            if value.endswith(tuple(self._operator.template_ext)):
                return self._leave(label, value, f"is read from the template {value} at run time")
            return self._render(label, value) if any(mark in value for mark in _MARKS) else self._native(value)
        if isinstance(value, DagParam):
            return self._resolve(label, value)
        if is_reference(value):
            if hasattr(value, "value"):
                return value.value  # Airflow's ``literal``: a text that is no template
            name = name_in_group(value)
            if name is not None and name in self._group:
                given = self._group[name]  # in which Airflow renders no template
                return self._read(label, given) if has_reference(given) else given
            if any(is_reference(operator) for operator, _ in value.iter_references()):
                self.mistakes.append(
                    f"{label!r} is an XComArg of an XComArg, and Airflow cannot load such a DAG. Pass it without "
                    "the outer XComArg()"
                )
                return Unknown(source_of(value))
            source = source_of(value)
            task = f"the task {source!r}" if any(value.iter_references()) else source
            return self._leave(label, source, f"comes from {task} at run time")
        if isinstance(value, Mapping):
            own = value.get("id") if "value" in value else None  # an entry of Flora's own list of inputs
            return {
                key: self._nested(own if isinstance(own, str) else key if label in _BY_NAME else label, entry)
                for key, entry in value.items()
            }
        if isinstance(value, (list, tuple)):
            return [self._nested(label, entry) for entry in value]
        return value

    def _nested(self, label: object, value: Any) -> Any:
        read = self._read(str(label), value)
        if not isinstance(read, Unknown):
            return read
        self._stand_ins += 1
        return f"https://run-time.invalid/{self._stand_ins}"

    def _leave(self, label: str, source: str, why: str) -> Unknown:
        self.left.append(f"{label!r} {why}")
        return Unknown(source)

    def _resolve(self, label: str, reference: DagParam) -> Any:
        """Return the default of an argument of a function with ``@dag``, as that of any param."""
        try:
            value = reference.resolve({"params": self._params})
        except Exception:  # it has no default
            value = None
        if none_if_empty(value.strip() if isinstance(value, str) else value) is not None:
            return value
        return self._leave(label, "the DAG's params", "is a param of the DAG")

    def _native(self, text: str) -> Any:
        """Return what Airflow makes of a text without a template: in a DAG of native types, ``"7"`` becomes 7."""
        from jinja2.nativetypes import NativeEnvironment

        if text and isinstance(self._environment, NativeEnvironment):
            return self._operator.render_template(text, {}, self._environment)
        return text

    def _render(self, label: str, text: str) -> Any:
        from jinja2 import TemplateSyntaxError
        from jinja2.meta import find_undeclared_variables

        short = text if len(text) <= _LONGEST_TEMPLATE else text[: _LONGEST_TEMPLATE - 1] + "…"
        try:
            names = find_undeclared_variables(self._environment.parse(text))
        except TemplateSyntaxError as error:
            self.mistakes.append(f"{label!r} is not a valid template: {error.message}: {short}")
            return Unknown(short)
        if names <= {"params"}:
            try:
                value = self._operator.render_template(text, {"params": self._params}, self._environment)
            except Exception:  # a param without a default, or whatever the template does with it
                value = None
            if none_if_empty(value.strip() if isinstance(value, str) else value) is not None:
                return value
        return self._leave(label, short, f"is a template: {short}")

    @cached_property
    def _environment(self) -> Any:
        return self._operator.get_template_env()

    @cached_property
    def _params(self) -> dict[str, Any]:
        dag = self._operator.get_dag()
        found = {}
        for params in (dag.params if dag else {}, self._operator.params):
            for name in params:
                get: Callable[[str], Any] = params.__getitem__
                try:
                    found[name] = get(name)
                except Exception:  # noqa: S112  # it has no default
                    continue
        return found
