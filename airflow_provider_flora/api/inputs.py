"""Checks the inputs of a run against its technique, before the run is paid. No I/O."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from airflow_provider_flora.api.errors import FloraInputError
from airflow_provider_flora.api.file_types import content_type_of
from airflow_provider_flora.api.models import RunInput, Slot, Technique

Inputs = Mapping[str, Any] | Sequence[Mapping[str, Any] | RunInput]
"""``{input_id: value}``, or Flora's own list of ``{"id", "type", "value"}``. Values of ``None`` are left out."""

RUN_INPUT_TYPES = ("text", "imageUrl", "videoUrl")
"""Input types that a run accepts (the vendor's API pages). A technique may declare others."""

_EXPECTED = {
    "text": "a text",
    "imageUrl": "the https:// URL of an image",
    "videoUrl": "the https:// URL of a video",
    "audioUrl": "audio, which Flora's API does not support as an input of a run",
    "documentUrl": "a document, which Flora's API does not support as an input of a run",
}

MEDIA_INPUT_TYPES = {"imageUrl": "image/", "videoUrl": "video/"}
"""Start of the content type of a file that is uploaded for an input."""

FileProblem = Callable[[str, str], str | None]
"""Returns the problem of a file, by path or URI, for an input type; ``None`` if there is no problem."""

_WEB = re.compile(r"https?:", re.IGNORECASE)

# The SDK says "one run per value" of an input with several values: several runs and charges. One request starts
# exactly one run, whose inputs are {id, type, value: string}.
_ONE_VALUE_EACH = ". An input takes one value: start a separate run, with its own charge, for each value"


def types_are_known(inputs: Inputs) -> bool:
    """Whether the inputs name their types, so that the technique is not needed."""
    return not isinstance(inputs, Mapping)


def names_a_file(value: str, slot: Slot | None) -> bool:
    """Whether a media input's value is a file to upload, and not a web URL or the id of an element."""
    if _WEB.match(value):
        return False
    if slot is not None and slot.accepts_element and ":" not in value:
        return "/" in value or content_type_of(value) is not None
    return True


def run_inputs(inputs: Inputs, technique_id: str, technique: Technique | None = None) -> list[RunInput]:
    """Return inputs of either form in Flora's own form, without checking the values.

    :param technique: needed for the types of ``{input_id: value}``.
    :raises FloraInputError: an entry is malformed, or the technique has no such input.
    """
    reading = _Reading(inputs, technique)
    if reading.problems:
        raise FloraInputError(technique_id, reading.problems)
    return reading.entries


def check_inputs(
    inputs: Inputs,
    technique: Technique,
    *,
    on_own_origin: Callable[[str], bool] = lambda url: False,
    file_problem: FileProblem | None = None,
) -> list[RunInput]:
    """Return inputs in Flora's own form, each checked against its slot.

    :param on_own_origin: returns whether a media URL may be used although it is not ``https://``.
    :param file_problem: returns the problem of a file. Without it, media inputs take URLs only.
    :raises FloraInputError: lists every mistake.
    """
    reading = _Reading(inputs, technique)
    problems = reading.problems
    problems += (
        f"{slot.id!r} is missing: it takes {_expected(slot)}"
        for slot in technique.inputs
        if not slot.optional and slot.id not in reading.filled
    )
    for entry in reading.entries:
        problems += _value_problems(entry, reading.slots.get(entry.id), on_own_origin, file_problem)
    if problems:
        raise FloraInputError(technique.technique_id, problems)
    return reading.entries


class _Reading:
    """Inputs of either form after reading: the entries, the ids that have a value, and the problems."""

    def __init__(self, inputs: Inputs, technique: Technique | None) -> None:
        self.slots: dict[str, Slot] = {slot.id: slot for slot in technique.inputs} if technique else {}
        self.entries: list[RunInput] = []
        self.filled: set[str] = set()
        self.problems: list[str] = []
        if isinstance(inputs, Mapping):
            for input_id, value in inputs.items():
                if slot := self.slots.get(input_id):
                    self._read(slot.id, slot.type, value)
                elif not isinstance(input_id, str):
                    self.problems.append(f"inputs has the key {preview(input_id)}, but ids of inputs are texts")
                else:
                    known = ", ".join(map(repr, self.slots)) or "none"
                    self.problems.append(f"{input_id!r} is not an input of this technique; it has: {known}")
        elif isinstance(inputs, Sequence) and not isinstance(inputs, (str, bytes)):
            for entry in inputs:
                self._read_entry(entry)
        else:
            self.problems.append(
                f"inputs takes {{input_id: value}} or a list of {{id, type, value}}, not {preview(inputs)}"
            )
        self.problems += _repetitions(self.entries)

    def _read_entry(self, entry: object) -> None:
        if isinstance(entry, RunInput):
            self._read(entry.id, entry.type, entry.value)
        elif (
            isinstance(entry, Mapping)
            and set(entry) == {"id", "type", "value"}
            and isinstance(entry["id"], str)
            and isinstance(entry["type"], str)
        ):
            self._read(entry["id"], entry["type"], entry["value"])
        else:
            self.problems.append(
                f'{preview(entry)} is not an input: each takes {{"id": ..., "type": ..., "value": ...}}'
            )

    def _read(self, input_id: str, input_type: str, value: object) -> None:
        if value is None:
            return
        self.filled.add(input_id)
        if isinstance(value, str):
            self.entries.append(RunInput(id=input_id, type=input_type, value=value))
        else:
            expected = _expected(self.slots[input_id]) if input_id in self.slots else "one string"
            self.problems.append(
                f"{input_id!r} takes {expected}, not {preview(value)}"
                + (_ONE_VALUE_EACH if isinstance(value, (list, tuple)) else "")
            )


def _value_problems(
    entry: RunInput,
    slot: Slot | None,
    on_own_origin: Callable[[str], bool],
    file_problem: FileProblem | None,
) -> Iterable[str]:
    if slot is None:
        yield f"{entry.id!r} is not an input of this technique"
        return
    if entry.type != slot.type:
        yield f"{entry.id!r} is of type {slot.type!r}, not {entry.type!r}"
    elif slot.type not in RUN_INPUT_TYPES:
        yield f"{entry.id!r} takes {_expected(slot)}"
    elif not any(character.isprintable() and not character.isspace() for character in entry.value):
        yield f"{entry.id!r} is empty: it takes {_expected(slot)}" + (". Or leave it out" if slot.optional else "")
    elif entry.value.strip() == "None":
        yield f"{entry.id!r} is the text 'None'. Its template probably found no value" + (
            ". Or leave it out" if slot.optional else ""
        )
    elif slot.type != "text" and file_problem is not None and names_a_file(entry.value, slot):
        if problem := file_problem(entry.value, slot.type):
            yield f"{entry.id!r} takes {_expected(slot)}, or a file of one: {problem}"
    elif slot.type != "text" and not _is_media(entry.value, slot, on_own_origin):
        yield f"{entry.id!r} takes {_expected(slot)}, not {preview(entry.value)}"


def _is_media(value: str, slot: Slot, on_own_origin: Callable[[str], bool]) -> bool:
    if slot.accepts_element and ":" not in value:
        return True
    try:
        parts = urlsplit(value)
    except ValueError:
        return False
    return (parts.scheme == "https" and bool(parts.hostname)) or on_own_origin(value)


def _repetitions(entries: Sequence[RunInput]) -> Iterable[str]:
    ids = [entry.id for entry in entries]
    for input_id in dict.fromkeys(ids):
        if ids.count(input_id) > 1:
            yield f"{input_id!r} appears {ids.count(input_id)} times{_ONE_VALUE_EACH}"


def _expected(slot: Slot) -> str:
    expected = _EXPECTED.get(slot.type, f"a value of type {slot.type!r}, which this provider does not support")
    if slot.accepts_element and slot.type in RUN_INPUT_TYPES:
        expected += " or the id of an element"
    if details := details_of(slot):
        expected += f" ({', '.join(details)})"
    return expected


def details_of(slot: Slot) -> list[str]:
    """Return what a slot asks for beside its type: ratio and length."""
    length = f"{slot.specified_duration:g} s" if slot.specified_duration else None
    return [detail for detail in (slot.specified_aspect_ratio, length) if detail]


def preview(value: object, limit: int = 80) -> str:
    """Return a value as Python writes it, cut to a number of characters."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
