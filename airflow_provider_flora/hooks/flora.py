"""FloraHook: an Airflow connection becomes a client. What the client then does is in ``api``."""

from __future__ import annotations

import json
import math
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowNotFoundException, BaseHook

from airflow_provider_flora.api.errors import FloraError, FloraSettingsError
from airflow_provider_flora.api.settings import DEFAULT_BASE_URL, ClientSettings, is_loopback

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Connection

    from airflow_provider_flora.api.aio import AsyncFloraClient
    from airflow_provider_flora.api.client import FloraClient
    from airflow_provider_flora.api.inputs import Inputs
    from airflow_provider_flora.api.models import Asset, Run, Technique


class FloraHook(BaseHook):
    """Talks to Flora with the settings of an Airflow connection of type ``flora``.

    The connection's password is the API key and its host the base URL; see :doc:`/connection`. The methods are
    those of :class:`~airflow_provider_flora.api.client.FloraClient`; each has an async twin on the client that
    :meth:`async_client` gives.

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
        """Return the form's own fields for Airflow 2; Airflow 3 reads them from the provider's description."""
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
        """Return how the form's standard fields look, for Airflow 2."""
        from airflow_provider_flora.get_provider_info import CONNECTION_FORM

        return {name.replace("-", "_"): value for name, value in CONNECTION_FORM.items()}

    def get_conn(self) -> FloraClient:
        """Return the client, with one keep-alive session for as long as the hook lives."""
        return self._client

    @cached_property
    def _client(self) -> FloraClient:
        from airflow_provider_flora.api.client import FloraClient

        return FloraClient(self.settings)

    @cached_property
    def settings(self) -> ClientSettings:
        """What the connection says, read once for as long as the hook lives.

        :raises FloraSettingsError: there is no such connection, or it cannot be used.
        """
        try:
            connection = self.get_connection(self.flora_conn_id)
        except AirflowNotFoundException as error:
            raise _missing(self.flora_conn_id) from error
        return settings_of(connection, self.flora_conn_id)

    @asynccontextmanager
    async def async_client(self) -> AsyncIterator[AsyncFloraClient]:
        """Give a client on the event loop: ``async with hook.async_client() as client``.

        The connection is read without holding up the loop.
        """
        from airflow_provider_flora.api.aio import AsyncFloraClient

        async with AsyncFloraClient(await self.async_settings()) as client:
            yield client

    async def async_settings(self) -> ClientSettings:
        """Read the connection without holding up the event loop."""
        from airflow.providers.common.compat.connection import get_async_connection

        try:
            connection = await get_async_connection(self.flora_conn_id, hook=type(self))
        except AirflowNotFoundException as error:
            raise _missing(self.flora_conn_id) from error
        return settings_of(connection, self.flora_conn_id)

    def test_connection(self) -> tuple[bool, str]:
        """Tell which workspace the key opens, or what is wrong."""
        try:
            workspaces = self.get_conn().list_workspaces()
        except FloraError as error:
            return False, str(error)
        if not workspaces:
            return False, "Flora accepts the key, but it opens no workspace."
        opened = ", ".join(f"{workspace.name or 'unnamed'} ({workspace.workspace_id})" for workspace in workspaces)
        wanted = self.get_conn().settings.workspace_id
        if wanted and wanted not in {workspace.workspace_id for workspace in workspaces}:
            return False, f"The key does not open the connection's workspace_id {wanted!r}; it opens: {opened}."
        return True, f"The key opens: {opened}."

    def list_techniques(
        self, query: str | None = None, workspace_id: str | None = None, page_size: int = 100
    ) -> Iterator[Technique]:
        """Iterate lazily over the techniques that the key can see.

        :param query: searches names and descriptions.
        :param workspace_id: default: the connection's, if it has one.
        :param page_size: 1 to 100.
        """
        return self.get_conn().list_techniques(query, workspace_id, page_size)

    def get_technique(self, technique_id: str) -> Technique:
        """Return a technique by its id or slug: what it takes, gives and costs."""
        return self.get_conn().get_technique(technique_id)

    def start_technique_run(
        self,
        technique_id: str,
        inputs: Inputs,
        mode: str = "async",
        callback_url: str | None = None,
        idempotency_key: str | None = None,
    ) -> Run:
        """Start a run. **This spends money**, and nothing can cancel it.

        :param inputs: ``{input_id: value}`` (one more request looks the types up) or ``[{id, type, value}]``.
        :param mode: ``async``, or ``stream``: the call then lasts as long as Flora streams.
        :param callback_url: public HTTPS URL that Flora calls once when the run ends.
        :param idempotency_key: default: a new one. After a lost answer the request is sent again with it.
        :raises FloraAPIError: with status 409 if the key was used before; the run is then in the history.
        """
        return self.get_conn().start_technique_run(technique_id, inputs, mode, callback_url, idempotency_key)

    def get_technique_run(self, technique_id: str, run_id: str) -> Run:
        """Return a run as it stands."""
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
        """Wait until a run has finished, well or badly, and return it.

        :param poll_interval: seconds between two looks.
        :param timeout: seconds after which the wait ends; the run goes on.
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
    ) -> Asset:
        """Upload a file and return its asset once that is ready: its ``url`` can be an input of a run.

        Without a task there is nothing that remembers it: each call makes an asset. The file is read in this
        process, so that there is no async twin.

        :param file: a local path, the URI of a storage (``s3://conn_id@bucket/key``), or a public HTTPS URL, which
            Flora fetches.
        :param workspace_id: default: the connection's, else the only one that the key opens.
        :param file_name: default: the file's own.
        :param content_type: default: what the name tells.
        :param folder: where in the workspace.
        :param project_id: a project on whose canvas it is shown too.
        :param conn_id: connection of the storage, where the URI names none.
        :raises FloraFileError: the file cannot be read, or Flora would not take it.
        :raises FloraUploadError: it did not become an asset.
        """
        from airflow_provider_flora.files.remembering import AssetMemory
        from airflow_provider_flora.files.uploading import Place, Uploader, workspace_of

        client = self.get_conn()
        place = Place(workspace_of(client, workspace_id), file_name, content_type, folder, project_id)
        return Uploader(client, AssetMemory(None, self.log), self.log).make(file, place, conn_id)[0]

    def get_asset(self, asset_id: str) -> Asset:
        """Return an asset as it stands."""
        return self.get_conn().get_asset(asset_id)

    def list_assets(
        self,
        query: str | None = None,
        workspace_id: str | None = None,
        project_id: str | None = None,
        page_size: int = 100,
    ) -> Iterator[Asset]:
        """Iterate lazily over the assets that the key can see.

        :param query: searches them.
        :param workspace_id: default: the connection's, if it has one.
        :param project_id: only what is on this project's canvas.
        :param page_size: 1 to 100.
        """
        return self.get_conn().list_assets(query, workspace_id, project_id, page_size)


def settings_of(connection: Connection, conn_id: str) -> ClientSettings:
    """Read a connection of type ``flora``, in its JSON or its URI form.

    :raises FloraSettingsError: naming the connection, what is wrong and the way out.
    """
    if not connection.password:
        raise FloraSettingsError(
            f"The connection {conn_id!r} holds no Flora API key. Put it into the connection's password: in the "
            f"UI under Admin > Connections, or with AIRFLOW_CONN_{conn_id.upper()}='flora://:YOUR_KEY@'."
        )
    # Not extra_dejson: on Airflow 3 it calls the supervisor, which must not happen on the triggerer's loop.
    try:
        extra = json.loads(connection.extra or "{}")
    except ValueError:
        extra = None
    if not isinstance(extra, dict):
        raise FloraSettingsError(f"The extra of connection {conn_id!r} is not a JSON object.")
    try:
        given = {
            name: _READERS[name](name, value)
            for name, value in extra.items()
            if name in _READERS and value not in (None, "")
        }
        return ClientSettings(api_key=connection.password.strip(), base_url=_base_url(connection), **given)
    except FloraSettingsError as error:
        raise FloraSettingsError(f"The connection {conn_id!r} cannot be used: {error}") from None


def _missing(conn_id: str) -> FloraSettingsError:
    return FloraSettingsError(
        f"There is no connection {conn_id!r}. Make one of type Flora with the API key as its password: in the UI "
        f"under Admin > Connections, or with AIRFLOW_CONN_{conn_id.upper()}='flora://:YOUR_KEY@'."
    )


_HOST_AND_PORT = re.compile(r"(?P<host>\[[^\]]+\]|[^:\[\]]+):(?P<port>\d+)")


def _base_url(connection: Connection) -> str:
    host = (connection.host or "").strip()
    if not host:
        return DEFAULT_BASE_URL
    if "://" in host:
        return host
    # The parts of a URI. Without a scheme of its own: https, but plain http to this machine itself.
    host, _, path = host.partition("/")
    path = f"{path}/{connection.schema or ''}".strip("/")
    port = str(connection.port or "")
    if with_port := _HOST_AND_PORT.fullmatch(host):
        host, port = with_port["host"].strip("[]"), with_port["port"]
    scheme = "http" if is_loopback(host) else "https"
    netloc = f"[{host}]" if ":" in host else host
    return f"{scheme}://{netloc}{f':{port}' if port else ''}/{path}"


def _number(name: str, value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise FloraSettingsError(f"the extra {name!r} takes a number, not {value!r}.")
    return number


def _integer(name: str, value: Any) -> int:
    number = _number(name, value)
    if number != int(number):
        raise FloraSettingsError(f"the extra {name!r} takes a whole number, not {value!r}.")
    return int(number)


def _switch(name: str, value: Any) -> bool:
    switch = _switch_or_text(name, value) if isinstance(value, (bool, str)) else value
    if not isinstance(switch, bool):
        raise FloraSettingsError(f"the extra {name!r} takes true or false, not {value!r}.")
    return switch


def _switch_or_text(name: str, value: Any) -> bool | str:
    if not isinstance(value, (bool, str)):
        raise FloraSettingsError(f"the extra {name!r} takes true, false or a path, not {value!r}.")
    return {"true": True, "false": False}.get(str(value).strip().lower(), str(value))


def _text(name: str, value: Any) -> str:
    return str(value).strip()


def _proxies(name: str, value: Any) -> dict[str, str]:
    if isinstance(value, str) and value.lstrip().startswith("{"):
        with suppress(ValueError):
            value = json.loads(value)
    elif isinstance(value, str):
        value = {"http": value, "https": value}
    if not isinstance(value, dict) or not all(isinstance(url, str) for url in value.values()):
        raise FloraSettingsError(f'the extra {name!r} takes a proxy\'s URL, or {{"https": "http://proxy:3128"}}.')
    return value


_READERS: dict[str, Callable[[str, Any], Any]] = {
    "workspace_id": _text,
    "timeout": _number,
    "max_retries": _integer,
    "proxies": _proxies,
    "verify": _switch_or_text,
    "allow_http": _switch,
}
