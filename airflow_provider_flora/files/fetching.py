"""One file from the web: where it may come from, how far a redirect is followed, when it is whole.

Media are on other origins than Flora's API. The key is never sent to them, nor is anything of a .netrc file.
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

from airflow_provider_flora import __version__
from airflow_provider_flora.api import protocol
from airflow_provider_flora.api.errors import FloraAPIError, FloraError, Remedy
from airflow_provider_flora.api.session import BareSession
from airflow_provider_flora.api.settings import is_loopback, origin_of

if TYPE_CHECKING:
    from airflow_provider_flora.api.settings import ClientSettings

MAX_FILE_BYTES = 10 * 1024**3
MAX_REDIRECTS = 5
_CHUNK_BYTES = 1024 * 1024
_REDIRECTS = {301, 302, 303, 307, 308}
_GONE = {403, 404, 410}
_MD5 = re.compile(r'"([0-9a-f]{32})"')


class FloraDownloadError(FloraError):
    """An output could not be downloaded. A retry costs nothing: the run is there, and is not started again.

    :param transient: asking again soon may help.
    :param gone: what the URL stood for is not there, or no longer.
    :param retry_after: seconds that the server asks to wait.
    """

    remedy = Remedy.RETRY_LATER

    def __init__(
        self, message: str, *, transient: bool = False, gone: bool = False, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.transient = transient
        self.gone = gone
        self.retry_after = retry_after


@dataclass(frozen=True)
class Answer:
    """The head of an answer, its body still to come.

    :param length: bytes of the body, where the server said.
    :param md5: of the body, where its ETag is one.
    :param is_encoded: the file is not what the length and the checksum are of.
    """

    content_type: str
    length: int | None
    md5: str | None
    is_encoded: bool
    _body: requests.Response
    _host: str

    def chunks(self, ends: float) -> Iterator[bytes]:
        """Give the body piece by piece, in constant memory; it ends without an error only when it is whole.

        :param ends: monotonic time in seconds after which it takes too long.
        :raises FloraDownloadError: it is cut, too large or too slow.
        """
        size = 0
        raw = self._body.raw
        while True:
            try:
                chunk = raw.read1(_CHUNK_BYTES, decode_content=True)
            except (urllib3.exceptions.HTTPError, OSError, requests.RequestException) as error:
                raise FloraDownloadError(
                    f"the connection to {self._host} broke after {size} bytes"
                    f"{f' of {self.length}' if self.length is not None else ''}: {type(error).__name__}: {error}",
                    transient=True,
                ) from error
            if not chunk:
                break
            size += len(chunk)
            if size > MAX_FILE_BYTES:
                raise _too_large(self._host)
            if time.monotonic() > ends:
                raise FloraDownloadError(f"{self._host} was too slow: {size} bytes when the time was over")
            yield chunk
        received = raw.tell()  # as it came over the wire, which is what its length is told of
        if self.length is not None and received != self.length:
            raise FloraDownloadError(
                f"{self._host} sent {received} bytes of the {self.length} that it announced", transient=True
            )
        if size == 0:
            raise FloraDownloadError(f"{self._host} sent an empty file", transient=True)


class MediaClient:
    """Asks for media as the connection's settings say: its time-out, proxies and certificates, and not its key."""

    def __init__(self, settings: ClientSettings) -> None:
        self._settings = settings

    @contextmanager
    def get(self, url: str) -> Iterator[Answer]:
        """Ask for a file and give the head of the answer.

        :raises FloraDownloadError: there is no such file, or none that may be asked for.
        """
        with ExitStack() as stack:
            session = stack.enter_context(BareSession())
            for _ in range(MAX_REDIRECTS + 1):
                self._check(url)
                response = stack.enter_context(self._ask(session, url))
                if response.status_code not in _REDIRECTS:
                    yield _answer(response, _host(url))
                    return
                url = _target(url, response.headers.get("location", ""))
                response.close()
            raise FloraDownloadError(f"more than {MAX_REDIRECTS} redirects, the last to {_host(url)}")

    def _check(self, url: str) -> None:
        origin = origin_of(url)
        if origin is None:
            raise FloraDownloadError(f"{url[:200]!r} is not an http(s) URL")
        scheme, host, _ = origin
        if is_loopback(host) and not self._settings.on_loopback:
            raise FloraDownloadError(f"{host} is the worker's own machine, where no file of Flora's can be")
        if scheme == "http" and not (is_loopback(host) or self._settings.on_own_origin(url)):
            raise FloraDownloadError(f"it is to come from {host} by plain http, where anybody could change it")

    def _ask(self, session: BareSession, url: str) -> requests.Response:
        headers = {
            "Accept": "*/*",
            "Accept-Encoding": "identity",
            "User-Agent": f"airflow-provider-flora/{__version__}",
        }
        try:
            return session.send_bare("GET", url, self._settings, headers=headers)
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise FloraDownloadError(
                f"no answer from {_host(url)}: {type(error).__name__}: {error}", transient=True
            ) from error


def _answer(response: requests.Response, host: str) -> Answer:
    headers = {name.lower(): value for name, value in response.headers.items()}
    if response.status_code != HTTPStatus.OK:
        raise _refusal(response.status_code, headers, host)
    length = headers.get("content-length", "")
    if not length.isdecimal() and "chunked" not in headers.get("transfer-encoding", "").lower():
        raise FloraDownloadError(f"{host} does not tell the file's length, so a cut one could not be told from it")
    if length.isdecimal() and int(length) > MAX_FILE_BYTES:
        raise _too_large(host)
    encoding = headers.get("content-encoding", "identity").lower()
    if encoding not in ("identity", "gzip", "deflate"):
        raise FloraDownloadError(f"{host} sends it encoded as {encoding!r}, unasked")
    md5 = _MD5.fullmatch(headers.get("etag", ""))
    return Answer(
        content_type=headers.get("content-type", ""),
        length=int(length) if length.isdecimal() else None,
        md5=md5[1] if md5 else None,
        is_encoded=encoding != "identity",
        _body=response,
        _host=host,
    )


def _refusal(status: int, headers: dict[str, str], host: str) -> FloraDownloadError:
    phrase = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else "no file"
    error = None
    try:
        protocol.check_status(protocol.Response(status, headers, b""))
    except FloraAPIError as refused:
        error = refused
    return FloraDownloadError(
        f"{host} answered {status} {phrase}",
        transient=error is not None and error.transient,
        gone=status in _GONE,
        retry_after=error.retry_after if error else None,
    )


def _target(url: str, location: str) -> str:
    try:
        return urljoin(url, location)
    except ValueError:
        return location


def _too_large(host: str) -> FloraDownloadError:
    return FloraDownloadError(f"{host} sends more than {MAX_FILE_BYTES >> 30} GB, the most that is downloaded")


def _host(url: str) -> str:
    origin = origin_of(url)
    return origin[1] if origin else "nowhere"
