"""Reads the rows of a batch, and the inputs of each row's run. Knows nothing of the technique.

The mistakes of single rows are collected, so that a user sees all of them at once. What makes the whole table
unusable is an error.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from airflow_provider_flora.api.errors import FloraFileError, FloraParameterError
from airflow_provider_flora.api.inputs import preview
from airflow_provider_flora.batch.lines import read_lines
from airflow_provider_flora.files.storage import as_text, as_uri

if TYPE_CHECKING:
    from airflow_provider_flora.airflow_compat import ObjectStoragePath

LONGEST_ROW_ID = 200
_FIELD = re.compile(r"\{([^{}]*)\}")
_LIKE_A_COLUMN = re.compile(r"\{\w[\w .-]*\}")
_UNUSABLE_IN_ID = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_OF_A_MANIFEST = {"row_id", "status", "outputs", "inputs"}
_MOST_NAMES = 30


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a batch.

    :param position: 1 for the first row.
    :param row_id: id of the row.
    :param columns: values by column, as they were read. An empty cell of a CSV file is ``None``.
    :param inputs: inputs of the row's run.
    """

    position: int
    row_id: str
    columns: dict[str, Any]
    inputs: dict[str, Any]


@dataclass(frozen=True)
class RowProblem:
    """A mistake in a row.

    :param position: 1 for the first row; ``None`` if the mistake is in no single row.
    :param row_id: id of the row, if it is known.
    :param message: the mistake, with its input or column, its value, and what to do.
    """

    position: int | None
    row_id: str | None
    message: str

    def __str__(self) -> str:
        where = [f"row {self.row_id!r}"] if self.row_id is not None else []
        where += [f"position {self.position}"] if self.position is not None else []
        return f"{', '.join(where) or 'the rows'}: {self.message}"


@dataclass
class _Table:
    """Rows as they were read: values by column, or the problem of a row that cannot be read."""

    rows: list[dict[str, Any] | str] = field(default_factory=list)
    columns: dict[str, None] = field(default_factory=dict)
    """Names of the columns that at least one row has, in their order."""
    is_manifest: bool = False


def read_rows(
    source: str | ObjectStoragePath | Sequence[Mapping[str, Any]],
    *,
    row_id: str | None,
    inputs: Mapping[str, Any] | None,
) -> tuple[list[Row], list[RowProblem]]:
    """Read the rows of a table, and return those without mistakes, and the mistakes of the others.

    :param source: path or URI of a table: ``.csv`` in UTF-8, ``.jsonl`` or ``.ndjson`` with an object in each line.
        Or a list of dicts. Or a manifest: its completed lines are the rows. Their columns are ``row_id``,
        ``run_id``, the inputs by their id, and the outputs by theirs.
    :param row_id: column that names a row. Default: the position, and ``row_id`` of a manifest.
    :param inputs: ``{input_id: template}``; see :func:`fill`. A template that is one ``{column}`` gives an input no
        value where the column has none. Values that are no texts stay as they are. Default: the columns are the
        inputs, without those that name the row or its earlier run.
    :raises FloraFileError: the file cannot be read. Retryable if its storage may be away.
    :raises FloraParameterError: a parameter is invalid, or does not fit the table.
    """
    table = _read(source)
    if not table.rows:
        raise FloraParameterError(f"rows={str(source)!r} has no {'completed ' * table.is_manifest}rows.")
    if row_id is None and table.is_manifest:
        row_id = "row_id"
    if row_id is not None and row_id not in table.columns and table.columns:
        raise FloraParameterError(f"row_id={row_id!r} is not a column of the rows. They have {_names(table)}.")
    fill_inputs = _default_inputs(table, row_id) if inputs is None else _templates(inputs, table)
    rows: list[Row] = []
    problems: list[RowProblem] = []
    positions: dict[str, int] = {}
    for position, columns in enumerate(table.rows, 1):
        if isinstance(columns, str):
            problems.append(RowProblem(position, None, columns))
            continue
        name, messages = (str(position), []) if row_id is None else _read_row_id(row_id, columns)
        if name is not None and position != (first := positions.setdefault(name, position)):
            messages.append(f"{row_id!r} is {name!r}, as in row {first}. Give each row its own")
        filled, more = fill_inputs(columns)
        messages += more
        problems += (RowProblem(position, name, message) for message in messages)
        if name is not None and not messages:
            rows.append(Row(position, name, columns, filled))
    return rows, problems


def fill(template: str, columns: Mapping[str, Any]) -> str:
    """Return a text with each ``{column}`` of a known column replaced. Every other brace stays as it is.

    What was replaced is not filled again. ``None`` becomes an empty text, and a list or dict becomes JSON. A column
    whose name has a brace cannot be used.
    """
    return _FIELD.sub(lambda found: _text(columns[found[1]]) if found[1] in columns else found[0], template)


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, (bool, int, float, list, dict)):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def _input(value: Any) -> Any:
    """Return the value of a column as that of an input. Inputs are texts, so numbers become texts."""
    return _text(value) if isinstance(value, (bool, int, float)) else value


_FillInputs = Callable[[Mapping[str, Any]], tuple[dict[str, Any], list[str]]]
"""Returns the inputs of a row by its columns, and the mistakes."""


def _default_inputs(table: _Table, row_id: str | None) -> _FillInputs:
    left_out = {row_id, *(("row_id", "run_id") if table.is_manifest else ())}

    def fill_inputs(columns: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
        return {name: _input(value) for name, value in columns.items() if name not in left_out}, []

    return fill_inputs


def _templates(inputs: Mapping[str, Any], table: _Table) -> _FillInputs:
    if not isinstance(inputs, Mapping) or not all(isinstance(input_id, str) for input_id in inputs):
        raise FloraParameterError(f"inputs of a batch takes {{input_id: template}}, not {preview(inputs)}.")
    templates = {input_id: as_text(template) for input_id, template in inputs.items()}
    wanted = {
        input_id: [name for name in _FIELD.findall(template) if name in table.columns]
        for input_id, template in templates.items()
        if isinstance(template, str)
    }
    for input_id, names in wanted.items():
        if table.columns and not names and _LIKE_A_COLUMN.fullmatch(templates[input_id]):
            raise FloraParameterError(
                f"inputs[{input_id!r}] is {templates[input_id]!r}, and no row has such a column. They have "
                f"{_names(table)}."
            )

    def fill_inputs(columns: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
        filled, problems = {}, []
        for input_id, template in templates.items():
            names = wanted.get(input_id, ())
            if missing := [name for name in names if name not in columns]:
                problems.append(
                    f"{input_id!r} is {preview(template)}, and the row has no {', '.join(map(repr, missing))}. "
                    "Add it, or null for no value"
                )
            elif len(names) == 1 and template == f"{{{names[0]}}}":
                filled[input_id] = _input(columns[names[0]])
            else:
                filled[input_id] = fill(template, columns) if names else template
        return filled, problems

    return fill_inputs


def _read_row_id(column: str, columns: Mapping[str, Any]) -> tuple[str | None, list[str]]:
    value = columns.get(column)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None, [f"{column!r} is {'empty' if column in columns else 'missing'}. Give the row an id"]
    name = _input(value)
    if not isinstance(name, str):
        return None, [f"{column!r} is {preview(value)}, and an id is a text or a number"]
    if len(name) > LONGEST_ROW_ID:
        return None, [
            f"{column!r} is {preview(name)} of {len(name)} characters, and an id has at most {LONGEST_ROW_ID}"
        ]
    if _UNUSABLE_IN_ID.search(name):
        return None, [f"{column!r} is {preview(name)} with a control character. Remove it"]
    return name, []


def check_source(source: Any) -> None:
    """Check that rows can be of that form, without reading them.

    :raises FloraParameterError: they cannot.
    """
    _reader_of(source)


def _read(source: Any) -> _Table:
    return _reader_of(source)()


def _reader_of(source: Any) -> Callable[[], _Table]:
    location = as_uri(source)
    if isinstance(location, str):
        extension = PurePath(location).suffix.lower()
        if reader := _READERS.get(extension):
            return lambda: reader(read_lines(location), location)
    elif isinstance(source, Sequence) and not isinstance(source, (bytes, bytearray)):
        return lambda: _read_list(source)
    is_list = isinstance(location, str) and location.startswith("[")
    raise FloraParameterError(
        f"rows takes a path or URI that ends in {', '.join(_READERS)}, or a list of dicts, not {preview(source)}."
        + (" A template makes a text of a list: use the output of the task itself." if is_list else "")
    )


def _read_list(source: Sequence[Any]) -> _Table:
    table = _Table()
    for entry in source:
        if not isinstance(entry, Mapping):
            table.rows.append(f"{preview(entry)} is not a dict of values by column")
        elif odd := [name for name in entry if not isinstance(name, str)]:
            table.rows.append(f"the column {preview(odd[0])} has a name that is no text")
        else:
            table.rows.append(dict(entry))
            table.columns.update(dict.fromkeys(entry))
    return table


def _read_csv(lines: Iterator[str], location: str) -> _Table:
    table = _Table()
    reader = csv.reader(lines, strict=True)
    try:
        for cells in reader:
            if not cells:
                continue
            if not table.columns:
                table.columns = _read_header(cells, location)
            elif len(cells) == len(table.columns):
                table.rows.append({name: cell or None for name, cell in zip(table.columns, cells, strict=True)})
            else:
                table.rows.append(
                    f"line {reader.line_num} has {len(cells)} values, and there are {len(table.columns)} columns. "
                    "Write a value for each column, and quote values with commas"
                )
    except (csv.Error, ValueError) as error:
        place = f"row {len(table.rows) + 1}" if table.columns else "the header"
        what = f"line {reader.line_num}: {error}. Correct it, or use .jsonl" if type(error) is csv.Error else error
        raise FloraFileError(f"{location!r} cannot be read: {place}: {what}.") from error
    return table


def _read_header(cells: list[str], location: str) -> dict[str, None]:
    columns = dict.fromkeys(cells)
    if blank := [place for place, name in enumerate(cells, 1) if not name.strip()]:
        raise FloraFileError(
            f"Column {blank[0]} of {location!r} has no name. Name it in the first line, or remove it."
        )
    if len(columns) < len(cells):
        twice = next(name for name in columns if cells.count(name) > 1)
        raise FloraFileError(f"{location!r} has {cells.count(twice)} columns {twice!r}. Give each its own name.")
    return columns


def _read_json_lines(lines: Iterable[str], location: str) -> _Table:
    table = _Table()
    is_manifest: bool | None = None
    number = 0
    try:
        for number, text in enumerate(lines, 1):
            if not text.strip():
                continue
            line = _read_object(text, number)
            if isinstance(line, dict):
                if is_manifest is None:
                    table.is_manifest = is_manifest = line.keys() >= _OF_A_MANIFEST
                if is_manifest:
                    if line.get("status") != "completed":
                        continue
                    line = _columns_of_manifest(line)
                table.columns.update(dict.fromkeys(line))
            table.rows.append(line)
    except ValueError as error:
        raise FloraFileError(f"{location!r} cannot be read: row {len(table.rows) + 1}: {error}.") from error
    return table


def _read_object(text: str, number: int) -> dict[str, Any] | str:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError) as error:
        return f"line {number} is not JSON ({error}). Write one object in each line"
    return line if isinstance(line, dict) else f"line {number} is {preview(line)}, and not an object"


def _columns_of_manifest(line: Mapping[str, Any]) -> dict[str, Any]:
    ids = {"row_id": line.get("row_id"), "run_id": line.get("run_id")}
    inputs, outputs = line.get("inputs"), line.get("outputs")
    values = dict(inputs) if isinstance(inputs, Mapping) else {}
    for output in reversed(outputs if isinstance(outputs, list) else []):  # the first of several with one id counts
        if isinstance(output, Mapping) and isinstance(output.get("output_id"), str):
            values[output["output_id"]] = output.get("url")
    return {**ids, **values, **ids}


_READERS: dict[str, Callable[[Iterator[str], str], _Table]] = {
    ".csv": _read_csv,
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
}


def _names(table: _Table) -> str:
    names = [*table.columns]
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(map(repr, names[:_MOST_NAMES])) + more
