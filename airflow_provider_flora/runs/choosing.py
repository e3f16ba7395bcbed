"""Outputs that a person chooses from: found in XComs and manifests, with a label each, and shown as Markdown.

Airflow's UI renders the Markdown, and what Flora generated is hostile. So texts and labels are shown as code, in
which nothing is markup and nothing becomes a link. A URL becomes a picture or a link only if it is https or on the
connection's own origin.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any
from urllib.parse import quote

from airflow_provider_flora.api.errors import FloraParameterError
from airflow_provider_flora.api.lenient import storable
from airflow_provider_flora.api.settings import origin_of

MOST_OUTPUTS = 40
LONGEST_LABEL = 200  # characters, as a row_id
MOST_BYTES = 256 * 1024
"""The outputs as JSON. Airflow keeps them with the task instance while it waits."""
LARGEST_BODY = 60_000
"""Bytes. A MySQL column of texts, as Airflow has for the body, holds 65,535."""

_LONGEST_TEXT = 2_000  # characters that are shown of one text
_LONGEST_TEXTS = 10_000  # of all texts
_LONGEST_URLS = 40_000
_MOST_LINES = 40
_SIDE_BY_SIDE = 3
# Control characters, and those that reverse the direction of a text: what is shown could be read as another text.
_UNSHOWN = re.compile("[\0-\x08\x0e-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_URL_CHARACTERS = "%-._~:/?#@!$&*+,;='"

Output = dict[str, Any]
"""``{"label", "output_id", "type", "url", "run_id"}``."""


def find_outputs(found: Any, labels: Sequence[str] | None, other_option: str) -> list[Output]:
    """Return the outputs in a task's value, each with its label and run.

    :param found: the value of a run, its list of outputs, or any number of these, such as the values of mapped
        tasks or the lines of a manifest. What has no value or no URL is left out.
    :param labels: one for each output. Default: the ``row_id``, and without one the position, from 1.
    :param other_option: what no output may be called.
    :raises FloraParameterError: a person cannot be asked about this.
    """
    outputs = list(islice(_read(found), MOST_OUTPUTS + 1))
    if not outputs:
        raise FloraParameterError(
            "There are no outputs to choose from. outputs takes the value of a task that runs a technique, or a "
            "manifest with at least one completed row."
        )
    if len(outputs) > MOST_OUTPUTS:
        raise FloraParameterError(
            f"There are more than {MOST_OUTPUTS} outputs, the most that one person is asked about at once. Choose "
            "in several tasks."
        )
    for output, label in zip(outputs, _labels(outputs, labels, other_option), strict=True):
        del output["row_id"]
        output["label"] = label
    if (size := len(json.dumps(outputs))) > MOST_BYTES:
        raise FloraParameterError(
            f"The {len(outputs)} outputs have {size:,} bytes as JSON. A task that waits for a person keeps up to "
            f"{MOST_BYTES:,}. Choose among fewer outputs, or among shorter texts."
        )
    return outputs


def _read(found: Any) -> Iterator[Output]:
    if isinstance(found, Mapping) and isinstance(found.get("outputs"), Iterable):
        ids = {key: found.get(key) for key in ("run_id", "row_id")}
        yield from ({**output, **ids} for output in _read(found["outputs"]))
    elif isinstance(found, Mapping) and "output_id" in found:
        if isinstance(found.get("url"), str) and found["url"]:
            fields = {key: found.get(key) for key in ("output_id", "type", "url")}
            yield {**fields, "run_id": None, "row_id": None}
    elif isinstance(found, Iterable) and not isinstance(found, (str, bytes, Mapping)):
        for entry in found:
            yield from _read(entry)
    elif found is not None:  # a mapped task instance without a value
        raise FloraParameterError(
            "outputs takes the value of FloraRunTechniqueOperator, a list of such values, or the path or URI of a "
            f"manifest, which ends in .jsonl. It does not take {_shorten(repr(found), 200)}."
        )


def _labels(outputs: Sequence[Output], given: Sequence[str] | None, other_option: str) -> list[str]:
    if given is None:
        labels = list(_default_labels(outputs))
    elif isinstance(given, str) or len(given) != len(outputs):
        count = "a text" if isinstance(given, str) else str(len(given))
        raise FloraParameterError(
            f"labels takes a list with one label for each of the {len(outputs)} outputs, not {count}."
        )
    else:
        labels = list(given)
    labels = [_on_one_line(str(label)) for label in labels]
    for position, label in enumerate(labels):
        if not label or len(label) > LONGEST_LABEL:
            raise FloraParameterError(
                f"The label of output {position + 1} has {len(label)} characters. It takes 1 to {LONGEST_LABEL}."
            )
        if label in (other_option, *labels[:position]):
            raise FloraParameterError(f"Two options have the label {label!r}. Give each output its own in labels.")
    return labels


def _default_labels(outputs: Sequence[Output]) -> Iterator[str]:
    rows = [output["row_id"] for output in outputs]
    for position, row in enumerate(rows):
        if row is None:
            yield str(position + 1)
        elif rows.count(row) == 1:
            yield row
        else:
            yield f"{row}: {rows[: position + 1].count(row)}"


def show(outputs: Sequence[Output], on_own_origin: Callable[[str], bool]) -> str:
    """Return Markdown that shows outputs: pictures, links to other media, and the beginnings of texts.

    If all are pictures, they are side by side, so that a person can compare them.

    :param on_own_origin: whether a URL is on the connection's own origin. Called only for one that is not https.
    """
    longest_text = min(_LONGEST_TEXT, _LONGEST_TEXTS // len(outputs))
    blocks, are_pictures = [], True
    for number, output in enumerate(outputs, 1):
        url = output["url"]
        address = quote(storable(url), safe=_URL_CHARACTERS).replace("&", r"\&")  # &copy; would become ©
        is_shown = output["type"] != "text" and len(address) <= _LONGEST_URLS // len(outputs)
        may_be_opened = is_shown and _may_be_opened(url, on_own_origin)
        is_picture = may_be_opened and output["type"] == "imageUrl"
        if is_picture:
            shown = f"![Output {number}]({address})"
        elif may_be_opened:
            shown = f"[Open output {number}]({address})"
        else:
            shown = _show_text(url, longest_text)
        # Readers of Markdown differ in how a bar in a table is escaped.
        are_pictures &= is_picture and "|" not in output["label"]
        blocks.append((_code(output["label"]), shown))
    if are_pictures and len(blocks) > 1:
        rows = [blocks[first : first + _SIDE_BY_SIDE] for first in range(0, len(blocks), _SIDE_BY_SIDE)]
        return "\n\n".join(map(_make_table, rows))
    return "\n\n".join(f"### {label}\n\n{shown}" for label, shown in blocks)


def _make_table(blocks: Sequence[tuple[str, str]]) -> str:
    labels, shown = zip(*blocks, strict=True)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (labels, ["---"] * len(blocks), shown))


def check_size(body: str) -> None:
    """Check that Airflow can store what is shown.

    :raises FloraParameterError: it is too large.
    """
    if (size := len(body.encode())) > LARGEST_BODY:
        raise FloraParameterError(
            f"What the person would see has {size:,} bytes of Markdown, more than {LARGEST_BODY:,}. Shorten body "
            "and labels, or choose among fewer outputs."
        )


def _may_be_opened(url: str, on_own_origin: Callable[[str], bool]) -> bool:
    origin = origin_of(url)
    if origin is None or not url.isprintable() or " " in url:
        return False
    return origin[0] == "https" or on_own_origin(url)


def _show_text(text: str, longest: int) -> str:
    lines = storable(text)[:longest].splitlines()
    shown = "  \n".join(  # two blanks are a line break
        _code(_UNSHOWN.sub("\ufffd", line)) if line.strip() else "" for line in lines[:_MOST_LINES]
    )
    is_whole = len(text) <= longest and len(lines) <= _MOST_LINES
    return shown if is_whole else f"{shown}\n\n… ({len(text):,} characters)"


def _code(line: str) -> str:
    """Return one line as inline code. Nothing in it ends the code: it has no run of so many backticks."""
    backticks = "`" * (max(map(len, re.findall("`+", line)), default=0) + 1)
    return f"{backticks} {line} {backticks}"


def _on_one_line(label: str) -> str:
    return " ".join(_UNSHOWN.sub("\ufffd", storable(label)).split())


def _shorten(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[:longest]} …"
