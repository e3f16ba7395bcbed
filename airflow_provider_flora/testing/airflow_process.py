"""A temporary Airflow: a home with a database, and a process that runs DAGs with it.

Not the process of the tests. There, Airflow may have been imported with the user's settings before any fixture
exists; a task that hangs could not be ended; and what one DAG run leaves behind would meet the next. So
``process.py`` runs in a process of its own. It imports Airflow once, which takes most of the time, and forks for
each DAG run.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import select
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_flora.testing.process import BUNDLE, ENDED, READY
from airflow_provider_flora.testing.results import DagRunError, show_end

DATABASE = "airflow.db"
START_TIMEOUT = 300.0
"""Seconds to make a database, and to import Airflow."""
_KEPT = ("AIRFLOW_CONN_", "AIRFLOW_VAR_")
_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv.pop()); "
    "from airflow_provider_flora.testing.process import serve; serve()"
)


class TemporaryAirflow:
    """An Airflow in a temporary folder, which runs one DAG after the other, each with an empty database.

    :param folders: makes temporary folders.
    """

    def __init__(self, folders: pytest.TempPathFactory) -> None:
        self._folders = folders
        self._home = folders.mktemp("airflow")
        (self._home / "bundle").mkdir()
        (self._home / "airflow.cfg").touch()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def database(self) -> Path:
        """The database of the last DAG run."""
        return self._home / DATABASE

    def run(self, wanted: Mapping[str, Any], dags_folder: Path, timeout: float) -> tuple[bool, str]:
        """Run a DAG.

        :param wanted: see ``process.py``.
        :param dags_folder: Airflow's.
        :param timeout: seconds after which the DAG run is ended.
        :return: whether it ended by itself, and all that was printed.
        :raises DagRunError: Airflow does not start, or its process has ended.
        """
        environment = {**_environment(self._home), "AIRFLOW__CORE__DAGS_FOLDER": str(dags_folder)}
        self._copy_empty_database(environment)
        if self._process is None:
            self._process = self._start(environment)
        log = self._home / "log"
        log.write_bytes(b"")
        paths = [*_import_path(), str(dags_folder)]
        order = {**wanted, "environment": environment, "sys_path": paths, "log": str(log)}
        ended = False
        try:
            _send(self._process, order)
            ended = _answers(self._process, ENDED, timeout)
        except (EOFError, BrokenPipeError) as error:
            raise DagRunError(f"{error}\n{show_end(log.read_text(errors='replace'))}") from None
        finally:
            if not ended:
                self.stop()
        return ended, log.read_text(encoding="utf-8", errors="replace")

    def stop(self) -> None:
        """End the process, and with it the DAG run that it is at."""
        if self._process is not None:
            process, self._process = self._process, None
            with suppress(subprocess.TimeoutExpired, BrokenPipeError):
                process.communicate(timeout=30)  # the end of its input
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _start(self, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        log = self._home / "start.log"
        with log.open("wb") as output:
            process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-c", _PROGRAM, json.dumps(_import_path())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                env=environment,
                start_new_session=True,
            )
        self._process = process
        try:
            if _answers(process, READY, START_TIMEOUT):
                return process
        except EOFError:
            pass  # the log says why
        self.stop()
        raise DagRunError(f"Airflow does not start:\n{show_end(log.read_text())}")

    def _copy_empty_database(self, environment: Mapping[str, str]) -> None:
        """Begin with an empty database. It is made once for all tests, those of other workers included."""
        shared = self._folders.getbasetemp()
        if "PYTEST_XDIST_WORKER" in os.environ:
            shared = shared.parent
        empty = shared / "flora-airflow" / DATABASE
        empty.parent.mkdir(exist_ok=True)
        with (empty.parent / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # until the file is closed, or this process ends
            if not empty.exists():
                _make_database(empty, environment)
        part = self._home / "part.db"
        shutil.copyfile(empty, part)
        for beside in self._home.glob(f"{DATABASE}-*"):
            beside.unlink()
        part.replace(self.database)


def _make_database(database: Path, environment: Mapping[str, str]) -> None:
    home, log = database.parent / secrets.token_hex(4), database.parent / "log"
    (home / "bundle").mkdir(parents=True)
    (home / "airflow.cfg").touch()
    with log.open("wb") as output:
        command = [sys.executable, "-m", "airflow", "db", "migrate"]
        own = {**environment, **_places(home)}
        subprocess.run(  # noqa: S603
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=own,
            timeout=START_TIMEOUT,
            check=False,
        )
    if not (home / DATABASE).exists():
        raise DagRunError(f"airflow db migrate failed:\n{show_end(log.read_text())}")
    with closing(sqlite3.connect(home / DATABASE)) as made:  # with what is still beside the file
        made.execute("VACUUM INTO ?", (str(home / "part"),))
    (home / "part").replace(database)


def _environment(home: Path) -> dict[str, str]:
    """Return the environment, with an Airflow at ``home`` that has no other setting than its defaults.

    Connections and variables stay. A secrets backend that is configured here would come before them, and might know
    a key of the real Flora.
    """
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("AIRFLOW") or name.startswith(_KEPT)
    }
    return {
        **inherited,
        **_places(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__LOGGING__COLORED_CONSOLE_LOG": "False",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "NO_COLOR": "1",
        "PYTHONUNBUFFERED": "1",
    }


def _places(home: Path) -> dict[str, str]:
    # A bundle without a DAG: dag.test() would import all files of the DAGs folder, and store them anew.
    bundle = {
        "name": BUNDLE,
        "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
        "kwargs": {"path": str(home / "bundle")},
    }
    return {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / DATABASE}",
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps([bundle]),
    }


def _import_path() -> list[str]:
    """Python's import path, without what Python ignores there, such as a ``Path`` that a ``conftest.py`` added."""
    return [entry or str(Path.cwd()) for entry in sys.path if isinstance(entry, str)]


def _send(process: subprocess.Popen[bytes], order: Mapping[str, Any]) -> None:
    assert process.stdin is not None  # noqa: S101  it is a pipe
    process.stdin.write(f"{json.dumps(order)}\n".encode())
    process.stdin.flush()


def _answers(process: subprocess.Popen[bytes], word: str, timeout: float) -> bool:
    """Whether the process says this word in time. Each of its answers is one short line.

    :raises EOFError: it has ended.
    """
    assert process.stdout is not None  # noqa: S101  it is a pipe
    if not select.select([process.stdout], [], [], timeout)[0]:
        return False
    answer = os.read(process.stdout.fileno(), 100).decode().strip()
    if answer != word:
        raise EOFError(f"The process of Airflow has ended, with {process.wait()}")
    return True
