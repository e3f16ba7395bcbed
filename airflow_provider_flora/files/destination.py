"""A folder to put files into, anywhere that Airflow's ``ObjectStoragePath`` reaches. Knows nothing of Flora's runs.

A reader never sees half a file under its final name, and there are two ways to keep that promise:

- S3 and Google Cloud Storage show an object only once its upload is complete. The upload goes to the final key, is
  checked, and only then completed. A copy from a temporary key would send every byte twice, need rights to delete,
  and leave an object behind where the task is killed; an upload that is never completed is no object at all.
- Everywhere else: a hidden name beside the final one, then a rename. What a killed task left, the next removes.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import ObjectStoragePath

from airflow_provider_flora.api.errors import FloraError, FloraParameterError, Remedy

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem  # type: ignore[import-untyped]

_COMPLETED_AT_ONCE = {"s3", "s3a", "gs", "gcs"}
PART_BYTES = 5 * 1024 * 1024
"""Of an upload in parts: the least that S3 takes, since a part is kept in memory; 10,000 of them are 48 GB."""
_PART = ".part"
# What tells that a stored object is still the one that was written, by the file systems' own names for it.
_VERSIONS = ("ETag", "etag", "md5Hash", "generation", "mtime", "LastModified", "last_modified")


class FloraStorageError(FloraError):
    """The storage could not be read or written. A retry costs nothing: the run is there."""

    remedy = Remedy.RETRY_LATER


@dataclass(frozen=True)
class Stored:
    """A file as it stands in the storage.

    :param version: changes when the file does; ``None`` where the storage has nothing of the kind.
    """

    bytes: int
    version: str | None


class Destination:
    """A folder.

    :param folder: path or URI, ``s3://conn_id@bucket/prefix/`` with its connection in it, or an
        ``ObjectStoragePath``.
    :raises FloraParameterError: it is no folder that could be written to.
    """

    def __init__(self, folder: str | PurePath | ObjectStoragePath) -> None:
        if isinstance(folder, PurePath) and not isinstance(folder, ObjectStoragePath):
            folder = str(folder)
        if not isinstance(folder, (str, ObjectStoragePath)):
            raise FloraParameterError(
                f"Files are put into a folder, given by its path or URI, not into {folder!r}."
            )
        if ".." in str(folder).split("/"):
            # What a template puts in must not lead out of the folder that stands before it.
            raise FloraParameterError(f"{str(folder)!r} holds '..', the folder above: name the folder itself.")
        try:
            path = ObjectStoragePath(folder) if isinstance(folder, str) else folder
            self._fs: AbstractFileSystem = path.fs
            protocol = path.protocol or "file"
            inside = str(path.path)
        except (ValueError, ImportError, TypeError) as error:
            raise FloraParameterError(
                f"Files cannot be put into {str(folder)!r}: {error}. Is Airflow's provider for this "
                "storage installed?"
            ) from error
        self._is_local = protocol in ("file", "local")
        self._completes_at_once = protocol in _COMPLETED_AT_ONCE
        if self._is_local and not str(folder).startswith(("/", "file:///", "local:///")):
            raise FloraParameterError(
                f"{str(folder)!r} is relative, and a worker has no folder that it could be relative to; begin it "
                "with / or with a scheme such as s3://."
            )
        self._folder = inside.rstrip("/")
        self._uri = f"file://{self._folder}" if self._is_local else _uri(folder, path)

    def __str__(self) -> str:
        return f"{self._uri}/"

    def uri(self, name: str) -> str:
        """Return the URI of a file, its connection in it: ``ObjectStoragePath(uri)`` opens it."""
        return f"{self._uri}/{name}"

    def stored(self, name: str) -> Stored | None:
        """Return how a file stands there, or ``None`` if there is none."""
        with self._errors(name):
            self._fs.invalidate_cache(self._folder)
            try:
                found: dict[str, Any] = self._fs.info(self._path(name))
            except FileNotFoundError:
                return None
        version = next((f"{key}={found[key]}" for key in _VERSIONS if found.get(key)), None)
        return Stored(int(found["size"]), version)

    def digests(self, name: str) -> tuple[str, str]:
        """Return SHA-256 and MD5 of a file that is there, in hex."""
        sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        with self._errors(name), self._fs.open(self._path(name), "rb", block_size=PART_BYTES) as file:
            while chunk := file.read(1024 * 1024):
                sha256.update(chunk)
                md5.update(chunk)
        return sha256.hexdigest(), md5.hexdigest()

    def check(self) -> None:
        """Begin a file and drop it: what a storage refuses, it tells here, before anything has been paid for.

        :raises FloraStorageError: nothing can be written there.
        """
        try:
            with self.writing(f"flora-{secrets.token_hex(4)}") as sink:
                sink.write(b"-")
                sink.close()
        except FloraStorageError as error:
            why = error.__cause__
            raise FloraStorageError(
                f"Nothing can be written into {self} ({type(why).__name__}: {why}), so nothing was started or "
                "charged. Is the folder or bucket there, and may the worker write to it?"
            ) from why

    @contextmanager
    def writing(self, name: str) -> Iterator[_Sink]:
        """Give something to ``write`` to; the file is there once it is told to ``finish``, and not before.

        Without ``finish``, and after an error, nothing of it stays.
        """
        with self._errors(name):
            sink = _Object(self._fs, self._path(name)) if self._completes_at_once else self._beside(name)
        try:
            yield _Sink(self, name, sink)
        finally:
            sink.drop()

    def _beside(self, name: str) -> _Renamed:
        self._fs.makedirs(self._folder, exist_ok=True)
        self._remove_leftovers(name)
        hidden = self._path(f".{name}.{secrets.token_hex(4)}{_PART}")
        return _Renamed(self._fs, hidden, self._path(name), self._is_local)

    def _remove_leftovers(self, name: str) -> None:
        self._fs.invalidate_cache(self._folder)
        for entry in self._fs.ls(self._folder, detail=False):
            last = str(entry).rpartition("/")[2]
            if last.startswith(f".{name}.") and last.endswith(_PART):
                with suppress(FileNotFoundError):
                    self._fs.rm_file(f"{self._folder}/{last}")

    def _path(self, name: str) -> str:
        return f"{self._folder}/{name}"

    @contextmanager
    def _errors(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # each storage has its own; a FloraError cannot arise in here
            raise FloraStorageError(
                f"{self.uri(name)} could not be stored: {type(error).__name__}: {error}"
            ) from error


class _Sink:
    """What a file is written to."""

    def __init__(self, destination: Destination, name: str, target: _Object | _Renamed) -> None:
        self._destination = destination
        self._name = name
        self._target = target

    def write(self, chunk: bytes) -> None:
        """Take a piece."""
        with self._destination._errors(self._name):
            self._target.file.write(chunk)

    def close(self) -> None:
        """Send what was written; the file is still not there."""
        with self._destination._errors(self._name):
            self._target.file.close()

    def finish(self) -> None:
        """Let the file appear under its name, in one step."""
        self.close()
        with self._destination._errors(self._name):
            self._target.appear()


class _Object:
    """An object that appears when its upload is completed."""

    def __init__(self, fs: AbstractFileSystem, path: str) -> None:
        self.file = fs.open(path, "wb", block_size=PART_BYTES, autocommit=False)
        self._done = False

    def appear(self) -> None:
        self.file.commit()
        self._done = True

    def drop(self) -> None:
        if self._done:
            return
        with suppress(Exception):  # whatever it is, the object is not there
            self.file.discard()
        self.file.closed = True  # or its destructor would send what is left


class _Renamed:
    """A hidden file that is renamed."""

    def __init__(self, fs: AbstractFileSystem, hidden: str, path: str, is_local: bool) -> None:
        self.file = fs.open(hidden, "wb")
        self._fs = fs
        self._hidden = hidden
        self._path = path
        self._is_local = is_local
        self._done = False

    def appear(self) -> None:
        if self._is_local:
            os.replace(self._hidden, self._path)  # noqa: PTH105
        else:
            self._fs.mv(self._hidden, self._path)
        self._done = True

    def drop(self) -> None:
        if self._done:
            return
        with suppress(Exception):
            self.file.close()
        with suppress(Exception):
            self._fs.rm_file(self._hidden)


def _uri(folder: str | ObjectStoragePath, path: ObjectStoragePath) -> str:
    text = str(folder).rstrip("/")
    if isinstance(folder, str):
        return text
    conn_id = getattr(path, "conn_id", None) or path.storage_options.get("conn_id")
    scheme, _, rest = text.partition("://")
    return text if not conn_id or rest.startswith(f"{conn_id}@") else f"{scheme}://{conn_id}@{rest}"
