"""A file that is to be read, never whole: on this machine, or in a storage that Airflow has a connection to."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path, PurePath, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from airflow.providers.common.compat.sdk import AirflowNotFoundException

from airflow_provider_flora.api.assets import (
    CONTENT_TYPES,
    DIRECT_LIMIT,
    LOOKED_AT,
    PIXEL_LIMIT,
    TYPES_IN_WORDS,
    clean_content_type,
    content_type_of,
    picture_size,
)
from airflow_provider_flora.api.errors import FloraError, FloraFileError
from airflow_provider_flora.files.checksum import Sha256

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import ObjectStoragePath

PIECE_BYTES = 1024 * 1024
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def as_text(given: Any) -> Any:
    """Return the text of a path or an ``ObjectStoragePath``, and anything else as it is."""
    is_path = isinstance(given, PurePath) or (hasattr(given, "protocol") and hasattr(given, "open"))
    return str(given) if is_path else given


class SourceFile:
    """A file to read.

    :param given: a path, or a URI such as ``s3://conn_id@bucket/key``.
    :param conn_id: connection of the storage, where the URI names none.
    """

    def __init__(self, given: str, conn_id: str | None = None) -> None:
        self.given = given
        self.name = PurePosixPath(given).name
        self._conn_id = conn_id
        self._start = b""
        self.sha256: str | None = None
        """Of the content; known once it has been read in full."""

    @cached_property
    def size(self) -> int:
        """Bytes.

        :raises FloraFileError: there is no such file, or it cannot be looked at.
        """
        with self._reading():
            if isinstance(self._path, Path) and not self._path.is_file():
                raise IsADirectoryError if self._path.is_dir() else FileNotFoundError
            return int(self._path.stat().st_size)

    def pieces(self) -> Iterator[bytes]:
        """Read it piece by piece.

        :raises FloraFileError: it cannot be read, or is not as long as it was, or not what it was.
        """
        size, seen = self.size, 0
        with self._reading(), self._opened() as file, Sha256() as digest:
            while piece := file.read(PIECE_BYTES):
                if seen < LOOKED_AT:
                    self._start = self._start[:seen] + piece[: LOOKED_AT - seen]
                seen += len(piece)
                if seen > size:
                    break
                digest.add(piece)
                yield piece
            sha256 = digest.end()
        if seen != size or self.sha256 not in (None, sha256):
            raise FloraFileError(f"{self.given!r} changed while it was read.", retryable=True)
        self.sha256 = sha256

    def content(self) -> bytes:
        """Return all of a small file."""
        assert self.size <= DIRECT_LIMIT  # noqa: S101  # a large one is sent piece by piece
        return b"".join(self.pieces())

    def digest(self) -> str:
        """Return the SHA-256 of its content, reading it if that has not been done yet."""
        if self.sha256 is None:
            for _ in self.pieces():
                pass
        return cast(str, self.sha256)

    def check(self, content_type: str | None = None) -> str:
        """Return the content type, given or by its name, of a file that Flora takes.

        :raises FloraFileError: it would not, and why.
        """
        found = clean_content_type(content_type) if content_type else content_type_of(self.name)
        if found not in CONTENT_TYPES:
            kind = f"is {found!r}" if found else f"has a name, {self.name!r}, that tells no type that Flora takes"
            raise FloraFileError(
                f"{self.given!r} {kind}. Flora takes {TYPES_IN_WORDS}: convert the file, or give it the extension "
                "of what it is."
            )
        if not self.size:
            raise FloraFileError(f"{self.given!r} is empty.")
        pixels = self._picture_size() if found.startswith("image/") else None
        if pixels and pixels[0] * pixels[1] > PIXEL_LIMIT:
            raise FloraFileError(
                f"{self.given!r} is an image of {pixels[0]} x {pixels[1]} = {pixels[0] * pixels[1]:,} pixels. "
                f"Flora takes up to {PIXEL_LIMIT // 1_000_000} megapixels: make it smaller."
            )
        return found

    def _picture_size(self) -> tuple[int, int] | None:
        if not self._start:
            with self._reading(), self._opened() as file:
                self._start = file.read(LOOKED_AT)
        return picture_size(self._start)

    @cached_property
    def _path(self) -> Path | ObjectStoragePath:
        if not _URI.match(self.given) and self._conn_id is None:
            return Path(self.given).expanduser()
        from airflow.providers.common.compat.sdk import ObjectStoragePath

        # Airflow 2 takes a conn_id of None for an answer, and forgets that of the URI.
        storage = {} if self._conn_id is None else {"conn_id": self._conn_id}
        return ObjectStoragePath(self.given, **storage)

    def _looked_for(self) -> str:
        if _URI.match(self.given) and not self.given.startswith("file:"):
            return " in that storage: see that bucket, key and connection are right"
        begins = "" if self.given.startswith(("/", "file:///")) else f" (from the folder {Path.cwd()})"
        return f"{begins} on the worker: give its whole path, or put it into a storage that workers reach"

    def _opened(self) -> BinaryIO:
        return cast(BinaryIO, self._path.open("rb"))

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Say in one kind of error what any storage may say in its own."""
        try:
            yield
        except (FloraError, GeneratorExit):
            raise
        except FileNotFoundError as error:
            raise FloraFileError(f"There is no file {self.given!r}{self._looked_for()}.") from error
        except IsADirectoryError as error:
            raise FloraFileError(f"{self.given!r} is a folder, not a file.") from error
        except (ValueError, ImportError) as error:
            raise FloraFileError(
                f"{self.given!r} cannot be read: {_told(error)}. Is Airflow's provider for this storage installed?"
            ) from error
        except (NotADirectoryError, PermissionError, AirflowNotFoundException) as error:
            raise FloraFileError(f"{self.given!r} cannot be read: {_told(error)}") from error
        except Exception as error:
            # Each storage's client has errors of its own; none is worth failing for good at a hiccup.
            raise FloraFileError(f"{self.given!r} cannot be read now: {_told(error)}", retryable=True) from error


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
