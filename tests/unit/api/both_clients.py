"""Both clients behind one face, so that each test of behaviour is written once and run for both."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from airflow_provider_flora.api.aio import AsyncFloraClient
from airflow_provider_flora.api.settings import ClientSettings

KEY = "sk_test_that_must_not_be_seen_anywhere"

MakeClient = Callable[..., Any]


class OnALoopOfItsOwn:
    """An ``AsyncFloraClient`` that is called like a ``FloraClient``."""

    def __init__(self, settings: ClientSettings) -> None:
        self._loop = asyncio.new_event_loop()
        self.wrapped = self._loop.run_until_complete(self._made(settings))

    async def _made(self, settings: ClientSettings) -> AsyncFloraClient:
        return AsyncFloraClient(settings)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self.wrapped, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            result = method(*args, **kwargs)
            if isinstance(result, AsyncIterator):
                return self._walk(result)
            return self._loop.run_until_complete(result)

        return call

    def _walk(self, items: AsyncIterator[Any]) -> Iterator[Any]:
        while True:
            try:
                yield self._loop.run_until_complete(anext(items))
            except StopAsyncIteration:
                return

    def close(self) -> None:
        self._loop.run_until_complete(self.wrapped.close())
        self._loop.close()


class FakeTime:
    """A clock that moves only when somebody sleeps by it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        assert len(self.slept) < 2000, "this wait does not end"
        self.slept.append(seconds)
        self.now += seconds

    async def asleep(self, seconds: float) -> None:
        self.sleep(seconds)


def everything_in(error: BaseException) -> str:
    """Return what an error and all that it was raised from show anywhere."""
    printed = ["".join(traceback.format_exception(error))]
    pending, seen = [error], set()
    while pending:
        one = pending.pop()
        if id(one) not in seen:
            seen.add(id(one))
            printed += [str(one), repr(one), repr(one.args), repr(vars(one))]
            linked = one.__cause__ if one.__suppress_context__ else one.__context__
            pending += [linked] if linked is not None else []
    return "\n".join(printed)
