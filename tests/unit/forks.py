"""Processes that tests start as forks of one that has loaded Airflow, which takes seconds. See `preloaded`."""

from __future__ import annotations

import io
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.unit.preloaded"])


def run_python(command: Sequence[str], **how: Any) -> subprocess.CompletedProcess[bytes]:
    """Run ``[python, "-c", program, *arguments]`` as `subprocess.run` does with these arguments.

    :param how: ``input``, ``env`` and ``stdout``, where standard error goes too.
    """
    _, _, program, *arguments = command
    given = program, arguments, how["input"], how["env"], Path.cwd(), how["stdout"].name
    process = CONTEXT.Process(target=_run, args=given)
    process.start()
    process.join(120)
    process.kill()
    process.join()
    return subprocess.CompletedProcess(command, process.exitcode or 0)


def _run(
    program: str, arguments: Sequence[str], given: bytes, env: Mapping[str, str], folder: Path, output: str
) -> None:
    os.environ.clear()
    os.environ.update(env)
    os.chdir(folder)
    file = os.open(output, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(file, descriptor)
    sys.stdin = io.TextIOWrapper(io.BytesIO(given))
    sys.argv = ["-c", *arguments]
    exec(program, {"__name__": "__main__"})
