"""The control endpoints under ``/_emulator``: read the books, order faults, put runs there, start afresh.

They are the emulator's own. Flora has nothing like them, and no client of Flora may need them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aiohttp import web

from airflow_provider_flora.emulator.assets import Assets
from airflow_provider_flora.emulator.blobs import blob_path
from airflow_provider_flora.emulator.catalogue import find_technique
from airflow_provider_flora.emulator.clock import Clock
from airflow_provider_flora.emulator.faults import Faults
from airflow_provider_flora.emulator.history import History
from airflow_provider_flora.emulator.idempotency import IdempotencyKeys
from airflow_provider_flora.emulator.ledger import Ledger
from airflow_provider_flora.emulator.runs import STATUSES
from airflow_provider_flora.emulator.webhooks import Webhooks

MAX_SEEDED = 1_000_000
SEED_DEFAULTS = {"count": 1, "technique_id": "editorial-still", "status": "completed", "spacing_ms": 1000}
BLOB_DEFAULTS = {"content_type": "application/octet-stream", "name": "blob"}


class Control:
    """What the control endpoints do, for Python and for HTTP alike.

    :param clock: Tells the time.
    :param history: The runs.
    :param assets: The assets.
    :param keys: The idempotency keys, those of runs and those in headers.
    :param ledger: The books.
    :param faults: What was ordered.
    :param webhooks: Deliveries that are due.
    """

    def __init__(
        self,
        clock: Clock,
        history: History,
        assets: Assets,
        keys: Sequence[IdempotencyKeys],
        ledger: Ledger,
        faults: Faults,
        webhooks: Webhooks,
    ) -> None:
        self._clock = clock
        self._history = history
        self._assets = assets
        self._keys = keys
        self._ledger = ledger
        self._faults = faults
        self._webhooks = webhooks

    def add_routes(self, routes: web.UrlDispatcher) -> None:
        """Serve the control endpoints.

        :param routes: Where.
        """

        async def ledger(request: web.Request) -> web.Response:
            return web.json_response(self.ledger(with_runs=request.query.get("runs") != "0"))

        async def blobs(request: web.Request) -> web.Response:
            origin = f"http://{request.host}"
            answer: web.Response = await _endpoint(lambda order: self.blob(order, origin))(request)
            return answer

        routes.add_get("/_emulator/ledger", ledger)
        routes.add_post("/_emulator/reset", _endpoint(lambda order: self.reset()))
        routes.add_post("/_emulator/runs", _endpoint(self.seed_runs))
        routes.add_post("/_emulator/blobs", blobs)
        routes.add_post("/_emulator/faults", _endpoint(self.order_fault))
        routes.add_delete("/_emulator/faults", _endpoint(lambda order: self.clear_faults()))

    def ledger(self, *, with_runs: bool = True) -> dict[str, Any]:
        """The books, with the faults that are in force."""
        books = self._ledger.as_json(self._history.all(), self._clock.now(), with_runs=with_runs)
        return {**books, "assets": self._assets.as_json(), "faults": self._faults.as_json()}

    def reset(self) -> dict[str, Any]:
        """Forget runs, assets, keys, faults, due deliveries and the books."""
        for keys in self._keys:
            keys.clear()
        for part in (self._history, self._assets, self._faults, self._webhooks, self._ledger):
            part.clear()
        return {}

    def order_fault(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """Place an order.

        :param order: See ``faults.py``.
        :raises ValueError: When the order makes no sense.
        """
        return self._faults.order(order).as_json()

    def clear_faults(self) -> dict[str, Any]:
        """Take every order back."""
        self._faults.clear()
        return {}

    def seed_runs(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """Put runs there that somebody else started.

        :param order: ``count``, ``technique_id`` (or slug), ``status``, ``spacing_ms``.
        :raises ValueError: When the order makes no sense.
        """
        unknown = [name for name in order if name not in SEED_DEFAULTS]
        if unknown:
            raise ValueError(f"seeding does not take {unknown[0]!r}: it takes {', '.join(SEED_DEFAULTS)}")
        wanted = {**SEED_DEFAULTS, **order}
        count, spacing, status = wanted["count"], wanted["spacing_ms"], wanted["status"]
        if type(count) is not int or not 0 < count <= MAX_SEEDED:
            raise ValueError(f"count is {count!r}: it must be a whole number from 1 to {MAX_SEEDED}")
        if type(spacing) not in (int, float) or spacing < 0:
            raise ValueError(f"spacing_ms is {spacing!r}: it must be a number of milliseconds")
        if status not in STATUSES:
            raise ValueError(f"status is {status!r}: it must be one of {', '.join(STATUSES)}")
        technique = find_technique(str(wanted["technique_id"]))
        if technique is None:
            raise ValueError(f"technique_id is {wanted['technique_id']!r}: no technique has that id or slug")
        runs = self._history.seed(technique, count=count, status=status, spacing=spacing)
        return {"run_ids": [run.run_id for run in runs]}

    def blob(self, order: Mapping[str, Any], origin: str) -> dict[str, Any]:
        """Where a file of any length is served.

        :param order: ``bytes``, ``content_type`` and ``name``, which decides what is in it.
        :param origin: Where the caller reaches the emulator.
        :raises ValueError: When the order makes no sense.
        """
        unknown = [name for name in order if name not in ("bytes", *BLOB_DEFAULTS)]
        if unknown or "bytes" not in order:
            raise ValueError(f"a blob takes bytes and perhaps {' and '.join(BLOB_DEFAULTS)}")
        wanted = {**BLOB_DEFAULTS, **order}
        path = blob_path(wanted["bytes"], str(wanted["name"]), wanted["content_type"])
        return {"url": f"{origin}/media/{path}", "bytes": wanted["bytes"], "content_type": wanted["content_type"]}


def _endpoint(
    work: Callable[[Any], dict[str, Any]],
) -> Callable[[web.Request], Any]:
    async def serve(request: web.Request) -> web.Response:
        try:
            body = await request.read()
            order = json.loads(body) if body else {}
            if not isinstance(order, dict):
                raise ValueError("an order is a JSON object")
            return web.json_response(work(order))
        except ValueError as error:
            problem = {"code": "bad_order", "message": str(error)}
            return web.json_response({"error": problem}, status=400)

    return serve
