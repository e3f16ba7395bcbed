"""AsyncFloraClient: Flora's API over ``aiohttp``. It only moves bytes; the rules are in the other files here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import aiohttp
import tenacity
from yarl import URL

from airflow_provider_flora.api import answers, calls, network, operations, retries
from airflow_provider_flora.api.calls import Call, Done, Pause, Step
from airflow_provider_flora.api.exchange import OnAnswer, Request, Response, observed
from airflow_provider_flora.api.inputs import Inputs
from airflow_provider_flora.api.models import Run, Technique, Workspace
from airflow_provider_flora.api.pages import Pages
from airflow_provider_flora.api.waiting import WaitListener

if TYPE_CHECKING:
    from typing_extensions import Self

    from airflow_provider_flora.api.settings import ClientSettings

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")
AnswerT = TypeVar("AnswerT")
_CHUNK_BYTES = 64 * 1024


class AsyncFloraClient:
    """Flora's API on an event loop, over one keep-alive session. Use it with ``async with``.

    :class:`~airflow_provider_flora.api.client.FloraClient` documents the methods. The asset methods exist only
    there: reading files would block the loop.

    :param settings: Flora's address, the API key and the network settings.
    :param on_answer: is told of each request and the status of its answer. Default: nobody is.
    """

    def __init__(self, settings: ClientSettings, on_answer: OnAnswer | None = None) -> None:
        self.settings = settings
        self._on_answer = on_answer
        self._proxy, tls = network.route_to(settings.base_url, settings)
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(
                total=None,
                connect=settings.timeout,
                sock_connect=settings.timeout,
                sock_read=settings.timeout,
            ),
            connector=aiohttp.TCPConnector(ssl=tls or True),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=True,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the session's connections."""
        await self._session.close()

    async def list_workspaces(self) -> list[Workspace]:
        """Return the workspaces that the key can access."""
        return await self._call(operations.list_workspaces(), answers.read_workspaces)

    def list_techniques(
        self, query: str | None = None, workspace_id: str | None = None, page_size: int = 100
    ) -> AsyncIterator[Technique]:
        """Iterate lazily over the techniques that the key can access."""
        return self._walk(operations.list_techniques(query, workspace_id, page_size))

    async def get_technique(self, technique_id: str) -> Technique:
        """Return a technique by its id or slug."""
        return await self._call(operations.get_technique(technique_id), answers.read_technique)

    async def start_technique_run(
        self,
        technique_id: str,
        inputs: Inputs,
        mode: str = "async",
        callback_url: str | None = None,
        idempotency_key: str | None = None,
    ) -> Run:
        """Start a run. **This costs money**, and a run cannot be cancelled."""
        return await self.drive(
            calls.start_technique_run(technique_id, inputs, mode, callback_url, idempotency_key)
        )

    async def get_technique_run(self, technique_id: str, run_id: str) -> Run:
        """Return a run in its current state."""
        return await self._call(operations.get_technique_run(technique_id, run_id), answers.read_run)

    def list_technique_runs(
        self,
        technique_id: str | None = None,
        status: str | None = None,
        workspace_id: str | None = None,
        project_id: str | None = None,
        page_size: int = 100,
    ) -> AsyncIterator[Run]:
        """Iterate lazily over the run history, newest first."""
        return self._walk(operations.list_technique_runs(technique_id, status, workspace_id, project_id, page_size))

    async def wait_for_technique_run(
        self,
        technique_id: str,
        run_id: str,
        poll_interval: float = 5.0,
        timeout: float = 3600.0,
        *,
        deadline: float | None = None,
        listener: WaitListener | None = None,
    ) -> Run:
        """Wait until a run has completed or failed, and return it."""
        return await self.drive(
            calls.wait_for_technique_run(technique_id, run_id, poll_interval, timeout, deadline, listener)
        )

    async def _walk(self, pages: Pages[ItemT]) -> AsyncIterator[ItemT]:
        while pages.request is not None:
            for item in await self.drive(calls.read_page(pages)):
                yield item

    async def drive(self, call: Call[ResultT]) -> ResultT:
        """Perform a call of several steps and return its result."""
        step = calls.resume(call, None)
        while not isinstance(step, Done):
            try:
                outcome = await self._perform(step)
            except Exception as error:
                outcome = error
            step = calls.resume(call, outcome)
        return step.result

    async def _perform(self, step: Step) -> Any:
        if isinstance(step, Pause):
            return await asyncio.sleep(step.seconds)
        send = self.ask if step.once else self._call
        return await send(step.request, step.read)

    async def _call(self, request: Request, read: Callable[[Response], AnswerT]) -> AnswerT:
        """Send a request and read its answer. Retry after transient errors."""
        retrying = tenacity.AsyncRetrying(**retries.retry_arguments(request, self.settings))
        return await retrying(self.ask, request, read)

    async def ask(self, request: Request, read: Callable[[Response], AnswerT]) -> AnswerT:
        """Send a request once and read its answer, for callers with their own retry rules."""
        with observed(request, self._on_answer) as answered:
            response = answered(await self._exchange(request))
        return read(response)

    async def _exchange(self, request: Request) -> Response:
        """Send a request's bytes and receive those of its answer.

        :raises FloraConnectionError: no complete answer arrived.
        """
        try:
            async with self._session.request(
                request.method,
                URL(request.url(self.settings), encoded=True),
                data=request.content(),
                headers=request.headers(self.settings),
                proxy=self._proxy,
                allow_redirects=False,
            ) as answer:
                body = await self._read_body(answer)
                return Response.received(answer.status, answer.headers, body, request, self.settings)
        except (asyncio.TimeoutError, TimeoutError):
            raise answers.timeout_error(request, self.settings) from None
        except (aiohttp.ClientError, OSError) as error:
            raise answers.connection_error(request, self.settings, error) from None

    async def _read_body(self, answer: aiohttp.ClientResponse) -> bytes:
        """Read the body. Its size is limited, and its time too unless it is an event stream."""
        body = answers.Body(answer.headers.get("content-type", ""), self.settings.timeout, time.monotonic)
        try:
            async for chunk in answer.content.iter_chunked(_CHUNK_BYTES):
                body.add(chunk)
        except (OSError, asyncio.TimeoutError, aiohttp.ClientError):
            if not body.is_usable_when_cut:
                raise
        return body.content()
