"""Which runs a watch has told of, and which it still has to; how far back the history is read. No I/O, no clock.

Flora lists runs by their creation, newest first, and runs end in any order. So one moment is not enough to
remember. A watch keeps:

    seen_until      creation of the newest run that it has been shown. The next listing must reach back to it.
    open            runs to tell of when they end, and those that have ended but may not have been told yet
    ended           runs that are settled: told, or none that the watch tells of. A bounded number, newest last.
    settled_until   creation until which all runs but the open ones are settled, so that ``ended`` can be bounded

A run is new if it is in none of the two and was created after ``settled_until``. The first listing is where the
watch begins: runs that have ended before it are settled, those that are active are open. All this is kept as JSON,
and what is kept may be older than what was told: a run is told of once because :meth:`settle` is called for what
was told.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_provider_flora.api.models import Run

VERSION = 1
ENDED_KEPT = 500
"""Number of settled runs that are remembered by id."""
MOST_ENDED = 1500
"""Number of them if they are so new that older ones may not be listed yet."""
OVERLAP = 60_000.0
"""Milliseconds after which a run is listed for sure, though lists lag."""
OPEN_KEPT = 5000
"""Number of open runs that are remembered. Should there be more, the oldest are forgotten."""
MOST_RUNS = 2000
"""Number of runs that one walk passes on at most: the oldest. The next walks pass on the others."""
SEEN_KEPT = 1000
"""Number of the newest runs by which the next walk knows where to stop."""


class Walk:
    """One reading of the history, page by page, newest first, until it meets runs of the walk before.

    :param seen: the newest runs of a walk before; empty if there were no runs, ``None`` if there was no walk.
    :param back_to: unix milliseconds to which it must reach back in any case, for watches that missed former walks.
    :param floor: unix milliseconds before which all runs are settled: it does not look for ``seen`` there.
    """

    def __init__(
        self, seen: Collection[str] | None, back_to: float | None = None, floor: float | None = None
    ) -> None:
        self._seen_before = seen
        self._back_to = back_to
        self._floor = floor
        self._bottom: float | None = None
        self._runs: deque[Run] = deque(maxlen=MOST_RUNS)
        self._ids: dict[str, None] = {}

    def add(self, page: Sequence[Run]) -> bool:
        """Add a page. Runs may have moved to it from the page before. Return whether to read the next one."""
        new = [run for run in page if run.run_id not in self._ids]
        self._ids.update((run.run_id, None) for run in new)
        self._runs.extend(new)
        self._bottom = _oldest_of(page, self._bottom)
        if self._bottom is not None:
            if self._back_to is not None and self._bottom >= self._back_to:
                return True
            if self._floor is not None and self._bottom < self._floor:
                return False
        seen = self._seen_before
        return seen is not None and not any(run.run_id in seen for run in page)

    @property
    def runs(self) -> list[Run]:
        """The runs, newest first. None of them was created in the same moment as one that is left out."""
        runs = [*self._runs]
        if self.is_cut:
            older = [run for run in runs if (run.created_at or 0.0) < (runs[0].created_at or 0.0)]
            runs = older or runs
        return runs

    @property
    def is_cut(self) -> bool:
        """Whether the newest runs are left out. Then the next walk must reach back to the newest of the others."""
        return len(self._ids) > len(self._runs)

    @property
    def seen(self) -> set[str] | None:
        """The runs by which the next walk knows where to stop; ``None`` if it must go by time."""
        return None if self.is_cut else {*[*self._ids][:SEEN_KEPT]}


class SeenRuns:
    """The runs that the last two walks have seen.

    A walk reads back to those of the walk before the last. So a run that is listed late is seen by the next walk,
    also if it stands below the first page.
    """

    def __init__(self) -> None:
        self._walks: deque[set[str] | None] = deque(maxlen=2)

    @property
    def ids(self) -> set[str] | None:
        """The runs by which the next walk knows where to stop."""
        return next((seen for seen in self._walks if seen is not None), None)

    def add(self, walk: Walk) -> None:
        """Take note of a walk."""
        if walk.is_cut:
            self._walks.clear()
        self._walks.append(walk.seen)


@dataclass
class Watermark:
    """The memory of one watch."""

    seen_until: float | None = None
    """Unix milliseconds; ``None`` before the first listing, 0 if that was empty."""
    settled_until: float = 0.0
    """Unix milliseconds."""
    open: dict[str, str] = field(default_factory=dict)
    """Id of the technique, which may be empty, by id of the run; in the order of their creation, at first."""
    ended: dict[str, float] = field(default_factory=dict)
    """Creation in unix milliseconds, by id of the run."""

    def see(
        self,
        runs: Sequence[Run],
        wants: Callable[[Run], bool],
        *,
        active: Iterable[Run] = (),
        is_whole: bool = False,
    ) -> list[Run]:
        """Take note of a listing, and return the runs on it that have ended and are not settled.

        Each of them stays open until :meth:`settle`, and is returned again if it is listed again.

        :param runs: newest first, without a gap down to ``seen_until``. Not all of them need be new.
        :param wants: whether the watch is about a run, whatever its status.
        :param active: at first, active runs which may be older than those.
        :param is_whole: at first, whether there are no older runs.
        :return: in the order in which they ended.
        """
        begins = self.seen_until is None
        if begins:
            for run in active:
                if wants(run):
                    self._open(run)
        newest = max((run.created_at or 0.0 for run in runs), default=0.0)
        self.seen_until = max(self.seen_until or 0.0, newest)
        due = []
        for run in reversed(runs):
            if self._is_settled(run) or not wants(run):
                continue
            if not run.finished:
                self._open(run)
            elif begins and run.run_id not in self.open:
                self.settle(run.run_id, run.created_at)
            else:
                self._open(run)
                due.append(run)
        if begins:
            unlisted = None if is_whole else _oldest_of(runs)
            self.settled_until = max(self.settled_until, unlisted or 0.0, newest - OVERLAP)
        return sorted(due, key=_end_of)

    def _is_settled(self, run: Run) -> bool:
        if run.run_id in self.open:
            return False
        created_at = run.created_at
        return run.run_id in self.ended or (created_at is not None and created_at <= self.settled_until)

    def _open(self, run: Run) -> None:
        self.open.setdefault(run.run_id, "" if run.technique is None else run.technique.technique_id)

    def settle(self, run_id: str, created_at: float | None = None) -> None:
        """Remember that a run was told, or is not to be.

        :param created_at: unix milliseconds. Without it, the run counts as one of the newest, and is kept for long.
        """
        self.open.pop(run_id, None)
        self.ended.setdefault(run_id, created_at or self.seen_until or 0.0)
        while len(self.ended) > ENDED_KEPT:
            oldest = min(self.ended, key=self.ended.__getitem__)
            if self.ended[oldest] > (self.seen_until or 0.0) - OVERLAP and len(self.ended) <= MOST_ENDED:
                break
            self.settled_until = max(self.settled_until, self.ended.pop(oldest))

    def forget_open(self) -> list[str]:
        """Forget the oldest open runs if there are too many, and return them."""
        surplus = [*self.open][: max(0, len(self.open) - OPEN_KEPT)]
        for run_id in surplus:
            del self.open[run_id]
        return surplus

    def as_json(self) -> dict[str, Any]:
        """The watermark as plain JSON."""
        return {
            "version": VERSION,
            "seen_until": self.seen_until,
            "settled_until": self.settled_until,
            "open": dict(self.open),
            "ended": dict(self.ended),
        }

    @classmethod
    def from_json(cls, stored: object) -> Watermark | None:
        """Read a watermark. An entry of another form is left out; ``None`` if it says nothing of where to begin."""
        if not isinstance(stored, Mapping) or not _is_time(stored.get("seen_until")):
            return None
        settled_until = stored.get("settled_until")
        return cls(
            seen_until=float(stored["seen_until"]),
            settled_until=float(settled_until) if _is_time(settled_until) else 0.0,  # type: ignore[arg-type]
            open={key: value for key, value in _entries(stored, "open") if isinstance(value, str)},
            ended={key: float(value) for key, value in _entries(stored, "ended") if _is_time(value)},
        )


def _oldest_of(runs: Iterable[Run], than: float | None = None) -> float | None:
    """Return the first creation, in unix milliseconds, of runs and of ``than``; ``None`` if no run has one."""
    known = [run.created_at for run in runs if run.created_at is not None]
    return min(known if than is None else [*known, than], default=None)


def _end_of(run: Run) -> float:
    return run.completed_at or run.created_at or 0.0


def _is_time(value: object) -> bool:
    return type(value) in (int, float) and 0 <= value < 1e16  # type: ignore[operator]


def _entries(stored: Mapping[str, Any], name: str) -> Iterable[tuple[str, Any]]:
    entries = stored.get(name)
    return entries.items() if isinstance(entries, Mapping) else ()
