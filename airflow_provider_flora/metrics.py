"""The provider's metrics, sent by Airflow's own ``Stats``: to StatsD, OpenTelemetry or Datadog, as it is set up.

:data:`METRICS` lists them, and ``docs/metrics.rst`` explains them. While Airflow's metrics are off, a call does
nothing. While they are on, no call raises: a task must not fail because its metrics do.
"""

from __future__ import annotations

import logging
import math
import re
import threading
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_provider_flora.api.exchange import OnAnswer, Request
    from airflow_provider_flora.api.models import Run
    from airflow_provider_flora.api.remedies import Remedy

log = logging.getLogger(__name__)

MAX_VALUES = 100
"""Number of different values of one tag that a process sends. Any further value is sent as :data:`OTHER`."""
MAX_LENGTH = 64
"""Characters of a tag's value."""
OTHER = "other"
NO_ANSWER = "no_answer"
"""The ``status`` of a request without a complete answer."""
MICRO_USD = 1_000_000
"""Counters are whole numbers: some StatsD servers cut off the rest."""
SWITCHES = ("statsd_on", "otel_on", "statsd_datadog_enabled")
"""The options of Airflow's section ``metrics`` of which each turns metrics on."""
_NOT_IN_TAGS = re.compile(r"[^A-Za-z0-9_.-]")
"""Characters that Airflow refuses in a name or a tag of StatsD."""


@dataclass(frozen=True)
class Metric:
    """A metric.

    :param name: its name, without the prefix that Airflow adds.
    :param kind: ``counter``, ``timer`` (in milliseconds) or ``gauge``.
    :param tags: the names of its tags.
    """

    name: str
    kind: str
    tags: tuple[str, ...]


RUNS_STARTED = Metric("flora.runs.started", "counter", ("technique",))
RUNS_COMPLETED = Metric("flora.runs.completed", "counter", ("technique",))
RUNS_FAILED = Metric("flora.runs.failed", "counter", ("technique", "remedy"))
COST = Metric("flora.cost", "counter", ("technique",))
WAIT = Metric("flora.wait.seconds", "timer", ("technique",))
REQUESTS = Metric("flora.requests", "counter", ("operation", "status"))
RATE_LIMITED = Metric("flora.rate_limited", "counter", ("conn_id",))
WATCHER_WAITS = Metric("flora.watcher.waits", "gauge", ("conn_id", "hostname"))
WATCHER_CYCLE = Metric("flora.watcher.cycle_seconds", "gauge", ("conn_id", "hostname"))
WATCHER_LATENESS = Metric("flora.watcher.lateness", "gauge", ("conn_id", "hostname"))
METRICS = (
    RUNS_STARTED,
    RUNS_COMPLETED,
    RUNS_FAILED,
    COST,
    WAIT,
    REQUESTS,
    RATE_LIMITED,
    WATCHER_WAITS,
    WATCHER_CYCLE,
    WATCHER_LATENESS,
)


def are_on() -> bool:
    """Whether Airflow's metrics are on in this process."""
    return _find_stats() is not None


def count_start(technique_id: str) -> None:
    """Count a run that a task has started."""
    _send("incr", RUNS_STARTED, 1, technique_id)


def count_completed(run: Run, technique_id: str, handed_over_at: float) -> None:
    """Count a completed run that a task hands over, its charge if it is known, and its wait.

    :param handed_over_at: unix time in seconds.
    """
    _send("incr", RUNS_COMPLETED, 1, technique_id)
    count_cost(run.charged_cost, technique_id)
    if run.created_at is not None:
        _send("timing", WAIT, max(0.0, 1000 * handed_over_at - run.created_at), technique_id)


def count_failed(technique_id: str, remedy: Remedy) -> None:
    """Count a failed run that a task reports."""
    _send("incr", RUNS_FAILED, 1, technique_id, remedy.value)


def count_cost(charged_cost: float | None, technique_id: str) -> None:
    """Count what Flora has charged for a run.

    :param charged_cost: USD; ``None`` is not counted.
    """
    if charged_cost is not None and math.isfinite(charged_cost) and charged_cost > 0:
        _send("incr", COST, round(MICRO_USD * charged_cost), technique_id)


def request_counter(conn_id: str) -> OnAnswer | None:
    """Return what counts the requests of a connection's client, or ``None`` while metrics are off."""
    if not are_on():
        return None

    def count(request: Request, status: int | None) -> None:
        _send("incr", REQUESTS, 1, request.operation, _name_status(status))
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            _send("incr", RATE_LIMITED, 1, conn_id)

    return count


class WatcherGauges:
    """What a triggerer shows of the waits of one connection.

    Making it looks up hosts, which may block.
    """

    def __init__(self, conn_id: str) -> None:
        self._tags = (conn_id, _find_hostname())
        self.show(0, 0.0, 0.0)

    def show(self, waits: int, cycle_seconds: float, lateness: float) -> None:
        """Show a cycle.

        :param waits: number of waits after it.
        :param cycle_seconds: how long it took.
        :param lateness: seconds by which it began after the first poll in it was due.
        """
        _send("gauge", WATCHER_WAITS, waits, *self._tags)
        _send("gauge", WATCHER_CYCLE, round(cycle_seconds, 3), *self._tags)
        _send("gauge", WATCHER_LATENESS, round(lateness, 3), *self._tags)


def _name_status(status: int | None) -> str:
    """Return the name of a status: its number if HTTP has it, so that no server can invent more."""
    if status is None:
        return NO_ANSWER
    try:
        return str(HTTPStatus(status).value)
    except ValueError:
        return OTHER


def _send(method: str, metric: Metric, value: float, *tags: str) -> None:
    """Send a value with a method of Airflow's ``Stats``.

    :param tags: the values of the metric's tags.
    """
    stats = _find_stats()
    if stats is None:
        return
    try:
        named = {name: _bounded(name, tag) for name, tag in zip(metric.tags, tags, strict=True)}
        getattr(stats, method)(metric.name, value, tags=named)
    except Exception as error:
        _warn(error)


@cache
def _find_stats() -> Any:
    """Return Airflow's ``Stats``, or ``None`` if its metrics are off."""
    from airflow_provider_flora import airflow_compat

    try:
        if any(airflow_compat.conf.getboolean("metrics", switch, fallback=False) for switch in SWITCHES):
            return airflow_compat.Stats
    except Exception as error:
        _warn(error)
    return None


def _find_hostname() -> str:
    from airflow_provider_flora import airflow_compat

    try:
        return str(airflow_compat.get_hostname())  # type: ignore[no-untyped-call]
    except Exception as error:
        _warn(error)
        return OTHER


_values: dict[str, set[str]] = {}
_has_warned = threading.Event()


def _bounded(name: str, value: str) -> str:
    """Return the value of a tag in characters that every receiver takes; :data:`OTHER` if there are too many."""
    text = _NOT_IN_TAGS.sub("_", str(value))[:MAX_LENGTH] or OTHER
    known = _values.setdefault(name, set())
    if text not in known:
        if len(known) >= MAX_VALUES:
            return OTHER
        known.add(text)
    return text


def _warn(error: Exception) -> None:
    """Log, once in each process, that metrics cannot be sent."""
    if not _has_warned.is_set():
        _has_warned.set()
        log.warning("Flora's metrics cannot be sent. Everything else goes on. %s: %s", type(error).__name__, error)
