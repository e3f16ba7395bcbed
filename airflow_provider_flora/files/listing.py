"""Size and version of many files in any storage. Each folder is listed once, so 10,000 files cost ten requests."""

from __future__ import annotations

import errno
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_flora.files.storage import Stored, file_errors, is_local, path_of, stored_of

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem  # type: ignore[import-untyped]

_NO_SUCH_FILE = {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP}


def find_file(uri: str) -> Stored | None:
    """Return one file, or ``None`` if it does not exist. Its folder is not listed.

    :param uri: path, or URI such as ``s3://conn_id@bucket/key``.
    :raises FloraFileError: the storage cannot be read.
    """
    with file_errors(uri):
        path = path_of(uri)
        return _find_local(path) if isinstance(path, Path) else _find_stored(path)


class Listing:
    """The files of storages, as they were when their folders were listed. Create a new one to look again."""

    def __init__(self) -> None:
        self._folders: dict[str, _Folder] = {}

    def find(self, uri: str) -> Stored | None:
        """Return a file, or ``None`` if it does not exist.

        :param uri: path, or URI such as ``s3://conn_id@bucket/key``.
        :raises FloraFileError: the storage cannot be read.
        """
        with file_errors(uri):
            if is_local(uri):
                path = path_of(uri)
                return _find_local(path) if isinstance(path, Path) else None
            folder, _, name = uri.rpartition("/")
            if not name or folder.endswith(":/"):
                return None  # a folder or a bucket
            if folder not in self._folders:
                self._folders[folder] = _Folder(f"{folder}/")
            return self._folders[folder].find(name, uri)


class _Folder:
    """A folder of a storage.

    :param uri: its URI, with a slash at the end.
    """

    def __init__(self, uri: str) -> None:
        path: Any = path_of(uri)
        self._fs: AbstractFileSystem = path.fs
        self._path = str(path.path).rstrip("/")
        # A listing has no keys with an empty part, such as a//b.
        self._files = None if "//" in uri.partition("://")[2] else self._list()

    def find(self, name: str, uri: str) -> Stored | None:
        """Return a file of the folder, or ``None`` if it does not exist."""
        if self._files is not None:
            return self._files.get(name)
        return _find_stored(path_of(uri))

    def _list(self) -> dict[str, Stored] | None:
        """Return the files by name, or ``None`` if the folder cannot be listed."""
        self._fs.invalidate_cache(self._path)
        try:
            entries = self._fs.ls(self._path, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except (PermissionError, NotImplementedError):
            return None  # the user may read files, but not list them
        finally:
            self._fs.invalidate_cache(self._path)  # a cached listing would stay in memory
        files = {}
        for entry in entries:
            folder, _, name = str(entry["name"]).rpartition("/")
            # Some storages list a file in place of a folder that does not exist.
            if folder.strip("/") == self._path.strip("/") and (stored := stored_of(entry)):
                files[name] = stored
        return files


def _find_stored(path: Any) -> Stored | None:
    path.fs.invalidate_cache(str(path.path).rpartition("/")[0])
    try:
        return stored_of(path.fs.info(path.path))
    except FileNotFoundError:
        return None


def _find_local(path: Path) -> Stored | None:
    try:
        found = path.stat()  # of the target, if it is a link; a listing has the link's own time
    except ValueError:
        return None  # a NUL in the name
    except OSError as error:
        if error.errno in _NO_SUCH_FILE:
            return None
        raise
    if not stat.S_ISREG(found.st_mode):
        return None
    return stored_of({"size": found.st_size, "mtime": found.st_mtime})
