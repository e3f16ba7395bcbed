"""The emulator as one object: puts its parts together, and serves them from a thread of its own."""

from __future__ import annotations

import asyncio
import importlib.util
import threading
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Any, TypeVar

from aiohttp import web

from airflow_provider_flora.emulator.api import Api
from airflow_provider_flora.emulator.asset_api import AssetApi
from airflow_provider_flora.emulator.assets import Assets
from airflow_provider_flora.emulator.clock import Clock
from airflow_provider_flora.emulator.control import Control
from airflow_provider_flora.emulator.faults import Faults
from airflow_provider_flora.emulator.history import History
from airflow_provider_flora.emulator.idempotency import IdempotencyKeys
from airflow_provider_flora.emulator.ledger import Ledger
from airflow_provider_flora.emulator.media import Media
from airflow_provider_flora.emulator.service import Service
from airflow_provider_flora.emulator.start_request import StartRequestReader
from airflow_provider_flora.emulator.storage import Storage
from airflow_provider_flora.emulator.webhooks import Webhooks

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

    It serves from a thread of its own, so that synchronous and asynchronous code can talk to it from the same
    process. After :meth:`stop`, :meth:`start` brings it back on the same port with its runs still there; files that
    were uploaded are gone.

    :param port: The port; 0 takes a free one.
    :param host: The address to listen on.
    :param run_seconds: How long a run takes, give or take a tenth; 0 means that it ends at once.
    :param upload_port: The port of the storage host that signed uploads go to; 0 takes a free one.
    :param asset_seconds: How long a completed upload is processed.
    :param upload_seconds: How long an upload may take from its reservation on.
    :param seed: Decides what varies: durations and pictures.
    :param api_key: The key that is good. Assign to the attribute ``api_key`` to rotate it.
    :param idempotency: Which account of idempotency holds, ``docs`` or ``site``.
    :param idempotency_window: Seconds for which a key is kept; 2 hours (docs) or 24 hours (site) if ``None``.
    :param rate_limit: Requests a second; ``None`` for no limit.
    :param list_lag: Seconds by which lists are behind.
    :param cost_lag: Seconds after its end for which the charge of a run is not known yet.
    :param clock_skew: Seconds by which the emulator's clock is ahead.
    :param allow_loopback_callbacks: Take callback URLs on this machine.
    :param webhook_secret: The secret that webhooks are signed with.
    :param former_webhook_secret: A second one to sign with, as during the rotation of a secret.
    :param webhook_time_scale: Factor on the delays between attempts to deliver: 10, 60 and 300 seconds.
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
        self.webhook_secret = webhook_secret
        clock = Clock(clock_skew)
        ledger = Ledger()
        faults = Faults(lambda: ledger.faults_fired)
        history = History(clock, run_seconds=run_seconds, list_lag=list_lag, seed=seed)
        keys = IdempotencyKeys(idempotency, idempotency_window, clock)
        signing_secrets = (webhook_secret, *([former_webhook_secret] if former_webhook_secret else []))
        webhooks = Webhooks(
            clock, signing_secrets, webhook_time_scale, lambda attempt: ledger.deliveries.append(attempt)
        )
        reader = StartRequestReader(allow_loopback_callbacks=allow_loopback_callbacks)
        header_keys = IdempotencyKeys(idempotency, idempotency_window, clock)
        self._assets = Assets(clock, upload_seconds)
        asset_api = AssetApi(clock, self._assets, asset_seconds, lambda: self.upload_port, self._is_own_host)
        storage = Storage(clock, self._assets)
        api = Api(clock, history, keys, webhooks, reader, cost_lag, self._is_own_host)
        self._media = Media(history, self._assets, clock, seed)
        self._service = Service(
            api,
            asset_api,
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
        self._ledger = ledger
        self._webhooks = webhooks
        self._control = Control(clock, history, self._assets, (keys, header_keys), ledger, faults, webhooks)
        self._thread: threading.Thread | None = None

    @property
    def origin(self) -> str:
        """Where it is reached: ``http://127.0.0.1:8765``. It is known once it has started."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    @property
    def base_url(self) -> str:
        """The base URL of the API."""
        return f"{self.origin}/api/v1"

    def start(self) -> Emulator:
        """Serve, from now until :meth:`stop`.

        :raises ModuleNotFoundError: When Pillow or PyAV are missing.
        :raises OSError: When the port is taken.
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
        """Serve no longer; what is under way is broken off."""
        if self._thread is not None:
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join()
            self._thread = None

    def __enter__(self) -> Emulator:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def ledger(self, *, with_runs: bool = True) -> dict[str, Any]:
        """What happened so far; ``GET /_emulator/ledger``.

        :param with_runs: Also list the runs one by one.
        """
        return self._on_its_thread(lambda: self._control.ledger(with_runs=with_runs))

    def order_fault(self, kind: str, **order: Any) -> dict[str, Any]:
        """Order a fault; ``POST /_emulator/faults``.

        :param kind: What is to happen; ``faults.py`` has the table.
        :param order: The rest of the order.
        :raises ValueError: When the order makes no sense; the message says what would.
        """
        return self._on_its_thread(lambda: self._control.order_fault({"kind": kind, **order}))

    def clear_faults(self) -> None:
        """Take every order back; ``DELETE /_emulator/faults``."""
        self._on_its_thread(self._control.clear_faults)

    def reset(self) -> None:
        """Forget runs, assets, keys, faults and the books; ``POST /_emulator/reset``."""
        self._on_its_thread(self._control.reset)

    def seed_runs(self, count: int = 1, **order: Any) -> list[str]:
        """Put runs there that somebody else started; ``POST /_emulator/runs``.

        :param count: How many.
        :param order: ``technique_id``, ``status`` and ``spacing_ms``.
        :return: Their ids, oldest first.
        :raises ValueError: When the order makes no sense.
        """
        seeded = self._on_its_thread(lambda: self._control.seed_runs({"count": count, **order}))
        run_ids: list[str] = seeded["run_ids"]
        return run_ids

    def _is_own_host(self, netloc: str) -> bool:
        return netloc in {f"{host}:{self.port}" for host in (self.host, "127.0.0.1", "localhost", "[::1]")}

    def _on_its_thread(self, work: Callable[[], T]) -> T:
        if self._thread is None:
            return work()

        async def call() -> T:
            return work()

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result()

    async def _serve(self, started: Future[None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        application = self._service.application()
        self._control.add_routes(application.router)
        runner = _runner(application)
        storage = _runner(self._service.storage_application())
        server = None
        try:
            await runner.setup()
            await storage.setup()
            server = await self._loop.create_server(self._counting(runner), self.host, self.port, backlog=_BACKLOG)
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

    def _counting(self, runner: web.AppRunner) -> Callable[[], asyncio.Protocol]:
        """The server's factory of connections, counted."""

        def connection() -> asyncio.Protocol:
            self._ledger.connections += 1
            assert runner.server is not None  # noqa: S101  the runner was set up
            return runner.server()

        return connection


def _runner(application: web.Application) -> web.AppRunner:
    return web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=0.1)
