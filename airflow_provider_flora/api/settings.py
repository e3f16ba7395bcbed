"""The settings of a client, checked. No I/O."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import SplitResult, urlsplit

from airflow_provider_flora.api.errors import FloraSettingsError

DEFAULT_BASE_URL = "https://app.flora.ai/api/v1"
_API_PATH = "/api/v1"
_LONGEST_TIMEOUT = 86_400.0  # sockets fail with very large numbers
_DEFAULT_PORTS = {"http": 80, "https": 443}


def origin_of(url: str) -> tuple[str, str, int] | None:
    """Return the scheme, host and port of an http(s) URL, or ``None`` for any other text."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
        return None
    return parts.scheme, parts.hostname, port or _DEFAULT_PORTS[parts.scheme]


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


_NO_PORT = re.compile(r":(?!//|\d+(?:/|$))[^/]*")  # a text in place of a port may be a password


def proxy_url(value: str, source: str) -> str:
    """Return the URL of a proxy, with ``http://`` if it has no scheme, as in curl.

    :param source: the setting that names the proxy, for errors. No error shows the proxy's password.
    :raises FloraSettingsError: the value is not the URL of an HTTP proxy.
    """
    url = value.strip()
    url = url if "://" in url else f"http://{url}"
    if origin_of(url) is None or any(character.isspace() for character in url):
        shown = _NO_PORT.sub(":…", without_password(value))
        raise FloraSettingsError(
            f"{source} is {shown!r}, which is not the URL of an http:// or https:// proxy, such as "
            "http://proxy.example:3128. Percent-encode special characters in the password. SOCKS is not supported."
        )
    return url


def without_password(url: str) -> str:
    """Return a URL, even a malformed one, without user and password."""
    head, at, rest = url.rpartition("@")
    return f"{head[: head.find('://') + 3] if '://' in head else ''}…@{rest}" if at else url


@dataclass(frozen=True)
class ClientSettings:
    """The settings of a client.

    :param api_key: API key, sent only to the origin of ``base_url``. The repr does not show it.
    :param base_url: ``https://app.flora.ai/api/v1`` by default. Without a path, ``/api/v1`` is added.
    :param workspace_id: limits lists to one workspace, unless a call names another.
    :param timeout: seconds to connect, for each chunk of an answer, and for the whole body.
    :param max_retries: number of retries of a request after transient errors.
    :param proxies: URL of the proxy for each scheme of a request, ``{"https": "http://proxy:3128"}``. Default: the
        environment's proxies. Loopback addresses never use a proxy.
    :param verify: check TLS certificates: true, false, or the path of a file or folder with the only CAs to trust.
    :param allow_http: allow plain http, with the key, to addresses that are not loopback.
    :param key_name: what errors call the API key, for users who have several.
    :raises FloraSettingsError: a setting is invalid.
    """

    api_key: str = field(repr=False)
    base_url: str = DEFAULT_BASE_URL
    workspace_id: str | None = None
    timeout: float = 60.0
    max_retries: int = 4
    proxies: dict[str, str] = field(default_factory=dict, repr=False)  # may hold the proxy's password
    verify: bool | str = True
    allow_http: bool = False
    key_name: str = field(default="the API key", compare=False)

    def __post_init__(self) -> None:
        if not self.api_key:
            raise FloraSettingsError("The API key is missing.")
        if not self.api_key.isascii() or not self.api_key.isprintable() or " " in self.api_key:
            raise FloraSettingsError(
                "The API key contains a blank, a line break or another invalid character. Copy it again."
            )
        parts = self._checked_parts()
        path = parts.path.rstrip("/") or _API_PATH
        object.__setattr__(self, "base_url", f"{parts.scheme}://{parts.netloc}{path}")
        object.__setattr__(self, "proxies", _checked_proxies(self.proxies))
        if not 0 < self.timeout <= _LONGEST_TIMEOUT:
            raise FloraSettingsError(
                f"timeout must be more than 0 and at most {_LONGEST_TIMEOUT:g} seconds, not {self.timeout!r}."
            )
        if self.max_retries < 0:
            raise FloraSettingsError(f"max_retries must be 0 or more, not {self.max_retries!r}.")

    def _checked_parts(self) -> SplitResult:
        base_url = self.base_url.strip()
        origin = origin_of(base_url)
        if origin is None or any(character.isspace() for character in base_url):
            raise FloraSettingsError(
                f"The base URL {without_password(self.base_url)!r} is not an http(s) URL. Flora's base URL is "
                f"{DEFAULT_BASE_URL}."
            )
        parts = urlsplit(base_url)
        if parts.username or parts.password or parts.query or parts.fragment:
            raise FloraSettingsError(
                "The base URL must not contain a user, password, query or fragment. Flora's base URL is "
                f"{DEFAULT_BASE_URL}."
            )
        scheme, host, _ = origin
        if scheme == "http" and not is_loopback(host) and not self.allow_http:
            raise FloraSettingsError(
                f"Plain http to {host!r} would expose the API key. Use https, or set allow_http to true on a "
                "network that you trust."
            )
        return parts

    @property
    def origin(self) -> tuple[str, str, int]:
        """The scheme, host and port that may receive the key."""
        origin = origin_of(self.base_url)
        assert origin is not None  # noqa: S101  # checked when the settings were made
        return origin

    @property
    def on_loopback(self) -> bool:
        """Whether Flora is an emulator on this machine."""
        return is_loopback(self.origin[1])

    def on_own_origin(self, url: str) -> bool:
        """Whether a URL is on the connection's own origin."""
        return origin_of(url) == self.origin


def _checked_proxies(proxies: Mapping[str, str]) -> dict[str, str]:
    checked = {}
    for scheme, url in proxies.items():
        if scheme.lower() not in _DEFAULT_PORTS:
            raise FloraSettingsError(
                f"proxies has the key {scheme!r}. Its keys are http and https, the schemes of requests."
            )
        checked[scheme.lower()] = proxy_url(url, f"proxies[{scheme!r}]")
    return checked
