"""FloraClient: Flora's API over ``requests``. It only moves bytes; the rules are in the other files here."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import requests
import tenacity
import urllib3

from airflow_provider_flora.api import answers, calls, operations, retries
from airflow_provider_flora.api.calls import Call, Done, Pause, Step
from airflow_provider_flora.api.errors import FloraError
from airflow_provider_flora.api.exchange import OnAnswer, Request, Response, SmallFile, observed
from airflow_provider_flora.api.inputs import Inputs
from airflow_provider_flora.api.models import FloraAsset, Run, Technique, Workspace
from airflow_provider_flora.api.pages import Pages
from airflow_provider_flora.api.retries import OnRetry
from airflow_provider_flora.api.session import BareSession
from airflow_provider_flora.api.waiting import WaitListener

if TYPE_CHECKING:
    from typing_extensions import Self

    from airflow_provider_flora.api.settings import ClientSettings

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")
AnswerT = TypeVar("AnswerT")
_CHUNK_BYTES = 64 * 1024


class FloraClient:
    """Flora's API, synchronously, over one keep-alive session. Use it as a context manager, or ``close()`` it.

    Every method raises :class:`~airflow_provider_flora.api.errors.FloraAPIError` for Flora's own errors,
    :class:`~airflow_provider_flora.api.errors.FloraConnectionError` if no answer arrived, and
    :class:`~airflow_provider_flora.api.errors.FloraAnswerError` for an unreadable answer. Transient errors are
    retried ``max_retries`` times first.

    :param settings: Flora's address, the API key and the network settings.
    :param on_retry: is told of each retry before its pause. Default: nobody is.
    :param on_answer: is told of each request and the status of its answer. Default: nobody is.
    """

    def __init__(
        self, settings: ClientSettings, on_retry: OnRetry | None = None, on_answer: OnAnswer | None = None
    ) -> None:
        self.settings = settings
        self._on_retry = on_retry
        self._on_answer = on_answer
        self.clock_skew: float | None = None
        """Seconds by which Flora's clock is ahead of this machine's. ``None`` before the first answer."""
        self._session = BareSession()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the session's connections."""
        self._session.close()

    def list_workspaces(self) -> list[Workspace]:
        """Return the workspaces that the key can access."""
        return self._call(operations.list_workspaces(), answers.read_workspaces)

    def list_techniques(
        self, query: str | None = None, workspace_id: str | None = None, page_size: int = 100
    ) -> Iterator[Technique]:
        """Iterate lazily over the techniques that the key can access.

        :param query: text to find in names and descriptions.
        :param workspace_id: default: the workspace of the settings, if they have one.
        :param page_size: 1 to 100.
        """
        return self._walk(operations.list_techniques(query, workspace_id, page_size))

    def get_technique(self, technique_id: str) -> Technique:
        """Return a technique, by id or slug, with its inputs, outputs and price."""
        return self._call(operations.get_technique(technique_id), answers.read_technique)

    def start_technique_run(
        self,
        technique_id: str,
        inputs: Inputs,
        mode: str = "async",
        callback_url: str | None = None,
        idempotency_key: str | None = None,
    ) -> Run:
        """Start a run. **This costs money**, and a run cannot be cancelled.

        If the answer is lost, the request is sent again with the same idempotency key. Flora may then answer 409
        ``idempotency_duplicate``: the run exists and is in the history.

        :param inputs: ``{input_id: value}`` (one more request gets the types) or ``[{id, type, value}]``.
        :param mode: ``async``, or ``stream``, with which the call lasts as long as Flora streams.
        :param callback_url: public HTTPS URL that Flora calls once when the run ends.
        :param idempotency_key: default: a new key.
        :raises FloraInputError: the technique has no such input.
        """
        return self.drive(calls.start_technique_run(technique_id, inputs, mode, callback_url, idempotency_key))

    def get_technique_run(self, technique_id: str, run_id: str) -> Run:
        """Return a run in its current state."""
        return self._call(operations.get_technique_run(technique_id, run_id), answers.read_run)

    def list_technique_runs(
        self,
        technique_id: str | None = None,
        status: str | None = None,
        workspace_id: str | None = None,
        project_id: str | None = None,
        page_size: int = 100,
    ) -> Iterator[Run]:
        """Iterate lazily over the run history, newest first.

        :param status: ``pending``, ``running``, ``completed`` or ``failed``.
        :param workspace_id: default: the workspace of the settings, if they have one.
        :param page_size: 1 to 100.
        """
        return self._walk(operations.list_technique_runs(technique_id, status, workspace_id, project_id, page_size))

    def wait_for_technique_run(
        self,
        technique_id: str,
        run_id: str,
        poll_interval: float = 5.0,
        timeout: float = 3600.0,
        *,
        deadline: float | None = None,
        listener: WaitListener | None = None,
    ) -> Run:
        """Wait until a run has completed or failed, and return it.

        A completed run is polled for up to 5 s more for its ``charged_cost``. An error ends the wait only if Flora
        itself refuses twice, three minutes apart.

        :param poll_interval: seconds between two polls.
        :param timeout: seconds after which the wait ends. The run goes on.
        :param deadline: unix time at which the wait ends. Default: ``timeout`` seconds from now.
        :param listener: receives changes of the run and interruptions of the polls.
        :raises FloraRunTimeoutError: the run did not finish in time.
        :raises FloraAPIError: Flora refuses. This error is retryable, like every other that ends a wait.
        """
        return self.drive(
            calls.wait_for_technique_run(technique_id, run_id, poll_interval, timeout, deadline, listener)
        )

    def create_asset(
        self,
        workspace_id: str,
        source: str | SmallFile,
        *,
        file_name: str | None = None,
        content_type: str | None = None,
        folder: str | None = None,
        project_id: str | None = None,
        idempotency_key: str | None = None,
    ) -> FloraAsset:
        """Create a Flora asset. ``FloraHook.upload_asset`` performs all steps of an upload.

        If the answer is lost, the request is sent again with the same idempotency key. Flora may then answer 409
        ``idempotency_duplicate``: the asset exists.

        :param source: a small file, a public HTTPS URL that Flora fetches (up to 50 MB), or ``"signed-url"`` to
            reserve an upload.
        :param idempotency_key: default: a new key.
        """
        request = operations.create_asset(
            workspace_id, source, file_name, content_type, folder, project_id, idempotency_key
        )
        return self._call(request, answers.read_asset)

    def complete_asset(self, asset_id: str) -> FloraAsset:
        """Complete a signed upload after its bytes have been sent."""
        return self._call(operations.complete_asset(asset_id), answers.read_asset)

    def retry_asset(self, asset_id: str) -> FloraAsset:
        """Reserve a new upload for a Flora asset whose upload failed or expired."""
        return self._call(operations.retry_asset(asset_id), answers.read_asset)

    def get_asset(self, asset_id: str) -> FloraAsset:
        """Return a Flora asset in its current state."""
        return self._call(operations.get_asset(asset_id), answers.read_asset)

    def list_assets(
        self,
        query: str | None = None,
        workspace_id: str | None = None,
        project_id: str | None = None,
        page_size: int = 100,
    ) -> Iterator[FloraAsset]:
        """Iterate lazily over the Flora assets that the key can access.

        :param query: text to find.
        :param workspace_id: default: the workspace of the settings, if they have one.
        :param project_id: list only the assets on this project's canvas.
        :param page_size: 1 to 100.
        """
        return self._walk(operations.list_assets(query, workspace_id, project_id, page_size))

    def _walk(self, pages: Pages[ItemT]) -> Iterator[ItemT]:
        while pages.request is not None:
            yield from self.drive(calls.read_page(pages))

    def drive(self, call: Call[ResultT]) -> ResultT:
        """Perform a call of several steps and return its result."""
        step = calls.resume(call, None)
        while not isinstance(step, Done):
            try:
                outcome = self._perform(step)
            except Exception as error:
                outcome = error
            step = calls.resume(call, outcome)
        return step.result

    def _perform(self, step: Step) -> Any:
        if isinstance(step, Pause):
            return time.sleep(step.seconds)
        send = self.ask if step.once else self._call
        return send(step.request, step.read)

    def _call(self, request: Request, read: Callable[[Response], AnswerT]) -> AnswerT:
        """Send a request and read its answer. Retry after transient errors."""
        arguments = retries.retry_arguments(request, self.settings)
        if self._on_retry is not None:
            arguments["before_sleep"] = retries.report_retries(self._on_retry, request)
        retrying = tenacity.Retrying(**arguments)
        answer: AnswerT = retrying(self.ask, request, read)
        return answer

    def ask(self, request: Request, read: Callable[[Response], AnswerT]) -> AnswerT:
        """Send a request once and read its answer, for callers with their own retry rules."""
        apart = answers.clocks_apart()
        with observed(request, self._on_answer) as answered:
            response = answered(self._exchange(request))
        skew = answers.clock_skew(response, time.time())
        if skew is None or answers.clock_was_set(apart):  # the ``Date`` may be from before that
            skew = self.clock_skew
        try:
            answer = read(response)
        except FloraError as error:
            if error.code is not None:  # otherwise perhaps the answer of a proxy, whose clock is not Flora's
                self.clock_skew = skew
            raise
        self.clock_skew = skew
        return answer

    def _exchange(self, request: Request) -> Response:
        """Send a request's bytes and receive those of its answer.

        :raises FloraConnectionError: no complete answer arrived.
        """
        try:
            with self._session.send_bare(
                request.method,
                request.url(self.settings),
                self.settings,
                headers=request.headers(self.settings),
                data=request.content(),
            ) as answer:
                body = self._read_body(answer)
                return Response.received(answer.status_code, answer.headers, body, request, self.settings)
        except (requests.Timeout, urllib3.exceptions.TimeoutError, TimeoutError) as error:
            raise answers.timeout_error(request, self.settings, was_sent=_was_sent(error)) from None
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise answers.connection_error(request, self.settings, error, was_sent=_was_sent(error)) from None

    def _read_body(self, answer: requests.Response) -> bytes:
        """Read the body. Its size is limited, and its time too unless it is an event stream."""
        body = answers.Body(answer.headers.get("content-type", ""), self.settings.timeout, time.monotonic)
        try:
            while chunk := answer.raw.read1(_CHUNK_BYTES, decode_content=True):
                body.add(chunk)
        except (OSError, urllib3.exceptions.HTTPError):
            if not body.is_usable_when_cut:
                raise
        return body.content()


def _was_sent(error: Exception) -> bool:
    """Whether a request may have reached Flora. Without a trusted connection it cannot have."""
    reason = getattr(error.args[0], "reason", None) if error.args else None
    if isinstance(reason, urllib3.exceptions.ProxyError):
        # urllib3 calls a connection that broke after the request "unable to connect to proxy" too.
        reason = reason.original_error
        if type(reason) is OSError and str(reason).startswith("Tunnel connection failed"):
            return False
    if isinstance(reason, urllib3.exceptions.SSLError):
        return not isinstance(reason.args[0], ssl.SSLCertVerificationError)
    return not isinstance(reason, (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError))
