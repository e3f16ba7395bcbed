"""Exactly one paid run for each execution that a user asked for, whatever dies in between.

Everything that decides whether the one POST that spends money may be sent, or sent again, is in this file and
nowhere else. What is known is kept in a *record*: in Airflow's task state store (3.3 and later), which survives
crashes, retries, deferrals and clears. The record is written before the POST (the intent: idempotency key, digest
of the inputs, Flora's time), after it (the run's id) and when the result is handed over (delivered). The next try
reads it:

    ================  =======================================  ================================================
    state             what the record says                     what is done
    ================  =======================================  ================================================
    NEW               nothing, or a start that Flora refused   store an intent, send it
    UNANSWERED        an intent; same inputs; Flora still      send it again: under one key Flora makes one run.
                      knows its key                            Answer 409: the run exists, find it in the history
    UNKNOWABLE        an intent; other inputs, or Flora may    nothing in the history that could be it: NEW;
                      have forgotten its key                   else stop, or NEW with on_unknown_start="restart"
    ACTIVE            a run that goes on; same inputs          wait for it
    COMPLETED         a completed run, not delivered, or       hand it over
                      delivered and not cleared since
    DELIVERED         delivered, and cleared by a user since   NEW: the clear asks for a new run
    FAILED            a failed run that a retry may mend, or   NEW
                      one that a user has cleared since
    FAILED_FOR_GOOD   a failed run that no retry can mend      raise its failure
    CHANGED           a run that did not fail, other inputs;   cleared by a user since: NEW; else stop, since the
                      never delivered                          result would not be that of the task's inputs
    ================  =======================================  ================================================

A user's clear changes the task instance's ``max_tries``, an automatic retry does not: that is how they differ.

Airflow 2.11 to 3.2 have no such store. There the keys are derived from the task instance and its inputs, each try
begins as UNANSWERED, and what holds is what Flora's idempotency window allows.

Two facts about Flora that all of this rests on, and the two accounts of each (``docs``: the vendor's API pages,
``site``: the vendor's developer site):

- A repeated key makes no second run. It answers 409 ``idempotency_duplicate`` without the run's id (docs), or
  the first answer again (site).
- A key is kept for 2 hours (docs) or 24 (site). Here: 2 hours.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from enum import Enum, auto
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import tenacity

from airflow_provider_flora.api.errors import (
    FloraAPIError,
    FloraError,
    FloraRunFailedError,
    Remedy,
    remedy_for_run,
)
from airflow_provider_flora.api.protocol import NOT_FOUND_GRACE, new_idempotency_key
from airflow_provider_flora.runs.task_state import keep

if TYPE_CHECKING:
    from airflow_provider_flora.api.client import FloraClient
    from airflow_provider_flora.api.models import Run, RunInput

KEY_KEPT_FOR = 2 * 3600.0
"""Seconds that Flora surely knows a key (the shorter of the two accounts)."""
KEY_MARGIN = 300.0
"""Seconds before the end of that time from which on a key no longer counts as known."""
CLOCK_MARGIN = 3.0
"""Seconds by which Flora's clock, read off an answer's ``Date`` (whole seconds), may have been misread."""
HISTORY_LAG = 3.0
"""Seconds that a run may take to appear in the history, and between two looks for it."""
HISTORY_LOOKS = 5
MAX_CANDIDATES = 20
STOP, RESTART = "stop", "restart"


class FloraUnknownStartError(FloraError):
    """An earlier try may have started a run, and which one it is cannot be told for certain."""

    remedy = Remedy.GIVE_UP


class FloraNotStoredError(FloraError):
    """A run was started, but Airflow could not be told."""

    remedy = Remedy.RETRY_NOW


class State(Enum):
    """How a task stands towards its run; the table at the top of this file says what is done in each."""

    NEW = auto()
    UNANSWERED = auto()
    UNKNOWABLE = auto()
    ACTIVE = auto()
    COMPLETED = auto()
    DELIVERED = auto()
    FAILED = auto()
    FAILED_FOR_GOOD = auto()
    CHANGED = auto()


Window = tuple[float, float]


@dataclass(frozen=True)
class Record:
    """What is known of a task's run.

    :param key: idempotency key.
    :param digest: of technique, inputs and callback URL.
    :param max_tries: of the task instance when the intent was written; a user's clear changes it.
    :param sent: from when to when, in Flora's unix time (s), each sending can have become a run; oldest first.
    :param past: the task's runs before this one: delivered and then cleared, or failed.
    """

    key: str
    digest: str
    max_tries: int
    sent: list[Window]
    run_id: str | None = None
    delivered: bool = False
    past: list[str] = field(default_factory=list)


class Log(Protocol):
    """What a task's logger has in every Airflow."""

    def info(self, event: str, /, *args: Any) -> object:
        """Say what happens."""

    def warning(self, event: str, /, *args: Any) -> object:
        """Say what a person should look at."""


class Memory(Protocol):
    """Where records are kept."""

    def load(self) -> Record | None:
        """Return the record of an earlier try, if there was one."""

    def save(self, record: Record) -> None:
        """Keep a record."""

    def new_record(self, digest: str, max_tries: int, window: Window, previous: Record | None) -> Record:
        """Make an intent under a key that ``previous`` did not have."""

    def is_last(self, record: Record) -> bool:
        """Whether no earlier try can have gone further than this record."""


class TaskStateMemory:
    """Airflow's task state store (3.3 and later).

    :param store: ``context["task_state_store"]``.
    """

    _KEY = "flora_run"

    def __init__(self, store: Any) -> None:
        self._store = store

    def load(self) -> Record | None:
        """Return the record of an earlier try."""
        stored = self._store.get(self._KEY)
        if stored is None:
            return None
        return Record(**{**stored, "sent": [(start, end) for start, end in stored["sent"]]})

    def save(self, record: Record) -> None:
        """Keep a record for as long as the task instance can be cleared: it costs a row of 200 bytes."""
        plain = {**asdict(record), "sent": [list(window) for window in record.sent]}
        keep(self._store, self._KEY, plain)

    def new_record(self, digest: str, max_tries: int, window: Window, previous: Record | None) -> Record:
        """Make an intent under a key of its own."""
        return Record(new_idempotency_key(), digest, max_tries, [window])

    def is_last(self, record: Record) -> bool:
        """Return true: an earlier try's record would have been loaded."""
        return True


class DerivedMemory:
    """No store: what earlier tries must have done, derived from the task instance.

    :param identity: what tells the task instance from all others.
    :param try_number: 1 for the first try since the last clear: there can be no earlier run.
    :param since: unix time before which no try of this task instance can have run.
    """

    def __init__(self, identity: Sequence[str | int], try_number: int, since: float) -> None:
        self._identity = [*identity]
        self._try_number = try_number
        self._since = since

    def load(self) -> None:
        """Return nothing: that an earlier try sent its key shows when it is sent again."""

    def save(self, record: Record) -> None:
        """Keep nothing."""

    def new_record(self, digest: str, max_tries: int, window: Window, previous: Record | None) -> Record:
        """Make the intent that every try of this task instance makes, or the next after one whose run failed."""
        generation = 0 if previous is None else _generation(previous) + 1
        name = json.dumps([*self._identity, max_tries, digest])
        key = f"airflow-{hashlib.sha256(name.encode()).hexdigest()[:40]}-{generation}"
        start, end = window
        # The window is in Flora's time. How long ago the first try can have been is the same by any clock.
        earlier = max(0.0, time.time() - self._since) if self._try_number > 1 else 0.0
        return Record(key, digest, max_tries, [(start - earlier, end)])

    def is_last(self, record: Record) -> bool:
        """Whether each earlier try may have burned one key of those before this record's."""
        return _generation(record) + 1 >= self._try_number


def _generation(record: Record) -> int:
    return int(record.key.rpartition("-")[2])


@dataclass(frozen=True)
class Order:
    """What is to be started, checked against the technique.

    :param history_id: the technique's id as the history filters by it.
    :param inputs: gives what the run is given. Asked for after ``may_spend`` and before a sending is noted, since
        it may have to upload files first and take its time. The same each time.
    :param may_spend: is asked before a new run is paid; raises to forbid it.
    """

    history_id: str
    inputs: Callable[[], Sequence[RunInput]]
    may_spend: Callable[[], None]


class Starter:
    """Starts a task's run exactly once.

    :param client: makes the requests.
    :param technique_id: as the user named it.
    :param given: the task's inputs as the user gave them.
    :param order: makes of them what is to be started. It is asked for only where a start may have to be sent: a run
        that is there is taken up even if its technique has changed since.
    :param memory: where the record is kept.
    :param max_tries: the task instance's.
    :param on_unknown_start: ``stop``, or ``restart`` to accept a second charge where it cannot be told whether
        there was a first.
    :param siblings: gives the ids of runs that are known to belong to other tasks.
    :param sleep: waits for seconds.
    """

    def __init__(
        self,
        client: FloraClient,
        *,
        technique_id: str,
        given: object,
        order: Callable[[], Order],
        callback_url: str | None,
        memory: Memory,
        max_tries: int,
        on_unknown_start: str,
        siblings: Callable[[], Iterable[str]],
        log: Log,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._client = client
        self._technique_id = technique_id
        self._make_order = order
        self._callback_url = callback_url
        self._memory = memory
        self._max_tries = max_tries
        self._on_unknown_start = on_unknown_start
        self._siblings = siblings
        self._log = log
        self._sleep = sleep
        self._digest = digest_of(technique_id, given, callback_url)

    @cached_property
    def _order(self) -> Order:
        return self._make_order()

    def start(self) -> Run:
        """Return the task's one run: started now, or by an earlier try.

        :raises FloraUnknownStartError: it cannot be told which run is this task's.
        :raises FloraRunFailedError: the run of an earlier try failed for good.
        :raises FloraError: Flora refused the start.
        """
        record = self._memory.load()
        if record is None or (record.run_id is None and not record.sent):
            return self._start_new(record)
        run = self._run_of(record)
        state = self._state(record, run)
        if run is None:
            return self._send_again(record) if state is State.UNANSWERED else self._start_unless_in_history(record)
        if state in (State.DELIVERED, State.FAILED):
            return self._start_new(record)
        if state is State.FAILED_FOR_GOOD:
            raise FloraRunFailedError(run, self._technique_id)
        if state is State.CHANGED:
            return self._start_if_cleared(record, run)
        self._log.info("Adopted %s of an earlier try (%s)", run.run_id, run.status)
        if self._cleared_since(record):  # the clear has been answered: the next retry is not one
            self._memory.save(replace(record, max_tries=self._max_tries))
        return run

    def adopt(self, run_id: str) -> Run:
        """Return a run that a person says is this task's, and keep its id as that of one started here."""
        run = self._client.get_technique_run(self._technique_id, run_id)
        self._log.info("Adopted %s by adopt_run_id (%s)", run.run_id, run.status)
        record = self._memory.new_record(self._digest, self._max_tries, self._window(), None)
        self._remember(replace(record, run_id=run.run_id))
        return run

    def _state(self, record: Record, run: Run | None) -> State:
        cleared = self._cleared_since(record)
        if run is None:
            age = self._flora_now() - record.sent[0][0]
            known = record.digest == self._digest and age < KEY_KEPT_FOR - KEY_MARGIN
            return State.UNANSWERED if known else State.UNKNOWABLE
        if run.failed:
            retryable = remedy_for_run(run.error_code, run.error_message).retryable
            return State.FAILED if cleared or retryable else State.FAILED_FOR_GOOD
        if record.delivered:
            return State.DELIVERED if cleared else State.COMPLETED
        if record.digest != self._digest:
            return State.CHANGED
        return State.COMPLETED if run.completed else State.ACTIVE

    def _cleared_since(self, record: Record) -> bool:
        # A clear sets it to try_number + retries: that is less than before if the DAG now allows fewer retries.
        return self._max_tries != record.max_tries

    def _run_of(self, record: Record) -> Run | None:
        if record.run_id is None:
            return None
        try:
            return self._look(record.run_id, sent_at=record.sent[-1][0])
        except FloraAPIError as error:
            if error.status != 404:
                raise
            raise FloraUnknownStartError(
                f"An earlier try of this task started {record.run_id}, which Flora does not show to this "
                "connection now; its key may belong to another workspace than before. Nothing was started. "
                "Restore the connection, or set adopt_run_id to a run that it shows."
            ) from error

    def _look(self, run_id: str, sent_at: float) -> Run:
        """Return a run as it stands; one that was started just now may be missing for a moment."""
        while True:
            try:
                return self._client.get_technique_run(self._technique_id, run_id)
            except FloraAPIError as error:
                if error.status != 404 or self._flora_now() - sent_at > NOT_FOUND_GRACE:
                    raise
            self._sleep(HISTORY_LAG)

    def _start_new(self, previous: Record | None) -> Run:
        self._order.may_spend()
        self._order.inputs()
        record = self._memory.new_record(self._digest, self._max_tries, self._window(), previous)
        if previous is not None:
            past = [*previous.past, *([previous.run_id] if previous.run_id else [])]
            record = replace(record, past=past[-MAX_CANDIDATES:])
        self._memory.save(record)
        run = self._send(record)
        if self._memory.is_last(record):
            return run
        run = self._look(run.run_id, sent_at=self._flora_now())
        state = self._state(replace(record, run_id=run.run_id), run)
        if state is State.FAILED:
            return self._start_new(replace(record, run_id=run.run_id))
        if state is State.FAILED_FOR_GOOD:
            raise FloraRunFailedError(run, self._technique_id)
        return run

    def _send_again(self, record: Record) -> Run:
        self._order.inputs()
        record = replace(record, sent=[*record.sent, self._window()])
        self._memory.save(record)
        return self._send(record)

    def _send(self, record: Record) -> Run:
        """Send the intent and keep the id of its run."""
        try:
            run = self._client.start_technique_run(
                self._technique_id, self._order.inputs(), "async", self._callback_url, record.key
            )
            self._log.info("Started %s", run.run_id)
            run = run.model_copy(update={"charged_cost": None})  # the answer to a start has a quote there
        except FloraAPIError as error:
            if error.status != 409:
                self._note_refusal(record, error)
                raise
            found = self._find(record)
            if found is None:
                return self._start_new(record)
            run = found
            self._log.info("Found %s after a lost answer", run.run_id)
        self._remember(replace(record, run_id=run.run_id))
        return run

    def _note_refusal(self, record: Record, error: FloraAPIError) -> None:
        """Strike a sending out that Flora refused at once: it cannot have become a run."""
        if error.transient or error.attempts > 1:
            return
        try:
            self._memory.save(replace(record, sent=record.sent[:-1]))
        except Exception as failure:  # the refusal is what the user must see; the next try asks Flora again
            self._log.warning("Could not note that Flora refused the start: %s", failure)

    def _remember(self, record: Record) -> None:
        """Keep a record that names a run, trying for a while: the run is paid.

        :raises FloraNotStoredError: with the run's id.
        """
        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_delay(15), wait=tenacity.wait_exponential(max=5), reraise=True
        )
        try:
            retrying(self._memory.save, record)
        except Exception as error:
            raise FloraNotStoredError(
                f"Run {record.run_id} of technique {self._technique_id!r} was started, but Airflow's state store "
                f"could not be told ({type(error).__name__}: {error}). The next try finds the run by its key; to "
                f"name it yourself, set adopt_run_id={record.run_id!r}."
            ) from error

    def _start_if_cleared(self, record: Record, run: Run) -> Run:
        if self._cleared_since(record):
            self._log.info("Leaving %s of an earlier try: the inputs changed and the task was cleared", run.run_id)
            return self._start_new(record)
        raise FloraUnknownStartError(
            f"An earlier try of this task started {run.run_id} ({run.status}) with other inputs than those the "
            "task has now (they may be rendered from something that changes between tries). Nothing was started "
            f"now. To take that run's result, set adopt_run_id={run.run_id!r}; to pay for a run with the inputs "
            "of now, clear the task."
        )

    def _start_unless_in_history(self, record: Record) -> Run:
        candidates = self._candidates(record)
        if not candidates or self._on_unknown_start == RESTART:
            return self._start_new(record)
        why = (
            "its inputs were others than those the task has now"
            if record.digest != self._digest
            else "Flora may have forgotten its idempotency key since"
        )
        raise self._unknown(f"so it cannot be sent again, for {why}", candidates)

    def _find(self, record: Record) -> Run | None:
        """Find the run that a used key stands for. ``None``: the user accepts a second charge instead."""
        candidates: list[Run] = []
        for _ in range(HISTORY_LOOKS):
            self._sleep(HISTORY_LAG)
            before, candidates = candidates, self._candidates(record)
            # Twice the same: the history has caught up, and a single run is not just the first of several to show.
            if candidates and [run.run_id for run in candidates] == [run.run_id for run in before]:
                break
        if len(candidates) == 1 or (candidates and self._all_failed(record, candidates)):
            return candidates[0]
        if self._on_unknown_start == RESTART:
            self._log.warning("Starting a second run: the first cannot be told among %s", len(candidates))
            return None
        raise self._unknown("and Flora says that it has a run for it, but not which", candidates)

    def _all_failed(self, record: Record, candidates: Sequence[Run]) -> bool:
        """Whether, without a store, it does not matter which run it is: each calls for the next key."""
        return not self._memory.is_last(record) and all(
            run.failed and remedy_for_run(run.error_code, run.error_message).retryable for run in candidates
        )

    def _candidates(self, record: Record) -> list[Run]:
        """Return the runs that an intent may have become: of its technique, from its time, and nobody else's."""
        oldest = min(start for start, _ in record.sent) - CLOCK_MARGIN
        others = {*self._siblings(), *record.past}
        candidates: list[Run] = []
        for run in self._client.list_technique_runs(technique_id=self._order.history_id):
            created = oldest if run.created_at is None else run.created_at / 1000
            if created < oldest or len(candidates) >= MAX_CANDIDATES:
                break
            in_time = any(start - CLOCK_MARGIN <= created <= end for start, end in record.sent)
            if in_time and run.run_id not in others:
                candidates.append(run)
        return candidates

    def _window(self) -> Window:
        """Return from when to when a sending that begins now can become a run."""
        settings = self._client.settings
        now = self._flora_now()
        # The sending and its repetitions, each as long as the time-out and the pause after it.
        return now, now + (settings.max_retries + 1) * (2 * settings.timeout + 30.0)

    def _unknown(self, what: str, candidates: Sequence[Run]) -> FloraUnknownStartError:
        named = ", ".join(f"{run.run_id} ({run.status}, {_clock(run.created_at)})" for run in candidates)
        return FloraUnknownStartError(
            "An earlier try of this task sent a start to Flora and never saw the answer, "
            f"{what}. Nothing was started now. Runs that could be it: {named or 'none in the history yet'}. If one "
            "of them is this task's, set adopt_run_id to it; to accept a second charge and start a new one, set "
            "on_unknown_start='restart'; then clear the task."
        )

    def _flora_now(self) -> float:
        if self._client.clock_skew is None:
            history = self._client.list_technique_runs(technique_id=self._order.history_id, page_size=1)
            next(iter(history), None)
        return time.time() + (self._client.clock_skew or 0.0)


def memory_of(context: Mapping[str, Any]) -> Memory:
    """Return where a task instance's record is kept, by what this Airflow has."""
    store = context.get("task_state_store")
    if store is not None:
        return TaskStateMemory(store)
    ti, dag_run = context["ti"], context["dag_run"]
    begun = dag_run.start_date or dag_run.logical_date
    return DerivedMemory((ti.dag_id, ti.run_id, ti.task_id, ti.map_index), ti.try_number, begun.timestamp())


def mark_delivered(memory: Memory, log: Log) -> None:
    """Note that the result has been handed over: a clear from now on asks for a new run.

    Not being able to note it does not take the result away: the next clear then hands it over once more.
    """
    try:
        record = memory.load()
        if record is not None and record.run_id is not None and not record.delivered:
            memory.save(replace(record, delivered=True))
    except Exception as error:
        log.warning("Could not note that the result was delivered: %s", error)


def digest_of(technique_id: str, given: object, callback_url: str | None) -> str:
    """Return what two starts must share to be the same."""
    text = json.dumps([technique_id, given, callback_url], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _clock(milliseconds: float | None) -> str:
    if milliseconds is None:
        return "time unknown"
    return datetime.fromtimestamp(milliseconds / 1000, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
