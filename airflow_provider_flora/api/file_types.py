"""The types and limits of files that Flora accepts. No I/O.

Source: the vendor's SDK.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

DIRECT_LIMIT = 4 * 1024 * 1024
"""Largest file in bytes for one multipart request. Larger files use a signed upload."""
PIXEL_LIMIT = 150_000_000
"""Largest width times height of an image."""

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
"""Content types of Flora assets. This table is fixed, since those of machines differ."""
TYPES_IN_WORDS = (
    "images (jpeg, png, webp, gif, avif, heic, heif), video (mp4, webm, quicktime), audio (mpeg, wav, ogg) and pdf"
)


def content_type_of(name: str) -> str | None:
    """Return the content type of a file name, or ``None`` if Flora does not accept its extension."""
    return _TYPES_BY_EXTENSION.get(PurePosixPath(name).suffix[1:].lower())


def name_in_url(url: str) -> str:
    """Return the file name at the end of a URL, or an empty string."""
    return PurePosixPath(unquote(urlsplit(url).path)).name


def clean_content_type(content_type: str) -> str:
    """Return a content type in lower case and without parameters, as Flora compares it."""
    return content_type.partition(";")[0].strip().lower()
