"""Runs the rows of a batch: starts them, waits for all of them together, and brings their outputs home.

One event loop does the waiting, with the watcher of ``runs.watching``. A few threads do what blocks:
``starts_at_once`` start rows, each row by the rules of ``runs.starting``, and others download. Nothing here decides
whether a start may be sent.

    what fails                                          what happens
    ==================================================  =====================================================
    a row's inputs, its file, its run for good          the row has failed
    its run or its upload, and a retry may help         the row is started again, ``row_retries`` times
    Flora, the network, the journal: for a moment       all starts pause, and the row is started again; after five
                                                        minutes, after the others, ``row_retries`` times
    the key, the credits, the technique, the price      nothing more is started; what runs is brought home
    a start whose run cannot be identified              the row is unknown; after five minutes, if Flora is ill
    a limit of the costs, or of the connection          nothing more is started; what runs is brought home
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import tenacity

from airflow_provider_flora import metrics
from airflow_provider_flora.api import retries
from airflow_provider_flora.api.errors import (
    FloraBatchError,
    FloraCreditsError,
    FloraError,
    FloraFileError,
    FloraInternalError,
    FloraRunFailedError,
    FloraRunTimeoutError,
    FloraUnknownStartError,
    FloraUploadError,
    Remedy,
    remedy_of,
    run_failure,
)
from airflow_provider_flora.api.waiting import as_flora_error
from airflow_provider_flora.batch.entries import ACTIVE, FAILED, UNKNOWN, Entry, Lines
from airflow_provider_flora.batch.money import Budget
from airflow_provider_flora.batch.progress import Progress
from airflow_provider_flora.files.downloads.downloads import Downloads
from airflow_provider_flora.files.uploads.record import UploadRecord
from airflow_provider_flora.files.uploads.run_inputs import InputFiles
from airflow_provider_flora.runs.credits import CreditsNotice
from airflow_provider_flora.runs.limits import LimitedStart
from airflow_provider_flora.runs.starting import PlannedRun, Starter
from airflow_provider_flora.runs.watching import watch

if TYPE_CHECKING:
    from airflow_provider_flora.api.client import FloraClient
    from airflow_provider_flora.api.models import Run, RunInput, Technique
    from airflow_provider_flora.batch.journal import Journal
    from airflow_provider_flora.batch.manifest import Manifest
    from airflow_provider_flora.runs.gate import SettingsReader
    from airflow_provider_flora.runs.limits import Limits
    from airflow_provider_flora.runs.techniques import RecentTechnique
    from airflow_provider_flora.task.log import Log

DOWNLOADS_AT_ONCE = 4
SNAPSHOT_INTERVAL = 60.0
"""Seconds between two snapshots of the manifest."""
SAVE_FOR = 60.0
"""Seconds for which the last save is tried again."""
IDLE_SECONDS = 10.0
"""Seconds without anything to do after which the task defers: a resumption needs a new process."""
RETRY_ROW_LATER = 30.0
"""Seconds before a row whose run failed is started again, if its remedy says "retry later"."""
HOLD_SECONDS = 300.0
"""Seconds for which a row whose start fails again and again holds back the others."""
TICK = 1.0
ADVICE = "A clear of the task looks again. The next DAG run starts the row anew, which may be a second charge."
"""What a person can do about a row whose run cannot be identified."""
KEY_CODES = "idempotency_"
"""Start of the codes with which Flora refuses the key of one row."""


@dataclass(frozen=True)
class Parameters:
    """The parameters of a batch that matter while it runs, read and checked.

    :param deadline: unix time (s) at which the wait ends.
    :param timeout: seconds, as the user set it.
    """

    conn_id: str
    technique_id: str
    validate_inputs: bool
    max_active_runs: int
    starts_at_once: int
    poll_interval: float
    deadline: float
    timeout: float
    download_to: Any
    seed: str


class Running:
    """The rows of a batch while they run.

    :param entries: all rows. Those with a line are over.
    :param make_client: makes a client for one thread.
    :param read_settings: reads the connection, for the watcher.
    :param make_technique: returns the technique, at most a minute old, by a client.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        parameters: Parameters,
        technique: Technique,
        *,
        journal: Journal,
        manifest: Manifest,
        lines: Lines,
        budget: Budget,
        limits: Limits,
        make_client: Callable[[], FloraClient],
        read_settings: SettingsReader,
        make_technique: Callable[[FloraClient], RecentTechnique],
        report: Callable[[str], None],
        log: Log,
    ) -> None:
        self.entries = entries
        self.fatal: FloraError | None = None
        """The error that ended the starts of all rows."""
        self.timed_out = False
        self._of = parameters
        self._technique = technique
        self._journal = journal
        self._manifest = manifest
        self._lines = lines
        self._budget = budget
        self._limits = limits
        self._make_client = make_client
        self._read_settings = read_settings
        self._make_technique = make_technique
        self._log = log
        self._progress = Progress(report, log)
        self._todo: deque[Entry] = deque()
        self._active: dict[str, Entry] = {}
        """Rows by the id of their run, which is waited for."""
        self._owners = {entry.line["run_id"]: entry for entry in entries if entry.line}
        """Rows by the id of their run, be it over or not: a run is that of one row."""
        self._starts = self._finishes = self._delayed = 0
        """Rows that are being started, being downloaded, and that are started again in a moment."""
        self._has_changed = False
        self._uncounted: list[tuple[Run, float]] = []
        """Runs that have ended, with their unix time (s), until the stored manifest shows them."""
        self._uncounted_starts: list[int] = []
        """The numbers under which the journal has taken runs that were started, until it has stored them."""
        self._counting = threading.Lock()
        self._failures = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._local = threading.local()
        self._clients: list[FloraClient] = []

    def run(self, *, may_defer: bool) -> list[str]:
        """Run the rows until all are over, or only waiting is left.

        :param may_defer: return the active runs if there is nothing to do but wait for them for a while.
        :return: the active runs; none if all rows are over.
        """
        try:
            return asyncio.run(self._run(may_defer))
        finally:
            self._journal.close()  # a thread that is still about to start a row must not
            for client in self._clients:
                client.close()

    async def _run(self, may_defer: bool) -> list[str]:
        self._wake = asyncio.Event()
        self._starting = ThreadPoolExecutor(self._of.starts_at_once, "flora-start")
        self._finishing = ThreadPoolExecutor(DOWNLOADS_AT_ONCE, "flora-finish")
        for entry in self.entries:
            if entry.line is None and entry.run_id is not None:
                self._watch(entry)
            elif entry.line is None:
                self._todo.append(entry)
        starters = [self._spawn(self._start_rows()) for _ in range(self._of.starts_at_once)]
        try:
            deferred = await self._supervise(may_defer)
        finally:
            for task in (*starters, *self._tasks):
                task.cancel()
            await asyncio.gather(*starters, *self._tasks, return_exceptions=True)
            self._starting.shutdown(wait=False, cancel_futures=True)
            self._finishing.shutdown(wait=False, cancel_futures=True)
        active = [*self._active] if deferred else []
        if not deferred:
            self._skip_the_rest()
        retrying = tenacity.AsyncRetrying(
            stop=tenacity.stop_after_delay(SAVE_FOR), wait=tenacity.wait_exponential(max=5), reraise=True
        )
        await retrying(asyncio.to_thread, self._save)
        return active

    async def _supervise(self, may_defer: bool) -> bool:
        """Save and report until all rows are over. Return whether to defer instead."""
        saved_at = idle_since = time.monotonic()
        while not self._is_over():
            await asyncio.sleep(TICK)
            now = time.monotonic()
            if self._has_changed or self._is_busy or (self._todo and self._may_start()):
                idle_since, self._has_changed = now, False
            await asyncio.to_thread(self._progress.show, self.count(), self._budget)
            if now - saved_at >= SNAPSHOT_INTERVAL:
                saved_at = now
                await asyncio.to_thread(self._save_if_possible)
            if time.time() >= self._of.deadline and not self._is_busy:
                self.timed_out = True
                return False
            if may_defer and self._active and now - idle_since >= IDLE_SECONDS:
                return True
        return False

    @property
    def _is_busy(self) -> bool:
        return bool(self._starts or self._finishes or self._delayed)

    def _is_over(self) -> bool:
        return not self._active and not self._is_busy and (not self._todo or self._has_stopped())

    def _has_stopped(self) -> bool:
        return self.fatal is not None or self._budget.is_spent

    def _may_start(self) -> bool:
        has_room = len(self._active) + self._starts < self._of.max_active_runs
        return has_room and not self._has_stopped() and time.time() < self._of.deadline

    def _spawn(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._has_changed = True
        self._wake.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fatal = self.fatal or as_flora_error(
                error if isinstance(error, Exception) else RuntimeError(error)
            )

    # --- starting ---------------------------------------------------------------------------------------------

    async def _start_rows(self) -> None:
        """Start one row after the other."""
        loop = asyncio.get_running_loop()
        while not self._has_stopped():
            entry = self._next()
            if entry is None:
                self._wake.clear()
                await self._wake.wait()
                continue
            self._starts += 1
            try:
                await self._start_row(loop, entry)
            finally:
                self._starts -= 1
                self._wake.set()

    def _next(self) -> Entry | None:
        return self._todo.popleft() if self._todo and self._may_start() else None

    async def _start_row(self, loop: asyncio.AbstractEventLoop, entry: Entry) -> None:
        entry.failing_since = math.inf
        while not self._has_stopped():
            try:
                run = await loop.run_in_executor(self._starting, self._start, entry)
            except FloraError as error:
                entry.failing_since = min(entry.failing_since, time.monotonic())
                if await self._is_settled(entry, error):
                    return
            else:
                self._failures = 0
                entry.run_id, entry.run = run.run_id, None
                self._watch(entry)
                return
        self._todo.appendleft(entry)

    async def _is_settled(self, entry: Entry, error: FloraError) -> bool:
        """Handle the error of a start. Return whether the row is over; if not, it is started again."""
        if self._budget.is_spent and error is self._budget.error:
            self._todo.appendleft(entry)
            return True
        if isinstance(error, FloraRunFailedError):
            self._end(entry, self._lines.failed(entry, error, error.run))
            return True
        if isinstance(error, FloraUnknownStartError) and not error.remedy.retryable:
            self._log.warning("Row %s: %s", entry.row_id, error)
            self._end(entry, self._lines.failed(entry, error, status=UNKNOWN))
            return True
        if str(error.code).startswith(KEY_CODES):  # so there may be a run
            self._end(entry, self._lines.failed(entry, error, status=UNKNOWN))
            return True
        if error.remedy.retryable and not isinstance(error, FloraInternalError):
            if time.time() >= self._of.deadline:
                self._todo.appendleft(entry)
                return True
            if isinstance(error, (FloraFileError, FloraUploadError)):  # it may be the row's file alone
                entry.retries_left -= 1
                if entry.retries_left < 0:
                    self._end(entry, self._lines.failed(entry, error))
                    return True
            if time.monotonic() - entry.failing_since >= HOLD_SECONDS:
                self._give_way(entry, error)
                return True
            await self._slow_down(entry, error)
            return False
        if error.remedy is Remedy.CHANGE_INPUT:
            self._end(entry, self._lines.failed(entry, error))
            return True
        self._log.warning("No further row is started: %s", error)
        self.fatal = error
        self._todo.appendleft(entry)
        return True

    def _give_way(self, entry: Entry, error: FloraError) -> None:
        """Let the other rows go on. If Flora is ill, they meet the same; otherwise it is this row alone."""
        record = self._journal.records_of(entry.row_id).load()
        if record is None or record.unanswered or error.status == HTTPStatus.CONFLICT:
            self._end(entry, self._lines.failed(entry, _unknown(error), status=UNKNOWN))
        elif entry.retries_left > 0:
            entry.retries_left -= 1
            self._todo.append(entry)
        else:
            self._end(entry, self._lines.failed(entry, error))

    async def _slow_down(self, entry: Entry, error: FloraError) -> None:
        self._failures += 1
        asked = getattr(error, "retry_after", None) or 0.0
        pause = max(min(asked, retries.MAX_RETRY_AFTER), retries.backoff(1.0, self._failures))
        pause = min(pause, max(0.0, self._of.deadline - time.time()))
        self._log.warning("Row %s is tried again in %.0f s: %s", entry.row_id, pause, error)
        await asyncio.sleep(pause)

    def _start(self, entry: Entry) -> Run:
        """Start a row's run, or find the one that was started. In a thread."""
        client = self._client()
        limited = LimitedStart(self._limits, client)
        files = InputFiles(
            entry.row.inputs, client, UploadRecord(None, self._log), f"{self._of.seed}{entry.row_id}", self._log
        )

        def digests() -> dict[str, str]:
            found = files.compute_digests()
            for name, sha256 in found.items():
                entry.files.setdefault(name, {"version": None})["sha256"] = sha256
            return found

        def plan() -> PlannedRun:
            technique = self._make_technique(client)
            inputs = technique.check(lambda found: self._check_inputs(found, client, files))
            return PlannedRun(
                technique.get().technique_id,
                lambda: files.upload(inputs, technique.get()),
                lambda: technique.check(lambda found: self._budget.reserve(entry.row_id, found)),
                lambda: limited.check(technique.get()),
            )

        starter = Starter(
            client,
            technique_id=self._of.technique_id,
            inputs=files.inputs,
            files=digests,
            plan=plan,
            callback_url=None,
            records=self._journal.records_of(entry.row_id),
            on_unknown_start="stop",
            siblings=lambda: self._runs_of_others(entry),
            log=_RowLog(self._log, entry.row_id),
            run=entry.run,
            advice=ADVICE,
            count_start=lambda _: self._note_start(),
        )
        with limited:
            return starter.start().run

    def _runs_of_others(self, entry: Entry) -> set[str]:
        """Return the runs that cannot be the row's, since they are known to be other rows'."""
        lines = [other.line or other.previous for other in self.entries if other is not entry]
        return self._journal.known_runs() | {line["run_id"] for line in lines if line.get("run_id")}

    def _check_inputs(self, technique: Technique, client: FloraClient, files: InputFiles) -> list[RunInput]:
        from airflow_provider_flora.api.inputs import check_inputs, run_inputs

        if not self._of.validate_inputs:
            return run_inputs(files.inputs, self._of.technique_id, technique)
        return check_inputs(
            files.inputs,
            technique,
            on_own_origin=client.settings.on_own_origin,
            file_problem=files.find_problem,
        )

    def _client(self) -> FloraClient:
        client: FloraClient | None = getattr(self._local, "client", None)
        if client is None:
            client = self._local.client = self._make_client()
            self._clients.append(client)
        return client

    # --- waiting ----------------------------------------------------------------------------------------------

    def _watch(self, entry: Entry) -> None:
        if (owner := self._owners.setdefault(entry.run_id, entry)) is not entry:
            error = FloraUnknownStartError(f"{entry.run_id} is that of row {owner.row_id!r}. {ADVICE}")
            error.run_id = entry.run_id
            self._end(entry, self._lines.failed(entry, error, status=UNKNOWN))
            return
        self._active[str(entry.run_id)] = entry
        self._budget.add_active(entry.row_id, self._technique)
        self._spawn(self._wait_for(entry))

    async def _wait_for(self, entry: Entry) -> None:
        run_id = str(entry.run_id)
        try:
            run = await watch(
                self._of.conn_id,
                self._read_settings,
                self._technique.technique_id,
                run_id,
                poll_interval=self._of.poll_interval,
                timeout=self._of.timeout,
                deadline=self._of.deadline,
                listener=self._progress,
                waits_for_cost=False,  # a cost that is late is filled in at the end
                shows_gauges=False,
            )
        except FloraRunTimeoutError:
            self.timed_out = True
            return
        except FloraError as error:
            del self._active[run_id]
            self._end(entry, self._lines.failed(entry, error, status=UNKNOWN))
            return
        self._finishes += 1
        del self._active[run_id]
        self._wake.set()
        try:
            await self._finish(entry, run)
        finally:
            self._finishes -= 1

    async def _finish(self, entry: Entry, run: Run) -> None:
        self._budget.end(entry.row_id, 0.0 if run.status == FAILED else run.charged_cost)
        entry.run = run
        if run.completed:
            loop = asyncio.get_running_loop()
            try:
                files = await loop.run_in_executor(self._finishing, self._download, entry, run)
            except FloraError as error:
                self._log.warning("Row %s: %s", entry.row_id, error)
                if getattr(error, "gone", False):
                    error.code = "gone"  # only another run makes these files again
                self._end(entry, self._lines.failed(entry, error, run))
            else:
                self._end(entry, self._lines.completed(entry, run, files))
                self._note(entry, run)
            return
        self._note(entry, run)
        failure = run_failure(run, self._of.technique_id)
        if entry.was_resumed or (failure.remedy.retryable and entry.retries_left > 0 and not self._has_stopped()):
            if not entry.was_resumed:
                entry.retries_left -= 1
                self._log.info("Row %s is started again: %s", entry.row_id, failure)
            # A resumed run may be one that a user has cleared: runs.starting decides.
            entry.was_resumed, entry.run_id = False, None
            self._delayed += 1  # here, since the batch would be over until the task begins
            self._spawn(self._start_later(entry, RETRY_ROW_LATER if failure.remedy is Remedy.RETRY_LATER else 0.0))
            return
        if isinstance(failure, FloraCreditsError):
            self.fatal = self.fatal or failure
            await asyncio.to_thread(self._post, failure)
        self._end(entry, self._lines.failed(entry, failure, run))

    def _post(self, error: FloraError) -> None:
        """Tell other tasks that there are no credits. In a thread."""
        CreditsNotice(self._client().settings).post(error)

    async def _start_later(self, entry: Entry, pause: float) -> None:
        try:
            await asyncio.sleep(min(pause, max(0.0, self._of.deadline - time.time())))
        finally:
            self._delayed -= 1
            self._todo.append(entry)
            self._wake.set()

    def _download(self, entry: Entry, run: Run) -> list[dict[str, Any]]:
        if self._of.download_to is None:
            return []
        downloads = Downloads(self._of.download_to, entry.file_name, _RowLog(self._log, entry.row_id))
        return downloads.download(run, self._of.technique_id, self._client().settings)

    # --- ends -------------------------------------------------------------------------------------------------

    # What a kill makes the next attempt find again is counted when it is stored, and not before.

    def _note_start(self) -> None:
        """Note a start that is to be counted. In a thread."""
        if metrics.are_on():
            with self._counting:
                self._uncounted_starts.append(self._journal.taken)
            self._count_starts()

    def _count_starts(self) -> None:
        stored = self._journal.stored
        with self._counting:
            waiting = [number for number in self._uncounted_starts if number > stored]
            count, self._uncounted_starts = len(self._uncounted_starts) - len(waiting), waiting
        for _ in range(count):
            metrics.count_start(self._of.technique_id)

    def _note(self, entry: Entry, run: Run) -> None:
        """Note a run that is to be counted, unless an earlier attempt has: the manifest shows it as what it is."""
        seen = (entry.previous.get("run_id"), entry.previous.get("status"))
        if metrics.are_on() and seen != (run.run_id, run.status):
            self._uncounted.append((run, time.time()))

    def _end(self, entry: Entry, line: dict[str, Any]) -> None:
        self._budget.end(entry.row_id, 0.0 if line["status"] == FAILED else None)
        entry.line, entry.run_id, entry.run = line, None, None

    def _skip_the_rest(self) -> None:
        """Give the rows that were not started their line."""
        for entry in self.entries:
            if entry.line is None:
                entry.line = self._line_of_unfinished(entry)

    def _line_of_unfinished(self, entry: Entry) -> dict[str, Any]:
        if entry.run_id is not None:
            return self._lines.skipped(entry, ACTIVE, f"{entry.run_id} is active.")
        if self._budget.error is not None:
            limit = "max_total_cost" if isinstance(self._budget.error, FloraBatchError) else "max_dag_run_cost"
            return self._lines.skipped(entry, limit, str(self._budget.error))
        return self._lines.skipped(entry, "not_started", "The task has not started this row.")

    def count(self) -> Counter[str]:
        """Return how many rows have each status; ``active``, ``waiting`` and ``reused`` among them."""
        counts: Counter[str] = Counter()
        for entry in self.entries:
            if entry.line is None:
                counts["active" if entry.run_id else "waiting"] += 1
            else:
                counts["reused" if entry.line["reused"] else entry.line["status"]] += 1
        return counts

    def _save_if_possible(self) -> None:
        """Store a snapshot. If that fails, the next one is soon."""
        try:
            self._save()
        except FloraError as error:
            self._log.warning("Could not store how far the batch is: %s", error)

    def _save(self) -> None:
        """Store the journal and the manifest, and count what they have by now."""
        ended = len(self._uncounted)
        self._journal.flush()
        self._count_starts()
        self._manifest.write(entry.line or self._line_of_unfinished(entry) for entry in self.entries)
        for run, ended_at in self._uncounted[:ended]:
            if run.completed:
                metrics.count_completed(run, self._of.technique_id, ended_at)
            else:
                metrics.count_failed(self._of.technique_id, remedy_of(run))
        del self._uncounted[:ended]


def _unknown(error: FloraError) -> FloraUnknownStartError:
    unknown = FloraUnknownStartError(
        f"A start of this row may have made a run, and it could not be found out in {HOLD_SECONDS / 60:.0f} "
        f"minutes: {error} A retry or a clear of the task looks again."
    )
    unknown.remedy = Remedy.RETRY_LATER
    return unknown


class _RowLog:
    """The task's log, with the row's id in front. Its own lines are for debugging: there may be ten thousand."""

    def __init__(self, log: Log, row_id: str) -> None:
        self._log = log
        self._row_id = row_id

    def info(self, event: str, /, *args: object) -> object:
        """Log an event of one row."""
        debug = getattr(self._log, "debug", None)
        return None if debug is None else debug(f"Row %s: {event}", self._row_id, *args)

    def warning(self, event: str, /, *args: object) -> object:
        """Log a problem of one row."""
        return self._log.warning(f"Row %s: {event}", self._row_id, *args)
