"""The rules of every wait for a paid run: when to poll, and what ends the wait. No I/O.

    a finished run      ends the wait; a completed one is polled a moment longer for its cost
    an error            does not end it: the run is paid for, and most errors are transient
    a refusal           by Flora itself ends it if repeated minutes later, without a successful poll between
    a programming error ends it at once
    the deadline        ends it; the error names the last failed poll

Every error that ends a wait is retryable: waiting again costs nothing.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from airflow_provider_flora.api import retries
from airflow_provider_flora.api.errors import (
    FloraAPIError,
    FloraError,
    FloraInternalError,
    FloraRunTimeoutError,
    Remedy,
)

if TYPE_CHECKING:
    from airflow_provider_flora.api.models import Run

COST_GRACE = 5.0
"""Seconds that a completed run is polled further for its ``charged_cost``, which arrives late."""
NOT_FOUND_GRACE = 60.0
"""Seconds during which Flora may not find a new object (developer site: for a moment)."""
REFUSAL_CONFIRMED_AFTER = 180.0
"""Seconds after which a repeated refusal is final. A key rotation or a lagging database refuses for a while too."""
ERRORS_TO_REPORT = 2
"""Errors in a row after which a wait reports that it cannot poll."""
PROGRAMMING_ERRORS = (
    TypeError,
    AttributeError,
    LookupError,
    NameError,
    ImportError,
    AssertionError,
    NotImplementedError,
)


class WaitListener(Protocol):
    """A receiver of the events of a wait."""

    def changed(self, run: Run) -> None:
        """Handle a new status, or ten more points of progress."""

    def interrupted(self, error: FloraError, seconds_left: float) -> None:
        """Handle failing polls. Called once for each interruption; the wait goes on."""

    def recovered(self, run: Run) -> None:
        """Handle the first successful poll after an interruption."""


class WaitLog:
    """A listener that writes to a log.

    :param log: the task's logger, of the standard library or of structlog.
    """

    __slots__ = ("_log",)

    def __init__(self, log: Any) -> None:
        self._log = log

    def changed(self, run: Run) -> None:
        """Log the run's status and progress."""
        self._log.info("%s is %s, %g %%", run.run_id, run.status, run.progress)

    def interrupted(self, error: FloraError, seconds_left: float) -> None:
        """Log why the run cannot be polled, and the end of the wait."""
        what = "Flora refuses to show the run" if is_refusal(error) else "Flora cannot be reached"
        # Limited, so that a timeout of "for ever" is still a date.
        until = datetime.fromtimestamp(time.time() + min(seconds_left, 3e9), timezone.utc)
        why = str(error).rstrip(".")
        self._log.warning("%s: %s. The wait goes on until %s", what, why, until.strftime("%Y-%m-%d %H:%M:%S UTC"))

    def recovered(self, run: Run) -> None:
        """Log that polls succeed again."""
        self._log.info("Flora answers again: %s is %s, %g %%", run.run_id, run.status, run.progress)


class Trouble:
    """The errors of a wait since its last successful poll. Decides which of them ends the wait.

    :param refused_since: time of the first refusal, if another process of the same wait met it.
    :param refused_with: status of that refusal; ``None`` if it is not known.
    """

    __slots__ = ("errors", "last", "refused_since", "refused_with", "reported")

    def __init__(self, refused_since: float | None = None, refused_with: int | None = None) -> None:
        self.errors = 0
        self.last = ""  # not the error itself, whose frames would stay in memory during the wait
        self.reported = False
        self.refused_with = refused_with
        self.refused_since = refused_since

    def add(self, error: FloraError, now: float) -> None:
        """Add an error.

        :param now: seconds of any clock, the same one for the whole wait.
        :raises FloraError: this error, made retryable, if it ends the wait.
        """
        self.errors += 1
        self.last = str(error)
        if isinstance(error, FloraInternalError):
            raise error
        if not is_refusal(error):
            return
        if self.refused_since is None or self.refused_with not in (None, error.status):
            self.refused_with, self.refused_since = error.status, now
        elif now - self.refused_since >= REFUSAL_CONFIRMED_AFTER:
            error.remedy = Remedy.RETRY_LATER
            raise error


def is_refusal(error: FloraError) -> bool:
    """Whether an error is a final refusal by Flora itself. A proxy's error is not."""
    return isinstance(error, FloraAPIError) and error.is_floras_own and not error.transient


def as_flora_error(error: Exception) -> FloraError:
    """Return a FloraError unchanged, and any other error as a bug in this provider."""
    if isinstance(error, FloraError):
        return error
    fault = FloraInternalError(error)
    fault.__cause__ = error
    return fault


class Seen(NamedTuple):
    """The state of a run at its last poll."""

    status: str
    progress: float
    created_at: float | None


class RunWait:
    """A wait for one run. Decides when to poll again and when to stop.

    :param poll_interval: seconds between two polls. Flora recommends 2 to 5.
    :param timeout: seconds, as the user set it.
    :param deadline: unix time at which the wait ends. Default: ``timeout`` seconds from now.
    :param clock: a monotonic clock in seconds.
    :param listener: receives changes of the run and interruptions of the polls.
    :param jitter: random share of ``poll_interval``, which spreads waits over time.
    :param waits_for_cost: whether a completed run is polled a moment longer for its ``charged_cost``.
    """

    __slots__ = (
        "_clock",
        "_completed_at",
        "_deadline",
        "_jitter",
        "_listener",
        "_reported",
        "_timeout",
        "_waits_for_cost",
        "finished",
        "poll_interval",
        "run_id",
        "seen",
        "technique_id",
        "trouble",
    )

    def __init__(
        self,
        technique_id: str,
        run_id: str,
        *,
        poll_interval: float,
        timeout: float,
        deadline: float | None = None,
        clock: Callable[[], float],
        listener: WaitListener | None = None,
        jitter: float = 0.1,
        waits_for_cost: bool = True,
    ) -> None:
        if not poll_interval > 0:
            raise ValueError(f"poll_interval must be more than 0 seconds, not {poll_interval!r}")
        self.technique_id = technique_id
        self.run_id = run_id
        self.seen: Seen | None = None
        self.finished: Run | None = None
        self.trouble: Trouble | None = None
        self.poll_interval = poll_interval
        self._clock = clock
        self._timeout = timeout
        self._deadline = clock() + (timeout if deadline is None else deadline - time.time())
        self._listener = listener
        self._jitter = jitter
        self._waits_for_cost = waits_for_cost
        self._reported: Seen | None = None
        self._completed_at: float | None = None

    @property
    def run(self) -> Run:
        """The finished run. Available after the poll that returned it."""
        assert self.finished is not None  # noqa: S101
        return self.finished

    @property
    def seconds_left(self) -> float:
        """Seconds until the deadline, negative after it."""
        return self._deadline - self._clock()

    def after(self, outcome: Run | FloraError) -> float | None:
        """Return the seconds until the next poll, or ``None`` if the wait is over.

        :param outcome: run or error of the last poll.
        :raises FloraError: the outcome, if it ends the wait.
        :raises FloraRunTimeoutError: the deadline has passed.
        """
        return self._after_error(outcome) if isinstance(outcome, FloraError) else self._after_run(outcome)

    def meet(self, error: FloraError) -> None:
        """Add an error of a poll, or of the connection that it uses.

        :raises FloraError: the error, if it ends the wait.
        """
        self.trouble = self.trouble or Trouble()
        try:
            self.trouble.add(error, self._clock())
        except FloraError as final:
            final.run_id, final.technique_id = self.run_id, self.technique_id
            raise
        if self.trouble.errors >= ERRORS_TO_REPORT:
            self.report(error)

    def report(self, error: FloraError) -> None:
        """Report to the listener, once per interruption, that the run cannot be polled."""
        self.trouble = self.trouble or Trouble()
        if not self.trouble.reported and self._listener is not None:
            self.trouble.reported = True
            self._notify(self._listener.interrupted, error, self.seconds_left)

    def timeout_error(self, last_error: str = "") -> FloraRunTimeoutError:
        """Return the error for a passed deadline.

        :param last_error: the error of the last polls, if this wait has none of its own.
        """
        known = "" if self.seen is None else f" (it is {self.seen.status}, {self.seen.progress:g} %)"
        last_error = self.trouble.last if self.trouble is not None and self.trouble.last else last_error
        return FloraRunTimeoutError(
            self.run_id, self.technique_id, f"within {self._timeout:g} s", known, last_error=last_error
        )

    def _after_run(self, run: Run) -> float | None:
        if run.finished:
            self.finished = run
        elif self.finished is not None:
            run = self.finished  # an outdated answer: a finished run does not change back
        # Not the run itself, to save memory: thousands of waits may last for hours.
        self.seen = Seen(run.status, run.progress, run.created_at)
        trouble, self.trouble = self.trouble, None
        if trouble is not None and trouble.reported and self._listener is not None:
            self._notify(self._listener.recovered, run)
        self._notify_of_change(run, self.seen)
        if self.finished is None:
            jitter = random.uniform(-self._jitter, self._jitter) if self._jitter else 0.0
            return self._until_next(self.poll_interval * (1 + jitter))
        if run.settled or not self._waits_for_cost:
            return None
        now = self._clock()
        self._completed_at = now if self._completed_at is None else self._completed_at
        if now - self._completed_at >= COST_GRACE:
            return None
        return min(1.0, self.poll_interval)

    def _after_error(self, error: FloraError) -> float | None:
        if self._completed_at is not None:
            return None  # only the cost is missing
        self.meet(error)
        asked = min(getattr(error, "retry_after", None) or 0.0, retries.MAX_RETRY_AFTER)
        errors = 1 if self.trouble is None else self.trouble.errors
        return self._until_next(max(asked, retries.backoff(retries.FIRST_BACKOFF, errors), self.poll_interval))

    def _until_next(self, pause: float) -> float:
        left = self.seconds_left
        if left <= 0:
            raise self.timeout_error()
        return min(pause, left)

    def _notify_of_change(self, run: Run, seen: Seen) -> None:
        reported = self._reported
        if reported is None or seen.status != reported.status or seen.progress >= reported.progress + 10:
            self._reported = seen
            if self._listener is not None:
                self._notify(self._listener.changed, run)

    def _notify(self, event: Callable[..., None], *details: Any) -> None:
        event(*details)
