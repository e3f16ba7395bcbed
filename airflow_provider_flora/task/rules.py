"""What whoever hands out a connection says about its use, beside how to reach Flora."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class ConnectionRules:
    """The rules of a connection, from its extra.

    :param max_daily_cost: USD that may be charged in the workspace from midnight UTC on; ``None`` is no limit.
    :param max_catchup_runs: executions of one task that a catchup or a backfill may start within ten minutes.
    :param webhook_secret: secret ``whsec_…`` that Flora signs its webhooks with; ``None`` if none are received. The
        repr does not show it.
    """

    max_daily_cost: float | None = None
    max_catchup_runs: int = 10
    webhook_secret: str | None = field(default=None, repr=False)
