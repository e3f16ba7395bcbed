"""The pace and the connection of a watcher's requests. Nothing about runs or waits.

At most :data:`CONCURRENCY` requests are under way at once, :data:`BASE_SPACING` apart. A 429 or several failures in
a row pause all requests, with jitter. A 429 also widens the spacing until Flora stops refusing. The connection is
read again each minute and after a refused key, so a changed connection needs no restart.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, TypeVar

from airflow_provider_flora import metrics
from airflow_provider_flora.api import retries
from airflow_provider_flora.api.aio import AsyncFloraClient
from airflow_provider_flora.api.errors import FloraAnswerSizeError, FloraError, FloraInternalError
from airflow_provider_flora.api.exchange import Request, Response
from airflow_provider_flora.api.waiting import is_refusal
from airflow_provider_flora.task.connection import unread_connection

if TYPE_CHECKING:
    from airflow_provider_flora.api.settings import ClientSettings

log = logging.getLogger(__name__)
AnswerT = TypeVar("AnswerT")

CONCURRENCY = 4
BASE_SPACING = 0.04
SPACING_AFTER_PAUSE = 0.1
MAX_SPACING = 5.0
"""Seconds between two requests: normally at least; in the first second after a failure; at most."""
FAILURES_TO_PAUSE = 3
"""Failures in a row, of any requests, after which all requests pause."""
CONNECTION_RETRY = 5.0
"""Seconds between two attempts to read the connection for the first time."""
CONNECTION_AGE = 60.0
"""Seconds after which the connection is read again."""
CONNECTION_AGE_WHEN_REFUSED = 5.0
"""Seconds after which the connection is read again if Flora refuses a request with 401 or 403."""
CONNECTION_TIMEOUT = 60.0
"""Timeout in seconds of reading the connection."""
CONNECTION_PATIENCE = 5.0
"""Seconds that a request waits for the connection. Then it uses the current client."""

SettingsReader = Callable[[], Awaitable["ClientSettings"]]
TroubleListener = Callable[[FloraError, float], Awaitable[None]]


class Gate:
    """A sender of requests. It makes a new client when the connection changes.

    :param conn_id: id of the connection, for messages.
    :param read_settings: reads the connection.
    :param on_trouble: receives each error that affects all requests, and the seconds for which they pause.
    """

    def __init__(self, conn_id: str, read_settings: SettingsReader, on_trouble: TroubleListener) -> None:
        self.failures = 0
        """Failures in a row."""
        self.trouble = ""
        """The error that made all requests pause; empty while requests succeed."""
        self._conn_id = conn_id
        self._read_settings = read_settings
        self._on_trouble = on_trouble
        self._slots = asyncio.Semaphore(CONCURRENCY)
        self._spacing = BASE_SPACING
        self._next_start = 0.0
        self._paused_until = -math.inf
        self._careful_until = -math.inf
        self._client: AsyncFloraClient | None = None
        self._users: Counter[AsyncFloraClient] = Counter()
        self._read_at = -math.inf
        self._reading: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Make the client, as soon as the connection can be read.

        :raises FloraInternalError: a programming error prevents it.
        """
        # Not tenacity, which would be longer: each failure is reported to all waits, whose deadlines end this loop.
        while self._client is None:
            try:
                await self._read_connection()
            except FloraInternalError:
                raise
            except FloraError as error:
                if str(error) != self.trouble:  # once: a watch of all runs never ends
                    log.warning("The Flora connection cannot be used now, trying again: %s", error)
                self.trouble = str(error)
                await self._on_trouble(error, CONNECTION_RETRY)
                await asyncio.sleep(CONNECTION_RETRY)
        self.trouble = ""

    async def close(self) -> None:
        """Close the client's session."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait({self._reading})
        if self._client is not None:
            await self._client.close()

    @property
    def is_failing(self) -> bool:
        """Whether so many requests in a row have failed that the cause is not a single run."""
        return self.failures >= FAILURES_TO_PAUSE

    async def ask(self, request: Request, read: Callable[[Response], AnswerT], *, spaced: bool = True) -> AnswerT:
        """Send a request. Retry after a 429, and after a 401 or 403 if the connection has changed.

        :param spaced: delay the next request by the normal spacing, too.
        :raises FloraError: the request failed.
        """
        while True:  # not a retry alone: each request takes its turn again, and all share the pauses
            async with self._slots:
                await self._take_turn(spaced)
                await self._refresh_if_old()
                async with self._use_client() as client:
                    try:
                        answer = await client.ask(request, read)
                    except FloraError as error:
                        if await self._refresh_after_refusal(client, error):
                            continue
                        await self._handle_failure(error, request, client)
                        if error.status == HTTPStatus.TOO_MANY_REQUESTS:
                            continue
                        raise
                if self.failures:
                    self.failures = 0
                    self.trouble = ""
                    self._careful_until = time.monotonic() + 1.0
                self._spacing = max(BASE_SPACING, self._spacing * 0.998)
                return answer

    async def _take_turn(self, spaced: bool) -> None:
        while True:
            now = time.monotonic()
            start = max(now, self._next_start, self._paused_until)
            spacing = self._spacing if spaced or self._spacing > BASE_SPACING else 0.0
            if self.failures or start < self._careful_until:
                spacing = max(spacing, SPACING_AFTER_PAUSE)
            self._next_start = start + spacing
            if start > now:
                await asyncio.sleep(start - now)
            if self._paused_until <= start:
                return

    async def _handle_failure(self, error: FloraError, request: Request, client: AsyncFloraClient) -> None:
        """Pause all requests if an error affects more than one run."""
        now = time.monotonic()
        if now < self._paused_until:
            return  # another request has met the same error
        refused = is_refusal(error) and error.status != HTTPStatus.UNAUTHORIZED
        if refused or isinstance(error, FloraAnswerSizeError):
            self.failures = 0  # Flora answers; only this request is wrong
            self.trouble = ""
            return
        self.failures += 1
        limited = error.status == HTTPStatus.TOO_MANY_REQUESTS
        if not limited and not self.is_failing:
            return
        if limited:
            self._spacing = min(MAX_SPACING, self._spacing * 1.5)
        pause = retries.pause_before_retry(error, self.failures, request, client.settings)
        pause = min(pause, retries.MAX_RETRY_AFTER)
        self._paused_until = now + pause
        self.trouble = str(error)
        log.warning("Polls of Flora runs pause for %.0f s: %s", pause, error)
        await self._on_trouble(error, pause)

    async def _refresh_if_old(self) -> None:
        """Read the connection again if it was read long ago."""
        if self._reading is None and time.monotonic() - self._read_at >= CONNECTION_AGE:
            await self._refresh()

    async def _refresh_after_refusal(self, client: AsyncFloraClient, error: FloraError) -> bool:
        """Read the connection again after a 401 or 403. Return whether another client is in use now."""
        if error.status not in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            return False
        if client is self._client and (
            self._reading is not None or time.monotonic() - self._read_at >= CONNECTION_AGE_WHEN_REFUSED
        ):
            await self._refresh()
        return client is not self._client

    async def _refresh(self) -> None:
        """Read the connection again, and wait for it for a limited time."""
        if self._reading is None:
            self._reading = asyncio.ensure_future(self._reread_connection())
        await asyncio.wait({self._reading}, timeout=CONNECTION_PATIENCE)

    async def _reread_connection(self) -> None:
        try:
            await self._read_connection()
        except FloraError as error:
            fault = error.__cause__ if isinstance(error, FloraInternalError) else None
            log.warning("Using the Flora connection as read before: %s", error, exc_info=fault)
        finally:
            self._reading = None

    async def _read_connection(self) -> None:
        """Read the connection, and make a new client if its settings have changed.

        :raises FloraError: the connection cannot be read or used.
        """
        self._read_at = time.monotonic()
        try:
            settings = await _within(CONNECTION_TIMEOUT, self._read_settings())
            if self._client is not None and self._client.settings == settings:
                return
            counter = metrics.request_counter(self._conn_id)
            client = AsyncFloraClient(settings, counter)  # reads the CA file, so it may fail too
        except Exception as error:
            problem = unread_connection(self._conn_id, error)
            raise problem from problem.__cause__
        former, self._client = self._client, client
        if former is not None:
            log.info("The Flora connection %r has changed", self._conn_id)
            if not self._users[former]:
                await former.close()

    def _live_client(self) -> AsyncFloraClient:
        assert self._client is not None  # noqa: S101  # made by open()
        return self._client

    @asynccontextmanager
    async def _use_client(self) -> AsyncIterator[AsyncFloraClient]:
        """Use the current client. Close it after its last use if it has been replaced."""
        client = self._live_client()
        self._users[client] += 1
        try:
            yield client
        finally:
            self._users[client] -= 1
            if not self._users[client]:
                del self._users[client]
                if client is not self._client:
                    await client.close()


async def _within(seconds: float, awaitable: Awaitable[AnswerT]) -> AnswerT:
    """Return a result, or raise ``TimeoutError``.

    Before Python 3.12 ``asyncio.wait_for`` can swallow a cancellation. The watcher would try to read its connection
    forever, without a wait that needs it.
    """
    task = asyncio.ensure_future(awaitable)
    try:
        await asyncio.wait({task}, timeout=seconds)
        if not task.done():
            raise TimeoutError
        return task.result()
    finally:
        if not task.cancel() and not task.cancelled():
            task.exception()  # retrieved, or asyncio logs it when this was cancelled
