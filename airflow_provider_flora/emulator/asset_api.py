"""Flora's operations on assets: what each answers. Where their bytes are sent is the business of ``storage.py``."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote, urlencode, urlsplit

from aiohttp import web

from airflow_provider_flora.emulator.api import answer_json, read_limit
from airflow_provider_flora.emulator.asset_request import SIGNED, AssetRequest, read_asset_request
from airflow_provider_flora.emulator.assets import Asset, Assets, iso
from airflow_provider_flora.emulator.clock import Clock
from airflow_provider_flora.emulator.cursors import read_cursor, write_cursor
from airflow_provider_flora.emulator.errors import ApiError
from airflow_provider_flora.emulator.fetching import fetch
from airflow_provider_flora.emulator.receiving import in_one_piece, receive
from airflow_provider_flora.emulator.runs import WORKSPACE_ID

_PUBLIC_PROJECT_ID = re.compile(r"prj_[A-Za-z0-9]+")

OrderedFailure = Callable[[], str | None]
"""Why processing is to fail, asked once when it begins; ``None`` when nothing was ordered."""


class AssetApi:
    """The operations on assets.

    :param clock: Tells the time.
    :param assets: The assets.
    :param asset_seconds: How long what was uploaded and completed is processed.
    :param upload_port: Tells on which port the storage host listens.
    :param is_own_host: Tells whether a host, with its port, is the emulator.
    """

    def __init__(
        self,
        clock: Clock,
        assets: Assets,
        asset_seconds: float,
        upload_port: Callable[[], int],
        is_own_host: Callable[[str], bool],
    ) -> None:
        self._clock = clock
        self._assets = assets
        self._asset_seconds = asset_seconds
        self._upload_port = upload_port
        self._is_own_host = is_own_host

    async def create(self, request: web.Request, ordered_failure: OrderedFailure) -> dict[str, Any]:
        """``POST /assets``."""
        wanted = read_asset_request(await request.read(), request.headers.get("content-type", ""))
        if wanted.source == SIGNED:
            asset = self._add("signed_url", wanted)
            self._assets.reserve(asset)
        else:
            asset = await self._with_bytes(wanted)
            asset.finish(self._clock.now(), ordered_failure())
        # A new asset tells its URL at once, ready or not.
        return {**self._wire(asset, request), "url": f"http://{request.host}/media/{asset.media_path}"}

    async def complete(self, request: web.Request, ordered_failure: OrderedFailure) -> dict[str, Any]:
        """``POST /assets/{id}/complete``; what was completed already is told as it stands."""
        asset, now = self._asset(request), self._clock.now()
        if asset.reservation is not None and asset.file is None:
            expired = asset.has_expired(now)
            raise ApiError(
                409,
                "conflict",
                "The upload has expired: retry it." if expired else "Nothing was uploaded for this asset yet.",
            )
        if asset.reservation is not None:
            asset.reservation = None
            asset.finish(now + 1000 * self._asset_seconds, ordered_failure())
        return self._wire(asset, request)

    async def retry(self, request: web.Request, ordered_failure: OrderedFailure) -> dict[str, Any]:
        """``POST /assets/{id}/retry``: only for what failed or expired."""
        asset, now = self._asset(request), self._clock.now()
        status = asset.status_at(now)
        if status != "failed" and not asset.has_expired(now):
            raise ApiError(409, "conflict", f"Only a failed or expired upload can be retried: this is {status}.")
        self._assets.reserve(asset)
        return self._wire(asset, request)

    async def get(self, request: web.Request) -> web.StreamResponse:
        """``GET /assets/{id}``."""
        return answer_json(self._asset(request).as_json(self._clock.now(), f"http://{request.host}"))

    async def list_assets(self, request: web.Request) -> web.StreamResponse:
        """``GET /assets``, newest first."""
        query, limit = request.query, read_limit(request)
        project_id, words = query.get("project_id"), query.get("query", "").lower()
        if project_id is not None and not _PUBLIC_PROJECT_ID.fullmatch(project_id):
            raise ApiError(500)
        before = read_cursor("assets", query["cursor"]) if "cursor" in query else None
        if before is not None and type(before) is not int:
            raise ApiError(400, fields=[("cursor", "Invalid cursor")])
        found = [
            asset
            for asset in reversed(self._assets.all())
            if (before is None or asset.number < before)
            and query.get("workspace_id", WORKSPACE_ID) == WORKSPACE_ID
            and project_id in (None, asset.project_id)
            and words in (asset.name or "").lower()
        ]
        page, now = found[:limit], self._clock.now()
        more = write_cursor("assets", page[-1].number) if len(found) > limit else None
        return answer_json(
            {
                "assets": [asset.as_list_item(now, f"http://{request.host}") for asset in page],
                "meta": {"next_cursor": more},
            }
        )

    def _asset(self, request: web.Request) -> Asset:
        asset = self._assets.get(request.match_info["asset"])
        if asset is None:
            raise ApiError(404)
        return asset

    def _add(self, uploaded_via: str, wanted: AssetRequest, name: str | None = None) -> Asset:
        return self._assets.add(
            uploaded_via,
            name=wanted.file_name or name,
            asked_type=wanted.content_type,
            folder=wanted.folder,
            project_id=wanted.project_id,
        )

    async def _with_bytes(self, wanted: AssetRequest) -> Asset:
        """The asset of a request that brings its bytes or says where they are; they are here before it is."""
        path = self._assets.new_path()
        if isinstance(wanted.source, bytes):
            assert wanted.content_type is not None  # noqa: S101  a file of unknown type was refused
            via, field, name = "direct", "file", None
            file = await receive(in_one_piece(wanted.source), path, wanted.content_type)
        else:
            via, field = "url", "source"
            file = await fetch(wanted.source, wanted.content_type, wanted.file_name, path, self._is_own_host)
            name = unquote(urlsplit(wanted.source).path.rpartition("/")[2]) or None
        if file.problem:
            path.unlink(missing_ok=True)
            raise ApiError(400, fields=[(field, file.problem)])
        asset = self._add(via, wanted, name)
        self._assets.keep(asset, file)
        return asset

    def _wire(self, asset: Asset, request: web.Request) -> dict[str, Any]:
        """The asset as the operations that change one tell it, with the way to upload it while that is open."""
        now, origin = self._clock.now(), f"http://{request.host}"
        whole = asset.as_json(now, origin)
        names = ("asset_id", "workspace_id", "status", "uploaded_via", "url")
        wire = {**{name: whole[name] for name in names}, "visibility": "workspace"}
        if whole["failure_message"]:
            wire["failure_message"] = whole["failure_message"]
        if asset.reservation is not None:
            host = re.sub(r":[0-9]+$", "", request.host)
            target = f"http://{host}:{self._upload_port()}/uploads/{asset.asset_id}"
            wire["expires_at"] = iso(asset.reservation.expires_at)
            wire["upload"] = {
                "method": "POST",
                "url": target,
                "content_type": "multipart/form-data",
                "form_fields": dict(asset.reservation.fields),
                "file_field": "file",
            }
            wire["upload_url"] = f"{target}?{urlencode(asset.reservation.fields)}"
        return wire
