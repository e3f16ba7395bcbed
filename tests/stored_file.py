"""A file in a storage, written as a task writes it. Needs no Airflow."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any


def store_file(path: Path, content: bytes, media_type: str, output_id: str) -> dict[str, Any]:
    """Write a file, and return what the XCom `files` has of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return {
        "uri": f"file://{path}",
        "media_type": media_type,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "output_id": output_id,
    }
