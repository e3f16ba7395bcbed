"""A notice that the workspace has run out of credits, for the other tasks of a connection on this machine.

The first task that learns it posts the notice. For a few minutes, tasks that would start a run fail at once with
its words. A start that succeeds removes it. Without a writable folder, each task asks Flora itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from pydantic import BaseModel, ValidationError

from airflow_provider_flora.api.errors import FloraAPIError, FloraCreditsError, FloraError, FloraRunFailedError
from airflow_provider_flora.runs.shared_files import SharedFile

if TYPE_CHECKING:
    from airflow_provider_flora.api.settings import ClientSettings
    from airflow_provider_flora.task.attempt import Attempt

NOTICE_LASTS = 180.0
"""Seconds."""
MAX_WORDS = 2_000
"""Characters of a notice."""


class _Notice(BaseModel):
    posted_at: float
    words: str
    code: str | None


class CreditsNotice:
    """The notice of all tasks that use the same key at the same base URL."""

    def __init__(self, settings: ClientSettings) -> None:
        self._file = SharedFile("credits", [settings.base_url, settings.api_key], NOTICE_LASTS)

    def check(self, attempt: Attempt) -> None:
        """Check that there is no notice.

        A task that a user has cleared asks Flora again: it takes no notice of one from before its attempt.

        :raises FloraCreditsError: there is one.
        """
        found = self._read()
        if found is None or (attempt.was_cleared and found.posted_at < attempt.began):
            return
        error = FloraCreditsError(
            f"{found.words} Another task on this machine was told so at {_clock(found.posted_at)} UTC. Flora was "
            "not asked again, and nothing was started or charged. Tasks ask again from "
            f"{_clock(found.posted_at + NOTICE_LASTS)} UTC on, or after a clear."
        )
        error.code = found.code
        raise error

    def post(self, error: FloraError) -> None:
        """Post an error of Flora's about credits. Any other error is no news."""
        if isinstance(error, FloraCreditsError) and isinstance(error, (FloraAPIError, FloraRunFailedError)):
            now = time.time()
            notice = _Notice(posted_at=now, words=str(error)[:MAX_WORDS], code=error.code)
            with suppress(ValueError):  # a text that JSON cannot represent
                self._file.write(notice.model_dump_json().encode(), now)

    def remove(self) -> None:
        """Remove the notice, if there is one."""
        self._file.remove()

    def _read(self) -> _Notice | None:
        content = self._file.read()
        with suppress(ValidationError):
            return None if content is None else _Notice.model_validate_json(content)
        return None


@contextmanager
def post_credits_errors(read_settings: Callable[[], ClientSettings]) -> Iterator[None]:
    """Post a notice if an error is about credits, and raise the error."""
    try:
        yield
    except FloraCreditsError as error:
        CreditsNotice(read_settings()).post(error)
        raise


def _clock(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%H:%M:%S")
