"""Reads pages of the run history through a gate. Who reads decides which, and what the runs are for."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING

import tenacity

from airflow_provider_flora.api import answers, operations, retries
from airflow_provider_flora.api.errors import FloraAnswerSizeError, FloraAPIError, FloraError
from airflow_provider_flora.api.exchange import Response
from airflow_provider_flora.api.waiting import is_refusal

if TYPE_CHECKING:
    from airflow_provider_flora.api.models import Run
    from airflow_provider_flora.api.pages import Pages
    from airflow_provider_flora.runs.gate import Gate

PAGE_SIZE = 100
LARGE_PAGE_BYTES = 1024 * 1024
"""Size in bytes above which pages get smaller: reading one page must not block the event loop."""
PAGE_ATTEMPTS = 3
MISSING_AGE = 60.0
"""Seconds after which a technique that Flora does not have is looked up again."""


class HistoryReader:
    """A reader of pages, whose size it adapts to that of the texts on them.

    :param gate: sends the requests.
    """

    def __init__(self, gate: Gate) -> None:
        self.page_size = PAGE_SIZE
        """Number of runs on the next page."""
        self._gate = gate
        self._ids: dict[str, str] = {}
        self._missing: dict[str, float] = {}

    async def read_page(self, pages: Pages[Run]) -> Sequence[Run]:
        """Read the next page. Retry after an error that may pass soon.

        :raises FloraError: the page cannot be read now.
        """
        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(_may_pass_soon),
            stop=tenacity.stop_after_attempt(PAGE_ATTEMPTS),
            wait=lambda state: retries.backoff(retries.FIRST_BACKOFF, state.attempt_number),
            reraise=True,
        )
        return await retrying(self._ask_for_page, pages)

    async def _ask_for_page(self, pages: Pages[Run]) -> Sequence[Run]:
        """Reduce the page size if texts make pages too large."""
        while True:
            pages.resize(self.page_size)
            assert pages.request is not None  # noqa: S101
            try:
                return await self._gate.ask(pages.request, self._reader(pages), spaced=False)
            except FloraAnswerSizeError as error:
                pages.halve(error)
                self.page_size = pages.page_size

    def _reader(self, pages: Pages[Run]) -> Callable[[Response], Sequence[Run]]:
        def read(response: Response) -> Sequence[Run]:
            size = len(response.body)
            if size > LARGE_PAGE_BYTES:
                self.page_size = max(min(10, self.page_size), self.page_size // 2)
            elif size < LARGE_PAGE_BYTES / 4:
                self.page_size = min(PAGE_SIZE, self.page_size * 2)
            return pages.read(response)

        return read

    async def get_id(self, technique_id: str) -> str:
        """Return the technique's id, which the history has. Look a slug up once, or each minute until it is found.

        :param technique_id: id or slug. It is returned itself if Flora has no such technique.
        :raises FloraError: the technique cannot be read now.
        """
        if technique_id.startswith("tech_") or not self._is_due(technique_id):
            return self._ids.get(technique_id, technique_id)
        try:
            technique = await self._gate.ask(operations.get_technique(technique_id), answers.read_technique)
        except FloraError as error:
            if not (is_refusal(error) and error.status == HTTPStatus.NOT_FOUND):
                raise
            self._missing[technique_id] = time.monotonic()
            return technique_id
        self._missing.pop(technique_id, None)
        self._ids[technique_id] = technique.technique_id
        return technique.technique_id

    def _is_due(self, technique_id: str) -> bool:
        looked_up = self._missing.get(technique_id, float("-inf"))
        return technique_id not in self._ids and time.monotonic() - looked_up >= MISSING_AGE

    def lacks(self, technique_id: str) -> bool:
        """Whether Flora did not have the technique when it was last looked up."""
        return technique_id in self._missing


def lacks_details(run: Run) -> bool:
    """Whether a finished run lacks details, which are optional in the history."""
    if run.completed:
        return not run.outputs
    return run.failed and not (run.error_code or run.error_message)


def may_pass(error: FloraError) -> bool:
    """Whether an error of reading a history may pass, and does not show that the history is broken."""
    foreign = isinstance(error, FloraAPIError) and not error.is_floras_own
    return error.transient or foreign or error.status == HTTPStatus.UNAUTHORIZED


def _may_pass_soon(error: BaseException) -> bool:
    return isinstance(error, FloraError) and may_pass(error) and error.status != HTTPStatus.UNAUTHORIZED
