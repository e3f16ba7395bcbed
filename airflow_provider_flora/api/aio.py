"""AsyncFloraClient: the protocol over ``aiohttp``. Moves bytes; every rule is in ``protocol``."""

from __future__ import annotations

import asyncio
import ssl
import time
import urllib.request
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

import aiohttp
import tenacity
from yarl import URL

from airflow_provider_flora.api import protocol
from airflow_provider_flora.api.errors import FloraError
from airflow_provider_flora.api.inputs import Inputs, run_inputs, types_are_known
from airflow_provider_flora.api.models import Asset, Run, Technique, Workspace
from airflow_provider_flora.api.protocol import Pages, Request, Response, SmallFile

if TYPE_CHECKING:
    from typing_extensions import Self

    from airflow_provider_flora.api.settings import ClientSettings

ItemT = TypeVar("ItemT")
AnswerT = TypeVar("AnswerT")
_CHUNK_BYTES = 64 * 1024


class AsyncFloraClient:
    """Flora's API on an event loop, over one keep-alive session. Use it with ``async with``.

    The methods are those of :class:`~airflow_provider_flora.api.client.FloraClient`, which says what they take,
    return and raise.

    :param settings: where Flora is, and the key.
    """

    def __init__(self, settings: ClientSettings) -> None:
        self.settings = settings
        self._proxy = _proxy(settings)
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(
                total=None,
                connect=settings.timeout,
                sock_connect=settings.timeout,
                sock_read=settings.timeout,
            ),
            connector=aiohttp.TCPConnector(ssl=_tls(settings.verify)),
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
        """Return the workspaces that the key opens."""
        return await self._call(protocol.list_workspaces(), protocol.read_workspaces)

    def list_techniques(
        self, query: str | None = None, workspace_id: str | None = None, page_size: int = 100
    ) -> AsyncIterator[Technique]:
        """Iterate lazily over the techniques that the key can see."""
        return self._walk(protocol.list_techniques(query, workspace_id or self.settings.workspace_id, page_size))

    async def get_technique(self, technique_id: str) -> Technique:
        """Return a technique by its id or slug."""
        return await self._call(protocol.get_technique(technique_id), protocol.read_technique)

    async def start_technique_run(
        self,
        technique_id: str,
        inputs: Inputs,
        mode: str = "async",
        callback_url: str | None = None,
        idempotency_key: str | None = None,
    ) -> Run:
        """Start a run. **This spends money**, and nothing can cancel it."""
        technique = None if types_are_known(inputs) else await self.get_technique(technique_id)
        entries = run_inputs(inputs, technique_id, technique)
        request = protocol.start_technique_run(technique_id, entries, mode, callback_url, idempotency_key)
        return await self._call(request, protocol.read_run)

    async def get_technique_run(self, technique_id: str, run_id: str) -> Run:
        """Return a run as it stands."""
        return await self._call(protocol.get_technique_run(technique_id, run_id), protocol.read_run)

    def list_technique_runs(
        self,
        technique_id: str | None = None,
        status: str | None = None,
        workspace_id: str | None = None,
        project_id: str | None = None,
        page_size: int = 100,
    ) -> AsyncIterator[Run]:
        """Iterate lazily over the run history, newest first."""
        workspace_id = workspace_id or self.settings.workspace_id
        return self._walk(protocol.list_technique_runs(technique_id, status, workspace_id, project_id, page_size))

    async def wait_for_technique_run(
        self,
        technique_id: str,
        run_id: str,
        poll_interval: float = 5.0,
        timeout: float = 3600.0,
        *,
        on_change: Callable[[Run], None] | None = None,
    ) -> Run:
        """Wait until a run has finished, well or badly, and return it."""
        wait = protocol.RunWait(
            technique_id,
            run_id,
            poll_interval=poll_interval,
            timeout=timeout,
            clock=time.monotonic,
            on_change=on_change,
        )
        request = protocol.get_technique_run(technique_id, run_id)
        while True:
            outcome: Run | FloraError
            try:
                outcome = await self.ask(request, protocol.read_run)
            except FloraError as error:
                outcome = error
            pause = wait.after(outcome)
            if pause is None:
                return wait.run
            await asyncio.sleep(pause)

    async def create_asset(
        self,
        workspace_id: str,
        source: str | SmallFile,
        *,
        file_name: str | None = None,
        content_type: str | None = None,
        folder: str | None = None,
        project_id: str | None = None,
        idempotency_key: str | None = None,
    ) -> Asset:
        """Make an asset: one of the steps that ``FloraHook.upload_asset`` takes."""
        request = protocol.create_asset(
            workspace_id, source, file_name, content_type, folder, project_id, idempotency_key
        )
        return await self._call(request, protocol.read_asset)

    async def complete_asset(self, asset_id: str) -> Asset:
        """Say that the bytes of a signed upload have been sent."""
        return await self._call(protocol.complete_asset(asset_id), protocol.read_asset)

    async def retry_asset(self, asset_id: str) -> Asset:
        """Reserve a new place for the bytes of an asset whose upload failed or expired."""
        return await self._call(protocol.retry_asset(asset_id), protocol.read_asset)

    async def get_asset(self, asset_id: str) -> Asset:
        """Return an asset as it stands."""
        return await self._call(protocol.get_asset(asset_id), protocol.read_asset)

    def list_assets(
        self,
        query: str | None = None,
        workspace_id: str | None = None,
        project_id: str | None = None,
        page_size: int = 100,
    ) -> AsyncIterator[Asset]:
        """Iterate lazily over the assets that the key can see."""
        workspace_id = workspace_id or self.settings.workspace_id
        return self._walk(protocol.list_assets(query, workspace_id, project_id, page_size))

    async def _walk(self, pages: Pages[ItemT]) -> AsyncIterator[ItemT]:
        while pages.request is not None:
            for item in await self._call(pages.request, pages.read):
                yield item

    async def _call(self, request: Request, read: Callable[[Response], AnswerT]) -> AnswerT:
        """Send a request and read its answer; again after each transient error."""
        retrying = tenacity.AsyncRetrying(**protocol.retrying(request, self.settings))
        try:
            return await retrying(self.ask, request, read)
        except FloraError as error:
            error.attempts = retrying.statistics["attempt_number"]
            raise

    async def ask(self, request: Request, read: Callable[[Response], AnswerT]) -> AnswerT:
        """Send a request once and read its answer: for whoever has retry rules of its own."""
        try:
            async with self._session.request(
                request.method,
                URL(request.url(self.settings), encoded=True),
                data=request.content(),
                headers=request.headers(self.settings),
                proxy=self._proxy,
                allow_redirects=False,
            ) as answer:
                headers = {name.lower(): value for name, value in answer.headers.items()}
                response = Response(answer.status, headers, await self._body(answer))
        except (asyncio.TimeoutError, TimeoutError) as error:
            raise protocol.no_answer_in_time(request, self.settings) from error
        except (aiohttp.ClientError, OSError) as error:
            # Not from it: the repr of aiohttp's errors shows the headers of the request, the key among them.
            raise protocol.no_answer(request, self.settings, error) from None
        return read(response)

    async def _body(self, answer: aiohttp.ClientResponse) -> bytes:
        """Read the body, bounded in size and, but for an event stream, in time."""
        body = protocol.Body(answer.headers.get("content-type", ""), self.settings.timeout, time.monotonic)
        try:
            async for chunk in answer.content.iter_chunked(_CHUNK_BYTES):
                body.add(chunk)
        except (OSError, asyncio.TimeoutError, aiohttp.ClientError):
            if not body.is_usable_when_cut:
                raise
        return body.content()


def _tls(verify: bool | str) -> ssl.SSLContext | bool:
    return ssl.create_default_context(cafile=verify) if isinstance(verify, str) else verify


def _proxy(settings: ClientSettings) -> str | None:
    """Return the proxy for Flora. aiohttp's own look into the environment would read a .netrc file too."""
    scheme, host, _ = settings.origin
    if settings.on_loopback:
        return None
    if settings.proxies:
        return settings.proxies.get(scheme)
    if urllib.request.proxy_bypass(host):
        return None
    return urllib.request.getproxies().get(scheme)
