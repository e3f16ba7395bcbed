"""How soon a webhook is answered, on a real Airflow, beside Airflow's own route that makes an asset event.

A DAG is scheduled on the asset of the webhooks and on one that the peer's events are of. Then the components but
the API server end. Each delivery and a request of the peer take turns, with a new connection each, as from Flora.
The times are those of a client on the same machine, until the last byte.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import json
import os
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import requests

from benchmarks.loopback import REPOSITORY, report
from scripts.local_airflow import LocalAirflow

TRIES = 100
SENDERS = 20
IN_AN_HOUR = 3_600
"""Events of the asset in the last hour, among which a repeated webhook is looked for."""
AIM_MS = 100
SECRET = "whsec_benchmark"
CONN_ID = "flora_default"
ASSET, PEER_ASSET = f"flora://{CONN_ID}/runs/completed", "peer"

DAG = f"""
from airflow.sdk import Asset, DAG

with DAG("waiting", schedule=[Asset("{ASSET}"), Asset("{PEER_ASSET}")], is_paused_upon_creation=False):
    pass
"""


class Sender:
    """Somebody who delivers webhooks, and somebody who tells Airflow's own route of events."""

    def __init__(self, airflow: LocalAirflow) -> None:
        self._airflow = airflow
        self._token = airflow.token()
        self._sent = 0
        assets = airflow.api("GET", "/assets")["assets"]
        [self._peer_id] = [asset["id"] for asset in assets if asset["uri"] == PEER_ASSET]

    def webhook(self) -> bytes:
        """Return a body that has not been sent before."""
        self._sent += 1
        data = {"run_id": f"run_{self._sent}", "run_type": "technique", "workspace_id": "ws_1"}
        return json.dumps({"id": f"whd_{self._sent}", "type": "run.completed", "data": data}).encode()

    def deliver(self, body: bytes, status: int = 200, secret: str = SECRET, conn_id: str = CONN_ID) -> float:
        """Return the milliseconds until the answer."""
        second = int(time.time())
        v1 = hmac.new(secret.encode(), b"%d." % second + body, hashlib.sha256).hexdigest()
        headers = {"Flora-Signature": f"t={second},v1={v1}"}
        return self._post(f"/flora/webhooks/{conn_id}", status, headers, data=body)

    def tell_peer(self) -> float:
        """Return the milliseconds that Airflow's own route takes for an event."""
        headers = {"Authorization": f"Bearer {self._token}"}
        body = {"asset_id": self._peer_id, "extra": {"run_id": "run_1", "status": "completed"}}
        return self._post("/api/v2/assets/events", 200, headers, json=body)

    def _post(self, path: str, status: int, headers: dict[str, str], **body: Any) -> float:
        begun = time.perf_counter()
        answer = requests.post(self._airflow.url + path, headers=headers, timeout=60, **body)
        took = 1000 * (time.perf_counter() - begun)
        if answer.status_code != status:
            raise ValueError(f"{path}: {answer.status_code} {answer.text}")
        return took


def times(taken: list[float]) -> dict[str, float]:
    """Sum up milliseconds."""
    return {
        "ms": round(statistics.median(taken), 1),
        "p95_ms": round(statistics.quantiles(taken, n=20)[-1], 1),
        "most_ms": round(max(taken), 1),
        "within_aim": round(sum(one <= AIM_MS for one in taken) / len(taken), 3),
    }


def measure(sender: Sender, database: Path) -> dict[str, Any]:
    """Measure the first delivery to the process, and each case."""
    sender.tell_peer()  # a server's first requests take longer than those after
    first = sender.deliver(sender.webhook())
    again = sender.webhook()
    sender.deliver(again)
    cases: dict[str, Callable[[], float]] = {
        "an event": lambda: sender.deliver(sender.webhook()),
        "delivered again": lambda: sender.deliver(again),
        "forged": lambda: sender.deliver(again, 401, secret="whsec_other"),
        "forged, with 60 KB": lambda: sender.deliver(b"x" * 60_000, 401, secret="whsec_other"),
        "no such connection": lambda: sender.deliver(again, 404, conn_id="unknown"),
    }
    result: dict[str, Any] = {}
    peers: list[float] = []
    for name, case in cases.items():
        here = []
        for _ in range(TRIES):
            here.append(case())
            peers.append(sender.tell_peer())
        result[name] = times(here)
    fill_hour(database)
    result[f"an event, with {IN_AN_HOUR:,} in the last hour"] = times([cases["an event"]() for _ in range(TRIES)])
    bodies = [sender.webhook() for _ in range(2 * TRIES)]
    with ThreadPoolExecutor(SENDERS) as senders:
        result[f"an event, {SENDERS} at once"] = times([*senders.map(sender.deliver, bodies)])
    return {"first_ms": round(first), "cases": result, "airflow": times(peers)}


def fill_hour(database: Path) -> None:
    """Add events of the asset to those of the last hour."""
    with closing(sqlite3.connect(database, timeout=30)) as connection, connection:
        connection.execute(
            f"WITH RECURSIVE number(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM number WHERE i < {IN_AN_HOUR}), "
            "one AS (SELECT event.* FROM asset_event event JOIN asset ON asset.id = asset_id WHERE uri = ? "
            "LIMIT 1) "
            "INSERT INTO asset_event (asset_id, extra, timestamp) "
            "SELECT asset_id, replace(extra, 'whd_', 'whd_old_' || i), timestamp FROM number, one",
            (ASSET,),
        )


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="flora-bench-") as temporary:
        place = Path(temporary)
        (place / "dags").mkdir()
        (place / "dags" / "waiting.py").write_text(DAG)
        connection = {"conn_type": "flora", "password": "key", "extra": {"webhook_secret": SECRET}}
        environment = {f"AIRFLOW_CONN_{CONN_ID.upper()}": json.dumps(connection)}
        cache = REPOSITORY / ".airflow" / "empty-databases"
        with LocalAirflow(place / "home", place / "dags", env=environment, database_cache=cache) as airflow:
            airflow.wait_for_dag("waiting")
            for name in ("scheduler", "dag-processor", "triggerer"):
                airflow.kill(name)
            load = os.getloadavg()[0]
            result = measure(Sender(airflow), airflow.home / "airflow.db")
    report(
        {"date": time.strftime("%Y-%m-%d", time.gmtime()), "load_before": round(load, 1), "tries": TRIES, **result}
    )


if __name__ == "__main__":
    main()
