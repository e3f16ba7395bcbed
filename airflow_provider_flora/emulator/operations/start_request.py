"""Reads the body of a start of a run, and reports everything that is wrong with it at once."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from airflow_provider_flora.emulator.http import callback_urls
from airflow_provider_flora.emulator.http.bodies import Problems, read_object, read_text, unknown_keys
from airflow_provider_flora.emulator.http.errors import ApiError
from airflow_provider_flora.emulator.state.catalogue import RUN_INPUT_TYPES, Slot, Technique

BODY_KEYS = ("inputs", "mode", "callback_url", "idempotency_key")
INPUT_KEYS = ("id", "type", "value")
MODES = ("async", "stream")
# The npm client says of `allow_multiple`: "multiple values may be provided for this input (one run per value)". A
# start answers with one run, so its request can have one value only.
ONE_RUN_PER_VALUE = "Given more than once: start one run for each value"
_ELEMENT_ID = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class StartRequest:
    """A valid body."""

    inputs: tuple[dict[str, str], ...]
    mode: str
    callback_url: str | None
    idempotency_key: str | None


class StartRequestReader:
    """Reads the bodies of starts.

    :param allow_loopback_callbacks: accept callback URLs on this machine.
    """

    def __init__(self, *, allow_loopback_callbacks: bool) -> None:
        self._allow_loopback_callbacks = allow_loopback_callbacks

    def read(self, body: bytes, technique: Technique, is_own_url: Callable[[str], bool]) -> StartRequest:
        """Read the request in this body.

        :param body: the body.
        :param technique: the technique to run.
        :param is_own_url: whether a URL is the emulator's own, which need not be HTTPS.
        :raises ApiError: 400 with every field that is wrong.
        """
        fields = read_object(body)
        problems = unknown_keys(fields, BODY_KEYS)
        inputs = self._read_inputs(fields.get("inputs"), technique, is_own_url, problems)
        if "mode" not in fields:
            problems.append(("mode", "Required"))
        elif fields["mode"] not in MODES:
            problems.append(("mode", f"Must be one of: {', '.join(MODES)}"))
        callback_url = read_text(fields, "callback_url", problems)
        if callback_url:
            refused = callback_urls.refusal(callback_url, allow_loopback=self._allow_loopback_callbacks)
            problems += [("callback_url", refused)] if refused else []
        idempotency_key = read_text(fields, "idempotency_key", problems)
        if problems:
            raise ApiError(400, fields=problems)
        return StartRequest(inputs, fields["mode"], callback_url, idempotency_key)

    def _read_inputs(
        self, items: Any, technique: Technique, is_own_url: Callable[[str], bool], problems: Problems
    ) -> tuple[dict[str, str], ...]:
        if not isinstance(items, list):
            problems.append(("inputs", "Required" if items is None else "Expected an array"))
            return ()
        seen: set[str] = set()
        for place, item in enumerate(items):
            found = _find_problem(item, f"inputs[{place}]", technique, seen, is_own_url)
            problems += [found] if found else []
            if isinstance(item, dict) and isinstance(item.get("id"), str):
                seen.add(item["id"])
        problems += [
            (slot.id, "Required") for slot in technique.inputs if not slot.optional and slot.id not in seen
        ]
        return tuple(items)


def _find_problem(
    item: Any, where: str, technique: Technique, seen: set[str], is_own_url: Callable[[str], bool]
) -> tuple[str, str] | None:
    """The first thing wrong with one input, or ``None``."""
    if not isinstance(item, dict):
        return where, "Expected an object"
    for key in (*INPUT_KEYS, *item):
        if key not in INPUT_KEYS:
            return f"{where}.{key}", "Unrecognized key"
        if key not in item:
            return f"{where}.{key}", "Required"
        if not isinstance(item[key], str):
            return f"{where}.{key}", "Expected a string"
    slot = technique.input(item["id"])
    if slot is None:
        return f"{where}.id", f"{technique.slug} has no input {item['id']!r}"
    if item["type"] not in RUN_INPUT_TYPES:
        return f"{where}.type", f"Must be one of: {', '.join(RUN_INPUT_TYPES)}"
    if item["type"] != slot.type:
        return slot.id, f"Expected type {slot.type}, got {item['type']}"
    if not item["value"]:
        return slot.id, "Must not be empty"
    if item["id"] in seen:
        return slot.id, ONE_RUN_PER_VALUE if slot.allow_multiple else "Given more than once"
    if slot.type != "text" and not _is_media_value(item["value"], slot, is_own_url):
        return slot.id, "Must be an HTTPS URL"
    return None


def _is_media_value(value: str, slot: Slot, is_own_url: Callable[[str], bool]) -> bool:
    if slot.accepts_element and _ELEMENT_ID.fullmatch(value):
        return True
    try:
        parts = urlsplit(value)
    except ValueError:
        return False
    return (parts.scheme == "https" and bool(parts.hostname)) or is_own_url(value)
