"""The standard output and error of a command: they are there, take every character, and their reader may leave."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from airflow_provider_flora.api.errors import FloraError


class ReaderLeftError(Exception):
    """Nobody reads the rest of a list, so its next page is not asked for."""


class Stream:
    """A standard stream. Once its reader has left, as in ``flora runs | head -1``, the rest is written nowhere.

    So a command goes on to its own end, and its exit code is the one that a patient reader sees.

    :param stream: the standard output or the standard error.
    :ivar is_read: ``False`` if nobody reads what is written.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._has_results = stream is sys.stdout
        self.is_read = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a text.

        :raises FloraError: it is a result, and cannot be stored.
        """
        with self._writing():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Pass on what was written.

        :raises FloraError: it is a result, and cannot be stored.
        """
        with self._writing():
            self._stream.flush()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.is_read = False
            # What it still holds is written once more, and at the latest at Python's end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            if self._has_results and not isinstance(error, BrokenPipeError):
                raise FloraError(
                    f"The output cannot be written: {error.strerror}. What was written before is not complete. "
                    "Write it to another place."
                ) from error


def usable_streams() -> None:
    """Make the standard output and error accept every character, and be there.

    In a locale without UTF-8, a character that it lacks becomes an escape, which a DAG file's texts may have.
    """
    for name in ("stdout", "stderr"):
        stream: Any = getattr(sys, name)
        if stream is None:  # closed by whoever started the process
            setattr(sys, name, open(os.devnull, "w"))  # noqa: PTH123, SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
