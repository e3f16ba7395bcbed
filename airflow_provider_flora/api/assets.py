"""What Flora takes as an asset: types, limits, and how a file's bytes are framed on their way. No I/O.

Sources: the vendor's SDK (types, the three ways in, their limits).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

DIRECT_LIMIT = 4 * 1024 * 1024
"""Bytes of a file that fit into one multipart request; a larger one goes by signed upload."""
PIXEL_LIMIT = 150_000_000
"""Width times height of an image."""
LOOKED_AT = 256 * 1024
"""Bytes at the beginning of an image in which its width and height are looked for."""

_TYPES_BY_EXTENSION = {
    **dict.fromkeys(("jpg", "jpeg", "jpe", "jfif"), "image/jpeg"),
    "png": "image/png",
    "webp": "image/webp",
    "gif": "image/gif",
    "avif": "image/avif",
    "heic": "image/heic",
    "heif": "image/heif",
    **dict.fromkeys(("mp4", "m4v"), "video/mp4"),
    "webm": "video/webm",
    **dict.fromkeys(("mov", "qt"), "video/quicktime"),
    "mp3": "audio/mpeg",
    "wav": "audio/wav",
    **dict.fromkeys(("ogg", "oga"), "audio/ogg"),
    "pdf": "application/pdf",
}
CONTENT_TYPES = tuple(dict.fromkeys(_TYPES_BY_EXTENSION.values()))
"""What an asset may be. Told to Flora, not left to a table of the machine's, which knows no .avif or calls .wav
something else."""
TYPES_IN_WORDS = (
    "images (jpeg, png, webp, gif, avif, heic, heif), video (mp4, webm, quicktime), audio (mpeg, wav, ogg) and pdf"
)


def content_type_of(name: str) -> str | None:
    """Return the content type that a file's name tells, or ``None`` where it is none that Flora takes."""
    return _TYPES_BY_EXTENSION.get(PurePosixPath(name).suffix[1:].lower())


def name_in_url(url: str) -> str:
    """Return the file's name that a URL ends with, or an empty string."""
    return PurePosixPath(unquote(urlsplit(url).path)).name


def clean_content_type(given: str) -> str:
    """Return a content type as Flora compares it: without parameters, in lower case."""
    return given.partition(";")[0].strip().lower()


# --- multipart ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Form:
    """A multipart form with one file, in the pieces it is sent in: ``head``, the file's bytes, ``tail``.

    :param fields: come before the file, as storages demand of a presigned form.
    :param boundary: must not occur in the file: a random text, or one made from a digest.
    """

    fields: Mapping[str, str]
    file_field: str
    file_name: str
    content_type: str
    boundary: str

    @property
    def head(self) -> bytes:
        """What comes before the file's bytes."""
        parts = [
            f'--{self.boundary}\r\nContent-Disposition: form-data; name="{_quoted(name)}"\r\n\r\n{value}\r\n'
            for name, value in self.fields.items()
        ]
        parts.append(
            f'--{self.boundary}\r\nContent-Disposition: form-data; name="{_quoted(self.file_field)}"; '
            f'filename="{_quoted(self.file_name)}"\r\nContent-Type: {self.content_type}\r\n\r\n'
        )
        return "".join(parts).encode(errors="replace")

    @property
    def tail(self) -> bytes:
        """What comes after them."""
        return f"\r\n--{self.boundary}--\r\n".encode()

    @property
    def header(self) -> str:
        """The ``Content-Type`` of the request."""
        return f"multipart/form-data; boundary={self.boundary}"


def _quoted(text: str) -> str:
    # As browsers do (WHATWG): a quote or a line break in a name must not end the header.
    return text.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")


# --- pictures -----------------------------------------------------------------------------------------------


def picture_size(start: bytes) -> tuple[int, int] | None:
    """Return the width and height of a PNG, GIF, WebP or JPEG from its first bytes.

    :return: ``None`` where they do not tell; then Flora will.
    """
    for signature, read in _PICTURES:
        if signature.match(start):
            try:
                return read(start)
            except (struct.error, IndexError):
                return None
    return None


def _png(start: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from(">II", start, 16)
    return width, height


def _gif(start: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from("<HH", start, 6)
    return width, height


def _webp(start: bytes) -> tuple[int, int] | None:
    kind = start[12:16]
    if kind == b"VP8X":
        return _uint24(start, 24) + 1, _uint24(start, 27) + 1
    if kind == b"VP8L":
        bits = struct.unpack_from("<I", start, 21)[0]
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack_from("<HH", start, 26)
    return width & 0x3FFF, height & 0x3FFF


def _uint24(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 3], "little")


def _jpeg(start: bytes) -> tuple[int, int] | None:
    at = 2
    while start[at] == 0xFF:
        marker = start[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a start of frame
            height, width = struct.unpack_from(">HH", start, at + 5)
            return width, height
        else:
            at += 2 + struct.unpack_from(">H", start, at + 2)[0]
    return None


_PICTURES: tuple[tuple[re.Pattern[bytes], Callable[[bytes], tuple[int, int] | None]], ...] = (
    (re.compile(rb"\x89PNG\r\n\x1a\n....IHDR", re.DOTALL), _png),
    (re.compile(rb"GIF8[79]a"), _gif),
    (re.compile(rb"RIFF....WEBPVP8[ LX]", re.DOTALL), _webp),
    (re.compile(rb"\xff\xd8\xff"), _jpeg),
)
