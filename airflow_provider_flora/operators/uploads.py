"""FloraUploadAssetOperator: a file becomes an asset at Flora.

How it gets there is in ``files.uploading``. Imports that cost time are made when a task runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperator

from airflow_provider_flora.runs.parameters import NOT_GIVEN, given

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context, ObjectStoragePath


class FloraUploadAssetOperator(BaseOperator):
    """Upload a file to Flora and hand its URL on, ready to be an input of a technique.

    A file of up to 4 MB goes in one request, a larger one to a place that Flora reserves for it, in pieces; a URL
    is fetched by Flora. The task ends when the asset is ready. An asset costs nothing. A retry takes the asset that
    an earlier try made of the same content, where Airflow has a task state store (3.3 and later).

    The return value is a dict with ``asset_id``, ``url``, ``status``, ``name``, ``content_type``, ``size_bytes``,
    ``width``, ``height``, ``workspace_id`` and ``sha256`` (``None`` for a URL). ``op.output["url"]`` and
    ``op.output["asset_id"]`` pass these to another task. See :doc:`/uploads`.

    :param file: a local path, the URI of any storage that Airflow's ``ObjectStoragePath`` reaches, such as
        ``s3://conn_id@bucket/key``, or a public HTTPS URL. (templated)
    :param workspace_id: default: the connection's, else the only one that the key opens. (templated)
    :param file_name: the asset's name. Default: the file's own. (templated)
    :param content_type: such as ``image/png``. Default: what the file's name tells. (templated)
    :param folder: where in the workspace. (templated)
    :param project_id: a project on whose canvas the asset is shown too. (templated)
    :param conn_id: connection of the storage, where the URI names none. (templated)
    :param flora_conn_id: the connection to Flora. (templated)
    :raises AirflowFailException: what no retry can mend: no such file, a type that Flora does not take, too large.
    :raises FloraUploadError: the file did not become an asset, and a retry may succeed.
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
        """Upload, unless an earlier try has done so, and wait until the asset is ready."""
        from airflow_provider_flora.api.errors import FloraParameterError
        from airflow_provider_flora.files.remembering import AssetMemory, seed_of
        from airflow_provider_flora.files.source import as_text
        from airflow_provider_flora.files.uploading import Place, Uploader, value_of, workspace_of
        from airflow_provider_flora.hooks.flora import FloraHook
        from airflow_provider_flora.runs.outcome import airflow_errors

        with airflow_errors(), FloraHook(self.flora_conn_id).get_conn() as client:
            file = as_text(self.file)
            if not isinstance(file, str) or file in NOT_GIVEN:
                raise FloraParameterError(f"file takes a path, a storage's URI or an https:// URL, not {file!r}.")
            place = Place(
                workspace_of(client, given(self.workspace_id)),
                given(self.file_name),
                given(self.content_type),
                given(self.folder),
                given(self.project_id),
            )
            memory = AssetMemory(context.get("task_state_store"), self.log)
            uploader = Uploader(client, memory, self.log, seed=seed_of(context))
            # What is behind a URL may have changed when a user clears the task: then Flora fetches it anew.
            cleared = str(context["ti"].max_tries)
            asset, sha256 = uploader.make(file, place, given(self.conn_id), since=cleared)
        value = value_of(asset, sha256)
        if self.do_xcom_push:
            for key in ("url", "asset_id"):
                context["ti"].xcom_push(key=key, value=value[key])
        return value
