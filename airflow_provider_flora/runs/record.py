"""The record of a task's run, which passes from one attempt to the next. Decides nothing.

The record is plain JSON in Airflow's task state store (3.3 and later). It has a version, and is read leniently:
unknown entries are ignored, and missing ones get defaults.

Airflow 2.11 to 3.2 have no such store. There the record is *presumed*: derived from the task instance, which shows
what earlier attempts may have done. So is a lost record: after an upgrade of Airflow, after a change of the store's
backend, or with ``clear_on_success``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from airflow_provider_flora.api.errors import FloraError, Remedy
from airflow_provider_flora.task.state import RUN, save

if TYPE_CHECKING:
    from airflow_provider_flora.task.attempt import Attempt

VERSION = 1
DIGEST_VERSION = "1"
MAX_PAST = 20
ABANDONED = "abandoned"
"""The ``key`` of a record in whose place a person wants a new start. No start is ever sent with it."""

Window = tuple[float, float]
"""Start and end of a period, in Flora's unix time (s)."""


@dataclass(frozen=True)
class Record:
    """The record of a task's run.

    :param key: idempotency key of the start; empty before the first start.
    :param generation: number of earlier keys that were used.
    :param digest: digest of the technique, the inputs as the user named them, and the callback URL.
    :param files: SHA-256 by name of the files among the inputs.
    :param technique_id: technique, as the user named it.
    :param history_id: id of the technique, which the history filters by. It stays when the slug changes.
    :param max_tries: the task instance's ``max_tries`` when the record was written. A clear changes it.
    :param clear_number: the DAG run's ``clear_number`` when the record was written.
    :param sent: for each start request that may have started a run, the period in which it may have done so; oldest
        first. The period ends with the answer, or when the request is certain to have ended.
    :param run_id: the run, once it is known.
    :param delivered: whether Airflow has recorded the success of the task that returned the run.
    :param past: earlier runs of the task.
    :param left: those of them that no attempt has handed over.
    :param presumed: whether the record was derived at first: an earlier attempt may have sent the requests.
    :param resendable: whether the requests had this key.
    :param adopted: whether a user has named the run. The requests in ``sent`` are still unanswered then.
    """

    key: str = ""
    generation: int = 0
    digest: str = ""
    files: dict[str, str] = field(default_factory=dict)
    technique_id: str = ""
    history_id: str = ""
    max_tries: int = 0
    clear_number: int | None = None
    sent: tuple[Window, ...] = ()
    run_id: str | None = None
    delivered: bool = False
    past: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    presumed: bool = False
    resendable: bool = True
    adopted: bool = False

    @property
    def was_sent(self) -> bool:
        """Whether a start was sent, or may have been."""
        return self.run_id is not None or bool(self.sent)

    @property
    def run_technique(self) -> str:
        """The technique of the run. One that a user has named may be of another one than the starts in ``sent``."""
        return self.technique_id if self.adopted else self.history_id or self.technique_id

    @property
    def known_runs(self) -> tuple[str, ...]:
        """The task's run and earlier ones, the last :data:`MAX_PAST` of them."""
        return (*self.past, *([self.run_id] if self.run_id else ()))[-MAX_PAST:]

    @property
    def undelivered_runs(self) -> tuple[str, ...]:
        """Those of :attr:`known_runs` that no attempt has handed over."""
        return (*self.left, *([self.run_id] if self.run_id and not self.delivered else ()))[-MAX_PAST:]

    @property
    def unanswered(self) -> bool:
        """Whether a start was sent, or may have been, and its result is not known."""
        return self.run_id is None and bool(self.sent)

    @property
    def hides_start(self) -> bool:
        """Whether a person has named its run while a start was unanswered. If the run fails, that start matters."""
        return self.adopted and bool(self.sent)

    @property
    def latest_end(self) -> float:
        """Flora's unix time (s) when every start request is certain to have ended."""
        return max(end for _, end in self.sent)

    def to_plain(self) -> dict[str, Any]:
        """Return the record as plain JSON."""
        return {
            "version": VERSION,
            **vars(self),
            "sent": [list(window) for window in self.sent],
            "past": [*self.past],
            "left": [*self.left],
        }

    @classmethod
    def from_plain(cls, plain: object) -> Record | None:
        """Return the record that this or another release has written, or ``None`` if it is unreadable."""
        if not isinstance(plain, Mapping) or not isinstance(plain.get("key"), str):
            return None
        known = {name: value for name, value in plain.items() if name in cls.__dataclass_fields__}
        try:
            sent = tuple((float(window[0]), float(window[1])) for window in known.pop("sent", None) or ())
        except (TypeError, ValueError, LookupError):
            if not isinstance(plain.get("run_id"), str):
                return None
            sent = ()  # which run it is, is all that matters by now
        past, left = (tuple(known.pop(name, None) or ()) for name in ("past", "left"))
        return cls(**known, sent=sent, past=past, left=left)


class Records:
    """The storage of one task instance's record.

    :param store: ``context["task_state_store"]``, or ``None`` if Airflow has none.
    """

    def __init__(self, store: Any, attempt: Attempt) -> None:
        self._store = store
        self.attempt = attempt

    def load(self) -> Record | None:
        """Return the record of an earlier attempt, or ``None`` if none is stored."""
        return None if self._store is None else Record.from_plain(self._store.get(RUN))

    def save(self, record: Record) -> None:
        """Store a record, some 400 bytes, for as long as the task instance can be cleared."""
        if self._store is not None:
            save(self._store, RUN, record.to_plain())

    def record_delivery(self) -> None:
        """Record that the task has succeeded with its run. A later clear asks for a new run."""
        record = self.load()
        if record is not None and record.run_id is not None and not record.delivered:
            self.save(replace(record, delivered=True))

    @contextmanager
    def protect_paid_run(self, run_id: str | None = None) -> Iterator[None]:
        """Make every error retryable while a paid run may exist. A retry costs nothing then.

        :param run_id: the task's run, if it is known to be paid.
        :raises FloraError: the error, with the run's id if it is known.
        """
        try:
            yield
        except FloraError as error:
            record = self.load()
            if run_id is not None:
                may_be_paid, error.run_id = True, run_id
            elif record is None:
                may_be_paid = self.attempt.try_number > 1
            else:
                may_be_paid = not record.delivered and record.was_sent
                error.run_id = record.run_id
            if may_be_paid:
                error.remedy = Remedy.RETRY_LATER
            raise

    def empty_record(self, digest: str, technique_id: str) -> Record:
        """Return an empty record: no attempt has sent a start."""
        attempt = self.attempt
        return Record(
            digest=digest,
            technique_id=technique_id,
            max_tries=attempt.max_tries,
            clear_number=attempt.clear_number,
        )

    def new_intent(self, blank: Record, previous: Record | None) -> Record:
        """Return the intent of a new start, with a new key.

        The key is derived from the task instance, so an attempt that has lost the record makes the same one.
        """
        generation = 0
        if previous is not None and previous.key:
            generation = previous.generation + previous.was_sent
        past, left = ((), ()) if previous is None else (previous.known_runs, previous.undelivered_runs)
        intent = replace(blank, generation=generation, past=past, left=left)
        return replace(intent, key=derive_key(self.attempt.identity, intent))

    def presume(self, record: Record, skew: tuple[float, float], start_duration: float) -> Record | None:
        """Return the record that earlier attempts may have made of an intent, or ``None`` if there were none.

        :param skew: seconds by which Flora's clock is ahead of this machine's, at least and at most.
        :param start_duration: seconds after which a start request is certain to have ended.
        """
        attempt = self.attempt
        retried = record.generation + 1 < attempt.number
        # With a store, each attempt writes a record. A missing one was lost, and each attempt may have used a key.
        lost = self._store is not None and record.generation + 1 < attempt.try_number
        if not (retried or lost):
            return None
        # ``number`` alone does not show a clear for certain, since the DAG's ``retries`` may have been edited.
        was_cleared = attempt.try_number != attempt.number or bool(attempt.clear_number)
        # The last of them ended before this attempt began: by the retry's delay, unless it was cleared.
        last = attempt.began - (0.0 if was_cleared else attempt.retry_delay)
        first = attempt.dag_run_due if lost else attempt.dag_run_began
        end = max(max(attempt.dag_run_began, last) + start_duration, attempt.began)
        # After a clear, a lost record belonged to another execution, with another key.
        same_key = retried and not (lost and was_cleared)
        sent = ((first + skew[0], end + skew[1]),)
        return replace(record, sent=sent, presumed=True, resendable=same_key)


def adopt(run_id: str, earlier: Record | None, blank: Record) -> Record:
    """Return the record of a run that a person names. It keeps the starts that are still unanswered.

    :param earlier: the record until now.
    :param blank: an empty record of now. Without a ``digest`` the run belongs to the task whatever its inputs are;
        those of an unanswered start count as other ones then.
    """
    if earlier is None:
        return replace(blank, run_id=run_id)
    is_open = earlier.hides_start and not earlier.delivered
    if not (earlier.unanswered or is_open):
        past, left = (
            tuple(known for known in runs if known != run_id)
            for runs in (earlier.known_runs, earlier.undelivered_runs)
        )
        return replace(blank, run_id=run_id, key=earlier.key, generation=earlier.generation, past=past, left=left)
    same_inputs = bool(blank.digest) and not digests_differ(earlier.digest, blank.digest)
    return replace(
        earlier,
        run_id=run_id,
        adopted=True,
        delivered=False,
        digest=blank.digest,
        files=earlier.files if blank.digest else {},
        technique_id=blank.technique_id,
        max_tries=blank.max_tries,
        clear_number=blank.clear_number,
        resendable=earlier.resendable and same_inputs,
    )


def lost_record(first: float, end: float) -> Record:
    """Return what is known of a task whose record was lost: an attempt may have sent a start with any key.

    :param first: Flora's unix time (s) before which none was sent.
    :param end: Flora's unix time (s) when the last one is certain to have ended.
    """
    return Record(sent=((first, end),), presumed=True, resendable=False)


def abandon(earlier: Record | None, tries: int, blank: Record) -> Record:
    """Return the record with which the next attempt starts a run, whatever was started or sent before.

    :param earlier: the record until now.
    :param tries: number of attempts until now, each of which may have used a key if the record does not tell.
    :param blank: an empty record of now.
    """
    if earlier is None:
        return replace(blank, key=ABANDONED, generation=tries)
    generation = earlier.generation + earlier.was_sent
    if earlier.presumed:
        generation = max(generation, tries)
    return replace(
        blank,
        key=ABANDONED,
        generation=generation,
        past=earlier.known_runs,
        left=earlier.undelivered_runs,
        technique_id=earlier.technique_id or blank.technique_id,
        history_id=earlier.history_id,
    )


def derive_key(identity: Sequence[object], record: Record) -> str:
    """Return the key of a record's intent.

    :param identity: identity of the task instance when the intent was made.
    """
    name = json.dumps([*identity, record.max_tries, record.digest, record.generation])
    return f"airflow-{hashlib.sha256(name.encode()).hexdigest()[:40]}"


def digest_of(technique_id: str, inputs: object, callback_url: str | None) -> str:
    """Return a digest that equal starts share. It does not cover the content of files."""
    try:
        text = json.dumps([technique_id, inputs, callback_url], sort_keys=True, default=str)
    except TypeError:  # unsortable keys; the check of the inputs reports them
        text = repr([technique_id, inputs, callback_url])
    return f"{DIGEST_VERSION}:{hashlib.sha256(text.encode()).hexdigest()}"


def digests_differ(one: str, other: str) -> bool:
    """Whether two digests are certain to be of different inputs. Those of different releases cannot be compared."""
    return one != other and one.partition(":")[0] == other.partition(":")[0]
