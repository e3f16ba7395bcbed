"""What a run is given, checked against what its technique declares, before anything is spent. No I/O."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from airflow_provider_flora.api.assets import content_type_of
from airflow_provider_flora.api.errors import FloraInputError
from airflow_provider_flora.api.models import RunInput, Slot, Technique

Inputs = Mapping[str, Any] | Sequence[Mapping[str, Any] | RunInput]
"""``{input_id: value}``, or Flora's own list of ``{"id", "type", "value"}``. A value of ``None`` is left out."""

RUN_INPUT_TYPES = ("text", "imageUrl", "videoUrl")
"""What a run can be given (the vendor's API pages); a technique may declare other slots all the same."""

_TAKES = {
    "text": "a text",
    "imageUrl": "the https:// URL of an image",
    "videoUrl": "the https:// URL of a video",
    "audioUrl": "audio, which Flora's API does not let a run be given",
    "documentUrl": "a document, which Flora's API does not let a run be given",
}

MEDIA_INPUT_TYPES = {"imageUrl": "image/", "videoUrl": "video/"}
"""How the content type of a file begins that is uploaded for an input."""

FileProblem = Callable[[str, str], str | None]
"""Tells what is wrong with a file, named by a path or URI, for an input of a type; ``None`` if nothing is."""

_WEB = re.compile(r"https?:", re.IGNORECASE)

# Flora would make one run, and one charge, for each value of an input (SDK); a task makes exactly one.
_ONE_RUN_EACH = "; map the task with .expand to make one run for each value"


def types_are_known(inputs: Inputs) -> bool:
    """Whether the inputs name their own types, so that the technique need not be asked."""
    return not isinstance(inputs, Mapping)


def names_a_file(value: str, slot: Slot | None) -> bool:
    """Whether a media input's value is a file that has to be uploaded: no web URL, and no id of an element."""
    if _WEB.match(value):
        return False
    if slot is not None and slot.accepts_element and ":" not in value:
        return "/" in value or content_type_of(value) is not None
    return True


def run_inputs(inputs: Inputs, technique_id: str, technique: Technique | None = None) -> list[RunInput]:
    """Bring either form of inputs into Flora's own, without checking the values.

    :param technique: needed for ``{input_id: value}``, whose types it knows.
    :raises FloraInputError: an entry cannot be read, or the technique does not have it.
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
    """Bring inputs into Flora's form and check each against its slot.

    :param on_own_origin: tells whether a media URL that is not ``https://`` may be used all the same.
    :param file_problem: tells what is wrong with a file; without it, a media input takes URLs only.
    :raises FloraInputError: with every mistake at once.
    """
    reading = _Reading(inputs, technique)
    problems = reading.problems
    problems += (
        f"{slot.id!r} is missing: it takes {_takes(slot)}"
        for slot in technique.inputs
        if not slot.optional and slot.id not in reading.given
    )
    for entry in reading.entries:
        problems += _value_problems(entry, reading.slots.get(entry.id), on_own_origin, file_problem)
    problems += _repeated(reading.entries)
    if problems:
        raise FloraInputError(technique.technique_id, problems)
    return reading.entries


class _Reading:
    """Inputs of either form, read: the entries, the ids that were given a value, and what could not be read."""

    def __init__(self, inputs: Inputs, technique: Technique | None) -> None:
        self.slots: dict[str, Slot] = {slot.id: slot for slot in technique.inputs} if technique else {}
        self.entries: list[RunInput] = []
        self.given: set[str] = set()
        self.problems: list[str] = []
        if isinstance(inputs, Mapping):
            for input_id, value in inputs.items():
                if slot := self.slots.get(input_id):
                    self._read(slot.id, slot.type, value)
                else:
                    known = ", ".join(map(repr, self.slots)) or "none"
                    self.problems.append(f"{input_id!r} is not an input of this technique; it has: {known}")
        elif isinstance(inputs, Sequence) and not isinstance(inputs, (str, bytes)):
            for entry in inputs:
                self._read_entry(entry)
        else:
            self.problems.append(
                f"inputs takes {{input_id: value}} or a list of {{id, type, value}}, not {_shown(inputs)}"
            )

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
                f'{_shown(entry)} is not an input: each takes {{"id": ..., "type": ..., "value": ...}}'
            )

    def _read(self, input_id: str, input_type: str, value: object) -> None:
        if value is None:
            return
        self.given.add(input_id)
        if isinstance(value, str):
            self.entries.append(RunInput(id=input_id, type=input_type, value=value))
        else:
            takes = _takes(self.slots[input_id]) if input_id in self.slots else "one string"
            self.problems.append(
                f"{input_id!r} takes {takes}, not {_shown(value)}"
                + (_ONE_RUN_EACH if isinstance(value, (list, tuple)) else "")
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
        yield f"{entry.id!r} takes {_takes(slot)}"
    elif not entry.value.strip():
        yield f"{entry.id!r} is empty: it takes {_takes(slot)}" + (
            "; leave it out instead" if slot.optional else ""
        )
    elif slot.type != "text" and file_problem is not None and names_a_file(entry.value, slot):
        if problem := file_problem(entry.value, slot.type):
            yield f"{entry.id!r} takes {_takes(slot)}, or a file of one: {problem}"
    elif slot.type != "text" and not _is_media(entry.value, slot, on_own_origin):
        yield f"{entry.id!r} takes {_takes(slot)}, not {_shown(entry.value)}"


def _is_media(value: str, slot: Slot, on_own_origin: Callable[[str], bool]) -> bool:
    if slot.accepts_element and ":" not in value:
        return True
    try:
        parts = urlsplit(value)
    except ValueError:
        return False
    return (parts.scheme == "https" and bool(parts.hostname)) or on_own_origin(value)


def _repeated(entries: Sequence[RunInput]) -> Iterable[str]:
    ids = [entry.id for entry in entries]
    for input_id in dict.fromkeys(ids):
        if ids.count(input_id) > 1:
            yield f"{input_id!r} is given {ids.count(input_id)} times{_ONE_RUN_EACH}"


def _takes(slot: Slot) -> str:
    takes = _TAKES.get(slot.type, f"a value of type {slot.type!r}, which this provider does not know")
    if slot.accepts_element and slot.type in RUN_INPUT_TYPES:
        takes += " or the id of an element"
    details = [
        slot.specified_aspect_ratio,
        f"{slot.specified_duration:g} s" if slot.specified_duration else None,
    ]
    if any(details):
        takes += f" ({', '.join(detail for detail in details if detail)})"
    return takes


def _shown(value: object, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
