"""The techniques at Flora, by a task's own connection or by the command's."""

from __future__ import annotations

from collections.abc import Callable

from airflow_provider_flora.airflow_compat import AirflowNotFoundException
from airflow_provider_flora.api.client import FloraClient
from airflow_provider_flora.api.errors import FloraError, FloraParameterError, FloraSettingsError
from airflow_provider_flora.api.settings import ClientSettings
from airflow_provider_flora.checking.catalogue import ConnectionProblem, Found
from airflow_provider_flora.hooks.connection import settings_of
from airflow_provider_flora.hooks.flora import FloraHook
from airflow_provider_flora.task.connection import unread_connection

_ABOUT_ONE_TECHNIQUE = (403, 404)
"""Statuses with which Flora refuses one technique. Any other error is one of the connection, or of Flora."""


class FloraCatalogue:
    """The techniques at Flora. Each is asked for once a connection.

    :param own: settings of the command, for tasks whose connection is not known here.
    """

    def __init__(self, own: ClientSettings | None = None) -> None:
        self._own = own
        self._settings: dict[str, ClientSettings | FloraError] = {}
        self._found: dict[tuple[str, str, str], Found | FloraError] = {}
        self._broken: dict[tuple[str, str], FloraError] = {}

    def find(self, technique_id: str, conn_id: str | None) -> Found | None:
        """Return a technique, as :meth:`Catalogue.find` says."""
        settings = self._usable_settings(conn_id)
        if settings is None:
            return None
        place = (settings.base_url, settings.api_key)
        if place in self._broken:
            raise ConnectionProblem(self._broken[place])
        key = (*place, technique_id)
        if key not in self._found:
            self._found[key] = self._ask(settings, technique_id)
        found = self._found[key]
        if isinstance(found, FloraError):
            if isinstance(found, FloraParameterError) or getattr(found, "status", None) in _ABOUT_ONE_TECHNIQUE:
                raise found
            self._broken[place] = found
            raise ConnectionProblem(found)
        return found

    def connect(self, conn_id: str | None) -> Callable[[str], bool] | None:
        """Read a connection, as :meth:`Catalogue.connect` says. Flora is not asked."""
        settings = self._usable_settings(conn_id)
        return settings.on_own_origin if settings else None

    def _ask(self, settings: ClientSettings, technique_id: str) -> Found | FloraError:
        try:
            with FloraClient(settings) as client:
                return Found(client.get_technique(technique_id), settings.on_own_origin)
        except FloraError as error:
            return error

    def _usable_settings(self, conn_id: str | None) -> ClientSettings | None:
        settings = self._own if conn_id is None else self._settings_for(conn_id)
        if isinstance(settings, FloraError):
            raise ConnectionProblem(settings)
        return settings

    def _settings_for(self, conn_id: str) -> ClientSettings | FloraError:
        if conn_id not in self._settings:
            self._settings[conn_id] = self._read(conn_id)
        return self._settings[conn_id]

    def _read(self, conn_id: str) -> ClientSettings | FloraError:
        try:
            found = read_settings(conn_id)
        except FloraError as error:
            return error
        return found or self._own or missing(conn_id)


def read_settings(conn_id: str) -> ClientSettings | None:
    """Return the settings of an Airflow connection, or ``None`` if there is none here.

    :raises FloraError: the connection cannot be read or used.
    """
    try:
        connection = FloraHook.get_connection(conn_id)
    except AirflowNotFoundException:
        return None
    except Exception as error:  # of a secrets backend
        raise unread_connection(conn_id, error) from error
    return settings_of(connection, conn_id)


def missing(conn_id: str) -> FloraSettingsError:
    """Return the error for a connection that is not here. It may be in the metadata database, which is not read."""
    return FloraSettingsError(
        f"The connection {conn_id!r} is neither in the environment nor in a secrets backend, and a check does not "
        f"read Airflow's database. Set AIRFLOW_CONN_{conn_id.upper()}='flora://:YOUR_KEY@', or FLORA_API_KEY."
    )
