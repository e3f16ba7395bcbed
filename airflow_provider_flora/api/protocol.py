"""The rules of talking to Flora, as plain functions over plain data: no I/O, no clock but what is handed in.

Builds requests, reads responses, decides on retries, walks pages, paces a wait. ``client`` and ``aio`` only move
the bytes, so each rule stands here once and holds for both.
"""

from __future__ import annotations

import hashlib
import json
import random
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar
from urllib.parse import quote, urlencode

import tenacity
from pydantic import BaseModel, ValidationError

from airflow_provider_flora import __version__
from airflow_provider_flora.api.assets import Form
from airflow_provider_flora.api.errors import (
    FloraAnswerError,
    FloraAPIError,
    FloraConnectionError,
    FloraError,
    FloraParameterError,
    FloraRunTimeoutError,
    FloraTimeoutError,
)
from airflow_provider_flora.api.models import (
    Asset,
    AssetPage,
    ErrorAnswer,
    ErrorWords,
    Meta,
    Run,
    RunInput,
    RunPage,
    Technique,
    TechniquePage,
    Workspace,
    WorkspaceList,
)

if TYPE_CHECKING:
    from airflow_provider_flora.api.settings import ClientSettings

MAX_ANSWER_BYTES = 16 * 1024 * 1024
MAX_BACKOFF = 30.0
MAX_RETRY_AFTER = 300.0
"""Seconds. A server that asks for a longer pause than this is not waited for: the error says how long it asked."""
FIRST_BACKOFF = 1.0
FIRST_BACKOFF_RATE_LIMITED = 10.0  # with jitter 5 s or more, as the developer site asks where a 429 names no time
COST_GRACE = 5.0
"""Seconds that a completed run is watched further for its ``charged_cost``, which comes late."""
NOT_FOUND_GRACE = 60.0
"""Seconds during which a run that was just created may be missing (developer site: for a moment)."""

ModelT = TypeVar("ModelT", bound=BaseModel)
ItemT = TypeVar("ItemT", covariant=True)


@dataclass(frozen=True)
class SmallFile:
    """A file that is sent in one request, of at most 4 MB."""

    name: str
    content_type: str
    content: bytes = field(repr=False)


@dataclass(frozen=True)
class Request:
    """A request, without where it goes or with which key.

    :param path: below the base URL, escaped.
    :param query: without entries of ``None``.
    :param body: for a POST: JSON, or the fields of a form if there is a ``file``.
    :param file: small enough to be sent in one piece.
    :param idempotency_key: sent as a header, and the same one each time that the request is sent.
    """

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None
    file: SmallFile | None = None
    idempotency_key: str | None = None

    def url(self, settings: ClientSettings) -> str:
        """Return the whole URL, always on the connection's own origin."""
        query = f"?{urlencode(self.query, errors='replace')}" if self.query else ""
        return f"{settings.base_url}{self.path}{query}"

    def headers(self, settings: ClientSettings) -> dict[str, str]:
        """Return the headers, the API key among them."""
        headers = {
            "Authorization": f"Bearer {settings.api_key}",
            "Accept": "application/json",
            "User-Agent": f"airflow-provider-flora/{__version__}",
        }
        if self.file is not None:
            headers["Content-Type"] = self._form(self.file).header
        elif self.body is not None:
            headers["Content-Type"] = "application/json"
        if self.idempotency_key is not None:
            headers["Idempotency-Key"] = self.idempotency_key
        return headers

    def content(self) -> bytes | None:
        """Return the body as it is sent."""
        if self.file is not None:
            form = self._form(self.file)
            return b"".join((form.head, self.file.content, form.tail))
        return None if self.body is None else json.dumps(self.body).encode()

    def _form(self, file: SmallFile) -> Form:
        # Of the content: what is sent again must be the same, and the boundary must not occur in it.
        boundary = f"flora-{hashlib.sha256(file.content).hexdigest()[:40]}"
        return Form(self.body or {}, "file", file.name, file.content_type, boundary)


@dataclass(frozen=True)
class Response:
    """An answer.

    :param headers: with lower-case names.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def request_id(self) -> str | None:
        """What Flora's support asks for: ``req_…``."""
        return self.headers.get("request-id")


# --- requests ---------------------------------------------------------------------------------------------


def list_workspaces() -> Request:
    """``GET /workspaces`` (SDK)."""
    return Request("GET", "/workspaces")


def get_technique(technique_id: str) -> Request:
    """``getTechnique``: by id or slug."""
    return Request("GET", f"/techniques/{_segment(technique_id)}")


def get_technique_run(technique_id: str, run_id: str) -> Request:
    """``getTechniqueRun``."""
    return Request("GET", f"/techniques/{_segment(technique_id)}/runs/{_segment(run_id)}")


def start_technique_run(
    technique_id: str,
    inputs: Sequence[RunInput],
    mode: str,
    callback_url: str | None,
    idempotency_key: str | None,
) -> Request:
    """``startTechniqueRun``, always with an idempotency key, so that it can be sent again.

    The key travels in the body: Flora ignores the header's form for technique runs (measured by the vendor).
    """
    body: dict[str, Any] = {
        "inputs": [entry.model_dump() for entry in inputs],
        "mode": mode,
        "idempotency_key": idempotency_key or new_idempotency_key(),
    }
    if callback_url is not None:
        body["callback_url"] = callback_url
    return Request("POST", f"/techniques/{_segment(technique_id)}/runs", body=body)


SIGNED_UPLOAD = "signed-url"
"""The ``source`` of an asset whose bytes will be sent to a reserved place."""


def create_asset(
    workspace_id: str,
    source: str | SmallFile,
    file_name: str | None,
    content_type: str | None,
    folder: str | None,
    project_id: str | None,
    idempotency_key: str | None,
) -> Request:
    """``POST /assets`` (SDK), always with an idempotency key, so that it can be sent again."""
    details = {"file_name": file_name, "content_type": content_type, "folder": folder, "project_id": project_id}
    body = {"workspace_id": workspace_id, **{name: value for name, value in details.items() if value}}
    idempotency_key = idempotency_key or new_idempotency_key()
    if isinstance(source, SmallFile):
        return Request("POST", "/assets", body=body, file=source, idempotency_key=idempotency_key)
    return Request("POST", "/assets", body={"source": source, **body}, idempotency_key=idempotency_key)


def complete_asset(asset_id: str) -> Request:
    """``POST /assets/{assetId}/complete`` (SDK)."""
    return Request("POST", f"/assets/{_segment(asset_id)}/complete", idempotency_key=new_idempotency_key())


def retry_asset(asset_id: str) -> Request:
    """``POST /assets/{assetId}/retry`` (SDK)."""
    return Request("POST", f"/assets/{_segment(asset_id)}/retry", idempotency_key=new_idempotency_key())


def get_asset(asset_id: str) -> Request:
    """``GET /assets/{assetId}`` (SDK)."""
    return Request("GET", f"/assets/{_segment(asset_id)}")


def new_idempotency_key() -> str:
    """Make a key that no other request has."""
    return f"airflow-{uuid.uuid4()}"


def _segment(value: str) -> str:
    try:
        segment = quote(value, safe="")
    except UnicodeEncodeError:  # half of a surrogate pair
        segment = ""
    if segment in ("", ".", ".."):
        raise FloraParameterError(f"{value!r} is not an id that Flora could know.")
    return segment


# --- responses --------------------------------------------------------------------------------------------


def read(response: Response, model: type[ModelT]) -> ModelT:
    """Read an answer as a model.

    :raises FloraAPIError: Flora answered with an error.
    :raises FloraAnswerError: the answer is not JSON (transient), or not of the model's form.
    """
    check_status(response)
    try:
        return model.model_validate_json(response.body)
    except ValidationError as error:
        raise _unreadable(response, model, error) from None


def read_run(response: Response) -> Run:
    """Read an answer as a run; of an event stream, the last event that is one."""
    check_status(response)
    content_type = response.headers.get("content-type", "")
    if not content_type.startswith("text/event-stream"):
        return read(response, Run).model_copy(update={"request_id": response.request_id})
    for event in reversed(_events(response.body)):
        try:
            return Run.model_validate_json(event).model_copy(update={"request_id": response.request_id})
        except ValidationError:
            continue
    raise FloraAnswerError(
        "Flora answered with an event stream in which no event is a run.", request_id=response.request_id
    )


def read_workspaces(response: Response) -> list[Workspace]:
    """Read the answer to ``GET /workspaces``."""
    return read(response, WorkspaceList).workspaces


def read_technique(response: Response) -> Technique:
    """Read the answer to ``getTechnique``."""
    return read(response, Technique)


def read_asset(response: Response) -> Asset:
    """Read an answer as an asset."""
    replayed = response.headers.get("idempotent-replayed", "").lower() == "true"
    return read(response, Asset).model_copy(update={"replayed": replayed})


def check_status(response: Response) -> None:
    """Raise what an answer with an error, or with a redirect, means."""
    if 200 <= response.status < 300:
        return
    if 300 <= response.status < 400:
        raise FloraAnswerError(
            f"Flora answered {response.status}, a redirect to {response.headers.get('location', 'nowhere')!r}. "
            "Redirects are not followed, so that the API key stays with the connection's own origin; if Flora "
            "has moved, change the connection's host.",
            request_id=response.request_id,
            transient=False,
        )
    raise _api_error(response)


class Body:
    """The body of an answer while it arrives: bounded in size, and in time unless it is an event stream.

    :param timeout: seconds for the whole of it. An event stream lasts as long as its run; each next piece of it
        has that long.
    """

    def __init__(self, content_type: str, timeout: float, clock: Callable[[], float]) -> None:
        self._is_stream = content_type.startswith("text/event-stream")
        self._clock = clock
        self._ends = clock() + timeout
        self._chunks: list[bytes] = []
        self._size = 0

    def add(self, chunk: bytes) -> None:
        """Take a piece.

        :raises FloraAnswerError: the body is too large.
        :raises TimeoutError: it takes too long.
        """
        self._chunks.append(chunk)
        self._size += len(chunk)
        if self._size > MAX_ANSWER_BYTES:
            raise FloraAnswerError(f"Flora's answer is larger than {MAX_ANSWER_BYTES >> 20} MB.", transient=False)
        if not self._is_stream and self._clock() > self._ends:
            raise TimeoutError("the body did not arrive in time")

    @property
    def is_usable_when_cut(self) -> bool:
        """Whether what has come is worth reading although the rest will not: a run that was paid is in it."""
        return self._is_stream and self._size > 0

    def content(self) -> bytes:
        """Return what has come."""
        return b"".join(self._chunks)


def no_answer(request: Request, settings: ClientSettings, cause: Exception) -> FloraConnectionError:
    """Return the error for a request that got no answer, or a broken one."""
    return FloraConnectionError(
        f"No answer from {settings.base_url} to {request.method} {request.path}: {type(cause).__name__}: {cause}"
    )


def no_answer_in_time(request: Request, settings: ClientSettings) -> FloraTimeoutError:
    """Return the error for a request that got no answer within the connection's time-out."""
    return FloraTimeoutError(
        f"No answer from {settings.base_url} to {request.method} {request.path} within {settings.timeout:g} s."
    )


def clock_skew(response: Response, now: float) -> float | None:
    """Return by how many seconds Flora's clock is ahead of the caller's, from the ``Date`` of an answer.

    :param now: the caller's unix time when the answer came. ``Date`` has whole seconds, so ±1 s.
    """
    try:
        return parsedate_to_datetime(response.headers["date"]).timestamp() + 0.5 - now
    except (KeyError, ValueError, TypeError, OverflowError):
        return None


def _api_error(response: Response) -> FloraAPIError:
    try:
        error = ErrorAnswer.model_validate_json(response.body).error
    except ValidationError:
        error = ErrorWords()  # a proxy in front answers HTML, or nothing: the status tells enough
    message = error.message
    if not message:
        reason = HTTPStatus(response.status).phrase if response.status in HTTPStatus._value2member_map_ else ""
        message = f"{reason or 'an error'} (not Flora's own answer; a proxy in front of it may have given it)"
    return FloraAPIError(
        response.status,
        message,
        code=error.code,
        fields=_messages_by_field(error),
        request_id=response.request_id,
        retry_after=_retry_after(response.headers.get("retry-after")),
    )


def _messages_by_field(error: ErrorWords) -> dict[str, str]:
    messages: dict[str, str] = {}
    for entry in error.fields:
        earlier = f"{messages[entry.field]}; " if entry.field in messages else ""
        messages[entry.field] = earlier + entry.message
    return messages


def _unreadable(response: Response, model: type[BaseModel], error: ValidationError) -> FloraAnswerError:
    first = error.errors(include_url=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        kind = response.headers.get("content-type", "no content type")
        return FloraAnswerError(
            f"Flora answered {response.status} with {len(response.body)} bytes that are not JSON ({kind}).",
            request_id=response.request_id,
        )
    where = ".".join(map(str, first["loc"])) or "the answer"
    return FloraAnswerError(
        f"Flora's answer is not a {model.__name__}: {where}: {first['msg']}.", request_id=response.request_id
    )


def _events(body: bytes) -> list[str]:
    """Return the data of each server-sent event; what was cut off at the end is left out by its reader."""
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


# --- retries ----------------------------------------------------------------------------------------------


def is_worth_retrying(error: BaseException) -> bool:
    """Whether the same request may be sent again now."""
    return (
        isinstance(error, FloraError)
        and error.transient
        and (getattr(error, "retry_after", None) or 0.0) <= MAX_RETRY_AFTER
    )


def pause_before_retry(error: BaseException | None, attempt: int, request: Request, timeout: float) -> float:
    """Return for how many seconds to wait before a request is sent again.

    :param attempt: how many times it has been sent.
    """
    retry_after = getattr(error, "retry_after", None)
    if retry_after is not None:
        # What Flora asks for, and a little more, so that all who were told the same do not come back at once.
        return float(retry_after) * random.uniform(1.0, 1.1)
    rate_limited = isinstance(error, FloraAPIError) and error.status == HTTPStatus.TOO_MANY_REQUESTS
    first = FIRST_BACKOFF_RATE_LIMITED if rate_limited else FIRST_BACKOFF
    pause = backoff(first, attempt)
    if isinstance(error, FloraTimeoutError) and request.method == "POST":
        # Two requests with one idempotency key at the same time may both be carried out (developer site): the
        # first, which may still be at work, is given as long again to end.
        return max(pause, timeout)
    return pause


def backoff(first: float, attempt: int) -> float:
    """Return an exponential pause in seconds with jitter, at most :data:`MAX_BACKOFF`."""
    return min(MAX_BACKOFF, first * 2.0 ** min(attempt - 1, 10)) * random.uniform(0.5, 1.0)


def retrying(request: Request, settings: ClientSettings) -> dict[str, Any]:
    """Return the arguments of ``tenacity.Retrying`` and ``tenacity.AsyncRetrying`` for a request."""

    def pause(state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        return pause_before_retry(error, state.attempt_number, request, settings.timeout)

    return {
        "retry": tenacity.retry_if_exception(is_worth_retrying),
        "stop": tenacity.stop_after_attempt(settings.max_retries + 1),
        "wait": pause,
        "reraise": True,
    }


# --- pages ------------------------------------------------------------------------------------------------


class Page(Protocol[ItemT]):
    """What the pages of every list have in common."""

    @property
    def meta(self) -> Meta:
        """Where the list goes on."""

    @property
    def items(self) -> Sequence[ItemT]:
        """What the page holds."""


class Pages(Generic[ItemT]):
    """A walk over all pages of a list: send ``request`` while there is one, hand each answer to ``read``."""

    def __init__(
        self, path: str, model: Callable[[Response], Page[ItemT]], query: Mapping[str, Any], page_size: int
    ) -> None:
        if not 1 <= page_size <= 100:
            raise ValueError(f"page_size takes 1 to 100 (Flora's limits), not {page_size!r}")
        self._model = model
        self._seen: set[str] = set()
        given = {name: str(value) for name, value in query.items() if value is not None}
        self.request: Request | None = Request("GET", path, {**given, "limit": str(page_size)})

    def read(self, response: Response) -> Sequence[ItemT]:
        """Read one page and move on to the next.

        :raises FloraAnswerError: Flora named a page that it has named before; going on would never end.
        """
        assert self.request is not None  # noqa: S101
        page = self._model(response)
        cursor = page.meta.next_cursor
        if not cursor:
            self.request = None
        elif cursor in self._seen:
            raise FloraAnswerError(
                f"Flora repeats the page {cursor!r} of {self.request.path}; the list would never end.",
                request_id=response.request_id,
                transient=False,
            )
        else:
            self._seen.add(cursor)
            self.request = Request("GET", self.request.path, {**self.request.query, "cursor": cursor})
        return page.items


def list_techniques(query: str | None, workspace_id: str | None, page_size: int) -> Pages[Technique]:
    """``listTechniques``."""
    return Pages(
        "/techniques",
        lambda response: read(response, TechniquePage),
        {"query": query, "workspace_id": workspace_id},
        page_size,
    )


def list_technique_runs(
    technique_id: str | None,
    status: str | None,
    workspace_id: str | None,
    project_id: str | None,
    page_size: int,
) -> Pages[Run]:
    """``listTechniqueRuns``: newest first."""
    return Pages(
        "/technique-runs",
        lambda response: read(response, RunPage),
        {
            "technique_id": technique_id,
            "status": status,
            "workspace_id": workspace_id,
            "project_id": project_id,
        },
        page_size,
    )


def list_assets(
    query: str | None, workspace_id: str | None, project_id: str | None, page_size: int
) -> Pages[Asset]:
    """``GET /assets`` (SDK)."""
    return Pages(
        "/assets",
        lambda response: read(response, AssetPage),
        {"query": query, "workspace_id": workspace_id, "project_id": project_id},
        page_size,
    )


# --- waiting ----------------------------------------------------------------------------------------------


class Seen(NamedTuple):
    """What a wait keeps of a run that goes on."""

    status: str
    progress: float
    created_at: float | None


class RunWait:
    """Decides, while a run goes on, when to ask again and when to stop.

    :param poll_interval: seconds between two looks; Flora recommends 2 to 5.
    :param timeout: seconds from now after which the wait ends; the run goes on.
    :param clock: seconds that only grow.
    :param on_change: is told of the run when its status changes or it has come ten points further.
    :param jitter: by how much of itself ``poll_interval`` varies, so that waits do not fall into step.
    """

    __slots__ = (
        "_began",
        "_clock",
        "_completed_at",
        "_errors",
        "_jitter",
        "_on_change",
        "_timeout",
        "_told",
        "finished",
        "poll_interval",
        "run_id",
        "seen",
        "technique_id",
    )

    def __init__(
        self,
        technique_id: str,
        run_id: str,
        *,
        poll_interval: float,
        timeout: float,
        clock: Callable[[], float],
        on_change: Callable[[Run], None] | None = None,
        jitter: float = 0.1,
    ) -> None:
        if not poll_interval > 0:
            raise ValueError(f"poll_interval must be more than 0 seconds, not {poll_interval!r}")
        self.technique_id = technique_id
        self.run_id = run_id
        self.seen: Seen | None = None
        self.finished: Run | None = None
        self.poll_interval = poll_interval
        self._clock = clock
        self._began = clock()
        self._timeout = timeout
        self._on_change = on_change
        self._jitter = jitter
        self._told: Seen | None = None
        self._completed_at: float | None = None
        self._errors = 0

    @property
    def run(self) -> Run:
        """The finished run."""
        assert self.finished is not None  # noqa: S101  # asked for only after a look that brought it
        return self.finished

    def after(self, outcome: Run | FloraError) -> float | None:
        """Return the seconds until the next look, or ``None``: the run is as finished as it will be.

        :param outcome: what the last look brought. A hiccup does not end a wait.
        :raises FloraError: the outcome, if looking again cannot help.
        :raises FloraRunTimeoutError: the time is over.
        """
        return self._after_error(outcome) if isinstance(outcome, FloraError) else self._after_run(outcome)

    def _after_run(self, run: Run) -> float | None:
        self._errors = 0
        if run.finished:
            self.finished = run
        elif self.finished is not None:
            run = self.finished  # an answer that is behind: what has ended does not go on
        # Not the run itself: thousands of waits may last for hours.
        self.seen = Seen(run.status, run.progress, run.created_at)
        self._tell(run, self.seen)
        if self.finished is None:
            jitter = random.uniform(-self._jitter, self._jitter) if self._jitter else 0.0
            return self._until_next(self.poll_interval * (1 + jitter))
        if run.settled:
            return None
        now = self._clock()
        self._completed_at = now if self._completed_at is None else self._completed_at
        if now - self._completed_at >= COST_GRACE:
            return None
        return min(1.0, self.poll_interval)

    def _after_error(self, error: FloraError) -> float | None:
        self._errors += 1
        if self._completed_at is not None:
            return None  # all but the cost is known
        missing = isinstance(error, FloraAPIError) and error.status == HTTPStatus.NOT_FOUND
        if missing and self.seen is None and self._clock() - self._began < NOT_FOUND_GRACE:
            return self._until_next(self.poll_interval)
        if not error.transient:
            raise error
        asked = min(getattr(error, "retry_after", None) or 0.0, MAX_RETRY_AFTER)
        return self._until_next(max(asked, backoff(FIRST_BACKOFF, self._errors), self.poll_interval))

    def _until_next(self, pause: float) -> float:
        left = self._began + self._timeout - self._clock()
        if left <= 0:
            raise self.timeout_error()
        return min(pause, left)

    def timeout_error(self) -> FloraRunTimeoutError:
        """Return the error for a wait whose time is over."""
        known = "" if self.seen is None else f" (it is {self.seen.status}, {self.seen.progress:g} %)"
        return FloraRunTimeoutError(self.run_id, self.technique_id, f"within {self._timeout:g} s", known)

    def _tell(self, run: Run, seen: Seen) -> None:
        told = self._told
        if told is None or seen.status != told.status or seen.progress >= told.progress + 10:
            self._told = seen
            if self._on_change is not None:
                self._on_change(run)
