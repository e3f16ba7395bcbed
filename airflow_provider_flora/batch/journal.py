"""What a batch knows of the starts of its rows, and passes from one attempt to the next. Decides nothing.

A row has the record of a single task's run (see ``runs.record``). The records lie in *pages* of :data:`PAGE_ROWS`
rows, in the order in which the rows were started first:

    key             value
    flora_batch     the head: what the records have in common, the first page to read, how often the task has
                    succeeded, and whether earlier records were lost
    flora_rows_0    {row_id: record}; the next page is ``flora_rows_1``, and so on

Before a start is sent, a write has stored its intent, and with it the answers to earlier starts. Starts that wait
for a write share the next one. So a kill leaves only those starts unanswered that were under way.

Airflow 3.3 and later keep the values in the task state store, which ends with the DAG run. Before, they are files
in a folder beside the manifest. When the task has succeeded, the pages are deleted there, and the head stays. By
then the manifest knows what was completed, and a clear starts the others under new keys.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from airflow_provider_flora.api.errors import FloraError, FloraNotStoredError
from airflow_provider_flora.runs.record import Record, Records, derive_key
from airflow_provider_flora.task.state import BATCH, BATCH_ROWS, save

if TYPE_CHECKING:
    from airflow_provider_flora.files.downloads.destination import Destination
    from airflow_provider_flora.task.attempt import Attempt

VERSION = 1
PAGE_ROWS = 50

_EMPTY = Record()


class Store(Protocol):
    """A store of plain JSON by key."""

    def get(self, key: str) -> Any:
        """Return a value, or ``None`` if there is none."""

    def set(self, key: str, value: Any) -> None:
        """Store a value."""

    def delete(self, key: str) -> None:
        """Delete a value that the manifest makes superfluous, if the store would keep it for ever."""


class TaskStore:
    """Airflow's task state store (3.3 and later)."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def get(self, key: str) -> Any:
        """Return a value, or ``None`` if there is none."""
        return self._store.get(key)

    def set(self, key: str, value: Any) -> None:
        """Store a value for as long as the task instance can be cleared."""
        save(self._store, key, value)

    def delete(self, key: str) -> None:
        """Delete nothing: Airflow does, with the DAG run."""


class FolderStore:
    """A folder with one file for each key, in any storage."""

    def __init__(self, folder: Destination) -> None:
        self._folder = folder

    def get(self, key: str) -> Any:
        """Return a value, or ``None`` if there is none."""
        content = self._folder.read(f"{key}.json")
        return None if content is None else json.loads(content)

    def set(self, key: str, value: Any) -> None:
        """Replace a file as a whole."""
        with self._folder.writing(f"{key}.json") as sink:
            sink.write(json.dumps(value).encode())
            sink.finish()

    def delete(self, key: str) -> None:
        """Delete a file."""
        self._folder.delete(f"{key}.json")


class Journal:
    """The records of a batch's rows.

    :param store: where they are kept.
    :param attempt: the task's attempt.
    :param technique_id: the technique, as the user named it.
    """

    def __init__(self, store: Store, attempt: Attempt, technique_id: str) -> None:
        self._store = store
        self._attempt = attempt
        self._lock = threading.Lock()  # of what is in memory
        self._writing = threading.Lock()  # of the store; its holder may ask for the other, and not the reverse
        self._pages: list[dict[str, dict[str, Any]]]
        self._page_of: dict[str, int] = {}
        self._unsaved: set[int] = set()
        self._taken = self._stored = 0  # numbers of the records that were taken, and of those that are stored
        self._is_closed = False
        stored = self._get(BATCH)
        head: dict[str, Any] = stored if isinstance(stored, dict) else {}
        self.is_lost = bool(head.get("lost")) if head else attempt.try_number > 1
        """Whether earlier attempts may have started rows that have no record here."""
        self._deliveries = int(head.get("deliveries") or 0)
        self._first_page = int(head.get("first_page") or 0)
        self._pages = [{} for _ in range(self._first_page)]
        if head:
            self._read_pages()
        # A clear may give the DAG run, and so the task instance, another identity. The keys remain.
        self.identity: list[Any] = head.get("identity") or attempt.identity
        usual = {"max_tries": attempt.max_tries, "clear_number": attempt.clear_number}
        self.common: dict[str, Any] = head.get("common") or {"technique_id": technique_id, **usual}
        if not head:
            self._save_head()  # from now on, a missing head is a lost one

    def _read_pages(self) -> None:
        while isinstance(page := self._get(f"{BATCH_ROWS}{len(self._pages)}"), dict):
            self._page_of.update(dict.fromkeys(page, len(self._pages)))
            self._pages.append(page)

    def begin(self, history_id: str, completed: Collection[str] = ()) -> None:
        """Store what is known before the first start.

        :param history_id: the technique's id, which the history filters by.
        :param completed: rows that the manifest shows as completed. The next attempt need not read pages that hold
            only such rows.
        """
        with self._writing:
            self.common.setdefault("history_id", history_id)
            rows = set(completed)
            while self._first_page < len(self._pages) and self._pages[self._first_page].keys() <= rows:
                self._first_page += 1
            self._save_head()

    def record_delivery(self) -> None:
        """Record that the task has succeeded with its rows. A later clear asks for new runs."""
        with self._writing:
            for page in range(self._first_page, len(self._pages)):
                self._store.delete(f"{BATCH_ROWS}{page}")
            self._first_page = len(self._pages)
            self._deliveries += 1
            self.is_lost = False
            self._save_head()

    def _save_head(self) -> None:
        head = {
            "version": VERSION,
            "identity": self.identity,
            "common": self.common,
            "first_page": self._first_page,
            "deliveries": self._deliveries,
            "lost": self.is_lost,
        }
        self._set(BATCH, head)

    def records_of(self, row_id: str) -> RowRecords:
        """Return the storage of a row's record."""
        # The ids of rows contain no control characters.
        name = f"{row_id}\n{self._deliveries}" if self._deliveries else row_id
        return RowRecords(self, row_id, replace(self._attempt, row_id=name))

    def get(self, row_id: str) -> dict[str, Any] | None:
        """Return a row's record as it is stored."""
        with self._lock:
            page = self._page_of.get(row_id)
            return None if page is None else self._pages[page].get(row_id)

    def put(self, row_id: str, record: dict[str, Any], *, now: bool) -> None:
        """Take a row's record.

        :param now: store it before returning, and with it what was taken before.
        :raises FloraNotStoredError: the store failed.
        """
        if now:
            self._check_open()
        with self._lock:
            page = self._page_of.get(row_id)
            if page is None:
                if len(self._pages) == self._first_page or len(self._pages[-1]) >= PAGE_ROWS:
                    self._pages.append({})
                page = self._page_of[row_id] = len(self._pages) - 1
            self._pages[page][row_id] = record
            self._unsaved.add(page)
            self._taken += 1
            taken = self._taken
        if now:
            self._flush(taken)
            self._check_open()  # the write may have taken long

    def _check_open(self) -> None:
        if self._is_closed:
            raise FloraNotStoredError("This attempt is over. The next one goes on.")

    @property
    def taken(self) -> int:
        """The number of the record that was taken last."""
        return self._taken

    @property
    def stored(self) -> int:
        """The number of the last record that is stored, and with it all before."""
        return self._stored

    def close(self) -> None:
        """Refuse intents from now on, since another attempt may begin."""
        self._is_closed = True

    def flush(self) -> None:
        """Store what was taken.

        :raises FloraNotStoredError: the store failed.
        """
        self._flush(self._taken)

    def _flush(self, taken: int) -> None:
        with self._writing:
            if self._stored >= taken:
                return  # by the write of another thread
            with self._lock:
                unsaved = {page: {**self._pages[page]} for page in sorted(self._unsaved)}
                self._unsaved.clear()
                latest = self._taken
            try:
                for page, rows in unsaved.items():
                    self._set(f"{BATCH_ROWS}{page}", rows)
            except BaseException:
                with self._lock:
                    self._unsaved.update(unsaved)
                raise
            self._stored = latest

    def runs_of_others(self, row_ids: Collection[str]) -> list[tuple[str, str]]:
        """Return row and run of the records whose row is not among these."""
        with self._lock:
            records = [item for page in self._pages for item in page.items() if item[0] not in row_ids]
        return [(row_id, record.get("run_id") or "unknown") for row_id, record in records]

    def known_runs(self) -> set[str]:
        """Return the ids of all runs of the batch."""
        with self._lock:
            records = [record for page in self._pages for record in page.values()]
        return {
            run_id for record in records for run_id in (record.get("run_id"), *record.get("past", ())) if run_id
        }

    def _get(self, key: str) -> Any:
        try:
            return self._store.get(key)
        except FloraError:
            raise
        except Exception as error:
            raise _not_stored("read", error) from error

    def _set(self, key: str, value: Any) -> None:
        try:
            self._store.set(key, value)
        except FloraError:
            raise
        except Exception as error:
            raise _not_stored("written", error) from error


class RowRecords(Records):
    """The storage of one row's record, in the journal of its batch."""

    def __init__(self, journal: Journal, row_id: str, attempt: Attempt) -> None:
        super().__init__(journal, attempt)
        self._journal = journal
        self._row_id = row_id

    def load(self) -> Record | None:
        """Return the row's record: an empty one if the row was never started, ``None`` if that is not known."""
        plain = self._journal.get(self._row_id)
        if plain is None:
            return None if self._journal.is_lost else self.empty_record("", "")
        record = Record.from_plain({"key": "", **self._journal.common, **plain})
        if record is None:
            return None
        return record if record.key else replace(record, key=self._usual_key(record))

    def save(self, record: Record) -> None:
        """Take the record. An answer is stored with the next start: until then, a kill makes it unknown again."""
        self._journal.put(self._row_id, self._to_short(record), now=record.run_id is None)

    def _usual_key(self, record: Record) -> str:
        return derive_key([*self._journal.identity, self.attempt.row_id], record)

    def _to_short(self, record: Record) -> dict[str, Any]:
        """Return the record without what all have in common, and without a key that can be derived again."""
        if record.key == self._usual_key(record):
            record = replace(record, key="")
        usual = {**_EMPTY.to_plain(), **self._journal.common}
        return {name: value for name, value in record.to_plain().items() if value != usual[name]}


def _not_stored(what: str, error: Exception) -> FloraNotStoredError:
    return FloraNotStoredError(
        f"The record of the rows that were started cannot be {what} now ({type(error).__name__}: {error}). Nothing "
        "was started since. A retry goes on."
    )
