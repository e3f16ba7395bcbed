"""A Flora that answers with texts that the emulator never makes: hostile names, many techniques, odd times."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


class StandIn:
    """It serves ``techniques`` and ``runs``, which are Flora's JSON, in pages."""

    def __init__(self) -> None:
        self.techniques: list[dict[str, Any]] = []
        self.runs: list[dict[str, Any]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.base_url = f"http://127.0.0.1:{self._server.server_address[1]}/api/v1"

    def __enter__(self) -> StandIn:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, url: str) -> tuple[int, Any]:
        """Return the status and the body of an answer."""
        parts = urlsplit(url)
        path = unquote(parts.path).removeprefix("/api/v1/")
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        name = {"techniques": "techniques", "technique-runs": "technique_runs"}.get(path)
        if name is not None:
            every = self.techniques if name == "techniques" else self.runs
            begin = int(query.get("cursor", 0))
            end = begin + int(query["limit"])
            return 200, {name: every[begin:end], "meta": {"next_cursor": str(end) if end < len(every) else None}}
        wanted = path.removeprefix("techniques/")
        found = [one for one in self.techniques if wanted in (one["technique_id"], one.get("slug"))]
        return (200, found[0]) if found else (404, {"error": {"code": "not_found", "message": "Not found."}})

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                status, body = stand_in.answer(self.path)
                content = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                """Print nothing."""

        return Handler
