"""Asks Flora how far a run is, for whoever looks at a task that waits.

Triggers cannot store anything in Airflow's database, so only Flora knows. It is asked once in :data:`KEPT_SECONDS`
for each run, whoever looks, by one thread of the API server at most. What goes wrong is left out of the page.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from dataclasses import replace

from airflow_provider_flora.metadata.reading import TaskView

KEPT_SECONDS = 5.0
PATIENCE = 2.0
"""Seconds to connect to Flora, and to read its answer."""
_KEPT = 1000

log = logging.getLogger(__name__)


class LiveRuns:
    """The progress of active runs, as Flora reported it last."""

    def __init__(self) -> None:
        self._seen: OrderedDict[tuple[str, str, str], tuple[float, str | None]] = OrderedDict()
        self._asking = threading.Lock()

    def progress(self, view: TaskView) -> str | None:
        """Return how far a task's run is, such as ``running, 40 %``; ``None`` if it is not known.

        :param view: a task instance that waits for one run. The connection is the task's own.
        """
        if not (view.conn_id and view.technique and view.run.run_id):
            return None
        run = view.conn_id, view.technique, view.run.run_id
        if self._asking.acquire(blocking=False):
            try:
                if time.monotonic() - self._seen.get(run, (float("-inf"), None))[0] >= KEPT_SECONDS:
                    self._seen[run] = time.monotonic(), _ask(*run)
                    self._seen.move_to_end(run)
                    while len(self._seen) > _KEPT:
                        self._seen.popitem(last=False)
            finally:
                self._asking.release()
        return self._seen.get(run, (0.0, None))[1]


def _ask(conn_id: str, technique_id: str, run_id: str) -> str | None:
    from airflow_provider_flora.api.client import FloraClient
    from airflow_provider_flora.hooks.flora import FloraHook

    try:
        settings = FloraHook(conn_id).settings
        quick = replace(settings, timeout=min(PATIENCE, settings.timeout), max_retries=0)
        with FloraClient(quick) as client:
            run = client.get_technique_run(technique_id, run_id)
    except Exception as error:
        log.warning("Could not ask Flora for the progress of run %s: %s", run_id, error)
        return None
    return f"{run.status}, {run.progress:g} %"
