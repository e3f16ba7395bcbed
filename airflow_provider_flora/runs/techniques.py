"""A technique as it was within the last minute: the tasks of one user on one machine fetch it once for all.

Airflow gives each task a process of its own, so what is fetched is kept in files, not in memory. Only the user who
made them can read them, and they hold what ``GET /techniques/{id}`` told, not the key. Where they cannot be kept,
each task fetches for itself.
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

from airflow_provider_flora.api.errors import FloraInputError, FloraPriceError
from airflow_provider_flora.api.models import Technique

if TYPE_CHECKING:
    from airflow_provider_flora.api.client import FloraClient

KEPT_FOR = 60.0
"""Seconds; a price that rises is noticed that much later."""
FOLDER = Path(tempfile.gettempdir(), f"airflow-flora-{os.getuid()}")
AnswerT = TypeVar("AnswerT")


class RecentTechnique:
    """A technique, at most a minute old, or fetched now.

    ``client.clock_skew`` is known once it has been asked for, as it is after a request.
    """

    def __init__(self, client: FloraClient, technique_id: str) -> None:
        self._client = client
        self._technique_id = technique_id
        self._was_kept = False
        self._technique: Technique | None = None
        key = json.dumps([client.settings.base_url, client.settings.api_key, technique_id])
        self._file = FOLDER / hashlib.sha256(key.encode()).hexdigest()

    @property
    def found(self) -> Technique:
        """The technique.

        :raises FloraError: it could not be fetched.
        """
        if self._technique is None:
            kept = self._read()
            if kept is None:
                return self._fetched()
            self._was_kept = True
            self._technique = kept.technique
            if self._client.clock_skew is None:
                self._client.clock_skew = kept.clock_skew
        return self._technique

    def checked(self, check: Callable[[Technique], AnswerT]) -> AnswerT:
        """Return what a check gives. What an old technique would forbid, one fetched now is asked again.

        :raises FloraInputError: the inputs do not fit the technique as it is now.
        :raises FloraPriceError: nor does its price.
        """
        try:
            return check(self.found)
        except (FloraInputError, FloraPriceError):
            if not self._was_kept:
                raise
        return check(self._fetched())

    def _fetched(self) -> Technique:
        self._technique = self._client.get_technique(self._technique_id)
        self._was_kept = False
        self._write(_Kept(technique=self._technique, clock_skew=self._client.clock_skew))
        return self._technique

    def _read(self) -> _Kept | None:
        with suppress(OSError, ValidationError):
            if _is_ours(FOLDER) and _is_recent(self._file):
                return _Kept.model_validate_json(self._file.read_bytes())
        return None

    def _write(self, kept: _Kept) -> None:
        with suppress(OSError):
            FOLDER.mkdir(mode=0o700, exist_ok=True)
            if not _is_ours(FOLDER):
                return
            for file in FOLDER.iterdir():
                if not _is_recent(file):
                    file.unlink(missing_ok=True)
            # Under another name first: other tasks read while this one writes.
            beside = self._file.with_suffix(f".{secrets.token_hex(4)}")
            beside.write_text(kept.model_dump_json())
            beside.replace(self._file)


class _Kept(BaseModel):
    technique: Technique
    clock_skew: float | None


def _is_ours(folder: Path) -> bool:
    """Whether nobody else can have put anything there: prices are read from it."""
    status = folder.lstat()
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077


def _is_recent(file: Path) -> bool:
    return 0 <= time.time() - file.stat().st_mtime < KEPT_FOR
