"""Files that one user's tasks on one machine share, since Airflow runs each task in its own process.

Only their user can read them. Their names are digests, and their content never has the API key. Whoever uses them
has to do without: there may be no writable folder, and a system may empty it at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import tenacity

from airflow_provider_flora.api.errors import FloraStorageError

LOCK_WITHIN = 60.0
"""Seconds that a task waits for another one that has locked a file."""
LOCK_INTERVAL = 0.1
"""Seconds between two tries to lock a file."""


def _own_folder() -> Path | None:
    try:
        return Path(tempfile.gettempdir(), f"airflow-flora-{os.getuid()}")
    except (OSError, AttributeError):  # no writable folder, or a system without users
        return None


FOLDER = _own_folder()


class SharedFile:
    """A file that tasks share.

    :param kind: what the file is for. Files of one kind are removed when they are too old.
    :param key: what tasks have in common that share the file. It may be secret: only its digest is kept.
    :param lifetime: seconds after which the file counts as missing.
    """

    def __init__(self, kind: str, key: list[str], lifetime: float) -> None:
        self._kind = kind
        digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()
        self._name, self._lock = f"{digest}.{kind}", f"{digest}.lock-{kind}"
        self._lifetime = lifetime

    def read(self) -> bytes | None:
        """Return the content; ``None`` if there is none that is recent."""
        if FOLDER is None:
            return None
        with suppress(OSError):
            file = FOLDER / self._name
            if _is_ours(FOLDER) and self._is_recent(file):
                return file.read_bytes()
        return None

    def write(self, content: bytes, moment: float) -> None:
        """Replace the content, if that is possible.

        :param moment: unix time (s) from which on it is as old as that.
        """
        if FOLDER is None:
            return
        with suppress(OSError):
            if not _make(FOLDER):
                return
            for file in FOLDER.glob(f"*.{self._kind}*"):
                if not self._is_recent(file):
                    file.unlink(missing_ok=True)
            # Under another name first, since other tasks read the file meanwhile.
            beside = FOLDER / f"{self._name}.{secrets.token_hex(4)}"
            beside.write_bytes(content)
            os.utime(beside, (moment, moment))
            beside.replace(FOLDER / self._name)

    def remove(self) -> None:
        """Remove the file, if it is there."""
        if FOLDER is not None:
            with suppress(OSError):
                if _is_ours(FOLDER):
                    (FOLDER / self._name).unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other tasks from locking the file meanwhile. Without a folder, nothing does.

        :raises FloraStorageError: another task has had the lock for too long. A retry may help.
        """
        descriptor = self._open_lock()
        try:
            if descriptor is not None:
                self._wait_for(descriptor)
            yield
        finally:
            if descriptor is not None:
                os.close(descriptor)  # which unlocks it, as the end of the process would

    def _open_lock(self) -> int | None:
        if FOLDER is None:
            return None
        with suppress(OSError):
            if _make(FOLDER):
                # Never removed: whoever has it open would no longer keep others out.
                return os.open(FOLDER / self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        return None

    def _wait_for(self, descriptor: int) -> None:
        import fcntl  # not on Windows, where there is no folder either

        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_delay(LOCK_WITHIN),
            wait=tenacity.wait_fixed(LOCK_INTERVAL),
            retry=tenacity.retry_if_exception_type(BlockingIOError),
            reraise=True,
        )
        try:
            retrying(fcntl.flock, descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FloraStorageError(
                f"Another task on this machine has locked {FOLDER}/{self._lock} for {LOCK_WITHIN:.0f} s. "
                "Nothing was started."
            ) from None
        except OSError:  # a file system without locks
            return

    def _is_recent(self, file: Path) -> bool:
        return 0 <= time.time() - file.stat().st_mtime < self._lifetime


def _make(folder: Path) -> bool:
    """Make the folder if it is missing. Return whether it is safe to use."""
    folder.mkdir(mode=0o700, exist_ok=True)
    return _is_ours(folder)


def _is_ours(folder: Path) -> bool:
    """Whether only this user can write to the folder, since prices are read from it."""
    status = folder.lstat()
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077
