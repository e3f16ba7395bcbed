"""FloraTechniqueRunSensor: wait for a run that something else started."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import (
    AirflowSensorTimeout,
    AirflowSkipException,
    BaseSensorOperator,
    PokeReturnValue,
    conf,
)

from airflow_provider_flora.runs.deadline import NO_TRIGGERER_GRACE, Deadline
from airflow_provider_flora.runs.parameters import one_of

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_flora.api.client import FloraClient
    from airflow_provider_flora.api.models import Run


class FloraTechniqueRunSensor(BaseSensorOperator):
    """Wait for a technique run and hand its outputs on, as the operator does.

    ``mode="poke"`` holds a worker, ``mode="reschedule"`` one for each look, ``deferrable=True`` none. An error of
    the network, 408, 429 or 5xx during the wait never fails the task.

    :param technique_id: id or slug of the technique. (templated)
    :param run_id: the run to wait for. (templated)
    :param flora_conn_id: the connection. (templated)
    :param deferrable: wait in the triggerer. Default: Airflow's ``default_deferrable``.
    :param returns: ``run`` for the operator's dict, ``outputs`` for its list of outputs.
    :param poke_interval: seconds between two looks. Default 5, which suits a worker that waits and the triggerer;
        take 60 or more with ``mode="reschedule"``, where each look is a task of its own.
    :param timeout: seconds to wait at most, and ``execution_timeout`` with it: the earlier wins. Default: a day.
    :raises AirflowFailException: the run failed and no retry can mend it.
    :raises FloraRunFailedError: the run failed.
    :raises AirflowSensorTimeout: the run did not finish in time; it goes on at Flora. With ``soft_fail`` the task
        is skipped instead.
    """

    template_fields: Sequence[str] = ("technique_id", "run_id", "flora_conn_id")
    ui_color = "#e8f0e4"

    def __init__(
        self,
        *,
        technique_id: str,
        run_id: str,
        flora_conn_id: str = "flora_default",
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        returns: str = "run",
        poke_interval: float = 5.0,
        timeout: float = 86400.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(poke_interval=poke_interval, timeout=timeout, **kwargs)
        one_of("returns", returns, ("run", "outputs"))
        self.technique_id = technique_id
        self.run_id = run_id
        self.flora_conn_id = flora_conn_id
        self.deferrable = deferrable
        self.returns = returns

    def poke(self, context: Context) -> PokeReturnValue:
        """Look at the run once."""
        from airflow_provider_flora.hooks.flora import FloraHook
        from airflow_provider_flora.runs.outcome import airflow_errors

        with airflow_errors(), FloraHook(self.flora_conn_id).get_conn() as client:
            run = self._look(client, context)
            if run is None or not run.finished:
                return PokeReturnValue(is_done=False)
            return PokeReturnValue(is_done=True, xcom_value=self._hand_over(run, context))

    def execute(self, context: Context) -> Any:
        """Wait in the way that was chosen."""
        if not self.deferrable:
            try:
                return super().execute(context)
            except AirflowSensorTimeout as error:
                raise AirflowSensorTimeout(f"{error} {self._goes_on()}") from error
        if (looked := self.poke(context)).is_done:
            return looked.xcom_value
        return self._defer(Deadline(self.timeout, self.execution_timeout))

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Hand over the finished run that the trigger's event carries."""
        from airflow_provider_flora.runs.outcome import airflow_errors, run_of_event

        if "timeout" in event:
            raise (AirflowSkipException if self.soft_fail else AirflowSensorTimeout)(event["timeout"])
        with airflow_errors():
            return self._hand_over(run_of_event(event), context)

    def _look(self, client: FloraClient, context: Context) -> Run | None:
        from airflow_provider_flora.api.errors import FloraAPIError, FloraError
        from airflow_provider_flora.api.protocol import COST_GRACE, NOT_FOUND_GRACE

        try:
            run = client.get_technique_run(self.technique_id, self.run_id)
            if run.finished and not run.settled:
                run = client.wait_for_technique_run(self.technique_id, self.run_id, 1.0, COST_GRACE)
        except FloraError as error:
            began = context["ti"].start_date
            is_young = began is None or time.time() - began.timestamp() < NOT_FOUND_GRACE
            is_missing = isinstance(error, FloraAPIError) and error.status == 404
            if not error.transient and not (is_missing and is_young):
                raise
            self.log.warning("Cannot see %s now: %s", self.run_id, error)
            return None
        self.log.info("%s is %s, %g %%", run.run_id, run.status, run.progress)
        return run

    def _defer(self, deadline: Deadline) -> None:
        from airflow_provider_flora.triggers.flora import FloraTechniqueRunTrigger

        self.defer(
            trigger=FloraTechniqueRunTrigger(
                technique_id=self.technique_id,
                run_id=self.run_id,
                deadline=deadline.unix_time(),
                poll_interval=self.poke_interval,
                flora_conn_id=self.flora_conn_id,
            ),
            method_name="execute_complete",
            timeout=timedelta(seconds=deadline.seconds_left()) + NO_TRIGGERER_GRACE,
        )

    def _hand_over(self, run: Run, context: Context) -> Any:
        from airflow_provider_flora.runs.outcome import hand_over

        if self.do_xcom_push and not run.failed:
            context["ti"].xcom_push(key="run_id", value=run.run_id)
        return hand_over(run, self.technique_id, context, self.returns)

    def _goes_on(self) -> str:
        return f"Run {self.run_id} goes on at Flora, which cannot cancel runs; a new sensor can wait for it."
