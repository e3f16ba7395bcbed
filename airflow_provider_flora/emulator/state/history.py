"""All runs, newest first, in pages.

Runs are kept in sorted lists, one for each filter of the history. A run moves from list to list when its status
changes. These changes are applied when a page is read: ten thousand waiting runs need no timer, and the cost of a
page grows with its length alone.
"""

from __future__ import annotations

import heapq
import math
import secrets
from bisect import bisect_left, insort
from collections import defaultdict
from operator import attrgetter
from random import Random

from airflow_provider_flora.emulator.state.catalogue import Technique
from airflow_provider_flora.emulator.state.clock import Clock
from airflow_provider_flora.emulator.state.runs import Run, SetOutput

_SORT_KEY = attrgetter("sort_key")
_VARIATION = 0.1
_PENDING_SHARE = 0.15

Filter = tuple[str | None, str | None]
"""A technique's id and a status; ``None`` stands for any."""


class History:
    """The runs of the workspace.

    :param clock: the emulator's time.
    :param run_seconds: how long a run takes, give or take a tenth; with 0 it ends at once.
    :param list_lag: seconds by which lists are late: they show runs and statuses as they were then.
    :param seed: decides how much the durations vary.
    """

    def __init__(self, clock: Clock, *, run_seconds: float, list_lag: float, seed: int) -> None:
        self._clock = clock
        self.run_seconds = run_seconds
        self._list_lag = list_lag
        self._seed = seed
        # Ids differ from one emulator to the next: a client that outlives one must not find another's runs.
        self._id_prefix = f"run_{secrets.token_hex(3)}"
        self._number = 0
        self.clear()

    def clear(self) -> None:
        """Forget every run."""
        self._chance = Random(self._seed)
        self._runs: dict[str, Run] = {}
        self._lists: defaultdict[Filter, list[Run]] = defaultdict(list)
        self._listed_as: dict[str, str] = {}
        self._changes: list[tuple[float, int, Run]] = []
        self._newest = 0

    def start(
        self,
        technique: Technique,
        inputs: tuple[dict[str, str], ...],
        *,
        idempotency_key: str | None = None,
        callback_url: str | None = None,
        failure: tuple[str, str] | None = None,
        seconds: float | None = None,
        end_status: str | None = None,
        output_bytes: int | None = None,
        set_outputs: tuple[SetOutput, ...] = (),
    ) -> Run:
        """Make a run that starts now.

        :param technique: the technique.
        :param inputs: its inputs.
        :param idempotency_key: the client's key.
        :param callback_url: where its end is reported.
        :param failure: ``error_code`` and ``error_message`` when it is to fail.
        :param seconds: how long it takes, in place of ``run_seconds``; ``math.inf`` for ever.
        :param end_status: its last status, in place of ``completed`` or ``failed``.
        :param output_bytes: the size of its files, which then are blobs.
        :param set_outputs: what it reports in place of its outputs.
        """
        self._newest = max(self._newest, int(self._clock.now()))
        usual = 1000 * self.run_seconds * (1 + self._chance.uniform(-_VARIATION, _VARIATION))
        duration = usual if seconds is None else 1000 * seconds
        return self._add(
            Run(
                self._new_id(),
                self._number,
                technique,
                inputs,
                self._newest,
                self._newest + _PENDING_SHARE * min(usual, duration),
                self._newest + duration,
                failure,
                idempotency_key,
                callback_url,
                end_status=end_status,
                output_bytes=output_bytes,
                set_outputs=set_outputs,
            )
        )

    def seed(self, technique: Technique, *, count: int, status: str, spacing: float) -> list[Run]:
        """Add runs that somebody else started, the last of them now. They keep their status.

        :param technique: their technique.
        :param count: how many runs.
        :param status: their status.
        :param spacing: milliseconds between one and the next.
        """
        now = int(self._clock.now())
        failure = ("provider_error", "The provider failed to complete the generation.")
        seeded = []
        for place in range(count):
            created_at = now - round((count - 1 - place) * spacing)
            ends = min(now, created_at + round(1000 * self.run_seconds))
            seeded.append(
                self._add(
                    Run(
                        self._new_id(),
                        self._number,
                        technique,
                        _foreign_inputs(technique),
                        created_at,
                        math.inf if status == "pending" else created_at,
                        ends if status in ("completed", "failed") else math.inf,
                        failure if status == "failed" else None,
                        foreign=True,
                    )
                )
            )
        return seeded

    def get(self, run_id: str) -> Run | None:
        """The run of that id, if there is one."""
        return self._runs.get(run_id)

    def all(self) -> list[Run]:
        """Every run, oldest first."""
        return list(self._runs.values())

    def page(
        self,
        technique_id: str | None,
        status: str | None,
        before: tuple[int, int] | None,
        limit: int,
        offset: int = 0,
    ) -> tuple[list[Run], bool, int, float]:
        """A page of history.

        :param technique_id: only runs of this technique.
        :param status: only runs in this status.
        :param before: only runs older than the one with this :attr:`~Run.sort_key`.
        :param limit: how many runs at most.
        :param offset: how many runs to leave out first.
        :return: the runs, newest first; whether there are more; how many match in all; and the moment,
            in unix milliseconds, that the page shows.
        """
        moment = self._clock.now() - self._list_lag * 1000
        self._settle(moment)
        matching = self._lists.get((technique_id, status), [])
        end = len(matching) if before is None else bisect_left(matching, before, key=_SORT_KEY)
        end = max(0, end - offset)
        begin = max(0, end - limit)
        return matching[begin:end][::-1], begin > 0, len(matching), moment

    def _new_id(self) -> str:
        self._number += 1
        return f"{self._id_prefix}{self._number:06x}"

    def _add(self, run: Run) -> Run:
        self._runs[run.run_id] = run
        heapq.heappush(self._changes, (run.created_at, run.number, run))
        return run

    def _settle(self, moment: float) -> None:
        """Apply every change of status up to this moment."""
        while self._changes and self._changes[0][0] <= moment:
            run = heapq.heappop(self._changes)[2]
            technique_id, status = run.technique.technique_id, run.status_at(moment)
            former = self._listed_as.get(run.run_id)
            if former is None:
                self._insert(run, (None, None), (technique_id, None))
            else:
                self._remove(run, (None, former), (technique_id, former))
            self._insert(run, (None, status), (technique_id, status))
            self._listed_as[run.run_id] = status
            change = run.next_change_after(moment)
            if not math.isinf(change):
                heapq.heappush(self._changes, (change, run.number, run))

    def _insert(self, run: Run, *filters: Filter) -> None:
        for key in filters:
            runs = self._lists[key]
            if runs and run.sort_key < runs[-1].sort_key:
                insort(runs, run, key=_SORT_KEY)
            else:
                runs.append(run)

    def _remove(self, run: Run, *filters: Filter) -> None:
        for key in filters:
            runs = self._lists[key]
            del runs[bisect_left(runs, run.sort_key, key=_SORT_KEY)]


def _foreign_inputs(technique: Technique) -> tuple[dict[str, str], ...]:
    return tuple(
        {"id": slot.id, "type": "text", "value": f"Somebody else's {slot.name.lower()}"}
        for slot in technique.inputs
        if slot.type == "text"
    )
