"""Histories break no promise; and the simulator itself is what it says: deterministic, virtual, able to shrink."""

from __future__ import annotations

import hashlib

from tests.simulation.playing import COUNT, simulate
from tests.simulation.shrink import shrink
from tests.simulation.tape import Tape
from tests.simulation.virtual_time import EPOCH, Clock, Crash, Hub, Loop, Process


def test_no_history_breaks_a_promise() -> None:
    done = simulate("--seed", "1", "--count", str(COUNT))
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-5_000:]
    assert f"{COUNT} of {COUNT} histories" in done.stdout


def test_no_history_of_a_batch_breaks_a_promise() -> None:
    done = simulate("--batches", "--seed", "1", "--count", "500")
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-5_000:]
    assert "500 of 500 histories" in done.stdout


def test_a_seed_is_the_same_history_under_any_hash_seed() -> None:
    stories = [
        hashlib.sha256("".join(simulate("--show", "100", "--seed", "7", PYTHONHASHSEED=seed).stdout).encode())
        for seed in ("0", "1")
    ]
    assert stories[0].hexdigest() == stories[1].hexdigest()


def test_a_seed_becomes_a_story_of_what_was_sent_and_charged() -> None:
    stories = simulate("--story", "1").stdout
    assert "POST 'a cup" in stories
    assert "exists and is charged" in stories


def test_a_tape_is_replayed_and_then_gives_zeros() -> None:
    tape = Tape(1)
    drawn = [tape.below(100) for _ in range(5)]
    again = Tape(2, tape.choices)
    assert [again.below(100) for _ in range(7)] == [*drawn, 0, 0]
    assert not Tape(3, [0]).chance(0.99)


def test_shrinking_leaves_what_breaks_the_promise_and_nothing_else() -> None:
    def breaks(choices: list[int]) -> bool:
        return 3 in choices and 5 in choices[choices.index(3) :]

    assert shrink([9, 9, 3, 7, 0, 8, 5, 2, 2], breaks) == [3, 5]


def test_processes_sleep_on_virtual_time_in_the_order_in_which_they_asked() -> None:
    hub, clock, seen = Hub(), Clock(), list[tuple[str, float]]()
    clock.hub = hub

    def sleeper(name: str, seconds: float) -> None:
        for _ in range(2):
            clock.sleep(seconds)
            seen.append((name, round(clock.time() - EPOCH, 6)))

    for name, seconds in (("a", 2.0), ("b", 1.0), ("c", 2.0)):
        hub.spawn(Process(name), lambda name=name, seconds=seconds: sleeper(name, seconds))
    hub.run(lambda: len(seen) == 6)
    assert seen == [("b", 1.0), ("a", 2.0), ("c", 2.0), ("b", 2.0), ("a", 4.0), ("c", 4.0)]


def test_a_process_that_died_has_no_more_effect() -> None:
    hub, clock, done = Hub(), Clock(), list[str]()
    clock.hub = hub
    process = Process("a worker")
    process.dies_at = 2

    def run() -> None:
        try:
            process.effect("one")
            done.append("one")
            try:
                process.effect("two")
            finally:
                process.effect("three")
        except Crash:
            done.append("dead")

    hub.spawn(process, run)
    hub.run(lambda: "dead" in done)
    assert done == ["one", "dead"]


def test_a_loop_that_is_killed_runs_nothing_more() -> None:
    import asyncio

    hub, seen = Hub(), list[str]()
    process = Process("a triggerer")
    loop = Loop(hub, process, seen.append)

    async def speak() -> None:
        try:
            await asyncio.sleep(1.0)
            seen.append("first")
            await asyncio.sleep(1.0)
            seen.append("second")
        finally:
            await asyncio.sleep(1.0)
            seen.append("finally")

    loop.create_task(speak())
    hub.at(hub.now + 1.5, loop.kill)
    hub.at(hub.now + 9.0, seen.append, "over")
    hub.run(lambda: "over" in seen)
    assert seen == ["first", "over"]
