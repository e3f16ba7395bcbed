"""A file's bytes on their way to the place that Flora reserved for them: another origin, which never sees the key.

A session of its own, without the connection's key, cookies or redirects. The address and the fields of the form
are as good as a password, so that no error shows them: only the host.
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

from airflow_provider_flora.api.assets import Form
from airflow_provider_flora.api.errors import FloraAnswerError, FloraUploadError, Remedy
from airflow_provider_flora.api.session import BareSession
from airflow_provider_flora.api.settings import is_loopback, origin_of

if TYPE_CHECKING:
    from airflow_provider_flora.api.models import Asset
    from airflow_provider_flora.api.settings import ClientSettings
    from airflow_provider_flora.files.source import SourceFile

_SHOWN_BYTES = 4096
_XML_WORDS = re.compile(rb"<(?:Code|Message)>([^<]*)<")
_TOO_LARGE = re.compile(rb"EntityTooLarge|EntityTooSmall")


class _Body:
    """The bytes of a request in pieces, with a length, so that they need not be sent chunked."""

    def __init__(self, head: bytes, file: SourceFile, tail: bytes) -> None:
        self._head = head
        self._file = file
        self._tail = tail

    def __len__(self) -> int:
        return len(self._head) + self._file.size + len(self._tail)

    def __iter__(self) -> Iterator[bytes]:
        yield self._head
        yield from self._file.pieces()
        yield self._tail


def send(reservation: Asset, file: SourceFile, name: str, content_type: str, settings: ClientSettings) -> None:
    """Send a file to the place that was reserved for it, once.

    :raises FloraUploadError: it did not arrive.
    :raises FloraFileError: it could not be read to its end.
    """
    method, url, headers, body = _request(reservation, file, name, content_type)
    host = _checked_host(url, settings)
    try:
        with (
            BareSession() as session,
            session.send_bare(method, url, settings, headers=headers, data=body) as answer,
        ):
            if 200 <= answer.status_code < 300:
                return
            words = answer.raw.read(_SHOWN_BYTES, decode_content=True)
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
        # Not from it: its text shows the address, which is as good as a password.
        raise FloraUploadError(
            f"{file.given!r} did not reach the upload host {host}: {type(error).__name__}.", transient=True
        ) from None
    raise _refused(answer.status_code, words, file, host)


def _request(
    reservation: Asset, file: SourceFile, name: str, content_type: str
) -> tuple[str, str, dict[str, str], _Body]:
    target = reservation.upload
    if target is not None:
        boundary = f"flora-{secrets.token_hex(20)}"
        form = Form(target.form_fields, target.file_field, name, content_type, boundary)
        return target.method, target.url, {"Content-Type": form.header}, _Body(form.head, file, form.tail)
    if reservation.upload_url is not None:
        return "PUT", reservation.upload_url, {"Content-Type": content_type}, _Body(b"", file, b"")
    raise FloraAnswerError(f"Flora reserved {reservation.asset_id} without saying where to send its bytes.")


def _checked_host(url: str, settings: ClientSettings) -> str:
    origin = origin_of(url)
    if origin is None or not (
        origin[0] == "https" or is_loopback(origin[1]) or (settings.allow_http and settings.origin[0] == "http")
    ):
        raise FloraAnswerError(
            f"Flora names an upload host that is not https:// ({urlsplit(url).scheme or 'no scheme'}); "
            "nothing was sent to it.",
            transient=False,
        )
    return origin[1]


def _refused(status: int, words: bytes, file: SourceFile, host: str) -> FloraUploadError:
    said = ": ".join(word.decode(errors="replace") for word in _XML_WORDS.findall(words))[:300]
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    text = f"The upload host {host} answered {status} {said or phrase} to {file.given!r} ({file.size} bytes)."
    if status in (408, 429) or status >= 500:
        return FloraUploadError(text, transient=True)
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE or _TOO_LARGE.search(words):
        return FloraUploadError(f"{text} Make the file smaller.", remedy=Remedy.CHANGE_INPUT)
    return FloraUploadError(text, spent=True)
