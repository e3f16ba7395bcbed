"""What the file of an output is called and of which type it may be. No I/O, nothing of Airflow."""

from __future__ import annotations

import hashlib
import mimetypes
import re
import string
import unicodedata
from urllib.parse import unquote, urlsplit

from airflow_provider_flora.api.errors import FloraParameterError

DEFAULT_FILE_NAME = "{technique}-{run_id}-{output_id}.{ext}"
FIELDS = ("technique", "run_id", "output_id", "index", "ext")
MAX_NAME_BYTES = 200
"""File systems take 255; a name that is still being written is a little longer than the final one."""

TEXT = ("text/plain", "txt")
UNTOLD = "application/octet-stream"

# Fixed, so that a name does not depend on what the worker's machine knows.
_EXTENSIONS = {
    "image/png": "png",
    "image/jpeg": "jpg",
    "image/webp": "webp",
    "image/gif": "gif",
    "image/avif": "avif",
    "image/heic": "heic",
    "image/tiff": "tiff",
    "image/bmp": "bmp",
    "image/svg+xml": "svg",
    "video/mp4": "mp4",
    "video/quicktime": "mov",
    "video/webm": "webm",
    "video/x-matroska": "mkv",
    "audio/mpeg": "mp3",
    "audio/wav": "wav",
    "audio/ogg": "ogg",
    "audio/flac": "flac",
    "audio/aac": "aac",
    "audio/mp4": "m4a",
    "application/pdf": "pdf",
    "application/zip": "zip",
    "application/json": "json",
    "application/vnd.openxmlformats-officedocument.presentationml.presentation": "pptx",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "text/plain": "txt",
    "text/markdown": "md",
    "text/csv": "csv",
}
_SAME_AS = {
    "image/jpg": "image/jpeg",
    "audio/mp3": "audio/mpeg",
    "audio/x-wav": "audio/wav",
    "audio/wave": "audio/wav",
    "audio/vnd.wave": "audio/wav",
    "audio/x-m4a": "audio/mp4",
    "audio/x-flac": "audio/flac",
    "application/mp4": "video/mp4",
    "binary/octet-stream": UNTOLD,
    "application/x-octet-stream": UNTOLD,
    "": UNTOLD,
}
_TYPES_BY_EXTENSION = {extension: media_type for media_type, extension in _EXTENSIONS.items()} | {
    "jpeg": "image/jpeg",
    "tif": "image/tiff",
    "m4v": "video/mp4",
}
# What a media type may begin with; an output type that is not here may be anything but a page.
_FITTING = {
    "imageUrl": ("image/",),
    "videoUrl": ("video/", "image/gif"),
    "audioUrl": ("audio/", "application/ogg", "video/ogg"),
    "documentUrl": ("application/", "text/", "image/"),
}
_PAGES = ("text/html", "application/xhtml+xml", "application/xml", "text/xml", "application/problem+json")
_RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{port}{digit}" for port in ("COM", "LPT") for digit in range(10))}
_REFUSED = re.compile(r'[<>:"/\\|?*#]')
_FORMAT_SPEC = re.compile(r"0?\d{0,2}d?")
_NO_MACHINE_TYPES = mimetypes.MimeTypes()


def type_of(output_type: str, content_type: str, url: str) -> tuple[str, str]:
    """Return the media type and the extension of an output's file.

    :param content_type: as the server sent it; where it says nothing, the URL's own extension tells.
    :raises ValueError: it cannot be the file of such an output; the message says what it is.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    media_type = _SAME_AS.get(media_type, media_type)
    if media_type == UNTOLD:
        suffix = unquote(urlsplit(url).path).rpartition("/")[2].rpartition(".")[2].lower()
        media_type = _TYPES_BY_EXTENSION.get(suffix, UNTOLD)
    fits = media_type == UNTOLD or media_type.startswith(_FITTING.get(output_type, ("",)))
    if not fits or media_type in _PAGES:
        raise ValueError(f"is {media_type}, which is no file of type {output_type}")
    return media_type, _extension(media_type)


def _extension(media_type: str) -> str:
    known = _EXTENSIONS.get(media_type) or (_NO_MACHINE_TYPES.guess_extension(media_type) or ".bin")[1:]
    return known if re.fullmatch(r"[a-z0-9]{1,8}", known) else "bin"


def check_file_name(template: str) -> None:
    """Refuse a template that cannot give a safe name.

    :raises FloraParameterError: naming what is wrong.
    """
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise _unusable(template, f"it is not a format: {error}") from None
    for literal, field, spec, conversion in parts:
        _check_literal(template, literal)
        if field is None:
            continue
        if field not in FIELDS:
            raise _unusable(template, f"{{{field}}} is none of {', '.join(FIELDS)}")
        if conversion or not _FORMAT_SPEC.fullmatch(spec or "") or (spec and field != "index"):
            raise _unusable(template, f"of {{{field}}} only {{index:03d}} and the like can be formatted")
    if ".." in template:
        raise _unusable(template, "two dots in a row mean the folder above")
    if template[:1] in (".", "", " ") or template[-1] in ". ":
        raise _unusable(template, "a name begins with no dot or blank, and ends with neither")


def _check_literal(template: str, literal: str) -> None:
    if found := _REFUSED.search(literal):
        raise _unusable(template, f"{found[0]!r} has no place in a name; folders belong into download_to")
    if not literal.isprintable():
        raise _unusable(template, "it holds a control character")


def tells_outputs_apart(template: str) -> bool:
    """Whether a name stands for one output of one run for ever: a file of that name is that output."""
    fields = {field for _, field, _, _ in string.Formatter().parse(template)}
    return "run_id" in fields and bool(fields & {"output_id", "index"})


def name_of(template: str, *, technique: str, run_id: str, output_id: str, index: int, ext: str) -> str:
    """Return the name of an output's file: one path segment that every file system takes.

    What comes from Flora is made safe; what ``check_file_name`` passes is safe already.
    """
    name = template.format(
        technique=_safe(technique), run_id=_safe(run_id), output_id=_safe(output_id), index=index, ext=_safe(ext)
    )
    if name.partition(".")[0].rstrip().upper() in _RESERVED:
        name = f"_{name}"
    if len(name.encode()) <= MAX_NAME_BYTES:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:12]
    end = f"-{digest}.{_safe(ext)[:16]}"
    kept = name.encode()[: MAX_NAME_BYTES - len(end.encode())].decode(errors="ignore")
    return f"{kept.rstrip('. ')}{end}"


def _safe(value: str) -> str:
    """Return a value without what means something in a path, of whatever system."""
    plain = unicodedata.normalize("NFC", value.encode(errors="replace").decode())
    return re.sub(r"[^\w.-]|\.(?=\.)", "_", plain).strip(".") or "_"


def _unusable(template: str, why: str) -> FloraParameterError:
    return FloraParameterError(
        f"file_name={template!r} cannot be used: {why}. The default is {DEFAULT_FILE_NAME!r}."
    )
