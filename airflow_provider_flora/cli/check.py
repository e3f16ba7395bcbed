"""``check``: what is wrong in DAG files, and what their DAG runs cost, before they are deployed."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_provider_flora.api.errors import FloraParameterError
from airflow_provider_flora.cli.command import FAILED, OK, Command, Options
from airflow_provider_flora.cli.connection import KEY, settings_of_environment
from airflow_provider_flora.cli.terminal import plain, usd

if TYPE_CHECKING:
    from airflow_provider_flora.api.settings import ClientSettings
    from airflow_provider_flora.checking.report import Cost, DagCost, Finding, Report
    from airflow_provider_flora.cli.terminal import Terminal

_TIMES = "\N{MULTIPLICATION SIGN}"
_MOST_LINES = 20  # of one task: each row of a table may have a mistake


def _add_paths(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "paths", metavar="PATH", nargs="+", help="a DAG file, or a folder of them. Their code is run"
    )
    parser.add_argument(
        "--offline",
        metavar="FILE",
        help="ask no Flora: take the techniques from this file, which techniques --json has printed",
    )


def _check(options: Options, terminal: Terminal) -> int:
    from airflow_provider_flora.checking.catalogue import SavedTechniques
    from airflow_provider_flora.checking.process import check_apart

    paths = [Path(path) for path in options.paths]
    if gone := [str(path) for path in paths if not path.exists()]:
        raise FloraParameterError(f"There is no file or folder {', '.join(map(repr, gone))}.")
    saved = SavedTechniques.read(options.offline) if options.offline else None
    report = check_apart(
        paths,
        saved=saved,
        conn_id=options.conn_id,
        own=None if saved else _own_settings(options),
        debug=options.debug,
    )
    if terminal.as_json:
        terminal.json(json.loads(plain(report.model_dump_json())))
    else:
        print_report(report, terminal)
    return FAILED if report.mistakes else OK


def _own_settings(options: Options) -> ClientSettings | None:
    """Return the settings of the environment's key, if there is one: each task may have a connection of its own."""
    is_given = not options.conn_id and os.environ.get(KEY, "").strip()
    return settings_of_environment() if is_given else None


def print_report(report: Report, terminal: Terminal) -> None:
    """Print a report for a person: mistakes first, then costs, then what is left for run time."""
    _print_findings(report.mistakes, terminal, "red")
    parts = (
        _count(report.dags, "DAG"),
        _count(report.tasks, "Flora task"),
        _count(len(report.mistakes), "mistake"),
    )
    terminal.line(", ".join(parts), style="bold")
    if report.costs:
        terminal.line()
        terminal.line("A DAG run costs, if each task runs once:", style="bold")
        terminal.fields([(f"  {dag.dag_id}", cost_of(dag)) for dag in report.costs])
    if report.left:
        terminal.line()
        terminal.line("Not checked, since it is known at run time only:", style="bold")
        _print_findings(report.left, terminal, "dim")


def _print_findings(findings: Iterable[Finding], terminal: Terminal, style: str) -> None:
    for place, group in groupby(findings, key=lambda finding: finding.place):
        task = f"  {place.dag_id}.{place.task_id}" if place.task_id else ""
        terminal.line(f"{place.file}{f':{place.line}' if place.line else ''}{task}", style=style)
        lines = [line for finding in group for line in finding.message.splitlines()]
        for line in lines[:_MOST_LINES]:
            terminal.line(f"  {line}")
        if len(lines) > _MOST_LINES:
            terminal.line(f"  and {len(lines) - _MOST_LINES:,} more; --json has all")
    if findings:
        terminal.line()


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" + "s" * (number != 1)


def cost_of(dag: DagCost) -> str:
    """Return what a DAG run costs, in words: ``0.18 USD, and 0.09 USD for each row of products.csv``."""
    runs: dict[float, int] = {}
    for cost in dag.tasks:
        if not cost.for_each and cost.run_cost is not None:
            runs[cost.run_cost] = runs.get(cost.run_cost, 0) + cost.runs
    open_parts = list(_open_parts(dag.tasks))
    parts = [] if open_parts and not runs else [f"{_sum(runs)}{usd(dag.known_cost)} USD"]
    *first, last = parts + open_parts
    return f"{', '.join(first)}, and {last}" if first else last


def _sum(runs: dict[float, int]) -> str:
    """Return the terms of a sum of several runs, with the equals sign."""
    if sum(runs.values()) < 2:
        return ""
    return (
        " + ".join(
            f"{number:,} {_TIMES} {usd(price)}" if number > 1 else usd(price) for price, number in runs.items()
        )
        + " = "
    )


def _open_parts(costs: Iterable[Cost]) -> Iterator[str]:
    for cost in costs:
        each = "".join(f" for each {what}" for what in cost.for_each)
        times = f"{cost.runs:,} {_TIMES} " if cost.runs > 1 else ""
        if cost.run_cost is not None:
            if each:
                yield f"{times}{usd(cost.run_cost)} USD{each}"
        else:
            yield f"{times}the price of {cost.task_id}{each}, which is not known"


CHECK = Command("check", "Check DAG files: techniques, inputs, limits and costs.", _add_paths, _check)
