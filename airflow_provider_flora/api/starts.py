"""The fate of a start that was not answered with a run, and the longest duration of a start. No I/O.

A start costs money. Flora may process two simultaneous requests with one idempotency key twice (developer site). So
a start may only be sent again once Flora no longer processes the earlier one.
"""

from __future__ import annotations

from enum import Enum, auto
from http import HTTPStatus
from typing import TYPE_CHECKING

from airflow_provider_flora.api.errors import FloraAPIError, FloraConnectionError, FloraError

if TYPE_CHECKING:
    from airflow_provider_flora.api.settings import ClientSettings

MAX_START_DURATION = 60.0
"""Seconds. A start is certain to have ended after twice this time, or twice the connection's ``timeout`` if that is
longer. Flora documents no limit. Its SDK retries a request after 60 s; proxies commonly stop after 30 to 60 s."""

_KEY_CODES = ("idempotency_duplicate", "idempotency_conflict")
_FAILURE_CODES = ("unknown_error", "internal_error", "service_unavailable")
"""Flora's own 5xx (developer site). Any other code at such a status is a gateway's that gives up in JSON."""


class Fate(Enum):
    """The fate of a start that was not answered with a run."""

    REFUSED = auto()
    """Flora refused it, or never received it."""
    FAILED = auto()
    """Flora ended it with its own 5xx error, which releases the key (measured by the vendor)."""
    KEY_WAS_USED = auto()
    """Flora reports that the idempotency key was used before."""
    UNKNOWN = auto()
    """It may have started a run, and Flora may still process it."""


def fate_of(error: FloraError) -> Fate:
    """Return the fate of a start that ended with an error."""
    if isinstance(error, FloraConnectionError):
        return Fate.UNKNOWN if error.was_sent else Fate.REFUSED
    if not isinstance(error, FloraAPIError):
        return Fate.UNKNOWN
    if error.status == HTTPStatus.TOO_MANY_REQUESTS:
        return Fate.REFUSED
    gave_up = error.status == HTTPStatus.REQUEST_TIMEOUT or error.status >= 500
    if not error.is_floras_own or (gave_up and error.code not in _FAILURE_CODES):
        return Fate.UNKNOWN  # a proxy's answer; Flora may still process the request
    if error.code in _KEY_CODES:
        return Fate.KEY_WAS_USED
    return Fate.FAILED if gave_up else Fate.REFUSED


def start_duration(settings: ClientSettings) -> float:
    """Return the seconds after which a start is certain to have ended."""
    return 2 * max(MAX_START_DURATION, settings.timeout)
