"""``runs``, ``run`` and ``wait``: what was started, what came of it, and the wait for what is active."""

from __future__ import annotations

import argparse
from itertools import islice, takewhile
from typing import TYPE_CHECKING, Any

from airflow_provider_flora.api.errors import FloraError, FloraRunTimeoutError, remedy_of, run_failure
from airflow_provider_flora.cli.command import Command, Options, add_run, add_since, seconds
from airflow_provider_flora.cli.connection import open_client
from airflow_provider_flora.cli.terminal import time_of, usd

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from airflow_provider_flora.api.client import FloraClient
    from airflow_provider_flora.api.models import Run
    from airflow_provider_flora.cli.terminal import Terminal

STATUSES = ("pending", "running", "completed", "failed")
LOOKED_THROUGH = 5_000
"""Number of the latest runs among which a run is looked for: 50 requests."""
WAIT_SECONDS = 3600.0
POLL_INTERVAL = 2.0
"""Seconds between two polls of a run: somebody is waiting."""


def runs_since(
    client: FloraClient, since: datetime, technique: str | None = None, status: str | None = None
) -> Iterator[Run]:
    """Return the runs that were created since a moment, newest first.

    :raises FloraAPIError: the technique does not exist.
    """
    technique_id = client.get_technique(technique).technique_id if technique else None
    since_ms = since.timestamp() * 1000
    runs = client.list_technique_runs(technique_id, status)
    return takewhile(lambda run: run.created_at is None or run.created_at >= since_ms, runs)


def find_run(client: FloraClient, run_id: str, technique: str | None) -> tuple[str, Run]:
    """Return a run with the id of its technique, which Flora's API wants with each question about a run.

    :param technique: the id or slug of the technique, if it is known. Otherwise it is looked for in the history.
    :raises FloraError: the run is not among the latest, or the technique has no such run.
    """
    if technique is not None:
        technique = client.get_technique(technique).technique_id
    else:
        latest = islice(client.list_technique_runs(), LOOKED_THROUGH)
        listed = next((run for run in latest if run.run_id == run_id), None)
        if listed is None or listed.technique is None:
            raise FloraError(
                f"{run_id!r} is not among the latest {LOOKED_THROUGH:,} runs that the key can see. Check the id, "
                "or name the run's technique with --technique."
            )
        technique = listed.technique.technique_id
    return technique, client.get_technique_run(technique, run_id)


def wait_for(client: FloraClient, technique: str, run: Run, timeout: float, terminal: Terminal) -> Run:
    """Wait for a run and return it as it ended. Ctrl-C or an error leaves it to go on, and says how to come back.

    :raises FloraRunTimeoutError: the run did not finish in time.
    """
    if run.settled:
        return run
    try:
        with terminal.waiting_for(run) as listener:
            return client.wait_for_technique_run(technique, run.run_id, POLL_INTERVAL, timeout, listener=listener)
    except (KeyboardInterrupt, FloraError) as error:
        if not isinstance(error, FloraRunTimeoutError):  # which says so
            terminal.say(
                f"{run.run_id} goes on at Flora, which cannot cancel runs, and is charged if it completes."
            )
        terminal.say(f"Come back with: {terminal.program} wait {run.run_id} --technique {technique}")
        raise


def show_run(run: Run, technique: str, terminal: Terminal) -> None:
    """Print all of a run."""
    if terminal.as_json:
        terminal.json(as_json(run, technique))
        return
    error = []
    if run.failed:
        error = [("Error", _error_of(run)), ("Remedy", remedy_of(run).value)]
    terminal.fields(
        [
            ("Run", run.run_id),
            ("Technique", technique),
            ("Status", run.status),
            *([("Progress", f"{run.progress:g} %")] if not run.finished else []),
            ("Created", time_of(run.created_at)),
            ("Took", _took(run)),
            ("Charged", _charge(run)),
            *error,
            *((output.output_id or "output", f"{output.type}  {output.url or '-'}") for output in run.outputs),
        ]
    )


def as_json(run: Run, technique: str | None = None) -> dict[str, Any]:
    """Return a run as Flora has it, with its technique's id, and with the remedy of one that failed."""
    technique = technique or (run.technique.technique_id if run.technique else None)
    return {
        **run.model_dump(exclude={"technique"}),
        "technique_id": technique,
        "remedy": remedy_of(run).value if run.failed else None,
    }


def _add_filters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--technique", metavar="ID", help="only runs of this technique")
    parser.add_argument("--status", choices=STATUSES, help="only runs with this status")
    add_since(parser, "7d")


def _list(options: Options, terminal: Terminal) -> None:
    with open_client(options, terminal) as client:
        runs = runs_since(client, options.since, options.technique, options.status)
        if terminal.as_json:
            terminal.json([as_json(run) for run in runs])
            return
        count = terminal.table(
            ("RUN", "TECHNIQUE", "STATUS", "CREATED (UTC)", ">TOOK", ">USD", "ERROR"),
            terminal.in_pages(map(_row, runs)),
        )
    terminal.say("1 run" if count == 1 else f"{count:,} runs", style="dim")


def _row(run: Run) -> list[str]:
    technique = (run.technique.name or run.technique.technique_id) if run.technique else "-"
    error = f"{run.error_code or 'no code'} ({remedy_of(run).value})" if run.failed else ""
    charged = usd(run.charged_cost if run.completed else None)
    created = time_of(run.created_at)[: len("2026-11-01 12:00")]  # what fits a line
    return [run.run_id, technique, run.status, created, _took(run), charged, error]


def _took(run: Run) -> str:
    if not run.finished or run.created_at is None or run.completed_at is None:
        return "-"
    return f"{max(0.0, run.completed_at - run.created_at) / 1000:.0f} s"


def _charge(run: Run) -> str:
    if run.completed:
        return "not known yet" if run.charged_cost is None else f"{usd(run.charged_cost)} USD"
    return "nothing, as a rule" if run.failed else "not yet"


def _error_of(run: Run) -> str:
    return ": ".join(filter(None, (run.error_code, run.error_message))) or "Flora named none"


def _show(options: Options, terminal: Terminal) -> None:
    with open_client(options, terminal) as client:
        technique, run = find_run(client, options.run, options.technique)
    show_run(run, technique, terminal)


def _add_wait(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    add_timeout(parser)


def add_timeout(parser: argparse.ArgumentParser) -> None:
    """Add the longest wait for a run."""
    parser.add_argument(
        "--timeout",
        type=seconds,
        default=WAIT_SECONDS,
        metavar="SECONDS",
        help="the longest wait (default: %(default)g); the run goes on",
    )


def _wait(options: Options, terminal: Terminal) -> None:
    with open_client(options, terminal) as client:
        technique, run = find_run(client, options.run, options.technique)
        run = wait_for(client, technique, run, options.timeout, terminal)
    show_run(run, technique, terminal)
    if run.failed:
        raise run_failure(run, technique)


RUNS = Command("runs", "List the workspace's runs, newest first.", _add_filters, _list)
RUN = Command("run", "Show a run: its outputs and cost, or its error and the remedy.", add_run, _show)
WAIT = Command("wait", "Wait for a run, and show it. The exit code is 1 if it failed.", _add_wait, _wait)
