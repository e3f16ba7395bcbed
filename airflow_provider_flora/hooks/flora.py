"""FloraHook: makes a client from an Airflow connection. The client is in ``api``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow_provider_flora import metrics
from airflow_provider_flora.airflow_compat import AirflowNotFoundException, BaseHook
from airflow_provider_flora.api.errors import FloraError
from airflow_provider_flora.hooks.connection import missing_connection_error, rules_of, settings_of

if TYPE_CHECKING:
    from airflow_provider_flora.airflow_compat import Connection
    from airflow_provider_flora.api.aio import AsyncFloraClient
    from airflow_provider_flora.api.client import FloraClient
    from airflow_provider_flora.api.inputs import Inputs
    from airflow_provider_flora.api.models import FloraAsset, Run, Technique
    from airflow_provider_flora.api.settings import ClientSettings
    from airflow_provider_flora.task.rules import ConnectionRules


class FloraHook(BaseHook):
    """A hook for Flora, with an Airflow connection of type ``flora``.

    The connection's password is the API key, and its host the base URL; see :doc:`/connection`. The methods are
    those of :class:`~airflow_provider_flora.api.client.FloraClient`. :meth:`async_client` returns a client with
    async methods.

    :param flora_conn_id: id of the connection.
    """

    conn_name_attr = "flora_conn_id"
    default_conn_name = "flora_default"
    conn_type = "flora"
    hook_name = "Flora"

    def __init__(self, flora_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.flora_conn_id = flora_conn_id

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        """Return the form's custom fields for Airflow 2. Airflow 3 reads them from the provider's description."""
        from flask_appbuilder.fieldwidgets import BS3TextFieldWidget
        from flask_babel import lazy_gettext
        from wtforms import StringField

        from airflow_provider_flora.get_provider_info import CONNECTION_FIELDS

        return {
            name: StringField(
                lazy_gettext(label), widget=BS3TextFieldWidget(), description=lazy_gettext(description)
            )
            for name, (label, description, _) in CONNECTION_FIELDS.items()
        }

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """Return the behaviour of the form's standard fields for Airflow 2."""
        from airflow_provider_flora.get_provider_info import CONNECTION_FORM

        return {name.replace("-", "_"): value for name, value in CONNECTION_FORM.items()}

    def get_conn(self) -> FloraClient:
        """Return the hook's client, which has one keep-alive session."""
        return self._client

    @cached_property
    def _client(self) -> FloraClient:
        from airflow_provider_flora.api.client import FloraClient

        return FloraClient(self.settings, on_answer=metrics.request_counter(self.flora_conn_id))

    @cached_property
    def settings(self) -> ClientSettings:
        """The settings of the connection, read once.

        :raises FloraSettingsError: the connection does not exist or cannot be used.
        """
        return settings_of(self._connection, self.flora_conn_id)

    @cached_property
    def rules(self) -> ConnectionRules:
        """What the connection says about its use, read once.

        :raises FloraSettingsError: the connection does not exist, or its extra is invalid.
        """
        return rules_of(self._connection, self.flora_conn_id)

    @cached_property
    def _connection(self) -> Connection:
        try:
            return self.get_connection(self.flora_conn_id)
        except AirflowNotFoundException:
            raise missing_connection_error(self.flora_conn_id) from None

    @asynccontextmanager
    async def async_client(self) -> AsyncIterator[AsyncFloraClient]:
        """Open a client on the event loop: ``async with hook.async_client() as client``.

        The connection is read without blocking the loop.

        :raises FloraSettingsError: the connection does not exist or cannot be used.
        """
        from airflow_provider_flora.api.aio import AsyncFloraClient

        counter = metrics.request_counter(self.flora_conn_id)
        async with AsyncFloraClient(await self.async_settings(), counter) as client:
            yield client

    async def async_settings(self) -> ClientSettings:
        """Read the connection without blocking the event loop.

        :raises FloraSettingsError: the connection does not exist or cannot be used.
        """
        from airflow_provider_flora.airflow_compat import get_async_connection

        try:
            connection = await get_async_connection(self.flora_conn_id, hook=type(self))
        except AirflowNotFoundException:
            raise missing_connection_error(self.flora_conn_id) from None
        return settings_of(connection, self.flora_conn_id)

    def test_connection(self) -> tuple[bool, str]:
        """Return whether the connection works, and the key's workspace or the problem."""
        try:
            workspaces = self.get_conn().list_workspaces()
        except FloraError as error:
            return False, str(error)
        if not workspaces:
            return False, "Flora accepts the API key, but the key has no workspace."
        found = ", ".join(f"{workspace.name or 'unnamed'} ({workspace.workspace_id})" for workspace in workspaces)
        wanted = self.get_conn().settings.workspace_id
        if wanted and wanted not in {workspace.workspace_id for workspace in workspaces}:
            return False, f"The API key does not belong to the workspace_id {wanted!r}, but to: {found}."
        return True, f"The API key belongs to: {found}."

    def list_techniques(
        self, query: str | None = None, workspace_id: str | None = None, page_size: int = 100
    ) -> Iterator[Technique]:
        """Iterate lazily over the techniques that the key can access.

        :param query: text to find in names and descriptions.
        :param workspace_id: default: the connection's, if it has one.
        :param page_size: 1 to 100.
        """
        return self.get_conn().list_techniques(query, workspace_id, page_size)

    def get_technique(self, technique_id: str) -> Technique:
        """Return a technique, by id or slug, with its inputs, outputs and price."""
        return self.get_conn().get_technique(technique_id)

    def start_technique_run(
        self,
        technique_id: str,
        inputs: Inputs,
        mode: str = "async",
        callback_url: str | None = None,
        idempotency_key: str | None = None,
    ) -> Run:
        """Start a run. **This costs money**, and a run cannot be cancelled.

        :param inputs: ``{input_id: value}`` (one more request gets the types) or ``[{id, type, value}]``.
        :param mode: ``async``, or ``stream``, with which the call lasts as long as Flora streams.
        :param callback_url: public HTTPS URL that Flora calls once when the run ends.
        :param idempotency_key: default: a new key. If the answer is lost, the request is sent again with it.
        :raises FloraAPIError: with status 409 if the key was used before. The run is in the history then.
        :raises FloraLimitError: the connection's ``max_daily_cost`` would be exceeded, or cannot be checked.
        """
        if self.rules.max_daily_cost is not None:
            from airflow_provider_flora.runs.daily_cost import check_daily_cost

            technique = self.get_technique(technique_id)
            check_daily_cost(self.rules, self.get_conn(), self.flora_conn_id, technique, technique_id)
        return self.get_conn().start_technique_run(technique_id, inputs, mode, callback_url, idempotency_key)

    def get_technique_run(self, technique_id: str, run_id: str) -> Run:
        """Return a run in its current state."""
        return self.get_conn().get_technique_run(technique_id, run_id)

    def list_technique_runs(
        self,
        technique_id: str | None = None,
        status: str | None = None,
        workspace_id: str | None = None,
        project_id: str | None = None,
        page_size: int = 100,
    ) -> Iterator[Run]:
        """Iterate lazily over the run history, newest first.

        :param status: ``pending``, ``running``, ``completed`` or ``failed``.
        :param workspace_id: default: the connection's, if it has one.
        :param page_size: 1 to 100.
        """
        return self.get_conn().list_technique_runs(technique_id, status, workspace_id, project_id, page_size)

    def wait_for_technique_run(
        self, technique_id: str, run_id: str, poll_interval: float = 5.0, timeout: float = 3600.0
    ) -> Run:
        """Wait until a run has completed or failed, and return it.

        :param poll_interval: seconds between two polls.
        :param timeout: seconds after which the wait ends. The run goes on.
        :raises FloraRunTimeoutError: the run did not finish in time.
        """
        return self.get_conn().wait_for_technique_run(technique_id, run_id, poll_interval, timeout)

    def upload_asset(
        self,
        file: str,
        workspace_id: str | None = None,
        file_name: str | None = None,
        content_type: str | None = None,
        folder: str | None = None,
        project_id: str | None = None,
        conn_id: str | None = None,
    ) -> FloraAsset:
        """Upload a file, wait until its Flora asset is ready, and return it. Its ``url`` can be an input of a run.

        Each call makes a new asset. There is no async version, since this process reads the file.

        :param file: local path, URI of a storage (``s3://conn_id@bucket/key``), or public HTTPS URL, which Flora
            fetches.
        :param workspace_id: default: the connection's workspace, or the only one of the key.
        :param file_name: name of the asset. Default: the file's name.
        :param content_type: default: the content type of the file's extension.
        :param folder: folder in the workspace.
        :param project_id: project whose canvas shows the asset, too.
        :param conn_id: connection of the storage, if the URI names none.
        :raises FloraFileError: the file cannot be read, or Flora does not accept it.
        :raises FloraUploadError: the upload failed.
        """
        from airflow_provider_flora.files.uploads.record import UploadRecord
        from airflow_provider_flora.files.uploads.uploader import Place, Uploader, workspace_of

        client = self.get_conn()
        place = Place(workspace_of(client, workspace_id), file_name, content_type, folder, project_id)
        return Uploader(client, UploadRecord(None, self.log), self.log).upload_or_import(file, place, conn_id)[0]

    def get_asset(self, asset_id: str) -> FloraAsset:
        """Return a Flora asset in its current state."""
        return self.get_conn().get_asset(asset_id)

    def list_assets(
        self,
        query: str | None = None,
        workspace_id: str | None = None,
        project_id: str | None = None,
        page_size: int = 100,
    ) -> Iterator[FloraAsset]:
        """Iterate lazily over the Flora assets that the key can access.

        :param query: text to find.
        :param workspace_id: default: the connection's, if it has one.
        :param project_id: list only the assets on this project's canvas.
        :param page_size: 1 to 100.
        """
        return self.get_conn().list_assets(query, workspace_id, project_id, page_size)
