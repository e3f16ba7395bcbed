"""The record of the outputs that a task's attempts have stored. Decides nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from airflow_provider_flora.task.state import FILES, save

if TYPE_CHECKING:
    from airflow_provider_flora.task.log import Log


@dataclass(frozen=True)
class OutputFile:
    """The downloaded file of an output.

    :param uri: URI that ``ObjectStoragePath(uri)`` opens.
    :param bytes: size in bytes.
    :param sha256: SHA-256 in hex.
    """

    uri: str
    media_type: str
    bytes: int
    sha256: str
    output_id: str


class DownloadRecord:
    """The record of stored outputs, in Airflow's task state store. A lost record only costs time.

    :param store: ``context["task_state_store"]``, or ``None`` if Airflow has none.
    :param of: run, folder and format of names. The stored record counts only if it has the same values.
    :param log: the task's log.
    """

    def __init__(self, store: Any, of: Sequence[str], log: Log) -> None:
        self._store = store
        self._of = list(of)
        self._log = log
        self._files = self._read()

    def get(self, output: str) -> tuple[OutputFile, str] | None:
        """Return an output's file and the storage's version, if they are recorded."""
        entry: Any = self._files.get(output)
        try:
            return OutputFile(**{field.name: entry[field.name] for field in fields(OutputFile)}), entry["version"]
        except (TypeError, KeyError):
            return None

    def _read(self) -> dict[str, Any]:
        try:
            stored = self._store.get(FILES) if self._store is not None else None
        except Exception as error:
            self._log.warning("Could not read the record of downloaded files: %s", error)
            return {}
        files = stored.get("files") if isinstance(stored, dict) and stored.get("of") == self._of else None
        return files if isinstance(files, dict) else {}

    def add(self, output: str, file: OutputFile, version: str | None) -> None:
        """Record a file. A failure only costs a later attempt some time."""
        if self._store is None or version is None:
            return
        self._files[output] = {**asdict(file), "version": version}
        try:
            save(self._store, FILES, {"of": self._of, "files": self._files})
        except Exception as error:
            self._log.warning("Could not record the download of %s: %s", file.uri, error)
