"""Writes the outcome of the fault tests as a page of the docs: a table, and the errors in their own words."""

from __future__ import annotations

import os
import platform
import textwrap
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

from tests.faults.fault_running import Scenario, Verdict

WIDTH = 112
ABOUT = (
    "The outcome of each fault of the fault tests: see `Reliability <reliability.rst#fault-tests>`__ for what they "
    "are. Each row is a scenario in a real Airflow, in which something was killed or cut off."
)
HEADER = ("", "Fault", "Mode", "Runs charged", "Tasks right", "Seconds", "Late", "Outcome")


def write_report(path: Path, verdicts: Sequence[Verdict], places: Sequence[str], seconds: float) -> None:
    """Write the table and the errors.

    :param places: what the scenarios ran on: executor and database.
    :param seconds: how long all of it took.
    """
    lines = [*_introduction(verdicts, places, seconds), *_table(verdicts), *_errors(verdicts)]
    path.write_text("\n".join(lines).rstrip() + "\n")


def _introduction(verdicts: Sequence[Verdict], places: Sequence[str], seconds: float) -> Iterator[str]:
    held = sum(not verdict.problems for verdict in verdicts)
    yield from (".. Written by ``make faults``. Do not edit: the next run writes it again.", "")
    yield from ("Reliability results", "===================", "")
    yield from textwrap.wrap(ABOUT, WIDTH)
    yield ""
    words = (
        f"{held} of {len(verdicts)} scenarios ended as promised. Airflow {version('apache-airflow')} with Python "
        f"{platform.python_version()} on {os.cpu_count()} cores, {'; '.join(places)}; {seconds / 60:.0f} minutes. "
        "Each task has 2 retries, 1 second apart, or 30 seconds if Flora (503) or the API server is down. "
        "*Seconds* is the time from the fault to the end of the last task, the rest of its run included. "
        "*Late* is how many seconds after its run the task ended. *(site)* marks scenarios in which a repeated "
        "idempotency key is answered with the run's id; in the others it is answered with 409."
    )
    yield from textwrap.wrap(words, WIDTH)
    yield ""


def _table(verdicts: Sequence[Verdict]) -> Iterator[str]:
    yield from (".. list-table::", "   :header-rows: 1", "   :widths: 4 36 14 10 10 6 6 14", "")
    yield from _row(HEADER)
    for verdict in verdicts:
        scenario = verdict.scenario
        outcome = verdict.state if verdict.state != "failed" else f"{verdict.state} (see below)"
        yield from _row(
            (
                scenario.fault,
                _title(scenario),
                scenario.mode,
                _charged(verdict),
                f"{verdict.right} of {scenario.tasks}",
                *("" if number is None else f"{number:.0f}" for number in (verdict.seconds, verdict.late)),
                outcome if not verdict.problems else f"**not as promised**: {outcome}",
            )
        )
    yield ""


def _title(scenario: Scenario) -> str:
    what = scenario.what[0].upper() + scenario.what[1:]
    return what + (" *(site)*" if scenario.account == "site" else "")


def _charged(verdict: Verdict) -> str:
    if verdict.started == verdict.charged:
        return str(verdict.charged)
    return f"{verdict.charged}, of {verdict.started} started"


def _row(cells: Sequence[str]) -> Iterator[str]:
    for place, cell in enumerate(cells):
        yield f"   {'* -' if place == 0 else '  -'} {cell}".rstrip()


def _errors(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """Each fault after which a task failed, with one error of it."""
    yield from ("Errors of the tasks that stopped", "--------------------------------", "")
    for verdict in verdicts:
        if verdict.errors:
            scenario = verdict.scenario
            term = f"Fault {scenario.fault}, {scenario.mode}: {_title(scenario)}"
            yield from (term, "   .. code-block:: text", "")
            for line in verdict.errors[0].splitlines():
                yield from textwrap.wrap(line, WIDTH - 6, initial_indent=" " * 6, subsequent_indent=" " * 6)
            yield ""
