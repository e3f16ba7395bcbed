"""How far a batch is, in words for its log and for Airflow's UI."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from airflow_provider_flora.batch.entries import COMPLETED, FAILED, UNKNOWN

if TYPE_CHECKING:
    from airflow_provider_flora.api.errors import FloraError
    from airflow_provider_flora.api.models import Run
    from airflow_provider_flora.batch.money import Budget
    from airflow_provider_flora.task.log import Log

INTERVAL = 30.0
"""Seconds between two lines, at most."""
STEP = 0.05
"""Share of the rows after which there is a line earlier."""


class Progress:
    """A reporter of progress, and the listener of all waits of a batch.

    :param report: takes each line, for Airflow's UI.
    :param log: the task's log.
    """

    def __init__(self, report: Callable[[str], None], log: Log) -> None:
        self._report = report
        self._log = log
        self._began = self._shown_at = time.monotonic()
        self._shown = 0.0
        self._done_before: int | None = None
        self._is_interrupted = False

    def show(self, counts: Counter[str], budget: Budget) -> None:
        """Write a line, if there is something new or the last one is long ago."""
        rows = sum(counts.values())
        done = rows - counts["active"] - counts["waiting"]
        if self._done_before is None:
            self._done_before, self._shown = done, done / rows
        now = time.monotonic()
        if now - self._shown_at < INTERVAL and done / rows - self._shown < STEP:
            return
        self._shown_at, self._shown = now, done / rows
        line = describe(counts, budget.spent) + self._time_left(rows, done, now)
        self._log.info("%s", line)
        self._report(line)

    def _time_left(self, rows: int, done: int, now: float) -> str:
        here = done - (self._done_before or 0)
        if not here or done == rows:
            return ""
        seconds = (now - self._began) / here * (rows - done)
        return f"; about {seconds / 60:.0f} min left" if seconds >= 90 else f"; about {seconds:.0f} s left"

    # --- the listener of the waits: runs.watching calls it for each of them ------------------------------------

    def changed(self, run: Run) -> None:
        """Ignore the progress of a single run."""

    def interrupted(self, error: FloraError, seconds_left: float) -> None:
        """Log once that Flora cannot be polled."""
        if not self._is_interrupted:
            self._is_interrupted = True
            self._log.warning("The runs cannot be polled now; the wait goes on: %s", error)

    def recovered(self, run: Run) -> None:
        """Log once that polls succeed again."""
        if self._is_interrupted:
            self._is_interrupted = False
            self._log.info("The runs can be polled again")


def describe(counts: Counter[str], spent: float) -> str:
    """Return how far a batch is in one line."""
    rows = sum(counts.values())
    done = rows - counts["active"] - counts["waiting"]
    parts = [f"{counts[COMPLETED]:,} completed"]
    named = (
        ("reused", "reused"),
        (FAILED, "failed"),
        (UNKNOWN, "unknown"),
        ("skipped", "skipped"),
        ("active", "running"),
    )
    parts += [f"{counts[name]:,} {word}" for name, word in named if counts[name]]
    return f"{done:,} of {rows:,} rows: {', '.join(parts)}; {spent:.2f} USD"
