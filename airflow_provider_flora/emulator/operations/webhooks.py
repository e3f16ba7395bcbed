"""Reports the end of a run to its callback URL. A run without one costs nothing here."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import math
import secrets
from collections.abc import Callable
from typing import Any

import aiohttp

from airflow_provider_flora.emulator.state.clock import Clock
from airflow_provider_flora.emulator.state.runs import Run
from airflow_provider_flora.emulator.state.workspace import WORKSPACE_ID

API_VERSION = "2026-06-11"
DELAYS = (10.0, 60.0, 300.0)
TIMEOUT = aiohttp.ClientTimeout(total=10)


class Webhooks:
    """Delivers each event at least once, in up to four attempts.

    :param clock: the emulator's time.
    :param signing_secrets: the secrets to sign with, one signature for each.
    :param time_scale: factor on the delays between attempts: a test need not wait for minutes.
    :param record: called with each attempt.
    """

    def __init__(
        self,
        clock: Clock,
        signing_secrets: tuple[str, ...],
        time_scale: float,
        record: Callable[[dict[str, Any]], None],
    ) -> None:
        self._clock = clock
        self._secrets = signing_secrets
        self._delays = tuple(delay * time_scale for delay in DELAYS)
        self._record = record
        self._tasks: set[asyncio.Task[None]] = set()

    def watch(self, run: Run) -> None:
        """Deliver when this run ends, if it has a callback URL and Flora has an event for its end."""
        if run.callback_url and not math.isinf(run.ended_at) and run.end_status is None:
            task = asyncio.get_running_loop().create_task(self._deliver(run, run.callback_url))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def clear(self) -> None:
        """Cancel every delivery that is due."""
        for task in [*self._tasks]:
            task.cancel()

    async def _deliver(self, run: Run, url: str) -> None:
        await asyncio.sleep(max(0.0, run.ended_at - self._clock.now()) / 1000)
        event = self._make_event(run)
        body = json.dumps(event, separators=(",", ":")).encode()
        async with aiohttp.ClientSession(timeout=TIMEOUT) as session:
            for attempt, delay in enumerate((0.0, *self._delays), start=1):
                await asyncio.sleep(delay)
                outcome = await self._send(session, url, event, body)
                self._record(
                    {
                        "webhook_id": event["id"],
                        "run_id": run.run_id,
                        "url": url,
                        "attempt": attempt,
                        "at": int(self._clock.now()),
                        **outcome,
                    }
                )
                if 200 <= (outcome["status"] or 0) < 300:
                    return

    async def _send(
        self, session: aiohttp.ClientSession, url: str, event: dict[str, Any], body: bytes
    ) -> dict[str, Any]:
        headers = {
            "Content-Type": "application/json",
            "Flora-Signature": self._sign(body),
            "Flora-Webhook-Id": event["id"],
            "Flora-Event": event["type"],
        }
        try:
            async with session.post(url, data=body, headers=headers, allow_redirects=False) as answer:
                return {"status": answer.status, "error": None}
        except (aiohttp.ClientError, asyncio.TimeoutError) as error:
            return {"status": None, "error": f"{type(error).__name__}: {error}"}

    def _sign(self, body: bytes) -> str:
        second = int(self._clock.now() / 1000)
        signed = f"{second}.".encode() + body
        digests = (hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest() for secret in self._secrets)
        return ",".join([f"t={second}", *(f"v1={digest}" for digest in digests)])

    def _make_event(self, run: Run) -> dict[str, Any]:
        status = run.status_at(run.ended_at)
        failure = run.failure and {"error_code": run.failure[0], "error_message": run.failure[1]}
        return {
            "id": f"whd_{secrets.token_hex(8)}",
            "type": f"run.{status}",
            "api_version": API_VERSION,
            "created_at": int(self._clock.now()),
            "data": {
                "run_id": run.run_id,
                "run_type": "technique",
                "workspace_id": WORKSPACE_ID,
                "status": status,
                **(failure or {}),
            },
        }
