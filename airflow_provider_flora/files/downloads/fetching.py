"""Fetches one file from the web: allowed origins, redirects, and checks that the file is complete.

Media are not on the origin of Flora's API. They never receive the API key, nor credentials of a .netrc file.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import urljoin

import requests
import urllib3

from airflow_provider_flora.api import answers, exchange
from airflow_provider_flora.api.errors import FloraAPIError, FloraDownloadError
from airflow_provider_flora.api.session import BareSession
from airflow_provider_flora.api.settings import is_loopback, origin_of
from airflow_provider_flora.version import USER_AGENT

if TYPE_CHECKING:
    from airflow_provider_flora.api.settings import ClientSettings

MAX_FILE_BYTES = 10 * 1024**3
MAX_REDIRECTS = 5
_CHUNK_BYTES = 1024 * 1024
_REDIRECTS = {301, 302, 303, 307, 308}
_GONE = {403, 404, 410}
_MD5 = re.compile(r'"([0-9a-f]{32})"')


@dataclass(frozen=True)
class Answer:
    """The head of an answer, before its body is read.

    :param content_type: content type, as the server sent it.
    :param length: length of the body in bytes, if the server sent it.
    :param md5: MD5 of the body, if its ETag is one.
    :param is_encoded: whether length and MD5 are those of an encoded body, and not of the file.
    """

    content_type: str
    length: int | None
    md5: str | None
    is_encoded: bool
    _body: requests.Response
    _host: str

    def chunks(self, ends: float) -> Iterator[bytes]:
        """Iterate over the body in chunks. It ends without an error only if the body is complete.

        :param ends: deadline in seconds of the monotonic clock.
        :raises FloraDownloadError: the body is truncated, too large or too slow.
        """
        size = 0
        raw = self._body.raw
        while True:
            try:
                chunk = raw.read1(_CHUNK_BYTES, decode_content=True)
            except (urllib3.exceptions.HTTPError, OSError, requests.RequestException) as error:
                raise FloraDownloadError(
                    f"the connection to {self._host} failed after {size} bytes"
                    f"{f' of {self.length}' if self.length is not None else ''}: {type(error).__name__}: {error}",
                    transient=True,
                ) from None
            if not chunk:
                break
            size += len(chunk)
            if size > MAX_FILE_BYTES:
                raise _size_error(self._host)
            if time.monotonic() > ends:
                raise FloraDownloadError(f"the download from {self._host} timed out after {size} bytes")
            yield chunk
        received = raw.tell()  # encoded bytes, which the length counts
        if self.length is not None and received != self.length:
            raise FloraDownloadError(
                f"{self._host} sent {received} of {self.length} announced bytes", transient=True
            )
        if size == 0:
            raise FloraDownloadError(f"{self._host} sent an empty file", transient=True)


class MediaClient:
    """A client for media, with the connection's timeout, proxies and certificates, but without its key."""

    def __init__(self, settings: ClientSettings) -> None:
        self._settings = settings

    @contextmanager
    def get(self, url: str) -> Iterator[Answer]:
        """Request a file and return the head of the answer.

        :raises FloraDownloadError: the file cannot be fetched, or its URL is not allowed.
        """
        with ExitStack() as stack:
            session = stack.enter_context(BareSession())
            for _ in range(MAX_REDIRECTS + 1):
                self._check(url)
                response = stack.enter_context(self._ask(session, url))
                if response.status_code not in _REDIRECTS:
                    yield _read_head(response, _host(url))
                    return
                url = _redirect_target(url, response.headers.get("location", ""))
                response.close()
            raise FloraDownloadError(f"there were more than {MAX_REDIRECTS} redirects, the last to {_host(url)}")

    def _check(self, url: str) -> None:
        origin = origin_of(url)
        if origin is None:
            raise FloraDownloadError(f"{url[:200]!r} is not an http(s) URL")
        scheme, host, _ = origin
        if is_loopback(host) and not self._settings.on_loopback:
            raise FloraDownloadError(f"the URL points to {host}, the worker's own machine")
        if scheme == "http" and not (is_loopback(host) or self._settings.on_own_origin(url)):
            raise FloraDownloadError(f"{host} is reached by plain http, which is not secure")

    def _ask(self, session: BareSession, url: str) -> requests.Response:
        headers = {
            "Accept": "*/*",
            "Accept-Encoding": "identity",
            "User-Agent": USER_AGENT,
        }
        try:
            return session.send_bare("GET", url, self._settings, headers=headers)
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise FloraDownloadError(
                f"no answer from {_host(url)}: {type(error).__name__}: {error}", transient=True
            ) from None


def _read_head(response: requests.Response, host: str) -> Answer:
    headers = {name.lower(): value for name, value in response.headers.items()}
    if response.status_code != HTTPStatus.OK:
        raise _status_error(response.status_code, headers, host)
    length = headers.get("content-length", "")
    if not length.isdecimal() and "chunked" not in headers.get("transfer-encoding", "").lower():
        raise FloraDownloadError(
            f"{host} does not send the file's length, so a truncated file could not be detected"
        )
    if length.isdecimal() and int(length) > MAX_FILE_BYTES:
        raise _size_error(host)
    encoding = headers.get("content-encoding", "identity").lower()
    if encoding not in ("identity", "gzip", "deflate"):
        raise FloraDownloadError(f"{host} sends the unsupported content encoding {encoding!r}")
    md5 = _MD5.fullmatch(headers.get("etag", ""))
    return Answer(
        content_type=headers.get("content-type", ""),
        length=int(length) if length.isdecimal() else None,
        md5=md5[1] if md5 else None,
        is_encoded=encoding != "identity",
        _body=response,
        _host=host,
    )


def _status_error(status: int, headers: dict[str, str], host: str) -> FloraDownloadError:
    phrase = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else "no file"
    error = None
    try:
        answers.check_status(exchange.Response(status, headers, b""))
    except FloraAPIError as refused:
        error = refused
    return FloraDownloadError(
        f"{host} answered {status} {phrase}",
        transient=error is not None and error.transient,
        gone=status in _GONE,
        retry_after=error.retry_after if error else None,
    )


def _redirect_target(url: str, location: str) -> str:
    try:
        return urljoin(url, location)
    except ValueError:
        return location


def _size_error(host: str) -> FloraDownloadError:
    return FloraDownloadError(f"the file on {host} is larger than the limit of {MAX_FILE_BYTES >> 30} GB")


def _host(url: str) -> str:
    origin = origin_of(url)
    return origin[1] if origin else "nowhere"
