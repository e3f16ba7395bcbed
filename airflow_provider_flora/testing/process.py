"""The process that runs DAGs: see ``airflow_process.py``. It forks for each, so that Airflow is imported once.

What a DAG run prints is its log. Lines that begin with :data:`MARK` are for ``running.py``, each with a JSON
object.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from itertools import chain
from typing import Any, NoReturn

MARK = "\x1eflora "
BUNDLE = "flora"
LONGEST_PAUSES = {"retry_delay": 0.0, "poke_interval": 1.0, "poll_interval": 1.0}
"""Seconds that a task waits at most, by the parameter that says how long."""


READY, ENDED = "ready", "ended"
"""What this process answers, on its standard output: after its start, and after each DAG run."""
_CHECK_INTERVAL = 0.02  # seconds between two looks at a DAG run


def serve() -> None:
    """Run the DAGs that are ordered, one after the other: a line of JSON on the standard input for each.

    The end of the input ends the DAG run, too.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what Airflow prints is no answer
    from airflow_provider_flora import airflow_compat
    from airflow_provider_flora.api import aio, client  # noqa: F401  half a second, once

    airflow_compat.prepare_to_test_dags()
    print(READY, file=answers, flush=True)
    while order := _read_line():
        pid = os.fork()
        if not pid:
            _run_forked(json.loads(order))
        while os.waitpid(pid, os.WNOHANG) == (0, 0):
            if select.select([0], [], [], _CHECK_INTERVAL)[0]:
                break
        _end(pid)
        print(ENDED, file=answers, flush=True)
    os._exit(0)  # without the second that Python takes to put Airflow away


def _end(pid: int) -> None:
    """End a DAG run with all that it started, in sessions of their own too while it still runs."""
    import psutil  # type: ignore[import-untyped]  # Airflow needs it

    started = []
    with suppress(psutil.NoSuchProcess):
        started = psutil.Process(pid).children(recursive=True)
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    for process in started:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _read_line() -> bytes:
    """Read a line from the standard input, and nothing after it; empty at its end."""
    line = b""
    while not line.endswith(b"\n") and (byte := os.read(0, 1)):
        line += byte
    return line


def _run_forked(wanted: dict[str, Any]) -> NoReturn:
    """Be the process of one DAG run."""
    os.setsid()
    log, nothing = os.open(wanted["log"], os.O_WRONLY | os.O_APPEND), os.open(os.devnull, os.O_RDONLY)
    for number, target in enumerate((nothing, log, log)):
        os.dup2(target, number)
    os.environ.clear()
    os.environ.update(wanted["environment"])
    sys.path[:] = wanted["sys_path"]
    try:
        run(wanted)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def run(wanted: dict[str, Any]) -> None:
    """Run a DAG, and say what became of it in the marks and in the database.

    :param wanted: the ``file``; the ``dag_id``, or ``None`` for the only DAG in it; the ``conf``; the
        ``logical_date`` as ISO 8601, ``None`` for none, or ``now``; the environment ``variable`` with the
        connection to the emulator.
    """
    from airflow_provider_flora import airflow_compat
    from airflow_provider_flora.hooks import connection

    connection.TYPES = ("flora",)  # any other may still have a key of the real Flora
    bag = airflow_compat.DagBag(wanted["file"], safe_mode=False)
    if bag.import_errors:
        _say(import_error="\n".join(bag.import_errors.values()))
        return
    dag_id = wanted["dag_id"] or (next(iter(bag.dags)) if len(bag.dags) == 1 else None)
    if dag_id not in bag.dags:
        _say(dag_ids=sorted(bag.dags))
        return
    _say(dag_id=dag_id)
    date = wanted["logical_date"]
    dates = {} if date == "now" else {"logical_date": date and datetime.fromisoformat(date)}
    for task in chain.from_iterable(dag.tasks for dag in bag.dags.values()):
        _adapt(task, os.environ[wanted["variable"]])
    _shorten_waits_for_flora()
    airflow_compat.store_dags(bag, BUNDLE)
    airflow_compat.test_dag(bag.dags[dag_id], wanted["conf"], _marked, **dates)


def _adapt(task: Any, connection: str) -> None:
    """Shorten the pauses of a task, and point its connection at the emulator."""
    # A mapped task keeps its parameters in a dict, any other in attributes.
    parameters = vars(task) if getattr(task, "partial_kwargs", None) is None else task.partial_kwargs
    for name, longest in LONGEST_PAUSES.items():
        value = parameters.get(name)
        if isinstance(value, timedelta):
            parameters[name] = min(value, timedelta(seconds=longest))
        elif isinstance(value, (int, float)):
            parameters[name] = min(value, longest)
    conn_id = parameters.get("flora_conn_id")
    if isinstance(conn_id, str) and "{" not in conn_id:
        os.environ[f"AIRFLOW_CONN_{conn_id.upper()}"] = connection


def _shorten_waits_for_flora() -> None:
    """The emulator processes a start while the client waits for it, and its history is never late."""
    from airflow_provider_flora.api import starts
    from airflow_provider_flora.runs import starting

    starts.MAX_START_DURATION = 0.0
    starting.HISTORY_LAG = 0.0


@contextmanager
def _marked(ti: Any) -> Iterator[None]:
    _say(task_id=ti.task_id, map_index=ti.map_index)
    try:
        yield
    finally:
        _say(task_id=None)


def _say(**mark: Any) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os.write(1, f"{MARK}{json.dumps(mark)}\n".encode())  # at once: what a task has started may be printing
