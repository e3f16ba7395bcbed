"""Checks DAG files in a process of its own, in which nothing of the caller's is at stake.

A DAG file is code. There, it can print, change the environment or end the process. The process has no metadata
database: Airflow 2 would look there for connections and variables, and a check must not.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from airflow_provider_flora.api.errors import FloraError, FloraSettingsError
from airflow_provider_flora.api.settings import ClientSettings
from airflow_provider_flora.checking.catalogue import SavedTechniques
from airflow_provider_flora.checking.report import Report

_PROGRAM = """
import json, os, sys
sys.path[:] = json.loads(sys.argv[1])
from airflow_provider_flora.checking.process import main
main()
os._exit(0)  # threads and processes that a DAG file has started would be waited for
"""
_LAST_LINES = 5


def check_apart(
    paths: Iterable[Path],
    *,
    saved: SavedTechniques | None = None,
    conn_id: str | None = None,
    own: ClientSettings | None = None,
    debug: bool = False,
) -> Report:
    """Check DAG files in a process of its own.

    :param paths: files, and folders in which Airflow finds DAG files.
    :param saved: saved techniques, in place of Flora's.
    :param conn_id: connection for tasks whose own is not here.
    :param own: settings for the same, if there is no ``conn_id``.
    :param debug: whether a bug of the check is shown with its traceback.
    :raises FloraSettingsError: there is no connection ``conn_id``, or it cannot be used.
    :raises FloraError: the process ended without a report.
    """
    with _stopping_cleanly(), tempfile.TemporaryDirectory(prefix="flora-check-") as folder:
        answer, output = Path(folder, "answer.json"), Path(folder, "output")
        order = {
            "paths": [str(path) for path in paths],
            "answer": str(answer),
            "saved": saved.model_dump() if saved else None,
            "conn_id": conn_id,
            "own": asdict(own) if own else None,
            "debug": debug,
        }
        with output.open("wb") as file:
            ended = subprocess.run(  # noqa: S603
                [sys.executable, "-c", _PROGRAM, json.dumps(sys.path)],
                input=json.dumps(order).encode(),  # a key must not be among the arguments, which others can see
                env=_environment(folder),
                stdout=file,
                stderr=subprocess.STDOUT,
                check=False,
            )
        if not answer.exists():
            last = "\n".join(output.read_text(errors="replace").splitlines()[-_LAST_LINES:])
            raise FloraError(
                f"The process that parses the DAG files ended with exit code {ended.returncode}:\n{last}"
            )
        found = json.loads(answer.read_bytes())
    if "problem" in found:
        raise FloraSettingsError(found["problem"])
    return Report.model_validate(found)


@contextmanager
def _stopping_cleanly() -> Iterator[None]:
    """Let SIGTERM end this process as Ctrl-C does: with the other process, and without its folder."""

    def stop(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _environment(folder: str) -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if name != "_AIRFLOW_PROCESS_CONTEXT"}
    return {
        **ours,
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{folder}/none.db",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC": f"sqlite+aiosqlite:///{folder}/none.db",
        # So that an error in Airflow's own code has the line of the DAG file that led there.
        "AIRFLOW__CORE__DAGBAG_IMPORT_ERROR_TRACEBACK_DEPTH": "100",
        # Where Airflow 2 and 3 make folders as soon as they are imported.
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": f"{folder}/logs",
        "AIRFLOW__SCHEDULER__CHILD_PROCESS_LOG_DIRECTORY": f"{folder}/logs/scheduler",
    }


def main() -> None:
    """Check what the standard input orders, and write the answer to the file that it names."""
    order = json.load(sys.stdin)
    try:
        answer = _check(order).model_dump()
    except FloraError as error:
        answer = {"problem": str(error)}
    beside = Path(f"{order['answer']}.part")
    # A file's name or a text may have half of a character, which no JSON can have.
    beside.write_bytes(json.dumps(answer, ensure_ascii=False).encode(errors="replace"))
    beside.replace(order["answer"])


def _check(order: dict[str, Any]) -> Report:
    from airflow_provider_flora.checking.at_flora import FloraCatalogue, missing, read_settings
    from airflow_provider_flora.checking.check import check

    own = ClientSettings(**order["own"]) if order["own"] else None
    if order["conn_id"] and (own := read_settings(order["conn_id"])) is None:
        raise missing(order["conn_id"])
    catalogue = SavedTechniques.model_validate(order["saved"]) if order["saved"] else FloraCatalogue(own)
    return check(map(Path, order["paths"]), catalogue, debug=order["debug"])
