"""The trigger that waits for the runs of a batch without occupying a worker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from airflow_provider_flora.airflow_compat import BaseTrigger, TriggerEvent

VERSION = 1
ENOUGH = 0.5
"""Share of the runs that must have finished, since a resumption should handle many rows."""
LONGEST_REST = 60.0
"""Seconds after the first finished run when the trigger fires in any case."""


class FloraBatchTrigger(BaseTrigger):
    """A trigger that waits until enough runs of a batch have finished, and fires once.

    Its event is ``{"version": 1, "finished": <number of runs>}``: the task itself reads what came of them.

    :param technique_id: id of the technique.
    :param run_ids: the runs.
    :param deadline: unix time in seconds at which the wait ends.
    :param poll_interval: seconds between two polls.
    :param flora_conn_id: the connection.
    :param version: version of these arguments, which Airflow stores while a task is deferred.
    :param others: arguments of another release of the provider. They are ignored.
    """

    def __init__(
        self,
        technique_id: str,
        run_ids: Sequence[str],
        deadline: float,
        poll_interval: float = 5.0,
        flora_conn_id: str = "flora_default",
        version: int = VERSION,
        **others: Any,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.technique_id = technique_id
        self.run_ids = list(run_ids)
        self.deadline = deadline
        self.poll_interval = poll_interval
        self.flora_conn_id = flora_conn_id

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the arguments for Airflow's database: plain JSON, without the API key."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "version": VERSION,
                "technique_id": self.technique_id,
                "run_ids": self.run_ids,
                "deadline": self.deadline,
                "poll_interval": self.poll_interval,
                "flora_conn_id": self.flora_conn_id,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait for the runs, and fire."""
        from airflow_provider_flora.runs.own_runs import remember

        remember(self.run_ids)
        waits = {asyncio.ensure_future(self._wait_for(run_id)) for run_id in self.run_ids}
        finished, ends = 0, None
        try:
            while waits and finished < ENOUGH * len(self.run_ids):
                left = None if ends is None else max(0.0, ends - time.monotonic())
                done, waits = await asyncio.wait(waits, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                finished += len(done)
                if not done:
                    break
                if ends is None:
                    ends = time.monotonic() + LONGEST_REST
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        yield TriggerEvent({"version": VERSION, "finished": finished})  # type: ignore[no-untyped-call]

    async def on_kill(self) -> None:
        """Log that the runs go on: a user has marked or cleared the deferred task (Airflow 3.3 and later)."""
        self.log.warning("%d runs go on at Flora, which cannot cancel runs, and may be charged", len(self.run_ids))

    async def _wait_for(self, run_id: str) -> None:
        """Wait for a run. Whatever ends the wait, the task finds out itself."""
        from airflow_provider_flora.api.errors import FloraError
        from airflow_provider_flora.hooks.flora import FloraHook
        from airflow_provider_flora.runs.watching import watch

        try:
            await watch(
                self.flora_conn_id,
                FloraHook(self.flora_conn_id).async_settings,
                self.technique_id,
                run_id,
                poll_interval=self.poll_interval,
                timeout=max(0.0, self.deadline - time.time()),
                deadline=self.deadline,
                waits_for_cost=False,
            )
        except FloraError as error:
            self.log.warning("The wait for %s ended: %s", run_id, error)
