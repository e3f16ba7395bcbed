"""How long the command line takes until its first line, beside Airflow's own.

Fresh processes, the two in turns; the median of each.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.loopback import API_KEY, REPOSITORY, Server, report

TRIES = 15
COMMANDS = {
    "flora": [sys.executable, "-m", "airflow_provider_flora", "techniques"],
    "airflow": [str(Path(sys.executable).with_name("airflow")), "--help"],
}


def milliseconds(command: list[str], env: dict[str, str]) -> float:
    """Run a command, and time its first line."""
    begun = time.perf_counter()
    with subprocess.Popen(
        command, cwd=REPOSITORY, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        taken = 1000 * (time.perf_counter() - begun)
        process.stdout.read()
    assert line, f"{command} printed nothing"
    return taken


def main() -> None:
    """Measure."""
    with Server("airflow_provider_flora.emulator", "--port", "0", "--api-key", API_KEY) as flora:
        env = {**os.environ, "FLORA_API_KEY": API_KEY, "FLORA_BASE_URL": flora.origin}
        env.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed program has its bytecode
        for command in COMMANDS.values():
            milliseconds(command, env)  # bytecode is written, files are in memory
        taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
        for _ in range(TRIES):
            for name, command in COMMANDS.items():
                taken[name].append(milliseconds(command, env))
    middle = {name: statistics.median(times) for name, times in taken.items()}
    ratio = round(middle["airflow"] / middle["flora"], 1)
    report({**{f"{name}_ms": round(time) for name, time in middle.items()}, "ratio": ratio, "tries": TRIES})


if __name__ == "__main__":
    main()
