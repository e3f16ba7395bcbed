"""What a connection limits, checked before each start: the order of the checks.

A start that may belong to a run that is there already is not checked: only what would be a new run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_provider_flora.airflow_compat import is_dag_test
from airflow_provider_flora.api.errors import FloraError
from airflow_provider_flora.runs.catchups import CatchupRuns
from airflow_provider_flora.runs.credits import CreditsNotice
from airflow_provider_flora.runs.daily_cost import check_daily_cost
from airflow_provider_flora.task.attempt import Attempt
from airflow_provider_flora.task.catchup import BACKFILL, catchup_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType
    from typing import Any

    from airflow_provider_flora.api.client import FloraClient
    from airflow_provider_flora.api.models import Technique
    from airflow_provider_flora.task.log import Log
    from airflow_provider_flora.task.rules import ConnectionRules


@dataclass(frozen=True)
class Limits:
    """The limits of a connection, for one attempt of a task.

    :param conn_id: the connection that sets them.
    :param technique_id: the technique, as the user named it.
    :param catchup: ``catchup`` or ``backfill`` if the DAG run is one that is to be counted.
    """

    rules: ConnectionRules
    conn_id: str
    technique_id: str
    attempt: Attempt
    catchup: str | None

    @classmethod
    def of(cls, context: Mapping[str, Any], rules: ConnectionRules, conn_id: str, technique_id: str) -> Limits:
        """Return the limits for the attempt of a context."""
        return cls(rules, conn_id, technique_id, Attempt.of(context), catchup_of(context))


class LimitedStart:
    """One start within limits: ``with LimitedStart(limits, client) as start``.

    While it is entered, an error about credits becomes a notice for other tasks, and a start that succeeds removes
    that notice.
    """

    def __init__(self, limits: Limits, client: FloraClient) -> None:
        self._limits = limits
        self._client = client
        self._notice = CreditsNotice(client.settings)
        self._is_checked = False

    def check(self, technique: Technique) -> None:
        """Check that a new run of the technique may be started.

        :raises FloraCreditsError: the workspace has run out of credits a moment ago.
        :raises FloraLimitError: a limit of the connection would be exceeded, or cannot be checked.
        :raises FloraPriceError: ``max_daily_cost`` is set, and the technique has no price.
        :raises FloraStorageError: a file that tasks share is locked for too long. A retry may help.
        """
        limits, rules = self._limits, self._limits.rules
        self._notice.check(limits.attempt)
        check_daily_cost(rules, self._client, limits.conn_id, technique, limits.technique_id)
        # A backfill that processes DAG runs again clears their tasks, which looks as if a person had done so.
        if limits.catchup == BACKFILL or (limits.catchup is not None and not limits.attempt.was_cleared):
            catchups = CatchupRuns(self._client.settings, rules.max_catchup_runs, limits.conn_id)
            catchups.check(limits.attempt, limits.catchup)
        self._is_checked = True

    def __enter__(self) -> LimitedStart:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, FloraError):
            self._notice.post(error)
        elif error is None and self._is_checked:  # else a run was taken up, which says nothing about credits
            self._notice.remove()


def warn_in_tests(
    context: Mapping[str, Any], technique: Technique, client: FloraClient, log: Log, runs: int = 1
) -> None:
    """Log what runs will cost if the task runs in ``dags test``, ``tasks test`` or ``dag.test()``.

    :param runs: the number of runs that are about to be started.
    """
    if not is_dag_test(context["ti"]):
        return
    price = "an unknown price" if technique.run_cost is None else f"{runs * technique.run_cost:g} USD"
    count = "1 run" if runs == 1 else f"{runs:,} runs"
    log.warning(
        "This is a test in Airflow, but its runs at Flora are real: it starts %s of %s at %s and pays %s. Each "
        "test pays again",
        count,
        technique.name,
        client.settings.base_url,
        price,
    )
