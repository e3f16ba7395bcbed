"""A table of rows as one batch, and 200 rows as mapped tasks beside it, on a real Airflow with LocalExecutor.

CPU is that of all of Airflow's processes together, without the emulator. A worker's time is from the birth of a
task's process to its end, as the processes' own times show it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
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

with DAG("batch_benchmark", schedule=None):
    FloraRunTechniqueBatchOperator(
        task_id="run", technique_id="editorial-still", rows=FOLDER + "/rows.csv", row_id="sku",
        inputs={"prompt": "{prompt}"}, manifest=FOLDER + "/manifest.jsonl", max_active_runs=500, starts_at_once=2,
        deferrable=True,
    )

with DAG("mapped_benchmark", schedule=None, max_active_tasks=200):
    FloraRunTechniqueOperator.partial(
        task_id="run", technique_id="editorial-still", deferrable=True, poll_interval=5
    ).expand(inputs=[{"prompt": f"Product {number}"} for number in range(MAPPED)])
"""


class Processes:
    """The CPU time of a process and all that it has started, the ended ones too."""

    def __init__(self, pids: dict[str, int]) -> None:
        self._pids = list(pids.values())
        self._seen: dict[tuple[int, float], float] = {}
        self.longest: dict[tuple[int, float], float] = {}
        """Seconds that each process of a task has lived."""

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
    }


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=int, nargs="?", default=2000)
    parser.add_argument("--mapped", type=int, default=200)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="flora-bench-") as temporary, Emulator(5.0) as emulator:
        place = Path(temporary)
        (place / "dags").mkdir()
        text = DAGS.replace("PLACE", str(place)).replace("MAPPED", str(asked.mapped))
        (place / "dags" / "batch_benchmark.py").write_text(text)
        write_rows(place / "rows.csv", asked.rows, changed=0)
        environment = {
            "AIRFLOW_CONN_FLORA_DEFAULT": emulator.connection(),
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO",
        }
        with LocalAirflow(place / "home", place / "dags", env=environment) as airflow:
            result = {"batch": run_dag(airflow, emulator, "batch_benchmark", asked.rows, 1500)}
            write_rows(place / "rows.csv", asked.rows, changed=max(1, asked.rows // 100))
            result["night"] = run_dag(airflow, emulator, "batch_benchmark", asked.rows, 600)
            if asked.mapped:
                result["mapped"] = run_dag(airflow, emulator, "mapped_benchmark", asked.mapped, 1500)
    report(result)


def write_rows(path: Path, rows: int, *, changed: int) -> None:
    """Write the table; the first rows may differ from those of before."""
    lines = [f"sku-{number},Product {number}{' again' if number < changed else ''}" for number in range(rows)]
    path.write_text("sku,prompt\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
