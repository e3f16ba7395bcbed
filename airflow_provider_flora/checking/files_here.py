"""The files of tasks, as far as this machine can tell. Files of storages are left for run time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from airflow_provider_flora.api.errors import FloraFileError
from airflow_provider_flora.files import storage
from airflow_provider_flora.files.listing import Listing
from airflow_provider_flora.files.storage import Stored, as_uri, file_errors, path_of
from airflow_provider_flora.files.uploads.run_inputs import problem_of
from airflow_provider_flora.files.uploads.source import SourceFile


def is_local(location: Any) -> bool:
    """Whether a path or URI is of a file or folder on a machine, and not in a storage."""
    text = as_uri(location)
    return isinstance(text, str) and storage.is_local(text)


class FilesHere(Listing):
    """The files on this machine. One that a worker may have, or may get, counts as there.

    :param may_be_written: whether tasks come before this one, which may write its files.
    :ivar left: files that are read at run time only, and why.
    """

    def __init__(self, *, may_be_written: bool) -> None:
        super().__init__()
        self._may_be_written = may_be_written
        self.left: dict[str, str] = {}

    def is_missing(self, location: str) -> bool:
        """Whether a file is certainly missing. If that cannot be told, it is left for run time."""
        return not self.is_left(location) and super().find(location) is None

    def check_is_there(self, location: str) -> None:
        """Check that a file is there, or is left for run time.

        :raises FloraFileError: it is missing.
        """
        if self.is_missing(location):
            try:
                with file_errors(location):
                    raise FileNotFoundError
            except FloraFileError as error:
                raise FloraFileError(f"{error} Nothing comes before this task that could write it.") from None

    def is_here(self, location: Any) -> bool:
        """Whether there is such a file on this machine."""
        return is_local(location) and super().find(as_uri(location)) is not None

    def find(self, uri: str) -> Stored | None:
        """Return a file, as :meth:`Listing.find` does. One that is left for run time counts as there."""
        return Stored(0, None) if self.is_left(uri) else super().find(uri)

    def problem(self, name: str, input_type: str) -> str | None:
        """Return the problem of a file for an input type, or ``None`` if none is known."""
        if self.is_left(name):
            return None
        try:
            return problem_of(SourceFile(name), input_type)
        except FloraFileError as error:
            if not error.remedy.retryable:
                return str(error)
            self.left[name] = str(error)
            return None

    def is_left(self, name: str, *, is_stored: bool = False) -> bool:
        """Whether a file is left for run time, since this machine cannot tell about it.

        :param is_stored: whether it is in a storage, although its name is that of a local file.
        """
        if is_stored or not is_local(name):
            self.left[name] = f"{name!r} is in a storage"
        elif super().find(name) is not None:
            return False
        elif not (folder := Path(str(path_of(name))).parent).is_dir():
            self.left[name] = f"{name!r} is not looked for: this machine has no folder {str(folder)!r}"
        elif self._may_be_written:
            self.left[name] = f"{name!r} is not there yet: a task before this one may write it"
        return name in self.left
