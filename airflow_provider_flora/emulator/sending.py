"""Sends a medium, and stops halfway where that was ordered.

Half of it is a moment in the life of a download, as "during" is in that of a run's start: what is ordered for then
meets a client that has headers, and half of what they announce.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from aiohttp import web

from airflow_provider_flora.emulator.blobs import Blob
from airflow_provider_flora.emulator.breakage import break_answer
from airflow_provider_flora.emulator.faults import Fault
from airflow_provider_flora.emulator.media import Medium

_PIECE = 256 * 1024


async def send_medium(medium: Medium, request: web.Request, halfway: Sequence[Fault]) -> web.StreamResponse:
    """Answer with this file.

    :param medium: The file.
    :param request: The request.
    :param halfway: What was ordered for the middle of it.
    :raises ConnectionReset: When a reset was ordered.
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
        pass  # Nobody listens any more.
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
