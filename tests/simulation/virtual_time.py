"""Virtual time: one clock, one queue of events, and everything that waits.

Synchronous code runs in greenlets, one for each process that is played, so that ``time.sleep`` lets the others
go on; asynchronous code runs on a loop of its own that takes its turns from the same queue. Nothing sleeps, and
what happens at one moment happens in the order in which it was asked for: the same history each time.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any

import greenlet

EPOCH = 1_790_000_000.25
"""Unix time (s) at which histories begin, by Flora's clock."""
BEGIN = 1000.0
MOST_STEPS = 60_000
SHORTEST_SLEEP = 1e-6

real_time, real_monotonic, real_sleep = time.time, time.monotonic, time.sleep


class Crash(BaseException):
    """The process is gone: nothing that it still does while it unwinds has any effect."""


class EndlessError(Exception):
    """The history goes on and on."""


class Fiber(greenlet.greenlet):
    """Synchronous code that takes its turn with others."""

    process: Process


class Process:
    """Something with a clock, which may die.

    :param skew: seconds by which its clock is ahead of Flora's.
    """

    __slots__ = (
        "alarm",
        "alive",
        "answers",
        "dies_at",
        "effects",
        "fiber",
        "is_zombie",
        "keeps_records",
        "name",
        "on_death",
        "skew",
        "suspended",
        "task",
        "watched",
    )

    def __init__(self, name: str, skew: float = 0.0, task: Any = None) -> None:
        self.name = name
        self.skew = skew
        self.task = task
        self.alive = True
        self.effects = 0
        self.answers = 0
        self.dies_at = 0
        self.alarm: tuple[float, type[BaseException]] | None = None
        self.fiber: Fiber | None = None
        self.watched: Callable[[str], None] | None = None
        self.on_death: Callable[[], None] | None = None
        """What ends the rest of a process of which one thread or loop has met its death."""
        self.keeps_records = False
        self.suspended = 0.0
        """Seconds for which its machine was suspended: its monotonic clock has not counted them."""
        self.is_zombie = False
        """Whether Airflow takes it for dead, and takes nothing from it any more."""

    def effect(self, what: str) -> None:
        """Pass a point between two effects, at which the process may die.

        :raises Crash: it does.
        """
        if not self.alive:
            raise Crash
        self.effects += 1
        if self.effects == self.dies_at:
            self.alive = False
            if self.watched is not None:
                self.watched(what)
            if self.on_death is not None:
                self.on_death()
            raise Crash


NOBODY = Process("nobody")


class Hub:
    """The clock and what is to happen next."""

    def __init__(self) -> None:
        self.now = BEGIN
        self.steps = 0
        self.process = NOBODY
        self._queue: list[tuple[float, int, Callable[..., Any], tuple[Any, ...]]] = []
        self._count = 0
        self._main = greenlet.getcurrent()

    # --- events -------------------------------------------------------------------------------------------

    def at(self, when: float, call: Callable[..., Any], *arguments: Any) -> None:
        """Have something called at a moment."""
        self._count += 1
        heapq.heappush(self._queue, (when, self._count, call, arguments))

    def run(self, over: Callable[[], bool]) -> None:
        """Let time pass until it is over.

        :raises EndlessError: it does not end.
        """
        queue = self._queue
        while not over():
            if not queue:
                raise EndlessError("everybody waits, and nothing will happen any more")
            when, _, call, arguments = heapq.heappop(queue)
            if when > self.now:
                self.now = when
            self._step()
            call(*arguments)

    def _step(self) -> None:
        self.steps += 1
        if self.steps > MOST_STEPS:
            raise EndlessError(f"after {MOST_STEPS} steps it still goes on")

    # --- synchronous code ---------------------------------------------------------------------------------

    def spawn(self, process: Process, run: Callable[[], None]) -> None:
        """Begin a process now."""
        fiber = Fiber(run, self._main)
        fiber.process = process
        process.fiber = fiber
        self.at(self.now, self._begin, fiber)

    def kill(self, process: Process) -> None:
        """Kill a process at once. From the main greenlet only."""
        process.alive = False
        fiber = process.fiber
        if fiber is not None and not fiber.dead:
            self._enter(process)
            fiber.throw(Crash)

    def sleep(self, seconds: float) -> None:
        """Let a synchronous process wait."""
        process = self.process
        if not process.alive:
            raise Crash
        fiber = greenlet.getcurrent()
        if not isinstance(fiber, Fiber):
            raise RuntimeError("time.sleep blocks the triggerer's event loop")
        wake = self.now + max(seconds, SHORTEST_SLEEP)
        alarm = process.alarm if fiber is process.fiber else None  # Python's signals come to the main thread
        if alarm is not None and alarm[0] <= wake:
            wake = max(alarm[0], self.now)
        if self._queue and self._queue[0][0] <= wake:
            self.at(wake, self._resume, fiber)
            self._main.switch()
        else:
            self._step()
            self.now = wake
        if alarm is not None and process.alarm is alarm and alarm[0] <= self.now:
            process.alarm = None
            raise alarm[1]

    def suspend(self, seconds: float) -> None:
        """Suspend the machine of the process that runs."""
        process = self.process
        self.sleep(seconds)
        process.suspended += seconds

    def wait(self) -> Any:
        """Let a synchronous process wait until it is woken."""
        return self._main.switch()

    def wake(self, fiber: Fiber, value: Any = None) -> None:
        """Wake a process that waits."""
        self.at(self.now, self._resume, fiber, value)

    def _begin(self, fiber: Fiber) -> None:
        if fiber.process.alive:
            self._enter(fiber.process)
            fiber.switch()

    def _resume(self, fiber: Fiber, value: Any = None) -> None:
        if fiber.process.alive and not fiber.dead:
            self._enter(fiber.process)
            fiber.switch(value)

    def _enter(self, process: Process) -> None:
        self.process = process


class Lock:
    """In place of a lock of threads. A real one would block them all, since all fibers are one thread."""

    def __init__(self) -> None:
        self._owner: Any = None
        self._waiting: list[Any] = []

    def __enter__(self) -> None:
        fiber = greenlet.getcurrent()
        while self._owner is not None:
            if not clock.hub.process.alive:
                raise Crash
            self._waiting.append(fiber)
            clock.hub.wait()
        self._owner = fiber

    def __exit__(self, *_: object) -> None:
        self._owner = None
        for fiber in self._waiting:
            clock.hub.wake(fiber)
        self._waiting.clear()


class Loop(asyncio.AbstractEventLoop):
    """An event loop of one process, whose time is the hub's. It has no sockets and no threads."""

    def __init__(self, hub: Hub, process: Process, complain: Callable[[str], None]) -> None:
        self._hub = hub
        self._process = process
        self._complain = complain
        self._ready: deque[asyncio.Handle] = deque()
        self._tasks: list[asyncio.Task[Any]] = []
        self._fibers: list[Fiber] = []
        self._is_closed = False
        self._is_due = False

    def kill(self) -> None:
        """End it as a process ends: nothing of it runs any more."""
        self._process.alive = False
        self._hub.process = self._process
        self._is_closed = True
        self._ready.clear()
        for task in self._tasks:
            if not task.done():
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                with suppress(BaseException):  # whatever it wants to do now, it cannot
                    task.get_coro().close()  # type: ignore[union-attr]
        self._ready.clear()
        self._tasks.clear()

    def time(self) -> float:
        return self._hub.now

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return not self._process.alive

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Coroutine[Any, Any, Any], **options: Any) -> asyncio.Task[Any]:
        task = asyncio.Task(coro, loop=self, **options)
        self._tasks.append(task)
        return task

    def call_soon(self, callback: Callable[..., Any], *args: Any, context: Any = None) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        if self._process.alive and not self._is_closed:
            self._ready.append(handle)
            if not self._is_due:
                self._is_due = True
                self._hub.at(self._hub.now, self._run_ready)
        return handle

    def call_later(
        self, delay: float, callback: Callable[..., Any], *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._hub.now + max(delay, SHORTEST_SLEEP), callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[..., Any], *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        if self._process.alive:
            self._hub.at(when, self._run_timer, handle)
        return handle

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, call: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Run synchronous code in a thread: in a fiber of its own."""
        future = self.create_future()

        def run() -> None:
            try:
                end = partial(future.set_result, call(*args))
            except Crash:
                return
            except BaseException as error:
                end = partial(future.set_exception, error)
            self.call_soon(lambda: future.done() or end())

        fiber = Fiber(run, self._hub._main)
        fiber.process = self._process
        self._fibers.append(fiber)
        self._hub.at(self._hub.now, self._hub._begin, fiber)
        return future

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self._complain(f"{context.get('message')}: {context.get('exception')!r}")

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self.call_exception_handler(context)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        pass

    def _run_timer(self, handle: asyncio.TimerHandle) -> None:
        if not handle.cancelled() and self._process.alive and not self._is_closed:
            self._ready.append(handle)
            self._run_ready()

    def _run_ready(self) -> None:
        hub, ready = self._hub, self._ready
        hub._enter(self._process)
        events._set_running_loop(self)
        try:
            while ready:
                hub._step()
                handle = ready.popleft()
                if not handle._cancelled:
                    handle._run()
        finally:
            events._set_running_loop(None)
            self._is_due = False


def run_coroutine(coroutine: Coroutine[Any, Any, Any], complain: Callable[[str], None]) -> Any:
    """Do what ``asyncio.run`` does, in a process that is played: its loop runs while its main thread waits."""
    hub = clock.hub
    assert hub is not None
    process, fiber = hub.process, greenlet.getcurrent()
    assert isinstance(fiber, Fiber)
    loop = Loop(hub, process, complain)
    ended: list[Any] = []

    async def run() -> None:
        try:
            ended[:] = [await coroutine, None]
        except BaseException as error:
            ended[:] = [None, error]
        hub.wake(fiber)

    def bury() -> None:
        hub.kill(process)
        for other in loop._fibers:
            if other and not other.dead:  # one that has not begun never will
                hub._enter(process)
                other.throw(Crash)

    def ring() -> None:
        alarm = process.alarm
        if alarm is not None and process.alive and not ended and not fiber.dead:
            process.alarm = None
            hub._enter(process)
            fiber.throw(alarm[1])

    process.on_death = lambda: hub.at(hub.now, bury)
    if process.alarm is not None:
        hub.at(process.alarm[0], ring)
    loop.create_task(run())
    try:
        hub.wait()
    finally:
        process.on_death = None
        alive = process.alive
        loop.kill()
        process.alive = alive
        hub.process = process
    if ended[1] is not None:
        raise ended[1]
    return ended[0]


class Clock:
    """``time`` as the code that runs sees it: a hub's while there is one, else the real one."""

    hub: Hub | None = None

    def time(self) -> float:
        hub = self.hub
        return real_time() if hub is None else EPOCH + (hub.now - BEGIN) + hub.process.skew

    def monotonic(self) -> float:
        hub = self.hub
        return real_monotonic() if hub is None else hub.now - hub.process.suspended

    def sleep(self, seconds: float) -> None:
        hub = self.hub
        if hub is None:
            real_sleep(seconds)
        else:
            hub.process.effect("sleep")
            hub.sleep(seconds)


clock = Clock()


def install() -> None:
    """Put the clock into the place of the real one."""
    time.time, time.monotonic, time.sleep = clock.time, clock.monotonic, clock.sleep
