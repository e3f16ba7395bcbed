"""Which assets the tries of a task have made, so that none makes one again. No requests, no reading of files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow_provider_flora.runs.task_state import keep

if TYPE_CHECKING:
    from airflow_provider_flora.runs.starting import Log

MAX_REMEMBERED = 50


class AssetMemory:
    """Which assets the tries of a task have made, in Airflow's task state store (3.3 and later).

    :param store: ``context["task_state_store"]``; without one, only this try's are known.
    """

    _KEY = "flora_assets"

    def __init__(self, store: Any, log: Log) -> None:
        self._store = store
        self._log = log
        self._entries: dict[str, dict[str, str]] = (store.get(self._KEY) if store is not None else None) or {}

    def __bool__(self) -> bool:
        return bool(self._entries)

    def find(self, identity: str) -> str | None:
        """Return the id of an asset."""
        return self._entries.get(identity, {}).get("asset_id")

    def sha256_of(self, file: str) -> str | None:
        """Return what the content of a file was when it was last uploaded."""
        found = [entry["sha256"] for entry in self._entries.values() if entry["file"] == file and entry["sha256"]]
        return found[-1] if found else None

    def keep(self, identity: str, asset_id: str, file: str, sha256: str | None) -> None:
        """Remember an asset. Not being able to costs an upload at the next try, and nothing else."""
        self._entries.pop(identity, None)
        self._entries[identity] = {"asset_id": asset_id, "file": file, "sha256": sha256 or ""}
        for oldest in [*self._entries][:-MAX_REMEMBERED]:
            del self._entries[oldest]
        if self._store is None:
            return
        try:
            keep(self._store, self._KEY, self._entries)
        except Exception as error:
            self._log.warning("Could not note that %s was uploaded as %s: %s", file, asset_id, error)


def seed_of(context: Mapping[str, Any]) -> str:
    """Return what all tries of a task instance share until it is cleared, and no other task instance has."""
    ti = context["ti"]
    return json.dumps([ti.dag_id, ti.run_id, ti.task_id, ti.map_index, ti.max_tries])
