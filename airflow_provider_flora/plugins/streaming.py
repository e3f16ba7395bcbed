"""Sends the file of an output. Which file that is, the task's own XCom or manifest has said, and no request.

A file is sent only if it is what the task has recorded: of that length and with that SHA-256. So an XCom that names
another file, such as one of the API server's own, opens nothing. The digest is computed once for each version of a
file, and remembered.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

from fastapi import HTTPException, Response
from fastapi.responses import StreamingResponse

from airflow_provider_flora.api.errors import FloraError
from airflow_provider_flora.files.downloads.record import OutputFile
from airflow_provider_flora.files.listing import find_file
from airflow_provider_flora.files.storage import file_errors, path_of
from airflow_provider_flora.files.uploads.source import SourceFile
from airflow_provider_flora.plugins.media_types import SAVED_ONLY, START_BYTES, shown_type

CHUNK_BYTES = 1024 * 1024
"""Largest part of a file in memory."""
_REMEMBERED = 10_000
_RANGE = re.compile(r"bytes=(?:([0-9]{1,18})-([0-9]{0,18})|-([0-9]{1,18}))")
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Cache-Control": "private, no-cache",
    "Accept-Ranges": "bytes",
    # Airflow compresses answers that do not say how they are encoded. Ranges are of the bytes as they are.
    "Content-Encoding": "identity",
}


class Verified:
    """The versions of files whose digest has been compared, up to :data:`_REMEMBERED` of them."""

    def __init__(self) -> None:
        self._seen: OrderedDict[tuple[str, str, str], None] = OrderedDict()
        self._lock = threading.Lock()

    def check(self, file: OutputFile) -> None:
        """Check that a file is what the task has recorded.

        :raises HTTPException: it is not there, or is another one.
        """
        stored = find_file(file.uri)
        if stored is None:
            raise HTTPException(404, f"The file is not in the storage any more: {file.uri}")
        seen = (file.uri, stored.version or "", file.sha256)
        with self._lock:
            if stored.version and stored.bytes == file.bytes and seen in self._seen:
                self._seen.move_to_end(seen)
                return
        if stored.bytes != file.bytes or SourceFile(file.uri).compute_digest() != file.sha256:
            raise HTTPException(404, f"The file is not the one that the task has stored: {file.uri}")
        with self._lock:
            self._seen[seen] = None
            while len(self._seen) > _REMEMBERED:
                self._seen.popitem(last=False)


_verified = Verified()


def send_file(file: OutputFile, headers: Mapping[str, str]) -> Response:
    """Return the answer to a request for a file, or for a range of it.

    :param headers: the request's headers, by names in lower case.
    :raises HTTPException: the file cannot be sent.
    """
    try:
        _verified.check(file)
        with file_errors(file.uri), _open(file.uri) as opened:
            media_type = shown_type(opened.read(START_BYTES), file.media_type)
    except FloraError as error:
        raise HTTPException(404, f"The file cannot be read. {error}") from error
    tag = f'"{file.sha256[:32]}"'
    answer = {**HEADERS, "ETag": tag, "Content-Disposition": _disposition(file.uri, media_type)}
    if headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=answer)
    # With If-Range of another version, the whole file is asked for.
    span = parse_range(headers.get("range", ""), file.bytes) if headers.get("if-range", tag) == tag else None
    start, end = span or (0, file.bytes)
    if span and start >= end:
        return Response(status_code=416, headers={**answer, "Content-Range": f"bytes */{file.bytes}"})
    answer["Content-Length"] = str(end - start)
    if span:
        answer["Content-Range"] = f"bytes {start}-{end - 1}/{file.bytes}"
    return StreamingResponse(_read(file.uri, start, end), 206 if span else 200, answer, media_type)


def parse_range(header: str, size: int) -> tuple[int, int] | None:
    """Return the start and the end of the bytes that a ``Range`` header asks for.

    ``None`` is the whole file: there is no header, or it asks for several ranges, or for none that is valid. A
    start that is not before the end is a range that the file does not have.
    """
    found = _RANGE.fullmatch(header.strip())
    if not found:
        return None
    first, last, suffix = found.groups()
    if suffix is not None:
        return max(0, size - int(suffix)), size
    if last and int(last) < int(first):
        return None
    return int(first), min(size, int(last) + 1) if last else size


def _read(uri: str, start: int, end: int) -> Iterator[bytes]:
    with _open(uri) as opened:
        opened.seek(start)
        while start < end and (chunk := opened.read(min(CHUNK_BYTES, end - start))):
            start += len(chunk)
            yield chunk


def _open(uri: str) -> Any:
    path: Any = path_of(uri)
    # A storage reads ahead by this much.
    return path.open("rb", block_size=CHUNK_BYTES) if hasattr(path, "fs") else path.open("rb")


def _disposition(uri: str, media_type: str) -> str:
    name = re.sub(r"[^\w. -]", "_", uri.rpartition("/")[2]) or "output"
    way = "attachment" if media_type == SAVED_ONLY else "inline"
    return f"{way}; filename*=UTF-8''{quote(name, safe='')}"
