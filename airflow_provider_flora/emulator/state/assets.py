"""Flora assets: what is known of each, and the life of an upload.

    reserved ──bytes──▶ uploaded ──complete──▶ processing ──ready_at──▶ ready, or failed when it has a failure
       ▲ └─expires_at─▶ expired                                           │
       └──────────────────┴────────────────────retry──────────────────────┘

In answers every status before ``ready`` and ``failed`` is ``pending_upload``. Like a run, an asset needs no timer:
its status is computed when it is read. Bytes that came in one request, or were fetched, are ready at once.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import math
import secrets
import tempfile
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from airflow_provider_flora.emulator.media.file_types import EXTENSIONS, UNKNOWN_TYPE
from airflow_provider_flora.emulator.media.stored_files import StoredFile
from airflow_provider_flora.emulator.state.clock import Clock
from airflow_provider_flora.emulator.state.workspace import WORKSPACE_ID


@dataclass
class Reservation:
    """A permission to send the bytes of one asset to the storage host.

    :param fields: the form fields to send with them.
    :param expires_at: unix milliseconds.
    """

    fields: dict[str, str]
    expires_at: float


@dataclass(eq=False)
class Asset:
    """An asset.

    :param asset_id: its public id.
    :param number: assets are numbered as they are made.
    :param created_at: unix milliseconds.
    :param uploaded_via: ``direct``, ``url`` or ``signed_url``.
    :param name: the file's name.
    :param asked_type: the type that the client named.
    :param folder: the client's folder for it.
    :param project_id: the project whose canvas shows it.
    """

    asset_id: str
    number: int
    created_at: int
    uploaded_via: str
    name: str | None = None
    asked_type: str | None = None
    folder: str | None = None
    project_id: str | None = None
    reservation: Reservation | None = None
    file: StoredFile | None = None
    ready_at: float = field(default=math.inf)
    failure: str | None = None

    def status_at(self, now: float) -> str:
        """Its status at this moment, in unix milliseconds."""
        if now < self.ready_at:
            return "pending_upload"
        return "failed" if self.failure else "ready"

    def has_expired(self, now: float) -> bool:
        """Whether its reservation ended before its bytes came."""
        return self.file is None and self.reservation is not None and now >= self.reservation.expires_at

    @property
    def content_type(self) -> str:
        """Its type, as far as it is known."""
        return self.file.content_type if self.file else self.asked_type or UNKNOWN_TYPE

    @property
    def media_path(self) -> str:
        """What follows ``/media/`` in its URL."""
        extension = EXTENSIONS.get(self.content_type)
        return f"assets/{self.asset_id}.{extension}" if extension else f"assets/{self.asset_id}"

    def finish(self, at: float, ordered_failure: str | None) -> None:
        """Process the bytes as they are.

        :param at: when processing ends, in unix milliseconds.
        :param ordered_failure: why processing is to fail, if a fault was ordered.
        """
        self.ready_at = at
        self.failure = ordered_failure or (self.file.problem if self.file else None)

    def as_json(self, now: float, origin: str) -> dict[str, Any]:
        """The asset as JSON, in the form of ``GET /assets/{id}``.

        :param now: unix milliseconds.
        :param origin: where the caller reaches the emulator.
        """
        status = self.status_at(now)
        width, height = (self.file.size if self.file and status == "ready" else None) or (None, None)
        return {
            "asset_id": self.asset_id,
            "workspace_id": WORKSPACE_ID,
            "status": status,
            "uploaded_via": self.uploaded_via,
            "url": f"{origin}/media/{self.media_path}" if status == "ready" else None,
            "name": self.name,
            "description": None,
            "content_type": self.content_type,
            "upload_content_type": self.asked_type,
            "size_bytes": self.file.bytes if self.file else None,
            "width": width,
            "height": height,
            "created_at": iso_time(self.created_at),
            "failure_message": self.failure if status == "failed" else None,
        }

    def as_list_item(self, now: float, origin: str) -> dict[str, Any]:
        """The asset as the list has it, its time as a number. The parameters are those of :meth:`as_json`."""
        fields = self.as_json(now, origin)
        del fields["failure_message"]
        return {**fields, "created_at": self.created_at, "project_id": self.project_id, "node_id": None}


class Assets:
    """The assets of the workspace, with their files.

    :param clock: the emulator's time.
    :param upload_seconds: how long a reservation lasts.
    """

    def __init__(self, clock: Clock, upload_seconds: float) -> None:
        self._clock = clock
        self._upload_seconds = upload_seconds
        self._id_prefix = f"asset_{secrets.token_hex(3)}"
        self._signing_key = secrets.token_bytes(32)
        self._number = 0
        self._assets: dict[str, Asset] = {}
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def clear(self) -> None:
        """Forget every asset and remove every file."""
        self._assets.clear()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def add(self, uploaded_via: str, **known: Any) -> Asset:
        """Add an asset that has no bytes yet.

        :param uploaded_via: how its bytes will come.
        :param known: what the client said of it: ``name``, ``asked_type``, ``folder``, ``project_id``.
        """
        self._number += 1
        asset_id = f"{self._id_prefix}{self._number:06x}"
        asset = Asset(asset_id, self._number, int(self._clock.now()), uploaded_via, **known)
        self._assets[asset_id] = asset
        return asset

    def get(self, asset_id: str) -> Asset | None:
        """The asset of this id, if there is one."""
        return self._assets.get(asset_id)

    def ready_file(self, media_path: str) -> StoredFile | None:
        """The file that is served at this path below ``/media/``."""
        asset = self._assets.get(media_path.removeprefix("assets/").partition(".")[0])
        if asset is None or asset.media_path != media_path or asset.status_at(self._clock.now()) != "ready":
            return None
        return asset.file

    def all(self) -> list[Asset]:
        """Every asset, oldest first."""
        return list(self._assets.values())

    def reserve(self, asset: Asset) -> None:
        """Give the asset a fresh reservation. What it had before is void.

        :param asset: the asset.
        """
        self.set_file(asset, None)
        asset.uploaded_via, asset.ready_at, asset.failure = "signed_url", math.inf, None
        expires_at = self._clock.now() + 1000 * self._upload_seconds
        fields = {"key": f"assets/{asset.asset_id}"}
        if asset.asked_type:
            fields["Content-Type"] = asset.asked_type
        conditions = [*({name: value} for name, value in fields.items()), {"nonce": secrets.token_hex(8)}]
        policy = json.dumps({"expiration": iso_time(expires_at), "conditions": conditions})
        fields["policy"] = base64.b64encode(policy.encode()).decode()
        fields["signature"] = hmac.new(self._signing_key, fields["policy"].encode(), hashlib.sha256).hexdigest()
        asset.reservation = Reservation(fields, expires_at)

    def set_file(self, asset: Asset, file: StoredFile | None) -> None:
        """Give the asset this file, and delete the one that it had.

        :param asset: the asset.
        :param file: the file; ``None`` for no file.
        """
        if asset.file is not None:
            asset.file.path.unlink(missing_ok=True)
        asset.file = file

    def new_path(self) -> Path:
        """A path where the next file can be written."""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="flora-emulator-", ignore_cleanup_errors=True)
        return Path(self._folder.name, secrets.token_hex(8))

    def as_json(self) -> list[dict[str, Any]]:
        """The assets as the ledger lists them."""
        now = self._clock.now()
        return [
            {
                "asset_id": asset.asset_id,
                "status": asset.status_at(now),
                "uploaded_via": asset.uploaded_via,
                "name": asset.name,
                "folder": asset.folder,
                "project_id": asset.project_id,
                "content_type": asset.content_type,
                "bytes": asset.file.bytes if asset.file else None,
                "sha256": asset.file.sha256 if asset.file else None,
                "failure_message": asset.failure,
            }
            for asset in self._assets.values()
        ]


def iso_time(moment: float) -> str:
    """Write a moment as ISO 8601.

    :param moment: unix milliseconds.
    """
    return (
        datetime.fromtimestamp(moment / 1000, timezone.utc)
        .isoformat(timespec="milliseconds")
        .replace("+00:00", "Z")
    )
