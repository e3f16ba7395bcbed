"""Uploads a file as a Flora asset, whose URL is an input of a run.

    file                     upload
    =======================  ===========================================================================
    up to 4 MB               one multipart request
    larger                   reserve an upload, send the bytes, complete the upload
    a public https:// URL    Flora fetches it (up to 50 MB)

Then the asset is polled until it is ready. Flora does not charge for assets. Still, a retry of a task reuses the
asset of an earlier attempt, which it finds by the content's SHA-256:

    =================================  =================================================================
    state of that asset                action
    =================================  =================================================================
    ready                              use it
    pending, by signed upload          complete the upload; if Flora refuses, treat it as failed
    pending, otherwise                 wait for it
    failed                             reserve a new upload for it (/retry), send the bytes again
    not known to Flora                 upload the file again
    =================================  =================================================================

``source`` reads files, and ``sending`` sends their bytes to the upload host.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import tenacity

from airflow_provider_flora.api import calls, retries
from airflow_provider_flora.api.errors import (
    FloraAPIError,
    FloraFileError,
    FloraParameterError,
    FloraUploadError,
    Remedy,
    remedy_for_run,
)
from airflow_provider_flora.api.exchange import SmallFile
from airflow_provider_flora.api.file_types import (
    CONTENT_TYPES,
    DIRECT_LIMIT,
    TYPES_IN_WORDS,
    clean_content_type,
    name_in_url,
)
from airflow_provider_flora.api.inputs import names_a_file
from airflow_provider_flora.api.operations import SIGNED_UPLOAD
from airflow_provider_flora.files.storage import as_text
from airflow_provider_flora.files.uploads.sending import send
from airflow_provider_flora.files.uploads.source import SourceFile
from airflow_provider_flora.task.parameters import EMPTY

if TYPE_CHECKING:
    from airflow_provider_flora.api.client import FloraClient
    from airflow_provider_flora.api.models import FloraAsset
    from airflow_provider_flora.files.uploads.record import UploadRecord
    from airflow_provider_flora.task.log import Log

POLL_INTERVAL = 1.0
"""Seconds between two polls of a Flora asset that is not ready yet."""
READY_WITHIN = 300.0
"""Timeout in seconds of the wait for a Flora asset. The next attempt resumes the wait."""
RENEWALS = 2
"""Number of new reservations for a file whose upload failed or expired."""
_USED_KEY = ("idempotency_duplicate", "idempotency_conflict")


@dataclass(frozen=True)
class Place:
    """The workspace, name and folder of a Flora asset.

    :raises FloraParameterError: an id is invalid. Flora would answer with an opaque 500.
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


def location_of(file: Any) -> str:
    """Return what a task is to upload, as text.

    :raises FloraParameterError: it is no path, URI or URL.
    """
    location = as_text(file)
    if not isinstance(location, str) or location in EMPTY:
        raise FloraParameterError(f"file takes a path, a storage's URI or an https:// URL, not {location!r}.")
    return location


def check_url(url: str, content_type: str | None, on_own_origin: Callable[[str], bool]) -> None:
    """Check that Flora fetches a URL.

    :raises FloraFileError: Flora does not accept the URL or its content type.
    """
    if not url.lower().startswith("https:") and not on_own_origin(url):
        raise FloraFileError(f"Flora only fetches https:// URLs, not {url!r}. Download it and upload the file.")
    if content_type and clean_content_type(content_type) not in CONTENT_TYPES:
        raise FloraFileError(
            f"{url!r} has the content_type {clean_content_type(content_type)!r}. Flora accepts {TYPES_IN_WORDS}."
        )


class Uploader:
    """An uploader of files as Flora assets.

    :param client: client for the requests.
    :param record: record of earlier uploads.
    :param log: the task's log.
    :param seed: text that is unique to this execution, for idempotency keys. Without it, each upload has a new key.
    """

    def __init__(self, client: FloraClient, record: UploadRecord, log: Log, *, seed: str | None = None) -> None:
        self._client = client
        self._record = record
        self._log = log
        self._seed = seed

    def upload_or_import(
        self, file: str, place: Place, conn_id: str | None = None, *, since: str = ""
    ) -> tuple[FloraAsset, str | None]:
        """Upload a path or a storage's URI, or import a public URL. Return the asset and the SHA-256 of the file.

        See :meth:`upload` and :meth:`import_url` for parameters. A URL has no SHA-256.
        """
        if not names_a_file(file, None):
            return self.import_url(file, place, since=since), None
        source = SourceFile(file, conn_id)
        return self.upload(source, place), source.sha256

    def upload(self, file: SourceFile, place: Place, *, by_name: bool = True) -> FloraAsset:
        """Upload a file, or find its asset of an earlier attempt. Return the asset.

        :param by_name: whether the same content under another name is another asset.
        :raises FloraFileError: the file cannot be read, or Flora does not accept it.
        :raises FloraUploadError: the upload failed.
        :raises FloraError: Flora answered with an error.
        """
        place = replace(place, content_type=file.check(place.content_type), file_name=place.file_name or file.name)
        identity_of = place if by_name else replace(place, file_name=None)
        upload = _Upload(file, place, lambda: _identity(file.sha256, identity_of))
        content = file.read_content() if file.size <= DIRECT_LIMIT else None
        if content is None and self._record:
            file.compute_digest()
        asset_id = self._record.find(upload.identity()) if file.sha256 else None
        asset = self._resume(asset_id, upload) if asset_id else None
        if asset is not None:
            self._log.info("Using %s of an earlier upload of %s", asset.asset_id, file.location)
            return asset
        self._log.info("Uploading %s, %d bytes", file.location, file.size)
        asset = self._reserve_and_upload(upload) if content is None else self._upload_directly(upload, content)
        self._log.info("Uploaded %s as %s", file.location, asset.asset_id)
        return asset

    def import_url(self, url: str, place: Place, *, since: str) -> FloraAsset:
        """Import a public URL, which Flora fetches. Return the asset.

        :param since: text that changes when the content of the URL may have changed.
        :raises FloraFileError: Flora does not accept the URL or its content type.
        :raises FloraUploadError: the import failed.
        """
        check_url(url, place.content_type, self._client.settings.on_own_origin)
        if place.content_type:
            place = replace(place, content_type=clean_content_type(place.content_type))
        place = replace(place, file_name=place.file_name or name_in_url(url))
        identity = _identity(f"{url} {since}", place)
        earlier = self._get_if_known(self._record.find(identity))
        if earlier is not None and not earlier.failed:
            return earlier if earlier.ready else self._wait_until_ready(earlier.asset_id)
        asset = self._create(url, url, place, self._key(identity))
        self._record.add(identity, asset.asset_id, url, None)
        return self._wait_until_ready(asset.asset_id)

    def find_uploaded(self, sha256: str, place: Place) -> FloraAsset | None:
        """Return the asset of an earlier upload of a content, if it is ready."""
        asset = self._get_if_known(self._record.find(_identity(sha256, place)))
        return asset if asset is not None and asset.ready else None

    def _upload_directly(self, upload: _Upload, content: bytes) -> FloraAsset:
        place = upload.place
        file = SmallFile(str(place.file_name), str(place.content_type), content)
        asset = self._create(upload.file.location, file, place, self._key(upload.identity()))
        self._record_upload(upload, asset)
        try:
            return self._wait_until_ready(asset.asset_id)
        except FloraUploadError as error:
            if not error.spent:
                raise
            return self._upload_signed(upload, self._reserve_again(asset.asset_id))

    def _reserve_and_upload(self, upload: _Upload) -> FloraAsset:
        # The key identifies the content, which is unknown before the file is read.
        key = self._key(upload.identity()) if upload.file.sha256 else None
        reservation = self._create(upload.file.location, SIGNED_UPLOAD, upload.place, key)
        if reservation.replayed:  # of an earlier attempt, which may have sent the bytes
            return self._resume(reservation.asset_id, upload) or self._upload_signed(upload, None)
        return self._upload_signed(upload, reservation)

    def _upload_signed(self, upload: _Upload, reservation: FloraAsset | None) -> FloraAsset:
        """Send the bytes and complete the upload. Retry transient errors; renew expired or failed reservations.

        :param reservation: reservation for the first attempt; ``None`` to make one with a new key.
        """
        place, settings, renewals = upload.place, self._client.settings, RENEWALS
        again = "Uploading %s again: %s"
        resends = iter([False] * settings.max_retries)  # of all reservations together
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(lambda e: isinstance(e, FloraUploadError) and e.transient),
            stop=lambda _: next(resends, True),
            wait=lambda state: retries.backoff(retries.FIRST_BACKOFF, state.attempt_number),
            before_sleep=retries.log_retries(self._log.warning, again, upload.file.location),
            reraise=True,
        )
        while True:
            reservation = reservation or self._create(upload.file.location, SIGNED_UPLOAD, place, None)
            try:
                retrying(send, reservation, upload.file, str(place.file_name), str(place.content_type), settings)
                self._record_upload(upload, reservation)
                return self._complete(reservation.asset_id)
            except FloraUploadError as error:
                if not error.spent or not renewals:
                    raise
                renewals -= 1
                reservation = self._reserve_again(reservation.asset_id)
                self._log.warning(again, upload.file.location, error)

    def _resume(self, asset_id: str, upload: _Upload) -> FloraAsset | None:
        """Complete the asset of an earlier attempt, as in the table at the top of this file."""
        asset = self._get_if_known(asset_id)
        if asset is None or asset.ready:
            return asset
        try:
            if asset.failed:
                raise self._asset_error(asset)
            resume = self._complete if asset.uploaded_via == "signed_url" else self._wait_until_ready
            return resume(asset_id)
        except FloraUploadError as error:
            if not error.spent:
                raise
            return self._upload_signed(upload, self._reserve_again(asset_id))

    def _get_if_known(self, asset_id: str | None) -> FloraAsset | None:
        """Return the asset of an earlier attempt, if Flora still has it."""
        try:
            return None if asset_id is None else self._client.get_asset(asset_id)
        except FloraAPIError as error:
            if error.status != 404:
                raise
            return None

    def _create(self, file: str, source: str | SmallFile, place: Place, key: str | None) -> FloraAsset:
        """Create an asset. If the key was used before, use a new one, since Flora does not name the key's asset.

        :param file: file, as the user named it.
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
            if error.status == 400:  # Flora's error does not name the file
                raise FloraUploadError(f"Flora refused {file!r}: {error}", remedy=Remedy.CHANGE_INPUT) from error
            if error.code not in _USED_KEY and error.status != 409:
                raise
        return self._client.create_asset(place.workspace_id, source, **details)

    def _complete(self, asset_id: str) -> FloraAsset:
        try:
            self._client.complete_asset(asset_id)
        except FloraAPIError as error:
            if error.transient or error.status in (401, 402, 403):
                raise
            if error.code not in _USED_KEY:  # a used key: the upload was completed, and the answer was lost
                raise FloraUploadError(str(error), spent=True) from error
        return self._wait_until_ready(asset_id)

    def _reserve_again(self, asset_id: str) -> FloraAsset | None:
        """Reserve a new upload for an asset. Return ``None`` if Flora refuses, and a new asset is needed."""
        try:
            asset = self._client.retry_asset(asset_id)
        except FloraAPIError as error:
            if error.transient:
                raise
            return None
        return asset if asset.upload or asset.upload_url else None

    def _wait_until_ready(self, asset_id: str) -> FloraAsset:
        """Poll an asset until it is ready.

        :raises FloraUploadError: the asset failed, or is not ready in time.
        """
        asset = self._client.drive(calls.wait_for_asset(asset_id, POLL_INTERVAL, READY_WITHIN))
        if asset is None:
            raise FloraUploadError(
                f"{asset_id} was uploaded, but Flora has not processed it after {READY_WITHIN:g} s. A retry "
                "waits for it again."
            )
        if asset.failed:
            raise self._asset_error(asset)
        return asset

    def _asset_error(self, asset: FloraAsset) -> FloraUploadError:
        why = asset.failure_message or "Flora named no reason"
        return FloraUploadError(
            f"Flora could not process {asset.name!r} ({asset.asset_id}): {why}",
            spent=True,
            remedy=remedy_for_run(None, asset.failure_message),
        )

    def _record_upload(self, upload: _Upload, asset: FloraAsset) -> None:
        self._record.add(upload.identity(), asset.asset_id, upload.file.location, upload.file.sha256)

    def _key(self, identity: str) -> str | None:
        """Return the idempotency key of an asset, the same in all attempts of the task."""
        return f"airflow-{_digest([self._seed, identity])[:40]}" if self._seed else None


@dataclass(frozen=True)
class _Upload:
    """An upload of a file.

    :param identity: returns the identity of the asset. The file must have been read.
    """

    file: SourceFile
    place: Place
    identity: Callable[[], str]


def workspace_of(client: FloraClient, workspace_id: str | None = None) -> str:
    """Return the workspace of an upload: the parameter's, the connection's, or the only one of the key.

    :raises FloraParameterError: the key has no workspace, or several.
    """
    wanted = workspace_id or client.settings.workspace_id
    if wanted:
        return wanted
    workspaces = client.list_workspaces()
    if len(workspaces) == 1:
        return workspaces[0].workspace_id
    found = ", ".join(workspace.workspace_id for workspace in workspaces) or "none"
    raise FloraParameterError(
        f"An upload needs one workspace, but the API key has {found}. Set workspace_id, here or in the connection."
    )


def value_of(asset: FloraAsset, sha256: str | None) -> dict[str, Any]:
    """Return a Flora asset as a plain dict for XCom."""
    names = ("asset_id", "url", "status", "name", "content_type", "size_bytes", "width", "height", "workspace_id")
    return {**{name: getattr(asset, name) for name in names}, "sha256": sha256}


def _identity(content: str | None, place: Place) -> str:
    parts = [place.workspace_id, place.file_name, place.content_type, place.folder, place.project_id]
    return _digest([content, *parts])


def _digest(parts: list[str | None]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
