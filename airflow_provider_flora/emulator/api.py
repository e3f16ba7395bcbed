"""Flora's operations: what each answers.

How a request comes in, and what may go wrong with it on order, is the business of ``service.py``.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

from airflow_provider_flora.emulator.catalogue import TECHNIQUES, Technique, find_technique
from airflow_provider_flora.emulator.clock import Clock
from airflow_provider_flora.emulator.cursors import read_cursor, write_cursor
from airflow_provider_flora.emulator.errors import ApiError
from airflow_provider_flora.emulator.history import History
from airflow_provider_flora.emulator.idempotency import IdempotencyKeys
from airflow_provider_flora.emulator.runs import PROJECT_ID, STATUSES, WORKSPACE_ID, Run
from airflow_provider_flora.emulator.start_request import StartRequestReader
from airflow_provider_flora.emulator.webhooks import Webhooks

DEFAULT_LIMIT = 20
MAX_LIMIT = 100
_PUBLIC_PROJECT_ID = re.compile(r"prj_[A-Za-z0-9]+")

Fate = dict[str, Any]
"""What was ordered for a run that is about to start: ``failure``, ``stalled`` and ``output_bytes``."""


def answer_json(payload: Any, **headers: str) -> web.Response:
    """An answer of compact JSON."""
    text = json.dumps(payload, separators=(",", ":"))
    return web.Response(text=text, content_type="application/json", headers=headers)


class Api:
    """The operations.

    :param clock: Tells the time.
    :param history: The runs.
    :param keys: The idempotency keys.
    :param webhooks: Delivers the end of a run.
    :param reader: Reads the body of a start.
    :param cost_lag: Seconds after its end for which the charge of a run is not known yet.
    :param is_own_host: Tells whether a host, with its port, is the emulator.
    """

    def __init__(
        self,
        clock: Clock,
        history: History,
        keys: IdempotencyKeys,
        webhooks: Webhooks,
        reader: StartRequestReader,
        cost_lag: float,
        is_own_host: Callable[[str], bool],
    ) -> None:
        self._clock = clock
        self._history = history
        self._keys = keys
        self._webhooks = webhooks
        self._reader = reader
        self._cost_lag = cost_lag
        self._is_own_host = is_own_host
        self._created_at = int(clock.now())
        self._techniques = sorted(TECHNIQUES, key=lambda technique: technique.technique_id)
        self._technique_json = {technique.slug: technique.as_json() for technique in self._techniques}

    async def list_workspaces(self, request: web.Request) -> web.StreamResponse:
        """``GET /workspaces``."""
        workspace = {
            "workspace_id": WORKSPACE_ID,
            "name": "Emulator",
            "role": "owner",
            "created_at": self._created_at,
        }
        return answer_json({"workspaces": [workspace]})

    async def list_techniques(self, request: web.Request) -> web.StreamResponse:
        """``GET /techniques``."""
        query, limit = request.query, read_limit(request)
        after = read_cursor("techniques", query["cursor"]) if "cursor" in query else ""
        words = query.get("query", "").lower()
        found = [
            technique
            for technique in self._techniques
            if technique.technique_id > after
            and words in f"{technique.name} {technique.description}".lower()
            and query.get("workspace_id", WORKSPACE_ID) == WORKSPACE_ID
        ]
        page = found[:limit]
        more = write_cursor("techniques", page[-1].technique_id) if len(found) > limit else None
        return answer_json(
            {
                "techniques": [self._technique_json[technique.slug] for technique in page],
                "meta": {"next_cursor": more},
            }
        )

    async def get_technique(self, request: web.Request) -> web.StreamResponse:
        """``GET /techniques/{techniqueId}``."""
        return answer_json(self._technique_json[_technique(request).slug])

    async def start_technique_run(
        self, request: web.Request, fate: Callable[[], Awaitable[Fate]]
    ) -> web.StreamResponse:
        """``POST /techniques/{techniqueId}/runs``.

        :param request: The request.
        :param fate: Asked once the request is known to be good and its key to be free.
        """
        technique = _technique(request)

        def is_own_url(url: str) -> bool:
            parts = urlsplit(url)
            return parts.scheme == "http" and (parts.netloc == request.host or self._is_own_host(parts.netloc))

        start = self._reader.read(await request.read(), technique, is_own_url)
        asked = (technique.slug, start)
        if start.idempotency_key:
            earlier = self._keys.earlier_answer(start.idempotency_key, asked)
            if earlier is not None:
                return answer_json(earlier, **{"idempotent-replayed": "true"})
        run = self._history.start(
            technique,
            start.inputs,
            idempotency_key=start.idempotency_key,
            callback_url=start.callback_url,
            **await fate(),
        )
        self._webhooks.watch(run)
        # What was just started carries a quote, even when it has already ended.
        answer = {**self._wire(run, request), "charged_cost": technique.run_cost}
        if start.idempotency_key:
            self._keys.record(start.idempotency_key, asked, answer)
        return await self._stream(run, request) if start.mode == "stream" else answer_json(answer)

    async def get_technique_run(self, request: web.Request) -> web.StreamResponse:
        """``GET /techniques/{techniqueId}/runs/{runId}``."""
        run = self._history.get(request.match_info["run"])
        if run is None or run.technique is not _technique(request):
            raise ApiError(404)
        return answer_json(self._wire(run, request))

    async def list_technique_runs(self, request: web.Request) -> web.StreamResponse:
        """``GET /technique-runs``."""
        query, limit = request.query, read_limit(request)
        project_id, status, address = query.get("project_id"), query.get("status"), query.get("technique_id")
        if project_id is not None and not _PUBLIC_PROJECT_ID.fullmatch(project_id):
            raise ApiError(500)
        if status is not None and status not in STATUSES:
            raise ApiError(400, fields=[("status", f"Must be one of: {', '.join(STATUSES)}")])
        before = _order(read_cursor("technique-runs", query["cursor"])) if "cursor" in query else None
        technique = find_technique(address) if address is not None else None
        if (
            query.get("workspace_id", WORKSPACE_ID) != WORKSPACE_ID
            or project_id not in (None, PROJECT_ID)
            or (address is not None and technique is None)
        ):
            return answer_json({"technique_runs": [], "meta": {"next_cursor": None, "total_estimate": 0}})
        runs, more, total, moment = self._history.page(
            technique.technique_id if technique else None, status, before, limit
        )
        origin = f"http://{request.host}"
        return answer_json(
            {
                "technique_runs": [run.as_history_item(moment, origin, self._cost_lag) for run in runs],
                "meta": {
                    "next_cursor": write_cursor("technique-runs", runs[-1].order) if more else None,
                    "total_estimate": total,
                },
            }
        )

    def _wire(self, run: Run, request: web.Request) -> dict[str, Any]:
        return run.as_json(self._clock.now(), f"http://{request.host}", self._cost_lag)

    async def _stream(self, run: Run, request: web.Request) -> web.StreamResponse:
        """The run as server-sent events: one at each change of status, and one a second, until it ends."""
        stream = web.StreamResponse(headers={"content-type": "text/event-stream", "cache-control": "no-store"})
        await stream.prepare(request)
        try:
            while True:
                now = self._clock.now()
                event = json.dumps(self._wire(run, request), separators=(",", ":"))
                await stream.write(f"data: {event}\n\n".encode())
                if now >= run.ended_at:
                    break
                await asyncio.sleep(min(1.0, (run.next_change_after(now) - now) / 1000 + 0.001))
        except ConnectionError:
            pass  # Nobody listens any more; the run goes on.
        return stream


def _technique(request: web.Request) -> Technique:
    technique = find_technique(request.match_info["technique"])
    if technique is None:
        raise ApiError(404)
    return technique


def read_limit(request: web.Request) -> int:
    """How many items a list is asked for.

    :raises ApiError: 400 when it is not a number that Flora takes.
    """
    text = request.query.get("limit", str(DEFAULT_LIMIT))
    if not re.fullmatch(r"[0-9]{1,3}", text) or not 1 <= int(text) <= MAX_LIMIT:
        raise ApiError(400, fields=[("limit", f"Must be a whole number from 1 to {MAX_LIMIT}")])
    return int(text)


def _order(place: Any) -> tuple[int, int]:
    created_at, number = place
    return int(created_at), int(number)
