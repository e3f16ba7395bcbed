"""Bytes on their way to disk: never more of them in memory than a piece."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

from airflow_provider_flora.emulator.assets import StoredFile
from airflow_provider_flora.emulator.file_types import pixel_size

PIECE = 1024 * 1024


class TooLarge(Exception):  # noqa: N818  it is what is found, not an error of the emulator
    """There are more bytes than may be."""


async def receive(
    pieces: AsyncIterator[bytes], path: Path, content_type: str, limit: int | None = None
) -> StoredFile:
    """Write these bytes to a file. When they break off, the file is gone again.

    :param pieces: The bytes.
    :param path: Where to.
    :param content_type: What they are said to be.
    :param limit: How many there may be.
    :raises TooLarge: When there are more.
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
                    # In a thread, so that the API goes on answering while a large file comes in.
                    await asyncio.to_thread(write, held)
                    held = bytearray()
            write(held)
        size = await asyncio.to_thread(pixel_size, path, content_type)
    except BaseException:
        path.unlink(missing_ok=True)  # noqa: ASYNC240  it takes no time
        raise
    return StoredFile(path, total, checksum.hexdigest(), content_type, size)


async def in_one_piece(content: bytes) -> AsyncIterator[bytes]:
    """Bytes that are here already."""
    yield content
