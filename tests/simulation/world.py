"""The world of one history, and how the real code is put into it.

Replaced are only the places at which the code leaves its process: moving bytes to Flora, reading a connection,
keeping a technique in a file, the clock, the log, and what gives random ids.
"""

from __future__ import annotations

import importlib
import inspect
import json
import logging
import pkgutil
import random
import re
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from . import virtual_time
from .flora import RESET, UNREACHABLE, Answer, Flora, FloraRun
from .tape import Tape
from .virtual_time import EPOCH, Hub, clock
from .weather import Weather

if TYPE_CHECKING:
    from .airflow_model import Deployment

PACKAGE = "airflow_provider_flora"
answers: Any
exchange: Any


class World:
    """Everything of one history.

    :param replay: choices to take in place of those of the seed.
    :param narrating: whether the story is kept.
    """

    active: World | None = None

    def __init__(self, seed: int, replay: Sequence[int] | None = None, *, narrating: bool = False) -> None:
        self.hub = Hub()
        self.tape = Tape(seed, replay)
        self.weather = Weather(self.tape)
        self.narrating = narrating
        self.story: list[tuple[float, str, str]] = []
        self.findings: list[tuple[str, str]] = []
        self.flora = Flora(self, self.tape.pick(("docs", "site")))
        self.deployments: list[Deployment] = []
        self.kept_techniques: dict[tuple[int, str, str], tuple[float, Any]] = {}
        self.shared_files: dict[tuple[int, str], tuple[float, bytes]] = {}
        """What tasks of a deployment share in files: when it was written, and the content."""
        self.locks: dict[tuple[int, str], object] = {}
        self.ids = 0
        self.on_started: Callable[[FloraRun], None] = lambda run: None

    def narrate(self, text: str, *details: Any) -> None:
        """Add a line to the story; details may be functions, called only where somebody listens."""
        if self.narrating:
            self.narrate_for(self.hub.process.name, text, *details)

    def narrate_for(self, who: str, text: str, *details: Any) -> None:
        """Add a line about somebody who is not a process of Airflow."""
        if self.narrating:
            values = [detail() if callable(detail) else detail for detail in details]
            self.story.append((self.hub.now, who, text.format(*values)))

    def broken(self, promise: str, text: str) -> None:
        """Note that a promise was broken."""
        self.findings.append((promise, text))
        self.narrate_for("BROKEN", "{}: {}", promise, text)

    def started(self, run: FloraRun) -> None:
        """Take note of a run that a start became."""
        self.on_started(run)

    def may_suspend(self) -> None:
        """Suspend, at times, the machine of the process that runs and waits for something."""
        weather, tape = self.weather, self.tape
        if weather.suspensions and not weather.calm and tape.chance(0.1):
            seconds = tape.pick((200.0, 60.0))
            self.narrate("its machine is suspended for {:g} s", seconds)
            self.hub.suspend(seconds)

    def new_id(self, prefix: str) -> str:
        """Return an id that nothing else in this history has."""
        self.ids += 1
        return f"{prefix}-{self.ids:04d}"

    def heal(self) -> None:
        """Begin no more trouble."""
        if not self.weather.calm:
            self.weather.calm = True
            self.flora.limited_until = 0.0
            for deployment in self.deployments:
                deployment.api_key = max(self.flora.api_keys)
            self.narrate_for("world", "nothing goes wrong from now on")


class Log:
    """What a task's or a trigger's log is here."""

    def _line(self, event: str, *args: Any, **_: Any) -> None:
        world = World.active
        if world is not None and world.narrating:
            world.narrate("log: {}", lambda: event % args if args else event)

    debug = info = warning = _line

    def error(self, event: str, *args: Any, **_: Any) -> None:
        self._line(event, *args)

    exception = error


class LibraryLog(logging.Handler):
    """What the package's modules log. An error of theirs is a bug of ours, whatever becomes of it."""

    def emit(self, record: logging.LogRecord) -> None:
        world = World.active
        if world is None or not world.hub.process.alive:
            return
        world.narrate("log: {}", record.getMessage)
        if record.levelno >= logging.ERROR:
            error = f": {record.exc_info[1]!r}" if record.exc_info else ""
            world.broken("no unexpected error", record.getMessage() + error)


# --- moving bytes -----------------------------------------------------------------------------------------


def _deliver(client: Any, request: Any) -> tuple[float, Callable[[], Answer]]:
    world = World.active
    assert world is not None
    settings = client.settings
    content = request.content()
    task = world.hub.process.task
    return world.flora.deliver(
        task, request.method, request.path, request.query, settings.api_key, content, settings.timeout
    )


def _response(client: Any, request: Any, answer: Answer) -> Any:
    if answer.status:
        return exchange.Response(answer.status, answer.headers, answer.body)
    if answer is UNREACHABLE:
        refused = ConnectionRefusedError("Connection refused")
        raise answers.connection_error(request, client.settings, refused, was_sent=False) from refused
    if answer is RESET:
        error = ConnectionResetError("Connection reset by peer")
        raise answers.connection_error(request, client.settings, error) from error
    raise answers.timeout_error(request, client.settings)


def _exchange(client: Any, request: Any) -> Any:
    assert clock.hub is not None
    hub = clock.hub
    process = hub.process
    process.effect("request")
    seconds, outcome = _deliver(client, request)
    process.effect("sent")
    hub.sleep(seconds)
    assert World.active is not None
    World.active.may_suspend()
    process.effect("answer")
    return _response(client, request, outcome())


async def _exchange_async(client: Any, request: Any) -> Any:
    import asyncio

    assert clock.hub is not None
    process = clock.hub.process
    process.effect("request")
    seconds, outcome = _deliver(client, request)
    await asyncio.sleep(seconds)
    process.effect("answer")
    return _response(client, request, outcome())


class _NoSession:
    """What a client holds in place of a session."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def close(self) -> None:
        pass


# --- connections and kept techniques ----------------------------------------------------------------------


def _get_connection(cls: Any, conn_id: str) -> Any:
    world = World.active
    assert world is not None
    world.hub.process.effect("connection")
    return world.deployments[world.hub.process.task.deployment_number].connection(conn_id)


async def _aget_connection(cls: Any, conn_id: str) -> Any:
    return _get_connection(cls, conn_id)


def _read_kept(self: Any) -> Any:
    world = World.active
    assert world is not None
    kept = world.kept_techniques.get(_kept_name(world, self))
    fresh = kept is not None and 0 <= clock.time() - kept[0] < 60.0
    return kept[1] if kept is not None and fresh else None


def _write_kept(self: Any, kept: Any, moment: float) -> None:
    world = World.active
    assert world is not None
    world.kept_techniques[_kept_name(world, self)] = (moment, kept)


def _kept_name(world: World, technique: Any) -> tuple[int, str, str]:
    """Return what a technique is kept under: each deployment has machines of its own."""
    deployment: int = world.hub.process.task.deployment_number
    return deployment, technique._client.settings.api_key, technique._technique_id


def _place_of(file: Any) -> tuple[int, str]:
    """Return what a file that tasks share is kept under: each deployment has machines of its own."""
    assert World.active is not None
    return World.active.hub.process.task.deployment_number, file._name


def _read_shared(self: Any) -> bytes | None:
    assert World.active is not None
    moment, content = World.active.shared_files.get(_place_of(self), (0.0, b""))
    return content if 0 <= clock.time() - moment < self._lifetime else None


def _write_shared(self: Any, content: bytes, moment: float) -> None:
    assert World.active is not None
    World.active.shared_files[_place_of(self)] = (moment, content)


def _remove_shared(self: Any) -> None:
    assert World.active is not None
    World.active.shared_files.pop(_place_of(self), None)


@contextmanager
def _lock_shared(self: Any) -> Iterator[None]:
    world = World.active
    assert world is not None
    place, own = _place_of(self), world.hub.process
    for _ in range(120):
        if not getattr(world.locks.get(place), "alive", False):
            break
        world.hub.sleep(0.5)
    else:
        from airflow_provider_flora.api.errors import FloraStorageError

        raise FloraStorageError("Another task has locked the file.")
    world.locks[place] = own
    try:
        yield
    finally:
        if world.locks.get(place) is own:
            del world.locks[place]


def _uuid4() -> uuid.UUID:
    return uuid.UUID(int=random.getrandbits(128), version=4)


def install() -> None:
    """Put the real code of this interpreter into modelled worlds, for good."""
    virtual_time.install()
    uuid.uuid4 = _uuid4
    import airflow_provider_flora

    modules = [
        importlib.import_module(found.name)
        for found in pkgutil.walk_packages(airflow_provider_flora.__path__, f"{PACKAGE}.")
        # A task is no emulator, no page, no command and no test.
        if not re.search(r"\.(emulator|plugins|cli|checking|testing|__main__)\b", found.name)
    ]
    for module in modules:
        _rebind_clock(module)
        _by_loop.extend(thing for thing in vars(module).values() if isinstance(thing, WeakKeyDictionary))
    global answers, exchange  # the code under test is imported late, as it may be broken first
    from airflow_provider_flora.airflow_compat import BaseHook
    from airflow_provider_flora.api import aio, answers, client, exchange
    from airflow_provider_flora.hooks import flora as hooks
    from airflow_provider_flora.hooks.flora import FloraHook
    from airflow_provider_flora.operators.flora import FloraRunTechniqueOperator
    from airflow_provider_flora.runs import shared_files, techniques
    from airflow_provider_flora.triggers.flora import FloraTechniqueRunTrigger

    replaced: Any = client
    replaced.BareSession = _NoSession
    replaced.FloraClient._exchange = _exchange
    replaced = aio.AsyncFloraClient
    replaced.__init__ = _init_async_client
    replaced.close = _close_async_client
    replaced._exchange = _exchange_async
    # Pure functions of few arguments, asked again and again.
    replaced = hooks
    replaced.settings_of = _remembering(hooks.settings_of)
    replaced = answers
    replaced.parsedate_to_datetime = lru_cache(maxsize=100_000)(answers.parsedate_to_datetime)
    replaced = BaseHook
    replaced.get_connection = classmethod(_get_connection)
    replaced.aget_connection = classmethod(_aget_connection)
    replaced = shared_files.SharedFile
    replaced.read, replaced.write, replaced.remove = _read_shared, _write_shared, _remove_shared
    replaced.locked = _lock_shared
    replaced = techniques.RecentTechnique
    replaced._read, replaced._write = _read_kept, _write_kept
    for logs in (FloraHook, FloraRunTechniqueOperator, FloraTechniqueRunTrigger):
        replaced = logs
        replaced.log = Log()
    logger = logging.getLogger(PACKAGE)
    logger.propagate, logger.handlers = False, [LibraryLog()]
    sys.unraisablehook = lambda _: None  # what a killed loop's coroutines would still have liked to do


def _remembering(settings_of: Callable[[Any, str], Any]) -> Callable[[Any, str], Any]:
    known: dict[tuple[str, str, str], Any] = {}

    def remember(connection: Any, conn_id: str) -> Any:
        """Return the settings of a connection, of which only these fields differ here."""
        name = (conn_id, connection.password, connection.extra)
        if name not in known:
            known[name] = settings_of(connection, conn_id)
        return known[name]

    return remember


def _init_async_client(self: Any, settings: Any, on_answer: Any = None) -> None:
    self.settings, self._on_answer = settings, on_answer


async def _close_async_client(self: Any) -> None:
    pass


def _rebind_clock(module: Any) -> None:
    """Give functions that took the real clock as a default, when they were defined, the one of now."""
    real = {
        virtual_time.real_sleep: clock.sleep,
        virtual_time.real_time: clock.time,
        virtual_time.real_monotonic: clock.monotonic,
    }
    for thing in vars(module).values():
        functions = vars(thing).values() if inspect.isclass(thing) else (thing,)
        for function in functions:
            if inspect.isfunction(function):
                defaults: dict[str, Any] = function.__kwdefaults__ or {}
                for name, value in defaults.items():
                    if callable(value) and value in real:
                        defaults[name] = real[value]
                if function.__defaults__ and any(
                    callable(value) and value in real for value in function.__defaults__
                ):
                    function.__defaults__ = tuple(
                        real.get(value, value) if callable(value) else value for value in function.__defaults__
                    )


_by_loop: list[WeakKeyDictionary[Any, Any]] = []
"""What the package keeps for each event loop: it refers back to its loop, so it would be kept for ever."""


def enter(world: World, seed: int) -> None:
    """Let the real code run in a world from now on."""
    random.seed(seed)
    World.active = world
    clock.hub = world.hub
    logger, level = logging.getLogger(PACKAGE), logging.INFO if world.narrating else logging.ERROR
    if logger.level != level:  # to set it takes a while
        logger.setLevel(level)


def leave() -> None:
    """Leave the world: time is real again."""
    World.active = None
    clock.hub = None
    for kept in _by_loop:
        kept.clear()


def unix(moment: float, skew: float = 0.0) -> float:
    """Return a moment of the hub as unix time, by a clock."""
    return EPOCH + (moment - virtual_time.BEGIN) + skew


def plain(value: Any) -> Any:
    """Return a value after its way through a database of JSON."""
    if value is None or type(value) is str:
        return value
    return json.loads(json.dumps(value))
