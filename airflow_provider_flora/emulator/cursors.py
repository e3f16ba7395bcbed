"""Opaque cursors: a place in a list, written so that nobody is tempted to count with it."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

from airflow_provider_flora.emulator.errors import ApiError


def write_cursor(listing: str, place: Any) -> str:
    """A cursor for that place of that list.

    :param listing: The name of the list, so that another list's cursor is recognised as bad.
    :param place: Plain JSON.
    """
    return base64.urlsafe_b64encode(json.dumps([listing, place]).encode()).decode().rstrip("=")


def read_cursor(listing: str, cursor: str) -> Any:
    """The place that :func:`write_cursor` was given.

    :param listing: The name of the list.
    :param cursor: What the client sent.
    :raises ApiError: 400 when the cursor is not one of that list.
    """
    try:
        name, place = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        if name != listing:
            raise ValueError(name)
    except (binascii.Error, ValueError, TypeError):
        raise ApiError(400, fields=[("cursor", "Invalid cursor")]) from None
    return place
