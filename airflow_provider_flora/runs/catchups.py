"""The limit ``max_catchup_runs`` of a connection: for how many DAG runs of a catchup or backfill runs are started.

Airflow tells a task nothing about the times of other DAG runs, so tasks of one machine count them in a file.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from airflow_provider_flora.api.errors import FloraLimitError
from airflow_provider_flora.runs.shared_files import SharedFile
from airflow_provider_flora.task.catchup import BACKFILL, LATE_AFTER, MEANT_TAG

if TYPE_CHECKING:
    from airflow_provider_flora.api.settings import ClientSettings
    from airflow_provider_flora.task.attempt import Attempt

LIMIT = "max_catchup_runs"
COUNTED_FOR = LATE_AFTER
"""Seconds."""
Counts = dict[str, dict[str, float]]
"""For each task the DAG runs that it has started runs for, and the unix time (s) of the first one of each."""


class CatchupRuns:
    """The DAG runs that catchups and backfills of a connection have started runs for, within ten minutes.

    :param limit: DAG runs for each task.
    :param conn_id: the connection that sets the limit.
    """

    def __init__(self, settings: ClientSettings, limit: int, conn_id: str) -> None:
        self._limit = limit
        self._conn_id = conn_id
        self._file = SharedFile("catchups", [settings.base_url, settings.api_key], COUNTED_FOR)

    def check(self, attempt: Attempt, kind: str) -> None:
        """Count a DAG run, and check that it is not one too many.

        One that has been counted stays so: its retries, its mapped tasks and the rows of its batches may start.

        :param kind: ``catchup`` or ``backfill``.
        :raises FloraLimitError: there are as many DAG runs as the limit.
        :raises FloraStorageError: another task has locked the file for too long. A retry may help.
        """
        with self._file.locked():
            now = time.time()
            counts = self._read(now)
            own = counts.setdefault(f"{attempt.dag_id}/{attempt.task_id}", {})
            if attempt.run_id in own:
                return
            if len(own) >= self._limit:
                raise FloraLimitError(self._explain(attempt, kind), LIMIT)
            own[attempt.run_id] = now
            self._file.write(json.dumps(counts).encode(), now)

    def _read(self, now: float) -> Counts:
        """Return what is counted, without what is too old or cannot be read."""
        counts: Counts = {}
        content = self._file.read()
        with suppress(ValueError, AttributeError, TypeError):
            for task, times in json.loads(content or b"{}").items():
                recent = {run_id: at for run_id, at in times.items() if 0 <= now - at < COUNTED_FOR}
                if recent:
                    counts[task] = recent
        return counts

    def _explain(self, attempt: Attempt, kind: str) -> str:
        when = f" {COUNTED_FOR / 60:.0f} minutes later" if kind == BACKFILL else ""
        return (
            f"DAG run {attempt.run_id!r} is part of a {kind}. Within {COUNTED_FOR / 60:.0f} minutes, task "
            f"{attempt.task_id!r} has started runs for {self._limit} DAG runs of such on this machine, and "
            f"{LIMIT}={self._limit} of the connection {self._conn_id!r} allows no more. Nothing was started or "
            f"charged. If the DAG means to pay for all of them, give it the tag {MEANT_TAG!r}. To pay for this one "
            f"alone, clear the task{when}."
        )
