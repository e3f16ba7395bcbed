"""The proxy and the CA certificates of a request: one rule for both clients, uploads and downloads.

This file does not decide which server a request may go to, nor which key it carries.
"""

from __future__ import annotations

import os
import ssl
import sys
import urllib.request
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import certifi

from airflow_provider_flora.api.errors import FloraSettingsError
from airflow_provider_flora.api.settings import is_loopback, proxy_url

if TYPE_CHECKING:
    from airflow_provider_flora.api.settings import ClientSettings

_CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")


class Route(NamedTuple):
    """The proxy and the certificates of a request.

    :param proxy: URL of the proxy, possibly with its password; ``None`` for a direct connection.
    :param tls: trusted certificates; ``None`` without TLS.
    """

    proxy: str | None
    tls: ssl.SSLContext | None


def route_to(url: str, settings: ClientSettings) -> Route:
    """Return the proxy and the certificates for a URL.

    :raises FloraSettingsError: the proxy or the CA certificates cannot be used.
    """
    proxy = proxy_for(url, settings)
    over_tls = "https" in (urlsplit(url).scheme, urlsplit(proxy or "").scheme)
    return Route(proxy, _tls_context(settings) if over_tls else None)


def proxy_for(url: str, settings: ClientSettings) -> str | None:
    """Return the proxy for a URL, or ``None`` for a direct connection.

    A loopback address has no proxy. Otherwise the connection's ``proxies`` decide, even if they name none for the
    scheme. Without them the environment decides: ``http_proxy`` or ``https_proxy``, else ``all_proxy``, unless
    ``no_proxy`` lists the host. Lower case takes precedence over upper case.

    :raises FloraSettingsError: the proxy cannot be used.
    """
    parts = urlsplit(url)
    if is_loopback(parts.hostname or ""):
        return None
    if settings.proxies:
        proxy = settings.proxies.get(parts.scheme)
    else:
        environment = urllib.request.getproxies()
        proxy = environment.get(parts.scheme) or environment.get("all")
        if not proxy or _is_exempt(url):
            return None
        proxy = proxy_url(proxy, f"The environment's proxy ({parts.scheme}_proxy or all_proxy)")
    if proxy is not None and urlsplit(proxy).scheme == parts.scheme == "https" and sys.version_info < (3, 11):
        # asyncio has no TLS within TLS there, so the async client would fail where the other one works.
        raise FloraSettingsError(
            "An https:// proxy needs Python 3.11 or newer. Use the proxy's http:// URL if it has one."
        )
    return proxy


def _is_exempt(url: str) -> bool:
    # Unlike the standard library's function, this one supports networks such as 10.0.0.0/8.
    from requests.utils import should_bypass_proxies

    return should_bypass_proxies(url, no_proxy=None)


def ca_bundle(settings: ClientSettings) -> tuple[str, str] | None:
    """Return the setting that names the only CAs to trust, and its file or folder.

    The setting is the connection's ``verify``, else the first set variable of ``REQUESTS_CA_BUNDLE``,
    ``CURL_CA_BUNDLE``, ``SSL_CERT_FILE`` and ``SSL_CERT_DIR``.

    :raises FloraSettingsError: the file or folder does not exist.
    """
    if settings.verify is False:
        return None
    variables = ((name, os.environ.get(name)) for name in _CA_VARIABLES)
    named = [("verify", settings.verify)] if isinstance(settings.verify, str) else variables
    for name, path in named:
        if not path:
            continue
        if not any(Path(part).exists() for part in path.split(os.pathsep)):  # SSL_CERT_DIR may name several
            raise FloraSettingsError(
                f"{name} names the CA certificates {path!r}, but this file or folder does not exist here. Every "
                "machine that connects to Flora needs it."
            )
        return name, path
    return None


def _tls_context(settings: ClientSettings) -> ssl.SSLContext:
    """Return the CAs to trust: any server if ``verify`` is false, those of :func:`ca_bundle`, or the usual ones."""
    if settings.verify is False:
        return _unverified_context()
    if bundle := ca_bundle(settings):
        name, path = bundle
        return _ca_context(name, path, Path(path).stat().st_mtime_ns if Path(path).exists() else 0)
    return _default_context()


# Cached: reading a bundle takes some 16 ms, and each uploaded or downloaded file has its own session.


@lru_cache(maxsize=1)
def _unverified_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@lru_cache(maxsize=1)
def _default_context() -> ssl.SSLContext:
    context = ssl.create_default_context()  # the operating system's
    context.load_verify_locations(certifi.where())
    return context


@lru_cache(maxsize=8)
def _ca_context(name: str, path: str, changed: int) -> ssl.SSLContext:
    is_file = Path(path).is_file()
    try:
        return ssl.create_default_context(cafile=path if is_file else None, capath=None if is_file else path)
    except OSError as error:
        raise FloraSettingsError(
            f"{name} names {path!r}, which holds no readable CA certificates: {error}."
        ) from None
