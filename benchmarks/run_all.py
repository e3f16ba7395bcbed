"""Run every benchmark and write ``docs/performance.rst`` with its plot: ``make bench``.

``--only NAME`` runs one and uses the last results of the others; ``--write`` only writes the page.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from typing import Any

from benchmarks.loopback import REPOSITORY

RESULTS = REPOSITORY / "build" / "benchmarks.json"
TIMEOUT = 1800
PROGRAMS: dict[str, list[str]] = {
    "import_time": ["import_time"],
    "command_line": ["command_line"],
    "flora 100": ["watch", "flora", "100"],
    "dbt 100": ["watch", "dbt", "100"],
    "flora 1000": ["watch", "flora", "1000"],
    "dbt 1000": ["watch", "dbt", "1000"],
    "flora 1000 spread": ["watch", "flora", "1000", "--spread", "5"],
    "dbt 1000 spread": ["watch", "dbt", "1000", "--spread", "5"],
    "flora 1000 techniques": ["watch", "flora", "1000", "--techniques", "200"],
    "flora 10000": ["watch", "flora", "10000"],
    "flora 1000 memory": ["watch", "flora", "1000", "--memory"],
    "dbt 1000 memory": ["watch", "dbt", "1000", "--memory"],
    "flora 10000 memory": ["watch", "flora", "10000", "--memory"],
    "rate_limit": ["troubles", "rate_limit"],
    "foreign": ["troubles", "foreign"],
    "outage": ["troubles", "outage"],
    "leaks": ["troubles", "leaks"],
    "start": ["start"],
    "batch": ["batch"],
    "metrics": ["metrics"],
    "pages": ["pages"],
    "webhooks": ["webhooks"],
    "download": ["files", "download"],
    "upload": ["files", "upload"],
    "discard": ["files", "discard"],
}


def run(program: list[str]) -> dict[str, Any]:
    """Run a program and read its last line."""
    with tempfile.TemporaryDirectory(prefix="flora-bench-home-") as home:
        done = subprocess.run(
            [sys.executable, "-m", f"benchmarks.{program[0]}", *program[1:]],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            text=True,
            timeout=TIMEOUT,
            check=True,
            env={**os.environ, "AIRFLOW_HOME": home},
        )
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return {**result, "load": round(os.getloadavg()[0], 1)}


def read_results() -> dict[str, Any]:
    """What has been measured last."""
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    return results


def environment() -> dict[str, Any]:
    """What was measured where."""
    names = ("apache-airflow", "apache-airflow-providers-dbt-cloud", "apache-airflow-providers-airbyte", "aiohttp")
    return {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in names},
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def main() -> None:
    """Run and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PROGRAMS, metavar="NAME", help=", ".join(PROGRAMS))
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    names = [] if options.write else options.only or [*PROGRAMS]
    RESULTS.parent.mkdir(exist_ok=True)
    whole = names == [*PROGRAMS]
    if whole:
        RESULTS.unlink(missing_ok=True)  # one table, one run
    for name in names:
        print(f"{name} ...", end=" ", flush=True)
        result = run(PROGRAMS[name])
        print(json.dumps(result), flush=True)
        RESULTS.write_text(
            json.dumps({**read_results(), name: result, "environment": {**environment(), "whole": whole}}, indent=1)
        )

    from benchmarks.performance_page import write

    print(write(read_results()))


if __name__ == "__main__":
    main()
