"""The deadline of a wait. Imported with the operators, so it imports little."""

from __future__ import annotations

import time
from datetime import timedelta

NO_TRIGGERER_GRACE = timedelta(minutes=5)
"""Time after a wait's deadline at which Airflow itself ends it, if no triggerer is alive."""


LONGEST = 3e9
"""Seconds, a century: more than dates and time differences can be relied on to hold."""


class Deadline:
    """The deadline of a wait that begins now: the earlier of ``timeout`` and ``execution_timeout``.

    :param timeout: seconds.
    :param execution_timeout: the task's ``execution_timeout``, if it has one.
    :ivar timeout: the shorter of both, in seconds.
    """

    def __init__(self, timeout: float, execution_timeout: timedelta | None) -> None:
        limit = execution_timeout.total_seconds() if execution_timeout else timeout
        self.timeout = min(timeout, limit)
        self._end = time.time() + min(self.timeout, LONGEST)

    def unix_time(self) -> float:
        """Return the unix time in seconds at which the wait ends."""
        return self._end

    def seconds_left(self) -> float:
        """Return the seconds until the wait ends, at least 0."""
        return max(0.0, self._end - time.time())
