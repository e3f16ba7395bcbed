"""The trigger that waits for a run without occupying a worker."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from airflow_provider_flora.airflow_compat import BaseTrigger, TriggerEvent

if TYPE_CHECKING:
    from airflow_provider_flora.api.models import Run

VERSION = 1


class FloraTechniqueRunTrigger(BaseTrigger):
    """A trigger that waits for a technique run and fires once, with the finished run or with an error.

    Errors of the network, the connection or a proxy do not end the wait before its deadline. A refusal by Flora
    ends it only if repeated minutes later. ``runs.events`` documents the event. Read it with
    :func:`~airflow_provider_flora.runs.events.finished_run`.

    :param technique_id: id or slug of the technique.
    :param run_id: the run.
    :param deadline: unix time in seconds at which the wait ends.
    :param poll_interval: seconds between two polls. Flora recommends 2 to 5.
    :param flora_conn_id: the connection.
    :param timeout: seconds, as the user set it, for the error. Default: the seconds until the deadline.
    :param own: whether a task of this Airflow has started the run.
    :param version: version of these arguments, which Airflow stores while a task is deferred.
    :param others: arguments of another release of the provider. They are ignored.
    """

    def __init__(
        self,
        technique_id: str,
        run_id: str,
        deadline: float,
        poll_interval: float = 5.0,
        flora_conn_id: str = "flora_default",
        timeout: float | None = None,
        own: bool = True,
        version: int = VERSION,
        **others: Any,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.technique_id = technique_id
        self.run_id = run_id
        self.deadline = deadline
        self.poll_interval = poll_interval
        self.flora_conn_id = flora_conn_id
        self.timeout = timeout
        self.own = own

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the arguments for Airflow's database: plain JSON, without the API key."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "version": VERSION,
                "technique_id": self.technique_id,
                "run_id": self.run_id,
                "deadline": self.deadline,
                "poll_interval": self.poll_interval,
                "flora_conn_id": self.flora_conn_id,
                "timeout": self.timeout,
                **({} if self.own else {"own": False}),
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait for the run, and fire."""
        from airflow_provider_flora.api.errors import FloraInternalError
        from airflow_provider_flora.api.waiting import as_flora_error
        from airflow_provider_flora.runs.events import WaitEvent
        from airflow_provider_flora.runs.own_runs import remember

        if self.own:
            remember([self.run_id])
        try:
            event = WaitEvent.of_run(await self._finished_run(), self.technique_id)
        except Exception as error:
            reason = as_flora_error(error)
            if isinstance(reason, FloraInternalError):
                self.log.error("The wait for %s failed", self.run_id, exc_info=reason.__cause__)
            event = WaitEvent.of_error(reason, self.technique_id, self.run_id)
        yield TriggerEvent(event)  # type: ignore[no-untyped-call]

    async def on_kill(self) -> None:
        """Log that the run goes on: a user has marked or cleared the deferred task (Airflow 3.3 and later)."""
        self.log.warning("%s goes on at Flora, which cannot cancel runs, and may be charged", self.run_id)

    async def _finished_run(self) -> Run:
        from airflow_provider_flora.api.waiting import WaitLog
        from airflow_provider_flora.hooks.flora import FloraHook
        from airflow_provider_flora.runs.watching import watch

        return await watch(
            self.flora_conn_id,
            FloraHook(self.flora_conn_id).async_settings,
            self.technique_id,
            self.run_id,
            poll_interval=self.poll_interval,
            timeout=max(0.0, self.deadline - time.time()) if self.timeout is None else self.timeout,
            deadline=self.deadline,
            listener=WaitLog(self.log),
        )
