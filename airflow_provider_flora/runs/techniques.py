"""A cache of techniques for one minute, shared by one user's tasks on one machine.

Airflow runs each task in its own process, so the cache is in files. Only their user can read them. They contain
Flora's answer and not the API key. Without a writable folder, each task fetches the technique itself.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import stat
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ValidationError

from airflow_provider_flora.api import answers
from airflow_provider_flora.api.errors import FloraInputError, FloraPriceError
from airflow_provider_flora.api.models import Technique

if TYPE_CHECKING:
    from airflow_provider_flora.api.client import FloraClient

CACHED_FOR = 60.0
"""Seconds. A higher price takes effect with this delay."""


def _own_folder() -> Path | None:
    try:
        return Path(tempfile.gettempdir(), f"airflow-flora-{os.getuid()}")
    except (OSError, AttributeError):  # no writable folder, or a system without users
        return None


FOLDER = _own_folder()
AnswerT = TypeVar("AnswerT")


class RecentTechnique:
    """A technique that is at most a minute old. Getting it sets ``client.clock_skew``, as a request does."""

    def __init__(self, client: FloraClient, technique_id: str) -> None:
        self._client = client
        self._technique_id = technique_id
        self._is_cached = False
        self._technique: Technique | None = None
        key = json.dumps([client.settings.base_url, client.settings.api_key, technique_id])
        self._name = hashlib.sha256(key.encode()).hexdigest()

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
        if FOLDER is None:
            return None
        with suppress(OSError, ValidationError):
            file = FOLDER / self._name
            if _is_ours(FOLDER) and _is_recent(file):
                return _CachedTechnique.model_validate_json(file.read_bytes())
        return None

    def _write(self, cached: _CachedTechnique, moment: float) -> None:
        if FOLDER is None:
            return
        with suppress(OSError, ValueError):  # ValueError: a text that JSON cannot represent
            content = cached.model_dump_json().encode()
            FOLDER.mkdir(mode=0o700, exist_ok=True)
            if not _is_ours(FOLDER):
                return
            for file in FOLDER.iterdir():
                if not _is_recent(file):
                    file.unlink(missing_ok=True)
            # Under another name first, since other tasks read the file meanwhile.
            beside = FOLDER / f"{self._name}.{secrets.token_hex(4)}"
            beside.write_bytes(content)
            os.utime(beside, (moment, moment))
            beside.replace(FOLDER / self._name)


class _CachedTechnique(BaseModel):
    technique: Technique
    clock_skew: float | None
    clocks_apart: float


def _is_ours(folder: Path) -> bool:
    """Whether only this user can write to the folder, since prices are read from it."""
    status = folder.lstat()
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077


def _is_recent(file: Path) -> bool:
    return 0 <= time.time() - file.stat().st_mtime < CACHED_FOR


def check_price(technique: Technique, technique_id: str, limit: float) -> None:
    """Check that a run costs no more than ``max_run_cost``.

    :param technique_id: the technique, as the user named it.
    :param limit: USD.
    :raises FloraPriceError: it costs more, or Flora names no price.
    """
    if technique.run_cost is None or technique.run_cost > limit:
        raise FloraPriceError(technique_id, technique.run_cost, limit, "max_run_cost")
