"""Fetches the file behind a URL that a client gave, and lets itself be led to no private place by it.

The emulator's own origin is the one exception, by plain HTTP, so that tests need no network.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import aiohttp
from aiohttp.abc import ResolveResult
from aiohttp.resolver import ThreadedResolver

from airflow_provider_flora.emulator import callback_urls
from airflow_provider_flora.emulator.assets import StoredFile
from airflow_provider_flora.emulator.errors import ApiError
from airflow_provider_flora.emulator.file_types import EXTENSIONS, UNSUPPORTED, decided_type, named_type
from airflow_provider_flora.emulator.receiving import TooLarge, receive

MAX_FETCHED = 50 * 1024 * 1024
_MAX_HOPS = 5
_TIMEOUT = aiohttp.ClientTimeout(total=60, connect=10)
_REDIRECTS = (301, 302, 303, 307, 308)

IsOwn = Callable[[str], bool]
"""Tells whether a URL is one of the emulator itself."""


class _PublicResolver(ThreadedResolver):
    """Finds no private address behind a public name."""

    def __init__(self, is_own_host: IsOwn) -> None:
        super().__init__()
        self._is_own_host = is_own_host

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await super().resolve(host, port, family)
        if not self._is_own_host(f"{host}:{port}"):
            found = [one for one in found if callback_urls.is_public(ipaddress.ip_address(one["host"]))]
        if not found:
            raise OSError(errno.EACCES, f"{host} has no public address")
        return found


async def fetch(url: str, asked_type: str | None, name: str | None, path: Path, is_own_host: IsOwn) -> StoredFile:
    """The file behind a URL.

    :param url: A public HTTPS URL.
    :param asked_type: What the client says that it is.
    :param name: What the client calls it.
    :param path: Where to put it.
    :param is_own_host: Tells whether a host, with its port, is the emulator.
    :raises ApiError: 400 when it is not to be had, or not what Flora takes.
    """
    connector = aiohttp.TCPConnector(resolver=_PublicResolver(is_own_host))
    try:
        async with aiohttp.ClientSession(connector=connector, timeout=_TIMEOUT) as session:
            for _ in range(_MAX_HOPS):
                _check(url, is_own_host)
                async with session.get(url, allow_redirects=False) as answer:
                    if answer.status not in _REDIRECTS:
                        return await _take(answer, asked_type, name, path)
                    url = urljoin(url, answer.headers.get("location", ""))
    except TooLarge:
        raise _refused(f"Too large: at most {MAX_FETCHED} bytes are fetched") from None
    except (aiohttp.ClientError, OSError, asyncio.TimeoutError) as error:
        raise _refused(f"Could not be fetched: {str(error) or 'it took too long'}") from None
    raise _refused("Could not be fetched: too many redirects")


def _check(url: str, is_own_host: IsOwn) -> None:
    try:
        parts = urlsplit(url)
    except ValueError:
        raise _refused("Must be a valid URL") from None
    if parts.scheme == "http" and is_own_host(parts.netloc):
        return
    problem = callback_urls.refusal(url)
    if problem:
        raise _refused(problem)


async def _take(answer: aiohttp.ClientResponse, asked_type: str | None, name: str | None, path: Path) -> StoredFile:
    if answer.status != 200:
        raise _refused(f"Could not be fetched: the answer is {answer.status}")
    content_type = decided_type(
        asked_type, answer.headers.get("content-type"), named_type(name), named_type(answer.url.path)
    )
    if content_type not in EXTENSIONS:
        raise _refused(UNSUPPORTED)

    async def pieces() -> AsyncIterator[bytes]:
        async for piece in answer.content.iter_any():
            yield piece

    return await receive(pieces(), path, content_type, MAX_FETCHED)


def _refused(problem: str) -> ApiError:
    return ApiError(400, fields=[("source", problem)])
