"""The trigger of an asset watcher: it tells an Airflow asset of each Flora run that ends, whoever started it."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from airflow_provider_flora.airflow_compat import TriggerEvent, asset_state_stores, find_event_trigger

if TYPE_CHECKING:
    from airflow_provider_flora.airflow_compat import BaseEventTrigger
else:
    BaseEventTrigger = find_event_trigger()

VERSION = 1
SHORTEST_INTERVAL = 1.0
_NAME = re.compile(r"[^\s/?#]+")
PAUSE_AFTER_BUG = 60.0
"""Seconds before a programming error ends the trigger: Airflow starts it again at once, each time."""


class FloraRunsTrigger(BaseEventTrigger):
    """A trigger for an ``AssetWatcher``. It makes one asset event for each run that ends (Airflow 3.0 and later).

    .. code-block:: python

        films = Asset(
            "designers_films",
            watchers=[AssetWatcher(name="flora", trigger=FloraRunsTrigger(technique_id="product-motion"))],
        )


        @dag(schedule=[films])
        def publish(): ...

    A DAG finds the run in ``triggering_asset_events``, in ``event.extra["payload"]``: ``run_id``, ``technique_id``,
    ``technique_name``, ``status``, ``outputs``, ``output_urls``, ``charged_cost`` in USD (``None`` if Flora does
    not report it within seconds), ``created_at``, ``started_at`` and ``completed_at`` in unix milliseconds,
    ``error_code``, ``error_message``, and ``whole``: false if an output is left out because it is long. All of it
    was received from Flora. DAG runs may get several events at once.

    From Airflow 3.3 on, each run is told of once, also over restarts and kills of the triggerer, and runs that
    ended meanwhile follow in the order in which they ended. Before 3.3, a watch begins anew with each start of the
    triggerer, and an event that it has not stored by its end is lost. Runs that had ended before the first start
    are never told of. All triggers of a connection in one triggerer share one request in each interval.

    An error of the network, of Flora or of the connection does not end the trigger.

    :param technique_id: id or slug of the technique. Default: runs of every technique.
    :param status: ``completed`` or ``failed``; ``None`` for both.
    :param exclude_own: leave out runs that deferred operators and batches have started, as far as this triggerer
        process has waited for them. Other runs of this Airflow are not known to a triggerer: of tasks that wait on
        a worker or not at all, and of other triggerers. Flora does not say who started a run. So a DAG that starts
        runs of a technique must not be started by them.
    :param poll_interval: seconds between two polls, at least 1. The shortest of a connection's triggers counts.
    :param flora_conn_id: the connection.
    :param version: version of these arguments, which Airflow stores.
    :param others: arguments of another release of the provider. They are ignored.
    :raises ValueError: ``technique_id``, ``status`` or ``poll_interval`` is none of these.
    """

    def __init__(
        self,
        technique_id: str | None = None,
        status: str | None = "completed",
        exclude_own: bool = False,
        poll_interval: float = 10.0,
        flora_conn_id: str = "flora_default",
        version: int = VERSION,
        **others: Any,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        if status not in ("completed", "failed", None):
            raise ValueError(f"status takes 'completed', 'failed' or None for both, not {status!r}")
        if technique_id is not None and not (isinstance(technique_id, str) and _NAME.fullmatch(technique_id)):
            raise ValueError(f"technique_id takes an id or a slug, or None for every one, not {technique_id!r}")
        if type(poll_interval) not in (int, float) or not SHORTEST_INTERVAL <= poll_interval < math.inf:
            raise ValueError(f"poll_interval takes {SHORTEST_INTERVAL:g} second or more, not {poll_interval!r}")
        self.technique_id = technique_id
        self.status = status
        self.exclude_own = exclude_own
        self.poll_interval = poll_interval
        self.flora_conn_id = flora_conn_id
        self._events: Any = None

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the arguments for Airflow's database: plain JSON, without the API key."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "version": VERSION,
                "technique_id": self.technique_id,
                "status": self.status,
                "exclude_own": self.exclude_own,
                "poll_interval": self.poll_interval,
                "flora_conn_id": self.flora_conn_id,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Fire once for each run.

        :raises FloraInternalError: a bug in this provider prevents it. Airflow logs it, and starts the trigger
        again.
        """
        from airflow_provider_flora.api.errors import FloraInternalError

        try:
            async with aclosing(self._watch()) as self._events:
                async for event in self._events:
                    yield TriggerEvent(event)  # type: ignore[no-untyped-call]
        except FloraInternalError:
            await asyncio.sleep(PAUSE_AFTER_BUG)
            raise

    def _watch(self) -> Any:
        from airflow_provider_flora.hooks.flora import FloraHook
        from airflow_provider_flora.runs.ended_runs import RunsWatch

        return RunsWatch(
            self.flora_conn_id,
            FloraHook(self.flora_conn_id).async_settings,
            self.technique_id,
            self.status,
            self.exclude_own,
            self.poll_interval,
            asset_state_stores(self),
        ).events()

    async def cleanup(self) -> None:
        """Leave the shared poll, also where Airflow has ended the trigger between two events."""
        if self._events is not None:
            await self._events.aclose()
