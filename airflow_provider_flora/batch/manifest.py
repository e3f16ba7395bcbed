"""The manifest of a batch: what became of each row. It is also the memory of the next DAG run.

A manifest is a file of JSON lines in UTF-8, one for each row, in the order of the rows. It is always replaced as a
whole. A field without a value is null.

    version         1
    row_id          id of the row, a text
    status          completed, failed, unknown or skipped; unknown: a start may have made a run that was not found
    reused          whether an earlier DAG run paid for the run
    run_id          the run
    technique_id    technique, as the user named it
    inputs          {input_id: value}, as the user named them
    input_files     {name: {"version", "sha256"}} of the files among the inputs
    digest          digest of the technique and the inputs
    outputs         list of {"output_id", "type", "url"}; for a text, the url is the text
    output_urls     URLs of the outputs that are no texts
    output_texts    texts of the outputs
    files           files of the outputs: list of {"uri", "media_type", "bytes", "sha256", "output_id"}
    charged_cost    USD
    error           {"code", "message", "remedy"} of a row that did not complete
    created_at      time of the run's start, in unix milliseconds
    completed_at    time of the run's end
    completed_before  the line of a row's paid run, if the row has had a mistake or was not reached since
    execution       the execution of the task that wrote the line, and
    attempt         its attempt

Reading is lenient: other fields are kept, and missing ones are allowed. Only ``row_id`` is required.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from airflow_provider_flora.api.errors import FloraFileError, FloraParameterError
from airflow_provider_flora.api.lenient import storable
from airflow_provider_flora.batch.lines import read_lines
from airflow_provider_flora.files.downloads.destination import Destination
from airflow_provider_flora.files.storage import as_uri

VERSION = 1
FIELDS = (
    "row_id",
    "status",
    "reused",
    "run_id",
    "technique_id",
    "inputs",
    "input_files",
    "digest",
    "outputs",
    "output_urls",
    "output_texts",
    "files",
    "charged_cost",
    "error",
    "created_at",
    "completed_at",
    "execution",
    "attempt",
)
EMPTY_LINE = {"version": VERSION, **dict.fromkeys(FIELDS)}
_NAME = re.compile(r"[^\0-\x1f\x7f]+\.jsonl")
_CHUNK_BYTES = 1024 * 1024
_DEEPEST = 50


def read_manifest(uri: Any) -> Iterator[dict[str, Any]]:
    """Iterate over the lines of a manifest, without reading it into memory.

    :param uri: path, URI such as ``s3://conn_id@bucket/key.jsonl``, or ``ObjectStoragePath``.
    :raises FloraFileError: the file does not exist, or a line of it cannot be read. The error of a manifest that
        was replaced meanwhile is retryable.
    """
    location = as_uri(uri)
    try:
        for number, text in enumerate(read_lines(location), 1):
            if text.strip():
                yield _read_line(text, number)
    except ValueError as error:
        raise FloraFileError(
            f"The manifest {location!r} cannot be read: {error}. Repair the file. Or delete it: then every row is "
            "run and paid again."
        ) from error


def _read_line(text: str, number: int) -> dict[str, Any]:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"line {number} is not JSON ({error})") from None
    if not isinstance(line, dict) or not isinstance(line.get("row_id"), str):
        raise ValueError(f"line {number} is not that of a row: it has no row_id")
    return line


class Manifest:
    """A manifest that a task writes.

    :param uri: path, URI such as ``s3://conn_id@bucket/key.jsonl``, or ``ObjectStoragePath``.
    :ivar uri: its URI. ``ObjectStoragePath(uri)`` opens it.
    :raises FloraParameterError: a manifest cannot be there.
    """

    def __init__(self, uri: Any) -> None:
        text = as_uri(uri)
        if not isinstance(text, str):
            raise FloraParameterError(f"manifest takes a path or URI, not {uri!r}.")
        self._name = text.rpartition("/")[2]
        folder = text[: -len(self._name)] if self._name else text
        if not _NAME.fullmatch(self._name) or folder.endswith("://"):
            raise FloraParameterError(
                f"manifest={text!r} is not the name of a file that ends in .jsonl. Use one such as "
                "s3://bucket/folder/manifest.jsonl."
            )
        try:
            self._destination = Destination(folder)
        except FloraParameterError as error:
            raise FloraParameterError(f"manifest={text!r} cannot be used. {error}") from error
        self.uri = self._destination.uri(self._name)

    def check(self) -> None:
        """Check that the manifest can be written, before anything is paid.

        :raises FloraStorageError: its folder is not writable.
        """
        self._destination.check()

    def load(self) -> dict[str, dict[str, Any]]:
        """Return the lines by ``row_id``: none if the manifest does not exist.

        :raises FloraFileError: the manifest or a line of it cannot be read. To leave a line out would mean to pay
            for its row again.
        """
        try:
            return {line["row_id"]: line for line in read_manifest(self.uri)}
        except FloraFileError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return {}
            raise

    def write(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Replace the manifest. A reader sees the old one or the new one, and nothing between.

        :param lines: the lines in the order of the rows. Fields without a value may be missing.
        :raises FloraStorageError: the manifest could not be written. The old one remains.
        """
        with self._destination.writing(self._name) as sink:
            chunk = bytearray()
            for line in lines:
                text = json.dumps(_storable({**EMPTY_LINE, **line}), ensure_ascii=False)
                chunk += text.encode() + b"\n"
                if len(chunk) >= _CHUNK_BYTES:
                    sink.write(bytes(chunk))
                    chunk.clear()
            sink.write(bytes(chunk))
            sink.finish()


def _storable(value: Any, depth: int = 0) -> Any:
    """Return a value as JSON that every reader accepts. A row's inputs may be anything until they are checked."""
    if isinstance(value, str):
        return storable(value)
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (Mapping, list, tuple)) and depth == _DEEPEST:
        return "…"
    if isinstance(value, Mapping):
        return {storable(str(key)): _storable(entry, depth + 1) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_storable(entry, depth + 1) for entry in value]
    return storable(str(value))
