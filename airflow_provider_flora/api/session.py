"""A session of ``requests`` for Flora's API, upload hosts and media hosts. It adds nothing to a request.

``network`` chooses the proxy and the certificates.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter

from airflow_provider_flora.api import network

if TYPE_CHECKING:
    from airflow_provider_flora.api.settings import ClientSettings


class _NoAuth(requests.auth.AuthBase):
    """No authentication. Without it, requests takes credentials from the URL."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


class _Adapter(HTTPAdapter):
    """An adapter with its own certificates, for servers and for proxies."""

    def __init__(self, tls: ssl.SSLContext) -> None:
        self._tls = tls
        super().__init__()

    def build_connection_pool_key_attributes(self, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Return the host and the settings of a connection pool."""
        host, pool = super().build_connection_pool_key_attributes(*args, **kwargs)
        return host, {**pool, "ssl_context": self._tls}

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        """Return the manager of connections to a proxy."""
        return super().proxy_manager_for(proxy, proxy_ssl_context=self._tls, **kwargs)

    def cert_verify(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: requests would add its own CAs."""


class BareSession(requests.Session):
    """A session without the machine's credentials and without redirects."""

    def __init__(self) -> None:
        super().__init__()
        self.auth = _NoAuth()
        self.trust_env = False  # ``network`` reads the environment
        self._tls: ssl.SSLContext | None = None

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Return ``None``: requests would read the redirect's body even with ``allow_redirects=False``."""

    def send_bare(
        self, method: str, url: str, settings: ClientSettings, *, headers: Mapping[str, str], data: Any = None
    ) -> requests.Response:
        """Send a request with a connection's timeout, proxies and certificates. The answer's body is not read yet.

        :raises FloraSettingsError: the proxy or the CA certificates cannot be used.
        """
        proxy, tls = network.route_to(url, settings)
        if tls is not None:
            self._trust(tls)
        return self.request(
            method,
            url,
            data=data,
            headers=headers,
            timeout=settings.timeout,
            proxies={urlsplit(url).scheme: proxy} if proxy else {},
            verify=settings.verify is not False,
            allow_redirects=False,
            stream=True,
        )

    def _trust(self, tls: ssl.SSLContext) -> None:
        if tls is not self._tls:
            self._tls = tls
            for prefix in ("http://", "https://"):
                self.mount(prefix, _Adapter(tls))
