"""A server that costs as little as one can: it gives files with ``sendfile`` and throws away what it is sent.

``python -m benchmarks.bytes_server FOLDER`` serves the files of ``FOLDER`` below ``/media/`` and takes uploads at
``/upload``; of Flora's API it has what the upload of a large file asks for. Prints its address.
"""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

PIECE = memoryview(bytearray(1024 * 1024))


class Handler(BaseHTTPRequestHandler):
    """Answers one connection."""

    protocol_version = "HTTP/1.1"
    folder: Path

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """Give the file, or the asset."""
        if not self.path.startswith("/media/"):
            self._answer(self._asset("ready"))
            return
        path = self.folder / self.path.rpartition("/")[2]
        self.send_response(200)
        self.send_header("Content-Type", "video/mp4")
        self.send_header("Content-Length", str(path.stat().st_size))
        self.end_headers()
        with path.open("rb") as file:
            self.connection.sendfile(file)

    def do_POST(self) -> None:
        """Take an upload, or reserve a place for one."""
        left = int(self.headers.get("Content-Length", "0"))
        while left and (count := self.rfile.readinto(PIECE[: min(left, len(PIECE))])):  # type: ignore[attr-defined]
            left -= count
        if self.path == "/upload":
            self.send_response(204)
            self.end_headers()
        else:
            self._answer(self._asset("pending_upload"))

    def _asset(self, status: str) -> dict[str, Any]:
        origin = f"http://{self.headers['Host']}"
        fields = {"key": "uploads/asset_bench"}
        upload = {"url": f"{origin}/upload", "method": "POST", "file_field": "file", "form_fields": fields}
        return {"asset_id": "asset_bench", "status": status, "url": f"{origin}/media/asset_bench", "upload": upload}

    def _answer(self, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class BytesServer(ThreadingHTTPServer):
    """Serves each connection in a thread."""

    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """Say nothing: a client that ends leaves its connection."""


if __name__ == "__main__":
    Handler.folder = Path(sys.argv[1])
    server = BytesServer(("127.0.0.1", 0), Handler)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
