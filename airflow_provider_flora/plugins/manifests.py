"""Reads the manifest of a batch for a page: a part of its rows, and how many there are of each status.

The rows of a manifest are kept in memory, up to a limit, since a person looks at many pages of it. The version in
the storage says whether the file is another one by now. A manifest too large to keep is read again for each page.
"""

from __future__ import annotations

import json
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from airflow_provider_flora.api.errors import FloraError, FloraFileError
from airflow_provider_flora.api.lenient import storable
from airflow_provider_flora.files.listing import find_file
from airflow_provider_flora.files.uploads.source import SourceFile

PAGE_ROWS = 60
KEPT_BYTES = 64 * 1024 * 1024
"""Size of all manifests that are kept, and the largest of one."""
LONGEST_LINE = 16 * 1024 * 1024
PATIENCE = 5.0
"""Seconds to wait until another manifest has been read."""


class Row(NamedTuple):
    """A row of a manifest.

    :param reused: whether an earlier execution has paid for it.
    :param line: its line, in JSON.
    """

    row_id: str
    status: str
    reused: bool
    line: bytes

    @property
    def value(self) -> Mapping[str, Any]:
        """The line."""
        value: Mapping[str, Any] = json.loads(self.line)
        return value


@dataclass(frozen=True)
class Page:
    """A page of a manifest.

    :param rows: its rows.
    :param counts: number of rows by status. Reused rows count as ``reused`` and as ``completed``.
    :param matching: number of rows that fit the filter.
    :param number: from 1.
    :param problem: why there is nothing to show, in a sentence.
    """

    rows: tuple[Row, ...] = ()
    counts: Mapping[str, int] | None = None
    matching: int = 0
    number: int = 1
    problem: str | None = None

    @property
    def pages(self) -> int:
        """Number of pages, at least 1."""
        return max(1, -(-self.matching // PAGE_ROWS))

    @property
    def total(self) -> int:
        """Number of all rows."""
        return sum(count for status, count in (self.counts or {}).items() if status != "reused")


class Manifests:
    """The manifests that are kept. Several threads may use them."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str], list[Row]] = OrderedDict()
        self._bytes: dict[tuple[str, str], int] = {}
        self._lock = threading.Lock()
        self._reading = threading.Lock()  # one manifest at a time, so that memory is bounded

    def page(self, uri: str, *, status: str = "", search: str = "", number: int = 1) -> Page:
        """Return a page of the rows that fit.

        :param uri: the manifest, as the task's XCom names it.
        :param status: ``completed``, ``failed``, ``unknown``, ``skipped``, ``reused``, or nothing for all.
        :param search: part of a row's id, in any case.
        """
        try:
            return _page(self._rows(uri), status, search.casefold(), max(1, number))
        except FloraError as error:
            return Page(problem=f"The manifest cannot be shown. {error}")

    def find(self, uri: str, row_id: str) -> Row | None:
        """Return a row, or ``None`` if the manifest or the row is not there."""
        try:
            return next((row for row in self._rows(uri) if row.row_id == row_id), None)
        except FloraError:
            return None

    def _rows(self, uri: str) -> Iterable[Row]:
        stored = find_file(uri)
        if stored is None:
            raise FloraFileError(
                f"There is no file {uri!r} in the storage: nothing was written yet, or it was deleted."
            )
        if stored.version is None or stored.bytes > KEPT_BYTES:
            return _read(uri)
        key = uri, stored.version
        if (kept := self._find_kept(key)) is not None:
            return kept
        # Airflow's own pages need the threads that wait here.
        if not self._reading.acquire(timeout=PATIENCE):
            raise FloraFileError("Others are being read, and a storage is slow. Reload this page.", retryable=True)
        try:
            if (kept := self._find_kept(key)) is not None:
                return kept
            rows = list(_read(uri))
            self._keep(key, rows, stored.bytes)
            return rows
        finally:
            self._reading.release()

    def _find_kept(self, key: tuple[str, str]) -> list[Row] | None:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def _keep(self, key: tuple[str, str], rows: list[Row], size: int) -> None:
        with self._lock:
            for other in [other for other in self._kept if other[0] == key[0]]:
                del self._kept[other], self._bytes[other]
            while self._kept and sum(self._bytes.values()) + size > KEPT_BYTES:
                oldest, _ = self._kept.popitem(last=False)
                del self._bytes[oldest]
            self._kept[key], self._bytes[key] = rows, size


def _page(rows: Iterable[Row], status: str, search: str, number: int) -> Page:
    counts: Counter[str] = Counter()
    matching, shown = 0, []
    first = (number - 1) * PAGE_ROWS
    for row in rows:
        counts[row.status] += 1
        counts["reused"] += row.reused
        if (not status or row.status == status or (status == "reused" and row.reused)) and (
            not search or search in row.row_id.casefold()
        ):
            if first <= matching < first + PAGE_ROWS:
                shown.append(row)
            matching += 1
    return Page(tuple(shown), counts, matching, number)


def _read(uri: str) -> Iterator[Row]:
    for number, line in enumerate(_lines(uri), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
            row_id, status = value["row_id"], value.get("status")
        except (ValueError, RecursionError, TypeError, LookupError, AttributeError):
            raise FloraFileError(f"Line {number} of {uri!r} is not that of a row.") from None
        if not isinstance(row_id, str):
            raise FloraFileError(f"Line {number} of {uri!r} has no row_id.")
        row_id = storable(row_id)  # it becomes a part of addresses
        yield Row(row_id, status if isinstance(status, str) else "unknown", value.get("reused") is True, line)


def _lines(uri: str) -> Iterator[bytes]:
    rest = b""
    for chunk in SourceFile(uri).read_chunks():
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines
        if len(rest) > LONGEST_LINE:
            raise FloraFileError(f"{uri!r} has a line of more than {LONGEST_LINE:,} bytes, so it is no manifest.")
    yield rest
