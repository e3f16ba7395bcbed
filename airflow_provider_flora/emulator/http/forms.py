"""Reads a whole multipart/form-data body. ``operations/uploads.py`` reads large ones piece by piece."""

from __future__ import annotations

from dataclasses import dataclass
from email.message import Message
from email.parser import HeaderParser

from airflow_provider_flora.emulator.http.errors import ApiError


@dataclass(frozen=True)
class Part:
    """A part of a form.

    :param content: its bytes.
    :param file_name: the file's name, if it is a file.
    :param content_type: its declared type, if it has one.
    """

    content: bytes
    file_name: str | None
    content_type: str | None


def read_form(body: bytes, content_type: str) -> dict[str, Part]:
    """Read the parts, by name.

    :param body: the body.
    :param content_type: the header, with the boundary.
    :raises ApiError: 400 when it is not a form.
    """
    header = Message()
    header["content-type"] = content_type
    boundary = header.get_param("boundary")
    pieces = (b"\r\n" + body).split(b"\r\n--" + str(boundary).encode())
    if not boundary or len(pieces) < 2 or not pieces[-1].startswith(b"--"):
        raise ApiError(400, fields=[("body", "Expected multipart/form-data")])
    parts: dict[str, Part] = {}
    for piece in pieces[1:-1]:
        head, end, content = piece.partition(b"\r\n\r\n")
        # Names are sent as they are, in UTF-8.
        headers = HeaderParser().parsestr(head.lstrip(b" \t\r\n").decode(errors="replace"))
        name = headers.get_param("name", header="content-disposition")
        if not end or not isinstance(name, str):
            raise ApiError(400, fields=[("body", "Expected multipart/form-data")])
        parts[name] = Part(content, headers.get_filename(), headers["content-type"])
    return parts
