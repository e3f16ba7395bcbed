"""Many waits, few requests: in one triggerer process, all waits of one connection share one watcher.

A wait registers its run and awaits it. While anybody waits, the watcher works in cycles: on a grid of each
``poll_interval``, so that waits that began at different times are looked after together. For each technique it
takes the cheaper of two ways: single looks at a few runs, or a walk through the technique's history, 100 runs a
page, newest first, no further than the oldest run that is due. What a page shows of runs that are not due yet is
taken all the same. A run that the history does not show is looked at singly after a moment (lists may lag), and so
is a finished one that the history shows without its details.

All requests go through one session and one gate: at most :data:`CONCURRENCY` at once and :data:`BASE_SPACING`
apart. An error of the network, a 429 or a 5xx pauses the whole watcher, with jitter, and a 429 widens the spacing
until nothing is refused; no wait ends for it before its own deadline.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
import random
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakKeyDictionary

from airflow_provider_flora.api import protocol
from airflow_provider_flora.api.aio import AsyncFloraClient
from airflow_provider_flora.api.errors import FloraAPIError, FloraConnectionError, FloraError
from airflow_provider_flora.api.protocol import Pages, Request, Response, RunWait

if TYPE_CHECKING:
    from airflow_provider_flora.api.models import Run
    from airflow_provider_flora.api.settings import ClientSettings

log = logging.getLogger(__name__)
AnswerT = TypeVar("AnswerT")

PAGE_SIZE = 100
LOOKS_PER_PAGE = 6
"""How many single looks cost what one page does (the vendor measured 265 ms for a page of 100 and 42 ms for each
of 20 looks in parallel)."""
CONCURRENCY = 4
BASE_SPACING = 0.04
MAX_SPACING = 5.0
"""Seconds between the beginnings of two requests, at least and at most."""
HISTORY_LAG = 2.0
"""Seconds after which a run that the history did not show is looked at singly."""
LARGE_PAGE_BYTES = 1024 * 1024
"""A page above this size halves the page size: reading one page must not hold up the event loop."""
CONNECTION_RETRY = 5.0
"""Seconds between two tries to read a connection that cannot be read."""
CONNECTION_TIMEOUT = 60.0
FAILURES_TO_PAUSE = 3
"""Failures in a row, of whatever requests, after which the fault is no longer that of one run."""
HIDDEN_AFTER = 3
"""Walks that did not show a run after which it is looked at singly for good."""

SettingsReader = Callable[[], Awaitable["ClientSettings"]]


async def watch(
    name: str,
    read_settings: SettingsReader,
    technique_id: str,
    run_id: str,
    *,
    poll_interval: float,
    timeout: float,
    on_change: Callable[[Run], None],
) -> Run:
    """Wait until a run has finished, well or badly, together with all other waits of the same connection.

    :param name: of the connection; waits of one name on one event loop share a watcher.
    :param read_settings: reads the connection, at first and when its key was rejected.
    :param poll_interval: seconds between two looks at most.
    :param timeout: seconds after which the wait ends; the run goes on.
    :param on_change: is told, in the caller's own context, of a change of status and every ten points of progress.
    :raises FloraRunTimeoutError: the run did not finish in time.
    :raises FloraError: waiting further cannot help.
    """
    wait = Wait(technique_id, run_id, poll_interval, timeout)
    watchers = _watchers.setdefault(asyncio.get_running_loop(), {})
    watcher = watchers.get(name)
    if watcher is None or watcher.ended:
        watcher = watchers[name] = Watcher(read_settings)
    watcher.add(wait)
    try:
        while not wait.finished:
            await wait.news.wait()
            for run in wait.take_changes():
                on_change(run)
    finally:
        watcher.remove(wait)
        if watcher.ended and watchers.get(name) is watcher:
            del watchers[name]
    if wait.error is not None:
        raise wait.error
    return wait.pace.run


class Wait:
    """One registered wait: what is known of its run, and when it is due for the next look."""

    __slots__ = ("_changes", "due", "ends", "error", "finished", "missed", "news", "pace", "singly")

    def __init__(self, technique_id: str, run_id: str, poll_interval: float, timeout: float) -> None:
        self.pace = RunWait(
            technique_id,
            run_id,
            poll_interval=poll_interval,
            timeout=timeout,
            clock=time.monotonic,
            on_change=self._changed,
            jitter=0.0,
        )
        self.ends = time.monotonic() + timeout
        self.due = 0.0
        self.singly = False
        self.missed = 0
        self.finished = False
        self.error: FloraError | None = None
        self.news = asyncio.Event()
        self._changes: list[Run] = []

    def _changed(self, run: Run) -> None:
        self._changes.append(run)
        self.news.set()

    def take_changes(self) -> list[Run]:
        """Return what is worth telling since the last call."""
        self.news.clear()
        changes, self._changes = self._changes, []
        return changes

    def end(self, error: FloraError | None = None) -> None:
        """Wake whoever waits, to take the run as last seen, or the error."""
        self.error = error
        self.finished = True
        self.news.set()

    @property
    def created_at(self) -> float | None:
        """Flora's time of the run, once it has been seen."""
        return None if self.pace.last is None else self.pace.last.created_at


class _PausedError(Exception):
    """The watcher pauses; what is due stays due."""


class _KeyRejectedError(Exception):
    """Flora rejects the key that the connection has: no wait can go on."""

    def __init__(self, error: FloraAPIError) -> None:
        super().__init__(str(error))
        self.error = error


class Watcher:
    """Looks after all waits of one connection on one event loop; runs while there are any."""

    def __init__(self, read_settings: SettingsReader) -> None:
        self.ended = False
        self._read_settings = read_settings
        self._waits: dict[str, list[Wait]] = {}  # by run id; two tasks may wait for one run
        self._phase = random.random()
        self._wake = asyncio.Event()
        self._sleeps_until = math.inf
        self._gate = asyncio.Semaphore(CONCURRENCY)
        self._spacing = BASE_SPACING
        self._next_start = 0.0
        self._failures = 0
        self._paused_until = 0.0
        self._page_size = PAGE_SIZE
        self._depths: dict[str, float] = {}  # pages that the last walk took, by technique
        self._page_errors: defaultdict[str, int] = defaultdict(int)
        self._history_ids: dict[str, str] = {}
        self._client: AsyncFloraClient | None = None
        # In a context of its own: its log lines and requests are not those of the trigger that came first.
        self._task = contextvars.Context().run(asyncio.get_running_loop().create_task, self._work())

    def add(self, wait: Wait) -> None:
        """Look after a wait from the next tick of its interval on."""
        self._waits.setdefault(wait.pace.run_id, []).append(wait)
        wait.due = self._next_tick(wait.pace.poll_interval)
        if min(wait.due, wait.ends) < self._sleeps_until:
            self._wake.set()

    def remove(self, wait: Wait) -> None:
        """Forget a wait; with the last one the watcher ends, and its session with it."""
        self._drop(wait)
        if not self._waits and not self.ended:
            self.ended = True
            self._task.cancel()

    def _drop(self, wait: Wait) -> None:
        waits = self._waits.get(wait.pace.run_id, [])
        if wait in waits:
            waits.remove(wait)
        if not waits:
            self._waits.pop(wait.pace.run_id, None)

    def _all(self) -> list[Wait]:
        return [wait for waits in self._waits.values() for wait in waits]

    # --- cycles -------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        try:
            self._client = AsyncFloraClient(await self._settings())
            while True:
                await self._until_due()
                await self._cycle()
        except _KeyRejectedError as rejected:
            self._end_all(rejected.error)
        except FloraError as error:
            self._end_all(error)
        except Exception as error:
            log.exception("The watcher of Flora runs broke")
            self._end_all(FloraConnectionError(f"The watcher of Flora runs broke: {type(error).__name__}: {error}"))
        finally:
            self.ended = True
            if self._client is not None:
                await self._client.close()

    def _end_all(self, error: FloraError) -> None:
        self.ended = True  # before anybody wakes: who waits anew gets a new watcher
        for wait in self._all():
            wait.end(error)

    async def _until_due(self) -> None:
        """Sleep until a wait is due or over; through a pause until one is over."""
        self._wake.clear()
        now = time.monotonic()
        waits = self._all()
        due = max(min((wait.due for wait in waits), default=math.inf), self._paused_until)
        self._sleeps_until = min(due, min((wait.ends for wait in waits), default=math.inf))
        if self._sleeps_until > now:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(
                    self._wake.wait(), None if self._sleeps_until == math.inf else self._sleeps_until - now
                )
        self._sleeps_until = -math.inf

    async def _cycle(self) -> None:
        """Look after all waits that are due, each technique in the cheaper way."""
        now = time.monotonic()
        self._expire(now)
        if now < self._paused_until:
            return
        singly: list[Wait] = []
        groups: defaultdict[str, list[Wait]] = defaultdict(list)
        for wait in self._all():
            if wait.due <= now:
                (singly if wait.singly else groups[wait.pace.technique_id]).append(wait)
        try:
            for technique_id, group in groups.items():
                singly += await self._walk(technique_id, group) if self._walks(technique_id, group) else group
            await self._look_singly(singly)
        except _PausedError:
            return

    def _expire(self, now: float) -> None:
        for wait in self._all():
            if wait.ends <= now:
                self._drop(wait)
                wait.end(wait.pace.timeout_error())

    def _next_tick(self, interval: float) -> float:
        """Return the next point of the interval's grid, on which all waits with this interval meet."""
        return self._phase + (math.floor((time.monotonic() - self._phase) / interval) + 1) * interval

    def _note(self, wait: Wait, outcome: Run | FloraError) -> None:
        """Tell a wait what a look brought, and when the next is due."""
        try:
            pause = wait.pace.after(outcome)
        except FloraError as error:
            self._drop(wait)
            wait.end(error)
            return
        if pause is None:
            self._drop(wait)
            wait.end()
        elif pause == wait.pace.poll_interval:
            wait.due = self._next_tick(pause)
        else:
            wait.due = time.monotonic() + pause

    # --- single looks -------------------------------------------------------------------------------------

    async def _look_singly(self, waits: Sequence[Wait]) -> None:
        todo = iter(sorted(waits, key=lambda wait: wait.due))
        # After a failure one request feels its way before others follow.
        workers = 1 if self._failures else min(CONCURRENCY, len(waits))
        await asyncio.gather(*(self._look_at_each(todo) for _ in range(workers)))

    async def _look_at_each(self, waits: Iterable[Wait]) -> None:
        for wait in waits:
            if wait.finished or wait.pace.run_id not in self._waits:
                continue
            request = protocol.get_technique_run(wait.pace.technique_id, wait.pace.run_id)
            outcome: Run | FloraError
            try:
                outcome = await self._ask(request, protocol.read_run)
            except _PausedError:
                return
            except FloraError as error:
                outcome = error
            wait.singly = wait.missed >= HIDDEN_AFTER
            self._note(wait, outcome)

    # --- walks through the history ------------------------------------------------------------------------

    def _walks(self, technique_id: str, group: Sequence[Wait]) -> bool:
        """Whether pages of the history cost less than single looks at a technique's runs."""
        if self._page_errors[technique_id] >= FAILURES_TO_PAUSE:
            self._page_errors[technique_id] -= 1  # and tried once more next time
            return False
        depth = self._depths.get(technique_id, 1.0)
        if max(1.0, depth) * LOOKS_PER_PAGE <= len(group):
            return True
        self._depths[technique_id] = depth * 0.9  # the runs that lay deep may have ended since
        return False

    async def _walk(self, technique_id: str, group: Sequence[Wait]) -> list[Wait]:
        """Walk through a technique's history; return the waits that are to be looked at singly now."""
        singly: list[Wait] = []
        missing = set(group)
        unseen = sum(wait.created_at is None for wait in group)
        oldest = min((wait.created_at for wait in group if wait.created_at is not None), default=math.inf)
        pages = await self._pages(technique_id)
        taken = depth = 0
        whole = False
        while missing and not whole and (taken + 1) * LOOKS_PER_PAGE <= len(group):
            runs = await self._page(technique_id, pages)
            taken += 1
            for run in runs:
                for wait in tuple(self._waits.get(run.run_id, ())):
                    if wait in missing:
                        missing.discard(wait)
                        unseen -= wait.created_at is None
                        depth = taken
                    wait.missed = 0
                    if _lacks_details(run):
                        singly.append(wait)
                    else:
                        self._note(wait, run)
            reached = bool(runs) and (runs[-1].created_at or math.inf) < oldest
            whole = pages.request is None or (reached and not unseen)
        self._depths[technique_id] = depth
        for wait in missing:
            wait.singly = True
            if whole:
                wait.missed += 1
                wait.due = time.monotonic() + min(HISTORY_LAG, wait.pace.poll_interval)
            else:  # deeper in the history than a walk is worth
                wait.missed = HIDDEN_AFTER
                singly.append(wait)
        return singly

    async def _pages(self, technique_id: str) -> Pages[Run]:
        client = self._live_client()
        history_id = await self._history_id(technique_id)
        return protocol.list_technique_runs(history_id, None, client.settings.workspace_id, None, self._page_size)

    async def _page(self, technique_id: str, pages: Pages[Run]) -> Sequence[Run]:
        def read(response: Response) -> Sequence[Run]:
            if len(response.body) > LARGE_PAGE_BYTES:
                self._page_size = max(10, self._page_size // 2)
            return pages.read(response)

        assert pages.request is not None  # noqa: S101
        try:
            runs = await self._ask(pages.request, read)
        except FloraError as error:
            self._page_errors[technique_id] += 1 if error.transient else FAILURES_TO_PAUSE
            log.warning("Cannot read the run history of %s: %s", technique_id, error)
            raise _PausedError from error
        self._page_errors[technique_id] = 0
        return runs

    async def _history_id(self, technique_id: str) -> str:
        """Return the id by which the history filters; a slug is looked up once."""
        if technique_id.startswith("tech_"):
            return technique_id
        if technique_id not in self._history_ids:
            try:
                technique = await self._ask(protocol.get_technique(technique_id), protocol.read_technique)
            except FloraError as error:
                if error.transient:
                    raise _PausedError from error
                self._history_ids[technique_id] = technique_id
            else:
                self._history_ids[technique_id] = technique.technique_id
        return self._history_ids[technique_id]

    # --- the gate -----------------------------------------------------------------------------------------

    async def _ask(self, request: Request, read: Callable[[Response], AnswerT]) -> AnswerT:
        """Send one request through the gate.

        :raises _PausedError: the watcher pauses; nothing was learnt.
        :raises FloraError: this request failed.
        """
        async with self._gate:
            await self._take_turn()
            client = self._live_client()
            try:
                answer = await client.ask(request, read)
            except FloraError as error:
                await self._failed(error, request, client)
                raise
            self._failures = 0
            self._spacing = max(BASE_SPACING, self._spacing * 0.998)
            return answer

    async def _take_turn(self) -> None:
        now = time.monotonic()
        start = max(now, self._next_start)
        self._next_start = start + self._spacing
        if start > now:
            await asyncio.sleep(start - now)
        if time.monotonic() < self._paused_until:
            raise _PausedError

    async def _failed(self, error: FloraError, request: Request, client: AsyncFloraClient) -> None:
        """Slow the whole watcher down for an error that is not one run's own."""
        if isinstance(error, FloraAPIError) and error.status == 401:
            await self._renew_key(client, error)
            raise _PausedError from error
        if not error.transient:
            return
        self._failures += 1
        limited = isinstance(error, FloraAPIError) and error.status == 429
        if limited:
            self._spacing = min(MAX_SPACING, self._spacing * 1.5)
        if limited or self._failures >= FAILURES_TO_PAUSE:
            pause = protocol.pause_before_retry(error, self._failures, request, client.settings.timeout)
            self._paused_until = time.monotonic() + min(pause, protocol.MAX_RETRY_AFTER)
            log.warning("Watching Flora runs pauses for %.0f s: %s", pause, error)
            raise _PausedError from error

    async def _renew_key(self, rejected: AsyncFloraClient, error: FloraAPIError) -> None:
        """Go on with the connection's key of now, if it is not the one that was rejected."""
        if self._client is rejected:
            settings = await self._settings()
            if settings.api_key == rejected.settings.api_key:
                raise _KeyRejectedError(error)
            self._client = AsyncFloraClient(settings)
            await rejected.close()

    def _live_client(self) -> AsyncFloraClient:
        assert self._client is not None  # noqa: S101  # made before the first cycle
        return self._client

    async def _settings(self) -> ClientSettings:
        """Read the connection; a database that is away for a while ends no wait before its deadline."""
        while True:
            try:
                return await asyncio.wait_for(self._read_settings(), CONNECTION_TIMEOUT)
            except FloraError:
                raise
            except Exception as error:
                log.warning("Cannot read the Flora connection now: %s: %s", type(error).__name__, error)
            await asyncio.sleep(CONNECTION_RETRY)
            self._expire(time.monotonic())


def _lacks_details(run: Run) -> bool:
    """Whether a finished run is shown without what a single look at it brings: optional in the history."""
    if run.completed:
        return not run.outputs
    return run.failed and not (run.error_code or run.error_message)


_watchers: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Watcher]] = WeakKeyDictionary()
