"""The multipart form around a file's bytes. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Form:
    """A multipart form with one file, sent as ``head``, the file's bytes and ``tail``.

    :param fields: fields before the file, where storages require those of a presigned form.
    :param boundary: text that does not occur in the file.
    """

    fields: Mapping[str, str]
    file_field: str
    file_name: str
    content_type: str
    boundary: str

    @property
    def head(self) -> bytes:
        """The bytes before the file."""
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
        """The bytes after the file."""
        return f"\r\n--{self.boundary}--\r\n".encode()

    @property
    def header(self) -> str:
        """The ``Content-Type`` of the request."""
        return f"multipart/form-data; boundary={self.boundary}"


def _quoted(text: str) -> str:
    # As browsers do (WHATWG), so that a quote or line break in a name does not end the header.
    return text.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
