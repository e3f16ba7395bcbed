"""How a request comes in: routes, authentication, the rate limit, ordered faults, headers, the books.

fault "before" → key → rate limit → the operation (faults "during", "start") → fault "after" → the wire
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from hashlib import sha256
from typing import Any

from aiohttp import ClientError, web

from airflow_provider_flora.emulator.api import Api, Fate, answer_json
from airflow_provider_flora.emulator.asset_api import AssetApi, OrderedFailure
from airflow_provider_flora.emulator.asset_request import MAX_DIRECT
from airflow_provider_flora.emulator.assets import Assets
from airflow_provider_flora.emulator.breakage import Answer, ConnectionReset, break_answer
from airflow_provider_flora.emulator.clock import Clock
from airflow_provider_flora.emulator.errors import ApiError
from airflow_provider_flora.emulator.faults import Fault, Faults
from airflow_provider_flora.emulator.idempotency import IdempotencyKeys
from airflow_provider_flora.emulator.ledger import Ledger
from airflow_provider_flora.emulator.media import Media
from airflow_provider_flora.emulator.rate_limit import TokenBucket
from airflow_provider_flora.emulator.sending import send_medium
from airflow_provider_flora.emulator.storage import Storage, answer_xml

MAX_BODY = MAX_DIRECT + 64 * 1024  # a file, and the form around it

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Due = Callable[[str], Iterator[Fault]]
"""The faults that meet a request at a moment of its life."""
Processor = Callable[[web.Request, Due], Awaitable[web.StreamResponse]]
Change = Callable[[web.Request, OrderedFailure], Awaitable[dict[str, Any]]]
"""An operation that makes or changes an asset."""


class Service:
    """Everything between the socket and the operations.

    :param api: The operations.
    :param asset_api: Those on assets.
    :param storage: Where signed uploads go.
    :param assets: The assets.
    :param keys: The idempotency keys that come in a header.
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
        asset_api: AssetApi,
        storage: Storage,
        assets: Assets,
        keys: IdempotencyKeys,
        media: Media,
        clock: Clock,
        ledger: Ledger,
        faults: Faults,
        api_key: Callable[[], str],
        rate_limit: float | None,
    ) -> None:
        self._api = api
        self._asset_api = asset_api
        self._storage = storage
        self._assets = assets
        self._keys = keys
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
        base, api, assets = "/api/v1", self._api, self._asset_api
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
        routes.add_post(f"{base}/assets", self._change("createAsset", assets.create))
        routes.add_get(f"{base}/assets", self._operation("listAssets", assets.list_assets))
        routes.add_get(f"{base}/assets/{{asset}}", self._operation("getAsset", assets.get))
        routes.add_post(f"{base}/assets/{{asset}}/complete", self._change("completeAsset", assets.complete))
        routes.add_post(f"{base}/assets/{{asset}}/retry", self._change("retryAsset", assets.retry))
        routes.add_get("/media/{path:.+}", partial(self._serve, "getMedia", self._medium))
        routes.add_route("*", f"{base}{{rest:.*}}", self._operation("unknown", _not_found))
        application.on_response_prepare.append(self._sign)
        return application

    def storage_application(self) -> web.Application:
        """The route of the storage host."""
        application = web.Application()
        for method in ("POST", "PUT"):
            application.router.add_route(method, "/uploads/{asset}", self._receive)
        return application

    def _operation(self, operation: str, handler: Handler) -> Handler:
        async def authorised(request: web.Request, due: Due) -> web.StreamResponse:
            self._authorise(request)
            return await handler(request)

        return partial(self._serve, operation, authorised)

    def _change(self, operation: str, work: Change) -> Handler:
        """An operation on assets that takes an ``Idempotency-Key`` header."""

        async def changed(request: web.Request, due: Due) -> web.StreamResponse:
            self._authorise(request)
            key = request.headers.get("idempotency-key")
            asked = (request.path, sha256(await request.read()).digest())
            if key:
                earlier = self._keys.earlier_answer(key, asked)
                if earlier is not None:
                    return answer_json(earlier, **{"idempotent-replayed": "true"})
            await _broken(due("during"), request)

            def ordered_failure() -> str | None:
                return next((str(fault.words["failure_message"]) for fault in due("process")), None)

            answer = await work(request, ordered_failure)
            if key:
                self._keys.record(key, asked, answer)
            return answer_json(answer)

        return partial(self._serve, operation, changed)

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
            answer = _answer_error(operation, error)
        except ConnectionReset:
            self._ledger.responses["reset"] += 1
            return web.Response()
        self._ledger.responses[str(answer.status)] += 1
        return answer

    async def _answer(self, operation: str, handler: Processor, request: web.Request) -> web.StreamResponse:
        text = await self._text(operation, request)
        due = partial(self._faults.due, operation=operation, text=text)
        broken = await _broken(due("before"), request)
        if broken is not None:
            return broken
        try:
            answer = await handler(request, due)
        except ApiError as error:
            answer = _answer_error(operation, error)
        broken = await _broken(due("after"), request, answer)
        return answer if broken is None else broken

    async def _text(self, operation: str, request: web.Request) -> bytes:
        """What an order's ``contains`` is looked for in."""
        asset = self._assets.get(request.match_info.get("asset", ""))
        text = f"{request.path_qs} {asset.name or '' if asset else ''} ".encode()
        if operation == "uploadBytes":
            return text  # Its body is read while it comes.
        try:
            return text + await request.read()
        except web.HTTPRequestEntityTooLarge:
            field = "file" if request.content_type.startswith("multipart/") else "body"
            raise ApiError(400, fields=[(field, f"Must be at most {MAX_DIRECT} bytes")]) from None

    async def _start(self, request: web.Request, due: Due) -> web.StreamResponse:
        self._authorise(request)

        async def fate() -> Fate:
            await _broken(due("during"), request)
            ordered: Fate = {}
            for fault in due("start"):
                if fault.kind == "stall_run":
                    ordered["stalled"] = True
                elif fault.kind == "large_output":
                    ordered["output_bytes"] = fault.words["bytes"]
                else:
                    ordered["failure"] = (fault.words["error_code"], fault.words["error_message"])
            return ordered

        return await self._api.start_technique_run(request, fate)

    async def _medium(self, request: web.Request, due: Due) -> web.StreamResponse:
        medium = await self._media.read(request.match_info["path"])
        if medium is None:
            raise ApiError(404)
        return await send_medium(medium, request, list(due("during")))

    async def _receive(self, request: web.Request) -> web.StreamResponse:
        """A request to the storage host, in the books whatever becomes of it."""
        record: dict[str, Any] = {
            "asset_id": request.match_info["asset"],
            "method": request.method,
            "authorization": "authorization" in request.headers,
            "bytes": request.content_length,
            "status": None,
        }
        self._ledger.uploads.append(record)
        answer = await self._serve("uploadBytes", self._upload, request)
        if request.transport is not None and not request.transport.is_closing():
            record["status"] = answer.status
        return answer

    async def _upload(self, request: web.Request, due: Due) -> web.StreamResponse:
        async def on_the_way() -> None:
            await _broken(due("during"), request)

        try:
            return await self._storage.take(request, lambda: any(due("upload")), on_the_way)
        except (ClientError, ConnectionError):
            raise ConnectionReset from None

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


def _answer_error(operation: str, error: ApiError) -> web.Response:
    if operation == "uploadBytes":
        return answer_xml(error)
    answer = answer_json(error.body(), **error.headers)
    answer.set_status(error.status)
    return answer
