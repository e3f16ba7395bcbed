"""A table of rows as one batch, and 200 rows as mapped tasks beside it, on a real Airflow with LocalExecutor.

``python -m benchmarks.batch 10000``. CPU is that of all of Airflow's processes together, without the emulator. A
worker's time is from the birth of a task's process to its end, and its memory the most that was seen of it.
"""

from __future__ import annotations

import argparse
import sqlite3
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil

from benchmarks.loopback import Emulator, report
from scripts.local_airflow import LocalAirflow

DAGS = """
from airflow.sdk import DAG
from airflow_provider_flora.operators.batch import FloraRunTechniqueBatchOperator
from airflow_provider_flora.operators.flora import FloraRunTechniqueOperator

FOLDER = "PLACE"

for size in SIZES:
    with DAG(f"batch_of_{size}", schedule=None):
        FloraRunTechniqueBatchOperator(
            task_id="run", technique_id="editorial-still", rows=f"{FOLDER}/{size}.csv", row_id="sku",
            inputs={"prompt": "{prompt}"}, manifest=f"{FOLDER}/{size}.jsonl", max_active_runs=500,
            starts_at_once=STARTS, deferrable=True,
        )

with DAG("mapped_benchmark", schedule=None, max_active_tasks=200):
    FloraRunTechniqueOperator.partial(
        task_id="run", technique_id="editorial-still", deferrable=True, poll_interval=5, retries=2
    ).expand(inputs=[{"prompt": f"Product {number}"} for number in range(MAPPED)])
"""


class Processes:
    """The CPU time of a process and all that it has started, the ended ones too."""

    def __init__(self, pids: dict[str, int]) -> None:
        self._pids = list(pids.values())
        self._seen: dict[tuple[int, float], float] = {}
        self.longest: dict[tuple[int, float], float] = {}
        """Seconds that each process of a task has lived."""
        self.most_memory = 0
        """Bytes of the largest process of a task."""

    def look(self) -> None:
        """Note the CPU times of now. What a process uses after the last look is missed."""
        for pid in self._pids:
            try:
                tree = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
            except psutil.NoSuchProcess:
                continue
            for process in tree:
                try:
                    times, born = process.cpu_times(), process.create_time()
                    self._seen[process.pid, born] = times.user + times.system
                    if "airflow worker -- 0" in " ".join(process.cmdline()):
                        self.longest[process.pid, born] = time.time() - born
                        self.most_memory = max(self.most_memory, process.memory_info().rss)
                except (psutil.NoSuchProcess, psutil.AccessDenied):
                    continue

    def cpu(self) -> float:
        """Seconds of CPU of all of them."""
        return sum(self._seen.values())


def run_dag(airflow: LocalAirflow, emulator: Emulator, dag_id: str, rows: int, timeout: float) -> dict[str, Any]:
    """Run a DAG, and return what it cost."""
    processes = Processes(airflow.pids())
    processes.look()
    cpu, before, began = processes.cpu(), emulator.ledger(), time.monotonic()
    run_id = airflow.trigger(dag_id)
    state = ""
    while state not in ("success", "failed"):
        if time.monotonic() - began > timeout:
            raise TimeoutError(dag_id)
        time.sleep(0.5)
        processes.look()
        state = airflow.dag_run_state(dag_id, run_id)
    after = emulator.ledger()
    print(f"{dag_id}: {rows} rows in {time.monotonic() - began:.0f} s, {state}", file=sys.stderr)
    requests = {name: count - before["requests"].get(name, 0) for name, count in after["requests"].items()}
    starts = requests.get("startTechniqueRun", 0)
    return {
        "state": state,
        "rows": rows,
        "seconds": round(time.monotonic() - began, 1),
        "cpu_ms_a_row": round(1000 * (processes.cpu() - cpu) / rows, 2),
        "worker_s_a_row": round(sum(processes.longest.values()) / rows, 4),
        "starts": starts,
        "other_requests_a_row": round((sum(requests.values()) - starts) / rows, 3),
        "task_mb": round(processes.most_memory / 1e6, 1),
        **stored(airflow.home / "airflow.db", dag_id, run_id, rows),
    }


def stored(database: Path, dag_id: str, run_id: str, rows: int) -> dict[str, Any]:
    """Return the bytes of a DAG run's task states and XComs."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:

        def count(table: str) -> int:
            query = f"select sum(length(key) + length(value)) from {table} where dag_id = ? and run_id = ?"
            return connection.execute(query, (dag_id, run_id)).fetchone()[0] or 0

        return {"state_bytes_a_row": round(count("task_state_store") / rows, 1), "xcom_bytes": count("xcom")}


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", type=int, nargs="*", default=(10, 2000, 10_000))
    parser.add_argument("--mapped", type=int, default=200)
    parser.add_argument("--starts-at-once", type=int, default=10)
    asked = parser.parse_args()
    sizes: Sequence[int] = asked.sizes
    with tempfile.TemporaryDirectory(prefix="flora-bench-") as temporary, Emulator(5.0) as emulator:
        place = Path(temporary)
        (place / "dags").mkdir()
        names = {"PLACE": place, "MAPPED": asked.mapped, "SIZES": sizes, "STARTS": asked.starts_at_once}
        text = DAGS
        for name, value in names.items():
            text = text.replace(name, str(value))
        (place / "dags" / "batch_benchmark.py").write_text(text)
        environment = {
            "AIRFLOW_CONN_FLORA_DEFAULT": emulator.connection(),
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO",
        }
        with LocalAirflow(place / "home", place / "dags", env=environment) as airflow:
            result: dict[str, Any] = {"starts_at_once": asked.starts_at_once}
            for size in sizes:
                write_rows(place / f"{size}.csv", size, changed=0)
                result[f"batch of {size}"] = run_dag(airflow, emulator, f"batch_of_{size}", size, 1500)
            write_rows(place / f"{size}.csv", size, changed=max(1, size // 100))
            result["night"] = run_dag(airflow, emulator, f"batch_of_{size}", size, 600)
            if asked.mapped:
                result["mapped"] = run_dag(airflow, emulator, "mapped_benchmark", asked.mapped, 1500)
    report(result)


def write_rows(path: Path, rows: int, *, changed: int) -> None:
    """Write the table; the first rows may differ from those of before."""
    lines = [f"sku-{number},Product {number}{' again' if number < changed else ''}" for number in range(rows)]
    path.write_text("sku,prompt\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
