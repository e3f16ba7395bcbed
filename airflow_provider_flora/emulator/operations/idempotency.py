"""What a repeated idempotency key does. Flora gives two accounts of it, and the emulator follows either.

    account   the same key again, same body            other body                   kept for
    docs      409 idempotency_duplicate, no run id     the same 409                 2 hours
    site      the first answer, idempotent-replayed    422 idempotency_conflict     24 hours

A key is recorded when its run is made, not before: a request that failed earlier leaves it free.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from airflow_provider_flora.emulator.http.errors import ApiError
from airflow_provider_flora.emulator.state.clock import Clock

WINDOWS = {"docs": 2 * 3600.0, "site": 24 * 3600.0}


@dataclass(frozen=True)
class _Use:
    at: float
    request: Any
    answer: dict[str, Any]


class IdempotencyKeys:
    """The keys that were used.

    :param account: ``docs`` or ``site``.
    :param window: seconds for which a key is kept; ``None`` for those of the account.
    :param clock: the emulator's time.
    """

    def __init__(self, account: str, window: float | None, clock: Clock) -> None:
        if account not in WINDOWS:
            raise ValueError(f"idempotency is {account!r}: it must be one of {', '.join(WINDOWS)}")
        self._account = account
        self._window = 1000 * (WINDOWS[account] if window is None else window)
        self._clock = clock
        self._uses: dict[str, _Use] = {}

    def clear(self) -> None:
        """Forget every key."""
        self._uses.clear()

    def earlier_answer(self, key: str, request: Any) -> dict[str, Any] | None:
        """The answer to replay; ``None`` when the key is free.

        :param key: the key.
        :param request: the request that came with it.
        :raises ApiError: 409 or 422, after the account.
        """
        use = self._uses.get(key)
        if use is None or self._clock.now() - use.at >= self._window:
            return None
        if self._account == "docs":
            raise ApiError(409)
        if use.request != request:
            raise ApiError(422)
        return use.answer

    def record(self, key: str, request: Any, answer: dict[str, Any]) -> None:
        """Keep the key from now on.

        :param key: the key.
        :param request: the request that came with it.
        :param answer: its answer.
        """
        self._uses[key] = _Use(self._clock.now(), request, answer)
