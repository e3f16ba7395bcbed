"""When a wait ends. Imported with the operators, so it imports little."""

from __future__ import annotations

import time
from datetime import timedelta

NO_TRIGGERER_GRACE = timedelta(minutes=5)
"""How long after a wait's deadline Airflow itself ends it, should no triggerer be alive to do so."""


class Deadline:
    """The end of a wait: of the task's ``timeout`` and ``execution_timeout``, the earlier, from now on.

    :param timeout: seconds.
    """

    def __init__(self, timeout: float, execution_timeout: timedelta | None) -> None:
        limit = execution_timeout.total_seconds() if execution_timeout else timeout
        self._end = time.time() + min(timeout, limit)

    def unix_time(self) -> float:
        """Return the unix time in seconds at which the wait ends."""
        return self._end

    def seconds_left(self) -> float:
        """Return the seconds until then, at least 0."""
        return max(0.0, self._end - time.time())
