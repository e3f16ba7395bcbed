"""Pages of a list: their length, and opaque cursors, which no client can compute with."""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import Any

from aiohttp import web

from airflow_provider_flora.emulator.http.errors import ApiError

DEFAULT_LIMIT = 20
MAX_LIMIT = 100


def write_cursor(listing: str, place: Any) -> str:
    """Write a cursor for a place in a list.

    :param listing: the name of the list: another list refuses the cursor.
    :param place: the place, as JSON.
    """
    return base64.urlsafe_b64encode(json.dumps([listing, place]).encode()).decode().rstrip("=")


def read_cursor(listing: str, cursor: str) -> Any:
    """Read the place from a cursor of :func:`write_cursor`.

    :param listing: the name of the list.
    :param cursor: the client's cursor.
    :raises ApiError: 400 when the cursor is not one of this list.
    """
    try:
        name, place = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        if name != listing:
            raise ValueError(name)
    except (binascii.Error, ValueError, TypeError):
        raise bad_cursor() from None
    return place


def bad_cursor() -> ApiError:
    """The answer to a cursor that is not one of the list."""
    return ApiError(400, fields=[("cursor", "Invalid cursor")])


def read_limit(request: web.Request) -> int:
    """Read how many items of a list the client wants.

    :param request: the request.
    :raises ApiError: 400 when Flora does not accept the number.
    """
    text = request.query.get("limit", str(DEFAULT_LIMIT))
    if not re.fullmatch(r"[0-9]{1,3}", text) or not 1 <= int(text) <= MAX_LIMIT:
        raise ApiError(400, fields=[("limit", f"Must be a whole number from 1 to {MAX_LIMIT}")])
    return int(text)
