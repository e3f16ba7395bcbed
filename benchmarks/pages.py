"""The plugin's pages at scale, on a real Airflow with its login, beside Airflow's own answers to the same user.

A DAG with a task, a batch and a task that is refused really runs once. Then the components but the API server end,
and what the run has left is copied: into 1,000 task instances of its DAG run and 10,000 of the last 30 days in 20
DAGs, as rows straight into Airflow's SQLite database, with as many tasks that are not Flora's; and the lines of the
manifest into 10,000 rows of its file. The times are those of a client on the same machine, until the last byte.
Each page and Airflow's answer take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from urllib.parse import quote

import requests

from benchmarks.copied_tasks import AT_START, Copies, DagRun
from benchmarks.loopback import REPOSITORY, Emulator, report
from scripts.local_airflow import PASSWORD, USER, LocalAirflow

ROWS = 10_000
OF_RUN = 1_000
OF_MONTH = 10_000
DAGS = 20
RUNS = 10
"""DAG runs of each DAG in the last 30 days."""
TRIES = 9
IMPORTS = 3
HTML = {"Accept": "text/html"}
JSON = {"Accept": "application/json"}

DAG = """
from airflow.sdk import DAG
from airflow_provider_flora.operators.batch import FloraRunTechniqueBatchOperator
from airflow_provider_flora.operators.flora import FloraRunTechniqueOperator

for number in range(DAGS):
    with DAG(f"pages_{number}", schedule=None):
        FloraRunTechniqueOperator.partial(
            task_id="still", technique_id="editorial-still", download_to="file://PLACE/files/"
        ).expand(inputs=[{"prompt": "A mug in the light of the morning"}])
        FloraRunTechniqueOperator(
            task_id="refused", technique_id="editorial-still", inputs={"nonsense": "A mug"}, retries=0
        )
        FloraRunTechniqueBatchOperator(
            task_id="table", technique_id="editorial-still", row_id="sku", inputs={"prompt": "{prompt}"},
            rows=[{"sku": f"sku-{row}", "prompt": "A mug in the light of the morning"} for row in range(3)],
            manifest="file://PLACE/manifest.jsonl", download_to="file://PLACE/files/",
        )
"""

IMPORT = """
import time
begun = time.perf_counter()
import airflow.plugins_manager
loaded = time.perf_counter()
import airflow_provider_flora.plugins.flora_plugin
print(1000 * (loaded - begun), 1000 * (time.perf_counter() - loaded))
"""


@dataclass(frozen=True)
class Case:
    """A page, and Airflow's own answer beside it.

    :param shows: a text that is in the page.
    :param before: what is done before each request of the page, untimed.
    """

    page: str
    query: dict[str, Any]
    shows: str
    peer: str
    headers: dict[str, str]
    before: Callable[[], None] = lambda: None


class Browser:
    """A person with the cookie of Airflow's UI."""

    def __init__(self, airflow: LocalAirflow) -> None:
        self._url = airflow.url
        self._server = airflow.processes("api-server")
        self._session = requests.Session()
        self._session.trust_env = False
        login = {"username": USER, "password": PASSWORD}
        answer = self._session.post(f"{airflow.url}/auth/token", json=login, timeout=60)
        answer.raise_for_status()
        token = answer.json()["access_token"]
        self._session.cookies.set("_token", token)
        self._session.headers["Authorization"] = f"Bearer {token}"

    def get(self, path: str, query: dict[str, Any], headers: dict[str, str]) -> tuple[float, requests.Response]:
        """Return the milliseconds until an answer is here, and the answer."""
        begun = time.perf_counter()
        answer = self._session.get(self._url + path, params=query, headers=headers, timeout=60)
        took = 1000 * (time.perf_counter() - begun)
        answer.raise_for_status()
        return took, answer

    def cpu(self) -> float:
        """Return the milliseconds of CPU that the API server has used."""
        times = [process.cpu_times() for process in self._server]
        return 1000 * sum(time.user + time.system for time in times)

    def compare(self, case: Case) -> dict[str, float]:
        """Measure a page and Airflow's answer in turns."""
        here, peers, cpu = [], [], 0.0
        for _ in range(TRIES):
            case.before()
            cpu -= self.cpu()
            took, answer = self.get(f"/flora/{case.page}", case.query, case.headers)
            cpu += self.cpu()
            if case.shows not in answer.text:
                raise ValueError(f"{case.page} {case.query} does not show {case.shows!r}")
            here.append(took)
            peers.append(self.get(case.peer, {}, JSON)[0])
        ms, airflow_ms = statistics.median(here), statistics.median(peers)
        return {
            "ms": round(ms),
            "most_ms": round(max(here)),
            "cpu_ms": round(cpu / TRIES),
            "kb": round(len(answer.content) / 1000),
            "airflow_ms": round(airflow_ms),
            "of_airflow": round(ms / airflow_ms, 2),
        }


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="flora-bench-") as temporary, Emulator(1.0) as emulator:
        place = Path(temporary)
        (place / "dags").mkdir()
        (place / "dags" / "pages.py").write_text(DAG.replace("PLACE", str(place)).replace("DAGS", str(DAGS)))
        environment = {"AIRFLOW_CONN_FLORA_DEFAULT": emulator.connection()}
        cache = REPOSITORY / ".airflow" / "empty-databases"
        with LocalAirflow(place / "home", place / "dags", env=environment, database_cache=cache) as airflow:
            run_id = airflow.trigger("pages_0")
            airflow.wait_for_dag_run("pages_0", run_id)  # it fails, since a task is refused
            airflow.wait_for_dag(f"pages_{DAGS - 1}")
            for name in ("scheduler", "dag-processor", "triggerer"):
                airflow.kill(name)
            lengthen(place / "manifest.jsonl")
            with closing(sqlite3.connect(airflow.home / "airflow.db", timeout=30)) as connection:
                copy_tasks(Copies(connection), "pages_0", run_id)
            result = measure(airflow, place / "manifest.jsonl", run_id)
    report({"date": time.strftime("%Y-%m-%d", time.gmtime()), "tries": TRIES, "imports": IMPORTS, **result})


def lengthen(manifest: Path) -> None:
    """Make 10,000 rows of the first of a manifest: a tenth has failed, every third was reused."""
    like = json.loads(manifest.read_text().splitlines()[0])
    error = {"code": "generation_failed", "message": "The model gave no picture.", "remedy": "retry now"}
    with manifest.open("w") as file:
        for number in range(ROWS):
            text = json.dumps({**like, "row_id": f"sku-{number}", "reused": number % 3 == 1})
            line = json.loads(text.replace(like["run_id"], f"run_{number:012}"))
            if number % 10 == 9:
                line.update(status="failed", outputs=[], output_urls=[], files=[], charged_cost=None, error=error)
            file.write(json.dumps(line) + "\n")


def copy_tasks(copies: Copies, dag_id: str, run_id: str) -> None:
    """Fill the DAG run, and the last 30 days of all DAGs."""
    still, refused, table = (copies.read(dag_id, run_id, task_id) for task_id in ("still", "refused", "table"))
    waiting = still.only(AT_START, state="deferred")
    other = still.only(frozenset({"return_value"}), operator="@task")
    original = copies.dag_run(dag_id, run_id)

    def fill(into: DagRun, first: int, count: int, last: bool) -> None:
        for index in range(first, count):
            kind = refused if index % 20 == 19 else waiting if last and index % 5 == 3 else still
            copies.add(kind, into, "still", index)
        for index in range(count):
            copies.add(other, into, "other", index)

    fill(original, 1, OF_RUN - 2, True)
    for dag in range(DAGS):
        for run in range(RUNS):
            ended = datetime.now(timezone.utc) - timedelta(days=28 / RUNS * run, minutes=dag)
            into = copies.add_dag_run(original, f"pages_{dag}", ended)
            fill(into, 0, OF_MONTH // DAGS // RUNS - 1, run == 0)
            copies.add(table, into, "table", -1)
    copies.write()


def measure(airflow: LocalAirflow, manifest: Path, run_id: str) -> dict[str, Any]:
    """Measure the first request of the API server's process, all pages, and the plugin's import."""
    browser, cases, load = Browser(airflow), pages(manifest, run_id), os.getloadavg()[0]
    for peer in {case.peer for case in cases.values()}:
        browser.get(peer, {}, JSON)  # a server's first requests take longer than those after
    before = memory(airflow)
    case = cases["outputs, first opening"]
    first, _ = browser.get(f"/flora/{case.page}", case.query, case.headers)
    after = memory(airflow)
    return {
        "load_before": round(load, 1),
        "first_ms": round(first),
        "pages": {name: browser.compare(case) for name, case in cases.items()},
        "first_mb": round((after - before) / 1e6, 1),
        "all_mb": round((memory(airflow) - before) / 1e6, 1),
        "airflow_mb": round(before / 1e6),
        **import_times(airflow.env, airflow.python),
    }


def pages(manifest: Path, run_id: str) -> dict[str, Case]:
    """All pages that are measured, by name."""
    ids = {"dag_id": "pages_0", "run_id": run_id}
    table = {**ids, "task_id": "table"}
    api = f"/api/v2/dags/pages_0/dagRuns/{quote(run_id, safe='')}/taskInstances"
    xcoms, instances = f"{api}/table/xcomEntries/return_value", f"{api}?limit=60"
    since = (datetime.now(timezone.utc) - timedelta(days=30)).strftime("%Y-%m-%dT%H:%M:%SZ")
    month = f"/ui/dashboard/historical_metrics_data?start_date={since}"

    def replace_manifest() -> None:
        os.utime(manifest)  # its version is another one, so that it is read anew

    return {
        "outputs, first opening": Case("outputs", table, "sku-59", xcoms, HTML, replace_manifest),
        "outputs, page 100": Case("outputs", {**table, "page": 100}, "sku-5999", xcoms, HTML),
        "outputs, failed rows": Case("outputs", {**table, "status": "failed"}, "1,000 of 10,000 rows", xcoms, HTML),
        "outputs, search by row id": Case("outputs", {**table, "search": "sku-777"}, "sku-7779", xcoms, HTML),
        "run, first page": Case("run", ids, "Page 1 of 17", instances, HTML),
        "run, JSON": Case("run", ids, '"count":1000', instances, JSON),
        "spending": Case("spending", {}, "pages_19", month, HTML),
    }


def memory(airflow: LocalAirflow) -> int:
    """Return the memory of the API server, in bytes."""
    return sum(process.memory_info().rss for process in airflow.processes("api-server"))


def import_times(env: dict[str, str], python: Path) -> dict[str, float]:
    """Import the plugin in fresh processes, after Airflow's module that loads plugins."""
    taken = []
    for _ in range(IMPORTS):
        done = subprocess.run(
            [python, "-c", IMPORT], env=env, capture_output=True, text=True, check=True, timeout=60
        )
        taken.append([float(part) for part in done.stdout.split()[-2:]])
    airflow_ms, plugin_ms = zip(*taken, strict=True)
    return {
        "import_ms": round(statistics.median(plugin_ms), 1),
        "import_most_ms": round(max(plugin_ms), 1),
        "import_airflow_ms": round(statistics.median(airflow_ms)),
    }


if __name__ == "__main__":
    main()
