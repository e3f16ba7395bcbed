"""Which runs a watch tells of: each that ends once, over restarts at any moment, in random histories."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from unittest.mock import patch

import pytest

from airflow_provider_flora.api.models import Run
from airflow_provider_flora.runs import watermark
from airflow_provider_flora.runs.run_events import add_told_run, told_runs
from airflow_provider_flora.runs.watermark import OVERLAP, SeenRuns, Walk, Watermark


def any_run(_: Run) -> bool:
    return True


def run(number: int, status: str = "completed", created_at: float | None = None, technique: str = "tech_a") -> Run:
    return Run.model_validate(
        {
            "run_id": f"run_{number}",
            "status": status,
            "created_at": number if created_at is None else created_at,
            "technique": {"technique_id": technique},
        }
    )


def ids(runs: list[Run]) -> list[str]:
    return [one.run_id for one in runs]


@dataclass
class Past:
    """A history at Flora, in which runs start and end at random. A list of it lags."""

    chance: random.Random
    runs: dict[str, tuple[int, float | None]] = field(default_factory=dict)
    """Creation and end of each run."""
    now: int = 1000

    def go_on(self, most: int) -> None:
        """Let time pass."""
        for _ in range(self.chance.randrange(most)):
            self.now += self.chance.choice((0, 0, 1, 5))
            endless = self.chance.random() < 0.1
            lasts = self.chance.choice((0, 1, 20, 300))
            self.runs[f"run_{len(self.runs)}"] = (self.now, None if endless else self.now + lasts)
        self.now += self.chance.randrange(30)

    def newest_first(self, moment: int) -> list[Run]:
        """The list as it was at that moment."""
        return [
            self.get(run_id, moment)
            for run_id, (created_at, _) in [*self.runs.items()][::-1]
            if created_at <= moment
        ]

    def get(self, run_id: str, moment: int) -> Run:
        """A run as it was at that moment."""
        created_at, ended_at = self.runs[run_id]
        over = ended_at is not None and ended_at <= moment
        return Run(run_id=run_id, status="completed" if over else "running", created_at=created_at)


class Watching:
    """A watch without its I/O: it polls, tells, is killed and resumed as ``ended_runs`` and Airflow do it."""

    def __init__(self, past: Past, page_size: int, lag: int) -> None:
        self.past, self.page_size, self.lag = past, page_size, lag
        self.events: list[str] = []  # what Airflow has stored, together with
        self.told: object = None  # what the asset's state store has of it
        self.kept: str = "null"
        self.start()

    def start(self) -> None:
        """Start after a kill: only what was kept is known."""
        self.mark = Watermark.from_json(json.loads(self.kept)) or Watermark()
        for run_id in told_runs(self.told):
            self.mark.settle(run_id)
        self.seen = SeenRuns()
        seen_until = self.mark.seen_until
        self.back_to = None if seen_until is None else seen_until - 5

    def poll(self, killed_after: int | None = None) -> None:
        """List, keep the watermark, and tell. A kill leaves the other events untold, and nothing more is kept."""
        moment = self.past.now - self.lag
        everything = self.past.newest_first(moment)
        begins = self.mark.seen_until is None
        active = [one for one in everything if not one.finished] if begins else []
        walk = Walk(self.seen.ids, self.back_to)
        place = 0
        while True:
            page = everything[place : place + self.page_size]
            # Where pages are numbered, a run that has begun in between moves the last one to the next page.
            place += self.page_size - self.past.chance.choice((0, 0, 1))
            if not walk.add(page) or place >= len(everything):
                break
        self.seen.add(walk)
        due = self.mark.see(walk.runs, any_run, active=active, is_whole=place >= len(everything))
        self.back_to = self.mark.seen_until if walk.is_cut else None
        shown = set(ids(walk.runs))
        followed = (self.past.get(run_id, self.past.now) for run_id in self.mark.open if run_id not in shown)
        due += [one for one in followed if one.finished]
        self.kept = json.dumps(self.mark.as_json())
        for count, one in enumerate(due):
            if count == killed_after:
                return
            self.events.append(one.run_id)
            self.told = add_told_run(self.told, one.run_id)
        if killed_after is None:
            for one in due:
                self.mark.settle(one.run_id, one.created_at)
            if self.past.chance.random() < 0.7:
                self.kept = json.dumps(self.mark.as_json())


@pytest.mark.parametrize("seed", range(60))
def test_each_run_that_ends_after_the_begin_is_told_of_once_whatever_happens(seed: int) -> None:
    chance = random.Random(seed)
    past = Past(chance)
    past.go_on(chance.choice((1, 30)))
    with (
        patch.object(watermark, "ENDED_KEPT", 60),
        patch.object(watermark, "MOST_RUNS", chance.choice((25, 2000))),
        patch.object(watermark, "OVERLAP", 5.0),
    ):
        watching = Watching(past, page_size=chance.choice((3, 10)), lag=chance.choice((0, 0, 3)))
        begin = past.now - watching.lag
        before = {one.run_id for one in past.newest_first(begin) if one.finished}
        watching.poll()
        for _ in range(40):
            past.go_on(12)
            if chance.random() < 0.3:  # killed while it tells, and away for a while
                watching.poll(killed_after=chance.randrange(4))
                past.go_on(chance.choice((1, 20)))
                watching.start()
            else:
                watching.poll()
        past.now += 1000
        for _ in range(40):
            watching.poll()
    due = [run_id for run_id, (_, ended_at) in past.runs.items() if ended_at is not None and run_id not in before]
    assert sorted(watching.events) == sorted(due)


def test_runs_are_told_of_in_the_order_in_which_they_end() -> None:
    mark = Watermark(seen_until=0.0)
    late, early = (
        Run(run_id=name, status="completed", created_at=created_at, completed_at=completed_at)
        for name, created_at, completed_at in (("late", 1, 9), ("early", 2, 3))
    )
    assert ids(mark.see([early, late], any_run)) == ["early", "late"]


def test_a_watch_begins_with_what_is_active() -> None:
    mark = Watermark()
    assert mark.see([run(9), run(8, "running")], any_run, active=[run(2, "pending")]) == []
    assert ids(mark.see([run(9), run(8)], any_run)) == ["run_8"]
    assert mark.open.keys() == {"run_8", "run_2"}


def test_a_run_that_is_not_wanted_is_not_kept() -> None:
    mark = Watermark(seen_until=0.0)
    wants = "tech_a".__eq__

    def is_wanted(one: Run) -> bool:
        return one.technique is not None and wants(one.technique.technique_id)

    assert ids(mark.see([run(2, technique="tech_b"), run(1)], is_wanted)) == ["run_1"]
    assert (mark.open, mark.seen_until) == ({"run_1": "tech_a"}, 2)


def test_the_memory_is_bounded_and_keeps_what_is_open() -> None:
    mark = Watermark(seen_until=0.0)
    mark.see([run(1, "running")], any_run)
    for number in range(2, 2000):
        for one in mark.see([run(number)], any_run):
            mark.settle(one.run_id, one.created_at)
    assert len(mark.ended) <= watermark.MOST_ENDED
    assert mark.see([run(number) for number in range(1999, 1, -1)], any_run) == []
    assert ids(mark.see([run(1)], any_run)) == ["run_1"]
    mark.open = {f"run_{number}": "" for number in range(watermark.OPEN_KEPT + 2)}
    assert mark.forget_open() == ["run_0", "run_1"]
    assert len(json.dumps(Watermark(0.0, 0.0, {}, mark.ended).as_json())) < 65_000


def test_a_run_without_a_creation_is_told_of_once() -> None:
    mark = Watermark(seen_until=5.0)
    nameless = Run(run_id="run_x", status="completed")
    assert mark.see([nameless], any_run) == [nameless]
    mark.settle("run_x")
    for number in range(6, 400):
        mark.settle(f"run_{number}", number)
    assert mark.see([nameless], any_run) == []


@pytest.mark.parametrize(
    "stored", [None, 7, "seen", [], {}, {"seen_until": "noon"}, {"seen_until": -1}, {"seen_until": True}]
)
def test_a_stored_value_without_a_begin_is_no_watermark(stored: object) -> None:
    assert Watermark.from_json(stored) is None


def test_odd_entries_of_a_stored_watermark_are_left_out() -> None:
    stored = {
        "version": 99,
        "seen_until": 7,
        "settled_until": "x",
        "open": {"run_1": "tech_a", "run_2": None},
        "ended": {"run_3": 3, "run_4": "soon", "run_5": float("nan")},
        "more": 1,
    }
    assert Watermark.from_json(stored) == Watermark(7.0, 0.0, {"run_1": "tech_a"}, {"run_3": 3.0})
    assert Watermark.from_json({"seen_until": 7, "open": [], "ended": "no"}) == Watermark(7.0)


def test_a_walk_ends_at_runs_of_the_walk_before_and_not_sooner() -> None:
    walk = Walk({"run_5"})
    assert walk.add([run(9), run(8)])
    assert walk.add([run(8), run(7)])
    assert not walk.add([run(6), run(5)])
    assert ids(walk.runs) == ["run_9", "run_8", "run_7", "run_6", "run_5"]
    assert not Walk(None).add([run(9)])  # the first of all walks
    assert Walk(set()).add([run(9)])  # there were no runs
    late = Walk(None, back_to=1e6)
    assert late.add([run(1, created_at=1e6)])
    assert not late.add([run(0, created_at=1e6 - 1)])


def test_a_walk_reads_back_to_what_the_walk_before_the_last_has_seen() -> None:
    seen = SeenRuns()
    for numbers in ([1], [3, 1], [5, 3]):
        walk = Walk(seen.ids)
        walk.add([run(number) for number in numbers])
        seen.add(walk)
    assert Walk(seen.ids).add([run(6), run(5)])  # what was listed late is below
    assert not Walk(seen.ids).add([run(4), run(3)])


def test_a_page_that_ends_with_a_run_without_a_creation_does_not_end_a_walk() -> None:
    walk = Walk(None, back_to=1e6)
    assert walk.add([run(9, created_at=2e6), Run(run_id="run_x", status="completed")])
    assert walk.add([Run(run_id="run_y", status="completed")])
    assert not walk.add([run(8, created_at=1e6 - 1), Run(run_id="run_z", status="completed")])


def test_a_connection_to_another_workspace_does_not_tell_of_that_one_s_past() -> None:
    mark = Watermark()
    mark.see([run(9, "completed", created_at=1e9)], any_run, is_whole=True)
    others = [run(7, "completed", created_at=2e9), run(1, "completed", created_at=1e8)]
    walk = Walk({"run_9"}, floor=1e9 - OVERLAP)
    assert not walk.add(others)
    assert ids(mark.see(walk.runs, any_run)) == ["run_7"]


def test_what_is_kept_of_told_runs_is_bounded_and_survives_odd_values() -> None:
    told: object = "odd"
    for number in range(1100):
        told = add_told_run(told, f"run_{number}")
    told = add_told_run(told, "run_500")
    assert len(told_runs(told)) == 1000
    assert told_runs(told)[-2:] == ["run_1099", "run_500"]
    assert told_runs([1, "run_1", None]) == ["run_1"]
