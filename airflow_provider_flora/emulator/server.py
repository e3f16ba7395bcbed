"""The emulator as one object: it builds the parts, and serves them from a thread of its own."""

from __future__ import annotations

import asyncio
import importlib.util
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from aiohttp import web

from airflow_provider_flora.emulator.control import Control
from airflow_provider_flora.emulator.faults.orders import Faults
from airflow_provider_flora.emulator.operations.assets import AssetOperations
from airflow_provider_flora.emulator.operations.idempotency import IdempotencyKeys
from airflow_provider_flora.emulator.operations.media import Media
from airflow_provider_flora.emulator.operations.runs import RunOperations
from airflow_provider_flora.emulator.operations.start_request import StartRequestReader
from airflow_provider_flora.emulator.operations.techniques import TechniqueOperations
from airflow_provider_flora.emulator.operations.uploads import StorageHost
from airflow_provider_flora.emulator.operations.webhooks import Webhooks
from airflow_provider_flora.emulator.service import Service
from airflow_provider_flora.emulator.state.assets import Assets
from airflow_provider_flora.emulator.state.catalogue import Catalogue
from airflow_provider_flora.emulator.state.clock import Clock
from airflow_provider_flora.emulator.state.history import History
from airflow_provider_flora.emulator.state.ledger import Ledger

if TYPE_CHECKING:
    from typing_extensions import Self

API_KEY = "sk_test_emulator"
WEBHOOK_SECRET = "whsec_emulator"  # noqa: S105  it guards nothing
MISSING_EXTRA = "The emulator draws with Pillow and PyAV: pip install 'airflow-provider-flora[emulator]'"
_BACKLOG = 2048

T = TypeVar("T")


class Emulator:
    """A local Flora.

    .. code-block:: python

        with Emulator(run_seconds=0.2) as emulator:
            ...  # a client with emulator.base_url and emulator.api_key
            assert emulator.ledger()["charged_runs"] == 1

    It serves from a thread of its own: synchronous and asynchronous code of the same process can talk to it. After
    :meth:`stop`, :meth:`start` brings it back on the same port with its runs. Uploaded files are gone then.

    :param port: the port; 0 takes a free one.
    :param host: the address to listen on.
    :param run_seconds: how long a run takes, give or take a tenth; with 0 it ends at once.
    :param upload_port: the port of the storage host that signed uploads go to; 0 takes a free one.
    :param asset_seconds: how long a completed upload is processed.
    :param upload_seconds: how long a reservation lasts.
    :param seed: decides what varies: durations and pictures.
    :param api_key: the valid API key. Assign to the attribute ``api_key`` to rotate it.
    :param idempotency: what a repeated idempotency key does, by ``docs`` or by ``site``.
    :param idempotency_window: seconds for which a key is kept; ``None``: 2 hours (``docs``) or 24 hours (``site``).
    :param rate_limit: requests a second; ``None`` for no limit.
    :param list_lag: seconds by which lists are late.
    :param pages: how history is cut into pages. ``stable``: new runs do not move them. ``offset``: by counting, as
        the cursor in Flora's own example does. A run that arrives between two pages then shows another on both.
    :param cost_lag: seconds after the end of a run until its charge is known.
    :param clock_skew: seconds by which the emulator's clock is ahead.
    :param allow_loopback_callbacks: accept callback URLs on this machine.
    :param webhook_secret: the secret that webhooks are signed with.
    :param former_webhook_secret: a second secret to sign with, as while a secret is rotated.
    :param webhook_time_scale: factor on the delays between attempts to deliver: 10, 60 and 300 seconds.
    """

    def __init__(
        self,
        port: int = 0,
        *,
        host: str = "127.0.0.1",
        run_seconds: float = 8.0,
        upload_port: int = 0,
        asset_seconds: float = 0.5,
        upload_seconds: float = 900.0,
        seed: int = 0,
        api_key: str = API_KEY,
        idempotency: str = "docs",
        idempotency_window: float | None = None,
        rate_limit: float | None = None,
        list_lag: float = 0.0,
        pages: str = "stable",
        cost_lag: float = 1.5,
        clock_skew: float = 0.0,
        allow_loopback_callbacks: bool = False,
        webhook_secret: str = WEBHOOK_SECRET,
        former_webhook_secret: str | None = None,
        webhook_time_scale: float = 1.0,
    ) -> None:
        self.host = host
        self.port = port
        self.upload_port = upload_port
        self.api_key = api_key
        clock = Clock(clock_skew)
        ledger = Ledger()
        faults = Faults(lambda: ledger.faults_fired)
        catalogue = Catalogue()
        history = History(clock, run_seconds=run_seconds, list_lag=list_lag, seed=seed)
        keys = IdempotencyKeys(idempotency, idempotency_window, clock)
        signing_secrets = (webhook_secret, *([former_webhook_secret] if former_webhook_secret else []))
        webhooks = Webhooks(
            clock, signing_secrets, webhook_time_scale, lambda attempt: ledger.deliveries.append(attempt)
        )
        reader = StartRequestReader(allow_loopback_callbacks=allow_loopback_callbacks)
        header_keys = IdempotencyKeys(idempotency, idempotency_window, clock)
        self._assets = Assets(clock, upload_seconds)
        asset_operations = AssetOperations(
            clock, self._assets, asset_seconds, lambda: self.upload_port, self._is_own_host
        )
        storage = StorageHost(clock, self._assets)
        techniques = TechniqueOperations(clock, catalogue)
        runs = RunOperations(clock, catalogue, history, keys, webhooks, reader, cost_lag, pages, self._is_own_host)
        self._media = Media(history, self._assets, clock, seed)
        self._service = Service(
            techniques,
            runs,
            asset_operations,
            storage,
            self._assets,
            header_keys,
            self._media,
            clock,
            ledger,
            faults,
            lambda: self.api_key,
            rate_limit,
        )
        self._history = history
        self._runs = runs
        self._ledger = ledger
        self._webhooks = webhooks
        self._control = Control(
            clock, catalogue, history, self._assets, (keys, header_keys), ledger, faults, webhooks, self._service
        )
        self._thread: threading.Thread | None = None

    @property
    def origin(self) -> str:
        """Its address, such as ``http://127.0.0.1:8765``; known once it has started."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    @property
    def base_url(self) -> str:
        """The base URL of the API."""
        return f"{self.origin}/api/v1"

    def start(self) -> Self:
        """Serve until :meth:`stop`.

        :raises ModuleNotFoundError: when Pillow or PyAV is missing.
        :raises OSError: when the port is taken.
        """
        if not all(importlib.util.find_spec(name) for name in ("PIL", "av")):
            raise ModuleNotFoundError(MISSING_EXTRA)
        if self._thread is not None:
            return self
        started: Future[None] = Future()
        thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(started)), name="flora-emulator", daemon=True
        )
        thread.start()
        started.result()
        self._thread = thread
        return self

    def stop(self) -> None:
        """Stop serving. Requests in progress are cut off."""
        if self._thread is not None:
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join()
            self._thread = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def ledger(self, *, with_runs: bool = True) -> dict[str, Any]:
        """Return what happened so far; ``GET /_emulator/ledger``.

        :param with_runs: also list the runs one by one.
        """
        return self._call_on_its_thread(lambda: self._control.ledger(with_runs=with_runs))

    def order_fault(self, kind: str, **order: Any) -> dict[str, Any]:
        """Order a fault; ``POST /_emulator/faults``.

        :param kind: what happens; ``faults/kinds.py`` has the table.
        :param order: the other words of the order.
        :raises ValueError: when the order is not valid; the message says what would be.
        """
        return self._call_on_its_thread(lambda: self._control.order_fault({"kind": kind, **order}))

    def clear_faults(self) -> None:
        """Cancel every ordered fault; ``DELETE /_emulator/faults``."""
        self._call_on_its_thread(self._control.clear_faults)

    def reset(self) -> None:
        """Forget all state, changes of techniques and the ledger included; ``POST /_emulator/reset``."""
        self._call_on_its_thread(self._control.reset)

    @property
    def run_seconds(self) -> float:
        """How long a run takes, give or take a tenth. Assign to it, and the next runs take as long."""
        return self._history.run_seconds

    @run_seconds.setter
    def run_seconds(self, seconds: float) -> None:
        self._history.run_seconds = seconds

    @property
    def cost_lag(self) -> float:
        """Seconds after the end of a run until its charge is known. Assign to it to change it."""
        return self._runs.cost_lag

    @cost_lag.setter
    def cost_lag(self, seconds: float) -> None:
        self._runs.cost_lag = seconds

    def add_technique(self, technique: Mapping[str, Any]) -> dict[str, Any]:
        """Add a technique; ``PUT /_emulator/techniques``. It takes the place of those with its id or its slug.

        :meth:`reset` removes it.

        :param technique: the technique in the form in which Flora's API gives it: ``technique_id``, ``run_cost``
            (USD), ``inputs`` and ``outputs``; optionally ``slug``, ``name`` and ``description``.
        :return: the technique as the emulator has it.
        :raises ValueError: when it is not valid.
        """
        return self._call_on_its_thread(lambda: self._control.add_technique(technique))

    def change_technique(self, technique_id: str, **changes: Any) -> dict[str, Any]:
        """Rename a technique, change its price, or delete it; ``POST /_emulator/techniques``.

        Runs that were started keep the technique as it was. :meth:`reset` undoes the change.

        :param technique_id: its id or slug.
        :param changes: ``slug``, ``name``, ``run_cost`` (USD) or ``deleted=True``.
        :return: the technique as it is now; empty when it was deleted.
        :raises ValueError: when the change is not valid.
        """
        change = {"technique_id": technique_id, **changes}
        return self._call_on_its_thread(lambda: self._control.change_technique(change))

    def seed_runs(self, count: int = 1, **seeding: Any) -> list[str]:
        """Add runs that somebody else started; ``POST /_emulator/runs``.

        :param count: how many runs.
        :param seeding: ``technique_id``, ``status`` and ``spacing_ms``.
        :return: their ids, oldest first.
        :raises ValueError: when the seeding is not valid.
        """
        seeded = self._call_on_its_thread(lambda: self._control.seed_runs({"count": count, **seeding}))
        run_ids: list[str] = seeded["run_ids"]
        return run_ids

    def _is_own_host(self, netloc: str) -> bool:
        return netloc in {f"{host}:{self.port}" for host in (self.host, "127.0.0.1", "localhost", "[::1]")}

    def _call_on_its_thread(self, work: Callable[[], T]) -> T:
        if self._thread is None:
            return work()

        async def call() -> T:
            return work()

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result()

    async def _serve(self, started: Future[None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        application = self._service.make_application()
        self._control.add_routes(application.router)
        runner = _make_runner(application)
        storage = _make_runner(self._service.make_storage_application())
        server = None
        try:
            await runner.setup()
            await storage.setup()
            server = await self._loop.create_server(
                self._count_connections(runner), self.host, self.port, backlog=_BACKLOG
            )
            self.port = server.sockets[0].getsockname()[1]
            uploads = web.TCPSite(storage, self.host, self.upload_port)
            await uploads.start()
            self.upload_port = storage.addresses[0][1]
        except Exception as error:
            if server is not None:
                server.close()
            await storage.cleanup()
            await runner.cleanup()
            started.set_exception(error)
            return
        started.set_result(None)
        await self._stopping.wait()
        server.close()
        self._webhooks.clear()
        await storage.cleanup()
        await runner.cleanup()
        self._media.close()
        self._assets.clear()

    def _count_connections(self, runner: web.AppRunner) -> Callable[[], asyncio.Protocol]:
        """The server's factory of connections, which counts them in the ledger."""

        def connection() -> asyncio.Protocol:
            self._ledger.connections += 1
            assert runner.server is not None  # noqa: S101  the runner was set up
            return runner.server()

        return connection


def _make_runner(application: web.Application) -> web.AppRunner:
    return web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=0.1)
