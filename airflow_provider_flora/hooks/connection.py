"""Reads an Airflow connection as a client's settings. Reading is strict: an unknown entry is an error.

``api.settings`` and ``api.network`` check the values.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from airflow_provider_flora.api.errors import FloraSettingsError
from airflow_provider_flora.api.settings import DEFAULT_BASE_URL, ClientSettings, is_loopback
from airflow_provider_flora.task.rules import ConnectionRules

if TYPE_CHECKING:
    from airflow_provider_flora.airflow_compat import Connection

TYPES: tuple[str, ...] = ("", "flora", "generic")
"""The types that a connection may have. A test of one's own DAGs has only `flora`."""
_UI_PREFIX = "extra__flora__"  # older forms of Airflow put it before the names in the extra
_DEFAULT_HOST = DEFAULT_BASE_URL.removeprefix("https://").partition("/")[0]


def settings_of(connection: Connection, conn_id: str) -> ClientSettings:
    """Return the settings of a connection of type ``flora``.

    :raises FloraSettingsError: the connection is invalid. The error contains no secret.
    """
    from airflow_provider_flora.api.network import ca_bundle, route_to

    try:
        if (connection.conn_type or "").lower() not in TYPES:
            raise FloraSettingsError(
                f"its type is {connection.conn_type!r}. Create a connection of type 'flora', with the API key as "
                "its password."
            )
        settings = ClientSettings(
            api_key=_read_key(connection, conn_id),
            base_url=_read_base_url(connection),
            key_name=f"the API key of connection {conn_id!r}",
            **_read_extra(connection, _SETTINGS),
        )
        # Checked here, since a retry of a request cannot fix these errors.
        if isinstance(settings.verify, str):
            ca_bundle(settings)
        route_to(settings.base_url, settings)
    except FloraSettingsError as error:
        raise FloraSettingsError(f"The connection {conn_id!r} cannot be used: {error}") from None
    return settings


def rules_of(connection: Connection, conn_id: str) -> ConnectionRules:
    """Return what a connection says about its use, beside the settings of its client.

    :raises FloraSettingsError: its extra is invalid. The error contains no secret.
    """
    try:
        return ConnectionRules(**_read_extra(connection, _RULES))
    except FloraSettingsError as error:
        raise FloraSettingsError(f"The connection {conn_id!r} cannot be used: {error}") from None


def missing_connection_error(conn_id: str) -> FloraSettingsError:
    """Return the error for a connection that does not exist."""
    return FloraSettingsError(
        f"The connection {conn_id!r} does not exist. Create one of type Flora. {_key_advice(conn_id)}"
    )


def _read_key(connection: Connection, conn_id: str) -> str:
    if connection.password and connection.password.strip():
        return connection.password.strip()
    login = (
        " It has a login, which Flora does not use: in a URI, the key comes after a colon."
        if connection.login
        else ""
    )
    raise FloraSettingsError(f"it has no Flora API key.{login} {_key_advice(conn_id)}")


def _key_advice(conn_id: str) -> str:
    return (
        "The API key is the connection's password. Set it in the UI under Admin > Connections, or with "
        f"AIRFLOW_CONN_{conn_id.upper()}='flora://:YOUR_KEY@'."
    )


def _read_base_url(connection: Connection) -> str:
    """Build the base URL from the connection's host, port and schema."""
    host = (connection.host or "").strip()
    scheme, _, rest = host.partition("://") if "://" in host else ("", "", host)
    netloc, _, path = rest.partition("/")
    name, port = _name_and_port(netloc)
    schema = (connection.schema or "").strip().strip("/").removesuffix(":")
    if schema.lower() in ("http", "https"):  # as in connections of Airflow's HTTP hook
        scheme = _single("schemes", scheme.lower(), "schema", schema.lower())
    else:
        path = _single("paths", path.strip("/"), "schema", schema)
    port = _single("ports", port, "port", str(connection.port or ""))
    if not name and port:
        raise FloraSettingsError(f"it has the port {port}, but no host. Set both or neither.")
    name = name or _DEFAULT_HOST
    scheme = scheme or ("http" if is_loopback(name) else "https")
    name = f"[{name}]" if ":" in name and "@" not in name else name
    return f"{scheme}://{name}{f':{port}' if port else ''}/{path}"


def _name_and_port(netloc: str) -> tuple[str, str]:
    if in_brackets := re.fullmatch(r"\[([^\[\]]+)\](?::(\d+))?", netloc):
        return in_brackets[1], in_brackets[2] or ""
    if "@" in netloc or netloc.count(":") != 1:  # a user, which is refused later, or an IPv6 address without a port
        return netloc, ""
    name, _, port = netloc.partition(":")
    return name, port


def _single(what: str, of_host: str, field: str, beside: str) -> str:
    if of_host and beside and of_host != beside:
        raise FloraSettingsError(
            f"it has two {what}: {of_host!r} in its host and {beside!r} in its {field}. Remove one of them."
        )
    return of_host or beside


def _read_extra(connection: Connection, wanted: Iterable[str]) -> dict[str, Any]:
    """Check the whole extra, and return those of its entries that are wanted."""
    # Not extra_dejson: on Airflow 3 it calls the supervisor, which would block the triggerer's loop.
    try:
        extra = json.loads(connection.extra or "{}")
    except ValueError:
        extra = None
    if not isinstance(extra, dict):
        raise FloraSettingsError('its extra is not a JSON object such as {"timeout": 60}.')
    entries: dict[str, Any] = {}
    for key, value in extra.items():
        name = key.removeprefix(_UI_PREFIX)
        if name not in _READERS:
            raise _unknown_key_error(key)
        is_empty = value is None or (isinstance(value, str) and not value.strip())
        if is_empty or (name != key and name in extra):
            continue
        entries[name] = _READERS[name](name, value)
    return {name: entries[name] for name in wanted if name in entries}


def _unknown_key_error(key: str) -> FloraSettingsError:
    meant = _closest(key.removeprefix(_UI_PREFIX), [*_READERS, *_FIELDS])
    if meant in _FIELDS:
        advice = f"Set the connection's {_FIELDS[meant]} instead."
    else:
        advice = f"Did you mean {meant!r}? " if meant else ""
        advice += f"The known keys are: {', '.join(_READERS)}."
    return FloraSettingsError(f"its extra has the unknown key {key!r}. {advice}")


def _closest(word: str, known: Iterable[str]) -> str | None:
    from difflib import get_close_matches

    return next(iter(get_close_matches(word.lower(), known, n=1, cutoff=0.65)), None)


def _read_number(name: str, value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise FloraSettingsError(f"the extra {name!r} takes a number, not {value!r}.")
    return number


def _read_integer(name: str, value: Any) -> int:
    number = _read_number(name, value)
    if number != int(number):
        raise FloraSettingsError(f"the extra {name!r} takes a whole number, not {value!r}.")
    return int(number)


def _read_switch(name: str, value: Any) -> bool:
    switch = (
        {"true": True, "false": False}.get(str(value).strip().lower()) if isinstance(value, (bool, str)) else None
    )
    if switch is None:
        raise FloraSettingsError(f"the extra {name!r} takes true or false, not {value!r}.")
    return switch


def _read_switch_or_path(name: str, value: Any) -> bool | str:
    if isinstance(value, bool):
        return value
    text = value.strip() if isinstance(value, str) else ""
    meant = _closest(text, ("true", "false"))
    if text.lower() == meant:
        return meant == "true"
    if meant or not text:
        hint = f"; did you mean {meant}?" if meant else "."
        raise FloraSettingsError(
            f"the extra {name!r} takes true, false, or the path of a CA file or folder, not {value!r}{hint}"
        )
    return text


def _read_workspace_id(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip().startswith("ws_"):
        raise FloraSettingsError(
            f"the extra {name!r} takes the id of a workspace, which begins with ws_, not {value!r}. Test the "
            "connection to see the ids of its key."
        )
    return value.strip()


def _read_proxies(name: str, value: Any) -> dict[str, str]:
    if isinstance(value, str) and value.lstrip().startswith("{"):
        with suppress(ValueError):
            value = json.loads(value)
    elif isinstance(value, str):
        value = {"http": value, "https": value}
    if not isinstance(value, dict) or not all(isinstance(url, str) for url in value.values()):
        # Without the value, which may contain a password.
        raise FloraSettingsError(f'the extra {name!r} takes a proxy\'s URL, or {{"https": "http://proxy:3128"}}.')
    return value


def _read_amount(name: str, value: Any) -> float:
    number = _read_number(name, value)
    if number < 0:
        raise FloraSettingsError(f"the extra {name!r} takes USD, 0 or more, not {value!r}.")
    return number


def _read_count(name: str, value: Any) -> int:
    number = _read_integer(name, value)
    if number < 1:
        raise FloraSettingsError(f"the extra {name!r} takes a whole number of at least 1, not {value!r}.")
    return number


def _read_webhook_secret(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip().startswith("whsec_"):
        # Without the value, which is a secret, be it of something else.
        raise FloraSettingsError(
            f"the extra {name!r} takes the secret of Flora's webhooks, which begins with whsec_."
        )
    return value.strip()


_SETTINGS: dict[str, Callable[[str, Any], Any]] = {
    "workspace_id": _read_workspace_id,
    "timeout": _read_number,
    "max_retries": _read_integer,
    "proxies": _read_proxies,
    "verify": _read_switch_or_path,
    "allow_http": _read_switch,
}
_RULES: dict[str, Callable[[str, Any], Any]] = {
    "max_daily_cost": _read_amount,
    "max_catchup_runs": _read_count,
    "webhook_secret": _read_webhook_secret,
}
_READERS = {**_SETTINGS, **_RULES}
_FIELDS = {
    **dict.fromkeys(("api_key", "key", "password", "token"), "password"),
    **dict.fromkeys(("base_url", "url", "host"), "host"),
}
