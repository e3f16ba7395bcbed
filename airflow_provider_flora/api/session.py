"""How a request of ``requests`` leaves this machine: the same for Flora's API, an upload host and a media host.

What is in the request is its caller's; here is what must not be added to it, and where it must not go.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import requests

from airflow_provider_flora.api.settings import is_loopback

if TYPE_CHECKING:
    from airflow_provider_flora.api.settings import ClientSettings


class _AsItIs(requests.auth.AuthBase):
    """Leaves the request as it is. Without an auth of its own, requests takes one from a .netrc file."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


class BareSession(requests.Session):
    """Adds no credentials of the machine's, follows no redirect, and asks no proxy for a loopback address."""

    def __init__(self) -> None:
        super().__init__()
        self.auth = _AsItIs()

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Return that there is none: even when told not to follow one, requests reads its whole body and target."""

    def send_bare(
        self, method: str, url: str, settings: ClientSettings, *, headers: Mapping[str, str], data: Any = None
    ) -> requests.Response:
        """Send a request with a connection's time-out, proxies and certificates; the body is still to be read."""
        self.trust_env = not _stays_here(url)
        return self.request(
            method,
            url,
            data=data,
            headers=headers,
            timeout=settings.timeout,
            # With each request, not with the session: there the environment's would go before them.
            proxies=proxies_for(url, settings),
            verify=settings.verify,
            allow_redirects=False,
            stream=True,
        )


def proxies_for(url: str, settings: ClientSettings) -> dict[str, str]:
    """Return the proxy by scheme for a URL; where it is empty, the environment's is not used either."""
    if _stays_here(url) or not settings.proxies:
        return {}
    scheme = urlsplit(url).scheme
    return {scheme: settings.proxies.get(scheme, ""), "all": ""}


def _stays_here(url: str) -> bool:
    return is_loopback(urlsplit(url).hostname or "")
