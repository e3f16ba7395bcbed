"""``make simulate SEED=… COUNT=…``: plays histories, and prints what broke a promise as short stories."""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .virtual_time import real_monotonic

if TYPE_CHECKING:
    from .breakages import Breakage

Play = Callable[..., Any]
"""Plays the history of a seed."""

CHUNK = 250
"""Histories that a process plays before it reports its results."""


@dataclass
class Outcome:
    """What became of some histories."""

    count: int = 0
    requests: int = 0
    runs: int = 0
    findings: list[tuple[int, str, str]] = field(default_factory=list)  # seed, promise, text


def main() -> int:
    """Run the command; return its exit code."""
    asked = _arguments()
    if asked.breakages is not None:
        return _try_breakages(asked.breakages, asked.seed, asked.count, asked.jobs)
    play = _prepare(of_batches=asked.batches)
    if asked.story is not None:
        return _print_story(play, asked.story, asked.shrink)
    if asked.show:
        for seed in range(asked.seed, asked.seed + asked.show):
            _print_story(play, seed, shrink=False)
        return 0
    began = real_monotonic()
    total = Outcome()
    broken: Counter[str] = Counter()
    printed = began
    for part in _play_all(play, asked.seed, asked.count, asked.jobs, stop_at_first=asked.first):
        total.count += part.count
        total.requests += part.requests
        total.runs += part.runs
        total.findings += part.findings
        for seed, promise, _ in part.findings:
            broken[promise] += 1
            print(f"seed {seed} broke: {promise}", flush=True)
        if real_monotonic() - printed > 5:
            printed = real_monotonic()
            _print_progress(total, asked.count, printed - began)
        if asked.first and total.findings:
            break
    _print_progress(total, asked.count, real_monotonic() - began)
    if not total.findings:
        print("No promise was broken.")
        return 0
    for promise, count in broken.most_common():
        print(f"\n{count} x broken: {promise}")
        seeds = [seed for seed, name, _ in total.findings if name == promise]
        print("seeds: " + " ".join(map(str, sorted(seeds)[:12])))
        for seed in sorted(seeds)[: asked.stories]:
            _print_story(play, seed, shrink=True)
    return 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make simulate", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of the first history")
    parser.add_argument("--count", type=int, default=20_000, help="of histories")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="processes")
    parser.add_argument("--batches", action="store_true", help="histories of batches, not of single runs")
    parser.add_argument("--stories", type=int, default=1, help="how many findings to print for each promise")
    parser.add_argument("--first", action="store_true", help="stop at the first finding")
    parser.add_argument("--story", type=int, metavar="SEED", help="print one history, and nothing else")
    parser.add_argument(
        "--show", type=int, default=0, metavar="N", help="print this many histories, as they were drawn"
    )
    parser.add_argument("--breakages", nargs="*", metavar="NAME", help="find deliberate breakages: these, or all")
    parser.add_argument("--no-shrink", dest="shrink", action="store_false", help="print it as it was drawn")
    return parser.parse_args()


def _load_airflow() -> None:
    os.environ.setdefault("AIRFLOW_HOME", str(Path(tempfile.gettempdir(), "flora-simulation-airflow")))
    import airflow.sdk
    import airflow.triggers.base  # noqa: F401


def _prepare(*, of_batches: bool = False) -> Play:
    """Load the code under test, once for all processes, and put it into the modelled world.

    :return: what plays a history.
    """
    _load_airflow()
    from . import batches, history, world

    os.environ.clear()  # proxies and certificates of this machine are not in the modelled world
    world.install()
    if of_batches:
        batches.install()
    play: Play = batches.play if of_batches else history.play
    play(0)  # what is imported late is imported now
    gc.collect()
    gc.freeze()
    return play


# --- breakages --------------------------------------------------------------------------------------------


def _try_breakages(names: Sequence[str], seed: int, count: int, jobs: int) -> int:
    """Try whether the simulator finds each breakage; return the command's exit code."""
    from .breakages import BREAKAGES, check_that_they_apply

    check_that_they_apply()
    _load_airflow()
    known = {breakage.name: breakage for breakage in BREAKAGES}
    chosen = [known[name] for name in names] or list(BREAKAGES)
    missed = 0
    # A process for each, made anew: in it the package is loaded with the breakage.
    with multiprocessing.get_context("fork").Pool(jobs, maxtasksperchild=1) as pool:
        for printed, found in pool.imap(_find, [(breakage, seed, count) for breakage in chosen], chunksize=1):
            print(printed, flush=True)
            missed += not found
    print(f"{len(chosen) - missed} of {len(chosen)} breakages were found.")
    return 1 if missed else 0


def _find(task: tuple[Breakage, int, int]) -> tuple[str, bool]:
    from . import breakages, history

    breakage, seed, count = task
    seed += breakage.skip
    breakages.apply(breakage)
    play = _prepare(of_batches=breakage.of_batches)
    gc.disable()
    others: Counter[str] = Counter()
    for number in range(count):
        found = play(seed + number)
        if isinstance(found, history.Finding):
            if found.promise in breakage.promises:
                return f"found after {number + 1:5d}: {breakage.name}: {found.promise} (seed {found.seed})", True
            others[found.promise] += 1
        if number % 50 == 0:
            gc.collect()
    return f"NOT FOUND in {count}: {breakage.name}; {dict(others)}", False


# --- playing ----------------------------------------------------------------------------------------------


def _play_all(play: Play, seed: int, count: int, jobs: int, *, stop_at_first: bool) -> Iterator[Outcome]:
    chunks = [
        (play, begin, min(CHUNK, seed + count - begin), stop_at_first) for begin in range(seed, seed + count, CHUNK)
    ]
    if jobs <= 1:
        yield from map(_play_some, chunks)
        return
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        yield from pool.imap_unordered(_play_some, chunks)


def _play_some(chunk: tuple[Play, int, int, bool]) -> Outcome:
    from . import history

    play, begin, count, stop_at_first = chunk
    outcome = Outcome()
    gc.disable()  # between histories is the better moment
    for seed in range(begin, begin + count):
        result = play(seed)
        outcome.count += 1
        if isinstance(result, history.Finding):
            outcome.findings.append((seed, result.promise, result.text))
            if stop_at_first:
                break
        else:
            outcome.requests += result.flora.requests
            outcome.runs += len(result.flora.runs)
        if seed % 50 == 0:
            gc.collect()
    gc.collect()
    return outcome


def _print_progress(total: Outcome, count: int, seconds: float) -> None:
    rate = total.count / max(seconds, 1e-9)
    print(
        f"{total.count} of {count} histories, {rate:.0f}/s ({rate * 60:.0f} a minute); {total.requests} requests, "
        f"{total.runs} runs; {len(total.findings)} findings",
        flush=True,
    )


def _print_story(play: Play, seed: int, shrink: bool) -> int:
    """Tell the story of a seed."""
    from . import history, story
    from .shrink import shrink as shrunk

    found = play(seed, narrating=True)
    if not isinstance(found, history.Finding):
        print(f"\nSeed {seed}: no promise was broken.")
        print("\n".join(story.to_lines(found.story)))
        return 0
    if shrink:
        kind = found.kind

        def breaks(choices: list[int]) -> bool:
            again = play(seed, choices)
            return isinstance(again, history.Finding) and again.kind == kind

        found = play(seed, shrunk(found.choices, breaks), narrating=True)
        assert isinstance(found, history.Finding)
    print(f"\nSeed {seed}: {found.promise}: {found.text}")
    print("\n".join(story.to_lines(found.story)))
    return 1


if __name__ == "__main__":
    sys.exit(main())
