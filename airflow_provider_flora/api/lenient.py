"""Lenient reading of answers that deviate from Flora's documentation.

The functions here run for deviating answers only. Pydantic alone reads the others, without Python code per field,
since the pages of the history are read again and again while tasks wait.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any, TypeVar

from pydantic import BaseModel, GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema, PydanticOmit, core_schema

log = logging.getLogger(__name__)
ModelT = TypeVar("ModelT", bound=BaseModel)

_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
_NUL = rb"\u0000"  # as JSON spells it
LAST_MILLISECOND = 253_402_300_799_999  # of the year 9999, the last year of a date
LONGEST_MESSAGE = 4000
_LONGEST_NUMBER = 400  # digits; a float has at most 309, and Python refuses to read 4,300


class Else:
    """An annotation of a field: ``read`` converts values that do not have the field's type."""

    def __init__(self, read: Callable[[Any], Any]) -> None:
        self._read = read

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        otherwise = core_schema.no_info_plain_validator_function(self._read)
        usual = handler(source)
        if usual["type"] == "nullable":  # null is frequent, and needs no union
            inner = core_schema.union_schema([usual["schema"], otherwise], mode="left_to_right")
            return core_schema.nullable_schema(inner)
        return core_schema.union_schema([usual, otherwise], mode="left_to_right")


def parse(body: bytes, model: type[ModelT]) -> ModelT:
    """Read JSON as a model, with every text made storable.

    :raises ValidationError: the body is not JSON, or lacks a required field.
    """
    try:
        read = model.model_validate_json(body)
    except ValidationError as error:
        if not _is_broken(error):
            raise
        try:
            value = _parse_broken(body)
        except (ValueError, RecursionError):
            raise error from None
    else:
        if _NUL not in body:
            return read
        value = _parse_broken(body)
    return model.model_validate(value)


def storable(text: str) -> str:
    """Return a text that databases and UTF-8 accept: U+FFFD replaces NUL and lone surrogates."""
    return _UNSTORABLE.sub("\ufffd", text)


def _is_broken(error: ValidationError) -> bool:
    """Whether pydantic could not read JSON that Python may read: it is not just nested too deeply for both."""
    [first, *_] = error.errors(include_url=False, include_input=False)
    return first["type"] == "json_invalid" and "recursion limit" not in first["msg"]


def _parse_broken(body: bytes) -> Any:
    """Read JSON that pydantic refuses: broken UTF-8, a lone surrogate, a byte order mark, a huge number."""
    text = body.decode("utf-8-sig", errors="replace")
    return _all_storable(json.loads(text, strict=False, parse_int=_integer))


def _integer(digits: str) -> int | None:
    return int(digits) if len(digits) <= _LONGEST_NUMBER else None


def _all_storable(value: Any) -> Any:
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, list):
        return [_all_storable(entry) for entry in value]
    if isinstance(value, dict):
        return {storable(key): _all_storable(entry) for key, entry in value.items()}
    return value


def nothing(value: Any) -> None:
    """Return ``None`` for an unreadable value."""


def no(value: Any) -> bool:
    """Return false for a value that is no boolean."""
    return False


def empty_list(value: Any) -> list[Any]:
    """Return an empty list for a value that is no list."""
    return []


def leave_out(value: Any) -> Any:
    """Leave an unreadable entry out of a list, so that the other entries can be read."""
    shape = sorted(map(str, value))[:20] if isinstance(value, dict) else type(value).__name__
    log.debug("Leaving out an unreadable entry of a list in Flora's answer: %s", shape)
    raise PydanticOmit


def text(value: Any) -> str | None:
    """Return a value that is no text as JSON: the message of a refusal must not get lost."""
    if value is None:
        return None
    return json.dumps(value, ensure_ascii=False)


def message(value: Any) -> str | None:
    """Read a message as :func:`text` does. Shorten one that is too long to read."""
    read = value if isinstance(value, str) else text(value)
    if read is None or len(read) <= LONGEST_MESSAGE:
        return read
    return f"{read[:LONGEST_MESSAGE]} … ({len(read):,} characters)"


def words(value: Any) -> str:
    """Return a value as :func:`text` does, and an empty text for null."""
    return text(value) or ""


def number(value: Any) -> float | None:
    """Return a number that was sent as a text, or ``None`` for a negative or unreadable value."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        read = float(value)
    except (ValueError, OverflowError):
        return None
    return read if math.isfinite(read) and read >= 0 else None


def count(value: Any) -> int | None:
    """Return a whole number that was sent as a text or with a decimal point, or ``None``."""
    read = number(value)
    return int(read) if read is not None and read == int(read) else None


def progress(value: Any) -> float:
    """Return a progress limited to 100, or 0 for an unreadable value."""
    read = number(value)
    return 0.0 if read is None else min(read, 100.0)


def milliseconds(value: Any) -> float | None:
    """Return a time that was sent as a text, a number or a date, or ``None`` for an unreadable value."""
    read = number(value)
    if read is None and isinstance(value, str):
        try:
            date = datetime.fromisoformat(value.strip().replace("Z", "+00:00"))
            read = (date if date.tzinfo else date.replace(tzinfo=timezone.utc)).timestamp() * 1000
        except (ValueError, OverflowError):
            return None
    return read if read is not None and 0 <= read <= LAST_MILLISECOND else None
