"""Sends a file, and applies the faults for the middle of a download.

Such a fault acts when the client has the headers and half of the bytes that they announce.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from aiohttp import web

from airflow_provider_flora.emulator.faults.breakage import break_answer
from airflow_provider_flora.emulator.faults.orders import Fault
from airflow_provider_flora.emulator.media.blobs import Blob
from airflow_provider_flora.emulator.operations.media import Medium

_PIECE = 256 * 1024


async def send_medium(medium: Medium, request: web.Request, halfway: Sequence[Fault]) -> web.StreamResponse:
    """Answer with this file.

    :param medium: the file.
    :param request: the request.
    :param halfway: the faults for the middle of the download.
    :raises ConnectionReset: when a reset was ordered.
    """
    headers = {"content-type": medium.content_type}
    if not halfway and isinstance(medium.content, bytes):
        return web.Response(body=medium.content, headers=headers)
    if not halfway and isinstance(medium.content, Path):
        return web.FileResponse(medium.content, headers=headers)
    kinds = {fault.kind for fault in halfway}
    size = _size(medium.content)
    half = size // 2
    stream = web.StreamResponse(headers=headers)
    stream.content_length = half if "short_media" in kinds else size
    await stream.prepare(request)
    if request.method == "HEAD":
        return stream
    sent = 0
    try:
        for piece in _pieces(medium.content):
            if halfway and sent + len(piece) >= half:
                await stream.write(piece[: half - sent])
                for fault in halfway:
                    await break_answer(fault, request, stream)
                if "short_media" in kinds:
                    break
                if "cut_media" in kinds:
                    stream.force_close()
                    if request.transport is not None:
                        request.transport.close()
                    break
                await stream.write(piece[half - sent :])
                halfway = ()
            else:
                await stream.write(piece)
            sent += len(piece)
    except ConnectionError:
        pass  # The client is gone.
    return stream


def _size(content: bytes | Path | Blob) -> int:
    if isinstance(content, Path):
        return content.stat().st_size
    return content.length if isinstance(content, Blob) else len(content)


def _pieces(content: bytes | Path | Blob) -> Iterator[bytes]:
    if isinstance(content, Blob):
        yield from content.pieces()
    elif isinstance(content, bytes):
        yield content
    else:
        with content.open("rb") as file:
            while piece := file.read(_PIECE):
                yield piece
