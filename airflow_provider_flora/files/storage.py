"""What uploads, downloads and batches share about files: paths, URIs, versions and errors. Reads no content."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from airflow_provider_flora.api.errors import FloraError, FloraFileError
from airflow_provider_flora.files.local import local_path

if TYPE_CHECKING:
    from airflow_provider_flora.airflow_compat import ObjectStoragePath

# Properties that change with a stored object, by the names of the file systems.
_VERSIONS = ("ETag", "etag", "md5Hash", "generation", "mtime", "LastModified", "last_modified")
_TIMES = ("mtime", "LastModified", "last_modified")
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_LOCAL_URI = "file:///"


@dataclass(frozen=True)
class Stored:
    """A file in the storage.

    :param bytes: size in bytes.
    :param version: value that changes when the file changes; ``None`` if the storage has none.
    """

    bytes: int
    version: str | None


def stored_of(found: Mapping[str, Any]) -> Stored | None:
    """Return the file that a file system describes, or ``None`` for a folder."""
    if found.get("type") == "directory":
        return None
    size = int(found["size"])
    key = next((key for key in _VERSIONS if found.get(key)), None)
    if key is None:
        return Stored(size, None)
    # Two changes within the precision of a time often differ in size.
    return Stored(size, f"{key}={found[key]}" + (f" size={size}" if key in _TIMES else ""))


def is_uri(location: str) -> bool:
    """Whether a location is a URI, and not a path."""
    return _URI.match(location) is not None


def is_local(location: str) -> bool:
    """Whether a path or URI is of a file or folder on a machine, and not in a storage."""
    return "://" not in location or location.startswith(_LOCAL_URI)


def path_of(location: str, conn_id: str | None = None) -> Path | ObjectStoragePath:
    """Return the path of a file on this machine, or in a storage of Airflow.

    :param location: path, or URI such as ``s3://conn_id@bucket/key``.
    :param conn_id: connection of the storage, if the URI names none.
    """
    if conn_id is None and location.startswith(_LOCAL_URI):
        return Path(local_path(location[len(_LOCAL_URI) - 1 :]))
    if not is_uri(location) and conn_id is None:
        return Path(local_path(location)).expanduser()
    from airflow_provider_flora.airflow_compat import ObjectStoragePath

    # With conn_id=None, Airflow 2 ignores the connection in the URI.
    storage = {} if conn_id is None else {"conn_id": conn_id}
    return ObjectStoragePath(location, **storage)


def as_text(value: Any) -> Any:
    """Return a path or ``ObjectStoragePath`` as text, and any other value unchanged."""
    is_path = isinstance(value, PurePath) or (hasattr(value, "protocol") and hasattr(value, "open"))
    return str(value) if is_path else value


def as_uri(value: Any) -> Any:
    """Return a path as text with its connection, and any other value unchanged."""
    text = as_text(value)
    options: Mapping[str, Any] = getattr(value, "storage_options", {})
    conn_id = getattr(value, "conn_id", None) or options.get("conn_id")
    if not conn_id:
        return text
    scheme, _, rest = text.partition("://")
    return text if rest.startswith(f"{conn_id}@") else f"{scheme}://{conn_id}@{rest}"


@contextmanager
def file_errors(location: str) -> Iterator[None]:
    """Turn the errors of all storages into a FloraFileError.

    :param location: the file, as the user named it.
    """
    try:
        yield
    except (FloraError, GeneratorExit):
        raise
    except FileNotFoundError as error:
        raise FloraFileError(f"There is no file {location!r}{_advice(location)}") from error
    except IsADirectoryError as error:
        raise FloraFileError(f"{location!r} is a folder, not a file.") from error
    except (ValueError, ImportError) as error:
        advice = " Check that Airflow's provider for this storage is installed." if is_uri(location) else ""
        raise FloraFileError(f"{location!r} cannot be read: {_describe(error)}.{advice}") from error
    except (NotADirectoryError, PermissionError) as error:
        raise FloraFileError(f"{location!r} cannot be read: {_describe(error)}") from error
    except Exception as error:
        from airflow_provider_flora.airflow_compat import AirflowNotFoundException  # local files need no Airflow

        if isinstance(error, AirflowNotFoundException):
            raise FloraFileError(f"{location!r} cannot be read: {_describe(error)}") from error
        # Each storage has its own errors, which may be transient.
        raise FloraFileError(f"{location!r} cannot be read now: {_describe(error)}", retryable=True) from error


def _advice(location: str) -> str:
    if is_uri(location) and not location.startswith("file:"):
        return " in that storage. Check the bucket, the key and the connection."
    folder = "" if location.startswith(("/", _LOCAL_URI)) else f" (relative to {Path.cwd()})"
    return f"{folder} on the worker. Use its full path, or a storage that all workers reach."


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
