"""Files on disk: written while their bytes come in, with no more than a piece in memory."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from airflow_provider_flora.emulator.media.file_types import (
    EXTENSIONS,
    MAX_PIXELS,
    TOO_MANY_PIXELS,
    UNSUPPORTED,
    Size,
    pixel_size,
)

PIECE = 1024 * 1024


@dataclass(frozen=True)
class StoredFile:
    """The bytes of a Flora asset, on disk.

    :param path: where the file is.
    :param bytes: its size.
    :param sha256: its checksum, in hexadecimal.
    :param content_type: its declared type.
    :param size: width and height in pixels, where it is a readable image.
    """

    path: Path
    bytes: int
    sha256: str
    content_type: str
    size: Size | None

    @property
    def problem(self) -> str | None:
        """Why Flora does not keep this file; ``None`` when it does."""
        if not self.bytes:
            return "The file is empty"
        if self.content_type not in EXTENSIONS:
            return UNSUPPORTED
        if self.content_type.startswith("image/") and self.size and self.size[0] * self.size[1] > MAX_PIXELS:
            return TOO_MANY_PIXELS
        return None


class TooLarge(Exception):  # noqa: N818  it is a finding, not an error of the emulator
    """There are more bytes than allowed."""


async def receive(
    pieces: AsyncIterator[bytes], path: Path, content_type: str, limit: int | None = None
) -> StoredFile:
    """Write these bytes to a file. When they break off, the file is removed.

    :param pieces: the bytes.
    :param path: where the file goes.
    :param content_type: the declared type.
    :param limit: how many bytes are allowed; ``None`` for any number.
    :raises TooLarge: when there are more bytes.
    """
    checksum, total, held = hashlib.sha256(), 0, bytearray()

    def write(piece: bytearray) -> None:
        checksum.update(piece)
        file.write(piece)

    try:
        with path.open("wb") as file:
            async for piece in pieces:
                total += len(piece)
                if limit is not None and total > limit:
                    raise TooLarge(total)
                held += piece
                if len(held) >= PIECE:
                    # In a thread: the API answers while a large file comes in.
                    await asyncio.to_thread(write, held)
                    held = bytearray()
            write(held)
        size = await asyncio.to_thread(pixel_size, path, content_type)
    except BaseException:
        path.unlink(missing_ok=True)  # noqa: ASYNC240  it takes no time
        raise
    return StoredFile(path, total, checksum.hexdigest(), content_type, size)


async def one_piece(content: bytes) -> AsyncIterator[bytes]:
    """Bytes that are in memory already, as one piece."""
    yield content
