"""A Flora with scripted answers over real sockets, and everything that a broken network can send."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

Reply = bytes | Callable[[socket.socket], bool]
"""What to send, or what to do with the connection; it returns whether the connection stays open."""


@dataclass(frozen=True)
class Received:
    """A request as it came over the wire."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def answer(
    body: Any = b"", status: int = 200, content_type: str = "application/json", **headers: str | int
) -> bytes:
    """A whole answer, its connection kept."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} Words", f"content-type: {content_type}", f"content-length: {len(content)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + content


def error(status: int, code: str = "some_code", message: str = "Some words.", **headers: str | int) -> bytes:
    """An error as Flora words it."""
    return answer({"error": {"code": code, "message": message}}, status, **headers)


def run_json(status: str = "running", **fields: Any) -> dict[str, Any]:
    """A run on the wire."""
    return {"run_id": "run_1", "status": status, "progress": 10, "created_at": 1, **fields}


def cut(content: bytes) -> Callable[[socket.socket], bool]:
    """Send this, then close the connection in an orderly way."""

    def reply(connection: socket.socket) -> bool:
        connection.sendall(content)
        return False

    return reply


def reset(connection: socket.socket) -> bool:
    """Reset the connection without an answer."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return False


class Silence:
    """Send a beginning, then nothing more until the test is over."""

    def __init__(self, content: bytes = b"") -> None:
        self._content = content
        self.over = threading.Event()

    def __call__(self, connection: socket.socket) -> bool:
        connection.sendall(self._content)
        self.over.wait(20)
        return False


class Drip:
    """Send a beginning, then one byte after the other for as long as somebody listens."""

    def __init__(self, content: bytes, *, every: float, times: int = 1000, piece: bytes = b" ") -> None:
        self._content, self._every, self._times, self._piece = content, every, times, piece
        self.over = threading.Event()

    def __call__(self, connection: socket.socket) -> bool:
        connection.sendall(self._content)
        for _ in range(self._times):
            if self.over.wait(self._every):
                break
            connection.sendall(self._piece)
        return False


class LoopbackServer:
    """Accepts connections on this machine, and serves each in a thread of its own."""

    def __init__(self) -> None:
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            connection.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        raise NotImplementedError


class ScriptedFlora(LoopbackServer):
    """Answers the first request with the first reply, and so on; the last reply is for all that follow.

    ``requests`` are those that came, ``connections`` how many were made, ``most_at_once`` how many requests were
    under way at the same time.
    """

    def __init__(self, *replies: Reply) -> None:
        super().__init__()
        self._replies = replies or (answer(run_json("completed", charged_cost=0.5)),)
        self.requests: list[Received] = []
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()
        self.origin = f"http://127.0.0.1:{self.port}"
        self.base_url = f"{self.origin}/api/v1"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for reply in self._replies:
            if isinstance(reply, (Silence, Drip)):
                reply.over.set()
        super().__exit__(kind, error, traceback)

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection:
                while self._serve_one(connection):
                    pass
        except OSError:
            pass  # the client has gone

    def _serve_one(self, connection: socket.socket) -> bool:
        request = _receive(connection)
        if request is None:
            return False
        with self._lock:
            reply = self._replies[min(len(self.requests), len(self._replies) - 1)]
            self.requests.append(request)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            if not isinstance(reply, bytes):
                return reply(connection)
            connection.sendall(reply)
            return True
        finally:
            with self._lock:
                self._at_once -= 1


def _receive(connection: socket.socket) -> Received | None:
    received = b""
    while b"\r\n\r\n" not in received:
        piece = connection.recv(65536)
        if not piece:
            return None
        received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    method, target, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    while len(body) < int(headers.get("content-length", 0)):
        body += connection.recv(65536)
    return Received(method, target, headers, body)
