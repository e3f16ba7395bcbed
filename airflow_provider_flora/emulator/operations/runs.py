"""Flora's operations on runs: start one, read one, list them.

How a request comes in, and which faults it meets, is decided in ``service.py``.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

from airflow_provider_flora.emulator.faults.run_plans import RunPlan
from airflow_provider_flora.emulator.http.answers import answer_json
from airflow_provider_flora.emulator.http.errors import ApiError
from airflow_provider_flora.emulator.http.pages import bad_cursor, read_cursor, read_limit, write_cursor
from airflow_provider_flora.emulator.operations.idempotency import IdempotencyKeys
from airflow_provider_flora.emulator.operations.scope import check_project_id, is_own_workspace
from airflow_provider_flora.emulator.operations.start_request import StartRequestReader
from airflow_provider_flora.emulator.operations.techniques import find_technique
from airflow_provider_flora.emulator.operations.webhooks import Webhooks
from airflow_provider_flora.emulator.state.catalogue import Catalogue
from airflow_provider_flora.emulator.state.clock import Clock
from airflow_provider_flora.emulator.state.history import History
from airflow_provider_flora.emulator.state.runs import STATUSES, Run
from airflow_provider_flora.emulator.state.workspace import PROJECT_ID

PAGES = ("stable", "offset")


@dataclass(frozen=True)
class Started:
    """The result of a start.

    :param answer: the run as JSON.
    :param replayed: whether it is an earlier answer.
    :param stream: the run whose events are sent in place of the answer.
    """

    answer: dict[str, Any]
    replayed: bool = False
    stream: Run | None = None


class RunOperations:
    """The operations on runs.

    :param clock: the emulator's time.
    :param catalogue: the techniques.
    :param history: the runs.
    :param keys: the idempotency keys.
    :param webhooks: delivers the end of a run.
    :param reader: reads the body of a start.
    :param cost_lag: seconds after the end of a run until its charge is known.
    :param pages: how history is cut into pages, one of :data:`PAGES`.
    :param is_own_host: whether a host, with its port, is the emulator.
    """

    def __init__(
        self,
        clock: Clock,
        catalogue: Catalogue,
        history: History,
        keys: IdempotencyKeys,
        webhooks: Webhooks,
        reader: StartRequestReader,
        cost_lag: float,
        pages: str,
        is_own_host: Callable[[str], bool],
    ) -> None:
        self._clock = clock
        self._catalogue = catalogue
        self._history = history
        self._keys = keys
        self._webhooks = webhooks
        self._reader = reader
        self.cost_lag = cost_lag
        if pages not in PAGES:
            raise ValueError(f"pages is {pages!r}: it must be one of {', '.join(PAGES)}")
        self._pages = pages
        self._is_own_host = is_own_host

    async def start(self, request: web.Request, make_plan: Callable[[], Awaitable[RunPlan]]) -> Started:
        """``POST /techniques/{techniqueId}/runs``, up to its answer.

        :param request: the request.
        :param make_plan: awaited once the request is valid and its key is free.
        """
        technique = find_technique(self._catalogue, request)

        def is_own_url(url: str) -> bool:
            parts = urlsplit(url)
            return parts.scheme == "http" and (parts.netloc == request.host or self._is_own_host(parts.netloc))

        start = self._reader.read(await request.read(), technique, is_own_url)
        body = (technique.technique_id, start)
        if start.idempotency_key:
            earlier = self._keys.earlier_answer(start.idempotency_key, body)
            if earlier is not None:
                return Started(earlier, replayed=True)
        plan = await make_plan()
        key_after = plan.pop("key_after", 0)
        run = self._history.start(
            technique,
            start.inputs,
            idempotency_key=start.idempotency_key,
            callback_url=start.callback_url,
            **plan,
        )
        self._webhooks.watch(run)
        if key_after:
            await asyncio.sleep(key_after)
        # The answer shows the run as it began, and carries a quote, even when the run has ended at once.
        begun = run.as_json(run.created_at, f"http://{request.host}", self.cost_lag)
        answer = {**begun, "charged_cost": technique.run_cost}
        if start.idempotency_key:
            self._keys.record(start.idempotency_key, body, answer)
        return Started(answer, stream=run if start.mode == "stream" else None)

    async def answer_start(self, started: Started, request: web.Request) -> web.StreamResponse:
        """Send the result of a start.

        :param started: the result.
        :param request: the request.
        """
        if started.stream is not None:
            return await self._stream(started.stream, request)
        return answer_json(started.answer, **({"idempotent-replayed": "true"} if started.replayed else {}))

    async def get(self, request: web.Request) -> web.StreamResponse:
        """``GET /techniques/{techniqueId}/runs/{runId}``."""
        run = self._history.get(request.match_info["run"])
        if run is None or run.technique.technique_id != find_technique(self._catalogue, request).technique_id:
            raise ApiError(404)
        return answer_json(self._as_json(run, request))

    async def list_runs(self, request: web.Request) -> web.StreamResponse:
        """``GET /technique-runs``, newest first."""
        query, limit = request.query, read_limit(request)
        project_id, status, address = query.get("project_id"), query.get("status"), query.get("technique_id")
        here = is_own_workspace(query.get("workspace_id"))
        check_project_id(project_id)
        if status is not None and status not in STATUSES:
            raise ApiError(400, fields=[("status", f"Must be one of: {', '.join(STATUSES)}")])
        before, offset = self._read_place(query["cursor"]) if "cursor" in query else (None, 0)
        technique = self._catalogue.find(address) if address is not None else None
        if not here or project_id not in (None, PROJECT_ID) or (address is not None and technique is None):
            return answer_json({"technique_runs": [], "meta": {"next_cursor": None, "total_estimate": 0}})
        runs, more, total, moment = self._history.page(
            technique.technique_id if technique else None, status, before, limit, offset
        )
        place = offset + len(runs) if self._pages == "offset" else runs and runs[-1].sort_key
        origin = f"http://{request.host}"
        return answer_json(
            {
                "technique_runs": [run.as_history_item(moment, origin, self.cost_lag) for run in runs],
                "meta": {
                    "next_cursor": write_cursor("technique-runs", place) if more else None,
                    "total_estimate": total,
                },
            }
        )

    def _read_place(self, cursor: str) -> tuple[tuple[int, int] | None, int]:
        """The run before which a page begins, by its sort key, and how many runs the page leaves out first."""
        place = read_cursor("technique-runs", cursor)
        if self._pages == "offset" and type(place) is int and place >= 0:
            return None, place
        if self._pages == "stable" and isinstance(place, list) and [type(part) for part in place] == [int, int]:
            return (place[0], place[1]), 0
        raise bad_cursor()

    def _as_json(self, run: Run, request: web.Request) -> dict[str, Any]:
        return run.as_json(self._clock.now(), f"http://{request.host}", self.cost_lag)

    async def _stream(self, run: Run, request: web.Request) -> web.StreamResponse:
        """Send the run as server-sent events: one at each change of status, and one a second, until it ends."""
        stream = web.StreamResponse(headers={"content-type": "text/event-stream", "cache-control": "no-store"})
        await stream.prepare(request)
        try:
            while True:
                now = self._clock.now()
                event = json.dumps(self._as_json(run, request), separators=(",", ":"))
                await stream.write(f"data: {event}\n\n".encode())
                if now >= run.ended_at:
                    break
                await asyncio.sleep(min(1.0, (run.next_change_after(now) - now) / 1000 + 0.001))
        except ConnectionError:
            pass  # The client is gone; the run goes on.
        return stream
