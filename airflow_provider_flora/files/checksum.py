"""The checksum of bytes during an upload or download."""

from __future__ import annotations

import hashlib
import threading
from queue import Queue
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self


class Sha256:
    """A SHA-256 that is computed in its own thread, in parallel with the transfer."""

    def __init__(self) -> None:
        self._sum = hashlib.sha256()
        self._chunks: Queue[bytes] = Queue(maxsize=4)
        self._thread = threading.Thread(target=self._work, name="flora-sha256", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def add(self, chunk: bytes) -> None:
        """Add a chunk. An empty chunk ends the computation."""
        self._chunks.put(chunk)

    def end(self) -> str:
        """Return the checksum in hex."""
        if self._thread.is_alive():
            self._chunks.put(b"")
            self._thread.join()
        return self._sum.hexdigest()

    def _work(self) -> None:
        while chunk := self._chunks.get():
            self._sum.update(chunk)
