"""Flora's operations on assets. The storage host that their bytes are sent to is in ``uploads.py``."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote, urlencode, urlsplit

from aiohttp import web

from airflow_provider_flora.emulator.http.answers import answer_json
from airflow_provider_flora.emulator.http.errors import ApiError
from airflow_provider_flora.emulator.http.pages import bad_cursor, read_cursor, read_limit, write_cursor
from airflow_provider_flora.emulator.media.stored_files import one_piece, receive
from airflow_provider_flora.emulator.operations.asset_request import SIGNED, AssetRequest, read_asset_request
from airflow_provider_flora.emulator.operations.fetching import fetch
from airflow_provider_flora.emulator.operations.scope import check_project_id, is_own_workspace
from airflow_provider_flora.emulator.state.assets import Asset, Assets, iso_time
from airflow_provider_flora.emulator.state.clock import Clock

OrderedFailure = Callable[[], str | None]
"""Why processing is to fail; ``None`` when no fault was ordered. It is called once, when processing begins."""


class AssetOperations:
    """The operations on assets.

    :param clock: the emulator's time.
    :param assets: the assets.
    :param asset_seconds: how long a completed upload is processed.
    :param upload_port: gives the port of the storage host.
    :param is_own_host: whether a host, with its port, is the emulator.
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
            asset = await self._add_with_bytes(wanted)
            asset.finish(self._clock.now(), ordered_failure())
        # A new asset has its URL at once, ready or not.
        return {**self._as_json(asset, request), "url": f"http://{request.host}/media/{asset.media_path}"}

    async def complete(self, request: web.Request, ordered_failure: OrderedFailure) -> dict[str, Any]:
        """``POST /assets/{id}/complete``; an asset that was completed already is answered as it is."""
        asset, now = self._find_asset(request), self._clock.now()
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
        return self._as_json(asset, request)

    async def retry(self, request: web.Request, ordered_failure: OrderedFailure) -> dict[str, Any]:
        """``POST /assets/{id}/retry``, for an asset that failed or expired."""
        asset, now = self._find_asset(request), self._clock.now()
        status = asset.status_at(now)
        if status != "failed" and not asset.has_expired(now):
            raise ApiError(409, "conflict", f"Only a failed or expired upload can be retried: this is {status}.")
        self._assets.reserve(asset)
        return self._as_json(asset, request)

    async def get(self, request: web.Request) -> web.StreamResponse:
        """``GET /assets/{id}``."""
        return answer_json(self._find_asset(request).as_json(self._clock.now(), f"http://{request.host}"))

    async def list_assets(self, request: web.Request) -> web.StreamResponse:
        """``GET /assets``, newest first."""
        query, limit = request.query, read_limit(request)
        project_id, words = query.get("project_id"), query.get("query", "").lower()
        here = is_own_workspace(query.get("workspace_id"))
        check_project_id(project_id)
        before = read_cursor("assets", query["cursor"]) if "cursor" in query else None
        if before is not None and type(before) is not int:
            raise bad_cursor()
        found = [
            asset
            for asset in reversed(self._assets.all())
            if (before is None or asset.number < before)
            and here
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

    def _find_asset(self, request: web.Request) -> Asset:
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

    async def _add_with_bytes(self, wanted: AssetRequest) -> Asset:
        """Add the asset of a request that has its bytes or their URL. The bytes are here before the asset is."""
        path = self._assets.new_path()
        if isinstance(wanted.source, bytes):
            assert wanted.content_type is not None  # noqa: S101  a file of unknown type was refused
            via, field, name = "direct", "file", None
            file = await receive(one_piece(wanted.source), path, wanted.content_type)
        else:
            via, field = "url", "source"
            file = await fetch(wanted.source, wanted.content_type, wanted.file_name, path, self._is_own_host)
            name = unquote(urlsplit(wanted.source).path.rpartition("/")[2]) or None
        if file.problem:
            path.unlink(missing_ok=True)
            raise ApiError(400, fields=[(field, file.problem)])
        asset = self._add(via, wanted, name)
        self._assets.set_file(asset, file)
        return asset

    def _as_json(self, asset: Asset, request: web.Request) -> dict[str, Any]:
        """The asset as the operations that change it answer, with its reservation while it has one."""
        now, origin = self._clock.now(), f"http://{request.host}"
        full = asset.as_json(now, origin)
        names = ("asset_id", "workspace_id", "status", "uploaded_via", "url")
        answer = {**{name: full[name] for name in names}, "visibility": "workspace"}
        if full["failure_message"]:
            answer["failure_message"] = full["failure_message"]
        if asset.reservation is not None:
            host = re.sub(r":[0-9]+$", "", request.host)
            target = f"http://{host}:{self._upload_port()}/uploads/{asset.asset_id}"
            answer["expires_at"] = iso_time(asset.reservation.expires_at)
            answer["upload"] = {
                "method": "POST",
                "url": target,
                "content_type": "multipart/form-data",
                "form_fields": dict(asset.reservation.fields),
                "file_field": "file",
            }
            answer["upload_url"] = f"{target}?{urlencode(asset.reservation.fields)}"
        return answer
