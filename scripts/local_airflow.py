"""A real Airflow on this machine, for tests, demonstrations and development.

`LocalAirflow` runs Airflow 3's components as separate processes, each of which can be killed and started
alone, and talks to them through the REST API as any client would. `dags_test` runs DAGs on Airflow 2, in one
process. Nothing in here knows of Flora.
"""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from http import HTTPStatus
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar
from urllib.parse import quote

import psutil
import requests
from requests.adapters import HTTPAdapter
from urllib3 import Retry

T = TypeVar("T")

USER = "admin"
PASSWORD = "admin"
FINISHED = frozenset({"success", "failed"})
ASKING = ("awaiting_input", "deferred")
"""The states of a task that asks a person: since Airflow 3.3, and before."""
ENDED = ("success", "failed", "skipped", "upstream_failed", "removed")

# How each kind of component is started, and under which name Airflow's health report has it.
COMMANDS: Mapping[str, Sequence[str]] = {
    "api-server": ["api-server"],
    "scheduler": ["scheduler", "--skip-serve-logs"],
    "dag-processor": ["dag-processor"],
    "triggerer": ["triggerer", "--skip-serve-logs"],
    "celery-worker": ["celery", "worker", "--skip-serve-logs", "--concurrency", "8"],
}
REPORTS_HEALTH_AS = {"scheduler": "scheduler", "dag-processor": "dag_processor", "triggerer": "triggerer"}

# Airflow's intervals suit a server that runs for months. Here somebody is waiting.
QUICK: Mapping[str, str] = {
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__CORE__PARALLELISM": "8",
    "AIRFLOW__DATABASE__CHECK_MIGRATIONS": "False",
    "AIRFLOW__SCHEDULER__JOB_HEARTBEAT_SEC": "1",
    "AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "1",
    "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.3",
    # Unpausing a DAG starts the run of its last interval too. Here runs are started by hand.
    "AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE": "False",
    "AIRFLOW__SCHEDULER__TRIGGER_TIMEOUT_CHECK_INTERVAL": "2",
    "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "1",
    "AIRFLOW__DAG_PROCESSOR__BUNDLE_REFRESH_CHECK_INTERVAL": "1",
    "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "2",
    "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "300",
    "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
    "AIRFLOW__LOGGING__COLORED_CONSOLE_LOG": "False",
    "AIRFLOW__API__EXPOSE_STACKTRACE": "True",
    # SQLite lets one request write at a time, and the others wait. The default of 5 s ends attempts of tasks.
    "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "120",
    "PYTHONUNBUFFERED": "1",
}


class LocalAirflowError(Exception):
    """A failure of Airflow. The message ends with the relevant log."""


class NotYetError(Exception):
    """A wait that timed out. The message names the expected state and the last one."""


def free_port() -> int:
    """Return a free port of the loopback address."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def tail(path: Path, lines: int = 40) -> str:
    """Return the last lines of a log, or a note that there is none."""
    if not path.exists():
        return f"({path.name} was not written)"
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])


def base_environment(home: Path, dags_folder: Path) -> dict[str, str]:
    """Return this process's environment without its Airflow settings, for a home and a DAG folder."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    loopback = ",".join(filter(None, [os.environ.get("NO_PROXY"), "127.0.0.1", "localhost"]))
    return {
        **inherited,
        **QUICK,
        "NO_PROXY": loopback,
        "no_proxy": loopback,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags_folder),
        # A scheduler that finds the database locked ends. SQLite's 5 s are too short while many tasks write.
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}?timeout=60",
        "AIRFLOW__CORE__FERNET_KEY": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        "AIRFLOW__API__SECRET_KEY": secrets.token_hex(16),
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(32),
    }


def prepare_home(home: Path, python: Path, env: Mapping[str, str], cache: Path | None) -> None:
    """Make the home folder and an empty, migrated SQLite database in it.

    A migration takes seconds and always makes the same file, so `cache` holds one file for each Airflow version.
    """
    home.mkdir(parents=True, exist_ok=True)
    # An absent airflow.cfg would be written by every component at once.
    (home / "airflow.cfg").touch()
    database = home / "airflow.db"
    if database.exists():
        return
    cached = cache / f"airflow-{airflow_version(python)}.db" if cache else None
    if cached and cached.exists():
        shutil.copyfile(cached, database)
        return
    _migrate(home, python, env)
    if cached:
        cached.parent.mkdir(parents=True, exist_ok=True)
        part = cached.with_suffix(f".{os.getpid()}")
        with sqlite3.connect(database) as connection:
            connection.execute("VACUUM INTO ?", (str(part),))
        part.replace(cached)


def airflow_version(python: Path) -> str:
    """Return the version of Airflow that an interpreter has installed."""
    ask = "from importlib.metadata import version; print(version('apache-airflow'))"
    answer = subprocess.run([str(python), "-c", ask], capture_output=True, text=True, timeout=60, check=True)
    return answer.stdout.strip()


def _migrate(home: Path, python: Path, env: Mapping[str, str]) -> None:
    log = home / "processes" / "migrate.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as out:
        command = [str(python), "-m", "airflow", "db", "migrate"]
        done = subprocess.run(command, env=dict(env), stdout=out, stderr=subprocess.STDOUT, timeout=300)
    if done.returncode:
        raise LocalAirflowError(f"airflow db migrate failed:\n{tail(log)}")


@dataclass
class Component:
    """One process of Airflow with all that it started: they share the session that it leads."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    started: float = field(default_factory=time.time)

    def members(self) -> list[psutil.Process]:
        """The living processes of the session. A task's process has a group of its own, but not a session."""
        members = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if os.getsid(process.pid) == self.process.pid and process.status() != psutil.STATUS_ZOMBIE:
                    members.append(process)
        return members

    def kill(self) -> None:
        """SIGKILL to every process, until none is left."""
        ends = time.monotonic() + 10
        while (members := self.members()) and time.monotonic() < ends:
            for process in members:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(members, timeout=0.2)
        self.process.wait(timeout=10)


@dataclass(frozen=True)
class TaskInstance:
    """A task instance in the REST API. `raw` is the whole answer."""

    task_id: str
    map_index: int
    state: str | None
    try_number: int
    max_tries: int
    raw: Mapping[str, Any] = field(repr=False)


class LocalAirflow:
    """Airflow 3 with its components as processes that can be killed and started one by one.

    :param home: AIRFLOW_HOME; database, logs and passwords go there
    :param dags_folder: the folder with the DAG files
    :param env: environment variables over the ones set here, such as connections and `AIRFLOW__...` settings
    :param database_url: a PostgreSQL URL; its database is created at the start and dropped at the end.
        Default: SQLite in `home`
    :param python: the interpreter that has Airflow installed
    :param triggerers: how many triggerers to run: `triggerer`, `triggerer-2` ...
    :param executor: `LocalExecutor` or `CeleryExecutor`, the latter with `celery_workers` and `broker_url`
    :param database_cache: folder for an empty migrated SQLite database, for a faster start
    :param port: the API server's port; default: a free one
    :param report: receives a short text for each step of the start

    Use it as a context manager: all that it started ends with the block, on errors and SIGTERM too.
    """

    def __init__(
        self,
        home: Path,
        dags_folder: Path,
        *,
        env: Mapping[str, str] | None = None,
        database_url: str | None = None,
        python: str | Path = sys.executable,
        triggerers: int = 1,
        executor: str = "LocalExecutor",
        celery_workers: int = 0,
        broker_url: str | None = None,
        database_cache: Path | None = None,
        port: int | None = None,
        report: Callable[[str], None] = lambda step: None,
    ) -> None:
        self.home = home.absolute()
        self.dags_folder = dags_folder.absolute()
        self.python = Path(python)
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.logs = self.home / "logs"
        self._database_url = database_url
        self._database_cache = database_cache
        self._report = report
        self._names = ["api-server", "scheduler", "dag-processor"]
        self._names += _numbered("triggerer", triggerers) + _numbered("celery-worker", celery_workers)
        self._components: dict[str, Component] = {}
        self._session = requests.Session()
        # A SQLite database that is busy makes the API server answer 500. To ask or to pause twice does no harm.
        again = Retry(
            total=5,
            backoff_factor=0.5,
            status_forcelist=[500, 503],
            allowed_methods=["GET", "PATCH"],
            raise_on_status=False,
        )
        self._session.mount("http://", HTTPAdapter(max_retries=again))
        self._session.trust_env = False
        self._old_handlers: dict[int, Any] = {}
        self.env = {
            **base_environment(self.home, self.dags_folder),
            "AIRFLOW__CORE__EXECUTOR": executor,
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "AIRFLOW__API__BASE_URL": self.url,
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(self.port),
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USER}:admin",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(self.home / "passwords.json"),
        }
        if database_url:
            self.env["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = database_url
        if broker_url:
            self.env["AIRFLOW__CELERY__BROKER_URL"] = broker_url
            self.env["AIRFLOW__CELERY__RESULT_BACKEND"] = f"db+{database_url}"
        self.env.update(env or {})

    # Life

    def __enter__(self) -> LocalAirflow:
        self._end_on_signals()
        try:
            self.prepare()
            self._report("the database is ready")
            for name in self._names:
                self.start(name, wait=False)
            self.wait_healthy()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def prepare(self) -> None:
        """Make the home folder, the login and the database. Part of entering the context."""
        if self._database_url:
            self.home.mkdir(parents=True, exist_ok=True)
            (self.home / "airflow.cfg").touch()
            _execute_on_server(self._database_url, 'DROP DATABASE IF EXISTS "{}" WITH (FORCE)')
            _execute_on_server(self._database_url, 'CREATE DATABASE "{}"')
            _migrate(self.home, self.python, self.env)
        else:
            prepare_home(self.home, self.python, self.env, self._database_cache)
        (self.home / "passwords.json").write_text(json.dumps({USER: PASSWORD}))

    def start(self, name: str, *, wait: bool = True, timeout: float = 300) -> None:
        """Start one component, and wait until Airflow reports it as healthy."""
        if name in self._components:
            raise LocalAirflowError(f"{name} is already running")
        log = self.home / "processes" / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as out:
            process = subprocess.Popen(
                [str(self.python), "-m", "airflow", *COMMANDS[_kind(name)], *_own_name(name)],
                env=self.env,
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._components[name] = Component(name, process, log)
        if wait:
            self.wait_healthy(timeout)

    def kill(self, name: str) -> None:
        """SIGKILL a component and everything that it started."""
        self._components.pop(name).kill()

    def restart(self, name: str) -> None:
        """Kill a component and start it again."""
        self.kill(name)
        self.start(name)

    def start_all(self) -> None:
        """Start every component that does not run, and wait until they are healthy."""
        for name in self._names:
            if name not in self._components:
                self.start(name, wait=False)
        self.wait_healthy()

    def stop(self, grace: float = 5) -> None:
        """End all processes of this object: with SIGTERM, and after `grace` seconds with SIGKILL."""
        for component in self._components.values():
            with suppress(ProcessLookupError):
                component.process.terminate()
        ends = time.monotonic() + grace
        for component in self._components.values():
            with suppress(subprocess.TimeoutExpired):
                component.process.wait(timeout=max(0.0, ends - time.monotonic()))
        while self._components:
            self._components.popitem()[1].kill()
        self._session.close()
        if self._database_url:
            _execute_on_server(self._database_url, 'DROP DATABASE IF EXISTS "{}" WITH (FORCE)')
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)
        self._old_handlers.clear()

    def pids(self) -> dict[str, int]:
        """The process id of each running component."""
        return {name: component.process.pid for name, component in self._components.items()}

    def processes(self, name: str) -> list[psutil.Process]:
        """All living processes of a component: under the scheduler's are those of LocalExecutor's tasks."""
        return self._components[name].members()

    def process_log(self, name: str) -> str:
        """Return a component's output since the home was made."""
        return (self.home / "processes" / f"{name}.log").read_text(errors="replace")

    def tries_ended_by_mistake(self, run_id: str) -> int:
        """Return how many attempts of a DAG run the scheduler has ended by mistake, as a trigger fired early.

        It then takes the end of the process that deferred the task for the end of the one that resumes it:
        https://github.com/apache/airflow/issues/72716, in Airflow up to at least 3.3.2.
        """
        mistake = f"{re.escape(run_id)} .* finished with state success, but the task instance's state attribute is "
        return len(re.findall(mistake, self.process_log("scheduler")))

    def wait_healthy(self, timeout: float = 300) -> None:
        """Wait until the API server answers and every running component has reported since its start."""
        since = {
            REPORTS_HEALTH_AS[kind]: datetime.fromtimestamp(component.started, timezone.utc)
            for name, component in self._components.items()
            if (kind := _kind(name)) in REPORTS_HEALTH_AS
        }

        def healthy() -> bool:
            self._raise_if_dead()
            health = self._session.get(f"{self.url}/api/v2/monitor/health", timeout=10).json()
            for name, start in list(since.items()):
                if _reported(health[name], name, start):
                    self._report(f"the {name.replace('_', ' ')} is running")
                    del since[name]
            return not since

        if "api-server" in self._components:
            self.wait_until(healthy, timeout, "Airflow to be healthy")
            self._report("the API server answers")

    def watch(self, every: float = 1) -> None:
        """Wait until a component ends by itself, and raise an error with its log."""
        while True:
            self._raise_if_dead()
            time.sleep(every)

    def _raise_if_dead(self) -> None:
        for component in self._components.values():
            if (code := component.process.poll()) is not None:
                raise LocalAirflowError(f"{component.name} ended with exit code {code}:\n{tail(component.log)}")

    def _end_on_signals(self) -> None:
        """A SIGTERM or SIGHUP would end this process and leave Airflow running."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:
                self._old_handlers[number] = signal.signal(number, _exit)

    # What a client does

    def token(self) -> str:
        """Log in, and return the token: for the REST API, and for the cookie `_token` of the UI."""
        login = {"username": USER, "password": PASSWORD}
        answer = self._session.post(f"{self.url}/auth/token", json=login, timeout=30)
        answer.raise_for_status()
        return str(answer.json()["access_token"])

    def api(self, method: str, path: str, *, body: Any = None, params: Any = None) -> Any:
        """One call of Airflow's REST API; `path` follows `/api/v2`. Gives the answer's JSON.

        With SQLite, Airflow may find the database locked, and is asked again: its API server logs a call on its
        event loop before it does the work, and may wait there for another of its requests, until SQLite's timeout.
        """
        if "Authorization" not in self._session.headers:
            self._session.headers["Authorization"] = f"Bearer {self.token()}"
        url = f"{self.url}/api/v2{path}"
        for _ in range(3):
            answer = self._session.request(method, url, json=body, params=params, timeout=120)
            if answer.status_code != HTTPStatus.INTERNAL_SERVER_ERROR:
                break
        if not answer.ok:
            raise requests.HTTPError(f"{method} {path}: {answer.status_code} {answer.text}", response=answer)
        return answer.json() if answer.content else None

    def airflow(self, *arguments: str, timeout: float = 120) -> str:
        """Run an `airflow` command against this Airflow and give what it printed to stdout."""
        command = [str(self.python), "-m", "airflow", *arguments]
        done = subprocess.run(command, env=self.env, cwd=self.home, capture_output=True, text=True, timeout=timeout)
        if done.returncode:
            raise LocalAirflowError(f"airflow {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")
        return done.stdout

    def wait_until(self, probe: Callable[[], T], timeout: float, what: str, *, every: float = 0.3) -> T:
        """Call `probe` until it returns a true value. An API server that does not answer only costs time."""
        ends = time.monotonic() + timeout
        last: object = None
        while True:
            try:
                if found := probe():
                    return found
                last = None
            except (requests.ConnectionError, requests.Timeout, requests.JSONDecodeError) as error:
                last = error
            except requests.HTTPError as error:
                if error.response is not None and error.response.status_code < 500:
                    raise
                last = error
            if time.monotonic() > ends:
                raise NotYetError(f"waited {timeout:.0f} s for {what}" + (f"; last error: {last}" if last else ""))
            time.sleep(every)

    def wait_for_dag(self, dag_id: str, timeout: float = 300) -> None:
        """Wait until Airflow has read a DAG. An import error of its file ends the wait at once."""

        def known() -> bool:
            self._raise_if_dead()
            if errors := self.api("GET", "/importErrors")["import_errors"]:
                raise LocalAirflowError("\n".join(error["stack_trace"] for error in errors))
            try:
                self.api("GET", f"/dags/{dag_id}")
            except requests.HTTPError as error:
                if error.response is not None and error.response.status_code == 404:
                    return False
                raise
            return True

        self.wait_until(known, timeout, f"the DAG {dag_id}")

    def unpause(self, dag_id: str, *, paused: bool = False) -> None:
        """Let a DAG run; with `paused=True` the reverse."""
        self.api("PATCH", f"/dags/{dag_id}", body={"is_paused": paused})

    def trigger(
        self,
        dag_id: str,
        conf: Mapping[str, Any] | None = None,
        *,
        run_id: str | None = None,
        stays_paused: bool = False,
    ) -> str:
        """Wait for the DAG, unpause it and start a run; gives the run's id.

        :param stays_paused: do not unpause it. The run begins when somebody does.
        """
        self.wait_for_dag(dag_id)
        body: dict[str, Any] = {"logical_date": datetime.now(timezone.utc).isoformat(), "conf": conf or {}}
        body["dag_run_id"] = run_id = run_id or f"manual__{body['logical_date']}"

        def is_started() -> bool:
            if not stays_paused:
                self.unpause(dag_id)
            try:
                self.api("POST", f"/dags/{dag_id}/dagRuns", body=body)
            except requests.HTTPError as error:
                if error.response is None or error.response.status_code != 409:
                    raise
                # An earlier try has started it, and its answer was lost.
            return True

        self.wait_until(is_started, 300, f"the start of {dag_id}")
        return run_id

    def dag_run_state(self, dag_id: str, run_id: str) -> str:
        """The state of a run: queued, running, success or failed."""
        return str(self.api("GET", _run_path(dag_id, run_id))["state"])

    def wait_for_dag_run(self, dag_id: str, run_id: str, timeout: float = 600) -> str:
        """Wait for the end of a run; gives `success` or `failed`."""

        def finished() -> str | None:
            state = self.dag_run_state(dag_id, run_id)
            return state if state in FINISHED else None

        try:
            return str(self.wait_until(finished, timeout, f"the end of {run_id}"))
        except NotYetError as error:
            instances = self.task_instances(dag_id, run_id)
            raise NotYetError(f"{error}\n" + "\n".join(map(str, instances))) from None

    def task_instances(self, dag_id: str, run_id: str, task_id: str | None = None) -> list[TaskInstance]:
        """The task instances of a run, or of one of its tasks, in the order of their map indexes."""
        found: list[TaskInstance] = []
        while True:
            params: dict[str, Any] = {"limit": 100, "offset": len(found)}
            if task_id:
                params["task_id"] = task_id
            answer = self.api("GET", f"{_run_path(dag_id, run_id)}/taskInstances", params=params)
            found += [_task_instance(raw) for raw in answer["task_instances"]]
            if len(found) >= answer["total_entries"] or not answer["task_instances"]:
                break
        found = [one for one in found if task_id in (None, one.task_id)]
        return sorted(found, key=lambda one: (one.task_id, one.map_index))

    def task_instance(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> TaskInstance:
        """One task instance."""
        for instance in self.task_instances(dag_id, run_id, task_id):
            if instance.map_index == map_index:
                return instance
        raise LookupError(f"{run_id} has no task instance {task_id}[{map_index}]")

    def wait_for_task_state(
        self, dag_id: str, run_id: str, task_id: str, *states: str, map_index: int = -1, timeout: float = 300
    ) -> TaskInstance:
        """Wait until a task instance is in one of the states."""

        def there() -> TaskInstance | None:
            instance = self.task_instance(dag_id, run_id, task_id, map_index)
            return instance if instance.state in states else None

        found = self.wait_until(there, timeout, f"{task_id} to be {' or '.join(states)}")
        assert found is not None
        return found

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str = "return_value", map_index: int = -1) -> Any:
        """An XCom's value, or None where there is none."""
        path = f"{_run_path(dag_id, run_id)}/taskInstances/{task_id}/xcomEntries/{quote(key, safe='')}"
        try:
            return self.api("GET", path, params={"map_index": map_index})["value"]
        except requests.HTTPError as error:
            if error.response is not None and error.response.status_code == 404:
                return None
            raise

    def clear(
        self,
        dag_id: str,
        run_id: str,
        task_ids: Sequence[str | tuple[str, int]],
        *,
        downstream: bool = True,
    ) -> None:
        """Clear task instances as a user does; `(task_id, map_index)` picks one of a mapped task."""
        body = {
            "dry_run": False,
            "dag_run_id": run_id,
            "task_ids": [list(one) if isinstance(one, tuple) else one for one in task_ids],
            "only_failed": False,
            "reset_dag_runs": True,
            "include_downstream": downstream,
        }
        self.api("POST", f"/dags/{dag_id}/clearTaskInstances", body=body)

    def question(self, dag_id: str, run_id: str, task_id: str, timeout: float = 300) -> Any:
        """Wait until a task asks a person and may be answered, and return what it asks."""
        task = self.wait_for_task_state(dag_id, run_id, task_id, *ASKING, timeout=timeout)
        self._wait_for_end_of_process(run_id, task)
        return self.api("GET", _question_path(dag_id, run_id, task_id))

    def answer(
        self,
        dag_id: str,
        run_id: str,
        task_id: str,
        options: Sequence[str],
        params: Mapping[str, Any] | None = None,
        timeout: float = 300,
    ) -> TaskInstance:
        """Answer a task that asks a person, wait for its end, and return it.

        If an attempt was ended by mistake (see `tries_ended_by_mistake`), the next one is answered too.
        """
        body = {"chosen_options": options, "params_input": params or {}}
        while True:
            task = self.wait_for_task_state(dag_id, run_id, task_id, *ASKING, *ENDED, timeout=timeout)
            if task.state in ENDED:
                return task
            self._wait_for_end_of_process(run_id, task)
            self.api("PATCH", _question_path(dag_id, run_id, task_id), body=body)
            self.wait_until(
                lambda task=task: self._is_past(dag_id, run_id, task), timeout, f"{task_id} to take its answer"
            )

    def _is_past(self, dag_id: str, run_id: str, attempt: TaskInstance) -> bool:
        now = self.task_instance(dag_id, run_id, attempt.task_id, attempt.map_index)
        return now.state in (*ENDED, "up_for_retry") or now.try_number > attempt.try_number

    def _wait_for_end_of_process(self, run_id: str, task: TaskInstance) -> None:
        """Wait until the scheduler has seen the end of the process that asked. An answer before may be lost."""
        attempt = f"'{re.escape(task.task_id)}', run_id='{re.escape(run_id)}', try_number={task.try_number},"
        seen = f"Received executor event .*{attempt}"
        what = f"the scheduler to know that {task.task_id} waits"
        self.wait_until(lambda: re.search(seen, self.process_log("scheduler")), 300, what)

    def task_log(
        self, dag_id: str, run_id: str, task_id: str, try_number: int | None = None, map_index: int = -1
    ) -> str:
        """Return the log of an attempt as text, one event a line. Default: the last attempt."""
        if try_number is None:
            try_number = self.task_instance(dag_id, run_id, task_id, map_index).try_number
        path = f"{_run_path(dag_id, run_id)}/taskInstances/{task_id}/logs/{try_number}"
        content = self.api("GET", path, params={"map_index": map_index, "full_content": True})["content"]
        return "\n".join(line for entry in content for line in _log_lines(entry))


@dataclass(frozen=True)
class TestedRun:
    """A DAG run that was made without a scheduler: its state, and XComs by task, map index and key."""

    dag_id: str
    run_id: str
    state: str
    xcoms: Mapping[tuple[str, int, str], Any]

    def xcom(self, task_id: str, key: str = "return_value", map_index: int = -1) -> Any:
        """An XCom's value, or None where there is none."""
        return self.xcoms.get((task_id, map_index, key))


def dags_test(
    runs: Sequence[tuple[str, Mapping[str, Any]]],
    dags_folder: Path,
    home: Path,
    *,
    python: str | Path,
    env: Mapping[str, str] | None = None,
    connections: Mapping[str, Mapping[str, Any]] | None = None,
    database_cache: Path | None = None,
    timeout: float = 900,
) -> tuple[list[TestedRun], str]:
    """Run DAGs on Airflow 2, one after the other: tasks and triggers in one process, without a scheduler.

    :param runs: ids of DAGs, each with the conf of its run
    :param python: the interpreter that has Airflow 2 installed
    :param connections: what is in the database, by the connections' ids
    :return: the runs in their order, and all that was printed
    """
    environment = {**base_environment(home, dags_folder.absolute()), **(env or {})}
    prepare_home(home, Path(python), environment, database_cache)
    script = Path(__file__).with_name("several_dags.py")
    done = subprocess.run(
        [str(python), str(script), json.dumps(runs), json.dumps(connections or {})],
        env=environment,
        cwd=home,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
    )
    with sqlite3.connect(home / "airflow.db") as database:
        rows = database.execute("SELECT dag_id, run_id, state FROM dag_run ORDER BY id").fetchall()
        tested = [TestedRun(*row, _read_xcoms(database, *row[:2])) for row in rows]
    if done.returncode or len(tested) != len(runs):
        raise LocalAirflowError(f"Running the DAGs failed:\n{done.stdout}")
    return tested, done.stdout


def _read_xcoms(database: sqlite3.Connection, dag_id: str, run_id: str) -> dict[tuple[str, int, str], Any]:
    rows = database.execute(
        "SELECT task_id, map_index, key, value FROM xcom WHERE dag_id = ? AND run_id = ?", (dag_id, run_id)
    )
    return {(task_id, map_index, key): json.loads(value) for task_id, map_index, key, value in rows}


def _execute_on_server(database_url: str, statement: str) -> None:
    import sqlalchemy

    url = sqlalchemy.make_url(database_url)
    engine = sqlalchemy.create_engine(url.set(database="postgres"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text(statement.format(url.database)))
    engine.dispose()


def _exit(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _kind(name: str) -> str:
    return name.rstrip("-0123456789")


def _own_name(name: str) -> list[str]:
    """Two Celery workers of one name would take each other for themselves."""
    return ["--celery-hostname", f"{name}@%h"] if _kind(name) == "celery-worker" else []


def _reported(health: Mapping[str, Any], name: str, since: datetime) -> bool:
    heartbeat: str | None = health.get(f"latest_{name}_heartbeat")
    if health["status"] != "healthy" or heartbeat is None:
        return False
    return datetime.fromisoformat(heartbeat) >= since


def _numbered(name: str, count: int) -> list[str]:
    return [name if number == 1 else f"{name}-{number}" for number in range(1, count + 1)]


def _log_lines(entry: str | Mapping[str, Any]) -> Iterator[str]:
    if isinstance(entry, str):
        yield entry
        return
    yield str(entry.get("event", ""))
    for error in entry.get("error_detail") or ():
        yield f"{error.get('exc_type')}: {error.get('exc_value')}"


def _run_path(dag_id: str, run_id: str) -> str:
    return f"/dags/{quote(dag_id, safe='')}/dagRuns/{quote(run_id, safe='')}"


def _question_path(dag_id: str, run_id: str, task_id: str) -> str:
    return f"{_run_path(dag_id, run_id)}/taskInstances/{task_id}/-1/hitlDetails"


def _task_instance(raw: Mapping[str, Any]) -> TaskInstance:
    known = {name: raw[name] for name in ("task_id", "map_index", "state", "try_number", "max_tries")}
    return TaskInstance(**known, raw=raw)
