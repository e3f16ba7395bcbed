"""Starts exactly one paid run for each execution, even if processes are killed in between.

One POST costs money. Only :func:`decide` decides whether to send it, or to send it again. It is a function of the
record of earlier attempts (see ``runs.record``), the run in the record, and a few facts. Everything else in this
file performs one step at a time, and decides again after each step:

    ================  =======================================  ================================================
    state             what is known                            action
    ================  =======================================  ================================================
    NEW               no start was sent, or Flora refused it   store an intent, send it
    AT_WORK           the answer to a start was lost, and      wait until it is certain to have ended
                      Flora may still process the start
    UNANSWERED        it has ended; same inputs; Flora still   send it again: one key makes one run.
                      knows its key                            If Flora reports a used key: find the run
    UNKNOWABLE        it has ended; other inputs, or Flora     no candidate in the history: NEW; otherwise
                      may have forgotten its key               stop, or NEW with on_unknown_start="restart"
    STARTED           a run in an unknown state                poll it
    ACTIVE            an active run                            wait for it
    COMPLETED         a completed run                          return it
    DELIVERED         its task succeeded, and a user has       NEW: the clear asks for a new run
                      cleared it since
    FAILED            a failed run that may be retried, or     NEW; if it was adopted while a start was
                      that a user has cleared since            unanswered: that start's state (also CHANGED, GONE)
    FAILED_FOR_GOOD   a failed run that a retry cannot fix     raise its failure
    CHANGED           a run with other inputs, not failed,     cleared by a user since: NEW; otherwise stop, since
                      never delivered                          its result does not belong to the task's inputs
    GONE              a run that Flora does not show           cleared by a user since: NEW; otherwise stop
    ABANDONED         adopt_run_id="none", and a user has      NEW
                      cleared the task since
    ================  =======================================  ================================================

The assumptions about Flora (``docs``: the vendor's API pages, ``site``: the vendor's developer site):

- A repeated key starts no second run. Flora answers 409 ``idempotency_duplicate`` without the run's id (docs), or
  repeats its first answer (site). But it may process two simultaneous requests with one key twice (site). So the
  second is sent only after the first is certain to have ended.
- Flora knows a key for 2 hours (docs) or 24 (site). Here: 2 hours.
- Flora's own 5xx releases the key: the request has ended without a run (measured by the vendor).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from enum import Enum, auto
from functools import cached_property
from http import HTTPStatus
from typing import TYPE_CHECKING, ClassVar

import tenacity

from airflow_provider_flora import metrics
from airflow_provider_flora.api import answers, calls, exchange, operations, retries
from airflow_provider_flora.api.errors import (
    FloraAPIError,
    FloraError,
    FloraFileError,
    FloraNotStoredError,
    FloraUnknownStartError,
    Remedy,
    remedy_of,
    run_failure,
)
from airflow_provider_flora.api.starts import Fate, fate_of, start_duration
from airflow_provider_flora.api.waiting import RunWait
from airflow_provider_flora.runs.record import ABANDONED, Record, Records, Window, adopt, digest_of, digests_differ

if TYPE_CHECKING:
    from airflow_provider_flora.api.client import FloraClient
    from airflow_provider_flora.api.models import Run, RunInput
    from airflow_provider_flora.task.log import Log

KEY_LIFETIME = 2 * 3600.0
"""Seconds for which Flora knows a key (the shorter of its two statements)."""
KEY_MARGIN = 300.0
"""Seconds by which a key counts as forgotten earlier than that."""
CLOCK_MARGIN = 3.0
"""Largest error in seconds of Flora's clock, which is read from the whole seconds of an answer's ``Date``."""
HISTORY_LAG = 30.0
"""Seconds that a run may take to appear in the history."""
POLL_INTERVAL, POLL_FOR = 5.0, 600.0
"""Seconds between two polls of an earlier attempt's run while it cannot be read, and for all these polls."""
MAX_CANDIDATES = 20
"""Runs that an error names."""
PLAN_LIFETIME = 30.0
"""Seconds after which the technique and its price are read again before a start is sent."""
UNDATED_ANSWERS = 3
"""Answers without a ``Date`` after which this machine's clock counts as right."""
SAVES, SLOW_SAVE = 3, 2.0
"""Seconds. An intent that took longer to save is saved again with its real time, this often at most. Each time it
allows for a save that takes twice as long as the one before. If none is enough, nothing is sent."""
ADVICE = (
    "If one of them is this task's, set adopt_run_id to its id. To start a new run and accept a second charge, set "
    "on_unknown_start='restart'. Then clear the task."
)
"""What a person can do about a start whose run cannot be identified."""
RESTART = "restart"
ABANDON = "none"
"""The ``adopt_run_id`` that abandons an earlier run."""


class State(Enum):
    """The state of a task's run. The table at the top of this file lists the action of each."""

    NEW = auto()
    AT_WORK = auto()
    UNANSWERED = auto()
    UNKNOWABLE = auto()
    STARTED = auto()
    ACTIVE = auto()
    COMPLETED = auto()
    DELIVERED = auto()
    FAILED = auto()
    FAILED_FOR_GOOD = auto()
    CHANGED = auto()
    GONE = auto()
    ABANDONED = auto()


@dataclass(frozen=True)
class Facts:
    """The facts that decide, in addition to the record and the run.

    :param now: Flora's unix time (s). Needed only while a start is unanswered.
    :param same_inputs: whether technique, inputs and files are those of the record.
    :param cleared: whether a user has cleared the task since the record was written.
    :param abandoned: whether the user abandons the earlier run.
    :param key_is_known: whether Flora is certain to know the key, regardless of its age.
    """

    now: float
    same_inputs: bool
    cleared: bool
    abandoned: bool
    key_is_known: bool = False


class Gone:
    """A placeholder for a run that Flora does not show."""


def decide(record: Record, run: Run | Gone | None, facts: Facts) -> State:
    """Return the state of a task's run. A pure function.

    :param run: the record's run as Flora shows it; ``None`` before the first poll.
    """
    if facts.abandoned and facts.cleared and record.was_sent:
        return State.ABANDONED
    if record.run_id is None:
        return _decide_without_run(record, facts) if record.sent else State.NEW
    if record.delivered and facts.cleared:
        return State.DELIVERED
    if run is None:
        return State.STARTED
    if isinstance(run, Gone):
        return State.GONE
    if run.failed:
        return State.FAILED if facts.cleared or remedy_of(run).retryable else State.FAILED_FOR_GOOD
    if not record.delivered and not facts.same_inputs:
        return State.CHANGED
    return State.COMPLETED if run.completed else State.ACTIVE


def _decide_without_run(record: Record, facts: Facts) -> State:
    if facts.now < record.latest_end:
        return State.AT_WORK
    age = facts.now - record.sent[0][0]
    key_is_known = facts.key_is_known or age < KEY_LIFETIME - KEY_MARGIN
    return State.UNANSWERED if record.resendable and facts.same_inputs and key_is_known else State.UNKNOWABLE


@dataclass(frozen=True)
class PlannedRun:
    """A run to start, checked against the technique.

    :param history_id: the technique's id, which the history filters by.
    :param prepare_inputs: uploads files and returns the run's inputs, the same ones each time. Called after
        ``check_before_start`` and before a start request is recorded, since uploads may take long.
    :param check_before_start: called before each start request. Raises an error to prevent it.
    :param check_limits: called after it, unless the request repeats a recorded start, which may have a run already.
    """

    history_id: str
    prepare_inputs: Callable[[], Sequence[RunInput]]
    check_before_start: Callable[[], None]
    check_limits: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class StartedRun:
    """A task's run, and the technique id that Flora shows it under."""

    run: Run
    technique_id: str


class Starter:
    """A starter of exactly one run for a task.

    :param client: client for the requests.
    :param technique_id: technique, as the user named it.
    :param inputs: the task's inputs, as the user named them.
    :param files: returns the SHA-256 by name of the files among the inputs. Called only if a start may be sent, or
        if a user has cleared the task and the files may have changed.
    :param plan: plans the run to start. Called only if a start may be sent: an existing run is returned even if its
        technique has changed.
    :param callback_url: URL that Flora calls when the run ends.
    :param records: storage of the record.
    :param on_unknown_start: ``stop``, or ``restart`` to accept a second charge if an earlier start's run cannot be
        identified.
    :param siblings: returns the ids of runs that belong to other tasks.
    :param log: the task's log.
    :param abandoned: whether the user abandons the earlier run.
    :param run: a run that has just been polled, in case it is the record's.
    :param advice: what a person can do about a start whose run cannot be identified.
    :param count_start: counts a run that this task has started, given the technique. Called when the run's id is
        saved, so that no later attempt counts it again.
    """

    def __init__(
        self,
        client: FloraClient,
        *,
        technique_id: str,
        inputs: object,
        files: Callable[[], dict[str, str]],
        plan: Callable[[], PlannedRun],
        callback_url: str | None,
        records: Records,
        on_unknown_start: str,
        siblings: Callable[[], Iterable[str]],
        log: Log,
        abandoned: bool = False,
        run: Run | None = None,
        advice: str = ADVICE,
        count_start: Callable[[str], None] = metrics.count_start,
    ) -> None:
        self._client = client
        self._technique_id = technique_id
        self._read_files = files
        self._make_plan = plan
        self._callback_url = callback_url
        self._records = records
        self._attempt = records.attempt
        self._on_unknown_start = on_unknown_start
        self._siblings = siblings
        self._log = log
        self._abandoned = abandoned
        self._blank = records.empty_record(digest_of(technique_id, inputs, callback_url), technique_id)
        self._known = run
        self._advice = advice
        self._count_start = count_start
        self._run: Run | Gone | None = None
        self._key_is_known = False
        self._attempts_left = client.settings.max_retries + 1
        self._record = self._blank
        self.runs_left = 0
        """Number of earlier runs in whose place another one is started, and that may be charged all the same."""
        self._is_preparing = False
        """Whether a new start is prepared, and the record is still that of an earlier one."""
        self._was_started_before = False
        self._replaces_presumed = False
        self._repeats_start = False
        self._epoch: float | None = None
        self._clocks_apart = self._first_apart = answers.clocks_apart()

    def start(self) -> StartedRun:
        """Return the task's only run, started now or by an earlier attempt.

        :raises FloraUnknownStartError: the task's run cannot be identified.
        :raises FloraRunFailedError: the run of an earlier attempt failed, and a retry cannot fix it.
        :raises FloraError: Flora refused the start.
        """
        with self._records.protect_paid_run():
            self._record = self._load_record()
        self._was_started_before = self._record.run_id is not None
        if self._known is not None and self._known.run_id == self._record.run_id:
            self._run = self._known
        try:
            while True:
                state = decide(self._record, self._run, self._collect_facts())
                run = self._ACTIONS[state](self)
                if run is not None:
                    return StartedRun(run, self._record.run_technique)
        except FloraError as error:
            conflict = isinstance(error, FloraAPIError) and error.status == 409
            is_final = not error.remedy.retryable or conflict
            if not self._record.unanswered or not is_final or isinstance(error, FloraUnknownStartError):
                raise
            raise self._explain_lost_start(error) from None

    @property
    def may_be_charged(self) -> bool:
        """Whether the start that was prepared last may have been sent, now or by an earlier attempt."""
        return self._record.was_sent and not self._is_preparing

    def adopt(self, run_id: str) -> StartedRun:
        """Return a run that the user names, and store its id as if it had been started here."""
        with self._records.protect_paid_run():
            run = self._client.get_technique_run(self._technique_id, run_id)
        self._log.info("Adopted %s by adopt_run_id (%s)", run.run_id, run.status)
        record = self._records.load() or self._presume(self._records.new_intent(self._blank, None))
        if record is None or record.run_id != run.run_id:
            self._save_run_id(adopt(run.run_id, record, self._blank))
        return StartedRun(run, self._technique_id)

    def _load_record(self) -> Record:
        record = self._records.load()
        if record is not None:
            return record
        presumed = self._presume(self._records.new_intent(self._blank, None))
        if presumed is None:
            self._records.save(self._blank)  # from now on, a missing record is a lost one
        return presumed or self._blank

    def _presume(self, intent: Record) -> Record | None:
        if self._attempt.try_number == 1:
            return None  # without the request for Flora's time
        skew = self._get_skew()
        # Airflow's times are from before, when this machine's clock may not have been set yet.
        before = skew + answers.clocks_apart() - self._first_apart
        return self._records.presume(intent, (min(skew, before), max(skew, before)), self._start_duration)

    def _collect_facts(self) -> Facts:
        record, cleared = self._record, self._is_cleared()
        return Facts(
            now=self._get_flora_time() if record.unanswered else 0.0,
            same_inputs=not digests_differ(record.digest, self._blank.digest) and self._has_same_files(cleared),
            cleared=cleared,
            abandoned=self._abandoned,
            key_is_known=self._key_is_known,
        )

    def _is_cleared(self) -> bool:
        """Whether a user has cleared the task since the record was written.

        A clear changes ``max_tries``; a retry does not. If the DAG's ``retries`` were lowered, the new number may
        equal the old one. Then the attempt's number or the DAG run's ``clear_number`` shows the clear. For a task
        that had not succeeded, both must show it.
        """
        record, attempt = self._record, self._attempt
        is_first = attempt.number == 1
        if attempt.max_tries != record.max_tries:
            return True
        if record.presumed and record.run_id is None:
            return is_first
        numbers = (attempt.clear_number, record.clear_number)
        one_was_cleared = None not in numbers and attempt.clear_number != record.clear_number
        if record.delivered:
            return is_first or one_was_cleared
        return is_first and one_was_cleared

    def _after_clears(self, record: Record) -> Record:
        """Return a record for which all clears until now are handled: the next attempt is a retry."""
        return replace(record, max_tries=self._blank.max_tries, clear_number=self._blank.clear_number)

    def _has_same_files(self, cleared: bool) -> bool:
        """Whether the files among the inputs are unchanged since the record was written."""
        record = self._record
        if not record.files:
            return True
        if record.run_id is not None and not (cleared and not record.delivered):
            return True  # the execution continues with its first files
        try:
            return self._files == record.files
        except FloraFileError as error:
            if record.run_id is None:
                raise
            self._log.warning("Assuming that the input files of %s have not changed: %s", record.run_id, error)
            return True

    @cached_property
    def _files(self) -> dict[str, str]:
        return self._read_files()

    @cached_property
    def _plan(self) -> PlannedRun:
        self._planned_at, self._planned_apart = time.monotonic(), answers.clocks_apart()
        return self._make_plan()

    def _is_plan_outdated(self) -> bool:
        """Whether a pause, an upload, a slow save or a suspended machine has made the plan too old."""
        age = time.monotonic() - self._planned_at
        return age > PLAN_LIFETIME or answers.clock_was_set(self._planned_apart)

    @property
    def _start_duration(self) -> float:
        """Seconds after which a start request is certain to have ended."""
        return start_duration(self._client.settings)

    def _get_skew(self) -> float:
        if answers.clock_was_set(self._clocks_apart):
            self._client.clock_skew = self._epoch = None
        undated = 0
        while self._client.clock_skew is None and undated < UNDATED_ANSWERS:
            self._clocks_apart = answers.clocks_apart()
            next(iter(self._client.list_technique_runs(page_size=1)), None)
            undated = 0 if answers.clock_was_set(self._clocks_apart) else undated + 1
        return self._client.clock_skew or 0.0

    def _get_flora_time(self) -> float:
        """Return Flora's time: measured, then counted by the monotonic clock, until this machine's clock is set."""
        if self._epoch is None or answers.clock_was_set(self._clocks_apart):
            skew = self._get_skew()  # first: it may have to ask Flora, and wait for that
            self._epoch = time.time() + skew - time.monotonic()
        return self._epoch + time.monotonic()

    def _replace_run(self) -> Run | None:
        """Start a run in place of the record's, unless a start from before it was adopted is still unanswered."""
        if not self._record.hides_start:
            return self._start_new()
        self._log.info("Leaving %s, which was adopted while a start was unanswered", self._record.run_id)
        self._run = None
        self._record = replace(self._record, run_id=None, adopted=False)
        self._records.save(self._record)
        return None

    def _start_new(self) -> Run | None:
        """Make an intent and send it, unless an earlier attempt may have sent it."""
        self._repeats_start = False
        # One that ended with a status that is not known may be charged.
        run = self._run
        is_uncharged = run is not None and not isinstance(run, Gone) and run.status == "failed"
        was_abandoned = self._record.key == ABANDONED  # by command
        self.runs_left += was_abandoned or (self._record.was_sent and not is_uncharged)
        self._is_preparing = True
        plan, previous = self._prepare_to_send(), self._record
        intent = replace(
            self._records.new_intent(self._blank, previous), files=self._files, history_id=plan.history_id
        )
        self._run = None
        self._key_is_known = False
        replaces_presumed = previous.presumed and previous.was_sent
        self._replaces_presumed |= replaces_presumed
        presumed = self._presume(intent) if replaces_presumed else None
        if presumed is not None:
            self._record, self._is_preparing = presumed, False
            return None
        return self._send(intent)

    def _send_again(self) -> Run | None:
        self._repeats_start = not self._record.presumed
        plan = self._prepare_to_send()
        record = replace(self._record, files=self._files, history_id=plan.history_id)
        self._log.info("Sending the start again, with its idempotency key")
        return self._send(record)

    def _send(self, record: Record) -> Run | None:
        """Send the intent once. Return the run, or ``None`` if the record holds the result."""
        earlier = record.sent
        self._key_is_known = False  # it ages while this request is at work
        try:
            self._save_intent(record)
        except FloraError:
            self._save_if_possible(record)  # nothing was sent
            raise
        request = operations.start_technique_run(
            self._technique_id, self._plan.prepare_inputs(), "async", self._callback_url, record.key
        )
        try:
            run = self._client.ask(request, answers.read_run)
        except FloraError as error:
            return self._handle_failed_start(error, earlier, request)
        self._log.info("Started %s" + (", now or by an earlier request" if earlier else ""), run.run_id)
        self._save_run_id(replace(self._record, run_id=run.run_id))
        began = self._record.sent[-1][0] - CLOCK_MARGIN
        # Without a record, an earlier attempt may have counted the run that it started.
        if not (earlier and self._record.presumed) or (run.created_at or 0.0) / 1000 >= began:
            self._count_start(self._technique_id)
        if earlier:
            return None  # Flora may have repeated its answer to the first request
        return run.model_copy(update={"charged_cost": None})  # the answer to a start contains a quote

    def _save_intent(self, record: Record) -> None:
        """Store the intent with the period of the request that follows.

        :raises FloraNotStoredError: each save took longer than the period allows for.
        :raises FloraError: the price was read again, and now it prevents the start.
        """
        slow = 0.0
        for _ in range(SAVES):
            began = self._get_flora_time()
            self._record = replace(
                self._after_clears(record), sent=(*record.sent, (began, began + slow + self._start_duration))
            )
            self._is_preparing = False
            self._records.save(self._record)
            if self._is_plan_outdated():
                self._prepare_to_send()
            saved = self._get_flora_time()
            if saved - began <= max(slow, SLOW_SAVE):
                return
            slow = 2 * (saved - began)
        raise FloraNotStoredError(
            "Nothing was started now: Airflow's task state store becomes slower with each write. The last one "
            f"took {saved - began:.0f} s."
        )

    def _handle_failed_start(
        self, error: FloraError, earlier: tuple[Window, ...], request: exchange.Request
    ) -> Run | None:
        fate = fate_of(error)
        if fate is Fate.KEY_WAS_USED and earlier:
            self._save_if_possible(replace(self._record, sent=earlier))
            return self._find_run_of_used_key()
        if fate is Fate.KEY_WAS_USED and self._replaces_presumed:
            # An attempt uses two keys if its first run fails early. The history has shown no run that did not fail.
            self._save_if_possible(replace(self._record, sent=(), generation=self._record.generation + 1))
            return self._start_new()
        if fate is not Fate.UNKNOWN:
            last = (self._record.sent[-1][0], self._get_flora_time())
            self._save_if_possible(replace(self._record, sent=(*earlier, last) if fate is Fate.FAILED else earlier))
        if fate is Fate.UNKNOWN:
            error.remedy = Remedy.RETRY_LATER  # the next attempt sends it again and finds its run
        self._attempts_left -= 1
        if not self._attempts_left or not (fate is Fate.UNKNOWN or retries.is_worth_retrying(error)):
            raise error
        attempt = self._client.settings.max_retries + 1 - self._attempts_left
        if fate is Fate.UNKNOWN:
            self._log.warning("The answer to the start was lost: %s", error)
            return None
        pause = retries.pause_before_retry(error, attempt, request, self._client.settings)
        self._log.warning("The start is sent again in %.0f s: %s", pause, error)
        time.sleep(pause)
        if not self._record.sent:  # it started nothing, so there is nothing to decide; but the price may have risen
            self._prepare_to_send()
            return self._send(self._record)
        return None

    def _wait_until_ended(self) -> None:
        pause = self._record.latest_end - self._get_flora_time()
        self._log.warning(
            "Waiting %.0f s until an earlier start is certain to have ended. Its answer was lost, and Flora could "
            "process the same start twice",
            pause,
        )
        time.sleep(max(0.0, pause))

    def _start_unless_in_history(self) -> Run | None:
        record, found = self._record, self._find_candidates()
        candidates = [run for run in found if not _is_replaceable(run)]
        if not candidates:
            # A run that failed may be its own, so its key may be used. Otherwise it started nothing.
            self._record = record if found else replace(record, sent=())
            return self._start_new()
        oldest = self._get_flora_time() - (KEY_LIFETIME - KEY_MARGIN)
        same_inputs = self._collect_facts().same_inputs
        all_are_young = all((run.created_at or 0) / 1000 > oldest for run in candidates)
        # Without a record, a failed run may have been this task's, and the next run had another key.
        if record.resendable and same_inputs and all_are_young and len(found) == len(candidates):
            self._key_is_known = True  # if one of them is this task's, Flora still knows its key
            return None
        if self._on_unknown_start == RESTART:
            self._log.warning(
                "Starting a new run as on_unknown_start='restart' allows: %d runs may already be this task's",
                len(candidates),
            )
            return self._start_new()
        why = (
            "Flora may have forgotten its idempotency key"
            if same_inputs and record.resendable
            else "its record is lost"
            if same_inputs
            else "the task's inputs have changed"
        )
        raise self._unknown_start_error(f"The start cannot be sent again: {why}.", candidates)

    def _find_run_of_used_key(self) -> Run | None:
        """Find the run of a used key in the history."""
        candidates, restarts = self._find_candidates(), self._on_unknown_start == RESTART
        # An earlier attempt without a record may have restarted too, and used this key before.
        is_only_one = len(candidates) == 1 and not (restarts and self._replaces_presumed)
        if is_only_one or (candidates and all(map(_is_replaceable, candidates))):
            self._log.info("Found %s after a lost answer", candidates[0].run_id)
            self._save_run_id(replace(self._record, run_id=candidates[0].run_id))
            if not self._record.presumed:  # see _send
                self._count_start(self._technique_id)
            return None
        if restarts and (candidates or self._replaces_presumed):
            self._log.warning(
                "Starting a second run as on_unknown_start='restart' allows: the first may be any of %d",
                len(candidates),
            )
            return self._start_new()
        error = self._unknown_start_error("Flora reports that the start has a run, but not which one.", candidates)
        if not candidates:
            error.remedy = Remedy.RETRY_LATER  # the run may still appear
        raise error

    def _poll(self) -> None:
        """Poll the record's run until Flora answers."""
        record = self._record
        technique_id, run_id = record.run_technique or self._technique_id, str(record.run_id)
        wait = RunWait(technique_id, run_id, poll_interval=POLL_INTERVAL, timeout=POLL_FOR, clock=time.monotonic)

        def log_first(error: FloraError) -> None:
            if wait.trouble is not None and wait.trouble.errors == 1:
                self._log.warning("%s of an earlier attempt cannot be read now, polling again: %s", run_id, error)

        try:
            self._run = self._client.drive(calls.poll_until_answered(wait, log_first))
        except FloraAPIError as error:
            if error.status != 404:
                raise
            with self._records.protect_paid_run():
                self._run = self._find_in_history(run_id) or Gone()

    def _find_in_history(self, run_id: str) -> Run | None:
        """Return a run from the history, which may still show runs of a deleted technique."""
        oldest = self._record.sent[0][0] - CLOCK_MARGIN if self._record.sent else 0.0
        history_id = None if self._record.adopted else self._record.history_id or None
        for page in self._pages_of_history(history_id):
            for run in page:
                if run.run_id == run_id:
                    return run
            if _reaches_back(page, oldest):
                break
        return None

    def _return_run(self) -> Run:
        run = self._run
        assert run is not None and not isinstance(run, Gone)  # noqa: S101, PT018  # decided so
        if self._was_started_before:
            self._log.info("Adopted %s of an earlier attempt (%s)", run.run_id, run.status)
        if self._is_cleared():
            self._records.save(self._after_clears(self._record))
        return run

    def _raise_failure(self) -> Run:
        run = self._run
        assert run is not None and not isinstance(run, Gone)  # noqa: S101, PT018  # decided so
        if self._known is None or self._known.run_id != run.run_id:  # otherwise whoever polled it has counted it
            metrics.count_failed(self._technique_id, remedy_of(run))
        raise run_failure(run, self._technique_id)

    def _start_if_cleared(self) -> Run | None:
        run_id, is_gone = self._record.run_id, isinstance(self._run, Gone)
        if self._is_cleared():
            why = "Flora no longer shows it" if is_gone else "the inputs have changed"
            self._log.warning("Leaving %s of an earlier attempt: the task was cleared, and %s", run_id, why)
            return self._replace_run()
        problem = (
            "but Flora does not show that run to this connection. The API key may belong to another workspace "
            "than before, or the technique may have been deleted. Nothing was started now. Restore the connection "
            "and retry"
            if is_gone
            else "but the task's inputs have changed since. A template or a function may give others in each "
            f"attempt. Nothing was started now. To use that run's result, set adopt_run_id={run_id!r}"
        )
        raise _with_run_id(
            FloraUnknownStartError(
                f"An earlier attempt of this task started {run_id}, {problem}. To pay for a new run, clear the "
                "task."
            ),
            run_id,
        )

    def _abandon(self) -> Run | None:
        abandoned = self._record.run_id or "a start without an answer"
        self._log.warning('Abandoning %s, as adopt_run_id="none" says', abandoned)
        if self._record.presumed:  # all earlier attempts with it, each of which may have used a key
            used = max(self._record.generation, self._attempt.try_number - 2)
            self._record = replace(self._record, generation=used)
        return self._start_new()

    _ACTIONS: ClassVar[dict[State, Callable[[Starter], Run | None]]] = {
        State.NEW: _start_new,
        State.AT_WORK: _wait_until_ended,
        State.UNANSWERED: _send_again,
        State.UNKNOWABLE: _start_unless_in_history,
        State.STARTED: _poll,
        State.ACTIVE: _return_run,
        State.COMPLETED: _return_run,
        State.DELIVERED: _start_new,
        State.FAILED: _replace_run,
        State.FAILED_FOR_GOOD: _raise_failure,
        State.CHANGED: _start_if_cleared,
        State.GONE: _start_if_cleared,
        State.ABANDONED: _abandon,
    }
    """The action of each state. It returns the run to wait for, or ``None`` to decide again."""

    def _prepare_to_send(self) -> PlannedRun:
        """Return the plan after everything that may fail or take long: checks and uploads."""
        self._files  # noqa: B018  # read first, since earlier uploads are found by their content
        if "_plan" in self.__dict__ and self._is_plan_outdated():
            del self._plan
        plan = self._plan
        plan.check_before_start()
        if not self._repeats_start:
            plan.check_limits()
        plan.prepare_inputs()
        return plan

    def _save_if_possible(self, record: Record) -> None:
        """Store the result of an ended start request. If that fails, the next attempt only has to wait longer."""
        self._record = record
        try:
            self._records.save(record)
        except Exception as failure:  # not raised: the user must see the start's own error
            self._log.warning("Could not store the result of the start: %s", failure)

    def _save_run_id(self, record: Record) -> None:
        """Store a record with a run's id. Retry for 15 s, since the run is paid.

        :raises FloraNotStoredError: the store failed. The error names the run.
        """
        self._record = record
        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_delay(15), wait=tenacity.wait_exponential(max=5), reraise=True
        )
        try:
            retrying(self._records.save, record)
        except Exception as error:
            raise _with_run_id(
                FloraNotStoredError(
                    f"Run {record.run_id} of technique {self._technique_id!r} was started, but Airflow's task "
                    f"state store failed ({type(error).__name__}: {error}). The next attempt finds the run by its "
                    f"idempotency key. You can also set adopt_run_id={record.run_id!r}."
                ),
                record.run_id,
            ) from error

    def _find_candidates(self, *, of_any_technique: bool = False) -> list[Run]:
        """Return the runs that unanswered start requests may have started, from the history.

        Wait first until the history is certain to show them. Runs of other tasks are left out. Stop at
        the page with which more than :data:`MAX_CANDIDATES` have not failed.
        """
        record = self._record
        pause = record.latest_end + HISTORY_LAG - self._get_flora_time()
        if pause > 0:
            self._log.warning("Waiting %.0f s for the run history to show runs that were started", pause)
            time.sleep(pause)
        oldest = min(start for start, _ in record.sent) - CLOCK_MARGIN
        others = {*self._siblings(), *record.past}
        candidates: dict[str, Run] = {}
        history_id = None if of_any_technique else record.history_id or self._plan.history_id
        for page in self._pages_of_history(history_id):
            for run in page:
                created = oldest if run.created_at is None else run.created_at / 1000
                in_time = any(start - CLOCK_MARGIN <= created <= end + CLOCK_MARGIN for start, end in record.sent)
                if in_time and run.run_id not in others:
                    candidates[run.run_id] = run
            if _reaches_back(page, oldest) or sum(not run.failed for run in candidates.values()) > MAX_CANDIDATES:
                break
        return [*candidates.values()]

    def _pages_of_history(self, technique_id: str | None) -> Iterator[Sequence[Run]]:
        """Read the history page by page, newest first; not narrowed to a workspace, as no start is."""
        pages = operations.list_technique_runs(technique_id, None, None, None, 100, in_workspace=False)
        while pages.request is not None:
            yield self._client.drive(calls.read_page(pages))

    def _explain_lost_start(self, error: FloraError) -> FloraError:
        """Return the error for a start whose answer was lost and that cannot be sent again."""
        try:
            # Asked for a technique that was deleted, the history may show none of its runs. And without a record
            # and a plan, the technique's id is not known.
            everywhere = error.status == HTTPStatus.NOT_FOUND or not self._record.history_id
            found = self._find_candidates(of_any_technique=everywhere)
            candidates = [run for run in found if run.status != "failed"]  # any other may be charged
        except FloraError as failure:
            unread = self._unknown_start_error(
                f"The start cannot be sent again ({error}), and the run history cannot be read ({failure}).", []
            )
            unread.remedy = Remedy.RETRY_LATER
            return unread
        if not candidates:
            if not found:  # it started nothing; a run that failed may have used its key
                self._save_if_possible(replace(self._record, sent=()))
            return error
        return self._unknown_start_error(f"The start cannot be sent again: {error}", candidates)

    def _unknown_start_error(self, problem: str, candidates: Sequence[Run]) -> FloraUnknownStartError:
        best_first = sorted(candidates, key=lambda run: run.failed)
        parts = [f"{run.run_id} ({run.status}, {_format_time(run.created_at)})" for run in best_first]
        named = ", ".join(parts[:MAX_CANDIDATES]) + (" and more" if len(parts) > MAX_CANDIDATES else "")
        return FloraUnknownStartError(
            f"An earlier attempt of this task sent a start to Flora, and the answer was lost. {problem} Nothing "
            f"was started now. Possible runs: {named or 'none in the history yet'}. {self._advice}"
        )


def _is_replaceable(run: Run) -> bool:
    """Whether a run has failed, and a retry may start another one in its place."""
    return run.failed and remedy_of(run).retryable


def _reaches_back(page: Sequence[Run], moment: float) -> bool:
    """Whether a page of the history has a run from before a moment, so that the next pages have older ones only."""
    return any(run.created_at is not None and run.created_at / 1000 < moment for run in page)


def _with_run_id(error: FloraError, run_id: str | None) -> FloraError:
    error.run_id = run_id
    return error


def _format_time(milliseconds: float | None) -> str:
    if milliseconds is None:
        return "time unknown"
    return datetime.fromtimestamp(milliseconds / 1000, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
