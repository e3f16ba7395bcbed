"""What each fault does to an answer. Which faults a request meets is decided in ``orders.py``."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator
from http.client import responses

from aiohttp import web

from airflow_provider_flora.emulator.faults.orders import Fault
from airflow_provider_flora.emulator.http.errors import ApiError

OVERSIZE = 17 * 1024 * 1024
_POLL_INTERVAL = 0.05  # seconds between two checks whether the client is still connected
_HTML = "<html><head><title>{0}</title></head><body><center><h1>{0}</h1></center></body></html>"

Answer = web.StreamResponse | None


class ConnectionReset(Exception):  # noqa: N818  a fault, not an error
    """The connection was reset, so there is no client to answer."""


async def break_answer(fault: Fault, request: web.Request, answer: Answer) -> Answer:
    """Apply one fault to the answer.

    :param fault: the fault that fires.
    :param request: the request.
    :param answer: the answer so far; ``None`` before the request is processed.
    :raises ApiError: when the fault is an error of the API.
    :raises ConnectionReset: when the client can get no answer any more.
    """
    streamed = answer is not None and answer.prepared
    if streamed and fault.kind not in ("reset", "delay"):
        return answer  # It was sent already.
    return await _ACTIONS[fault.kind](fault, request, answer)


async def break_with(faults: Iterator[Fault], request: web.Request, answer: Answer = None) -> Answer:
    """Apply these faults to the answer, one after the other.

    :param faults: the faults that the request meets.
    :param request: the request.
    :param answer: the answer so far; ``None`` before the request is processed. The first fault that gives an answer
        then is the last to fire.
    :raises ApiError: when a fault is an error of the API.
    :raises ConnectionReset: when the client can get no answer any more.
    """
    processed = answer is not None
    for fault in faults:
        answer = await break_answer(fault, request, answer)
        if answer is not None and not processed:
            break
    return answer


async def answer_as_proxy(how: str, request: web.Request) -> web.Response:
    """Answer as a proxy that does not wait for Flora any longer.

    :param how: the ``answer`` of a slow start: a status, ``html``, ``cut_json``, ``reset`` or ``timeout``.
    :param request: the request.
    :raises ConnectionReset: when the client can get no answer any more.
    """
    if how == "reset":
        _abort(request)
        raise ConnectionReset
    if how == "timeout":
        # aiohttp has no other way to report a lost connection to a handler.
        while request.transport is not None and not request.transport.is_closing():  # noqa: ASYNC110
            await asyncio.sleep(_POLL_INTERVAL)
        raise ConnectionReset
    if how == "cut_json":
        return web.Response(text='{"run_id":"run_', content_type="application/json")
    return _answer_page(200 if how == "html" else int(how))


async def _status(fault: Fault, request: web.Request, answer: Answer) -> Answer:
    words = fault.words
    headers = {} if words["retry_after"] is None else {"retry-after": str(words["retry_after"])}
    raise ApiError(words["status"], words["code"], words["message"], headers=headers)


async def _rate_limit(fault: Fault, request: web.Request, answer: Answer) -> Answer:
    raise ApiError(429, headers={"retry-after": str(fault.wait)} if fault.words["retry_after"] else None)


async def _html(fault: Fault, request: web.Request, answer: Answer) -> Answer:
    return _answer_page(fault.words["status"])


def _answer_page(status: int) -> web.Response:
    """The error page of a proxy."""
    title = f"{status} {responses.get(status, '')}".strip()
    return web.Response(status=status, text=_HTML.format(title), content_type="text/html")


async def _redirect(fault: Fault, request: web.Request, answer: Answer) -> Answer:
    return web.Response(status=fault.words["status"], headers={"location": fault.words["location"]})


async def _reset(fault: Fault, request: web.Request, answer: Answer) -> Answer:
    _abort(request)
    raise ConnectionReset


def _abort(request: web.Request) -> None:
    if request.transport is not None:
        # Closing without lingering makes the kernel send RST in place of FIN.
        connection = request.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.transport.abort()


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


async def _leave_to_sender(fault: Fault, request: web.Request, answer: Answer) -> Answer:
    return answer  # ``operations/sending.py`` does it.


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
    "cut_media": _leave_to_sender,
    "short_media": _leave_to_sender,
}
