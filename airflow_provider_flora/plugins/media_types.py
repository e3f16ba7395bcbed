"""Which content a browser may show in Airflow's origin. What a run has generated is hostile.

Only raster pictures, videos and audio are shown, and only if their bytes begin as such a file does. Everything else
is sent as a file to save: SVG, HTML and documents among it. No I/O.
"""

from __future__ import annotations

import re

START_BYTES = 64
SAVED_ONLY = "application/octet-stream"

_STARTS: tuple[tuple[str, re.Pattern[bytes]], ...] = (
    ("image/png", re.compile(rb"\x89PNG\r\n\x1a\n")),
    ("image/jpeg", re.compile(rb"\xff\xd8\xff")),
    ("image/gif", re.compile(rb"GIF8[79]a")),
    ("image/webp", re.compile(rb"RIFF....WEBP", re.DOTALL)),
    ("image/avif", re.compile(rb"....ftypavi[fs]", re.DOTALL)),
    ("video/webm", re.compile(rb"\x1a\x45\xdf\xa3")),
    ("video/quicktime", re.compile(rb"....ftypqt  ", re.DOTALL)),
    ("audio/mp4", re.compile(rb"....ftypM4[AB] ", re.DOTALL)),
    ("video/mp4", re.compile(rb"....ftyp(?:isom|iso[2-9]|mp4[12]|avc1|dash|M4V |MSNV)", re.DOTALL)),
    ("audio/wav", re.compile(rb"RIFF....WAVE", re.DOTALL)),
    ("audio/flac", re.compile(rb"fLaC")),
    ("audio/ogg", re.compile(rb"OggS")),
    ("audio/mpeg", re.compile(rb"ID3|\xff[\xe2\xe3\xf2\xf3\xfa\xfb]")),
)


def shown_type(start: bytes, claimed: str) -> str:
    """Return the content type with which a file is sent: :data:`SAVED_ONLY` if no browser may show it.

    :param start: its first :data:`START_BYTES` bytes.
    :param claimed: the media type that the task has recorded. The content must be of the same kind.
    """
    for media_type, begins in _STARTS:
        if begins.match(start):
            return media_type if claimed.partition("/")[0] == media_type.partition("/")[0] else SAVED_ONLY
    return SAVED_ONLY
