"""Which callback URLs Flora refuses when a run is started: all that are not public.

The rule reads the URL alone: no name is resolved here, and nothing is sent.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import unicodedata
from urllib.parse import urlsplit

INTERNAL_SUFFIXES = (".local", ".internal", ".localhost")
METADATA_HOSTS = frozenset({"metadata", "instance-data", "metadata.azure.com"})
_NAME = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*")
_NUMBERS = re.compile(r"(0x[0-9a-f]*|[0-9]+)(\.(0x[0-9a-f]*|[0-9]+)){0,3}")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def refusal(url: str, *, allow_loopback: bool = False) -> str | None:
    """Why Flora refuses this callback URL; ``None`` when it accepts it.

    :param url: the ``callback_url`` of a run.
    :param allow_loopback: accept loopback addresses, by plain HTTP too.
    """
    try:
        parts = urlsplit(url)
        host = unicodedata.normalize("NFKC", parts.hostname or "").lower().rstrip(".")
        _ = parts.port
    except ValueError:
        return "Must be a valid URL"
    if not host or parts.username is not None or parts.password is not None:
        return "Must be a valid URL"
    address = _address(host)
    if allow_loopback and parts.scheme in ("http", "https") and _is_loopback(host, address):
        return None
    if parts.scheme != "https":
        return "Must be an HTTPS URL"
    if address is not None:
        return None if is_public(address) else "Must not point to a private or internal address"
    if host == "localhost" or host in METADATA_HOSTS or host.endswith(INTERNAL_SUFFIXES):
        return "Must not point to an internal host"
    ends_in_number = _NUMBERS.fullmatch(host.rpartition(".")[2])
    return None if _NAME.fullmatch(host) and not ends_in_number else "Must be a valid URL"


def _address(host: str) -> Address | None:
    """The IP address of this host, in any of the forms that resolvers accept."""
    try:
        address: Address = ipaddress.ip_address(host)
    except ValueError:
        # Decimal, hexadecimal, octal and shortened IPv4: 2130706433, 0x7f000001, 0177.0.0.1, 127.1.
        if not _NUMBERS.fullmatch(host):
            return None
        try:
            return ipaddress.IPv4Address(socket.inet_aton(host))
        except OSError:
            return None
    if isinstance(address, ipaddress.IPv6Address):
        return _embedded(address) or address
    return address


def _embedded(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address inside an IPv6 one: mapped, compatible, 6to4, or NAT64."""
    compatible = 1 < int(address) < 2**32
    if compatible or address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour


def is_public(address: Address) -> bool:
    """Whether this address is on the public internet."""
    return address.is_global and not address.is_multicast


def _is_loopback(host: str, address: Address | None) -> bool:
    if address is not None:
        return address.is_loopback
    return host == "localhost" or host.endswith(".localhost")
