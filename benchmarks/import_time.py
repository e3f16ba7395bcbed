"""How long an operator takes to import on top of ``airflow.sdk``: what the DAG processor pays for each file.

Fresh processes, the operators in turn; the median of each.
"""

from __future__ import annotations

import statistics
import subprocess
import sys

from benchmarks.loopback import report

TRIES = 9
MODULES = {
    "flora": "airflow_provider_flora.operators.flora",
    "airbyte": "airflow.providers.airbyte.operators.airbyte",
}
MEASURE = """
import time
import airflow.sdk
from airflow.sdk import BaseOperator
begun = time.perf_counter()
import {module}
print(1000 * (time.perf_counter() - begun))
"""


def milliseconds(module: str) -> float:
    """Import once, in a process of its own."""
    command = [sys.executable, "-c", MEASURE.format(module=module)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return float(done.stdout.split()[-1])


def main() -> None:
    """Measure."""
    for module in MODULES.values():
        milliseconds(module)  # bytecode is written, files are in memory
    taken: dict[str, list[float]] = {name: [] for name in MODULES}
    for _ in range(TRIES):
        for name, module in MODULES.items():
            taken[name].append(milliseconds(module))
    report({f"{name}_ms": round(statistics.median(times), 1) for name, times in taken.items()} | {"tries": TRIES})


if __name__ == "__main__":
    main()
