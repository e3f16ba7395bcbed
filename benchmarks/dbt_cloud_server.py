"""As much of dbt Cloud as its trigger asks for: the state of a job run. Prints its address.

``POST /_bench/runs {"count", "after", "spread"}`` makes runs that end between ``after`` and ``after + spread``
seconds from now and answers ``[[run_id, ends_at], ...]``; ``GET /_bench/ledger`` counts.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

from aiohttp import web

RUNNING, SUCCESS = 3, 10


class DbtCloud:
    """Job runs that end at a given time."""

    def __init__(self) -> None:
        self._ends: dict[int, float] = {}
        self._requests = self._connections = 0

    async def serve(self) -> None:
        """Serve until killed."""
        application = web.Application()
        application.router.add_get("/api/v2/accounts/{account}/runs/{run}/", self._run)
        application.router.add_post("/_bench/runs", self._make)
        application.router.add_get("/_bench/ledger", self._ledger)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()

        def connection() -> Any:
            self._connections += 1
            assert runner.server is not None
            return runner.server()

        server = await asyncio.get_running_loop().create_server(connection, "127.0.0.1", 0, backlog=2048)
        print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
        await asyncio.Event().wait()

    async def _run(self, request: web.Request) -> web.Response:
        self._requests += 1
        run_id = int(request.match_info["run"])
        done = time.time() >= self._ends[run_id]
        run = {
            "id": run_id,
            "account_id": int(request.match_info["account"]),
            "status": SUCCESS if done else RUNNING,
            "status_humanized": "Success" if done else "Running",
            "is_complete": done,
            "is_success": done,
            "href": f"https://cloud.getdbt.com/#/accounts/1/projects/1/runs/{run_id}/",
        }
        return web.json_response({"status": {"code": 200, "is_success": True}, "data": run})

    async def _make(self, request: web.Request) -> web.Response:
        order = await request.json()
        chance, now = random.Random(0), time.time()
        for _ in range(order["count"]):
            self._ends[len(self._ends) + 1] = now + order["after"] + chance.random() * order["spread"]
        return web.json_response(list(self._ends.items()))

    async def _ledger(self, request: web.Request) -> web.Response:
        return web.json_response({"requests": self._requests, "connections": self._connections})


if __name__ == "__main__":
    asyncio.run(DbtCloud().serve())
