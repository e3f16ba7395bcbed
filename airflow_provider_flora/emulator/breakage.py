"""What each fault does to an answer. When one is due is decided in ``faults.py``."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable

from aiohttp import web

from airflow_provider_flora.emulator.errors import ApiError
from airflow_provider_flora.emulator.faults import Fault

OVERSIZE = 17 * 1024 * 1024
_HTML = (
    "<html><head><title>{0} Bad Gateway</title></head><body><center><h1>{0} Bad Gateway</h1></center></body></html>"
)

Answer = web.StreamResponse | None


class ConnectionReset(Exception):  # noqa: N818  it is what is ordered, not an error
    """The connection was reset, so that there is nobody left to answer."""


async def break_answer(fault: Fault, request: web.Request, answer: Answer) -> Answer:
    """What becomes of the answer.

    :param fault: The fault that fires.
    :param request: The request.
    :param answer: The answer so far; ``None`` when the request was not processed yet.
    :raises ApiError: When the fault is an error of the API.
    :raises ConnectionReset: When nothing can be answered any more.
    """
    streamed = answer is not None and answer.prepared
    if streamed and fault.kind not in ("reset", "delay"):
        return answer  # It is on the wire already.
    return await _ACTIONS[fault.kind](fault, request, answer)


async def _status(fault: Fault, request: web.Request, answer: Answer) -> Answer:
    words = fault.words
    headers = {} if words["retry_after"] is None else {"retry-after": str(words["retry_after"])}
    raise ApiError(words["status"], words["code"], words["message"], headers=headers)


async def _rate_limit(fault: Fault, request: web.Request, answer: Answer) -> Answer:
    raise ApiError(429, headers={"retry-after": str(fault.wait)} if fault.words["retry_after"] else None)


async def _html(fault: Fault, request: web.Request, answer: Answer) -> Answer:
    status = fault.words["status"]
    return web.Response(status=status, text=_HTML.format(status), content_type="text/html")


async def _redirect(fault: Fault, request: web.Request, answer: Answer) -> Answer:
    return web.Response(status=fault.words["status"], headers={"location": fault.words["location"]})


async def _reset(fault: Fault, request: web.Request, answer: Answer) -> Answer:
    if request.transport is not None:
        # Closing without lingering makes the kernel send RST in place of FIN.
        connection = request.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.transport.abort()
    raise ConnectionReset


async def _delay(fault: Fault, request: web.Request, answer: Answer) -> Answer:
    await asyncio.sleep(fault.words["seconds"])
    return answer


async def _cut_json(fault: Fault, request: web.Request, answer: Answer) -> Answer:
    if not isinstance(answer, web.Response) or not isinstance(answer.body, bytes):
        return answer
    return web.Response(
        body=answer.body[: len(answer.body) // 2], content_type=answer.content_type, charset=answer.charset
    )


async def _not_a_run(fault: Fault, request: web.Request, answer: Answer) -> Answer:
    return web.json_response({"ok": True, "message": "Accepted."})


async def _by_the_sender(fault: Fault, request: web.Request, answer: Answer) -> Answer:
    return answer  # ``sending.py`` does it.


async def _oversize(fault: Fault, request: web.Request, answer: Answer) -> Answer:
    stream = web.StreamResponse(headers={"content-type": "application/json; charset=utf-8"})
    await stream.prepare(request)
    try:
        await stream.write(b'{"run_id": "')
        for _ in range(OVERSIZE // 65536):
            await stream.write(b"x" * 65536)
        await stream.write(b'"}')
    except ConnectionError:
        raise ConnectionReset from None
    return stream


_ACTIONS: dict[str, Callable[[Fault, web.Request, Answer], Awaitable[Answer]]] = {
    "status": _status,
    "html": _html,
    "reset": _reset,
    "redirect": _redirect,
    "rate_limit": _rate_limit,
    "outage": _reset,
    "delay": _delay,
    "slow_list": _delay,
    "cut_json": _cut_json,
    "not_a_run": _not_a_run,
    "oversize": _oversize,
    "cut_media": _by_the_sender,
    "short_media": _by_the_sender,
}
