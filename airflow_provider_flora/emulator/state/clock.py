"""The emulator's clock, which may be wrong on purpose."""

from __future__ import annotations

import time
from email.utils import formatdate


class Clock:
    """Unix time, off by a fixed number of seconds.

    :param skew: seconds by which this clock is ahead of the real one; negative when it is behind.
    """

    def __init__(self, skew: float = 0.0) -> None:
        self.skew = skew
        self._date = (0, "")

    def now(self) -> float:
        """Unix time in milliseconds."""
        return (time.time() + self.skew) * 1000

    def date(self) -> str:
        """The time in the form of the HTTP header ``Date``."""
        second = int(self.now() / 1000)
        if self._date[0] != second:
            self._date = (second, formatdate(second, usegmt=True))
        return self._date[1]
