"""FloraTechniqueRunSensor: waits for an existing run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow_provider_flora.airflow_compat import (
    AirflowSensorTimeout,
    AirflowSkipException,
    BaseSensorOperator,
    PokeReturnValue,
    conf,
)
from airflow_provider_flora.lineage.telling import TellsLineage
from airflow_provider_flora.task.deadline import NO_TRIGGERER_GRACE, Deadline
from airflow_provider_flora.task.parameters import check_choice
from airflow_provider_flora.task.state import REFUSAL, store_of

if TYPE_CHECKING:
    from airflow_provider_flora.airflow_compat import Context
    from airflow_provider_flora.api.errors import FloraError
    from airflow_provider_flora.api.models import Run
    from airflow_provider_flora.api.waiting import Trouble

_SMALLEST_INTERVAL = 1.0
"""Seconds between two polls if ``poke_interval`` is 0."""


class FloraTechniqueRunSensor(TellsLineage, BaseSensorOperator):
    """Wait for a technique run and return its outputs, as the operator does.

    ``mode="poke"`` occupies a worker, ``mode="reschedule"`` one for each poll, ``deferrable=True`` none. An error
    ends the wait only if Flora itself refuses twice, three minutes apart.

    :param technique_id: id or slug of the technique. (templated)
    :param run_id: the run to wait for. (templated)
    :param flora_conn_id: the connection. (templated)
    :param deferrable: wait in the triggerer. Default: Airflow's ``default_deferrable``.
    :param returns: ``run`` for the operator's dict, ``outputs`` for its list of outputs.
    :param poke_interval: seconds between two polls. Default: 5. Use 60 or more with ``mode="reschedule"``, which
        starts a worker process for each poll.
    :param timeout: longest wait in seconds. A shorter ``execution_timeout`` takes precedence. Default: a day.
    :raises AirflowFailException: the run failed, and a retry cannot fix it.
    :raises FloraRunFailedError: the run failed.
    :raises FloraAPIError: Flora refuses to show the run. A retry may succeed.
    :raises AirflowSensorTimeout: the run did not finish in time, and goes on at Flora. With ``soft_fail`` the task
        is skipped instead.
    """

    template_fields: Sequence[str] = ("technique_id", "run_id", "flora_conn_id")
    ui_color = "#e8f0e4"
    lineage_mode = "wait"

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
        check_choice("returns", returns, ("run", "outputs"))
        self.poke_interval = self.poke_interval or _SMALLEST_INTERVAL
        self.technique_id = technique_id
        self.run_id = run_id
        self.flora_conn_id = flora_conn_id
        self.deferrable = deferrable
        self.returns = returns
        self._trouble: Trouble | None = None

    def poke(self, context: Context) -> PokeReturnValue:
        """Poll the run once."""
        from airflow_provider_flora.runs.outcome import airflow_errors

        with airflow_errors(context):
            run = self._poll_leniently(context)
            if run is None or not run.finished:
                return PokeReturnValue(is_done=False)
            return PokeReturnValue(is_done=True, xcom_value=self._hand_over(run, context))

    def execute(self, context: Context) -> Any:
        """Wait in the chosen mode."""
        if not self.deferrable:
            try:
                return super().execute(context)
            except AirflowSensorTimeout as error:
                failing = f"The last poll failed: {self._trouble.last.rstrip('.')}. " if self._trouble else ""
                raise AirflowSensorTimeout(f"{error} {failing}{self._advice()}") from None
        if (polled := self.poke(context)).is_done:
            return polled.xcom_value
        return self._defer(Deadline(self.timeout, self.execution_timeout))

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Return the value of the finished run in the trigger's event."""
        from airflow_provider_flora.api.errors import FloraRunTimeoutError
        from airflow_provider_flora.hooks.flora import FloraHook
        from airflow_provider_flora.runs.events import finished_run
        from airflow_provider_flora.runs.outcome import airflow_errors

        with airflow_errors(context):
            try:
                run = finished_run(event, FloraHook(self.flora_conn_id).get_conn, self.technique_id)
            except FloraRunTimeoutError as error:
                raise (AirflowSkipException if self.soft_fail else AirflowSensorTimeout)(str(error)) from None
            return self._hand_over(run, context)

    def _poll_leniently(self, context: Context) -> Run | None:
        """Poll the run. Return ``None`` after a transient error.

        :raises FloraError: an error that ends the wait.
        """
        from airflow_provider_flora.api.errors import FloraParameterError
        from airflow_provider_flora.api.waiting import as_flora_error

        try:
            run = self._poll()
        except FloraParameterError:
            raise  # there can be no such run
        except Exception as error:
            self._handle_error(as_flora_error(error), context)
            return None
        self._trouble = None
        self._store_refusal(context, None)
        self.log.info("%s is %s, %g %%", run.run_id, run.status, run.progress)
        return run

    def _poll(self) -> Run:
        from airflow_provider_flora.api.waiting import COST_GRACE
        from airflow_provider_flora.hooks.flora import FloraHook
        from airflow_provider_flora.task.connection import unread_connection

        try:
            client = FloraHook(self.flora_conn_id).get_conn()
        except Exception as error:
            problem = unread_connection(self.flora_conn_id, error)
            raise problem from problem.__cause__
        with client:
            run = client.get_technique_run(self.technique_id, self.run_id)
            if run.finished and not run.settled:
                run = client.wait_for_technique_run(self.technique_id, self.run_id, 1.0, COST_GRACE)
        return run

    def _handle_error(self, error: FloraError, context: Context) -> None:
        """Store the error of a poll, and log it once.

        :raises FloraError: this error, if it ends the wait.
        """
        error.run_id, error.technique_id = self.run_id, self.technique_id
        self._trouble = trouble = self._trouble or self._load_trouble(context)
        try:
            trouble.add(error, time.time())
        except Exception:
            self._store_refusal(context, None)
            raise
        self._store_refusal(context, trouble)
        if not trouble.reported:
            trouble.reported = True
            self.log.warning("%s cannot be polled now. The sensor goes on: %s", self.run_id, error)

    def _load_trouble(self, context: Context) -> Trouble:
        """Return the errors of earlier polls, which ran in other processes if the sensor reschedules."""
        from airflow_provider_flora.api.waiting import Trouble

        if not self.reschedule:
            return Trouble()
        store = store_of(context)
        if store is None:
            # Without a store, assume that Flora has refused since the first poll.
            ti = context["ti"]
            get_first_date = getattr(ti, "get_first_reschedule_date", None)  # Airflow 2 has put it into start_date
            began = (get_first_date(context) if get_first_date else None) or ti.start_date
            return Trouble(began.timestamp() if began else None)
        stored: Any = None
        with suppress(Exception):  # the store may be unavailable
            stored = store.get(REFUSAL)
        return Trouble(stored.get("since"), stored.get("status")) if isinstance(stored, dict) else Trouble()

    def _store_refusal(self, context: Context, trouble: Trouble | None) -> None:
        """Store Flora's refusal, or its end, for the next poll if that runs in another process."""
        store = store_of(context)
        if store is None or not self.reschedule:
            return
        with suppress(Exception):
            if trouble is None:
                store.delete(REFUSAL)
            elif trouble.refused_since is not None:
                store.set(REFUSAL, {"since": trouble.refused_since, "status": trouble.refused_with})

    def _defer(self, deadline: Deadline) -> None:
        from airflow_provider_flora.triggers.flora import FloraTechniqueRunTrigger

        self.defer(
            trigger=FloraTechniqueRunTrigger(
                technique_id=self.technique_id,
                run_id=self.run_id,
                deadline=deadline.unix_time(),
                poll_interval=self.poke_interval,
                flora_conn_id=self.flora_conn_id,
                timeout=deadline.timeout,
                own=False,
            ),
            method_name="execute_complete",
            timeout=timedelta(seconds=deadline.seconds_left()) + NO_TRIGGERER_GRACE,
        )

    def _hand_over(self, run: Run, context: Context) -> Any:
        from airflow_provider_flora.runs.outcome import count_run, hand_over

        if self.do_xcom_push and not run.failed:
            context["ti"].xcom_push(key="run_id", value=run.run_id)
        count_run(run, self.technique_id, self, context, again=True)
        return hand_over(run, self.technique_id, context, self.returns, self.log)

    def _advice(self) -> str:
        return f"Run {self.run_id} goes on at Flora, which cannot cancel runs. A new sensor can wait for it."
