"""Reads the body of a start of a run and says everything that is wrong with it at once."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from airflow_provider_flora.emulator import callback_urls
from airflow_provider_flora.emulator.catalogue import RUN_INPUT_TYPES, Slot, Technique
from airflow_provider_flora.emulator.errors import ApiError

BODY_KEYS = ("inputs", "mode", "callback_url", "idempotency_key")
INPUT_KEYS = ("id", "type", "value")
MODES = ("async", "stream")
_ELEMENT_ID = re.compile(r"[A-Za-z0-9_-]+")

Problems = list[tuple[str, str]]


@dataclass(frozen=True)
class StartRequest:
    """A valid body."""

    inputs: tuple[dict[str, str], ...]
    mode: str
    callback_url: str | None
    idempotency_key: str | None


class StartRequestReader:
    """Reads bodies.

    :param allow_loopback_callbacks: Take callback URLs on this machine.
    """

    def __init__(self, *, allow_loopback_callbacks: bool) -> None:
        self._allow_loopback_callbacks = allow_loopback_callbacks

    def read(self, body: bytes, technique: Technique, is_own_url: Callable[[str], bool]) -> StartRequest:
        """The request in this body.

        :param body: As it came.
        :param technique: What is to be run.
        :param is_own_url: Tells the emulator's own media, which need not be HTTPS, from others.
        :raises ApiError: 400, with every field that is wrong.
        """
        try:
            wire = json.loads(body)
        except ValueError:
            raise ApiError(400, "invalid_json", "The body is not valid JSON.") from None
        if not isinstance(wire, dict):
            raise ApiError(400, fields=[("body", "Expected an object")])
        problems: Problems = [(key, "Unrecognized key") for key in wire if key not in BODY_KEYS]
        inputs = self._inputs(wire.get("inputs"), technique, is_own_url, problems)
        if "mode" not in wire:
            problems.append(("mode", "Required"))
        elif wire["mode"] not in MODES:
            problems.append(("mode", f"Must be one of: {', '.join(MODES)}"))
        callback_url = _optional_text(wire, "callback_url", problems)
        if callback_url:
            refused = callback_urls.refusal(callback_url, allow_loopback=self._allow_loopback_callbacks)
            problems += [("callback_url", refused)] if refused else []
        idempotency_key = _optional_text(wire, "idempotency_key", problems)
        if problems:
            raise ApiError(400, fields=problems)
        return StartRequest(inputs, wire["mode"], callback_url, idempotency_key)

    def _inputs(
        self, wire: Any, technique: Technique, is_own_url: Callable[[str], bool], problems: Problems
    ) -> tuple[dict[str, str], ...]:
        if not isinstance(wire, list):
            problems.append(("inputs", "Required" if wire is None else "Expected an array"))
            return ()
        given: set[str] = set()
        for place, item in enumerate(wire):
            found = _input_problem(item, f"inputs[{place}]", technique, given, is_own_url)
            problems += [found] if found else []
            if isinstance(item, dict) and isinstance(item.get("id"), str):
                given.add(item["id"])
        problems += [
            (slot.id, "Required") for slot in technique.inputs if not slot.optional and slot.id not in given
        ]
        return tuple(wire)


def _input_problem(
    item: Any, where: str, technique: Technique, given: set[str], is_own_url: Callable[[str], bool]
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
    if item["id"] in given and not slot.allow_multiple:
        return slot.id, "Given more than once"
    if slot.type != "text" and not _is_medium(item["value"], slot, is_own_url):
        return slot.id, "Must be an HTTPS URL"
    return None


def _is_medium(value: str, slot: Slot, is_own_url: Callable[[str], bool]) -> bool:
    if slot.accepts_element and _ELEMENT_ID.fullmatch(value):
        return True
    try:
        parts = urlsplit(value)
    except ValueError:
        return False
    return (parts.scheme == "https" and bool(parts.hostname)) or is_own_url(value)


def _optional_text(wire: dict[str, Any], key: str, problems: Problems) -> str | None:
    value = wire.get(key)
    if key in wire and (not isinstance(value, str) or not value):
        problems.append((key, "Expected a non-empty string"))
        return None
    return value
