"""Checks of an operator's rendered parameters. Imported with the operators, so it imports little."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

ValueT = TypeVar("ValueT")
EMPTY: tuple[object, ...] = (None, "", "None")
"""Values of an optional parameter whose template finds nothing."""


def none_if_empty(value: ValueT | None) -> ValueT | None:
    """Return an optional parameter, or ``None`` if its template found nothing."""
    return None if value in EMPTY else value


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Check that a value is one of the choices, when the DAG is parsed.

    :raises ValueError: the value is not one of the choices.
    """
    if value not in choices:
        raise ValueError(f"{name} takes {' or '.join(map(repr, choices))}, not {value!r}")


def parse_limit(name: str, value: float | str | None, *, was_given: bool) -> float | None:
    """Return a limit in USD, or ``None`` if there is none.

    :param was_given: whether the DAG has a limit. If its template found nothing, it is an error, and not absent.
    :raises FloraParameterError: the value is not such a number.
    """
    return None if value is None and not was_given else parse_number(name, value, at_least=0.0)


def parse_number(name: str, value: float | str | None, *, at_least: float = 1e-3) -> float:
    """Return a parameter as a number. A template may have rendered it as text.

    :param at_least: the smallest allowed number.
    :raises FloraParameterError: the value is not such a number.
    """
    from airflow_provider_flora.api.errors import FloraParameterError  # imports pydantic, which DAG parsing avoids

    try:
        result = float("nan" if value is None else value)
    except (TypeError, ValueError, OverflowError):
        result = float("nan")
    if not result >= at_least:
        raise FloraParameterError(f"{name} takes a number of at least {at_least:g}, not {value!r}.")
    return result
