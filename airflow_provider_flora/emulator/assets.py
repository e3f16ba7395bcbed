"""Assets: what is known of each, and the life that an upload leads.

    reserved ──bytes──▶ uploaded ──complete──▶ processing ──ready_at──▶ ready, or failed when it has a failure
       ▲ └─expires_at─▶ expired                                           │
       └──────────────────┴────────────────────retry──────────────────────┘

On the wire everything before ``ready`` and ``failed`` is ``pending_upload``. Like a run, an asset needs no timer:
its status is computed when somebody asks. Bytes that came in one request or were fetched are ready at once.
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

from airflow_provider_flora.emulator.clock import Clock
from airflow_provider_flora.emulator.file_types import (
    EXTENSIONS,
    MAX_PIXELS,
    TOO_MANY_PIXELS,
    UNKNOWN_TYPE,
    UNSUPPORTED,
    Size,
)
from airflow_provider_flora.emulator.runs import WORKSPACE_ID


@dataclass(frozen=True)
class StoredFile:
    """The bytes of an asset, on disk.

    :param path: Where.
    :param bytes: How many.
    :param sha256: Their checksum, in hexadecimal.
    :param content_type: What they are said to be.
    :param size: Width and height in pixels, where that can be told.
    """

    path: Path
    bytes: int
    sha256: str
    content_type: str
    size: Size | None

    @property
    def problem(self) -> str | None:
        """Why Flora would not keep this file, or ``None``."""
        if not self.bytes:
            return "The file is empty"
        if self.content_type not in EXTENSIONS:
            return UNSUPPORTED
        if self.content_type.startswith("image/") and self.size and self.size[0] * self.size[1] > MAX_PIXELS:
            return TOO_MANY_PIXELS
        return None


@dataclass
class Reservation:
    """Leave to send the bytes of one asset to the storage host.

    :param fields: What has to be sent along with them.
    :param expires_at: Unix milliseconds.
    """

    fields: dict[str, str]
    expires_at: float


@dataclass(eq=False)
class Asset:
    """An asset.

    :param asset_id: Its public id.
    :param number: Its place in the order of creation.
    :param created_at: Unix milliseconds.
    :param uploaded_via: ``direct``, ``url`` or ``signed_url``.
    :param name: The file's name.
    :param asked_type: The type that the client named.
    :param folder: Where the client wants it.
    :param project_id: The project whose canvas shows it.
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
        """Its status at that moment, in unix milliseconds."""
        if now < self.ready_at:
            return "pending_upload"
        return "failed" if self.failure else "ready"

    def has_expired(self, now: float) -> bool:
        """Whether its bytes did not come while they could."""
        return self.file is None and self.reservation is not None and now >= self.reservation.expires_at

    @property
    def content_type(self) -> str:
        """What it is, as far as that is known."""
        return self.file.content_type if self.file else self.asked_type or UNKNOWN_TYPE

    @property
    def media_path(self) -> str:
        """What follows ``/media/`` in its URL."""
        extension = EXTENSIONS.get(self.content_type)
        return f"assets/{self.asset_id}.{extension}" if extension else f"assets/{self.asset_id}"

    def finish(self, at: float, ordered_failure: str | None) -> None:
        """Take the bytes as they are.

        :param at: When it is known what becomes of them, in unix milliseconds.
        :param ordered_failure: Why processing is to fail.
        """
        self.ready_at = at
        self.failure = ordered_failure or (self.file.problem if self.file else None)

    def as_json(self, now: float, origin: str) -> dict[str, Any]:
        """The asset on the wire, as ``GET /assets/{id}`` tells it.

        :param now: Unix milliseconds.
        :param origin: Where the caller reaches the emulator.
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
            "created_at": iso(self.created_at),
            "failure_message": self.failure if status == "failed" else None,
        }

    def as_list_item(self, now: float, origin: str) -> dict[str, Any]:
        """The asset as the list tells it, its time as a number; the parameters are those of :meth:`as_json`."""
        wire = self.as_json(now, origin)
        del wire["failure_message"]
        return {**wire, "created_at": self.created_at, "project_id": self.project_id, "node_id": None}


class Assets:
    """The assets of the workspace, with their files.

    :param clock: Tells the time.
    :param upload_seconds: How long a reservation lasts.
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
        """Make an asset that has no bytes yet.

        :param uploaded_via: How they will come.
        :param known: What the client said: ``name``, ``asked_type``, ``folder``, ``project_id``.
        """
        self._number += 1
        asset_id = f"{self._id_prefix}{self._number:06x}"
        asset = Asset(asset_id, self._number, int(self._clock.now()), uploaded_via, **known)
        self._assets[asset_id] = asset
        return asset

    def get(self, asset_id: str) -> Asset | None:
        """The asset of that id, if there is one."""
        return self._assets.get(asset_id)

    def ready(self, media_path: str) -> StoredFile | None:
        """The file that is served at that path below ``/media/``."""
        asset = self._assets.get(media_path.removeprefix("assets/").partition(".")[0])
        if asset is None or asset.media_path != media_path or asset.status_at(self._clock.now()) != "ready":
            return None
        return asset.file

    def all(self) -> list[Asset]:
        """Every asset, in the order in which they were made."""
        return list(self._assets.values())

    def reserve(self, asset: Asset) -> None:
        """Give a fresh leave to upload; what was there before is void.

        :param asset: What to upload.
        """
        self.keep(asset, None)
        asset.uploaded_via, asset.ready_at, asset.failure = "signed_url", math.inf, None
        expires_at = self._clock.now() + 1000 * self._upload_seconds
        fields = {"key": f"assets/{asset.asset_id}"}
        if asset.asked_type:
            fields["Content-Type"] = asset.asked_type
        conditions = [*({name: value} for name, value in fields.items()), {"nonce": secrets.token_hex(8)}]
        policy = json.dumps({"expiration": iso(expires_at), "conditions": conditions})
        fields["policy"] = base64.b64encode(policy.encode()).decode()
        fields["signature"] = hmac.new(self._signing_key, fields["policy"].encode(), hashlib.sha256).hexdigest()
        asset.reservation = Reservation(fields, expires_at)

    def keep(self, asset: Asset, file: StoredFile | None) -> None:
        """Put this file in the place of the one that the asset had.

        :param asset: Whose file it is.
        :param file: The file; ``None`` for none.
        """
        if asset.file is not None:
            asset.file.path.unlink(missing_ok=True)
        asset.file = file

    def new_path(self) -> Path:
        """Where the next file can be written."""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="flora-emulator-", ignore_cleanup_errors=True)
        return Path(self._folder.name, secrets.token_hex(8))

    def as_json(self) -> list[dict[str, Any]]:
        """The assets, as the books have them."""
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


def iso(moment: float) -> str:
    """That moment, in unix milliseconds, as ISO 8601 has it."""
    return (
        datetime.fromtimestamp(moment / 1000, timezone.utc)
        .isoformat(timespec="milliseconds")
        .replace("+00:00", "Z")
    )
