"""A folder for files in any storage of Airflow's ``ObjectStoragePath``. Nothing about Flora's runs.

A reader never sees an incomplete file under its final name:

- S3 and Google Cloud Storage show an object only when its upload is complete. So the upload uses the final key, and
  is completed after its checks. A copy from a temporary key would send every byte twice, need permission to delete,
  and leave an object behind if the task is killed.
- Other storages: the file has a hidden name first and is renamed. The next attempt removes files of killed tasks.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from airflow_provider_flora.airflow_compat import ObjectStoragePath
from airflow_provider_flora.api.errors import FloraParameterError, FloraStorageError
from airflow_provider_flora.files.local import local_path
from airflow_provider_flora.files.storage import Stored, as_uri, stored_of

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem  # type: ignore[import-untyped]

_COMPLETED_AT_ONCE = {"s3", "s3a", "gs", "gcs"}
PART_BYTES = 5 * 1024 * 1024
"""Size of a part of an upload: the minimum of S3, since a part is held in memory. 10,000 parts are 48 GB."""
_PART = ".part"
_MARK_BYTES = 4
"""Random bytes in the name of an unfinished file."""


class Destination:
    """A folder for downloaded files.

    :param folder: path, URI such as ``s3://conn_id@bucket/prefix/``, or ``ObjectStoragePath``.
    :raises FloraParameterError: the folder is invalid.
    """

    def __init__(self, folder: str | PurePath | ObjectStoragePath) -> None:
        if isinstance(folder, PurePath) and not isinstance(folder, ObjectStoragePath):
            folder = str(folder)
        if not isinstance(folder, (str, ObjectStoragePath)):
            raise FloraParameterError(f"The folder for files must be a path or URI, not {folder!r}.")
        if ".." in str(folder).split("/"):
            # A value from a template must not lead out of the folder.
            raise FloraParameterError(f"The folder {str(folder)!r} must not contain '..'. Use its full path.")
        try:
            path = ObjectStoragePath(folder) if isinstance(folder, str) else folder
            self._fs: AbstractFileSystem = path.fs
            protocol = path.protocol or "file"
            inside = str(path.path)
        except (ValueError, ImportError, TypeError) as error:
            raise FloraParameterError(
                f"The folder {str(folder)!r} cannot be used: {error}. Check that Airflow's provider for this "
                "storage is installed."
            ) from error
        self._is_local = protocol in ("file", "local")
        self._completes_at_once = protocol in _COMPLETED_AT_ONCE
        if self._is_local and not str(folder).startswith(("/", "file:///", "local:///")):
            raise FloraParameterError(
                f"The folder {str(folder)!r} is a relative path. Use an absolute path or a URI such as "
                "s3://bucket/folder."
            )
        inside = inside.rstrip("/")
        self._folder = local_path(inside) if self._is_local else inside
        self._uri = f"file://{inside}" if self._is_local else as_uri(folder).rstrip("/")

    def __str__(self) -> str:
        return f"{self._uri}/"

    def uri(self, name: str) -> str:
        """Return the URI of a file, with its connection. ``ObjectStoragePath(uri)`` opens it."""
        return f"{self._uri}/{name}"

    def find(self, name: str) -> Stored | None:
        """Return a file of the folder, or ``None`` if it does not exist.

        A folder of that name does not count: storages show one for each key with a further slash.
        """
        with self._storage_errors(name):
            self._fs.invalidate_cache(self._folder)
            try:
                found: dict[str, Any] = self._fs.info(self._path(name))
            except FileNotFoundError:
                return None
        return stored_of(found)

    def read(self, name: str) -> bytes | None:
        """Return the content of a small file of the folder, or ``None`` if it does not exist."""
        with self._storage_errors(name):
            self._fs.invalidate_cache(self._folder)
            try:
                return bytes(self._fs.cat_file(self._path(name)))
            except FileNotFoundError:
                return None

    def delete(self, name: str) -> None:
        """Delete a file of the folder, if it exists."""
        with self._storage_errors(name), suppress(FileNotFoundError):
            self._fs.rm_file(self._path(name))

    def compute_digests(self, name: str) -> tuple[str, str]:
        """Return the SHA-256 and MD5 of an existing file, in hex."""
        sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        with self._storage_errors(name), self._fs.open(self._path(name), "rb", block_size=PART_BYTES) as file:
            while chunk := file.read(1024 * 1024):
                sha256.update(chunk)
                md5.update(chunk)
        return sha256.hexdigest(), md5.hexdigest()

    def check(self) -> None:
        """Check that the folder is writable, by beginning a file and discarding it.

        :raises FloraStorageError: the folder is not writable.
        """
        try:
            with self.writing(f"flora-{secrets.token_hex(4)}") as sink:
                sink.write(b"-")
                sink.close()
        except FloraStorageError as error:
            why = error.__cause__
            raise FloraStorageError(
                f"The folder {self} is not writable ({type(why).__name__}: {why}). Nothing was started or "
                "charged. Check that the folder or bucket exists, and that the worker may write to it."
            ) from why

    @contextmanager
    def writing(self, name: str) -> Iterator[_Sink]:
        """Open a new file for writing. It exists once ``finish`` is called.

        Without ``finish``, or after an error, nothing remains.
        """
        with self._storage_errors(name):
            sink = _AtomicUpload(self._fs, self._path(name)) if self._completes_at_once else self._open_hidden(name)
        try:
            yield _Sink(self, name, sink)
        finally:
            sink.discard()

    def _open_hidden(self, name: str) -> _HiddenFile:
        self._fs.makedirs(self._folder, exist_ok=True)
        self._remove_leftovers(name)
        hidden = self._path(f".{name}.{secrets.token_hex(_MARK_BYTES)}{_PART}")
        return _HiddenFile(self._fs, hidden, self._path(name), self._is_local)

    def _remove_leftovers(self, name: str) -> None:
        # Not those of a file whose name only begins with this one.
        left = re.compile(
            rf"\.{re.escape(self._local_name(name))}\.[0-9a-f]{{{2 * _MARK_BYTES}}}{re.escape(_PART)}"
        )
        self._fs.invalidate_cache(self._folder)
        for entry in self._fs.ls(self._folder, detail=False):
            last = str(entry).rpartition("/")[2]
            if left.fullmatch(last):
                with suppress(FileNotFoundError):
                    self._fs.rm_file(f"{self._folder}/{last}")

    def _path(self, name: str) -> str:
        return f"{self._folder}/{self._local_name(name)}"

    def _local_name(self, name: str) -> str:
        return local_path(name) if self._is_local else name

    @contextmanager
    def _storage_errors(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # each storage has its own errors
            raise FloraStorageError(
                f"{self.uri(name)} could not be stored: {type(error).__name__}: {error}"
            ) from error


class _Sink:
    """A file that is being written."""

    def __init__(self, destination: Destination, name: str, target: _AtomicUpload | _HiddenFile) -> None:
        self._destination = destination
        self._name = name
        self._target = target

    def write(self, chunk: bytes) -> None:
        """Write a chunk."""
        with self._destination._storage_errors(self._name):
            self._target.file.write(chunk)

    def close(self) -> None:
        """Send the rest of the bytes. The file does not exist yet."""
        with self._destination._storage_errors(self._name):
            self._target.file.close()

    def finish(self) -> None:
        """Make the file appear under its name, in one step."""
        self.close()
        with self._destination._storage_errors(self._name):
            self._target.publish()


class _AtomicUpload:
    """An object that appears when its upload is complete."""

    def __init__(self, fs: AbstractFileSystem, path: str) -> None:
        self.file = fs.open(path, "wb", block_size=PART_BYTES, autocommit=False)
        self._is_published = False

    def publish(self) -> None:
        self.file.commit()
        self._is_published = True

    def discard(self) -> None:
        if self._is_published:
            return
        with suppress(Exception):  # the object does not exist in any case
            self.file.discard()
        self.file.closed = True  # otherwise the destructor would send the rest


class _HiddenFile:
    """A hidden file that is renamed when it is complete."""

    def __init__(self, fs: AbstractFileSystem, hidden: str, path: str, is_local: bool) -> None:
        self.file = fs.open(hidden, "wb")
        self._fs = fs
        self._hidden = hidden
        self._path = path
        self._is_local = is_local
        self._is_published = False

    def publish(self) -> None:
        if self._is_local:
            os.replace(self._hidden, self._path)  # noqa: PTH105
        else:
            self._fs.mv(self._hidden, self._path)
        self._is_published = True

    def discard(self) -> None:
        if self._is_published:
            return
        with suppress(Exception):
            self.file.close()
        with suppress(Exception):
            self._fs.rm_file(self._hidden)
