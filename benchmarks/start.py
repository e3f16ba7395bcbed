"""200 mapped tasks, end to end, on a real Airflow with LocalExecutor: what starting costs Flora and a worker.

Requests are the emulator's count. A worker's time is that of a task's process from its birth to the end of
``execute`` or ``execute_complete``; the provider's own is what it spends in these without Airflow's part (the
connection, XCom, the task state store).
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.loopback import Emulator, report
from scripts.local_airflow import LocalAirflow

DAG = """
import json, os, time
from contextlib import contextmanager
from pathlib import Path

import psutil
from airflow.sdk import DAG, BaseHook
from airflow_provider_flora.operators.flora import FloraRunTechniqueOperator

clock = time.perf_counter


class Timed(FloraRunTechniqueOperator):
    def execute(self, context):
        with self._timed("start", context):
            return super().execute(context)

    def execute_complete(self, context, event):
        with self._timed("resume", context):
            return super().execute_complete(context, event)

    @contextmanager
    def _timed(self, phase, context):
        airflow = 0.0

        def timed(function):
            def call(*args, **kwargs):
                nonlocal airflow
                begun = clock()
                try:
                    return function(*args, **kwargs)
                finally:
                    airflow += clock() - begun
            return call

        ti, store = context["ti"], context["task_state_store"]
        for thing, names in ((type(ti), ("xcom_push", "xcom_pull")), (type(store), ("get", "set", "delete"))):
            for name in names:
                setattr(thing, name, timed(getattr(thing, name)))
        BaseHook.get_connection = staticmethod(timed(BaseHook.get_connection))
        begun, cpu = clock(), time.process_time()
        try:
            yield
        finally:
            took, cpu = clock() - begun, time.process_time() - cpu
            worker = time.time() - psutil.Process().create_time()
            line = {"phase": phase, "worker": worker, "method": took, "airflow": airflow, "cpu": cpu}
            place = Path(os.environ["FLORA_BENCH_TIMES"])
            (place / f"{phase}-{context['ti'].map_index}.json").write_text(json.dumps(line))


with DAG("start_benchmark", schedule=None, max_active_tasks=TASKS):
    Timed.partial(
        task_id="run", technique_id="editorial-still", deferrable=True, poll_interval=5
    ).expand(inputs=[{"prompt": f"Product {number}"} for number in range(TASKS)])
"""


def median(times: list[dict[str, Any]], phase: str) -> dict[str, float]:
    """The median times of one phase, in milliseconds, and the provider's share of a worker's time."""
    lines = [line for line in times if line["phase"] == phase]
    own = statistics.median(line["method"] - line["airflow"] for line in lines)
    worker = statistics.median(line["worker"] for line in lines)
    return {
        "tasks": len(lines),
        "worker_ms": round(1000 * worker),
        "own_ms": round(1000 * own),
        "own_cpu_ms": round(1000 * statistics.median(line["cpu"] for line in lines)),
        "own_percent": round(100 * own / worker, 1),
    }


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", type=int, nargs="?", default=200)
    tasks = parser.parse_args().tasks
    with tempfile.TemporaryDirectory(prefix="flora-bench-") as temporary, Emulator(10.0) as emulator:
        place = Path(temporary)
        for name in ("dags", "times"):
            (place / name).mkdir()
        (place / "dags" / "start_benchmark.py").write_text(DAG.replace("TASKS", str(tasks)))
        environment = {
            "AIRFLOW_CONN_FLORA_DEFAULT": emulator.connection(),
            "FLORA_BENCH_TIMES": str(place / "times"),
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO",
        }
        with LocalAirflow(place / "home", place / "dags", env=environment) as airflow:
            run_id = airflow.trigger("start_benchmark")
            state = airflow.wait_for_dag_run("start_benchmark", run_id, timeout=1500)
        ledger = emulator.ledger()
        times = [json.loads(path.read_text()) for path in (place / "times").iterdir()]
    report(
        {
            "tasks": tasks,
            "state": state,
            "requests": ledger["requests"],
            "connections": ledger["connections"],
            "started_runs": ledger["started_runs"],
            "start": median(times, "start"),
            "resume": median(times, "resume"),
        }
    )


if __name__ == "__main__":
    main()
