"""Reads the fields of a body, and collects what is wrong with them."""

from __future__ import annotations

import json
from typing import Any

from airflow_provider_flora.emulator.http.errors import ApiError

Problems = list[tuple[str, str]]
"""What is wrong with a body, as pairs of field and message."""


def read_object(body: bytes) -> dict[str, Any]:
    """Read the JSON object in this body.

    :param body: the body.
    :raises ApiError: 400 when it is none.
    """
    try:
        fields = json.loads(body)
    except ValueError:
        raise ApiError(400, "invalid_json", "The body is not valid JSON.") from None
    if not isinstance(fields, dict):
        raise ApiError(400, fields=[("body", "Expected an object")])
    return fields


def unknown_keys(fields: dict[str, Any], known: tuple[str, ...]) -> Problems:
    """The keys of a body that are not known.

    :param fields: the body.
    :param known: the known keys.
    """
    return [(key, "Unrecognized key") for key in fields if key not in known]


def read_text(fields: dict[str, Any], key: str, problems: Problems, *, required: bool = False) -> str | None:
    """Read a field that is text; ``None`` when it is missing or wrong.

    :param fields: the body.
    :param key: the field.
    :param problems: takes what is wrong with it.
    :param required: whether a missing field is a problem.
    """
    value = fields.get(key)
    if key not in fields:
        problems += [(key, "Required")] if required else []
        return None
    if not isinstance(value, str) or not value:
        problems.append((key, "Expected a non-empty string"))
        return None
    return value
