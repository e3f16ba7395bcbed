"""The trigger that waits for a run while no worker is held."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

if TYPE_CHECKING:
    from airflow_provider_flora.api.models import Run

_LAST_LOOK = 5.0
"""Seconds beyond a poll interval, for one look after the deadline: the run may have ended unwatched."""


class FloraTechniqueRunTrigger(BaseTrigger):
    """Waits for a technique run and fires once.

    The event is one of:

    - ``{"run": {...}}``: the finished run, completed or failed, as Flora sent it;
    - ``{"timeout": "..."}``: the deadline passed; the run goes on at Flora;
    - ``{"error": "...", "retryable": bool}``: waiting further cannot help (the key was revoked, say).

    Errors of the network, 408, 429 and 5xx do not end the wait.

    :param technique_id: id or slug of the technique.
    :param run_id: the run.
    :param deadline: unix time in seconds at which the wait ends.
    :param poll_interval: seconds between two looks; Flora recommends 2 to 5.
    :param flora_conn_id: the connection.
    """

    def __init__(
        self,
        technique_id: str,
        run_id: str,
        deadline: float,
        poll_interval: float = 5.0,
        flora_conn_id: str = "flora_default",
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.technique_id = technique_id
        self.run_id = run_id
        self.deadline = deadline
        self.poll_interval = poll_interval
        self.flora_conn_id = flora_conn_id

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what the metadata database keeps: plain JSON, without the key."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "technique_id": self.technique_id,
                "run_id": self.run_id,
                "deadline": self.deadline,
                "poll_interval": self.poll_interval,
                "flora_conn_id": self.flora_conn_id,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, and fire."""
        from airflow_provider_flora.api.errors import FloraError, FloraRunTimeoutError

        try:
            run = await self._finished_run()
        except FloraRunTimeoutError as error:
            event: dict[str, Any] = {"timeout": str(error)}
        except FloraError as error:
            event = {"error": str(error), "retryable": error.remedy.retryable}
        else:
            event = {"run": run.model_dump(exclude_none=True)}
        yield TriggerEvent(event)  # type: ignore[no-untyped-call]

    async def _finished_run(self) -> Run:
        from airflow_provider_flora.hooks.flora import FloraHook
        from airflow_provider_flora.runs.watching import watch

        info = self.log.info  # asked for once: Airflow 3 makes a logger anew each time

        def tell(run: Run) -> None:
            info("%s is %s, %g %%", run.run_id, run.status, run.progress)

        left = self.deadline - time.time()
        return await watch(
            self.flora_conn_id,
            FloraHook(self.flora_conn_id).async_settings,
            self.technique_id,
            self.run_id,
            poll_interval=self.poll_interval,
            timeout=left if left > 0 else self.poll_interval + _LAST_LOOK,
            on_change=tell,
        )
