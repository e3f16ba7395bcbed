"""Sends a file's bytes to the upload host that Flora reserved. The host never receives the API key.

The session has no key, cookies or redirects. The address and the fields of the form grant write access, so errors
show only the host.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import requests
import urllib3

from airflow_provider_flora.api.errors import FloraAnswerError, FloraUploadError, Remedy
from airflow_provider_flora.api.multipart import Form
from airflow_provider_flora.api.session import BareSession
from airflow_provider_flora.api.settings import is_loopback, origin_of

if TYPE_CHECKING:
    from airflow_provider_flora.api.models import FloraAsset
    from airflow_provider_flora.api.settings import ClientSettings
    from airflow_provider_flora.files.uploads.source import SourceFile

_SHOWN_BYTES = 4096
_XML_WORDS = re.compile(rb"<(?:Code|Message)>([^<]*)<")
_TOO_LARGE = re.compile(rb"EntityTooLarge|EntityTooSmall")


class _Body:
    """The body of a request, with a length, so that it is not sent in chunked encoding."""

    def __init__(self, head: bytes, file: SourceFile, tail: bytes) -> None:
        self._head = head
        self._file = file
        self._tail = tail

    def __len__(self) -> int:
        return len(self._head) + self._file.size + len(self._tail)

    def __iter__(self) -> Iterator[bytes]:
        yield self._head
        yield from self._file.read_chunks()
        yield self._tail


def send(reservation: FloraAsset, file: SourceFile, name: str, content_type: str, settings: ClientSettings) -> None:
    """Send a file to its reserved upload, once.

    :raises FloraUploadError: the file did not arrive.
    :raises FloraFileError: the file could not be read to its end.
    """
    method, url, headers, body = _request(reservation, file, name, content_type)
    host = _check_host(url, settings)
    try:
        with (
            BareSession() as session,
            session.send_bare(method, url, settings, headers=headers, data=body) as answer,
        ):
            if 200 <= answer.status_code < 300:
                return
            words = answer.raw.read(_SHOWN_BYTES, decode_content=True)
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
        # Not raised from the error, whose text shows the address.
        raise FloraUploadError(
            f"{file.location!r} did not reach the upload host {host}: {type(error).__name__}.", transient=True
        ) from None
    raise _status_error(answer.status_code, words, file, host)


def _request(
    reservation: FloraAsset, file: SourceFile, name: str, content_type: str
) -> tuple[str, str, dict[str, str], _Body]:
    target = reservation.upload
    if target is not None:
        boundary = f"flora-{secrets.token_hex(20)}"
        form = Form(target.form_fields, target.file_field, name, content_type, boundary)
        return target.method, target.url, {"Content-Type": form.header}, _Body(form.head, file, form.tail)
    if reservation.upload_url is not None:
        return "PUT", reservation.upload_url, {"Content-Type": content_type}, _Body(b"", file, b"")
    raise FloraAnswerError(f"Flora reserved {reservation.asset_id} without an upload address.")


def _check_host(url: str, settings: ClientSettings) -> str:
    origin = origin_of(url)
    if origin is None or not (
        origin[0] == "https" or is_loopback(origin[1]) or (settings.allow_http and settings.origin[0] == "http")
    ):
        raise FloraAnswerError(
            f"Flora's upload address is not https:// ({urlsplit(url).scheme or 'no scheme'}). Nothing was sent.",
            transient=False,
        )
    return origin[1]


def _status_error(status: int, words: bytes, file: SourceFile, host: str) -> FloraUploadError:
    said = ": ".join(word.decode(errors="replace") for word in _XML_WORDS.findall(words))[:300]
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    text = f"The upload host {host} answered {status} {said or phrase} to {file.location!r} ({file.size} bytes)."
    if status in (408, 429) or status >= 500:
        return FloraUploadError(text, transient=True)
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE or _TOO_LARGE.search(words):
        return FloraUploadError(f"{text} Make the file smaller.", remedy=Remedy.CHANGE_INPUT)
    return FloraUploadError(text, spent=True)
