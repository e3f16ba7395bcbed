"""The control endpoints below ``/_emulator``: read the ledger, order faults, seed runs, change techniques, reset.

They are the emulator's own. Flora does not have them, and no client of Flora may need them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aiohttp import web

from airflow_provider_flora.emulator.faults.orders import Faults
from airflow_provider_flora.emulator.media.blobs import blob_path
from airflow_provider_flora.emulator.operations.idempotency import IdempotencyKeys
from airflow_provider_flora.emulator.operations.webhooks import Webhooks
from airflow_provider_flora.emulator.service import Service
from airflow_provider_flora.emulator.state.assets import Assets
from airflow_provider_flora.emulator.state.catalogue import Catalogue, Technique
from airflow_provider_flora.emulator.state.clock import Clock
from airflow_provider_flora.emulator.state.history import History
from airflow_provider_flora.emulator.state.ledger import Ledger
from airflow_provider_flora.emulator.state.runs import EXTENSIONS, STATUSES

MAX_SEEDED = 1_000_000
CHANGES = {"slug": (str,), "name": (str,), "run_cost": (int, float), "deleted": (bool,)}
SEED_DEFAULTS = {"count": 1, "technique_id": "editorial-still", "status": "completed", "spacing_ms": 1000}
BLOB_DEFAULTS = {"content_type": "application/octet-stream", "name": "blob"}


class Control:
    """What the control endpoints do, for Python and for HTTP.

    :param clock: the emulator's time.
    :param catalogue: the techniques.
    :param history: the runs.
    :param assets: the assets.
    :param keys: the idempotency keys of runs, and those in headers.
    :param ledger: what happened.
    :param faults: the ordered faults.
    :param webhooks: the deliveries that are due.
    :param service: the slow starts.
    """

    def __init__(
        self,
        clock: Clock,
        catalogue: Catalogue,
        history: History,
        assets: Assets,
        keys: Sequence[IdempotencyKeys],
        ledger: Ledger,
        faults: Faults,
        webhooks: Webhooks,
        service: Service,
    ) -> None:
        self._clock = clock
        self._catalogue = catalogue
        self._history = history
        self._assets = assets
        self._keys = keys
        self._ledger = ledger
        self._faults = faults
        self._webhooks = webhooks
        self._service = service

    def add_routes(self, routes: web.UrlDispatcher) -> None:
        """Serve the control endpoints.

        :param routes: the routes of the application.
        """

        async def ledger(request: web.Request) -> web.Response:
            return web.json_response(self.ledger(with_runs=request.query.get("runs") != "0"))

        async def blobs(request: web.Request) -> web.Response:
            origin = f"http://{request.host}"
            answer: web.Response = await _endpoint(lambda wanted: self.describe_blob(wanted, origin))(request)
            return answer

        routes.add_get("/_emulator/ledger", ledger)
        routes.add_post("/_emulator/reset", _endpoint(lambda _: self.reset()))
        routes.add_post("/_emulator/runs", _endpoint(self.seed_runs))
        routes.add_post("/_emulator/techniques", _endpoint(self.change_technique))
        routes.add_put("/_emulator/techniques", _endpoint(self.add_technique))
        routes.add_post("/_emulator/blobs", blobs)
        routes.add_post("/_emulator/faults", _endpoint(self.order_fault))
        routes.add_delete("/_emulator/faults", _endpoint(lambda _: self.clear_faults()))

    def ledger(self, *, with_runs: bool = True) -> dict[str, Any]:
        """The ledger, with the Flora assets and the faults in force."""
        entries = self._ledger.as_json(self._history.all(), self._clock.now(), with_runs=with_runs)
        return {**entries, "assets": self._assets.as_json(), "faults": self._faults.as_json()}

    def reset(self) -> dict[str, Any]:
        """Forget runs, assets, keys, faults, deliveries, slow starts, the ledger and changes of techniques."""
        for keys in self._keys:
            keys.clear()
        for part in (
            self._service,
            self._catalogue,
            self._history,
            self._assets,
            self._faults,
            self._webhooks,
            self._ledger,
        ):
            part.clear()
        return {}

    def order_fault(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """Order a fault.

        :param order: see ``faults/orders.py``.
        :raises ValueError: when the order is not valid.
        """
        return self._faults.add(order).as_json()

    def clear_faults(self) -> dict[str, Any]:
        """Cancel every order."""
        self._faults.clear()
        return {}

    def seed_runs(self, seeding: Mapping[str, Any]) -> dict[str, Any]:
        """Add runs that somebody else started.

        :param seeding: ``count``, ``technique_id`` (or slug), ``status``, ``spacing_ms``.
        :raises ValueError: when it is not valid.
        """
        unknown = [name for name in seeding if name not in SEED_DEFAULTS]
        if unknown:
            raise ValueError(f"seeding does not take {unknown[0]!r}: it takes {', '.join(SEED_DEFAULTS)}")
        wanted = {**SEED_DEFAULTS, **seeding}
        count, spacing, status = wanted["count"], wanted["spacing_ms"], wanted["status"]
        if type(count) is not int or not 0 < count <= MAX_SEEDED:
            raise ValueError(f"count is {count!r}: it must be a whole number from 1 to {MAX_SEEDED}")
        if type(spacing) not in (int, float) or spacing < 0:
            raise ValueError(f"spacing_ms is {spacing!r}: it must be a number of milliseconds")
        if status not in STATUSES:
            raise ValueError(f"status is {status!r}: it must be one of {', '.join(STATUSES)}")
        technique = self._find_technique(wanted["technique_id"])
        runs = self._history.seed(technique, count=count, status=status, spacing=spacing)
        return {"run_ids": [run.run_id for run in runs]}

    def add_technique(self, technique: Mapping[str, Any]) -> dict[str, Any]:
        """Add a technique. It takes the place of those with its id or its slug.

        :param technique: the technique, in the form in which Flora's API gives it.
        :return: the technique as the emulator has it.
        :raises ValueError: when it is not valid.
        """
        added = Technique.from_json(technique)
        types = ("text", *EXTENSIONS)
        for slot in added.outputs:
            if slot.type not in types:
                raise ValueError(f"type of {slot.id!r} is {slot.type!r}: an output is one of {', '.join(types)}")
        self._catalogue.add(added)
        return added.as_json()

    def change_technique(self, change: Mapping[str, Any]) -> dict[str, Any]:
        """Rename a technique, change its price, or delete it.

        :param change: ``technique_id`` (or slug), and what changes: ``slug``, ``name``, ``run_cost``, ``deleted``.
        :return: the technique as it is now; empty when it was deleted.
        :raises ValueError: when it is not valid.
        """
        changes = dict(change)
        technique = self._find_technique(changes.pop("technique_id", None))
        for name, value in changes.items():
            if name not in CHANGES:
                raise ValueError(f"a technique has no {name!r} to change: it has {', '.join(CHANGES)}")
            if type(value) not in CHANGES[name] or value == "" or (name == "run_cost" and value < 0):
                raise ValueError(f"{name} is {value!r}: no technique can have that")
        if changes.pop("deleted", False):
            self._catalogue.delete(technique)
            return {}
        return self._catalogue.change(technique, **changes).as_json()

    def _find_technique(self, address: Any) -> Technique:
        technique = self._catalogue.find(str(address))
        if technique is None:
            raise ValueError(f"technique_id is {address!r}: no technique has that id or slug")
        return technique

    def describe_blob(self, blob: Mapping[str, Any], origin: str) -> dict[str, Any]:
        """Say where a blob is served.

        :param blob: ``bytes``, ``content_type`` and ``name``, which decides its content.
        :param origin: where the caller reaches the emulator.
        :raises ValueError: when it is not valid.
        """
        unknown = [name for name in blob if name not in ("bytes", *BLOB_DEFAULTS)]
        if unknown or "bytes" not in blob:
            raise ValueError(f"a blob takes bytes, and optionally {' and '.join(BLOB_DEFAULTS)}")
        wanted = {**BLOB_DEFAULTS, **blob}
        path = blob_path(wanted["bytes"], str(wanted["name"]), wanted["content_type"])
        return {"url": f"{origin}/media/{path}", "bytes": wanted["bytes"], "content_type": wanted["content_type"]}


def _endpoint(
    work: Callable[[Any], dict[str, Any]],
) -> Callable[[web.Request], Any]:
    async def serve(request: web.Request) -> web.Response:
        try:
            body = await request.read()
            wanted = json.loads(body) if body else {}
            if not isinstance(wanted, dict):
                raise ValueError("the body must be a JSON object")
            return web.json_response(work(wanted))
        except ValueError as error:
            problem = {"code": "bad_request", "message": str(error)}
            return web.json_response({"error": problem}, status=400)

    return serve
