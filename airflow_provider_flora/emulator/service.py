"""How a request comes in: routes, authentication, the rate limit, ordered faults, headers, the books.

fault "before" → key → rate limit → the operation (faults "during", "start") → fault "after" → the wire
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from functools import partial

from aiohttp import web

from airflow_provider_flora.emulator.api import Api, Fate, answer_json
from airflow_provider_flora.emulator.breakage import Answer, ConnectionReset, break_answer
from airflow_provider_flora.emulator.clock import Clock
from airflow_provider_flora.emulator.errors import ApiError
from airflow_provider_flora.emulator.faults import Fault, Faults
from airflow_provider_flora.emulator.ledger import Ledger
from airflow_provider_flora.emulator.media import Media
from airflow_provider_flora.emulator.rate_limit import TokenBucket

MAX_BODY = 4 * 1024 * 1024

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Due = Callable[[str], Iterator[Fault]]
"""The faults that meet a request at a moment of its life."""
Processor = Callable[[web.Request, Due], Awaitable[web.StreamResponse]]


class Service:
    """Everything between the socket and the operations.

    :param api: The operations.
    :param media: The files.
    :param clock: Tells the time for the ``Date`` header.
    :param ledger: The books.
    :param faults: What was ordered.
    :param api_key: Gives the key that is good now.
    :param rate_limit: Requests a second; ``None`` for no limit.
    """

    def __init__(
        self,
        api: Api,
        media: Media,
        clock: Clock,
        ledger: Ledger,
        faults: Faults,
        api_key: Callable[[], str],
        rate_limit: float | None,
    ) -> None:
        self._api = api
        self._media = media
        self._clock = clock
        self._ledger = ledger
        self._faults = faults
        self._api_key = api_key
        self._bucket = TokenBucket(rate_limit) if rate_limit else None
        self._request_number = 0

    def application(self) -> web.Application:
        """The routes of the API and of the media."""
        application = web.Application(client_max_size=MAX_BODY)
        routes = application.router
        base, api = "/api/v1", self._api
        routes.add_get(f"{base}/workspaces", self._operation("listWorkspaces", api.list_workspaces))
        routes.add_get(f"{base}/techniques", self._operation("listTechniques", api.list_techniques))
        routes.add_get(f"{base}/technique-runs", self._operation("listTechniqueRuns", api.list_technique_runs))
        routes.add_get(f"{base}/techniques/{{technique}}", self._operation("getTechnique", api.get_technique))
        routes.add_post(
            f"{base}/techniques/{{technique}}/runs", partial(self._serve, "startTechniqueRun", self._start)
        )
        routes.add_get(
            f"{base}/techniques/{{technique}}/runs/{{run}}",
            self._operation("getTechniqueRun", api.get_technique_run),
        )
        routes.add_get("/media/{path:.+}", partial(self._serve, "getMedia", self._medium))
        routes.add_route("*", f"{base}{{rest:.*}}", self._operation("unknown", _not_found))
        application.on_response_prepare.append(self._sign)
        return application

    def _operation(self, operation: str, handler: Handler) -> Handler:
        async def authorised(request: web.Request, due: Due) -> web.StreamResponse:
            self._authorise(request)
            return await handler(request)

        return partial(self._serve, operation, authorised)

    def _authorise(self, request: web.Request) -> None:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise ApiError(401, "unauthorized", "Missing API key.")
        if key.strip() != self._api_key():
            raise ApiError(401)
        wait = self._bucket.take() if self._bucket else None
        if wait is not None:
            raise ApiError(429, headers={"retry-after": str(wait)})

    async def _serve(self, operation: str, handler: Processor, request: web.Request) -> web.StreamResponse:
        self._ledger.requests[operation] += 1
        try:
            answer = await self._answer(operation, handler, request)
        except ApiError as error:
            answer = _answer_error(error)
        except ConnectionReset:
            self._ledger.responses["reset"] += 1
            return web.Response()
        self._ledger.responses[str(answer.status)] += 1
        return answer

    async def _answer(self, operation: str, handler: Processor, request: web.Request) -> web.StreamResponse:
        text = f"{request.path_qs} {(await request.read()).decode(errors='replace')}"
        due = partial(self._faults.due, operation=operation, text=text)
        broken = await _broken(due("before"), request)
        if broken is not None:
            return broken
        try:
            answer = await handler(request, due)
        except ApiError as error:
            answer = _answer_error(error)
        broken = await _broken(due("after"), request, answer)
        return answer if broken is None else broken

    async def _start(self, request: web.Request, due: Due) -> web.StreamResponse:
        self._authorise(request)

        async def fate() -> Fate:
            await _broken(due("during"), request)
            ordered: Fate = {}
            for fault in due("start"):
                if fault.kind == "stall_run":
                    ordered["stalled"] = True
                else:
                    ordered["failure"] = (fault.words["error_code"], fault.words["error_message"])
            return ordered

        return await self._api.start_technique_run(request, fate)

    async def _medium(self, request: web.Request, due: Due) -> web.StreamResponse:
        medium = await self._media.read(request.match_info["path"])
        if medium is None:
            raise ApiError(404)
        return web.Response(body=medium.content, content_type=medium.content_type)

    async def _sign(self, request: web.Request, answer: web.StreamResponse) -> None:
        self._request_number += 1
        answer.headers["request-id"] = f"req_{self._request_number:012x}"
        answer.headers["Date"] = self._clock.date()


async def _broken(faults: Iterator[Fault], request: web.Request, answer: Answer = None) -> Answer:
    """The answer after these faults; the first that answers an unanswered request is the last to fire."""
    processed = answer is not None
    for fault in faults:
        answer = await break_answer(fault, request, answer)
        if answer is not None and not processed:
            break
    return answer


async def _not_found(request: web.Request) -> web.StreamResponse:
    raise ApiError(404)


def _answer_error(error: ApiError) -> web.Response:
    answer = answer_json(error.body(), **error.headers)
    answer.set_status(error.status)
    return answer
