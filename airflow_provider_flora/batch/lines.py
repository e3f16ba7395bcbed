"""The lines of a table or manifest, read in chunks. What they hold is read in ``rows`` and ``manifest``."""

from __future__ import annotations

from collections.abc import Iterator

from airflow_provider_flora.files.uploads.source import SourceFile


def read_lines(location: str) -> Iterator[str]:
    """Read a text file line by line. Each line keeps its end.

    :param location: path, or URI such as ``s3://conn_id@bucket/key``.
    :raises FloraFileError: the file cannot be read, or was replaced while it was being read.
    :raises ValueError: a line is no text. The message names the line.
    """
    for number, line in enumerate(_split(SourceFile(location).read_chunks()), 1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"line {number} is not UTF-8 ({error.reason} at its byte {error.start + 1}). Save the file as UTF-8"
            ) from None
        if "\0" in text:
            raise ValueError(f"line {number} has a NUL character. Remove it, and save the file as UTF-8")
        yield text


def _split(chunks: Iterator[bytes]) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        lines = (rest + chunk).splitlines(keepends=True)
        rest = lines.pop()  # its end, or the second half of its end, may be in the next chunk
        yield from lines
    if rest:
        yield rest
