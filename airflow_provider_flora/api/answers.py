"""Turns Flora's answers into models or errors. No I/O."""

from __future__ import annotations

import errno
import os
import re
import socket
import ssl
import time
from collections.abc import Callable
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ValidationError

from airflow_provider_flora.api import network
from airflow_provider_flora.api.errors import (
    FloraAnswerError,
    FloraAnswerSizeError,
    FloraAPIError,
    FloraConnectionError,
    FloraTimeoutError,
    api_error,
)
from airflow_provider_flora.api.lenient import parse
from airflow_provider_flora.api.models import (
    ErrorAnswer,
    ErrorWords,
    FloraAsset,
    Run,
    Technique,
    Workspace,
    WorkspaceList,
)

if TYPE_CHECKING:
    from airflow_provider_flora.api.exchange import Request, Response
    from airflow_provider_flora.api.settings import ClientSettings

MAX_ANSWER_BYTES = 16 * 1024 * 1024
CLOCK_SET_BY = 1.0
"""Seconds. A clock that moves by more than this against the monotonic clock was set."""

ModelT = TypeVar("ModelT", bound=BaseModel)


def read(response: Response, model: type[ModelT]) -> ModelT:
    """Read an answer as a model.

    :raises FloraAPIError: Flora answered with an error.
    :raises FloraAnswerError: the answer is not JSON, or does not fit the model.
    """
    check_status(response)
    try:
        return parse(response.body, model)
    except ValidationError as error:
        raise _unreadable_error(response, model, error) from None


def read_run(response: Response) -> Run:
    """Read an answer as a run. From an event stream, read the last event that is a run."""
    check_status(response)
    content_type = response.headers.get("content-type", "")
    if not content_type.startswith("text/event-stream"):
        return read(response, Run).model_copy(update={"request_id": response.request_id})
    for event in reversed(_events(response.body)):
        try:
            return parse(event.encode(), Run).model_copy(update={"request_id": response.request_id})
        except ValidationError:
            continue
    raise FloraAnswerError("Flora's event stream ended without a run.", request_id=response.request_id)


def read_workspaces(response: Response) -> list[Workspace]:
    """Read the answer to ``GET /workspaces``."""
    return read(response, WorkspaceList).workspaces


def read_technique(response: Response) -> Technique:
    """Read the answer to ``getTechnique``."""
    return read(response, Technique)


def read_asset(response: Response) -> FloraAsset:
    """Read an answer as a Flora asset."""
    replayed = response.headers.get("idempotent-replayed", "").lower() == "true"
    return read(response, FloraAsset).model_copy(update={"replayed": replayed})


def check_status(response: Response) -> None:
    """Raise the error that an answer stands for, if it is an error or a redirect."""
    if 200 <= response.status < 300:
        return
    if 300 <= response.status < 400:
        raise FloraAnswerError(
            f"Flora answered {response.status}, a redirect to {response.headers.get('location', 'nowhere')!r}. "
            "Redirects are not followed, to protect the API key. If Flora has moved, change the base URL.",
            request_id=response.request_id,
            transient=False,
        )
    raise _api_error(response)


class Body:
    """The body of an answer while it arrives, with a limit of its size and time.

    :param timeout: seconds for the whole body. An event stream has no such limit.
    """

    def __init__(self, content_type: str, timeout: float, clock: Callable[[], float]) -> None:
        self._is_stream = content_type.startswith("text/event-stream")
        self._clock = clock
        self._ends = clock() + timeout
        self._chunks: list[bytes] = []
        self._size = 0

    def add(self, chunk: bytes) -> None:
        """Add a chunk.

        :raises FloraAnswerSizeError: the body is too large.
        :raises TimeoutError: the body takes too long.
        """
        self._chunks.append(chunk)
        self._size += len(chunk)
        if self._size > MAX_ANSWER_BYTES:
            raise FloraAnswerSizeError(MAX_ANSWER_BYTES)
        if not self._is_stream and self._clock() > self._ends:
            raise TimeoutError("the body did not arrive in time")

    @property
    def is_usable_when_cut(self) -> bool:
        """Whether a truncated body is worth reading: a part of an event stream may hold a paid run."""
        return self._is_stream and self._size > 0

    def content(self) -> bytes:
        """Return the bytes that have arrived."""
        return b"".join(self._chunks)


_CREDENTIALS = re.compile(r"//[^/\s]*@")
_CHECK_THE_WAY = "Check the address, the network and the proxy."
_CHECK_THE_CAS = "Check the address, the CA certificates that are trusted here and the proxy."
_UNREACHABLE = {errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH}


def connection_error(
    request: Request, settings: ClientSettings, cause: Exception, *, was_sent: bool = True
) -> FloraConnectionError:
    """Return the error for a request without a complete answer.

    Do not raise it *from* the cause: the libraries' exceptions hold the API key and the proxy's password.
    """
    error = FloraConnectionError(f"No answer from {_way_of(request, settings)}: {_reason_of(cause)}")
    error.was_sent = was_sent
    return error


def timeout_error(request: Request, settings: ClientSettings, *, was_sent: bool = True) -> FloraTimeoutError:
    """Return the error for a request without an answer within the connection's timeout."""
    check = "" if was_sent else f" {_CHECK_THE_WAY}"
    error = FloraTimeoutError(f"No answer from {_way_of(request, settings)} within {settings.timeout:g} s.{check}")
    error.was_sent = was_sent
    return error


def _way_of(request: Request, settings: ClientSettings) -> str:
    proxy = network.proxy_for(settings.base_url, settings)
    through = f" through the proxy {_CREDENTIALS.sub('//…@', proxy)}" if proxy else ""
    return f"{settings.base_url}{through} to {request.method} {request.path}"


def _reason_of(cause: BaseException) -> str:
    """Return why there is no answer, in the operating system's words where it has any, and what to check."""
    error = _system_error(cause)
    if error is None:
        return _sentence(f"{type(cause).__name__}: {cause}")
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"{_sentence(f'certificate verify failed: {error.verify_message}')} {_CHECK_THE_CAS}"
    if isinstance(error, socket.gaierror):
        return f"{_sentence(str(error.strerror))} {_CHECK_THE_WAY}"
    if error.errno is None or isinstance(error, ssl.SSLError):
        return _sentence(str(error) or type(error).__name__)
    # Not its own words: asyncio puts the address into them.
    reason = _sentence(os.strerror(error.errno))
    return f"{reason} {_CHECK_THE_WAY}" if error.errno in _UNREACHABLE else reason


def _system_error(cause: BaseException) -> OSError | None:
    """Return the innermost error of the system: the libraries wrap it several times, each in longer words."""
    for inner in (*cause.args, cause.__cause__):
        if isinstance(inner, BaseException) and (found := _system_error(inner)):
            return found
    return cause if isinstance(cause, OSError) else None


def _sentence(words: str) -> str:
    return f"{_CREDENTIALS.sub('//…@', words).rstrip('.')}."


def clock_skew(response: Response, now: float) -> float | None:
    """Return the seconds by which Flora's clock is ahead of the caller's, ±1 s, from an answer's ``Date``.

    :param now: the caller's unix time when the answer arrived.
    """
    try:
        age = float(response.headers.get("age", 0))  # of an answer that a cache gave
        return parsedate_to_datetime(response.headers["date"]).timestamp() + age + 0.5 - now
    except (KeyError, ValueError, TypeError, OverflowError):
        return None


def clocks_apart() -> float:
    """Return by how many seconds this machine's clock is ahead of its monotonic clock, which is never set."""
    return time.time() - time.monotonic()


def clock_was_set(apart: float) -> bool:
    """Whether this machine's clock was set, or the machine suspended, since its clocks were so far apart."""
    return abs(clocks_apart() - apart) > CLOCK_SET_BY


def _api_error(response: Response) -> FloraAPIError:
    try:
        error = parse(response.body, ErrorAnswer).error
    except ValidationError:
        error = ErrorWords()  # a proxy in front of Flora answers HTML, or nothing
    message = error.message
    if not message:
        reason = HTTPStatus(response.status).phrase if response.status in HTTPStatus._value2member_map_ else ""
        message = f"{reason or 'an error'} (not Flora's own answer; it may come from a proxy in front of Flora)"
    return api_error(
        response.status,
        message,
        code=error.code,
        fields=_messages_by_field(error),
        request_id=response.request_id,
        retry_after=_retry_after(response.headers.get("retry-after")),
        subject=response.subject,
        key_name=response.key_name,
    )


def _messages_by_field(error: ErrorWords) -> dict[str, str]:
    messages: dict[str, str] = {}
    for entry in error.fields:
        earlier = f"{messages[entry.field]}; " if entry.field in messages else ""
        messages[entry.field] = earlier + entry.message
    return messages


def _unreadable_error(response: Response, model: type[BaseModel], error: ValidationError) -> FloraAnswerError:
    first = error.errors(include_url=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        kind = response.headers.get("content-type", "no content type")
        return FloraAnswerError(
            f"Flora answered {response.status} with {len(response.body)} bytes of {kind} that are not JSON.",
            request_id=response.request_id,
        )
    where = ".".join(map(str, first["loc"])) or "the answer"
    return FloraAnswerError(
        f"Flora's answer cannot be read as {model.__name__}: {where}: {first['msg']}.",
        request_id=response.request_id,
    )


def _events(body: bytes) -> list[str]:
    """Return the data of each server-sent event. The last one may be truncated."""
    text = body.decode("utf-8-sig", errors="replace").replace("\r\n", "\n").replace("\r", "\n")
    return [
        "\n".join(line[5:].removeprefix(" ") for line in event.split("\n") if line.startswith("data:"))
        for event in text.split("\n\n")
    ]


def _retry_after(value: str | None) -> float | None:
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(value) - datetime.now(timezone.utc)).total_seconds()
        except (ValueError, TypeError, OverflowError):
            return None
    return max(0.0, seconds) if seconds == seconds else None  # NaN is no time
