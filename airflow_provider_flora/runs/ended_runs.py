"""Finds the runs that end, whoever started them, and tells each watch of each of them once.

All watches of a connection in one triggerer process share a poll. It reads the first page of the history of all
techniques once in each interval: 100 runs, newest first by creation. It reads on only until it meets runs that it
has read before. A run that is active when it leaves the first page, or whose details the history lacks, is followed
by the watcher of ``watching``, which also serves the waits of tasks, and seldom polls.

A watch keeps its watermark in the state store of its asset, where Airflow has one (3.3). A run is settled there
only after Airflow has stored its event, which the asset's state store says too (see ``run_events``). So after a
kill at any moment, the next watch tells of what was not stored, and of nothing else. Without a store the watermark
is in memory, and a watch begins anew with each start.
"""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import itertools
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakKeyDictionary

from airflow_provider_flora.api import operations
from airflow_provider_flora.api.errors import FloraError, FloraInternalError, FloraRunTimeoutError
from airflow_provider_flora.api.waiting import COST_GRACE, as_flora_error, is_refusal
from airflow_provider_flora.runs.gate import Gate, SettingsReader
from airflow_provider_flora.runs.history import PAGE_SIZE, HistoryReader, lacks_details
from airflow_provider_flora.runs.own_runs import is_own
from airflow_provider_flora.runs.run_events import LONGEST_ID, TOLD_KEY, RunEvent, told_runs
from airflow_provider_flora.runs.watching import watch
from airflow_provider_flora.runs.watermark import OVERLAP, SeenRuns, Walk, Watermark

if TYPE_CHECKING:
    from airflow_provider_flora.api.models import Run

log = logging.getLogger(__name__)

MOST_PAGES = 1000
"""Number of pages that one poll reads at most: the history of a long time without a watch."""
MOST_ACTIVE = 2500
"""Number of running, and of pending runs that are looked for at the begin of a watch."""
FOLLOW_INTERVALS = 6
"""Number of intervals between two polls of a run that has left the first page."""
FOLLOW_TIMEOUT = 7 * 86400.0
"""Seconds after which a run that does not end is given up."""
IN_FLIGHT = 100
"""Number of events that may be on their way into Airflow's database; fewer than ``TOLD_KEPT``."""
CONFIRM_INTERVAL = 1.0
"""Seconds between two looks at whether events have been stored. Airflow stores them about once a second."""
CONFIRM_TIMEOUT = 300.0
"""Seconds after which an event counts as stored though nothing says so."""
JOIN_PAUSE = 1.0
"""Seconds until a new watch is served: after a start, all watches of a connection come within a moment."""
STORE_RETRY = 5.0
"""Seconds between two attempts to read or write the asset's state store."""


class StateStore(Protocol):
    """The state store of an asset (Airflow 3.3)."""

    async def aget(self, key: str) -> Any:
        """Return a value, or ``None``."""

    async def aset(self, key: str, value: Any) -> None:
        """Keep a value of plain JSON."""


@dataclass(eq=False)
class RunsWatch:
    """What one trigger wants to be told of.

    :param conn_id: id of the connection.
    :param read_settings: reads the connection.
    :param technique_id: id or slug of the technique; ``None`` for all.
    :param status: ``completed`` or ``failed``; ``None`` for both.
    :param exclude_own: leave out runs that ``own_runs`` knows.
    :param poll_interval: seconds. The shortest interval of the watches of a connection counts.
    :param stores: the state stores of the assets; empty where there are none.
    """

    conn_id: str
    read_settings: SettingsReader
    technique_id: str | None
    status: str | None
    exclude_own: bool
    poll_interval: float
    stores: Sequence[StateStore]
    watermark: Watermark = field(default_factory=Watermark)
    history_id: str | None = None
    """The id that the history has for the technique."""
    back_to: float | None = None
    """Unix milliseconds to which the next poll must reach back; ``None`` if it goes on where the last one began."""
    error: FloraError | None = None
    """A programming error that has ended the poll."""

    def __post_init__(self) -> None:
        words = repr((self.conn_id, self.technique_id, self.status, self.exclude_own))
        self._key = f"flora_runs_{hashlib.sha256(words.encode()).hexdigest()[:16]}"
        self._due: deque[RunEvent] = deque()
        self._handed: set[str] = set()  # due, or told and not confirmed
        self._awaits_cost: dict[str, float] = {}
        self._changed = asyncio.Event()
        self._saved: Any = None
        self._warned: set[str] = set()
        # Events outlive their trigger: Airflow may start it again before it has stored them. Triggers that differ
        # in their interval alone are two, and each has events of its own.
        key = f"{self._key} {self.poll_interval!r}"
        self._told = _told.setdefault(asyncio.get_running_loop(), {}).setdefault(key, {})

    async def events(self) -> AsyncIterator[RunEvent]:
        """Yield the event of each run, in the order in which runs end, for as long as the caller iterates.

        :raises FloraInternalError: a programming error prevents it.
        """
        resumed = await self._load()
        if resumed and self.exclude_own:
            await asyncio.sleep(self.poll_interval)  # until deferred tasks are back, after a restart
        poll = RunsPoll.of(self)
        try:
            while True:
                self._changed.clear()
                if self.error is not None:
                    raise self.error
                await self._confirm()
                if not await self._save():
                    await asyncio.sleep(STORE_RETRY)
                    continue
                while self._due and len(self._told) < IN_FLIGHT:
                    event = self._due.popleft()
                    self._told[event["run_id"]] = (time.monotonic(), event["created_at"])
                    if not self.stores:
                        self._settle(event["run_id"])
                    yield event
                await self._wait()
        finally:
            poll.remove(self)

    async def _wait(self) -> None:
        """Wait until there is something to do."""
        alarm = None
        if self._told:
            alarm = asyncio.get_running_loop().call_later(CONFIRM_INTERVAL, self._changed.set)
        try:
            await self._changed.wait()
        finally:
            if alarm is not None:
                alarm.cancel()

    # --- from the poll ----------------------------------------------------------------------------------------

    def wants(self, run: Run) -> bool:
        """Whether the watch is about a run, in any status."""
        if len(run.run_id) > LONGEST_ID:
            return False
        return self.history_id is None or (
            run.technique is not None and run.technique.technique_id == self.history_id
        )

    def take(
        self, runs: Sequence[Run], active: Iterable[Run] = (), *, is_whole: bool, names: dict[str, str]
    ) -> None:
        """Take a listing: see :meth:`Watermark.see`."""
        for run in self.watermark.see(runs, self.wants, active=active, is_whole=is_whole):
            may_be_followed = bool(self.watermark.open[run.run_id])
            if not (lacks_details(run) and may_be_followed) and not self._may_get_cost(run):
                self._hand(run, names)
        for run_id in self.watermark.forget_open():
            log.error("Too many Flora runs are open: %s will not be told of", run_id)
        self._changed.set()

    def take_followed(self, run: Run, names: dict[str, str]) -> None:
        """Take the details of a run that has ended."""
        if run.run_id in self.watermark.open:
            self._hand(run, names)
            self._changed.set()

    def give_up(self, run_id: str) -> None:
        """Forget a run of which no end will be known."""
        self.watermark.open.pop(run_id, None)
        self._changed.set()

    def _may_get_cost(self, run: Run) -> bool:
        if not run.completed or run.charged_cost is not None or run.run_id in self._handed:
            return False
        now = time.monotonic()
        return now - self._awaits_cost.setdefault(run.run_id, now) < COST_GRACE

    def _hand(self, run: Run, names: dict[str, str]) -> None:
        self._awaits_cost.pop(run.run_id, None)
        if run.run_id in self._handed or run.run_id in self._told:
            return
        if self.status == ("failed" if run.completed else "completed") or (self.exclude_own and is_own(run.run_id)):
            self.watermark.settle(run.run_id, run.created_at)
            return
        technique_id = self.watermark.open[run.run_id]
        self._handed.add(run.run_id)
        self._due.append(RunEvent.of_run(run, technique_id, names.get(technique_id)))

    def follows(self, listed: dict[str, Run]) -> Iterable[tuple[str, str]]:
        """Return the runs, with their techniques, whose end or details the listing does not show."""
        for run_id, technique_id in self.watermark.open.items():
            run = listed.get(run_id)
            is_shown = run is not None and not (run.finished and lacks_details(run))
            if technique_id and not is_shown and run_id not in self._handed and run_id not in self._told:
                yield run_id, technique_id

    def report_missing(self) -> None:
        """Log once that Flora does not have the technique."""
        if "technique" not in self._warned:
            self._warned.add("technique")
            log.error(
                "Flora has no technique %r for the key of %r: none is told of until it has",
                self.technique_id,
                self.conn_id,
            )

    def read_back(self) -> None:
        """Have the next poll read back to what was seen, and a bit further, since lists may lag."""
        seen_until = self.watermark.seen_until
        self.back_to = None if seen_until is None else seen_until - OVERLAP

    def wake(self) -> None:
        """Look at what has changed."""
        self._changed.set()

    # --- the store --------------------------------------------------------------------------------------------

    def _settle(self, run_id: str) -> None:
        _, created_at = self._told.pop(run_id, (0.0, None))
        self._handed.discard(run_id)
        self.watermark.settle(run_id, created_at)

    async def _load(self) -> bool:
        """Read the watermark, as soon as it can be read. Return whether there was one."""
        if not self.stores:
            return False
        while True:
            try:
                stored = [await store.aget(self._key) for store in self.stores]
                told = await self._read_told()
            except Exception as error:  # Airflow's API: beginning anew would lose runs
                self._warn("read", error)
                await asyncio.sleep(STORE_RETRY)
            else:
                break
        marks = [mark for mark in map(Watermark.from_json, stored) if mark is not None]
        if not marks and any(value is not None for value in stored):
            log.error(
                "What the asset's state store has under %s cannot be read. Runs are told of from now on", self._key
            )
        if marks:
            self.watermark = max(marks, key=lambda mark: mark.seen_until or 0.0)
            self._saved = self.watermark.as_json()
            self.read_back()
        for run_id in told:
            if marks or run_id in self._told:
                self._settle(run_id)
        return bool(marks)

    async def _read_told(self) -> list[str]:
        """Return the runs that the first asset was told of. The others are told in the same transaction."""
        return told_runs(await self.stores[0].aget(TOLD_KEY)) if self.stores else []

    async def _confirm(self) -> None:
        """Settle the runs whose events have been stored."""
        if not self._told or not self.stores:
            return
        try:
            stored = await self._read_told()
        except Exception as error:
            self._warn("read", error)
            return
        for run_id in stored:
            if run_id in self._told:
                self._settle(run_id)
        overdue = [run_id for run_id, (at, _) in self._told.items() if time.monotonic() - at > CONFIRM_TIMEOUT]
        if overdue:
            log.error(
                "Nothing says that Airflow has stored the events of %d Flora runs, such as %s. They count as "
                "stored now. Is the plugin of the Flora provider loaded in the triggerer (airflow plugins)?",
                len(overdue),
                overdue[0],
            )
            for run_id in overdue:
                self._settle(run_id)

    async def _save(self) -> bool:
        """Keep the watermark if it has changed. Return whether it is kept."""
        if not self.stores or self.watermark.seen_until is None:
            return True
        state = self.watermark.as_json()
        if state == self._saved:
            return True
        try:
            for store in self.stores:
                await store.aset(self._key, state)
        except Exception as error:
            self._warn("write", error)
            return False
        self._saved = state
        self._warned.clear()
        return True

    def _warn(self, what: str, error: Exception) -> None:
        if what not in self._warned:
            self._warned.add(what)
            log.warning("Cannot %s the asset's state store now, trying again: %s", what, error)


class RunsPoll:
    """The poll of one connection on one event loop. It runs while there are watches."""

    def __init__(self, conn_id: str, read_settings: SettingsReader) -> None:
        self.ended = False
        self._conn_id = conn_id
        self._read_settings = read_settings
        self._gate = Gate(conn_id, read_settings, self._report)
        self._history = HistoryReader(self._gate)
        self._watches: list[RunsWatch] = []
        self._seen = SeenRuns()
        self._names: dict[str, str] = {}
        self._follows: dict[str, asyncio.Task[None]] = {}
        self._trouble = ""
        self._wake = asyncio.Event()
        self._joining: asyncio.TimerHandle | None = None
        self._polled_at: float | None = None
        # In its own context, so that its log lines do not go to the first trigger.
        self._task = contextvars.Context().run(asyncio.get_running_loop().create_task, self._work())

    @classmethod
    def of(cls, watch_: RunsWatch) -> RunsPoll:
        """Return the poll of a watch's connection, with the watch added."""
        polls = _polls.setdefault(asyncio.get_running_loop(), {})
        poll = polls.get(watch_.conn_id)
        if poll is None or poll.ended:
            poll = polls[watch_.conn_id] = cls(watch_.conn_id, watch_.read_settings)
        poll._watches.append(watch_)
        if poll._joining is None:
            poll._joining = asyncio.get_running_loop().call_later(JOIN_PAUSE, poll._wake.set)
        return poll

    def remove(self, watch_: RunsWatch) -> None:
        """Remove a watch. The poll ends with its last watch."""
        self._watches.remove(watch_)
        if not self._watches and not self.ended:
            self.ended = True
            self._task.cancel()
            polls = _polls.get(asyncio.get_running_loop(), {})
            if polls.get(self._conn_id) is self:
                del polls[self._conn_id]

    async def _work(self) -> None:
        try:
            await self._gate.open()
            while True:
                await self._sleep()
                self._joining = None
                began = time.monotonic()
                try:
                    await self._poll()
                except FloraInternalError:
                    raise
                except FloraError as error:
                    await self._report(error, 0.0)
                self._polled_at = began
        except Exception as error:
            log.exception("The poll of ended Flora runs failed")
            self.ended = True
            for one in self._watches:
                one.error = as_flora_error(error)
                one.wake()
        finally:
            self.ended = True
            follows = [*self._follows.values()]
            for follow in follows:
                follow.cancel()
            await asyncio.gather(*follows, return_exceptions=True)
            await self._gate.close()

    async def _report(self, error: FloraError, pause: float) -> None:
        """Log an error that delays all watches, once."""
        trouble = f"{type(error).__name__} {error.status}"  # its text has the id of the request
        if trouble != self._trouble:
            self._trouble = trouble
            log.warning("Ended Flora runs cannot be listed now, trying again: %s", error)

    async def _sleep(self) -> None:
        """Sleep until the next poll is due, or new watches are to be served."""
        alarm = None
        if self._polled_at is not None:
            pause = self._interval - (time.monotonic() - self._polled_at)
            alarm = asyncio.get_running_loop().call_later(max(0.0, pause), self._wake.set)
        try:
            await self._wake.wait()
        finally:
            self._wake.clear()
            if alarm is not None:
                alarm.cancel()

    @property
    def _interval(self) -> float:
        return min((one.poll_interval for one in self._watches), default=1.0)

    async def _poll(self) -> None:
        watches = [one for one in self._watches if await self._knows_technique(one)]
        if not watches:
            return
        begin = any(one.watermark.seen_until is None for one in watches)
        active = await self._list_active() if begin else []
        back_to = (one.back_to for one in watches if one.back_to is not None)
        walk, is_whole = await self._list_new(min(back_to, default=None))
        runs = walk.runs
        for run in itertools.chain(active, runs):
            if run.technique is not None and run.technique.name:
                self._names[run.technique.technique_id] = run.technique.name
        for one in watches:
            if walk.is_cut and one.watermark.seen_until is None:
                continue  # it begins at the newest run, and those are left out
            one.take(runs, active, is_whole=is_whole, names=self._names)
            one.back_to = one.watermark.seen_until if walk.is_cut else None
        self._follow({run.run_id: run for run in runs})
        if len(watches) == len(self._watches):
            self._trouble = ""

    async def _knows_technique(self, one: RunsWatch) -> bool:
        """Look up the id of a watch's technique. An error delays only this watch."""
        if one.technique_id is None or one.history_id is not None:
            return True
        try:
            history_id = await self._history.get_id(one.technique_id)
        except FloraInternalError:
            raise
        except FloraError as error:
            await self._report(error, 0.0)
            one.read_back()
            return False
        if self._history.lacks(one.technique_id):
            one.report_missing()
            one.read_back()
            return False
        one.history_id = history_id
        return True

    async def _list_active(self) -> list[Run]:
        """Return the runs that are active now."""
        active: list[Run] = []
        for status in ("pending", "running"):  # in the order of a run's life: it may begin to run in between
            pages = operations.list_technique_runs(None, status, None, None, PAGE_SIZE)
            enough = len(active) + MOST_ACTIVE
            while pages.request is not None and len(active) < enough:
                active += await self._history.read_page(pages)
        return active

    async def _list_new(self, back_to: float | None) -> tuple[Walk, bool]:
        """Read the history as far back as :class:`Walk` says. Return it, and whether there are no older runs."""
        pages = operations.list_technique_runs(None, None, None, None, PAGE_SIZE)
        begun = (one.watermark.seen_until for one in self._watches if one.watermark.seen_until is not None)
        seen_until = min(begun, default=None)
        walk = Walk(self._seen.ids, back_to, None if seen_until is None else seen_until - OVERLAP)
        for _ in range(MOST_PAGES):
            if not walk.add(await self._history.read_page(pages)) or pages.request is None:
                break
        else:
            log.error("Flora's history has more runs since the last poll than can be read: older ones are left out")
        self._seen.add(walk)
        return walk, pages.request is None

    # --- runs that the first page does not show -----------------------------------------------------------------

    def _follow(self, listed: dict[str, Run]) -> None:
        wanted = dict(itertools.chain.from_iterable(one.follows(listed) for one in self._watches))
        for run_id in [*self._follows]:
            if run_id not in wanted:
                self._follows.pop(run_id).cancel()
        for run_id, technique_id in wanted.items():
            if run_id not in self._follows:
                intervals = 1 if run_id in listed and listed[run_id].finished else FOLLOW_INTERVALS
                follow = self._follow_one(run_id, technique_id, intervals * self._interval)
                self._follows[run_id] = asyncio.get_running_loop().create_task(follow)

    async def _follow_one(self, run_id: str, technique_id: str, poll_interval: float) -> None:
        try:
            run = await watch(
                self._conn_id,
                self._read_settings,
                technique_id,
                run_id,
                poll_interval=poll_interval,
                timeout=FOLLOW_TIMEOUT,
            )
        except FloraError as error:
            gone = is_refusal(error) and error.status in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE)
            if not gone and not isinstance(error, FloraRunTimeoutError):
                log.warning("Run %s is not followed now, trying again: %s", run_id, error)
                return
            log.error("The end of run %s will not be told of: %s", run_id, error)
            for one in self._watches:
                one.give_up(run_id)
        else:
            for one in self._watches:
                one.take_followed(run, self._names)
        finally:
            if self._follows.get(run_id) is asyncio.current_task():
                del self._follows[run_id]


_polls: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, RunsPoll]] = WeakKeyDictionary()
_told: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, dict[str, tuple[float, float | None]]]] = (
    WeakKeyDictionary()
)
"""Runs that were told and not confirmed, by watch: when (monotonic), and their creation."""
