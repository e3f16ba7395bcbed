"""Makes a finding small: fewer and calmer choices that still break the same promise."""

from __future__ import annotations

from collections.abc import Callable

MOST_RUNS = 800


def shrink(choices: list[int], breaks: Callable[[list[int]], bool]) -> list[int]:
    """Return a smaller tape that still breaks the promise.

    :param breaks: plays a tape and returns whether the same promise is broken.
    """
    left = MOST_RUNS

    def better(candidate: list[int]) -> bool:
        nonlocal left
        left -= 1
        return left >= 0 and breaks(candidate)

    best = _stripped(choices)
    before: list[int] = []
    while best != before and left > 0:
        before = best
        best = _without_parts(best, better)
        best = _calmer(best, better)
    return best


def _stripped(choices: list[int]) -> list[int]:
    # What comes after the end of a tape is zeros anyway.
    end = len(choices)
    while end and not choices[end - 1]:
        end -= 1
    return choices[:end]


def _without_parts(best: list[int], better: Callable[[list[int]], bool]) -> list[int]:
    size = max(1, len(best) // 2)
    while size:
        begin = 0
        while begin < len(best):
            part = best[begin : begin + size]
            zeroed = best[:begin] + [0] * len(part) + best[begin + size :]
            deleted = _stripped(best[:begin] + best[begin + size :])
            if any(part) and better(_stripped(zeroed)):
                best = _stripped(zeroed)
            if better(deleted):
                best = deleted
            else:
                begin += size
        size //= 2
    return best


def _calmer(best: list[int], better: Callable[[list[int]], bool]) -> list[int]:
    for at in range(len(best)):
        for value in range(best[at] if at < len(best) else 0):
            candidate = _stripped([*best[:at], value, *best[at + 1 :]])
            if better(candidate):
                best = candidate
                break
    return best
