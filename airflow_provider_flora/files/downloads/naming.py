"""The names and types of output files. No I/O, nothing of Airflow."""

from __future__ import annotations

import hashlib
import mimetypes
import re
import string
import unicodedata
from collections.abc import Sequence
from urllib.parse import unquote, urlsplit

from airflow_provider_flora.api.errors import FloraParameterError

DEFAULT_FILE_NAME = "{technique}-{flora_run_id}-{output_id}.{ext}"
FIELDS = ("technique", "flora_run_id", "output_id", "index", "ext")
MAX_NAME_BYTES = 200
"""Longest name. File systems allow 255 bytes, and the hidden name during a download is longer."""

TEXT = ("text/plain", "txt")
UNKNOWN = "application/octet-stream"

# Fixed, so that names do not depend on the worker's machine.
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
    "binary/octet-stream": UNKNOWN,
    "application/x-octet-stream": UNKNOWN,
    "": UNKNOWN,
}
_TYPES_BY_EXTENSION = {extension: media_type for media_type, extension in _EXTENSIONS.items()} | {
    "jpeg": "image/jpeg",
    "tif": "image/tiff",
    "m4v": "video/mp4",
}
# Prefixes of the media types of each output type. Other output types may have any type but a page.
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

    :param content_type: content type, as the server sent it. Without one, the URL's extension counts.
    :raises ValueError: the file cannot belong to such an output. The message names its type.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    media_type = _SAME_AS.get(media_type, media_type)
    if media_type == UNKNOWN:
        suffix = unquote(urlsplit(url).path).rpartition("/")[2].rpartition(".")[2].lower()
        media_type = _TYPES_BY_EXTENSION.get(suffix, UNKNOWN)
    if not could_be(output_type, media_type) or media_type in _PAGES:
        raise ValueError(f"is {media_type}, which does not fit the output type {output_type}")
    return media_type, _extension(media_type)


def could_be(output_type: str, media_type: str) -> bool:
    """Whether the file of an output type may have a media type."""
    if output_type == "text":
        return media_type == TEXT[0]
    return media_type == UNKNOWN or media_type.startswith(_FITTING.get(output_type, ("",)))


def _extension(media_type: str) -> str:
    known = _EXTENSIONS.get(media_type) or (_NO_MACHINE_TYPES.guess_extension(media_type) or ".bin")[1:]
    return known if re.fullmatch(r"[a-z0-9]{1,8}", known) else "bin"


def check_file_name(template: str) -> None:
    """Check that a template makes safe names.

    :raises FloraParameterError: the template is invalid.
    """
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise _file_name_error(template, f"it is not a valid format: {error}") from None
    for literal, field, spec, conversion in parts:
        _check_literal(template, literal)
        if field is None:
            continue
        if field not in FIELDS:
            raise _file_name_error(template, f"{{{field}}} is not a field. The fields are {', '.join(FIELDS)}")
        if conversion or not _FORMAT_SPEC.fullmatch(spec or "") or (spec and field != "index"):
            raise _file_name_error(template, f"{{{field}}} has a format; only those like {{index:03d}} are allowed")
    if ".." in template:
        raise _file_name_error(template, "it must not contain two dots in a row")
    if template[:1] in (".", "", " ") or template[-1] in ". ":
        raise _file_name_error(template, "it must not be empty, nor begin or end with a dot or blank")


def _check_literal(template: str, literal: str) -> None:
    if found := _REFUSED.search(literal):
        raise _file_name_error(template, f"{found[0]!r} is not allowed in a name. Put folders into download_to")
    if not literal.isprintable():
        raise _file_name_error(template, "it contains a control character")


def is_unique_in_run(template: str) -> bool:
    """Whether a template gives each output of a run its own name."""
    return bool(_fields(template) & {"output_id", "index"})


def is_unique_for_ever(template: str) -> bool:
    """Whether a template gives each output of every run its own name."""
    return "flora_run_id" in _fields(template) and is_unique_in_run(template)


def _fields(template: str) -> set[str | None]:
    return {field for _, field, _, _ in string.Formatter().parse(template)}


def name_of(
    template: str, *, technique: str, run_id: str, output_id: str, index: int, ext: str, suffix: str = ""
) -> str:
    """Return the name of an output's file, one path segment that is safe on every file system.

    :param template: a format that ``check_file_name`` accepts.
    :param suffix: text before the extension.
    """
    name = template.format(
        technique=safe(technique),
        flora_run_id=safe(run_id),
        output_id=safe(output_id),
        index=index,
        ext=safe(ext),
    )
    name = _with_suffix(name, suffix)
    if name.partition(".")[0].rstrip().upper() in _RESERVED:
        name = f"_{name}"
    if len(name.encode()) <= MAX_NAME_BYTES:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:12]
    end = f"-{digest}.{safe(ext)[:16]}"
    start = name.encode()[: MAX_NAME_BYTES - len(end.encode())].decode(errors="ignore")
    return f"{start.rstrip('. ')}{end}"


def _with_suffix(name: str, suffix: str) -> str:
    stem, dot, end = name.rpartition(".")
    return f"{stem}{suffix}.{end}" if dot else f"{name}{suffix}"


def folded(name: str) -> str:
    """Return a name without case and Unicode form, which some file systems ignore."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def suffixes_for(names: Sequence[str]) -> list[str]:
    """Return a suffix for each name, so that the names differ on every file system.

    The first of several equal names has no suffix. The others have their position in the list, such as ``-2``. The
    same names always get the same suffixes.
    """
    taken = {folded(name) for name in names}
    seen: set[str] = set()
    suffixes = []
    for place, name in enumerate(names, 1):
        suffix = ""
        if folded(name) in seen:
            number = place
            while folded(_with_suffix(name, suffix := f"-{number}")) in taken:
                number += 1
            taken.add(folded(_with_suffix(name, suffix)))
        seen.add(folded(name))
        suffixes.append(suffix)
    return suffixes


def safe(value: str) -> str:
    """Return a value without characters that have a meaning in paths."""
    plain = unicodedata.normalize("NFC", value.encode(errors="replace").decode())
    return re.sub(r"[^\w.-]|\.(?=\.)", "_", plain).strip(".") or "_"


def _file_name_error(template: str, why: str) -> FloraParameterError:
    return FloraParameterError(f"file_name={template!r} is invalid: {why}. The default is {DEFAULT_FILE_NAME!r}.")
