"""The names of datasets, by OpenLineage's conventions: https://openlineage.io/docs/spec/naming. No I/O.

    location                                  namespace                name
    ========================================  =======================  =========================
    s3://conn_id@bucket/a/b.png               s3://bucket              a/b.png
    gs://bucket/a/b.png                       gs://bucket              a/b.png
    abfs://container/a/b.png                  abfss://container        a/b.png
    /a/b.png, file:///a/b.png                 file                     /a/b.png
    sftp://conn_id@host/a/b.png               sftp://host              /a/b.png
    https://user:password@host/a/b.png?key=1  https://host             /a/b.png

A connection, a user and a password are no part of a name. Neither is the query of a URL, which may be a signature.
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple
from urllib.parse import urlsplit

from airflow_provider_flora.api.lenient import storable
from airflow_provider_flora.api.settings import origin_of
from airflow_provider_flora.files.storage import is_uri

LONGEST_NAME = 2048
"""Characters of a namespace or a name. A longer one is no dataset: shortened, it would name another."""
_SPELLINGS = {"s3a": "s3", "s3n": "s3", "gcs": "gs", "abfs": "abfss", "wasb": "wasbs", "local": "file"}
_BUCKETS = ("s3", "gs", "abfss", "wasbs")
"""Schemes whose names are keys, which do not begin with a slash."""
_WEB = re.compile(r"https?://\S+", re.IGNORECASE)
_QUERY = re.compile(r"\?[^/?=]+=.*", re.DOTALL)
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_DEFAULT_PORTS = {"http": 80, "https": 443}


class DatasetName(NamedTuple):
    """The name of a dataset, unique with its namespace."""

    namespace: str
    name: str


def is_web_url(value: str) -> bool:
    """Whether a text is an ``http(s)://`` URL and nothing else."""
    return _WEB.fullmatch(value) is not None


def name_of(location: str) -> DatasetName | None:
    """Return the name of a dataset, or ``None`` if there can be none.

    :param location: URL, URI of a storage, or path on this machine.
    """
    if location.lower().startswith(("http://", "https://")):
        found = _name_of_url(location)
    elif is_uri(location):
        found = _name_of_uri(location)
    else:
        found = DatasetName("file", os.path.abspath(os.path.expanduser(location)))  # noqa: PTH100, PTH111  no I/O
    if found is None or not found.name or max(map(len, found)) > LONGEST_NAME:
        return None
    return DatasetName(*(_CONTROL.sub("\ufffd", storable(part)) for part in found))


def _name_of_url(url: str) -> DatasetName | None:
    origin = origin_of(url)
    if origin is None:
        return None
    scheme, host, port = origin
    shown = f"[{host}]" if ":" in host else host
    return DatasetName(
        f"{scheme}://{shown}" if port == _DEFAULT_PORTS[scheme] else f"{scheme}://{shown}:{port}",
        urlsplit(url).path or "/",
    )


def _name_of_uri(uri: str) -> DatasetName:
    scheme, _, rest = _QUERY.sub("", uri).partition("://")
    scheme = _SPELLINGS.get(scheme.lower(), scheme.lower())
    place, _, path = rest.partition("/")
    place = place.rpartition("@")[2]
    if scheme == "file" and not place:
        return DatasetName("file", f"/{path}")
    return DatasetName(f"{scheme}://{place}", path if scheme in _BUCKETS else f"/{path}")
