"""FloraUploadAssetOperator: uploads a file as a Flora asset.

``files.uploads`` performs the upload. Slow imports are made when a task runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow_provider_flora.airflow_compat import BaseOperator
from airflow_provider_flora.lineage.telling import TellsLineage
from airflow_provider_flora.task.parameters import none_if_empty

if TYPE_CHECKING:
    from airflow_provider_flora.airflow_compat import Context, ObjectStoragePath


class FloraUploadAssetOperator(TellsLineage, BaseOperator):
    """Upload a file to Flora and return its URL, for an input of a technique.

    A file of up to 4 MB is sent in one request, a larger one in chunks to an upload host. Flora fetches a URL
    itself. The task ends when the Flora asset is ready. Flora does not charge for assets. With a task state store
    (Airflow 3.3 and later), a retry reuses the asset of an earlier attempt with the same content.

    The return value is a dict with ``asset_id``, ``url``, ``status``, ``name``, ``content_type``, ``size_bytes``,
    ``width``, ``height``, ``workspace_id`` and ``sha256`` (``None`` for a URL). ``op.output["url"]`` and
    ``op.output["asset_id"]`` pass these to another task. See :doc:`/uploads`.

    :param file: local path, URI of any storage of Airflow's ``ObjectStoragePath``, such as
        ``s3://conn_id@bucket/key``, or public HTTPS URL. (templated)
    :param workspace_id: default: the connection's workspace, or the only one of the key. (templated)
    :param file_name: name of the asset. Default: the file's name. (templated)
    :param content_type: such as ``image/png``. Default: the content type of the file's extension. (templated)
    :param folder: folder in the workspace. (templated)
    :param project_id: project whose canvas shows the asset, too. (templated)
    :param conn_id: connection of the storage, if the URI names none. (templated)
    :param flora_conn_id: the connection to Flora. (templated)
    :raises AirflowFailException: an error that a retry cannot fix: a missing, unsupported or too large file.
    :raises FloraUploadError: the upload failed, and a retry may succeed.
    """

    template_fields: Sequence[str] = (
        "file",
        "workspace_id",
        "file_name",
        "content_type",
        "folder",
        "project_id",
        "conn_id",
        "flora_conn_id",
    )
    ui_color = "#e8f0e4"
    lineage_mode = "upload"

    def __init__(
        self,
        *,
        file: str | ObjectStoragePath,
        workspace_id: str | None = None,
        file_name: str | None = None,
        content_type: str | None = None,
        folder: str | None = None,
        project_id: str | None = None,
        conn_id: str | None = None,
        flora_conn_id: str = "flora_default",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.file = file
        self.workspace_id = workspace_id
        self.file_name = file_name
        self.content_type = content_type
        self.folder = folder
        self.project_id = project_id
        self.conn_id = conn_id
        self.flora_conn_id = flora_conn_id

    def execute(self, context: Context) -> dict[str, Any]:
        """Upload the file unless an earlier attempt has, wait until the asset is ready, and return its value."""
        from airflow_provider_flora.files.uploads.record import UploadRecord
        from airflow_provider_flora.files.uploads.uploader import (
            Place,
            Uploader,
            location_of,
            value_of,
            workspace_of,
        )
        from airflow_provider_flora.hooks.flora import FloraHook
        from airflow_provider_flora.runs.outcome import airflow_errors, outcome_of
        from airflow_provider_flora.task.attempt import execution_id
        from airflow_provider_flora.task.state import store_of

        with airflow_errors(context), FloraHook(self.flora_conn_id).get_conn() as client:
            file = location_of(self.file)
            place = Place(
                workspace_of(client, none_if_empty(self.workspace_id)),
                none_if_empty(self.file_name),
                none_if_empty(self.content_type),
                none_if_empty(self.folder),
                none_if_empty(self.project_id),
            )
            record = UploadRecord(store_of(context), self.log)
            uploader = Uploader(client, record, self.log, seed=execution_id(context))
            # The content of a URL may have changed when a user clears the task. Then Flora fetches it again.
            cleared = str(context["ti"].max_tries)
            asset, sha256 = uploader.upload_or_import(file, place, none_if_empty(self.conn_id), since=cleared)
        value = value_of(asset, sha256)
        outcome = outcome_of(self)
        outcome.value, outcome.place = value, client.settings.base_url
        if self.do_xcom_push:
            for key in ("url", "asset_id"):
                context["ti"].xcom_push(key=key, value=value[key])
        return value
