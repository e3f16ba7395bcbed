"""A finding as a story that a person can read: when, who, what; what was sent, answered and charged."""

from __future__ import annotations

import re

from .virtual_time import BEGIN

WIDTH = 220
_NOISE = re.compile(r"log: (run_\d+ is \w+, \d+ %|A run of .* costs .*|run_\d+ completed after .*)")
_VARIES = re.compile(r"req_\d+|in \d+ s|\b\d+\b")


def to_lines(story: list[tuple[float, str, str]]) -> list[str]:
    """Return a story in lines; repetitions are shown once."""
    lines: list[str] = []
    last, count = "", 0
    for when, who, text in story:
        if _NOISE.fullmatch(text):
            continue
        line = f"{who}: {' '.join(text.split())}"
        shape = _VARIES.sub("#", line)
        if shape == last:
            count += 1
            continue
        if count:
            lines[-1] += f" (and {count} more)"
        last, count = shape, 0
        lines.append(f"{when - BEGIN:9.2f} s  {_shortened(line)}")
    if count:
        lines[-1] += f" (and {count} more)"
    return lines


def _shortened(line: str) -> str:
    return line if len(line) <= WIDTH else f"{line[: WIDTH - 1]}…"
