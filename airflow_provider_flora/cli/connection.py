"""The connection of a command: one of Airflow's, or the key that Flora's own SDK would use."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from airflow_provider_flora.api.errors import FloraSettingsError
from airflow_provider_flora.api.settings import DEFAULT_BASE_URL, ClientSettings

if TYPE_CHECKING:
    from airflow_provider_flora.api.client import FloraClient
    from airflow_provider_flora.api.exchange import Request
    from airflow_provider_flora.cli.command import Options
    from airflow_provider_flora.cli.terminal import Terminal

KEY, BASE_URL = "FLORA_API_KEY", "FLORA_BASE_URL"
"""Environment variables, by their names in Flora's SDK."""


def open_client(options: Options, terminal: Terminal) -> FloraClient:
    """Return a client for the connection that a command's arguments name. It tells of its retries.

    :raises FloraSettingsError: there is no connection, or it cannot be used.
    """
    from airflow_provider_flora.api.client import FloraClient  # imports requests and pydantic, which help avoids

    def tell(request: Request, error: str, seconds: float) -> None:
        again = f"{error} Trying again in {seconds:.0f} s"
        if request.spends_money:
            again += ", with the same idempotency key: Flora makes one run of both"
        terminal.say(f"{again}.")

    settings = _settings_of_airflow(options.conn_id) if options.conn_id else settings_of_environment()
    return FloraClient(settings, on_retry=tell)


def settings_of_environment() -> ClientSettings:
    """Return the settings of the environment's key.

    :raises FloraSettingsError: there is none, or it cannot be used.
    """
    key = os.environ.get(KEY, "").strip()
    if not key:
        raise FloraSettingsError(
            f"No connection to Flora. Set {KEY} to an API key, or name a connection of Airflow's: --conn-id "
            "flora_default."
        )
    return ClientSettings(
        api_key=key,
        base_url=os.environ.get(BASE_URL, "").strip() or DEFAULT_BASE_URL,
        max_retries=2,  # somebody is waiting
        key_name=f"the key in {KEY}",
    )


def _settings_of_airflow(conn_id: str) -> ClientSettings:
    from airflow_provider_flora.hooks.flora import FloraHook
    from airflow_provider_flora.task.connection import unread_connection

    try:
        return FloraHook(conn_id).settings
    except FloraSettingsError:
        raise
    except Exception as error:  # a backend of connections, or a database that is not there
        raise FloraSettingsError(str(unread_connection(conn_id, error))) from error
