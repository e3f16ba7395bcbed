"""Which types of files Flora takes, and what a file's name and content say of its type and size."""

from __future__ import annotations

import mimetypes
import warnings
from pathlib import Path

EXTENSIONS = {
    "image/jpeg": "jpg",
    "image/png": "png",
    "image/webp": "webp",
    "image/gif": "gif",
    "image/avif": "avif",
    "image/heic": "heic",
    "image/heif": "heif",
    "video/mp4": "mp4",
    "video/webm": "webm",
    "video/quicktime": "mov",
    "audio/mpeg": "mp3",
    "audio/wav": "wav",
    "audio/ogg": "ogg",
    "application/pdf": "pdf",
}
"""The types that Flora takes, with the extension that the emulator gives a file of that type."""

MAX_PIXELS = 150_000_000
UNKNOWN_TYPE = "application/octet-stream"
UNSUPPORTED = f"Unsupported type: must be one of {', '.join(EXTENSIONS)}"
TOO_MANY_PIXELS = f"Too many pixels: an image may have at most {MAX_PIXELS // 1_000_000} megapixels"
_TYPES = {
    **{extension: kind for kind, extension in EXTENSIONS.items()},
    "jpeg": "image/jpeg",
    "qt": "video/quicktime",
}

Size = tuple[int, int]
"""Width and height in pixels."""


def named_type(name: str | None) -> str:
    """The type that the extension of a file's name stands for; :data:`UNKNOWN_TYPE` when there is none."""
    extension = (name or "").rpartition(".")[2].lower()
    return _TYPES.get(extension) or mimetypes.guess_type(f"x.{extension}")[0] or UNKNOWN_TYPE


def decided_type(*candidates: str | None) -> str:
    """The first of these types that is known; :data:`UNKNOWN_TYPE` when none is."""
    for candidate in candidates:
        kind = (candidate or "").partition(";")[0].strip().lower()
        if kind and kind != UNKNOWN_TYPE:
            return kind
    return UNKNOWN_TYPE


def pixel_size(path: Path, content_type: str) -> Size | None:
    """Width and height of an image; ``None`` when the file is no image or cannot be read.

    :param path: the file.
    :param content_type: its declared type.
    """
    if not content_type.startswith("image/"):
        return None

    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            with Image.open(path) as image:
                width, height = image.size
                return width, height
        except Image.DecompressionBombError:
            return MAX_PIXELS, 2  # Pillow gives up far above Flora's limit, and does not say at which size.
        except (OSError, ValueError, SyntaxError):
            return None
