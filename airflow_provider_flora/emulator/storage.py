"""The storage host that signed uploads go to: another origin than Flora's, which knows nothing of its keys.

A reservation may be used in either of two ways until it expires, and again until the upload is completed:

    POST, multipart/form-data    the form fields, each as it was given, then the file
    PUT                          the bytes themselves, to ``upload_url``, which has the fields in its query

Like the storage of the large clouds it answers 204 and nothing, and tells errors in XML.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from html import escape

from aiohttp import BodyPartReader, MultipartReader, web

from airflow_provider_flora.emulator.assets import Assets
from airflow_provider_flora.emulator.clock import Clock
from airflow_provider_flora.emulator.errors import ApiError
from airflow_provider_flora.emulator.file_types import decided_type, named_type
from airflow_provider_flora.emulator.receiving import PIECE, receive

_MAX_FIELD = 20 * 1024
_XML = '<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{}</Code><Message>{}</Message></Error>'

OnTheWay = Callable[[], Awaitable[None]]
"""What was ordered for the middle of an upload."""


class Storage:
    """Takes uploads.

    :param clock: Tells the time.
    :param assets: Whose bytes they are.
    """

    def __init__(self, clock: Clock, assets: Assets) -> None:
        self._clock = clock
        self._assets = assets

    async def take(self, request: web.Request, expire: Callable[[], bool], on_the_way: OnTheWay) -> web.Response:
        """Take one upload.

        :param request: The request.
        :param expire: Whether the reservation is to have expired, on order.
        :param on_the_way: Awaited after the first piece of the file.
        :raises ApiError: When it is not what was reserved.
        """
        asset = self._assets.get(request.match_info["asset"])
        if asset is None or asset.reservation is None:
            raise ApiError(403, "AccessDenied", "There is no such reservation.")
        if expire():
            asset.reservation.expires_at = self._clock.now()
        reservation = asset.reservation
        if self._clock.now() >= reservation.expires_at:
            raise ApiError(403, "AccessDenied", "Invalid according to Policy: Policy expired.")
        try:
            if request.method == "PUT":
                _check(dict(request.query), reservation.fields)
                declared = decided_type(asset.asked_type, request.headers.get("content-type"))
                pieces: AsyncIterator[bytes] = request.content.iter_any()
            else:
                reader = await request.multipart()
                fields, part = await _fields_before_file(reader)
                _check(fields, reservation.fields)
                declared = decided_type(
                    asset.asked_type,
                    part.headers.get("content-type"),
                    named_type(asset.name),
                    named_type(part.filename),
                )
                pieces = _pieces_of(part, reader)
            path = self._assets.new_path()
            file = await receive(_watched(pieces, on_the_way), path, declared)
        except (ValueError, AssertionError):
            # What aiohttp's reader of forms has to say of one that is broken.
            raise ApiError(
                400, "MalformedPOSTRequest", "The body is not well-formed multipart/form-data."
            ) from None
        if asset.reservation is not reservation or self._assets.get(asset.asset_id) is not asset:
            path.unlink(missing_ok=True)
            raise ApiError(403, "AccessDenied", "There is no such reservation any more.")
        self._assets.keep(asset, file)
        return web.Response(status=204)


def answer_xml(error: ApiError) -> web.Response:
    """An error in the words of a storage host."""
    text = _XML.format(escape(error.code), escape(error.message))
    return web.Response(status=error.status, text=text, content_type="application/xml", headers=error.headers)


def _check(given: dict[str, str], wanted: dict[str, str]) -> None:
    for name, value in wanted.items():
        if name not in given:
            raise ApiError(400, "InvalidArgument", f"The field {name} is missing before the file.")
        if given[name] != value:
            raise ApiError(403, "AccessDenied", f"Invalid according to Policy: the field {name} is another.")


async def _fields_before_file(reader: MultipartReader) -> tuple[dict[str, str], BodyPartReader]:
    fields: dict[str, str] = {}
    while (part := await _next(reader)) is not None:
        if part.name == "file":
            return fields, part
        content = b""
        while piece := await part.read_chunk():
            content += piece
            if len(content) > _MAX_FIELD:
                raise ApiError(400, "MaxPostPreDataLengthExceeded", f"The field {part.name} is too long.")
        fields[part.name or ""] = content.decode()
    raise ApiError(400, "InvalidArgument", "The body has no file.")


async def _next(reader: MultipartReader) -> BodyPartReader | None:
    part = await reader.next()
    if part is not None and (not isinstance(part, BodyPartReader) or part.name is None):
        raise ValueError("a part without a name")
    return part


async def _pieces_of(part: BodyPartReader, reader: MultipartReader) -> AsyncIterator[bytes]:
    while piece := await part.read_chunk(PIECE):
        yield piece
    # Nothing after the file counts, but a form without an end is not all there.
    while (ignored := await _next(reader)) is not None:
        await ignored.release()


async def _watched(pieces: AsyncIterator[bytes], on_the_way: OnTheWay) -> AsyncIterator[bytes]:
    first = True
    async for piece in pieces:
        yield piece
        if first:
            await on_the_way()
            first = False
