"""A rate limit: a token bucket."""

from __future__ import annotations

import math
import time


class TokenBucket:
    """A number of requests a second. Requests that one second leaves over may come in the next.

    :param per_second: the rate, and the size of the bucket, which holds at least one.
    """

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._size = max(1.0, per_second)
        self._tokens = self._size
        self._filled_at = time.monotonic()

    def take(self) -> int | None:
        """Take one token.

        :return: ``None`` when there was one, else the whole seconds until there is one.
        """
        now = time.monotonic()
        self._tokens = min(self._size, self._tokens + (now - self._filled_at) * self._per_second)
        self._filled_at = now
        if self._tokens >= 1:
            self._tokens -= 1
            return None
        return max(1, math.ceil((1 - self._tokens) / self._per_second))
