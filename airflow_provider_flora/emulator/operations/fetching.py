"""Fetches the file at a client's URL, and no private address: not behind a redirect or a public name either.

The emulator's own origin is the one exception, by plain HTTP, so tests need no network.
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

from airflow_provider_flora.emulator.http import callback_urls
from airflow_provider_flora.emulator.http.errors import ApiError
from airflow_provider_flora.emulator.media.file_types import EXTENSIONS, UNSUPPORTED, decided_type, named_type
from airflow_provider_flora.emulator.media.stored_files import StoredFile, TooLarge, receive

MAX_FETCHED = 50 * 1024 * 1024
_MAX_HOPS = 5
_TIMEOUT = aiohttp.ClientTimeout(total=60, connect=10)
_REDIRECTS = (301, 302, 303, 307, 308)

IsOwnHost = Callable[[str], bool]
"""Whether a host, with its port, is the emulator."""


class _PublicResolver(ThreadedResolver):
    """Resolves names, and leaves private addresses out."""

    def __init__(self, is_own_host: IsOwnHost) -> None:
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


async def fetch(
    url: str, asked_type: str | None, name: str | None, path: Path, is_own_host: IsOwnHost
) -> StoredFile:
    """Fetch the file at a URL.

    :param url: a public HTTPS URL.
    :param asked_type: the client's type for it.
    :param name: the client's name for it.
    :param path: where the file goes.
    :param is_own_host: whether a host, with its port, is the emulator.
    :raises ApiError: 400 when it cannot be fetched, or Flora does not take its type.
    """
    connector = aiohttp.TCPConnector(resolver=_PublicResolver(is_own_host))
    try:
        async with aiohttp.ClientSession(connector=connector, timeout=_TIMEOUT) as session:
            for _ in range(_MAX_HOPS):
                _check_url(url, is_own_host)
                async with session.get(url, allow_redirects=False) as answer:
                    if answer.status not in _REDIRECTS:
                        return await _store(answer, asked_type, name, path)
                    url = urljoin(url, answer.headers.get("location", ""))
    except TooLarge:
        raise _refusal(f"Too large: at most {MAX_FETCHED} bytes are fetched") from None
    except (aiohttp.ClientError, OSError, asyncio.TimeoutError) as error:
        raise _refusal(f"Could not be fetched: {str(error) or 'it took too long'}") from None
    raise _refusal("Could not be fetched: too many redirects")


def _check_url(url: str, is_own_host: IsOwnHost) -> None:
    try:
        parts = urlsplit(url)
    except ValueError:
        raise _refusal("Must be a valid URL") from None
    if parts.scheme == "http" and is_own_host(parts.netloc):
        return
    problem = callback_urls.refusal(url)
    if problem:
        raise _refusal(problem)


async def _store(
    answer: aiohttp.ClientResponse, asked_type: str | None, name: str | None, path: Path
) -> StoredFile:
    if answer.status != 200:
        raise _refusal(f"Could not be fetched: the answer is {answer.status}")
    content_type = decided_type(
        asked_type, answer.headers.get("content-type"), named_type(name), named_type(answer.url.path)
    )
    if content_type not in EXTENSIONS:
        raise _refusal(UNSUPPORTED)

    async def pieces() -> AsyncIterator[bytes]:
        async for piece in answer.content.iter_any():
            yield piece

    return await receive(pieces(), path, content_type, MAX_FETCHED)


def _refusal(problem: str) -> ApiError:
    return ApiError(400, fields=[("source", problem)])
