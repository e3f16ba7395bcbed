"""Names of files on this machine, in any locale of the worker. Other storages accept any name."""

from __future__ import annotations

import os
from contextlib import suppress


def local_path(path: str) -> str:
    """Return a path in a form that this process can open.

    In a locale other than UTF-8, Python cannot encode some names. Those are passed as UTF-8 bytes. Invalid names
    stay as they are.
    """
    with suppress(UnicodeEncodeError):
        os.fsencode(path)
        return path
    with suppress(UnicodeEncodeError):
        return os.fsdecode(path.encode(errors="surrogateescape"))
    return path
