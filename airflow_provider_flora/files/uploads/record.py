"""The record of the Flora assets that a task's attempts have uploaded. No requests, no reading of files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_provider_flora.task.state import FLORA_ASSETS, save

if TYPE_CHECKING:
    from airflow_provider_flora.task.log import Log

MAX_REMEMBERED = 50


class UploadRecord:
    """The record of uploaded Flora assets, in Airflow's task state store (3.3 and later).

    The store is read at first use. A lost record only costs another upload.

    :param store: ``context["task_state_store"]``. Without one, the record ends with this attempt.
    :param log: the task's log.
    """

    def __init__(self, store: Any, log: Log) -> None:
        self._store = store
        self._log = log
        self._stored: dict[str, dict[str, Any]] | None = None if store is not None else {}
        self._was_read = False
        self._made: dict[str, dict[str, Any]] = {}

    def __bool__(self) -> bool:
        return bool(self._entries())

    def find(self, identity: str) -> str | None:
        """Return the id of a Flora asset, if it is recorded."""
        return self._entries().get(identity, {}).get("asset_id")

    def sha256_of(self, file: str) -> str | None:
        """Return the SHA-256 of a file at its last upload, if it is recorded."""
        found = [entry.get("sha256") for entry in self._entries().values() if entry.get("file") == file]
        return next((sha256 for sha256 in reversed(found) if sha256), None)

    def add(self, identity: str, asset_id: str, file: str, sha256: str | None) -> None:
        """Record a Flora asset. A failure only costs the next attempt another upload."""
        self._made.pop(identity, None)
        self._made[identity] = {"asset_id": asset_id, "file": file, "sha256": sha256 or ""}
        self._read()
        if self._store is None or self._stored is None:  # an unread record must not be overwritten
            return
        try:
            save(self._store, FLORA_ASSETS, dict([*self._entries().items()][-MAX_REMEMBERED:]))
        except Exception as error:
            self._log.warning("Could not record that %s was uploaded as %s: %s", file, asset_id, error)

    def _entries(self) -> dict[str, dict[str, Any]]:
        """Return the recorded entries, oldest first."""
        if not self._was_read:
            self._read()
        earlier = {key: entry for key, entry in (self._stored or {}).items() if key not in self._made}
        return {**earlier, **self._made}

    def _read(self) -> None:
        self._was_read = True
        if self._stored is not None:
            return
        try:
            self._stored = _valid_entries(self._store.get(FLORA_ASSETS))
        except Exception as error:
            self._log.warning("Could not read the record of uploaded files: %s", error)


def _valid_entries(stored: Any) -> dict[str, dict[str, Any]]:
    entries = stored.items() if isinstance(stored, dict) else ()
    return {
        identity: entry
        for identity, entry in entries
        if isinstance(entry, dict) and isinstance(entry.get("asset_id"), str)
    }
