"""FloraClient: the protocol over ``requests``. Moves bytes; every rule is in ``protocol``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

import requests
import tenacity
import urllib3

from airflow_provider_flora.api import protocol
from airflow_provider_flora.api.errors import FloraError
from airflow_provider_flora.api.inputs import Inputs, run_inputs, types_are_known
from airflow_provider_flora.api.models import Asset, Run, Technique, Workspace
from airflow_provider_flora.api.protocol import Pages, Request, Response, SmallFile
from airflow_provider_flora.api.session import BareSession

if TYPE_CHECKING:
    from typing_extensions import Self

    from airflow_provider_flora.api.settings import ClientSettings

ItemT = TypeVar("ItemT")
AnswerT = TypeVar("AnswerT")
_CHUNK_BYTES = 64 * 1024


class FloraClient:
    """Flora's API, synchronously, over one keep-alive session. Use it as a context manager, or ``close()`` it.

    Every method raises :class:`~airflow_provider_flora.api.errors.FloraAPIError` for an error of Flora's,
    :class:`~airflow_provider_flora.api.errors.FloraConnectionError` where no answer came and
    :class:`~airflow_provider_flora.api.errors.FloraAnswerError` for an answer that cannot be read; transient
    ones after ``max_retries`` further tries.

    :param settings: where Flora is, and the key.
    """

    def __init__(self, settings: ClientSettings) -> None:
        self.settings = settings
        self.clock_skew: float | None = None
        """Seconds by which Flora's clock was ahead of this machine's at the last answer; ``None`` before it."""
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
        """Return the workspaces that the key opens."""
        return self._call(protocol.list_workspaces(), protocol.read_workspaces)

    def list_techniques(
        self, query: str | None = None, workspace_id: str | None = None, page_size: int = 100
    ) -> Iterator[Technique]:
        """Iterate lazily over the techniques that the key can see.

        :param query: searches names and descriptions.
        :param workspace_id: default: the connection's, if it has one.
        :param page_size: 1 to 100.
        """
        return self._walk(protocol.list_techniques(query, workspace_id or self.settings.workspace_id, page_size))

    def get_technique(self, technique_id: str) -> Technique:
        """Return a technique by its id or slug: what it takes, gives and costs."""
        return self._call(protocol.get_technique(technique_id), protocol.read_technique)

    def start_technique_run(
        self,
        technique_id: str,
        inputs: Inputs,
        mode: str = "async",
        callback_url: str | None = None,
        idempotency_key: str | None = None,
    ) -> Run:
        """Start a run. **This spends money**, and nothing can cancel it.

        Sent again after a lost answer, one at a time, with the key of its first sending. Then Flora may answer
        409 ``idempotency_duplicate``: the run exists and is in the history.

        :param inputs: ``{input_id: value}`` (one more request looks the types up) or ``[{id, type, value}]``.
        :param mode: ``async``, or ``stream``: the call then lasts as long as Flora streams.
        :param callback_url: public HTTPS URL that Flora calls once when the run ends.
        :param idempotency_key: default: a new one.
        :raises FloraInputError: an input is not one of the technique's.
        """
        technique = None if types_are_known(inputs) else self.get_technique(technique_id)
        entries = run_inputs(inputs, technique_id, technique)
        request = protocol.start_technique_run(technique_id, entries, mode, callback_url, idempotency_key)
        return self._call(request, protocol.read_run)

    def get_technique_run(self, technique_id: str, run_id: str) -> Run:
        """Return a run as it stands."""
        return self._call(protocol.get_technique_run(technique_id, run_id), protocol.read_run)

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
        :param workspace_id: default: the connection's, if it has one.
        :param page_size: 1 to 100.
        """
        workspace_id = workspace_id or self.settings.workspace_id
        return self._walk(protocol.list_technique_runs(technique_id, status, workspace_id, project_id, page_size))

    def wait_for_technique_run(
        self,
        technique_id: str,
        run_id: str,
        poll_interval: float = 5.0,
        timeout: float = 3600.0,
        *,
        on_change: Callable[[Run], None] | None = None,
    ) -> Run:
        """Wait until a run has finished, well or badly, and return it.

        A completed run is watched for up to 5 s more for its ``charged_cost``. Errors of the network, 408, 429
        and 5xx do not end the wait.

        :param poll_interval: seconds between two looks.
        :param timeout: seconds after which the wait ends; the run goes on.
        :param on_change: is told of each change of status and every ten points of progress.
        :raises FloraRunTimeoutError: the run did not finish in time.
        """
        wait = protocol.RunWait(
            technique_id,
            run_id,
            poll_interval=poll_interval,
            timeout=timeout,
            clock=time.monotonic,
            on_change=on_change,
        )
        request = protocol.get_technique_run(technique_id, run_id)
        while True:
            outcome: Run | FloraError
            try:
                outcome = self.ask(request, protocol.read_run)
            except FloraError as error:
                outcome = error
            pause = wait.after(outcome)
            if pause is None:
                return wait.run
            time.sleep(pause)

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
    ) -> Asset:
        """Make an asset: one of the steps that ``FloraHook.upload_asset`` takes.

        Sent again after a lost answer, one at a time, with the key of its first sending. Then Flora may answer
        409 ``idempotency_duplicate``: the asset exists.

        :param source: a small file, a public HTTPS URL that Flora fetches (up to 50 MB), or ``"signed-url"`` to
            reserve a place for the bytes.
        :param idempotency_key: default: a new one.
        """
        request = protocol.create_asset(
            workspace_id, source, file_name, content_type, folder, project_id, idempotency_key
        )
        return self._call(request, protocol.read_asset)

    def complete_asset(self, asset_id: str) -> Asset:
        """Say that the bytes of a signed upload have been sent."""
        return self._call(protocol.complete_asset(asset_id), protocol.read_asset)

    def retry_asset(self, asset_id: str) -> Asset:
        """Reserve a new place for the bytes of an asset whose upload failed or expired."""
        return self._call(protocol.retry_asset(asset_id), protocol.read_asset)

    def get_asset(self, asset_id: str) -> Asset:
        """Return an asset as it stands."""
        return self._call(protocol.get_asset(asset_id), protocol.read_asset)

    def list_assets(
        self,
        query: str | None = None,
        workspace_id: str | None = None,
        project_id: str | None = None,
        page_size: int = 100,
    ) -> Iterator[Asset]:
        """Iterate lazily over the assets that the key can see.

        :param query: searches them.
        :param workspace_id: default: the connection's, if it has one.
        :param project_id: only what is on this project's canvas.
        :param page_size: 1 to 100.
        """
        workspace_id = workspace_id or self.settings.workspace_id
        return self._walk(protocol.list_assets(query, workspace_id, project_id, page_size))

    def _walk(self, pages: Pages[ItemT]) -> Iterator[ItemT]:
        while pages.request is not None:
            yield from self._call(pages.request, pages.read)

    def _call(self, request: Request, read: Callable[[Response], AnswerT]) -> AnswerT:
        """Send a request and read its answer; again after each transient error."""
        retrying = tenacity.Retrying(**protocol.retrying(request, self.settings))
        try:
            answer: AnswerT = retrying(self.ask, request, read)
        except FloraError as error:
            error.attempts = retrying.statistics["attempt_number"]
            raise
        return answer

    def ask(self, request: Request, read: Callable[[Response], AnswerT]) -> AnswerT:
        """Send a request once and read its answer: for whoever has retry rules of its own."""
        try:
            with self._session.send_bare(
                request.method,
                request.url(self.settings),
                self.settings,
                headers=request.headers(self.settings),
                data=request.content(),
            ) as answer:
                headers = {name.lower(): value for name, value in answer.headers.items()}
                response = Response(answer.status_code, headers, self._body(answer))
        except (requests.Timeout, urllib3.exceptions.TimeoutError, TimeoutError) as error:
            raise protocol.no_answer_in_time(request, self.settings) from error
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise protocol.no_answer(request, self.settings, error) from error
        skew = protocol.clock_skew(response, time.time())
        self.clock_skew = self.clock_skew if skew is None else skew
        return read(response)

    def _body(self, answer: requests.Response) -> bytes:
        """Read the body, bounded in size and, but for an event stream, in time."""
        body = protocol.Body(answer.headers.get("content-type", ""), self.settings.timeout, time.monotonic)
        try:
            while chunk := answer.raw.read1(_CHUNK_BYTES, decode_content=True):
                body.add(chunk)
        except (OSError, urllib3.exceptions.HTTPError):
            if not body.is_usable_when_cut:
                raise
        return body.content()
