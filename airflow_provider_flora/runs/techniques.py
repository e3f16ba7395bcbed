"""A cache of techniques for one minute, shared by one user's tasks on one machine.

It contains Flora's answer. Without a writable folder, each task fetches the technique itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ValidationError

from airflow_provider_flora.api import answers
from airflow_provider_flora.api.errors import FloraInputError, FloraPriceError
from airflow_provider_flora.api.models import Technique
from airflow_provider_flora.runs.shared_files import SharedFile

if TYPE_CHECKING:
    from airflow_provider_flora.api.client import FloraClient

CACHED_FOR = 60.0
"""Seconds. A higher price takes effect with this delay."""
AnswerT = TypeVar("AnswerT")


class RecentTechnique:
    """A technique that is at most a minute old. Getting it sets ``client.clock_skew``, as a request does."""

    def __init__(self, client: FloraClient, technique_id: str) -> None:
        self._client = client
        self._technique_id = technique_id
        self._is_cached = False
        self._technique: Technique | None = None
        key = [client.settings.base_url, client.settings.api_key, technique_id]
        self._file = SharedFile("technique", key, CACHED_FOR)

    def get(self) -> Technique:
        """Return the technique, from the cache or from Flora.

        :raises FloraError: the technique could not be fetched.
        """
        if self._technique is None:
            cached = self._read()
            if cached is None:
                return self._fetch()
            self._is_cached = True
            self._technique = cached.technique
            if self._client.clock_skew is None and not answers.clock_was_set(cached.clocks_apart):
                self._client.clock_skew = cached.clock_skew
        return self._technique

    def check(self, check: Callable[[Technique], AnswerT]) -> AnswerT:
        """Return the result of a check. If it fails with the cached technique, repeat it with a fetched one.

        :raises FloraInputError: the inputs do not fit the current technique.
        :raises FloraPriceError: the current price is above the limit.
        """
        try:
            return check(self.get())
        except (FloraInputError, FloraPriceError):
            if not self._is_cached:
                raise
        return check(self._fetch())

    def _fetch(self) -> Technique:
        began = time.time()  # the answer may be as old as that, if the machine is suspended meanwhile
        self._technique = self._client.get_technique(self._technique_id)
        self._is_cached = False
        skew, apart = self._client.clock_skew, answers.clocks_apart()
        self._write(_CachedTechnique(technique=self._technique, clock_skew=skew, clocks_apart=apart), began)
        return self._technique

    def _read(self) -> _CachedTechnique | None:
        with suppress(ValidationError):
            content = self._file.read()
            return None if content is None else _CachedTechnique.model_validate_json(content)
        return None

    def _write(self, cached: _CachedTechnique, moment: float) -> None:
        with suppress(ValueError):  # a text that JSON cannot represent
            self._file.write(cached.model_dump_json().encode(), moment)


class _CachedTechnique(BaseModel):
    technique: Technique
    clock_skew: float | None
    clocks_apart: float


def exceeds(total: float, limit: float) -> bool:
    """Whether a sum of prices is above a limit, both in USD."""
    return round(total - limit, 6) > 0  # sums of floats are not exact: 0.1 + 0.1 + 0.1 > 0.3


def check_price(technique: Technique, technique_id: str, limit: float, limit_name: str = "max_run_cost") -> None:
    """Check that a run costs no more than a limit.

    :param technique_id: the technique, as the user named it.
    :param limit: USD.
    :param limit_name: what the user calls the limit.
    :raises FloraPriceError: it costs more, or Flora names no price.
    """
    if technique.run_cost is None or technique.run_cost > limit:
        raise FloraPriceError(technique_id, technique.run_cost, limit, limit_name)
