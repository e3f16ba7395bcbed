"""Polls many runs with few requests. In a triggerer process, all waits of one connection share one watcher.

While there are waits, the watcher works in cycles. All waits with the same ``poll_interval`` are due at the same
time. The watcher chooses the cheapest of three ways: it polls a few runs singly, or reads the history of one
technique, or that of all techniques. A page of a history has 100 runs, newest first, and is read only if it costs
less than single polls of its runs. It updates runs that are not due, too. If the history does not show a run, it is
read again after a moment, since lists may lag. Then the run is polled singly, like a finished one without details.

``gate`` decides when to send a request, and what happens when Flora is slow or fails. ``api.waiting`` decides which
errors end a wait. Each wait has a timer for its deadline.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
import random
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterator, Sequence
from http import HTTPStatus
from operator import attrgetter
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from airflow_provider_flora import metrics
from airflow_provider_flora.api import answers, operations
from airflow_provider_flora.api.error_dicts import copy_error
from airflow_provider_flora.api.errors import FloraConnectionError, FloraError
from airflow_provider_flora.api.pages import Pages
from airflow_provider_flora.api.waiting import COST_GRACE, RunWait, WaitListener, as_flora_error
from airflow_provider_flora.runs.gate import CONCURRENCY, Gate, SettingsReader
from airflow_provider_flora.runs.history import HistoryReader, lacks_details, may_pass

if TYPE_CHECKING:
    from airflow_provider_flora.api.models import Run

log = logging.getLogger(__name__)

POLLS_PER_PAGE = 6
"""Number of single polls that cost as much as one page (the vendor measured 265 ms for a page of 100 runs, and 42
ms for each of 20 parallel polls)."""
WORTH_ANOTHER_WALK = 1.25
"""Factor by which the price of the waits must have grown before runs that were too deep are looked for again."""
HISTORY_LAG = 2.0
"""Seconds after which the history is read again for a run that it did not show."""
HIDDEN_AFTER = 2
"""Number of walks in a row without a run after which the run is polled singly."""
HIDDEN_FOR = 10
"""Number of single polls after which the history is read for such a run again."""
FEW_WAITS = 20
"""Up to this number of waits, a run that only lacks its price is polled each second; with more, like the others."""
WALKS_TO_BLAME = 2
"""Number of failed walks, while single polls succeed, after which the history counts as broken."""
HISTORY_REST = 60.0
"""Seconds for which a broken or refused history is not read."""
FIRST_POLL_GRACE = 5.0
"""Seconds after its deadline for the first poll of a wait."""
LONG_PAUSE = 15.0
"""Seconds. Each wait reports a pause after a 429 only if it is at least this long."""
REPORTS_AT_ONCE = 100
"""Number of waits that report an interruption before the event loop runs other tasks."""

ALL_TECHNIQUES = None
"""Technique id of the history of all techniques."""


async def watch(
    conn_id: str,
    read_settings: SettingsReader,
    technique_id: str,
    run_id: str,
    *,
    poll_interval: float,
    timeout: float,
    deadline: float | None = None,
    listener: WaitListener | None = None,
    waits_for_cost: bool = True,
    shows_gauges: bool = True,
) -> Run:
    """Wait until a run has completed or failed, together with all other waits of the same connection.

    :param conn_id: id of the connection. Its waits on one event loop share a watcher.
    :param read_settings: reads the connection.
    :param technique_id: id or slug of the technique.
    :param run_id: the run.
    :param poll_interval: largest number of seconds between two polls.
    :param timeout: seconds, as the user set it.
    :param deadline: unix time at which the wait ends. Default: ``timeout`` seconds from now. The run is polled at
        least once.
    :param listener: receives changes and interruptions, in the caller's context.
    :param waits_for_cost: whether a completed run is polled a moment longer for its ``charged_cost``.
    :param shows_gauges: whether the connection's gauges show the waits on this event loop: those of a triggerer. Of
        two processes with one name the last to send would be seen.
    :raises FloraRunTimeoutError: the run did not finish in time.
    :raises FloraError: another error ended the wait. It is retryable.
    """
    operations.get_technique_run(technique_id, run_id)  # refuses invalid ids
    wait = Wait(technique_id, run_id, poll_interval, timeout, deadline, listener, waits_for_cost)
    watchers = _watchers.setdefault(asyncio.get_running_loop(), {})
    watcher = watchers.get(conn_id)
    if watcher is None or watcher.ended:
        watcher = watchers[conn_id] = Watcher(conn_id, read_settings, shows_gauges=shows_gauges)
    watcher.add(wait)
    try:
        outcome = await wait.outcome
    finally:
        watcher.remove(wait)
        if watcher.ended and watchers.get(conn_id) is watcher:
            del watchers[conn_id]
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


class Wait(RunWait):
    """One wait: the state of its run, and the time of its next poll."""

    __slots__ = ("_context", "alarm", "due", "failures", "missed", "outcome")

    def __init__(
        self,
        technique_id: str,
        run_id: str,
        poll_interval: float,
        timeout: float,
        deadline: float | None,
        listener: WaitListener | None,
        waits_for_cost: bool = True,
    ) -> None:
        super().__init__(
            technique_id,
            run_id,
            poll_interval=poll_interval,
            timeout=timeout,
            deadline=deadline,
            clock=time.monotonic,
            listener=listener,
            jitter=0.0,
            waits_for_cost=waits_for_cost,
        )
        self._context = contextvars.copy_context()
        self.alarm: asyncio.TimerHandle | None = None  # for the deadline
        self.due = 0.0
        self.failures = 0  # failed polls in a row
        self.missed = 0  # walks in a row that did not show the run
        self.outcome: asyncio.Future[Run | FloraError] = asyncio.get_running_loop().create_future()

    @property
    def over(self) -> bool:
        """Whether the wait has an outcome or was cancelled."""
        return self.outcome.done()

    @property
    def polled(self) -> bool:
        """Whether the run has been polled, successfully or not."""
        return self.seen is not None or self.trouble is not None

    @property
    def created_at(self) -> float | None:
        """The run's creation time, after its first successful poll."""
        return None if self.seen is None else self.seen.created_at

    def end(self, error: FloraError | None = None) -> None:
        """End the wait with the finished run, or with an error."""
        if self.over:
            return
        if error is not None:
            error = copy_error(error)  # one error may end many waits
            error.run_id, error.technique_id = self.run_id, self.technique_id
        self.outcome.set_result(error or self.run)

    def _notify(self, event: Callable[..., None], *details: Any) -> None:
        # Called by the watcher in the context of the waiting task, whose log it belongs to. To wake each waiting
        # task instead would take a third of all CPU time.
        self._context.run(event, *details)


class Watcher:
    """A poller for all waits of one connection on one event loop. It runs while there are waits."""

    def __init__(self, conn_id: str, read_settings: SettingsReader, *, shows_gauges: bool) -> None:
        self.ended = False
        self._conn_id = conn_id
        self._shows_gauges = shows_gauges
        self._gauges: metrics.WatcherGauges | None = None
        self._gate = Gate(conn_id, read_settings, self._report_to_all)
        self._waits: dict[str, list[Wait]] = {}  # by run id; several tasks may wait for one run
        self._phase = random.random()
        self._wake = asyncio.Event()
        self._sleeps_until = -math.inf
        self._history = HistoryReader(self._gate)
        # Of each history, by technique:
        self._depths: dict[str | None, float] = {}  # pages that are cheaper than single polls
        # created_at of the last run on them, and the price of the waits that were due when that was found
        self._horizons: dict[str | None, tuple[float, float]] = {}
        self._failed_walks: defaultdict[str | None, int] = defaultdict(int)
        self._no_walks_until: dict[str | None, float] = {}
        # In its own context, so that its log lines do not go to the first trigger.
        self._task = contextvars.Context().run(asyncio.get_running_loop().create_task, self._work())

    def add(self, wait: Wait) -> None:
        """Add a wait. Poll it at the next tick of its interval, or at once if its deadline is earlier."""
        self._waits.setdefault(wait.run_id, []).append(wait)
        left = max(0.0, wait.seconds_left)
        wait.due = self._next_tick(wait.poll_interval)
        if wait.due >= time.monotonic() + left:
            wait.due = time.monotonic()
        wait.alarm = asyncio.get_running_loop().call_later(left, self._expire, wait, FIRST_POLL_GRACE)
        if wait.due < self._sleeps_until:
            self._wake.set()

    def _expire(self, wait: Wait, grace: float = 0.0) -> None:
        """End a wait at its deadline. Before its first poll, extend the deadline once."""
        if wait.over:
            return
        if wait.finished is not None:
            self._end(wait)  # only its cost is missing
        elif grace and not wait.polled:
            wait.alarm = asyncio.get_running_loop().call_later(grace, self._expire, wait)
        else:
            self._end(wait, wait.timeout_error(self._gate.trouble))

    def remove(self, wait: Wait) -> None:
        """Remove a wait. The watcher ends with its last wait."""
        wait.outcome.cancel()
        self._drop(wait)
        if not self._waits and not self.ended:
            self.ended = True
            self._task.cancel()

    def _drop(self, wait: Wait) -> None:
        if wait.alarm is not None:
            wait.alarm.cancel()
        waits = self._waits.get(wait.run_id, [])
        if wait in waits:
            waits.remove(wait)
        if not waits:
            self._waits.pop(wait.run_id, None)

    def _end(self, wait: Wait, error: FloraError | None = None) -> None:
        self._drop(wait)
        wait.end(error)

    def _end_all(self, error: FloraError) -> None:
        self.ended = True  # before the waiting tasks wake, so that new waits get a new watcher
        for wait in self._active_waits():
            self._end(wait, error)

    def _active_waits(self) -> list[Wait]:
        # Without waits whose task was cancelled but has not run since: they would be due for ever.
        return [wait for waits in self._waits.values() for wait in waits if not wait.over]

    async def _work(self) -> None:
        try:
            await self._gate.open()
            if self._shows_gauges and metrics.are_on():
                self._gauges = await asyncio.to_thread(metrics.WatcherGauges, self._conn_id)
            while not self.ended:
                await self._sleep_until_due()
                await self._cycle()
        except asyncio.CancelledError:
            self._end_all(FloraConnectionError("The watcher of Flora runs was cancelled."))
            raise
        except Exception as error:
            log.exception("The watcher of Flora runs failed")
            self._end_all(as_flora_error(error))
        finally:
            self.ended = True
            if self._gauges is not None:
                self._gauges.show(0, 0.0, 0.0)
            await self._gate.close()

    async def _sleep_until_due(self) -> None:
        # Not asyncio.wait_for: before Python 3.12 it can swallow the cancellation that ends the watcher.
        self._wake.clear()
        self._sleeps_until = min((wait.due for wait in self._active_waits()), default=math.inf)
        pause = self._sleeps_until - time.monotonic()
        if pause > 0:
            alarm = None if pause == math.inf else asyncio.get_running_loop().call_later(pause, self._wake.set)
            try:
                await self._wake.wait()
            finally:
                if alarm is not None:
                    alarm.cancel()
        self._sleeps_until = -math.inf

    async def _cycle(self) -> None:
        """Poll the runs of all due waits in the cheapest way."""
        now = time.monotonic()

        def due(waits: Sequence[Wait]) -> list[Wait]:
            return [wait for wait in waits if not wait.over and wait.due <= now]

        groups: defaultdict[str, list[Wait]] = defaultdict(list)
        waits = due(self._active_waits())
        shows = bool(waits) and self._gauges is not None
        first_due = min(wait.due for wait in waits) if shows else now
        for wait in waits:
            groups[wait.technique_id].append(wait)
        if len(groups) > 1:
            await self._walk_if_cheaper(ALL_TECHNIQUES, self._prices(groups))
        for technique_id, group in groups.items():
            await self._walk_if_cheaper(technique_id, dict.fromkeys(due(group), 1.0))
        await self._poll_singly(due(waits))
        if shows and self._gauges is not None:
            self._gauges.show(len(self._active_waits()), time.monotonic() - now, now - first_due)

    def _next_tick(self, interval: float) -> float:
        """Return the next time at which all waits with this interval are due."""
        return self._phase + (math.floor((time.monotonic() - self._phase) / interval) + 1) * interval

    def _apply(self, wait: Wait, outcome: Run | FloraError) -> None:
        """Pass the outcome of a poll to a wait, and set the time of its next poll."""
        if wait.over:
            return
        wait.failures = wait.failures + 1 if isinstance(outcome, FloraError) else 0
        try:
            pause = wait.after(outcome)
        except Exception as error:  # ends only this wait
            self._end(wait, as_flora_error(error))
            return
        if pause is None:
            self._end(wait)
        elif isinstance(outcome, FloraError):
            wait.due = time.monotonic() + pause
        elif outcome.completed and len(self._waits) > FEW_WAITS:
            wait.due = self._next_tick(min(wait.poll_interval, COST_GRACE))
        else:
            wait.due = self._next_tick(pause)

    async def _report_to_all(self, error: FloraError, pause: float) -> None:
        """Report an error that affects all runs to all waits. A rejected key counts as an error of each wait."""
        rejected = error.status == HTTPStatus.UNAUTHORIZED
        if error.status == HTTPStatus.TOO_MANY_REQUESTS and pause < LONG_PAUSE:
            return
        for place, wait in enumerate(self._active_waits()):
            if place % REPORTS_AT_ONCE == REPORTS_AT_ONCE - 1:
                await asyncio.sleep(0)
            if wait.over:
                continue
            try:
                wait.report(error)
                if rejected:
                    wait.meet(error)
            except Exception as final:
                self._end(wait, as_flora_error(final))

    async def _poll_singly(self, waits: Sequence[Wait]) -> None:
        # Runs whose last poll succeeded come first. Several waits of one run share a poll.
        polls = [*{wait.run_id: wait for wait in sorted(waits, key=attrgetter("failures", "due"))}.values()]
        if self._gate.failures:
            del polls[1:]  # one request tests whether Flora has recovered
        todo = iter(polls)
        await _await_all([self._poll_each(todo) for _ in range(min(CONCURRENCY, len(polls)))])

    async def _poll_each(self, waits: Iterator[Wait]) -> None:
        for wait in waits:
            if wait.over:
                continue
            if wait.missed >= HIDDEN_AFTER:
                wait.missed += 1
                if wait.missed > HIDDEN_AFTER + HIDDEN_FOR:
                    wait.missed = HIDDEN_AFTER - 1
            request = operations.get_technique_run(wait.technique_id, wait.run_id)
            try:
                run = await self._gate.ask(request, answers.read_run)
            except FloraError as error:
                self._apply(wait, error)
                if self._gate.is_failing:
                    return
            else:
                for one in tuple(self._waits.get(wait.run_id, ())):
                    self._apply(one, run)

    def _prices(self, groups: dict[str, list[Wait]]) -> dict[Wait, float]:
        """Return the price of polling each run that the history of all techniques may show, by other means."""
        prices: dict[Wait, float] = {}
        for technique_id, group in groups.items():
            price = float(len(group))
            if self._may_walk(technique_id):
                pages = max(self._depth(technique_id), math.ceil(len(group) / self._history.page_size))
                price = min(price, pages * POLLS_PER_PAGE)
            prices.update({wait: price / len(group) for wait in group if not wait.missed})
        return prices

    def _may_walk(self, technique_id: str | None) -> bool:
        return time.monotonic() >= self._no_walks_until.get(technique_id, -math.inf)

    def _depth(self, technique_id: str | None) -> float:
        return max(1.0, self._depths.get(technique_id, 1.0))

    async def _walk_if_cheaper(self, technique_id: str | None, prices: dict[Wait, float]) -> None:
        """Read a history if the pages that show its runs cost less than ``prices``, which are in single polls."""
        if not self._may_walk(technique_id):
            return
        total = sum(prices.values())
        horizon, found_for = self._horizons.get(technique_id, (-math.inf, 0.0))
        if total > WORTH_ANOTHER_WALK * found_for:
            horizon = -math.inf
        missing = {
            wait: price
            for wait, price in prices.items()
            if wait.missed < HIDDEN_AFTER and (wait.created_at is None or wait.created_at >= horizon)
        }
        depth = self._depth(technique_id)
        if depth * POLLS_PER_PAGE <= sum(missing.values()):
            await self._walk(technique_id, missing, total)
        else:
            self._depths[technique_id] = depth * 0.9  # old runs may have ended since

    async def _walk(self, technique_id: str | None, missing: dict[Wait, float], total: float) -> None:
        """Read a history. Waits that it does not show stay due."""
        was_well = not self._gate.failures
        try:
            await self._read_history(technique_id, missing, total)
        except FloraError as error:
            log.warning("Could not read the run history of %s: %s", technique_id or "all techniques", error)
            self._failed_walks[technique_id] += was_well
            if not may_pass(error) or self._failed_walks[technique_id] >= WALKS_TO_BLAME:
                self._failed_walks[technique_id] = 0
                self._no_walks_until[technique_id] = time.monotonic() + HISTORY_REST
            return
        self._failed_walks[technique_id] = 0
        for wait in missing:
            wait.missed += 1
            if wait.missed == 1:
                wait.due = time.monotonic() + min(HISTORY_LAG, wait.poll_interval)

    async def _read_history(self, technique_id: str | None, missing: dict[Wait, float], total: float) -> None:
        """Read a history, newest first, and remove the waits that it shows from ``missing``.

        :param missing: waits, with the price of polling each by other means.
        :param total: the price of all waits that are due, also of those that are too deep to be worth it.
        """
        seen = [created_at for wait in missing if (created_at := wait.created_at) is not None]
        unseen, oldest = len(missing) - len(seen), min(seen, default=math.inf)
        pages = await self._open_history(technique_id)
        left = sum(missing.values())
        taken = worthwhile = 0
        gain = best = debt = 0.0
        horizon = math.inf
        complete = False
        # Read on while the pages since the last useful one cost less than single polls of the missing runs.
        while not complete and left > 2 and debt <= left:
            runs = await self._history.read_page(pages)
            taken += 1
            if taken == 1 and runs:
                horizon = runs[0].created_at or math.inf
            saved = -float(POLLS_PER_PAGE)
            for run in runs:
                for wait in tuple(self._waits.get(run.run_id, ())):
                    if wait in missing:
                        saved += missing.pop(wait)
                        unseen -= wait.created_at is None
                    self._apply_listed(wait, run)
            left -= saved + POLLS_PER_PAGE
            debt = max(0.0, debt - saved)
            gain += saved
            bottom = (runs[-1].created_at if runs else None) or math.inf
            if gain >= best:
                best, worthwhile, horizon = gain, taken, bottom
            complete = pages.request is None or (not unseen and bottom < oldest)
        self._depths[technique_id] = taken
        if best - gain >= POLLS_PER_PAGE and horizon < math.inf:
            self._depths[technique_id] = worthwhile
            self._horizons[technique_id] = (horizon, total)

    def _apply_listed(self, wait: Wait, run: Run) -> None:
        wait.missed = 0
        if lacks_details(run) if run.finished else wait.finished:
            wait.due = min(wait.due, time.monotonic())
        else:
            self._apply(wait, run)

    async def _open_history(self, technique_id: str | None) -> Pages[Run]:
        history_id = None if technique_id is ALL_TECHNIQUES else await self._history.get_id(technique_id)
        return operations.list_technique_runs(history_id, None, None, None, self._history.page_size)


async def _await_all(polls: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Await all polls. If one fails, cancel the others."""
    tasks = [asyncio.ensure_future(poll) for poll in polls]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


_watchers: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Watcher]] = WeakKeyDictionary()
