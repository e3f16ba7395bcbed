"""Requests and answers as plain data. No I/O."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from airflow_provider_flora.api.errors import FloraError
from airflow_provider_flora.api.lenient import storable
from airflow_provider_flora.api.multipart import Form
from airflow_provider_flora.version import USER_AGENT

if TYPE_CHECKING:
    from airflow_provider_flora.api.settings import ClientSettings


@dataclass(frozen=True)
class SmallFile:
    """A file of at most 4 MB, sent in one request."""

    name: str
    content_type: str
    content: bytes = field(repr=False)


@dataclass(frozen=True)
class Request:
    """A request, without its server and API key.

    :param operation: Flora's name of what is asked for: ``startTechniqueRun``.
    :param path: escaped path below the base URL.
    :param query: query parameters, without ``None``.
    :param body: JSON of a POST, or the fields of a form if there is a ``file``.
    :param file: a file to send in one request.
    :param idempotency_key: header that stays the same each time the request is sent.
    :param spends_money: whether the request starts a run.
    :param in_workspace: add the settings' workspace if the query names none.
    :param subject: what the request is about, for errors: ``technique 'portrait'``.
    """

    operation: str
    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None
    file: SmallFile | None = None
    idempotency_key: str | None = None
    spends_money: bool = False
    in_workspace: bool = False
    subject: str = ""

    def url(self, settings: ClientSettings) -> str:
        """Return the full URL, always on the connection's own origin."""
        query = dict(self.query)
        if self.in_workspace and settings.workspace_id and not query.get("workspace_id"):
            query["workspace_id"] = settings.workspace_id
        encoded = f"?{urlencode(query, errors='replace')}" if query else ""
        return f"{settings.base_url}{self.path}{encoded}"

    def headers(self, settings: ClientSettings) -> dict[str, str]:
        """Return the headers, including the API key."""
        headers = {
            "Authorization": f"Bearer {settings.api_key}",
            "Accept": "application/json",
            "User-Agent": USER_AGENT,
        }
        if self.file is not None:
            headers["Content-Type"] = self._form(self.file).header
        elif self.body is not None:
            headers["Content-Type"] = "application/json"
        if self.idempotency_key is not None:
            headers["Idempotency-Key"] = self.idempotency_key
        return headers

    def content(self) -> bytes | None:
        """Return the bytes of the body."""
        if self.file is not None:
            form = self._form(self.file)
            return b"".join((form.head, self.file.content, form.tail))
        return None if self.body is None else json.dumps(self.body).encode()

    def _form(self, file: SmallFile) -> Form:
        # Derived from the content: a retry must send the same bytes, and the content must not contain the boundary.
        boundary = f"flora-{hashlib.sha256(file.content).hexdigest()[:40]}"
        return Form(self.body or {}, "file", file.name, file.content_type, boundary)


OnAnswer = Callable[[Request, "int | None"], None]
"""Receives a request each time that it was sent, and the HTTP status of its answer; ``None`` if no complete answer
came. It must not raise."""


@dataclass(frozen=True)
class Response:
    """An answer of Flora.

    :param headers: headers with lower-case names.
    :param subject: what the request was about, for errors.
    :param key_name: what errors call the API key of the request.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    subject: str = ""
    key_name: str = "the API key"

    @classmethod
    def received(
        cls, status: int, headers: Mapping[str, str], body: bytes, request: Request, settings: ClientSettings
    ) -> Response:
        """Return an answer as it came, without the API key: an error may repeat what it was asked with."""
        lower = {name.lower(): value.replace(settings.api_key, "…") for name, value in headers.items()}
        body = body if status < 300 else body.replace(settings.api_key.encode(), "…".encode())
        return cls(status, lower, body, request.subject, settings.key_name)

    @property
    def request_id(self) -> str | None:
        """The id ``req_…``, which Flora's support asks for."""
        request_id = self.headers.get("request-id")
        return None if request_id is None else storable(request_id)


@contextmanager
def observed(request: Request, on_answer: OnAnswer | None) -> Iterator[Callable[[Response], Response]]:
    """Tell a client's listener of a request: by the function that it gives, or of the error in its place."""

    def answered(response: Response) -> Response:
        if on_answer is not None:
            on_answer(request, response.status)
        return response

    try:
        yield answered
    except FloraError:
        if on_answer is not None:
            on_answer(request, None)
        raise
