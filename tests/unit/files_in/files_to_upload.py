"""Files to upload, where they lie, and the key that must never be seen with them."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from PIL import Image

API_KEY = "sk_test_never_to_be_seen_4711"
LARGE = 4 * 1024 * 1024 + 1
Connect = Callable[..., None]


def picture(width: int = 8, height: int = 6, form: str = "PNG") -> bytes:
    """A picture that is one."""
    file = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(file, form)
    return file.getvalue()


def attach_memory(conn_id: str | None = None) -> Any:
    """Let Airflow know of a storage that is no local disk, reached by a connection."""
    from fsspec.implementations.memory import MemoryFileSystem

    try:
        from airflow.sdk.io import attach
    except ImportError:
        from airflow.io.store import attach
    filesystem = MemoryFileSystem()
    attach("memory", conn_id, fs=filesystem)
    return filesystem
