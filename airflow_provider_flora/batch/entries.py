"""The rows of a batch: which of them are to run, and the lines of the manifest. No requests.

    line in the manifest            the row now                                  what happens
    ==============================  ===========================================  ==============================
    completed, of this execution    unchanged, its files are there               nothing: it is done
    completed, of an earlier one    unchanged, its files are there, ``reuse``    nothing: it is reused
    failed or unknown, of this      unchanged, and the remedy allows no retry    nothing: it stays so
    execution
    any other, or none                                                           it runs, or its run is resumed

A row is unchanged if its technique and inputs have the digest of its line, and each of its files has the version or
the SHA-256 in its line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_provider_flora.api.errors import FloraError, FloraInputError, FloraParameterError, Remedy
from airflow_provider_flora.api.file_types import content_type_of
from airflow_provider_flora.api.inputs import MEDIA_INPUT_TYPES, check_inputs, run_inputs
from airflow_provider_flora.batch.manifest import EMPTY_LINE
from airflow_provider_flora.batch.rows import Row, RowProblem, fill
from airflow_provider_flora.files.downloads.naming import (
    FIELDS,
    check_file_name,
    folded,
    is_unique_for_ever,
    name_of,
    safe,
)
from airflow_provider_flora.files.uploads.run_inputs import possible_files
from airflow_provider_flora.files.uploads.source import SourceFile
from airflow_provider_flora.runs.outcome import value_of
from airflow_provider_flora.runs.record import digest_of, digests_differ

if TYPE_CHECKING:
    from airflow_provider_flora.api.models import Run, Technique
    from airflow_provider_flora.files.listing import Listing

COMPLETED, FAILED, UNKNOWN, SKIPPED = "completed", "failed", "unknown", "skipped"
DOWNLOAD_KINDS = ("download", "storage")
ACTIVE = "active"
"""Code of a skipped row whose run is active."""


@dataclass(eq=False)
class Entry:
    """A row of a batch, and what became of it.

    :param row: the row.
    :param digest: digest of its technique and inputs.
    :param files: version by name of the files among its inputs.
    :param line: its line in the manifest; ``None`` until it is over.
    :param previous: its line of before.
    :param file_name: format of the names of its output files.
    :param run_id: its run, while the run is active.
    :param retries_left: how often a failed run may be replaced.
    :param run: its failed run, about which is to be decided.
    :param was_resumed: whether an earlier attempt has started its run.
    :param failing_since: monotonic time (s) since when its start fails.
    :param is_unchanged: whether technique, inputs and files are those of its line of before.
    """

    row: Row
    digest: str
    files: dict[str, dict[str, str | None]]
    previous: Mapping[str, Any]
    line: dict[str, Any] | None = None
    file_name: str = ""
    run_id: str | None = None
    retries_left: int = 0
    run: Run | None = None
    was_resumed: bool = False
    failing_since: float = 0.0
    is_unchanged: bool = False

    @property
    def row_id(self) -> str:
        """The row's id."""
        return self.row.row_id


@dataclass(frozen=True)
class Execution:
    """The execution that a line belongs to.

    :param id: the same for all attempts until the task is cleared.
    :param attempt: number of the attempt.
    """

    id: str
    attempt: int

    def is_of(self, line: Mapping[str, Any]) -> bool:
        """Whether a line was written by this execution."""
        return line.get("execution") == self.id

    def is_attempt_of(self, line: Mapping[str, Any]) -> bool:
        """Whether a line was written by this attempt, before the task was deferred."""
        return self.is_of(line) and line.get("attempt") == self.attempt


class Lines:
    """Makes the lines of a manifest."""

    def __init__(self, technique_id: str, execution: Execution) -> None:
        self._technique_id = technique_id
        self._execution = execution

    def completed(self, entry: Entry, run: Run, files: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the line of a row whose run has completed and whose outputs are in place."""
        return self._line(entry, COMPLETED, self._value(run, files=files))

    def failed(
        self, entry: Entry, error: FloraError, run: Run | None = None, status: str = FAILED
    ) -> dict[str, Any]:
        """Return the line of a row that did not complete. It is unknown if its run may be charged all the same."""
        if run is not None and not run.completed and run.status != FAILED:
            status = UNKNOWN
        parts = self._value(run) if run is not None else {"run_id": error.run_id}
        described = {
            "code": error.code or error.kind,
            "message": str(error),
            "remedy": error.remedy.value,
        }
        return self._line(entry, status, parts, error=described)

    def skipped(self, entry: Entry, code: str, message: str) -> dict[str, Any]:
        """Return the line of a row that was not started, or whose run is active."""
        described = {"code": code, "message": message, "remedy": Remedy.RETRY_LATER.value}
        line = self._line(entry, SKIPPED, {"run_id": entry.run_id}, error=described)
        return (
            {**line, "completed_before": entry.previous} if entry.is_unchanged and is_paid(entry.previous) else line
        )

    def _value(self, run: Run, files: list[dict[str, Any]] | None = None) -> dict[str, Any]:
        value = value_of(run, self._technique_id)
        texts = [output["url"] for output in value["outputs"] if output["type"] == "text"]
        return {**value, "output_texts": texts, "files": files or []}

    def _line(
        self, entry: Entry, status: str, parts: Mapping[str, Any], error: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        usual: dict[str, Any] = {
            "row_id": entry.row_id,
            "status": status,
            "reused": False,
            "run_id": None,
            "technique_id": self._technique_id,
            "inputs": entry.row.inputs,
            "input_files": entry.files,
            "digest": entry.digest,
            "outputs": [],
            "output_urls": [],
            "output_texts": [],
            "files": [],
            "charged_cost": None,
            "error": error,
            "created_at": None,
            "completed_at": None,
            "execution": self._execution.id,
            "attempt": self._execution.attempt,
        }
        return {**usual, **{name: value for name, value in parts.items() if name in usual and name != "status"}}


def make_entries(
    rows: Iterable[Row],
    technique_id: str,
    lines: Mapping[str, Mapping[str, Any]],
    execution: Execution,
    listing: Listing,
    *,
    reuse: bool,
    file_name: str | None,
) -> list[Entry]:
    """Return the rows' entries. Those that are done already have their line.

    :param lines: the manifest, by row.
    :param file_name: format of the names of the output files; ``None`` if they are not downloaded.
    """
    entries = []
    for row in rows:
        found = {name: listing.find(name) for name in possible_files(row.inputs)}
        versions = {
            name: {"version": one.version, "sha256": None} for name, one in found.items() if one is not None
        }
        entry = Entry(row, digest_of(technique_id, row.inputs, None), versions, memory_of(lines.get(row.row_id)))
        if file_name is not None:
            entry.file_name = _fill_file_name(file_name, row)
        entry.is_unchanged = bool(entry.previous) and _is_unchanged(entry, entry.previous)
        entry.line = _line_that_stays(entry, execution, listing, reuse=reuse, downloads=file_name is not None)
        entries.append(entry)
    return entries


def is_paid(line: Mapping[str, Any]) -> bool:
    """Whether a line is of a run that has completed, or was active, even if its output files are not there."""
    status, code = line.get("status"), (line.get("error") or {}).get("code")
    return (
        status == COMPLETED
        or (status == FAILED and code in DOWNLOAD_KINDS)
        or (status == SKIPPED and code == ACTIVE and isinstance(line.get("run_id"), str))
    )


def memory_of(line: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Return what a line remembers of its row: after a mistake or an early end, what was completed before it."""
    return {} if line is None else line.get("completed_before") or line


def _line_that_stays(
    entry: Entry, execution: Execution, listing: Listing, *, reuse: bool, downloads: bool
) -> dict[str, Any] | None:
    line = {**EMPTY_LINE, **entry.previous}
    is_own = execution.is_of(line)
    status = line.get("status")
    if not (is_own or (reuse and status == COMPLETED)) or not entry.is_unchanged:
        return None
    if status == COMPLETED:
        files = line.get("files") or []
        if downloads and (not files or not all(_is_there(listing, file) for file in files)):
            return None
        return {**line, "input_files": entry.files, "reused": not is_own}
    if status not in (FAILED, UNKNOWN) or not line.get("error"):
        return None
    remedy = line["error"].get("remedy")
    is_final = status == FAILED and remedy not in (Remedy.RETRY_NOW, Remedy.RETRY_LATER)
    return line if is_final or execution.is_attempt_of(line) else None


def _is_unchanged(entry: Entry, line: Mapping[str, Any]) -> bool:
    if line.get("digest") != entry.digest or digests_differ(str(line.get("digest")), entry.digest):
        return False
    before = line.get("input_files") or {}
    if before.keys() != entry.files.keys():
        return False
    for name, now in entry.files.items():
        known = before[name] or {}
        if now["version"] is not None and now["version"] == known.get("version"):
            now["sha256"] = known.get("sha256")
            continue
        # Another version may have the same content. To find out costs a reading; a run costs money.
        try:
            now["sha256"] = SourceFile(name).compute_digest()
        except FloraError:
            return False
        if now["sha256"] != known.get("sha256"):
            return False
    return True


def _is_there(listing: Listing, file: Mapping[str, Any]) -> bool:
    stored = listing.find(str(file.get("uri")))
    return stored is not None and stored.bytes == file.get("bytes")


def _fill_file_name(template: str, row: Row) -> str:
    values = {name: safe(str(value)) for name, value in row.columns.items() if name not in FIELDS}
    return fill(template, {**values, "row_id": safe(row.row_id)})


def find_problems(
    entries: Iterable[Entry],
    technique: Technique,
    listing: Listing,
    *,
    validate_inputs: bool,
    on_own_origin: Callable[[str], bool],
) -> list[RowProblem]:
    """Return the mistakes in rows that are to run, before anything is paid."""

    def file_problem(name: str, input_type: str) -> str | None:
        kind = content_type_of(name)
        if kind is None or not kind.startswith(MEDIA_INPUT_TYPES[input_type]):
            return f"{name!r} is {kind or 'of no known type'}"
        return None if listing.find(name) is not None else f"there is no file {name!r}"

    problems = []
    for entry in entries:
        try:
            if validate_inputs:
                check_inputs(entry.row.inputs, technique, on_own_origin=on_own_origin, file_problem=file_problem)
            else:
                run_inputs(entry.row.inputs, technique.technique_id, technique)
            if entry.file_name:
                check_file_name(entry.file_name)
        except FloraInputError as error:
            problems += [_problem(entry, text) for text in error.problems]
        except FloraParameterError as error:
            problems.append(_problem(entry, str(error)))
    return problems


def find_equal_names(entries: Sequence[Entry], technique: Technique) -> list[RowProblem]:
    """Return the rows that are to run and whose output files would have the names of other files."""
    first: dict[str, Entry] = {}
    problems = []
    for entry in sorted(entries, key=lambda entry: entry.line is None):  # the files that are there come first
        if not entry.file_name or is_unique_for_ever(entry.file_name):
            continue
        own = [folded(name) for name in _names(entry, technique)]
        others = [first.setdefault(name, entry) for name in own]
        other = next((other for other in others if other is not entry), None)
        if entry.line is not None:
            continue
        if other is not None:
            text = f"its files would have the names of row {other.row_id!r}. Add {{row_id}} to file_name, or"
            problems.append(_problem(entry, f"{text} give the rows ids that differ in letters or digits"))
        elif len(set(own)) < len(own):
            text = "file_name gives one name to several of its outputs. Add {output_id} or {index} to it"
            problems.append(_problem(entry, text))
    return problems


def _names(entry: Entry, technique: Technique) -> list[str]:
    """Return the names of a row's output files. Their extensions depend on the run, so the type stands for them."""
    return [
        name_of(
            entry.file_name,
            technique=technique.technique_id,
            run_id="run",
            output_id=slot.id,
            index=index,
            ext=re.sub("[^a-z0-9]", "", slot.type.lower()),
        )
        for index, slot in enumerate(technique.outputs)
    ]


def _problem(entry: Entry, message: str) -> RowProblem:
    return RowProblem(entry.row.position, entry.row_id, message)
