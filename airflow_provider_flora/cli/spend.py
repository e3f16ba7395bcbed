"""``spend``: what the workspace's runs were charged, whoever started them."""

from __future__ import annotations

import argparse
from collections import defaultdict
from dataclasses import asdict, astuple, dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

from airflow_provider_flora.cli.command import Command, Options, add_since
from airflow_provider_flora.cli.connection import open_client
from airflow_provider_flora.cli.runs import runs_since
from airflow_provider_flora.cli.terminal import usd

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airflow_provider_flora.api.models import Run
    from airflow_provider_flora.cli.terminal import Terminal


_DAYS = 30


@dataclass
class Charged:
    """What the runs of a day or of a technique were charged.

    :param unknown: runs that completed and whose charge Flora does not report yet.
    :param usd: the sum of all others.
    """

    completed: int = 0
    failed: int = 0
    active: int = 0
    unknown: int = 0
    usd: float = 0.0

    def add(self, run: Run) -> None:
        """Add a run."""
        if run.completed:
            self.completed += 1
            self.unknown += run.charged_cost is None
            self.usd = _rounded(self.usd + (run.charged_cost or 0.0))
        else:
            self.failed += run.failed
            self.active += not run.failed


def _rounded(usd: float) -> float:
    """Return a sum of amounts without the error of floats: 0.1 + 0.2 is 0.3."""
    return round(usd, 6)


def sum_up(runs: Iterable[Run], by: str, since: datetime) -> dict[str, Charged]:
    """Return what was charged by ``day``, in UTC, or by ``technique``, the dearest first.

    The days are all from the first run's, or the last 30 if that is earlier, until today. None is before ``since``.
    """
    found: defaultdict[str, Charged] = defaultdict(Charged)
    for run in runs:
        found[_day_of(run) if by == "day" else _technique_of(run)].add(run)
    if by == "technique":
        return dict(sorted(found.items(), key=lambda item: -item[1].usd))
    day = today = datetime.now(timezone.utc).date()
    first = max(since.date().isoformat(), min([(today - timedelta(days=_DAYS)).isoformat(), *found]))
    while day.isoformat() >= first:
        _ = found[day.isoformat()]
        day -= timedelta(days=1)
    return dict(sorted(found.items()))


def _day_of(run: Run) -> str:
    if run.created_at is None:
        return "unknown"
    return datetime.fromtimestamp(run.created_at / 1000, timezone.utc).date().isoformat()


def _technique_of(run: Run) -> str:
    return run.technique.technique_id if run.technique else "unknown"


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_since(parser, "30d")
    parser.add_argument("--by", choices=("day", "technique"), default="day", help="(default: %(default)s)")


def _spend(options: Options, terminal: Terminal) -> None:
    with open_client(options, terminal) as client:
        found = sum_up(runs_since(client, options.since), options.by, options.since)
    total = Charged(*(sum(column) for column in zip(*map(astuple, found.values()), strict=True)))
    total.usd = _rounded(total.usd)
    if terminal.as_json:
        terminal.json({options.by: {name: asdict(one) for name, one in found.items()}, "total": asdict(total)})
        return
    most = max((one.usd for one in found.values()), default=0.0) or 1.0
    rows = [
        [name, str(one.completed), str(one.failed), usd(one.usd), terminal.bar(one.usd / most)]
        for name, one in found.items()
    ]
    rows.append(["total", str(total.completed), str(total.failed), usd(total.usd), ""])
    terminal.table((options.by.upper(), ">COMPLETED", ">FAILED", ">USD", ""), [rows])
    if total.unknown:
        terminal.say(f"Completed runs whose charge is not known yet: {total.unknown:,}.", style="yellow")
    if total.active:
        terminal.say(f"Active runs, which are not charged yet: {total.active:,}.", style="dim")


SPEND = Command(
    "spend", "Sum up what the workspace's runs were charged, by day or by technique.", _add_arguments, _spend
)
