"""How a request is served: routes, authentication, the rate limit, faults, headers, the ledger.

faults "before" → API key → rate limit → the operation (faults "during", "start") → faults "after" → the answer
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from hashlib import sha256
from typing import Any

from aiohttp import ClientError, web

from airflow_provider_flora.emulator.faults.breakage import ConnectionReset, answer_as_proxy, break_with
from airflow_provider_flora.emulator.faults.orders import Fault, Faults
from airflow_provider_flora.emulator.faults.rate_limit import TokenBucket
from airflow_provider_flora.emulator.faults.run_plans import RunPlan, plan_run
from airflow_provider_flora.emulator.http.answers import answer_json
from airflow_provider_flora.emulator.http.errors import ApiError
from airflow_provider_flora.emulator.operations.asset_request import MAX_DIRECT
from airflow_provider_flora.emulator.operations.assets import AssetOperations, OrderedFailure
from airflow_provider_flora.emulator.operations.idempotency import IdempotencyKeys
from airflow_provider_flora.emulator.operations.media import Media
from airflow_provider_flora.emulator.operations.runs import RunOperations, Started
from airflow_provider_flora.emulator.operations.sending import send_medium
from airflow_provider_flora.emulator.operations.techniques import TechniqueOperations
from airflow_provider_flora.emulator.operations.uploads import StorageHost, answer_xml
from airflow_provider_flora.emulator.state.assets import Assets
from airflow_provider_flora.emulator.state.clock import Clock
from airflow_provider_flora.emulator.state.ledger import Ledger

MAX_BODY = MAX_DIRECT + 64 * 1024  # a file, and the form around it

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Fire = Callable[[str], Iterator[Fault]]
"""Fires the faults that a request meets at a moment."""
FaultyHandler = Callable[[web.Request, Fire], Awaitable[web.StreamResponse]]
AssetChange = Callable[[web.Request, OrderedFailure], Awaitable[dict[str, Any]]]
"""An operation that makes or changes a Flora asset."""


class Service:
    """What is between the socket and the operations.

    :param techniques: the operations on techniques.
    :param runs: the operations on runs.
    :param asset_operations: the operations on assets.
    :param storage: the storage host.
    :param assets: the assets.
    :param keys: the idempotency keys that come in a header.
    :param media: the files below ``/media/``.
    :param clock: the time of the ``Date`` header.
    :param ledger: records what happens.
    :param faults: the ordered faults.
    :param api_key: gives the valid API key.
    :param rate_limit: requests a second; ``None`` for no limit.
    """

    def __init__(
        self,
        techniques: TechniqueOperations,
        runs: RunOperations,
        asset_operations: AssetOperations,
        storage: StorageHost,
        assets: Assets,
        keys: IdempotencyKeys,
        media: Media,
        clock: Clock,
        ledger: Ledger,
        faults: Faults,
        api_key: Callable[[], str],
        rate_limit: float | None,
    ) -> None:
        self._techniques = techniques
        self._runs = runs
        self._asset_operations = asset_operations
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
        self._slow_starts: set[asyncio.Task[Started]] = set()

    def clear(self) -> None:
        """Cancel the slow starts."""
        for start in [*self._slow_starts]:
            start.cancel()

    def make_application(self) -> web.Application:
        """Make the application of the API and of the media."""
        application = web.Application(client_max_size=MAX_BODY)
        routes = application.router
        base, techniques, runs, assets = "/api/v1", self._techniques, self._runs, self._asset_operations
        routes.add_get(f"{base}/workspaces", self._make_handler("listWorkspaces", techniques.list_workspaces))
        routes.add_get(f"{base}/techniques", self._make_handler("listTechniques", techniques.list_techniques))
        routes.add_get(f"{base}/technique-runs", self._make_handler("listTechniqueRuns", runs.list_runs))
        routes.add_get(f"{base}/techniques/{{technique}}", self._make_handler("getTechnique", techniques.get))
        routes.add_post(
            f"{base}/techniques/{{technique}}/runs", partial(self._serve, "startTechniqueRun", self._start)
        )
        routes.add_get(
            f"{base}/techniques/{{technique}}/runs/{{run}}",
            self._make_handler("getTechniqueRun", runs.get),
        )
        routes.add_post(f"{base}/assets", self._make_asset_handler("createAsset", assets.create))
        routes.add_get(f"{base}/assets", self._make_handler("listAssets", assets.list_assets))
        routes.add_get(f"{base}/assets/{{asset}}", self._make_handler("getAsset", assets.get))
        routes.add_post(
            f"{base}/assets/{{asset}}/complete", self._make_asset_handler("completeAsset", assets.complete)
        )
        routes.add_post(f"{base}/assets/{{asset}}/retry", self._make_asset_handler("retryAsset", assets.retry))
        routes.add_get("/techniques/{technique}", partial(self._serve, "showTechnique", self._show_technique))
        routes.add_get("/media/{path:.+}", partial(self._serve, "getMedia", self._send_medium))
        routes.add_route("*", f"{base}{{rest:.*}}", self._make_handler("unknown", _answer_not_found))
        application.on_response_prepare.append(self._add_headers)
        return application

    def make_storage_application(self) -> web.Application:
        """Make the application of the storage host."""
        application = web.Application()
        for method in ("POST", "PUT"):
            application.router.add_route(method, "/uploads/{asset}", self._serve_upload)
        return application

    def _make_handler(self, operation: str, handler: Handler) -> Handler:
        async def handle(request: web.Request, fire: Fire) -> web.StreamResponse:
            self._authorise(request)
            return await handler(request)

        return partial(self._serve, operation, handle)

    def _make_asset_handler(self, operation: str, change: AssetChange) -> Handler:
        """A handler for a change of an asset, which takes an ``Idempotency-Key`` header."""

        async def handle(request: web.Request, fire: Fire) -> web.StreamResponse:
            self._authorise(request)
            key = request.headers.get("idempotency-key")
            body = (request.path, sha256(await request.read()).digest())
            if key:
                earlier = self._keys.earlier_answer(key, body)
                if earlier is not None:
                    return answer_json(earlier, **{"idempotent-replayed": "true"})
            await break_with(fire("during"), request)

            def ordered_failure() -> str | None:
                return next((str(fault.words["failure_message"]) for fault in fire("process")), None)

            answer = await change(request, ordered_failure)
            if key:
                self._keys.record(key, body, answer)
            return answer_json(answer)

        return partial(self._serve, operation, handle)

    def _authorise(self, request: web.Request) -> None:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise ApiError(401, "unauthorized", "Missing API key.")
        if key.strip() != self._api_key():
            raise ApiError(401)
        wait = self._bucket.take() if self._bucket else None
        if wait is not None:
            raise ApiError(429, headers={"retry-after": str(wait)})

    async def _serve(self, operation: str, handler: FaultyHandler, request: web.Request) -> web.StreamResponse:
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

    async def _answer(self, operation: str, handler: FaultyHandler, request: web.Request) -> web.StreamResponse:
        text = await self._searched_text(operation, request)
        fire = partial(self._faults.fire, operation=operation, text=text)
        broken = await break_with(fire("before"), request)
        if broken is not None:
            return broken
        try:
            answer = await handler(request, fire)
        except ApiError as error:
            answer = _answer_error(operation, error)
        broken = await break_with(fire("after"), request, answer)
        return answer if broken is None else broken

    async def _searched_text(self, operation: str, request: web.Request) -> bytes:
        """The text in which the ``contains`` of an order is searched."""
        asset = self._assets.get(request.match_info.get("asset", ""))
        text = f"{request.path_qs} {asset.name or '' if asset else ''} ".encode()
        if operation == "uploadBytes":
            return text  # Its body is read later, piece by piece.
        try:
            return text + await request.read()
        except web.HTTPRequestEntityTooLarge:
            field = "file" if request.content_type.startswith("multipart/") else "body"
            raise ApiError(400, fields=[(field, f"Must be at most {MAX_DIRECT} bytes")]) from None

    async def _start(self, request: web.Request, fire: Fire) -> web.StreamResponse:
        self._authorise(request)
        slow: asyncio.Future[Fault] = asyncio.get_running_loop().create_future()

        async def make_plan() -> RunPlan:
            await break_with(fire("during"), request)
            faults = list(fire("start"))
            for fault in faults:
                if fault.kind == "slow_start" and not slow.done():
                    slow.set_result(fault)
                    if fault.words["run"] == "last":
                        await asyncio.sleep(fault.words["seconds"])
            return plan_run(faults)

        start = asyncio.create_task(self._runs.start(request, make_plan))
        await asyncio.wait((start, slow), return_when=asyncio.FIRST_COMPLETED)
        if slow.done():
            self._slow_starts.add(start)
            start.add_done_callback(self._slow_starts.discard)
            if slow.result().words["answer"] != "late":
                return await answer_as_proxy(slow.result().words["answer"], request)
        return await self._runs.answer_start(await start, request)

    async def _show_technique(self, request: web.Request, fire: Fire) -> web.StreamResponse:
        return await self._techniques.show(request)

    async def _send_medium(self, request: web.Request, fire: Fire) -> web.StreamResponse:
        medium = await self._media.read(request.match_info["path"])
        if medium is None:
            raise ApiError(404)
        return await send_medium(medium, request, list(fire("during")))

    async def _serve_upload(self, request: web.Request) -> web.StreamResponse:
        """Serve a request to the storage host, and record it in the ledger whatever its outcome."""
        record: dict[str, Any] = {
            "asset_id": request.match_info["asset"],
            "method": request.method,
            "authorization": "authorization" in request.headers,
            "bytes": request.content_length,
            "status": None,
        }
        self._ledger.uploads.append(record)
        answer = await self._serve("uploadBytes", self._receive_upload, request)
        if request.transport is not None and not request.transport.is_closing():
            record["status"] = answer.status
        return answer

    async def _receive_upload(self, request: web.Request, fire: Fire) -> web.StreamResponse:
        async def halfway() -> None:
            await break_with(fire("during"), request)

        try:
            return await self._storage.receive_upload(request, lambda: any(fire("upload")), halfway)
        except (ClientError, ConnectionError):
            raise ConnectionReset from None

    async def _add_headers(self, request: web.Request, answer: web.StreamResponse) -> None:
        self._request_number += 1
        answer.headers["request-id"] = f"req_{self._request_number:012x}"
        answer.headers["Date"] = self._clock.date()


async def _answer_not_found(request: web.Request) -> web.StreamResponse:
    raise ApiError(404)


def _answer_error(operation: str, error: ApiError) -> web.Response:
    if operation == "uploadBytes":
        return answer_xml(error)
    answer = answer_json(error.body(), **error.headers)
    answer.set_status(error.status)
    return answer
