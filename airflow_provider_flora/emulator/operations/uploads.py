"""The storage host that signed uploads go to: another origin than Flora's, which does not know its API keys.

A reservation can be used in two ways until it expires, and again until the upload is completed:

    POST, multipart/form-data    the form fields of the reservation, then the file
    PUT                          the bytes themselves, to ``upload_url``, which has the fields in its query

Like the storage of the large clouds it answers 204 without a body, and errors in XML.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from html import escape

from aiohttp import BodyPartReader, MultipartReader, web

from airflow_provider_flora.emulator.http.errors import ApiError
from airflow_provider_flora.emulator.media.file_types import decided_type, named_type
from airflow_provider_flora.emulator.media.stored_files import PIECE, receive
from airflow_provider_flora.emulator.state.assets import Assets
from airflow_provider_flora.emulator.state.clock import Clock

_MAX_FIELD = 20 * 1024
_XML = '<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{}</Code><Message>{}</Message></Error>'

Halfway = Callable[[], Awaitable[None]]
"""Applies the faults for the middle of an upload."""


class StorageHost:
    """Receives uploads.

    :param clock: the emulator's time.
    :param assets: the assets.
    """

    def __init__(self, clock: Clock, assets: Assets) -> None:
        self._clock = clock
        self._assets = assets

    async def receive_upload(
        self, request: web.Request, expire: Callable[[], bool], halfway: Halfway
    ) -> web.Response:
        """Receive one upload.

        :param request: the request.
        :param expire: whether a fault makes the reservation expire.
        :param halfway: awaited after the first piece of the file.
        :raises ApiError: when it does not match the reservation.
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
                _check_fields(dict(request.query), reservation.fields)
                declared = decided_type(asset.asked_type, request.headers.get("content-type"))
                pieces: AsyncIterator[bytes] = request.content.iter_any()
            else:
                reader = await request.multipart()
                fields, part = await _read_fields_before_file(reader)
                _check_fields(fields, reservation.fields)
                declared = decided_type(
                    asset.asked_type,
                    part.headers.get("content-type"),
                    named_type(asset.name),
                    named_type(part.filename),
                )
                pieces = _read_pieces(part, reader)
            path = self._assets.new_path()
            file = await receive(_interrupt(pieces, halfway), path, declared)
        except (ValueError, AssertionError):
            # aiohttp's form reader raises these for a broken form.
            raise ApiError(
                400, "MalformedPOSTRequest", "The body is not well-formed multipart/form-data."
            ) from None
        if asset.reservation is not reservation or self._assets.get(asset.asset_id) is not asset:
            path.unlink(missing_ok=True)
            raise ApiError(403, "AccessDenied", "There is no such reservation any more.")
        self._assets.set_file(asset, file)
        return web.Response(status=204)


def answer_xml(error: ApiError) -> web.Response:
    """An error as a storage host answers it.

    :param error: the error.
    """
    text = _XML.format(escape(error.code), escape(error.message))
    return web.Response(status=error.status, text=text, content_type="application/xml", headers=error.headers)


def _check_fields(sent: dict[str, str], reserved: dict[str, str]) -> None:
    for name, value in reserved.items():
        if name not in sent:
            raise ApiError(400, "InvalidArgument", f"The field {name} is missing before the file.")
        if sent[name] != value:
            raise ApiError(403, "AccessDenied", f"Invalid according to Policy: the field {name} is another.")


async def _read_fields_before_file(reader: MultipartReader) -> tuple[dict[str, str], BodyPartReader]:
    fields: dict[str, str] = {}
    while (part := await _next_part(reader)) is not None:
        if part.name == "file":
            return fields, part
        content = b""
        while piece := await part.read_chunk():
            content += piece
            if len(content) > _MAX_FIELD:
                raise ApiError(400, "MaxPostPreDataLengthExceeded", f"The field {part.name} is too long.")
        fields[part.name or ""] = content.decode()
    raise ApiError(400, "InvalidArgument", "The body has no file.")


async def _next_part(reader: MultipartReader) -> BodyPartReader | None:
    part = await reader.next()
    if part is not None and (not isinstance(part, BodyPartReader) or part.name is None):
        raise ValueError("a part without a name")
    return part


async def _read_pieces(part: BodyPartReader, reader: MultipartReader) -> AsyncIterator[bytes]:
    while piece := await part.read_chunk(PIECE):
        yield piece
    # Parts after the file are ignored, but a form without its end is incomplete.
    while (ignored := await _next_part(reader)) is not None:
        await ignored.release()


async def _interrupt(pieces: AsyncIterator[bytes], halfway: Halfway) -> AsyncIterator[bytes]:
    first = True
    async for piece in pieces:
        yield piece
        if first:
            await halfway()
            first = False
