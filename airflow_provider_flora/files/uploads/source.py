"""A file to upload, on this machine or in a storage of Airflow. Large files are read in chunks.

``content`` inspects its content.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from airflow_provider_flora.api.errors import FloraFileError
from airflow_provider_flora.api.file_types import (
    CONTENT_TYPES,
    DIRECT_LIMIT,
    PIXEL_LIMIT,
    TYPES_IN_WORDS,
    clean_content_type,
    content_type_of,
)
from airflow_provider_flora.files.checksum import Sha256
from airflow_provider_flora.files.storage import file_errors, path_of

if TYPE_CHECKING:
    from airflow_provider_flora.airflow_compat import ObjectStoragePath
    from airflow_provider_flora.files.uploads.content import Content

CHUNK_BYTES = 1024 * 1024
INSPECTED_BYTES = 256 * 1024
"""Block size for inspecting a file in a storage."""
_SHOWN_BYTES = 24


class SourceFile:
    """A file to upload. It is read at first use.

    :param location: path, or URI such as ``s3://conn_id@bucket/key``.
    :param conn_id: connection of the storage, if the URI names none.
    """

    def __init__(self, location: str, conn_id: str | None = None) -> None:
        self.location = location
        self.name = PurePosixPath(location).name
        self._conn_id = conn_id
        self._content: bytes | None = None
        """Content of a small file after its first reading. It is read once, so the checked bytes are uploaded."""
        self._contents: dict[str, Content] = {}
        self.sha256: str | None = None
        """SHA-256 of the content, after its first complete reading."""

    @cached_property
    def size(self) -> int:
        """The size in bytes.

        :raises FloraFileError: the file does not exist or cannot be read.
        """
        with file_errors(self.location):
            if isinstance(self._path, Path) and not self._path.is_file():
                raise IsADirectoryError if self._path.is_dir() else FileNotFoundError
            return int(self._path.stat().st_size)

    def read_chunks(self) -> Iterator[bytes]:
        """Read the file in chunks.

        :raises FloraFileError: the file cannot be read, or has changed.
        """
        if self._content is not None:
            yield self._content
            return
        size, seen = self.size, 0
        with file_errors(self.location), self._open() as file, Sha256() as digest:
            while chunk := file.read(CHUNK_BYTES):
                seen += len(chunk)
                if seen > size:
                    break
                digest.add(chunk)
                yield chunk
            sha256 = digest.end()
        if seen != size or self.sha256 not in (None, sha256):
            raise FloraFileError(f"{self.location!r} changed while it was being read.", retryable=True)
        self.sha256 = sha256

    def read_content(self) -> bytes:
        """Return the content of a small file. It is read once."""
        assert self.size <= DIRECT_LIMIT  # noqa: S101  # large files are read in chunks
        if self._content is None:
            self._content = b"".join(self.read_chunks())
        return self._content

    def compute_digest(self) -> str:
        """Return the SHA-256 of the content. Read the file if needed."""
        if self.sha256 is None:
            if self.size <= DIRECT_LIMIT:
                self.read_content()
            else:
                for _ in self.read_chunks():
                    pass
        return cast(str, self.sha256)

    def check(self, content_type: str | None = None) -> str:
        """Check that Flora accepts the file, and return its content type.

        :param content_type: content type of the file. Default: that of its extension.
        :raises FloraFileError: Flora does not accept the file, or its content does not fit the type, or is damaged.
        """
        claimed = clean_content_type(content_type) if content_type else content_type_of(self.name)
        if claimed not in CONTENT_TYPES:
            kind = (
                f"is {claimed!r}"
                if claimed
                else f"has the name {self.name!r}, whose extension Flora does not support"
            )
            raise FloraFileError(
                f"{self.location!r} {kind}. Flora accepts {TYPES_IN_WORDS}. Convert the file, or correct its "
                "extension."
            )
        if not self.size:
            raise FloraFileError(f"{self.location!r} is empty.")
        self._check_content(claimed, "content_type" if content_type else "its name")
        return claimed

    def _check_content(self, claimed: str, by: str) -> None:
        found = self._inspect(claimed)
        if not found.fits(claimed):
            what = found.media_type or f"of no known type: it begins with {self._read_start()!r}"
            raise FloraFileError(
                f"{self.location!r} is {claimed} by {by}, but its content is {what}. Use the right file, or "
                f"correct {by}."
            )
        width, height = found.size or (0, 0)
        if claimed.startswith("image/") and width * height > PIXEL_LIMIT:
            raise FloraFileError(
                f"{self.location!r} is an image of {width} x {height} = {width * height:,} pixels. "
                f"Flora accepts up to {PIXEL_LIMIT // 1_000_000} megapixels. Make the image smaller."
            )
        if found.damage:
            raise FloraFileError(
                f"{self.location!r} is {claimed}, but incomplete or damaged: {found.damage}. Copy or export the "
                "file again."
            )

    def _inspect(self, claimed: str) -> Content:
        from airflow_provider_flora.files.uploads.content import (
            inspect_content,  # its libraries are slow to import
        )

        if claimed not in self._contents:
            with file_errors(self.location), self._open_seekable() as file:
                self._contents[claimed] = inspect_content(file, claimed, PIXEL_LIMIT)
        return self._contents[claimed]

    def _read_start(self) -> bytes:
        with file_errors(self.location), self._open_seekable() as file:
            return file.read(_SHOWN_BYTES)

    @cached_property
    def _path(self) -> Path | ObjectStoragePath:
        return path_of(self.location, self._conn_id)

    def _open(self) -> BinaryIO:
        return cast(BinaryIO, self._path.open("rb"))

    def _open_seekable(self) -> BinaryIO:
        """Open the file for reading with seeks."""
        if self.size <= DIRECT_LIMIT:
            return io.BytesIO(self.read_content())
        if isinstance(self._path, Path):
            return self._path.open("rb")
        path: Any = self._path
        return cast(BinaryIO, path.open("rb", block_size=INSPECTED_BYTES))
