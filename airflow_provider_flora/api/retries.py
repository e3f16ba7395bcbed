"""Which requests may be retried, and after which pause. No I/O."""

from __future__ import annotations

import random
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import tenacity

from airflow_provider_flora.api.errors import FloraAPIError, FloraError
from airflow_provider_flora.api.starts import Fate, fate_of, start_duration

if TYPE_CHECKING:
    from airflow_provider_flora.api.exchange import Request
    from airflow_provider_flora.api.settings import ClientSettings

OnRetry = Callable[["Request", str, float], None]
"""Receives a request that is to be sent again, the error of the last time, and the pause before it in seconds."""
MAX_BACKOFF = 30.0
MAX_RETRY_AFTER = 300.0
"""Longest pause in seconds that a server may ask for. Beyond it, the request is not retried."""
FIRST_BACKOFF = 1.0
FIRST_BACKOFF_RATE_LIMITED = 10.0  # with jitter at least 5 s, as the developer site asks after a 429 without a time


def is_worth_retrying(error: BaseException) -> bool:
    """Whether the request may be sent again."""
    return (
        isinstance(error, FloraError)
        and error.transient
        and (getattr(error, "retry_after", None) or 0.0) <= MAX_RETRY_AFTER
    )


def pause_before_retry(
    error: BaseException | None, attempt: int, request: Request, settings: ClientSettings
) -> float:
    """Return the seconds to wait before a request is sent again.

    :param attempt: how often the request has been sent.
    """
    retry_after = getattr(error, "retry_after", None)
    rate_limited = isinstance(error, FloraAPIError) and error.status == HTTPStatus.TOO_MANY_REQUESTS
    if retry_after is not None:
        # A little more than Flora asks for, so that not all clients come back at once.
        pause = float(retry_after) * random.uniform(1.0, 1.1)
    else:
        pause = backoff(FIRST_BACKOFF_RATE_LIMITED if rate_limited else FIRST_BACKOFF, attempt)
    if request.spends_money and isinstance(error, FloraError) and fate_of(error) is Fate.UNKNOWN:
        return max(pause, start_duration(settings))
    return pause


def backoff(first: float, attempt: int) -> float:
    """Return an exponential pause in seconds, with jitter, of at most :data:`MAX_BACKOFF`."""
    return min(MAX_BACKOFF, first * 2.0 ** min(attempt - 1, 10)) * random.uniform(0.5, 1.0)


def log_retries(warn: Callable[..., object], *words: object) -> Callable[[tenacity.RetryCallState], Any]:
    """Return a ``before_sleep`` of tenacity that logs words and the error."""
    return lambda state: warn(*words, state.outcome.exception() if state.outcome else None)


def report_retries(on_retry: OnRetry, request: Request) -> Callable[[tenacity.RetryCallState], Any]:
    """Return a ``before_sleep`` of tenacity that tells of each retry."""
    return lambda state: on_retry(
        request, str(state.outcome.exception() if state.outcome else ""), state.upcoming_sleep
    )


def retry_arguments(request: Request, settings: ClientSettings) -> dict[str, Any]:
    """Return the arguments of ``tenacity.Retrying`` and ``tenacity.AsyncRetrying`` for a request."""

    def pause(state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        return pause_before_retry(error, state.attempt_number, request, settings)

    return {
        "retry": tenacity.retry_if_exception(is_worth_retrying),
        "stop": tenacity.stop_after_attempt(settings.max_retries + 1),
        "wait": pause,
        "reraise": True,
    }
