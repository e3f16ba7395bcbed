"""Blobs: files of any length, made while they are sent, with the same bytes each time.

A blob's path describes it: ``blobs/{bytes}/{name}.{extension}``. Another name gives other bytes. No two pieces of a
blob are alike, so a lost, doubled or misplaced piece changes the checksum.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from airflow_provider_flora.emulator.media.file_types import EXTENSIONS, UNKNOWN_TYPE

MAX_BYTES = 1 << 40
PIECE = 256 * 1024
TYPES = {**{extension: kind for kind, extension in EXTENSIONS.items()}, "bin": UNKNOWN_TYPE}
_PATH = re.compile(r"blobs/([0-9]{1,13})/([A-Za-z0-9_.-]+)\.([a-z0-9]+)")


@dataclass(frozen=True)
class Blob:
    """A file that is stored nowhere.

    :param length: its size in bytes.
    :param name: decides its content.
    :param content_type: its declared type.
    """

    length: int
    name: str
    content_type: str

    def pieces(self) -> Iterator[bytes]:
        """Its content."""
        filling = Random(self.name).randbytes(PIECE - 8)
        whole, rest = divmod(self.length, PIECE)
        for number in range(whole):
            yield number.to_bytes(8, "big") + filling
        if rest:
            yield (whole.to_bytes(8, "big") + filling)[:rest]


def blob_path(size: int, name: str, content_type: str) -> str:
    """The path of a blob below ``/media/``.

    :param size: its size in bytes.
    :param name: letters, digits, dots, dashes and underscores.
    :param content_type: one of the types that Flora takes, or ``application/octet-stream``.
    :raises ValueError: when there can be no such blob.
    """
    if type(size) is not int or not 0 <= size <= MAX_BYTES:
        raise ValueError(f"bytes is {size!r}: it must be a whole number from 0 to {MAX_BYTES}")
    extensions = [extension for extension, kind in TYPES.items() if kind == content_type]
    if not extensions:
        raise ValueError(f"content_type is {content_type!r}: it must be one of {', '.join(TYPES.values())}")
    path = f"blobs/{size}/{name}.{extensions[0]}"
    if read_blob(path) is None:
        raise ValueError(f"name is {name!r}: it may have letters, digits, dots, dashes and underscores")
    return path


def read_blob(path: str) -> Blob | None:
    """The blob at that path, or ``None``."""
    match = _PATH.fullmatch(path)
    if match is None or match[3] not in TYPES or int(match[1]) > MAX_BYTES:
        return None
    return Blob(int(match[1]), match[2], TYPES[match[3]])
