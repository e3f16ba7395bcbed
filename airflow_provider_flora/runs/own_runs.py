"""The runs that deferred tasks of this triggerer process have started. Nothing of other processes.

Flora does not say who started a run, and a triggerer cannot ask Airflow's database. So what its own triggers wait
for is all that a watch can leave out. It is complete for deferred tasks if there is one triggerer.
"""

from __future__ import annotations

from collections.abc import Iterable

KEPT = 100_000
"""Number of runs that are remembered: the newest."""

_own: dict[str, None] = {}


def remember(run_ids: Iterable[str]) -> None:
    """Remember runs that tasks of this Airflow have started."""
    for run_id in run_ids:
        _own.pop(run_id, None)
        _own[run_id] = None
    while len(_own) > KEPT:
        del _own[next(iter(_own))]


def is_own(run_id: str) -> bool:
    """Whether a task that was deferred to this process has started the run."""
    return run_id in _own
