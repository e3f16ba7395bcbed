"""Many waits, few requests: in one triggerer process, all waits of one connection share one watcher.

A wait registers its run and awaits it. While anybody waits, the watcher works in cycles: on a grid of each
``poll_interval``, so that waits that began at different times are looked after together. For each technique it
takes the cheaper of two ways: single looks at a few runs, or a walk through the technique's history, 100 runs a
page, newest first, as far as the next page is worth its price. What a page shows of runs that are not due yet is
taken all the same. A run that the history does not show is looked for once more after a moment (lists may lag),
then singly; so is a finished one that the history shows without its details.

All requests go through one session and one gate: at most :data:`CONCURRENCY` at once and :data:`BASE_SPACING`
apart; only the pages of a walk, asked for one after the other, are spaced by Flora's own time to answer. A 429 or a
row of failures pauses the whole watcher, with jitter, and a 429 widens the spacing, of pages too, until nothing is
refused; no wait ends for it before its own deadline, which a timer of its own keeps.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
import random
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from http import HTTPStatus
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

from airflow_provider_flora.api import protocol
from airflow_provider_flora.api.aio import AsyncFloraClient
from airflow_provider_flora.api.errors import FloraAPIError, FloraConnectionError, FloraError
from airflow_provider_flora.api.protocol import COST_GRACE, Pages, Request, Response, RunWait

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
SPACING_AFTER_PAUSE = 0.1
MAX_SPACING = 5.0
"""Seconds between the beginnings of two requests: at least; after a failure, until a second is well; at most."""
HISTORY_LAG = 2.0
"""Seconds after which a run that the history did not show is looked for again."""
HIDDEN_AFTER = 2
"""Walks in a row that did not show a run after which it is looked at singly ..."""
HIDDEN_FOR = 10
"""... so many times before the history is asked for it again."""
FEW_WAITS = 20
"""Up to so many waits, one that only lacks its price is looked at each second; of more, with the others."""
LARGE_PAGE_BYTES = 1024 * 1024
"""A page above this size halves the page size: reading one page must not hold up the event loop."""
PAGE_TRIES = 3
WALKS_TO_BLAME = 2
"""Walks that fail while single looks succeed, after which it is the history that is out of order."""
HISTORY_REST = 60.0
"""Seconds for which a history that is out of order, or refused, is not asked for."""
CONNECTION_RETRY = 5.0
"""Seconds between two tries to read a connection that cannot be read."""
CONNECTION_TIMEOUT = 60.0
FAILURES_TO_PAUSE = 3
"""Failures in a row, of whatever requests, after which the fault is no longer that of one run."""

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
    wait = Wait(technique_id, run_id, poll_interval, timeout, on_change)
    loop = asyncio.get_running_loop()
    watchers = _watchers.setdefault(loop, {})
    watcher = watchers.get(name)
    if watcher is None or watcher.ended:
        watcher = watchers[name] = Watcher(read_settings)
    watcher.add(wait)
    deadline = loop.call_later(timeout, watcher.expire, wait)
    try:
        outcome = await wait.outcome
    finally:
        deadline.cancel()
        watcher.remove(wait)
        if watcher.ended and watchers.get(name) is watcher:
            del watchers[name]
    if isinstance(outcome, Exception):
        raise outcome.with_traceback(None)  # one error may end many waits
    return outcome


class Wait(RunWait):
    """One registered wait: what is known of its run, and when it is due for the next look."""

    __slots__ = ("due", "failures", "missed", "outcome")

    def __init__(
        self,
        technique_id: str,
        run_id: str,
        poll_interval: float,
        timeout: float,
        on_change: Callable[[Run], None],
    ) -> None:
        context = contextvars.copy_context()
        super().__init__(
            technique_id,
            run_id,
            poll_interval=poll_interval,
            timeout=timeout,
            clock=time.monotonic,
            # The watcher tells of a change itself, in the context of who waits, whose log it belongs in: to wake
            # every waiting task for it cost a third of all CPU.
            on_change=lambda run: context.run(on_change, run),
            jitter=0.0,
        )
        self.due = 0.0
        self.failures = 0  # looks in a row that brought nothing
        self.missed = 0  # walks in a row that did not show the run
        self.outcome: asyncio.Future[Run | Exception] = asyncio.get_running_loop().create_future()

    @property
    def over(self) -> bool:
        """Whether there is an outcome, or nobody waits for it any more."""
        return self.outcome.done()

    def end(self, error: Exception | None = None) -> None:
        """Hand the finished run to whoever waits, or the error."""
        if not self.over:
            self.outcome.set_result(error or self.run)

    @property
    def created_at(self) -> float | None:
        """Flora's time of the run, once it has been seen."""
        return None if self.seen is None else self.seen.created_at


class _HopelessError(Exception):
    """No wait of this connection can go on: its key is rejected, or it is gone."""

    def __init__(self, error: FloraError) -> None:
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
        self._sleeps_until = -math.inf
        self._gate = asyncio.Semaphore(CONCURRENCY)
        self._renewing = asyncio.Lock()
        self._spacing = BASE_SPACING
        self._next_start = 0.0
        self._failures = 0  # in a row
        self._paused_until = -math.inf
        self._careful_until = -math.inf
        self._page_size = PAGE_SIZE
        self._depths: dict[str, float] = {}  # pages that the last walk took, by technique
        self._failed_walks: defaultdict[str, int] = defaultdict(int)
        self._no_walks_until: dict[str, float] = {}
        self._history_ids: dict[str, str] = {}
        self._client: AsyncFloraClient | None = None
        # In a context of its own: its log lines and requests are not those of the trigger that came first.
        self._task = contextvars.Context().run(asyncio.get_running_loop().create_task, self._work())

    def add(self, wait: Wait) -> None:
        """Look after a wait from the next tick of its interval on."""
        self._waits.setdefault(wait.run_id, []).append(wait)
        wait.due = self._next_tick(wait.poll_interval)
        if wait.due < self._sleeps_until:
            self._wake.set()

    def expire(self, wait: Wait) -> None:
        """End a wait whose time is over."""
        if not wait.over:
            self._end(wait, wait.timeout_error())

    def remove(self, wait: Wait) -> None:
        """Forget a wait; with the last one the watcher ends, and its session with it."""
        wait.outcome.cancel()
        self._drop(wait)
        if not self._waits and not self.ended:
            self.ended = True
            self._task.cancel()

    def _drop(self, wait: Wait) -> None:
        waits = self._waits.get(wait.run_id, [])
        if wait in waits:
            waits.remove(wait)
        if not waits:
            self._waits.pop(wait.run_id, None)

    def _end(self, wait: Wait, error: Exception | None = None) -> None:
        self._drop(wait)
        wait.end(error)

    def _end_all(self, error: FloraError) -> None:
        self.ended = True  # before anybody wakes: who waits anew gets a new watcher
        for wait in self._all():
            self._end(wait, error)

    def _all(self) -> list[Wait]:
        return [wait for waits in self._waits.values() for wait in waits]

    # --- cycles -------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        try:
            self._client = AsyncFloraClient(await self._settings())
            while not self.ended:
                await self._until_due()
                await self._cycle()
        except _HopelessError as hopeless:
            self._end_all(hopeless.error)
        except FloraError as error:
            self._end_all(error)
        except asyncio.CancelledError:
            self._end_all(FloraConnectionError("The watcher of Flora runs was cancelled."))
            raise
        except Exception as error:
            log.exception("The watcher of Flora runs broke")
            self._end_all(FloraConnectionError(f"The watcher of Flora runs broke: {type(error).__name__}: {error}"))
        finally:
            self.ended = True
            if self._client is not None:
                await self._client.close()

    async def _until_due(self) -> None:
        # Not asyncio.wait_for: before Python 3.12 it can swallow the cancellation that ends the watcher.
        self._wake.clear()
        self._sleeps_until = min((wait.due for wait in self._all()), default=math.inf)
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
        """Look after all waits that are due, each technique in the cheaper way."""
        now = time.monotonic()
        groups: defaultdict[str, list[Wait]] = defaultdict(list)
        for wait in self._all():
            if wait.due <= now:
                groups[wait.technique_id].append(wait)
        singly: list[Wait] = []
        for technique_id, group in groups.items():
            shown = [wait for wait in group if wait.missed < HIDDEN_AFTER and wait.due <= now]
            if self._walks(technique_id, len(shown)):
                await self._walk(technique_id, shown)
            singly += group
        await self._look_singly([wait for wait in singly if wait.due <= now])

    def _next_tick(self, interval: float) -> float:
        """Return the next point of the interval's grid, on which all waits with this interval meet."""
        return self._phase + (math.floor((time.monotonic() - self._phase) / interval) + 1) * interval

    def _note(self, wait: Wait, outcome: Run | FloraError) -> None:
        """Tell a wait what a look brought, and when the next is due."""
        if wait.over:
            return
        wait.failures = wait.failures + 1 if isinstance(outcome, FloraError) else 0
        try:
            pause = wait.after(outcome)
        except Exception as error:  # whatever it is, it ends this wait and no other
            self._end(wait, error)
            return
        if pause is None:
            self._end(wait)
        elif isinstance(outcome, FloraError):
            wait.due = time.monotonic() + pause
        elif outcome.completed and len(self._waits) > FEW_WAITS:
            wait.due = self._next_tick(min(wait.poll_interval, COST_GRACE))
        else:
            wait.due = self._next_tick(pause)

    # --- single looks -------------------------------------------------------------------------------------

    async def _look_singly(self, waits: Sequence[Wait]) -> None:
        # Runs that could be read before come first. Two waits of one run share a look.
        looks = [*{wait.run_id: wait for wait in sorted(waits, key=attrgetter("failures", "due"))}.values()]
        if self._failures:
            del looks[1:]  # one request feels the way; then all is planned anew
        todo = iter(looks)
        await _together([self._look_at_each(todo) for _ in range(min(CONCURRENCY, len(looks)))])

    async def _look_at_each(self, waits: Iterator[Wait]) -> None:
        for wait in waits:
            if wait.over:
                continue
            if wait.missed >= HIDDEN_AFTER:
                wait.missed += 1
                if wait.missed > HIDDEN_AFTER + HIDDEN_FOR:
                    wait.missed = HIDDEN_AFTER - 1
            try:
                run = await self._ask(protocol.get_technique_run(wait.technique_id, wait.run_id), protocol.read_run)
            except FloraError as error:
                self._note(wait, error)
                if self._failures >= FAILURES_TO_PAUSE:
                    return
            else:
                for one in tuple(self._waits.get(wait.run_id, ())):
                    self._note(one, run)

    # --- walks through the history ------------------------------------------------------------------------

    def _walks(self, technique_id: str, count: int) -> bool:
        """Whether pages of the history cost less than single looks at so many of a technique's runs."""
        if time.monotonic() < self._no_walks_until.get(technique_id, -math.inf):
            return False
        depth = max(1.0, self._depths.get(technique_id, 1.0))
        if depth * LOOKS_PER_PAGE <= count:
            return True
        self._depths[technique_id] = depth * 0.9  # the runs that lay deep may have ended since
        return False

    async def _walk(self, technique_id: str, group: Sequence[Wait]) -> None:
        """Walk through a technique's history; what stays due is to be looked at singly."""
        was_well = not self._failures
        missing = set(group)
        try:
            await self._read_history(technique_id, missing)
        except FloraError as error:
            log.warning("Cannot read the run history of %s: %s", technique_id, error)
            self._failed_walks[technique_id] += was_well
            if not error.transient or self._failed_walks[technique_id] >= WALKS_TO_BLAME:
                self._failed_walks[technique_id] = 0
                self._no_walks_until[technique_id] = time.monotonic() + HISTORY_REST
            return
        self._failed_walks[technique_id] = 0
        for wait in missing:
            wait.missed += 1
            if wait.missed == 1:
                wait.due = time.monotonic() + min(HISTORY_LAG, wait.poll_interval)

    async def _read_history(self, technique_id: str, missing: set[Wait]) -> None:
        """Read a technique's history, newest first, and strike off what it shows of the missing."""
        known = [created_at for wait in missing if (created_at := wait.created_at) is not None]
        unseen = len(missing) - len(known)
        oldest = min(known, default=math.inf)
        pages = await self._pages(technique_id)
        taken = useful = 0
        # Another page is worth its price as long as pages bring something, or so much is missing that single
        # looks at it would cost more than the pages that brought nothing.
        while len(missing) > 2 and (taken - useful) * LOOKS_PER_PAGE <= len(missing):
            runs = await self._page(pages)
            taken += 1
            for run in runs:
                for wait in tuple(self._waits.get(run.run_id, ())):
                    if wait in missing:
                        missing.discard(wait)
                        unseen -= wait.created_at is None
                        useful = taken
                    self._note_listed(wait, run)
            passed = bool(runs) and not unseen and (runs[-1].created_at or math.inf) < oldest
            if passed or pages.request is None:
                break
        self._depths[technique_id] = taken

    def _note_listed(self, wait: Wait, run: Run) -> None:
        wait.missed = 0
        if _lacks_details(run) if run.finished else wait.finished:
            wait.due = min(wait.due, time.monotonic())
        else:
            self._note(wait, run)

    async def _pages(self, technique_id: str) -> Pages[Run]:
        history_id = await self._history_id(technique_id)
        workspace_id = self._live_client().settings.workspace_id
        return protocol.list_technique_runs(history_id, None, workspace_id, None, self._page_size)

    async def _page(self, pages: Pages[Run]) -> Sequence[Run]:
        def read(response: Response) -> Sequence[Run]:
            if len(response.body) > LARGE_PAGE_BYTES:
                self._page_size = max(10, self._page_size // 2)
            return pages.read(response)

        assert pages.request is not None  # noqa: S101
        for attempt in range(1, PAGE_TRIES):
            try:
                return await self._ask(pages.request, read, spaced=False)
            except FloraError as error:
                if not error.transient:
                    raise
            await asyncio.sleep(protocol.backoff(protocol.FIRST_BACKOFF, attempt))
        return await self._ask(pages.request, read, spaced=False)

    async def _history_id(self, technique_id: str) -> str:
        """Return the id by which the history filters; a slug is looked up once."""
        if technique_id.startswith("tech_"):
            return technique_id
        if technique_id not in self._history_ids:
            try:
                technique = await self._ask(protocol.get_technique(technique_id), protocol.read_technique)
            except FloraError as error:
                if error.transient:
                    raise
                self._history_ids[technique_id] = technique_id
            else:
                self._history_ids[technique_id] = technique.technique_id
        return self._history_ids[technique_id]

    # --- the gate -----------------------------------------------------------------------------------------

    async def _ask(self, request: Request, read: Callable[[Response], AnswerT], *, spaced: bool = True) -> AnswerT:
        """Send one request through the gate; again after a 429 or a rejected key, which are not its own matter.

        :param spaced: whether the next request keeps its distance even if nothing has been refused of late.
        :raises FloraError: this request failed.
        :raises _HopelessError: all would.
        """
        while True:
            async with self._gate:
                await self._take_turn(spaced)
                client = self._live_client()
                try:
                    answer = await client.ask(request, read)
                except FloraError as error:
                    status = error.status if isinstance(error, FloraAPIError) else None
                    if status == HTTPStatus.UNAUTHORIZED:
                        await self._renew_key(client, error)
                        continue
                    self._failed(error, request, client)
                    if status == HTTPStatus.TOO_MANY_REQUESTS:
                        continue
                    raise
                if self._failures:
                    self._failures = 0
                    self._careful_until = time.monotonic() + 1.0
                self._spacing = max(BASE_SPACING, self._spacing * 0.998)
                return answer

    async def _take_turn(self, spaced: bool) -> None:
        while True:
            now = time.monotonic()
            start = max(now, self._next_start, self._paused_until)
            spacing = self._spacing if spaced or self._spacing > BASE_SPACING else 0.0
            if self._failures or start < self._careful_until:
                spacing = max(spacing, SPACING_AFTER_PAUSE)
            self._next_start = start + spacing
            if start > now:
                await asyncio.sleep(start - now)
            if self._paused_until <= start:
                return

    def _failed(self, error: FloraError, request: Request, client: AsyncFloraClient) -> None:
        """Slow the whole watcher down for an error that is not one run's own."""
        now = time.monotonic()
        if now < self._paused_until:
            return  # this request was under way when another one learnt the same
        self._failures = self._failures + 1 if error.transient else 0
        limited = isinstance(error, FloraAPIError) and error.status == HTTPStatus.TOO_MANY_REQUESTS
        if not limited and self._failures < FAILURES_TO_PAUSE:
            return
        if limited:
            self._spacing = min(MAX_SPACING, self._spacing * 1.5)
        pause = protocol.pause_before_retry(error, self._failures, request, client.settings.timeout)
        pause = min(pause, protocol.MAX_RETRY_AFTER)
        self._paused_until = now + pause
        log.warning("Watching Flora runs pauses for %.0f s: %s", pause, error)

    async def _renew_key(self, rejected: AsyncFloraClient, error: FloraError) -> None:
        """Go on with the connection's key of now, if it is not the one that was rejected."""
        async with self._renewing:
            if self._client is not rejected:
                return  # another request has learnt the same before
            try:
                settings = await self._settings()
            except FloraError as gone:
                raise _HopelessError(gone) from error
            if settings.api_key == rejected.settings.api_key:
                raise _HopelessError(error)
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


async def _together(looks: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Await all; when one breaks, none of the others goes on behind the watcher's back."""
    tasks = [asyncio.ensure_future(look) for look in looks]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _lacks_details(run: Run) -> bool:
    """Whether a finished run is shown without what a single look at it brings: optional in the history."""
    if run.completed:
        return not run.outputs
    return run.failed and not (run.error_code or run.error_message)


_watchers: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Watcher]] = WeakKeyDictionary()
