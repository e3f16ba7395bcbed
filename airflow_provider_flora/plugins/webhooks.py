"""Receives Flora's webhooks: ``POST /flora/webhooks/{conn_id}`` makes an asset event.

Nobody is logged in here. Flora's signature alone says that a delivery is to be believed; until it has been checked,
nothing is read of the body, and no more than a bounded part of memory, time and threads is spent on it. Flora waits
ten seconds for an answer and delivers again unless that is 2xx. So the answer comes after the event is stored, and
no request is sent to Flora before it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.requests import ClientDisconnect

from airflow_provider_flora.api.models import Webhook
from airflow_provider_flora.api.webhooks import SIGNATURE_HEADER, read_webhook, refusal
from airflow_provider_flora.plugins.asset_events import asset_uri, make_event
from airflow_provider_flora.plugins.webhook_secrets import KEPT_NAMES, UnknownSecretError, WebhookSecrets

LARGEST_BODY = 64 * 1024
"""Bytes. A webhook has some hundred."""
PATIENCE = 8.0
"""Seconds until a delivery is given up, be it that its body does not come or that the database does not answer."""
AT_ONCE = 200
"""Deliveries that are received at the same time."""
_LOG_SECONDS = 60.0
"""Whoever sends forged deliveries must not fill the log."""

log = logging.getLogger(__name__)


class FloraWebhookApp(FastAPI):
    """The application that receives webhooks. Each process of an API server has one, in one event loop."""

    def __init__(self) -> None:
        super().__init__(
            title="Flora webhooks", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False
        )
        self._secrets = WebhookSecrets()
        # Each holds a connection to the database, of which an API server has few.
        self._threads = ThreadPoolExecutor(2, "flora-webhooks")
        self._open = 0
        self._logged: dict[str, float] = {}
        self.add_api_route("/{conn_id}", self.receive, methods=["POST"])

    async def receive(self, conn_id: str, request: Request) -> Response:
        """Answer a delivery.

        200: it is Flora's, and what was made of it, if anything, is stored. 400: it is Flora's, and cannot be read.
        401: it is not Flora's, or not of now. 404: the connection receives no webhooks. 413: it is too large.
        503: it could not be handled, and is to be delivered again.
        """
        if self._open >= AT_ONCE:
            raise HTTPException(503, "Too many deliveries at once.")
        self._open += 1
        try:
            return JSONResponse({"detail": await asyncio.wait_for(self._handle(conn_id, request), PATIENCE)})
        except (asyncio.TimeoutError, UnknownSecretError) as error:
            raise HTTPException(503, "This could not be handled in time.") from error
        except HTTPException:
            raise
        except Exception as error:
            log.exception("A webhook could not be handled, and Flora will deliver it again")
            raise HTTPException(503, "This could not be handled.") from error
        finally:
            self._open -= 1

    async def _handle(self, conn_id: str, request: Request) -> str:
        secret = await self._secrets.find(conn_id)
        if secret is None:
            raise HTTPException(404)
        signatures = request.headers.getlist(SIGNATURE_HEADER)
        body = await _read_body(request)
        why = (
            refusal(body, signatures[0], secret, time.time())
            if len(signatures) == 1
            else "There is no Flora-Signature header, or more than one."
        )
        if why is not None:
            self._log_refusal(conn_id, why)
            raise HTTPException(401, why)
        try:
            webhook = read_webhook(body)
        except ValidationError:
            log.error("A webhook of connection %r has Flora's signature, but cannot be read", conn_id)
            raise HTTPException(400, "This is no webhook.") from None
        return await self._take(conn_id, webhook)

    async def _take(self, conn_id: str, webhook: Webhook) -> str:
        if webhook.status is None or webhook.data is None or webhook.data.run_type != "technique":
            return "It is not about a run of a technique, and nothing was made of it."
        run = webhook.data.model_dump(exclude_none=True)
        payload = {"run_id": run.pop("run_id"), "status": webhook.status, **run}
        uri = asset_uri(conn_id, webhook.status)
        made = await asyncio.get_running_loop().run_in_executor(self._threads, make_event, uri, webhook.id, payload)
        if made is None:
            done = f"No DAG uses the asset {uri}, and no event was made."
        else:
            done = f"The asset {uri} has an event of it{'' if made else ' since an earlier delivery'}."
        log.info("Webhook %s about run %s: %s", webhook.id, payload["run_id"], done)
        return done

    def _log_refusal(self, conn_id: str, why: str) -> None:
        now = time.monotonic()
        if now - self._logged.get(conn_id, float("-inf")) >= _LOG_SECONDS:
            if len(self._logged) >= KEPT_NAMES:
                self._logged.clear()
            self._logged[conn_id] = now
            log.warning("A webhook of connection %r is refused. %s", conn_id, why)


async def _read_body(request: Request) -> bytes:
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > LARGEST_BODY:
                raise HTTPException(413, f"A webhook has at most {LARGEST_BODY:,} bytes.")
    except ClientDisconnect:
        raise HTTPException(400, "The body was cut.") from None
    return bytes(body)
