"""Errors as plain JSON and back: they pass from one process to another through Airflow's database.

A rebuilt error has the same class and attributes. Attributes that are not plain JSON are left out. Unknown entries
are ignored and missing ones get defaults, since the other process may run another release.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from airflow_provider_flora.api.errors import FloraError, Remedy

_ATTRIBUTES: dict[str, type] = {
    "code": str,
    "status": int,
    "run_id": str,
    "technique_id": str,
    "request_id": str,
}


def describe_error(error: FloraError) -> dict[str, Any]:
    """Return an error as a plain dict. ``details`` holds the attributes that only its class has."""
    named = {name: getattr(error, name) for name in _ATTRIBUTES}
    details = {
        name: value
        for name, value in vars(error).items()
        if name not in ("kind", "remedy", *_ATTRIBUTES) and not name.startswith("_") and _is_plain(value)
    }
    return {
        "kind": error.kind,
        "message": str(error),
        "remedy": error.remedy.value,
        **named,
        "details": details,
    }


def rebuild_error(description: Mapping[str, Any]) -> FloraError:
    """Return the error that a dict describes.

    An unknown kind becomes a :class:`FloraError`. An unknown or missing remedy becomes "retry later".
    """
    kind = description.get("kind")
    found = next((subclass for subclass in _subclasses(FloraError) if subclass.kind == kind), FloraError)
    error = found.__new__(found)  # not __init__, which builds the message from arguments that are not in the dict
    error.args = (str(description.get("message") or "an error without a message"),)
    details = description.get("details")
    attributes = {
        **(details if isinstance(details, dict) else {}),
        **{name: value for name, a in _ATTRIBUTES.items() if isinstance(value := description.get(name), a)},
        "remedy": _remedy(description.get("remedy")),
    }
    if found is FloraError and isinstance(kind, str):
        attributes["kind"] = kind
    vars(error).update(attributes)
    return error


def copy_error(error: FloraError) -> FloraError:
    """Return a copy of an error with the same cause."""
    copied = rebuild_error(describe_error(error))
    copied.__cause__ = error.__cause__
    return copied


def _subclasses(kind: type[FloraError]) -> Iterator[type[FloraError]]:
    yield kind
    for subclass in kind.__subclasses__():
        yield from _subclasses(subclass)


def _is_plain(value: object) -> bool:
    if isinstance(value, dict):
        return all(isinstance(name, str) and _is_plain(entry) for name, entry in value.items())
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return value is None or type(value) in (str, int, float, bool)


def _remedy(value: object) -> Remedy:
    try:
        return Remedy(value)
    except ValueError:
        return Remedy.RETRY_LATER
