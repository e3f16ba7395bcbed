"""Reads a whole multipart/form-data body. Large ones are read from the wire, in ``storage.py``."""

from __future__ import annotations

from dataclasses import dataclass
from email.message import Message
from email.parser import HeaderParser

from airflow_provider_flora.emulator.errors import ApiError


@dataclass(frozen=True)
class Part:
    """A part of a form.

    :param content: What is in it.
    :param file_name: The name of the file it is, if it is one.
    :param content_type: What it is said to be, if that is said.
    """

    content: bytes
    file_name: str | None
    content_type: str | None


def read_form(body: bytes, content_type: str) -> dict[str, Part]:
    """The parts by name.

    :param body: As it came.
    :param content_type: The header, with the boundary.
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
