"""The ledger: requests, answers, connections, faults, deliveries, and what the runs cost.

Tests read it to see what happened. It records and counts; it decides nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from airflow_provider_flora.emulator.state.runs import Run


class Ledger:
    """What happened so far."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget what happened."""
        self.requests: Counter[str] = Counter()
        self.responses: Counter[str] = Counter()
        self.faults_fired: Counter[str] = Counter()
        self.deliveries: list[dict[str, Any]] = []
        self.uploads: list[dict[str, Any]] = []
        self.connections = 0

    def as_json(self, runs: Iterable[Run], now: float, *, with_runs: bool) -> dict[str, Any]:
        """The ledger as JSON.

        :param runs: every run.
        :param now: unix milliseconds.
        :param with_runs: also list the runs one by one.
        """
        own = [run for run in runs if not run.foreign]
        charges = [run.technique.run_cost for run in own if run.status_at(now) == "completed"]
        return {
            **({"runs": [_run_as_json(run, now) for run in own]} if with_runs else {}),
            "started_runs": len(own),
            "charged_runs": len(charges),
            "charged_total": round(sum(charges), 6),
            "requests": dict(self.requests),
            "responses": dict(self.responses),
            "connections": self.connections,
            "faults_fired": dict(self.faults_fired),
            "deliveries": [*self.deliveries],
            "uploads": [*self.uploads],
        }


def _run_as_json(run: Run, now: float) -> dict[str, Any]:
    status = run.status_at(now)
    return {
        "run_id": run.run_id,
        "technique_id": run.technique.technique_id,
        "inputs": list(run.inputs),
        "idempotency_key": run.idempotency_key,
        "status": status,
        "created_at": run.created_at,
        "charged": run.charged_at(now),
        "error_code": run.failure[0] if run.failure and now >= run.ended_at else None,
    }
