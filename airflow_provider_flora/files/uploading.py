"""A file becomes an asset at Flora, whose URL a run can be given.

    the file                 how it gets there
    =======================  ===========================================================================
    up to 4 MB               in one multipart request
    larger                   a place is reserved, the bytes are sent to it, the upload is completed
    a public https:// URL    Flora fetches it (up to 50 MB)

Then Flora is asked until the asset is ready. An asset costs nothing, so that a second one does no harm; still a
retry of a task looks first for the one that an earlier try made, by the content's SHA-256:

    =================================  =================================================================
    that asset is                      what is done
    =================================  =================================================================
    ready                              it is taken
    pending, by signed upload          completed; where Flora refuses that, as if it had failed
    pending, otherwise                 waited for
    failed                             a new place is reserved for it (/retry), the bytes are sent again
    not known to Flora                 the file is uploaded anew
    =================================  =================================================================

Not for reading files, which is ``source``, nor for sending bytes to the reserved place, which is ``sending``.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from airflow_provider_flora.api import protocol
from airflow_provider_flora.api.assets import (
    CONTENT_TYPES,
    DIRECT_LIMIT,
    TYPES_IN_WORDS,
    clean_content_type,
    name_in_url,
)
from airflow_provider_flora.api.errors import (
    FloraAPIError,
    FloraError,
    FloraFileError,
    FloraParameterError,
    FloraUploadError,
    Remedy,
    remedy_for_run,
)
from airflow_provider_flora.api.inputs import names_a_file
from airflow_provider_flora.api.protocol import SIGNED_UPLOAD, SmallFile
from airflow_provider_flora.files.sending import send
from airflow_provider_flora.files.source import SourceFile

if TYPE_CHECKING:
    from airflow_provider_flora.api.client import FloraClient
    from airflow_provider_flora.api.models import Asset
    from airflow_provider_flora.files.remembering import AssetMemory
    from airflow_provider_flora.runs.starting import Log

POLL_INTERVAL = 1.0
"""Seconds between two looks at an asset that is not ready yet."""
READY_WITHIN = 300.0
"""Seconds after which an asset is no longer waited for. The next try takes it up."""
RENEWALS = 2
"""How often a new place is reserved for a file whose upload failed or expired."""
_USED_KEY = ("idempotency_duplicate", "idempotency_conflict")


@dataclass(frozen=True)
class Place:
    """Where at Flora an asset goes, and under which name.

    :raises FloraParameterError: an id is none. Flora's answer to such a project is an opaque 500.
    """

    workspace_id: str
    file_name: str | None = None
    content_type: str | None = None
    folder: str | None = None
    project_id: str | None = None

    def __post_init__(self) -> None:
        for name, prefix in (("workspace_id", "ws_"), ("project_id", "prj_")):  # (SDK)
            value = getattr(self, name)
            if value is not None and not value.startswith(prefix):
                raise FloraParameterError(f"{name} takes an id that begins with {prefix}, not {value!r}.")


class Uploader:
    """Makes assets of files.

    :param seed: what tells this task instance from all others; without it, from nothing: each upload is new.
    :param sleep: waits for seconds.
    """

    def __init__(
        self,
        client: FloraClient,
        memory: AssetMemory,
        log: Log,
        *,
        seed: str | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._client = client
        self._memory = memory
        self._log = log
        self._seed = seed
        self._sleep = sleep

    def make(
        self, file: str, place: Place, conn_id: str | None = None, *, since: str = ""
    ) -> tuple[Asset, str | None]:
        """Return the asset of a path, a storage's URI or a public URL, and the SHA-256 of what was read here.

        The parameters are those of :meth:`upload` and :meth:`fetch`.
        """
        if not names_a_file(file, None):
            return self.fetch(file, place, since=since), None
        source = SourceFile(file, conn_id)
        return self.upload(source, place), source.sha256

    def upload(self, file: SourceFile, place: Place, *, under_its_name: bool = True) -> Asset:
        """Return the asset of a file: a new one, or that of an earlier try.

        :param under_its_name: the same content under another name is another asset.
        :raises FloraFileError: the file cannot be read, or Flora would not take it.
        :raises FloraUploadError: it did not become an asset.
        :raises FloraError: what Flora said.
        """
        place = replace(place, content_type=file.check(place.content_type), file_name=place.file_name or file.name)
        identity_of = place if under_its_name else replace(place, file_name=None)
        upload = _Upload(file, place, lambda: _identity(file.sha256, identity_of))
        content = file.content() if file.size <= DIRECT_LIMIT else None
        if content is None and self._memory:
            file.digest()
        asset_id = self._memory.find(upload.identity()) if file.sha256 else None
        asset = self._take_up(asset_id, upload) if asset_id else None
        if asset is not None:
            self._log.info("%s is %s of an earlier upload", file.given, asset.asset_id)
            return asset
        self._log.info("Uploading %s, %d bytes", file.given, file.size)
        asset = self._reserved(upload) if content is None else self._direct(upload, content)
        self._log.info("%s is %s", file.given, asset.asset_id)
        return asset

    def fetch(self, url: str, place: Place, *, since: str) -> Asset:
        """Return the asset of a public URL, which Flora fetches.

        :param since: what is behind the URL is taken to be the same for as long as this is.
        """
        if not url.lower().startswith("https:") and not self._client.settings.on_own_origin(url):
            raise FloraFileError(f"Flora fetches https:// URLs only, not {url!r}: fetch it and upload the file.")
        if place.content_type:
            place = replace(place, content_type=clean_content_type(place.content_type))
            if place.content_type not in CONTENT_TYPES:
                raise FloraFileError(f"{url!r} is said to be {place.content_type!r}. Flora takes {TYPES_IN_WORDS}.")
        place = replace(place, file_name=place.file_name or name_in_url(url))
        identity = _identity(f"{url} {since}", place)
        earlier = self._known(self._memory.find(identity))
        if earlier is not None and not earlier.failed:
            return earlier if earlier.ready else self._ready(earlier.asset_id)
        asset = self._create(url, url, place, self._key(identity))
        self._memory.keep(identity, asset.asset_id, url, None)
        return self._ready(asset.asset_id)

    def remembered(self, sha256: str, place: Place) -> Asset | None:
        """Return the asset of content that can no longer be read here, if it is ready."""
        asset = self._known(self._memory.find(_identity(sha256, place)))
        return asset if asset is not None and asset.ready else None

    # --- the ways in ----------------------------------------------------------------------------------------

    def _direct(self, upload: _Upload, content: bytes) -> Asset:
        place = upload.place
        file = SmallFile(str(place.file_name), str(place.content_type), content)
        asset = self._create(upload.file.given, file, place, self._key(upload.identity()))
        self._keep(upload, asset)
        try:
            return self._ready(asset.asset_id)
        except FloraUploadError as error:
            if not error.spent:
                raise
            return self._signed(upload, self._renewed(asset.asset_id))

    def _reserved(self, upload: _Upload) -> Asset:
        # Of a file that has not been read yet nothing is known that would tell another content apart.
        key = self._key(upload.identity()) if upload.file.sha256 else None
        reservation = self._create(upload.file.given, SIGNED_UPLOAD, upload.place, key)
        if reservation.replayed:  # an earlier try's, which may have come further than its reservation
            return self._take_up(reservation.asset_id, upload) or self._signed(upload, None)
        return self._signed(upload, reservation)

    def _signed(self, upload: _Upload, reservation: Asset | None) -> Asset:
        """Send and complete; what breaks on the way is sent again, what expires or fails is reserved anew.

        :param reservation: ``None`` to reserve under a new key: under one that was used it would be the old one.
        """
        place, settings = upload.place, self._client.settings
        resends, renewals = settings.max_retries, RENEWALS
        while True:
            reservation = reservation or self._create(upload.file.given, SIGNED_UPLOAD, place, None)
            try:
                send(reservation, upload.file, str(place.file_name), str(place.content_type), settings)
                self._keep(upload, reservation)
                return self._completed(reservation.asset_id)
            except FloraUploadError as error:
                if error.transient and resends > 0:
                    self._sleep(protocol.backoff(protocol.FIRST_BACKOFF, settings.max_retries - resends + 1))
                    resends -= 1
                elif error.spent and renewals > 0:
                    renewals -= 1
                    reservation = self._renewed(reservation.asset_id)
                else:
                    raise
                self._log.warning("Uploading %s again: %s", upload.file.given, error)

    def _take_up(self, asset_id: str, upload: _Upload) -> Asset | None:
        """Bring the asset of an earlier try to its end, as the table at the top says."""
        asset = self._known(asset_id)
        if asset is None or asset.ready:
            return asset
        try:
            if asset.failed:
                raise self._failure(asset)
            return self._completed(asset_id) if asset.uploaded_via == "signed_url" else self._ready(asset_id)
        except FloraUploadError as error:
            if not error.spent:
                raise
            return self._signed(upload, self._renewed(asset_id))

    def _known(self, asset_id: str | None) -> Asset | None:
        """Return an asset of an earlier try, if Flora knows it still."""
        try:
            return None if asset_id is None else self._client.get_asset(asset_id)
        except FloraAPIError as error:
            if error.status != 404:
                raise
            return None

    # --- the steps ------------------------------------------------------------------------------------------

    def _create(self, given: str, source: str | SmallFile, place: Place, key: str | None) -> Asset:
        """Make an asset. Under a key that was used before Flora does not say for what: then under a new one.

        :param given: the file as the user named it.
        """
        details = {
            "file_name": place.file_name,
            "content_type": place.content_type,
            "folder": place.folder,
            "project_id": place.project_id,
        }
        try:
            return self._client.create_asset(place.workspace_id, source, **details, idempotency_key=key)
        except FloraAPIError as error:
            if error.status == 400:  # it tells the field, not the file
                raise FloraUploadError(
                    f"Flora makes no asset of {given!r}: {error}", remedy=Remedy.CHANGE_INPUT
                ) from error
            if error.code not in _USED_KEY and error.status != 409:
                raise
        return self._client.create_asset(place.workspace_id, source, **details)

    def _completed(self, asset_id: str) -> Asset:
        try:
            self._client.complete_asset(asset_id)
        except FloraAPIError as error:
            if error.transient or error.status in (401, 402, 403):
                raise
            if error.code not in _USED_KEY:  # else it was completed, and the answer was lost
                raise FloraUploadError(str(error), spent=True) from error
        return self._ready(asset_id)

    def _renewed(self, asset_id: str) -> Asset | None:
        """Reserve a new place for an asset; ``None`` where Flora does not: then a new asset is made."""
        try:
            asset = self._client.retry_asset(asset_id)
        except FloraAPIError as error:
            if error.transient:
                raise
            return None
        return asset if asset.upload or asset.upload_url else None

    def _ready(self, asset_id: str) -> Asset:
        """Wait until an asset is ready.

        :raises FloraUploadError: it failed, or takes too long.
        """
        request = protocol.get_asset(asset_id)
        began, errors = time.monotonic(), 0
        while True:
            waited = time.monotonic() - began
            pause = POLL_INTERVAL
            try:
                asset = self._client.ask(request, protocol.read_asset)
            except FloraError as error:
                errors += 1
                just_made = isinstance(error, FloraAPIError) and error.status == 404
                if not error.transient and not (just_made and waited < protocol.NOT_FOUND_GRACE):
                    raise
                pause = max(getattr(error, "retry_after", None) or 0, protocol.backoff(POLL_INTERVAL, errors))
            else:
                if asset.ready and asset.url:
                    return asset
                if asset.failed:
                    raise self._failure(asset)
            if waited + pause > READY_WITHIN:
                raise FloraUploadError(
                    f"{asset_id} was uploaded, but is not ready after {READY_WITHIN:g} s. Flora goes on with it, "
                    "and a retry of the task looks at it again."
                )
            self._sleep(pause)

    def _failure(self, asset: Asset) -> FloraUploadError:
        why = asset.failure_message or "Flora does not say why"
        return FloraUploadError(
            f"Flora could not make an asset of {asset.name!r} ({asset.asset_id}): {why}",
            spent=True,
            remedy=remedy_for_run(None, asset.failure_message),
        )

    def _keep(self, upload: _Upload, asset: Asset) -> None:
        self._memory.keep(upload.identity(), asset.asset_id, upload.file.given, upload.file.sha256)

    def _key(self, identity: str) -> str | None:
        """Return the key under which each try of a task makes this asset; once used, it is not used again."""
        return f"airflow-{_digest([self._seed, identity])[:40]}" if self._seed else None


@dataclass(frozen=True)
class _Upload:
    """A file on its way.

    :param identity: tells its asset from others, once its content is known.
    """

    file: SourceFile
    place: Place
    identity: Callable[[], str]


def workspace_of(client: FloraClient, workspace_id: str | None = None) -> str:
    """Return the workspace to upload into: as given, the connection's, or the only one that the key opens.

    :raises FloraParameterError: the key opens none, or several.
    """
    wanted = workspace_id or client.settings.workspace_id
    if wanted:
        return wanted
    workspaces = client.list_workspaces()
    if len(workspaces) == 1:
        return workspaces[0].workspace_id
    opened = ", ".join(workspace.workspace_id for workspace in workspaces) or "none"
    raise FloraParameterError(
        f"An asset needs a workspace, and the key opens {opened}: set workspace_id, or the connection's."
    )


def value_of(asset: Asset, sha256: str | None) -> dict[str, Any]:
    """Return an asset as a plain dict, fit for XCom."""
    names = ("asset_id", "url", "status", "name", "content_type", "size_bytes", "width", "height", "workspace_id")
    return {**{name: getattr(asset, name) for name in names}, "sha256": sha256}


def _identity(content: str | None, place: Place) -> str:
    parts = [place.workspace_id, place.file_name, place.content_type, place.folder, place.project_id]
    return _digest([content, *parts])


def _digest(parts: list[str | None]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
