"""``undelivered`` and ``reconcile``: runs that were paid and nobody got, and charges that came late.

Both compare Airflow's metadata database with Flora's history of one connection.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import asdict
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from airflow_provider_flora.api.errors import FloraAPIError, FloraError, FloraFileError
from airflow_provider_flora.cli.command import FAILED, OK, Command, Options, add_since
from airflow_provider_flora.cli.database import open_client_here, open_database
from airflow_provider_flora.cli.runs import runs_since
from airflow_provider_flora.cli.terminal import time_of, usd

if TYPE_CHECKING:
    from airflow_provider_flora.api.client import FloraClient
    from airflow_provider_flora.api.models import Run
    from airflow_provider_flora.cli.terminal import Terminal
    from airflow_provider_flora.metadata.reading import Task
    from airflow_provider_flora.metadata.undelivered import Undelivered

_ASKED_ONE_BY_ONE = 100
"""Runs that are not in the read part of the history, and that Flora is asked for."""
_BEFORE = timedelta(days=1)
"""How long before the end of its task a run may have been created, to be in the history that is read."""

_EARLIEST = datetime(2000, 1, 1, tzinfo=timezone.utc)


def _runs_of(
    client: FloraClient, history: dict[str, Run], wanted: Iterable[tuple[str, str | None]], terminal: Terminal
) -> dict[str, Run | None]:
    """Return runs by their ids: from the history, or each by itself. ``None`` if Flora does not show it.

    Flora may refuse to show one run, and the others matter all the same.
    """
    found: dict[str, Run | None] = {}
    asked = 0
    for run_id, technique_id in wanted:
        if run_id in history:
            found[run_id] = history[run_id]
        elif technique_id and run_id not in found and asked < _ASKED_ONE_BY_ONE:
            asked += 1
            try:
                found[run_id] = client.get_technique_run(technique_id, run_id)
            except FloraAPIError as error:
                if error.status != 404:
                    terminal.say(f"{run_id} is not known: {error}", style="yellow")
                found[run_id] = None
    return found


def _add_since(parser: argparse.ArgumentParser) -> None:
    add_since(parser, "7d")


def _undelivered(options: Options, terminal: Terminal) -> int:
    from airflow_provider_flora.metadata.records import has_store
    from airflow_provider_flora.metadata.undelivered import read_started

    with open_client_here(None, options, terminal) as client:
        with open_database() as session:
            started = read_started(session, options.since)
        for manifest in sorted(started.manifests):
            started.known |= _runs_in(manifest, terminal)
        history = {run.run_id: run for run in runs_since(client, options.since)}
        wanted = [(one.run_id, one.technique_id) for one in started.undelivered if one.run_id]
        runs = _runs_of(client, history, wanted, terminal)
    own = [one for one in started.undelivered if not _is_free(one, runs)]
    others = [run for run in history.values() if run.run_id not in started.known and not run.failed]
    if terminal.as_json:
        terminal.json(
            {
                "undelivered": [_as_json(one, runs.get(one.run_id or "")) for one in own],
                "others": [
                    {
                        "run_id": run.run_id,
                        "status": run.status,
                        "created_at": run.created_at,
                        "charged_cost": run.charged_cost if run.completed else None,
                        "technique_id": run.technique.technique_id if run.technique else None,
                    }
                    for run in others
                ],
            }
        )
        return FAILED if own else OK
    if own:
        rows = [_row(one, runs.get(one.run_id or ""), has_store=has_store()) for one in own]
        terminal.table(("RUN", "STATUS", "CREATED (UTC)", ">USD", "TASK", "STATE", "WHAT TO DO"), [rows])
    _sum_up(own, others, terminal)
    return FAILED if own else OK


def _is_free(one: Undelivered, runs: dict[str, Run | None]) -> bool:
    """Whether a run has failed: Flora in general does not charge it, and there is nothing to hand over."""
    run = runs.get(one.run_id or "")
    return run is not None and run.failed


def _runs_in(manifest: str, terminal: Terminal) -> set[str]:
    from airflow_provider_flora.batch import read_manifest
    from airflow_provider_flora.metadata.reading import as_text

    try:
        return {run_id for line in read_manifest(manifest) if (run_id := as_text(line.get("run_id")))}
    except (FloraError, OSError) as error:
        why = error if isinstance(error, FloraFileError) else f"{type(error).__name__}: {error}"
        terminal.say(f"The runs of the manifest {manifest!r} are not known: {why}", style="yellow")
        return set()


def _sum_up(own: list[Undelivered], others: list[Run], terminal: Terminal) -> None:
    count = "1 run was" if len(own) == 1 else f"{len(own):,} runs were"
    terminal.say(f"{count} started and not handed over." if own else "Every run that is known was handed over.")
    if others:
        charged = sum(run.charged_cost or 0.0 for run in others if run.completed)
        terminal.say(
            f"Runs of others, as far as this Airflow knows: {len(others):,}, charged {usd(charged)} USD. "
            f"`{terminal.program} undelivered --json` names them.",
            style="dim",
        )


def name_of(task: Task, row_id: str | None = None) -> str:
    """Return a task instance in one cell of a table."""
    mapped = f" [{task.map_index}]" if task.map_index >= 0 else ""
    row = f" row {row_id}" if row_id is not None else ""
    return f"{task.dag_id} {task.run_id} {task.task_id}{mapped}{row}"


def _row(one: Undelivered, run: Run | None, *, has_store: bool) -> list[str]:
    created = run.created_at if run is not None else one.sent * 1000 if one.sent is not None else None
    charged = usd(run.charged_cost if run is not None and run.completed else None)
    status = run.status if run is not None else "not shown" if one.run_id else "not answered"
    return [
        one.run_id or "-",
        status,
        time_of(created)[: len("2026-11-01 12:00")],
        charged,
        name_of(one.task, one.row_id),
        one.state or "none",
        _advice(one, has_store=has_store),
    ]


def _advice(one: Undelivered, *, has_store: bool) -> str:
    if one.is_left:
        return "the task has another run: adopt this one, or download it"
    if one.row_id is not None:
        return "clear it: it goes on with its rows"
    if not has_store:
        return "set adopt_run_id to the run, and clear it"
    return "clear it: it hands the run over" if one.run_id else "clear it: it looks for the run"


def _as_json(one: Undelivered, run: Run | None) -> dict[str, Any]:
    return {
        **asdict(one),
        "status": run.status if run is not None else None,
        "created_at": run.created_at if run is not None else None,
        "charged_cost": run.charged_cost if run is not None and run.completed else None,
    }


def _add_reconcile(parser: argparse.ArgumentParser) -> None:
    add_since(parser, "7d")
    parser.add_argument("--dry-run", action="store_true", help="change nothing, and show what would be changed")


def _reconcile(options: Options, terminal: Terminal) -> None:
    from airflow_provider_flora.metadata.charges import custom_backend, fill_in, read_missing

    if backend := custom_backend():
        raise FloraError(
            f"XComs are kept by {backend}, whose form is not known here, so they were left alone. "
            f"`{terminal.program} runs` has what Flora charged."
        )
    with open_client_here(None, options, terminal) as client:
        with open_database() as session:
            missing = read_missing(session, options.since)
        created_since = max(options.since, _EARLIEST) - _BEFORE
        history = {run.run_id: run for run in runs_since(client, created_since)} if missing else {}
        runs = _runs_of(client, history, [(one.run_id, one.technique_id) for one in missing], terminal)
    filled, late = [], 0
    for one in missing:
        run = runs.get(one.run_id)
        if run is None or not run.completed or run.charged_cost is None:
            late += 1
            continue
        if not options.dry_run:
            with open_database() as session:
                if not fill_in(session, one, run.charged_cost):
                    continue
        filled.append((one, run.charged_cost))
    if terminal.as_json:
        terminal.json(
            {
                "filled": [{**asdict(one), "charged_cost": cost} for one, cost in filled],
                "not_known": late,
                "dry_run": options.dry_run,
            }
        )
        return
    if filled:
        terminal.table(
            ("RUN", ">USD", "TASK"), [[[one.run_id, usd(cost), name_of(one.task)] for one, cost in filled]]
        )
    count = "1 charge" if len(filled) == 1 else f"{len(filled):,} charges"
    terminal.say(f"{count} would be filled in." if options.dry_run else f"{count} filled in.")
    if late:
        terminal.say(f"Charges that Flora does not report: {late:,}.", style="yellow")


UNDELIVERED = Command(
    "undelivered",
    "List runs that tasks have started and not handed over: then the exit code is 1.",
    _add_since,
    _undelivered,
)
RECONCILE = Command("reconcile", "Fill in charges that Flora reported late.", _add_reconcile, _reconcile)
