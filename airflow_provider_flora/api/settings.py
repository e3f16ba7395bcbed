"""Where Flora is, and what a client may do there: one checked value. No I/O."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from urllib.parse import SplitResult, urlsplit

from airflow_provider_flora.api.errors import FloraSettingsError

DEFAULT_BASE_URL = "https://app.flora.ai/api/v1"
_API_PATH = "/api/v1"
_LONGEST_TIMEOUT = 86_400.0  # sockets cannot count as far as some numbers go
_DEFAULT_PORTS = {"http": 80, "https": 443}


def origin_of(url: str) -> tuple[str, str, int] | None:
    """Return the scheme, host and port of an http(s) URL, or ``None`` if it is not one."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
        return None
    return parts.scheme, parts.hostname, port or _DEFAULT_PORTS[parts.scheme]


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine itself."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class ClientSettings:
    """What a client needs to know. Checked when it is made.

    :param api_key: sent to the origin of ``base_url`` and nowhere else; in no repr.
    :param base_url: ``https://app.flora.ai/api/v1`` by default; without a path, ``/api/v1`` is added.
    :param workspace_id: narrows lists down to one workspace, unless a call names another.
    :param timeout: seconds for a connection to stand, for each next piece of an answer, and for its whole body.
    :param max_retries: how often a request is sent again after a transient error.
    :param proxies: URL of the proxy by scheme, ``{"https": "http://proxy:3128"}``; without it the
        environment's. A loopback address is never asked for through a proxy.
    :param verify: check TLS certificates: true, false, or the path of a CA bundle.
    :param allow_http: send the key over plain http to an address that is not loopback.
    :raises FloraSettingsError: naming what is wrong and how to set it.
    """

    api_key: str = field(repr=False)
    base_url: str = DEFAULT_BASE_URL
    workspace_id: str | None = None
    timeout: float = 60.0
    max_retries: int = 4
    proxies: dict[str, str] = field(default_factory=dict, repr=False)  # may hold the proxy's password
    verify: bool | str = True
    allow_http: bool = False

    def __post_init__(self) -> None:
        if not self.api_key:
            raise FloraSettingsError("No API key is given.")
        if not self.api_key.isascii() or not self.api_key.isprintable() or " " in self.api_key:
            raise FloraSettingsError(
                "The API key holds a blank, a line break or another character that no key has; copy it anew."
            )
        parts = self._checked_parts()
        path = parts.path.rstrip("/") or _API_PATH
        object.__setattr__(self, "base_url", f"{parts.scheme}://{parts.netloc}{path}")
        if not 0 < self.timeout <= _LONGEST_TIMEOUT:
            raise FloraSettingsError(
                f"timeout takes more than 0 and at most {_LONGEST_TIMEOUT:g} seconds (a day), not {self.timeout!r}."
            )
        if self.max_retries < 0:
            raise FloraSettingsError(f"max_retries must be 0 or more, not {self.max_retries!r}.")

    def _checked_parts(self) -> SplitResult:
        base_url = self.base_url.strip()
        origin = origin_of(base_url)
        if origin is None or any(character.isspace() for character in base_url):
            raise FloraSettingsError(
                f"The base URL {self.base_url!r} is not an http(s) URL; Flora's is {DEFAULT_BASE_URL}."
            )
        parts = urlsplit(base_url)
        if parts.username or parts.password or parts.query or parts.fragment:
            raise FloraSettingsError(
                f"The base URL must hold no user, password, query or fragment; Flora's is {DEFAULT_BASE_URL}."
            )
        scheme, host, _ = origin
        if scheme == "http" and not is_loopback(host) and not self.allow_http:
            raise FloraSettingsError(
                f"Over plain http the API key could be read on its way to {host!r}. Use https, or set "
                '"allow_http": true in the connection\'s extra if the network is yours.'
            )
        return parts

    @property
    def origin(self) -> tuple[str, str, int]:
        """Scheme, host and port that the key may be sent to."""
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
