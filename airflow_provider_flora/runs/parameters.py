"""What a template may have made of an operator's parameters. Imported with the operators, so it imports little."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

ValueT = TypeVar("ValueT")
NOT_GIVEN: tuple[object, ...] = (None, "", "None")
"""What an optional parameter is when its template finds nothing."""


def given(value: ValueT | None) -> ValueT | None:
    """Return an optional parameter, or ``None`` where its template found nothing."""
    return None if value in NOT_GIVEN else value


def one_of(name: str, value: str, choices: Sequence[str]) -> None:
    """Refuse, when a DAG is read, a value that is none of the choices.

    :raises ValueError: naming the parameter and the choices.
    """
    if value not in choices:
        raise ValueError(f"{name} takes {' or '.join(map(repr, choices))}, not {value!r}")


def number(name: str, value: float | str, *, at_least: float = 1e-3) -> float:
    """Return a number that a template may have rendered as text.

    :raises FloraParameterError: naming the parameter and its value.
    """
    from airflow_provider_flora.api.errors import FloraParameterError  # pydantic is not needed before a task runs

    try:
        result = float(value)
    except (TypeError, ValueError):
        result = float("nan")
    if not result >= at_least:
        raise FloraParameterError(f"{name} takes a number of at least {at_least:g}, not {value!r}.")
    return result
