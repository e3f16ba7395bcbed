"""What a command is, and the arguments that several commands have. ``main`` runs commands."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_provider_flora.cli.terminal import Terminal

Options = argparse.Namespace
OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
"""Exit codes. ``FAILED``: a mistake was found, a run failed, or Flora refused. ``USAGE``: the arguments or the
connection cannot be used. ``INTERRUPTED``: Ctrl-C, as shells have it."""


@dataclass(frozen=True)
class Command:
    """A command.

    :param name: as it is typed.
    :param help: one line, for the list of commands.
    :param add_arguments: adds its arguments to its parser.
    :param run: does its work and returns the exit code. Without one, the code is 0.
    :param uses_flora: whether it takes the arguments that choose a connection.
    """

    name: str
    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[Options, Terminal], int | None]
    uses_flora: bool = True

    def add_all_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's arguments, and those that every command like it has."""
        self.add_arguments(parser)
        if self.uses_flora:
            parser.add_argument("--json", action="store_true", help="print JSON, for programs")
            parser.add_argument(
                "--conn-id",
                metavar="ID",
                help="a connection of Airflow's. Default: the key in FLORA_API_KEY, for FLORA_BASE_URL",
            )
            parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_PERIOD = re.compile(r"(\d{1,6})([mhdw])")


def moment(text: str) -> datetime:
    """Read ``7d`` (also ``m``, ``h``, ``w``) as that long ago, and ``2026-11-01`` as that day's beginning in UTC.

    :raises argparse.ArgumentTypeError: it is neither.
    """
    if period := _PERIOD.fullmatch(text):
        try:
            return datetime.now(timezone.utc) - timedelta(**{_UNITS[period[2]]: int(period[1])})
        except OverflowError:
            pass
    try:
        found = datetime.fromisoformat(text.replace("Z", "+00:00"))
        return found.astimezone(timezone.utc) if found.tzinfo else found.replace(tzinfo=timezone.utc)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a period such as 90m, 24h, 7d or 2w, nor a date such as 2026-11-01"
        ) from None


def amount(text: str) -> float:
    """Read an amount in USD."""
    return _number(text, "an amount in USD such as 0.50", at_least=0.0)


def seconds(text: str) -> float:
    """Read a duration in seconds."""
    return _number(text, "a number of seconds such as 600", at_least=0.001)


def _number(text: str, what: str, at_least: float) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not at_least <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
    return number


def add_since(parser: argparse.ArgumentParser, default: str) -> None:
    """Add the argument ``--since``, a moment."""
    parser.add_argument(
        "--since",
        type=moment,
        default=default,
        metavar="TIME",
        help="7d, 24h, or a date in UTC (default: %(default)s)",
    )


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add the argument ``run``, and ``--technique``, which spares looking for it."""
    parser.add_argument("run", metavar="RUN", help="id of a run, such as run_abc123")
    parser.add_argument(
        "--technique",
        metavar="ID",
        help="the run's technique. Default: it is looked for among the workspace's latest runs",
    )
