"""Runs scenarios on a real Airflow and judges them by the emulator's ledger.

A scenario is one DAG run with a Flora of its own: an emulator, and an Airflow connection that leads to it. So its
ledger holds nothing but its own runs, many scenarios can run at once, and a person's mistakes in one of them are
not another's candidates. `fault_scenarios.py` says which there are.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import requests

from airflow_provider_flora.emulator import Emulator
from airflow_provider_flora.task.state import RUN
from scripts.local_airflow import LocalAirflow, NotYetError

API_KEY = "sk_test_that_must_not_be_seen_in_any_log"
TASK = "run_technique"
FINAL = frozenset({"success", "failed", "upstream_failed", "skipped", "removed"})
VIDEO_BYTES = 24_000_000
"""More than the buffers of a connection hold: while Flora does not read, a task cannot have sent it to its end."""
LONGEST = 420.0
"""Seconds after which a scenario is given up."""
AN_IDEMPOTENCY_KEY = re.compile(rb"airflow-(?:[0-9a-f]{8}-[0-9a-f]{4}-|[0-9a-f]{40})")

Script = Callable[["Running"], None]


@dataclass(frozen=True)
class Scenario:
    """A fault, and what must come of it.

    :param fault: its number.
    :param what: it in words.
    :param mode: `deferrable` or `synchronous`.
    :param account: of idempotency, `docs` or `site`.
    :param hit: what happens to the task's process; see the DAG file.
    :param conf: more for the DAG run's conf.
    :param orders: faults for the emulator.
    :param flora: more options of the emulator.
    :param connection: the connection's extra.
    :param dag: the DAG without its mode.
    :param tasks: how many tasks the DAG has.
    :param script: what a person does, or what happens to Airflow, meanwhile.
    :param charged: how many runs must be charged at the end.
    :param started: how many must have been started; default: as many as are charged.
    :param right: how many tasks must have the outputs of their own inputs; default: all or none, by `state`.
    :param error: what the error must contain; of mapped tasks, of each that failed.
    :param says: what the logs of its attempts must report of its runs, in order. Attempts that resume the last one
        may follow: under load Airflow itself ends an attempt that resumes before its deferral is stored.
    :param sent: the outcome of each upload of the scenario's video: the upload host's answer, or ``None`` where it
        was broken off. Then Flora must have one asset, whole, and the run must be given that one.
    :param celery: run under Celery with two triggerers.
    :param together: scenarios of one such name run at the same time, and nothing else with them: what their script
        does to Airflow is done once, to all of them.
    :param in_part: belongs to the part that is run with every `make test`.
    """

    fault: str
    what: str
    mode: str
    account: str = "docs"
    hit: str | None = None
    conf: Mapping[str, Any] = field(default_factory=dict)
    orders: Sequence[Mapping[str, Any]] = ()
    flora: Mapping[str, Any] = field(default_factory=dict)
    connection: Mapping[str, Any] = field(default_factory=dict)
    dag: str = "one"
    tasks: int = 1
    script: Script | None = None
    charged: int = 1
    started: int | None = None
    right: int | None = None
    state: str = "success"
    error: str | None = None
    says: str | None = None
    sent: Sequence[int | None] = ()
    celery: bool = False
    together: str | None = None
    in_part: bool = False

    @property
    def name(self) -> str:
        """A name that fits into a URL, an id and a line."""
        words = [self.fault, self.what, self.mode, *(["site"] if self.account == "site" else [])]
        return re.sub(r"[^a-z0-9]+", "_", " ".join(words).lower()).strip("_")

    @property
    def dag_id(self) -> str:
        """The DAG that it runs."""
        return f"{self.dag}_{self.mode}"

    @property
    def at_least(self) -> float:
        """Seconds that it takes by itself."""
        return float(self.flora.get("run_seconds", 0.0)) + (60.0 if "for a minute" in self.what else 0.0)

    @property
    def must_be_right(self) -> int:
        """How many tasks must have the outputs of their own inputs."""
        if self.right is not None:
            return self.right
        return self.tasks if self.state == "success" else 0


@dataclass
class Verdict:
    """What came of a scenario. It held if there are no problems.

    :param seconds: from the fault to the end of the last task.
    :param late: by how many seconds the last task ended after both the fault and the end of its own run.
    """

    scenario: Scenario
    state: str = "unknown"
    charged: int = 0
    started: int = 0
    right: int = 0
    seconds: float | None = None
    late: float | None = None
    errors: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def line(self) -> str:
        """It in one line."""
        took = "" if self.seconds is None else f", {self.seconds:.0f} s after the fault"
        held = "ok " if not self.problems else "BAD"
        counts = f"{self.charged} charged, {self.right} of {self.scenario.tasks} right"
        return f"{held} {self.scenario.name}: {self.state}, {counts}{took}" + "".join(
            f"\n    {problem}" for problem in self.problems
        )


class Board:
    """The task instances of all DAG runs, read by one request a second for all scenarios."""

    def __init__(self, airflow: LocalAirflow) -> None:
        self._airflow = airflow
        self._changed = threading.Condition()
        self._instances: dict[str, list[Mapping[str, Any]]] = {}
        self._read_at = 0.0
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._work, name="board", daemon=True)

    def __enter__(self) -> Board:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
        self._thread.join()

    def stop(self) -> None:
        """End the reading, and every wait."""
        self._ends.set()

    def _work(self) -> None:
        while not self._ends.wait(1):
            began = time.monotonic()
            try:
                instances = self._read()
            except OSError:  # an API server that is away, which some scenarios see to
                continue
            with self._changed:
                self._instances, self._read_at = instances, began
                self._changed.notify_all()

    def _read(self) -> dict[str, list[Mapping[str, Any]]]:
        found: dict[str, list[Mapping[str, Any]]] = {}
        count = 0
        while True:
            body = {"page_limit": 100, "page_offset": count, "order_by": "id"}
            answer = self._airflow.api("POST", "/dags/~/dagRuns/~/taskInstances/list", body=body)
            for raw in answer["task_instances"]:
                found.setdefault(raw["dag_run_id"], []).append(raw)
            count += len(answer["task_instances"])
            if not answer["task_instances"] or count >= answer["total_entries"]:
                return found

    def wait(
        self, run_id: str, probe: Callable[[Sequence[Mapping[str, Any]]], bool], timeout: float, what: str
    ) -> list[Mapping[str, Any]]:
        """Wait until `probe` holds for a run's task instances as they were read from now on."""
        asked = time.monotonic()
        ends = asked + timeout
        with self._changed:
            while True:
                instances = self._instances.get(run_id, [])
                if self._read_at > asked and instances and probe(instances):
                    return instances
                if self._ends.is_set() or time.monotonic() > ends:
                    states = sorted(f"{one['map_index']}: {one['state']}" for one in instances)
                    raise NotYetError(f"waited {timeout:.0f} s for {what}; {', '.join(states)}")
                self._changed.wait(1)


def _video(size: int, noise: random.Random) -> bytes:
    """An MP4 of the given size, most of it noise in a part that players skip."""
    from airflow_provider_flora.emulator.media.videos import sample_clip

    start = sample_clip()
    rest = size - len(start)
    return start + struct.pack(">I4s", rest, b"free") + noise.randbytes(rest - 8)


class Running:
    """A scenario under way: what a script may do."""

    def __init__(
        self,
        scenario: Scenario,
        airflow: LocalAirflow,
        board: Board,
        flora: Emulator,
        marks: Path,
        meeting: threading.Barrier,
    ) -> None:
        self.scenario = scenario
        self.airflow = airflow
        self.flora = flora
        self.run_id = scenario.name
        self.folder = marks.parent / "files" / scenario.name
        self.folder.mkdir(parents=True)
        self.video = self.folder / "video.mp4"
        self.film_sha256 = ""
        self._board = board
        self._marks = marks
        self._meeting = meeting
        self._fault_at: float | None = None

    def once_for_all(self, work: Callable[[], None], *, is_the_fault: bool = True) -> None:
        """Do something when all scenarios that run together are ready for it, and go on when it is done."""
        first = self._meeting.wait(LONGEST) == 0
        if is_the_fault:
            self.mark()
        if first:
            work()
        self._meeting.wait(LONGEST)

    def mark(self) -> None:
        """The fault comes now."""
        self._fault_at = time.time()

    def fault_at(self) -> float | None:
        """When the fault came: by the script, by the task's process, or by the emulator.

        A process may die after Airflow has recorded its task's success, so the fault may still be to come.
        """
        ends = time.monotonic() + 60
        while True:
            marks = [path for path in self._marks.glob(f"{self.run_id}--*") if path.is_file()]
            hits = [float(text) for path in marks if (text := path.read_text())]
            if hits or not self.scenario.hit or time.monotonic() > ends:
                return min(hits, default=self._fault_at)
            time.sleep(0.2)

    def wait_runs(self, count: int, *statuses: str, timeout: float = 180) -> list[dict[str, Any]]:
        """Wait until Flora has that many runs, in one of the statuses if any are given."""
        ends = time.monotonic() + timeout
        while True:
            runs = [run for run in self.flora.ledger()["runs"] if not statuses or run["status"] in statuses]
            if len(runs) >= count:
                return runs
            if time.monotonic() > ends:
                raise NotYetError(f"waited {timeout:.0f} s for {count} runs {statuses}; there are {len(runs)}")
            time.sleep(0.2)

    def wait_states(self, *states: str, timeout: float = LONGEST) -> list[Mapping[str, Any]]:
        """Wait until every task is in one of the states."""
        count = self.scenario.tasks
        return self._board.wait(
            self.run_id,
            lambda found: len(found) == count and all(one["state"] in states for one in found),
            timeout,
            f"{count} tasks to be {' or '.join(sorted(states))}",
        )

    def wait_ended(self) -> None:
        """Wait until the DAG run has ended; a clear in the moment before it does would be lost to Airflow."""
        self.airflow.wait_for_dag_run(self.scenario.dag_id, self.run_id, LONGEST)

    def wait_delivered(self) -> None:
        """Wait until the task has noted the delivery, which it does after Airflow has recorded its success."""
        where = f"/dags/{self.scenario.dag_id}/dagRuns/{self.run_id}/taskInstances/{TASK}/state-store/{RUN}"

        def is_noted() -> bool:
            return bool(self.airflow.api("GET", where)["value"]["delivered"])

        self.airflow.wait_until(is_noted, 60, "the delivery to be noted")

    def clear(self) -> None:
        """Clear the task, as a person does."""
        self.mark()
        insist(lambda: self.airflow.clear(self.scenario.dag_id, self.run_id, [TASK]))

    def xcom(self, one: Mapping[str, Any]) -> Any:
        """What a task has handed over."""
        return self.airflow.xcom(self.scenario.dag_id, self.run_id, one["task_id"], map_index=one["map_index"])

    def log(self, one: Mapping[str, Any], try_number: int | None = None) -> str:
        """The log of a task's last try, or of another.

        A busy Airflow was seen to answer 404 for a while, and to count a try that never began and has no log.
        """
        ends = time.monotonic() + 15
        while True:
            try:
                return self.airflow.task_log(
                    self.scenario.dag_id, self.run_id, one["task_id"], try_number, one["map_index"]
                )
            except requests.HTTPError as error:
                if error.response is None or error.response.status_code != 404:
                    raise
                if time.monotonic() > ends:
                    if try_number in (None, one["try_number"]):
                        raise
                    return ""
                time.sleep(0.5)


def insist(ask: Callable[[], Any]) -> None:
    """Ask Airflow for something again while its database is locked, as SQLite's may be."""
    for _ in range(10):
        try:
            ask()
            return
        except requests.HTTPError as error:
            status = 500 if error.response is None else error.response.status_code
            if status == 409:  # it is there: the answer was lost
                return
            if status < 500:
                raise
            time.sleep(random.uniform(0.5, 2))
    ask()


class Runner:
    """Runs scenarios on one Airflow.

    :param marks: where the tasks' processes write down when they were hit.
    :param at_once: how many scenarios the database bears at the same time.
    """

    def __init__(self, airflow: LocalAirflow, marks: Path, report: Callable[[str], None], at_once: int) -> None:
        self._airflow = airflow
        self._marks = marks
        self._report = report
        self._at_once = at_once

    def run(self, scenarios: Sequence[Scenario]) -> list[Verdict]:
        """Run and judge: first what can run together, then what must be alone."""
        for dag_id in sorted({scenario.dag_id for scenario in scenarios}):
            self._airflow.wait_for_dag(dag_id)
            self._airflow.unpause(dag_id)
        verdicts: list[Verdict] = []
        with Board(self._airflow) as board:

            def run(scenario: Scenario, meeting: threading.Barrier) -> None:
                verdict = self._run(scenario, board, meeting)
                verdicts.append(verdict)
                self._report(f"[{len(verdicts)}/{len(scenarios)}] {verdict.line()}")

            groups: dict[str | None, list[Scenario]] = {None: []}
            for scenario in sorted(scenarios, key=lambda one: -one.at_least):  # the longest first
                groups.setdefault(scenario.together, []).append(scenario)
            for name, group in groups.items():
                meeting = threading.Barrier(len(group) if name else 1)
                with ThreadPoolExecutor(len(group) if name else self._at_once) as pool:
                    try:
                        list(pool.map(run, group, [meeting] * len(group)))
                    except BaseException:  # somebody wants to go home
                        board.stop()
                        meeting.abort()
                        raise
        self._look_for_keys(verdicts)
        return verdicts

    def _run(self, scenario: Scenario, board: Board, meeting: threading.Barrier) -> Verdict:
        verdict = Verdict(scenario)
        options = {"run_seconds": 6.0, "cost_lag": 0.2, "api_key": API_KEY, **scenario.flora}
        with Emulator(idempotency=scenario.account, **options) as flora:
            running = Running(scenario, self._airflow, board, flora, self._marks, meeting)
            watcher = _Watch(running)
            try:
                self._start(running)
                if scenario.script is not None:
                    scenario.script(running)
                instances = running.wait_states(*FINAL)
                _judge(verdict, running, instances, watcher.sizes)
            except Exception as error:
                verdict.problems.append(f"{type(error).__name__}: {error}")
                meeting.abort()
            finally:
                watcher.end()
        return verdict

    def _start(self, running: Running) -> None:
        scenario = running.scenario
        # Short, so that the time in which a lost run can have been made ends before the test does.
        extra = {"timeout": 10, "max_retries": 2, **scenario.connection}
        connection = {
            "connection_id": running.run_id,
            "conn_type": "flora",
            "host": running.flora.base_url,
            "password": API_KEY,
            "extra": json.dumps(extra),
        }
        insist(lambda: self._airflow.api("POST", "/connections", body=connection))
        for order in scenario.orders:
            running.flora.order_fault(**order)
        if scenario.sent:
            content = _video(VIDEO_BYTES, random.Random(scenario.name))
            running.video.write_bytes(content)
            running.film_sha256 = hashlib.sha256(content).hexdigest()
        conf = {
            "connection": running.run_id,
            "origin": running.flora.origin,
            "folder": str(running.folder),
            "hit": scenario.hit,
            **scenario.conf,
        }
        self._airflow.trigger(scenario.dag_id, conf, run_id=running.run_id)

    def _look_for_keys(self, verdicts: Sequence[Verdict]) -> None:
        """Neither Flora's key nor an idempotency key may be in any log."""
        logs = [*self._airflow.logs.rglob("*.log*"), *(self._airflow.home / "processes").iterdir()]
        read = [(path, path.read_bytes()) for path in logs if path.is_file()]
        for path, text in read:
            for name, there in (
                ("the API key", API_KEY.encode() in text),
                ("a key", AN_IDEMPOTENCY_KEY.search(text)),
            ):
                if there:
                    for verdict in verdicts:
                        if verdict.scenario.name in str(path) or not path.is_relative_to(self._airflow.logs):
                            verdict.problems.append(f"{name} is in {path.name}")


class _Watch:
    """Notes when the emulator's first fault fires, for scenarios without another sign, and files' sizes.

    :ivar sizes: those that each file was seen with under its final name; what is unfinished is hidden.
    """

    def __init__(self, running: Running) -> None:
        self.sizes: dict[str, set[int]] = {}
        self._running = running
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        scenario = self._running.scenario
        waits_for_fault = bool(scenario.orders and not scenario.hit)
        while not self._ends.wait(0.3):
            for path in self._running.folder.glob("[!.]*"):
                self.sizes.setdefault(path.name, set()).add(path.stat().st_size)
            if waits_for_fault and self._running.flora.ledger(with_runs=False)["faults_fired"]:
                self._running.mark()
                waits_for_fault = False

    def end(self) -> None:
        self._ends.set()


def _judge(
    verdict: Verdict,
    running: Running,
    instances: Sequence[Mapping[str, Any]],
    sizes: Mapping[str, set[int]],
) -> None:
    """Compare what is with what must be."""
    scenario = running.scenario
    _wait_for_ends(running)
    ledger = running.flora.ledger()
    verdict.started, verdict.charged = ledger["started_runs"], ledger["charged_runs"]
    states = {str(one["state"]) for one in instances}
    verdict.state = states.pop() if len(states) == 1 else "mixed"
    fault_at = running.fault_at()
    if fault_at is None:
        verdict.problems.append("the fault never came")
    else:
        verdict.seconds = max(0.0, max(map(_end_of, instances)) - fault_at)
    inputs = {run["run_id"]: run["inputs"][0]["value"] for run in ledger["runs"]}
    given: list[str] = []
    for one in sorted(instances, key=lambda one: one["map_index"]):
        log = running.log(one)
        if one["state"] == "success":
            value = running.xcom(one)
            if one["task_id"] != TASK:
                assets = {asset["asset_id"]: asset["sha256"] for asset in ledger["assets"]}
                verdict.right += value["status"] == "ready" and assets[value["asset_id"]] == running.film_sha256
                continue
            given.append(value["run_id"])
            ready = max(fault_at or 0.0, value["completed_at"] / 1000 - scenario.flora.get("clock_skew", 0.0))
            verdict.late = max(verdict.late or 0.0, _end_of(one) - ready)
            own = inputs.get(value["run_id"], "") == _prompt_of(scenario, one)
            # A technique that gives videos has no texts; one that gives neither has lost its outputs.
            texts = [output["url"] for output in value["outputs"] if output["type"] == "text"]
            if own and value["outputs"] and all(_prompt_of(scenario, one) in text for text in texts):
                verdict.right += 1
            else:
                verdict.problems.append(
                    f"task {one['map_index']} has the result of {inputs.get(value['run_id'])!r}"
                )
            if "files" in value:
                verdict.problems += _wrong_files(running, value, sizes)
        else:
            verdict.errors.append(_error_of(log))
            if scenario.error and not re.search(scenario.error, verdict.errors[-1], re.DOTALL):
                verdict.problems.append(f"the error is {verdict.errors[-1]!r}; it must contain {scenario.error!r}")
        if scenario.says:
            tries = range(1, one["try_number"] + 1)
            logged = [words for number in tries for words in _logged(running.log(one, number))]
            more = " ".join(logged).removeprefix(scenario.says)
            if not re.fullmatch("( Adopted)*", more):
                verdict.problems.append(f"its log must report {scenario.says!r}, not {logged}")
    if len(set(given)) != len(given):
        verdict.problems.append("one run was handed to two tasks")
    if scenario.sent:
        verdict.problems += _wrong_assets(running, ledger)
    must = {
        "state": scenario.state,
        "charged": scenario.charged,
        "started": scenario.charged if scenario.started is None else scenario.started,
        "right": scenario.must_be_right,
    }
    verdict.problems += [
        f"{name} must be {wanted!r}, not {getattr(verdict, name)!r}"
        for name, wanted in must.items()
        if getattr(verdict, name) != wanted
    ]


def _wrong_assets(running: Running, ledger: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the video's asset: it must be one asset, whole, and the one that the run has."""
    ready = [asset for asset in ledger["assets"] if asset["status"] == "ready"]
    given = [entry["value"] for run in ledger["runs"] for entry in run["inputs"] if entry["id"] == "clip"]
    sent = [upload["status"] for upload in ledger["uploads"]]
    compared = {
        "the ready assets": ([asset["sha256"] for asset in ready], [running.film_sha256]),
        "the run's asset": ([Path(url).stem for url in given], [asset["asset_id"] for asset in ready]),
        "the uploads": (sent, list(running.scenario.sent)),
        "the number of assets": (len(ledger["assets"]), len(running.scenario.sent)),
    }
    for what, (found, wanted) in compared.items():
        if found != wanted:
            yield f"{what} must be {wanted}, not {found}"


def _wrong_files(running: Running, value: Mapping[str, Any], sizes: Mapping[str, set[int]]) -> Iterator[str]:
    """What is wrong with the files that a task has put down: each must be Flora's, and never seen unfinished."""
    names = [file["uri"].rpartition("/")[2] for file in value["files"]]
    if (there := sorted(path.name for path in running.folder.iterdir())) != sorted(names):
        yield f"the files must be {sorted(names)}, not {there}"
    for name, file, url in zip(names, value["files"], value["output_urls"], strict=True):
        content = (running.folder / name).read_bytes()
        true = requests.get(url, timeout=30).content
        if content != true or file["sha256"] != hashlib.sha256(true).hexdigest():
            yield f"{name} is not what Flora has"
        if not sizes.get(name, set()) <= {len(true)}:
            yield f"{name} is {len(true)} bytes long and was seen with {sizes[name]}"


def _end_of(instance: Mapping[str, Any]) -> float:
    return datetime.fromisoformat(instance["end_date"]).timestamp() if instance["end_date"] else 0.0


def _prompt_of(scenario: Scenario, instance: Mapping[str, Any]) -> str:
    if instance["map_index"] >= 0:
        return f"{scenario.name} number {instance['map_index']}"
    return scenario.name


def _wait_for_ends(running: Running) -> None:
    """A run that goes on after its task has ended is charged too."""
    for _ in range(100):
        if not any(run["status"] in ("pending", "running") for run in running.flora.ledger()["runs"]):
            return
        time.sleep(0.5)


def _logged(log: str) -> list[str]:
    """What an attempt logs about its run: one line at most."""
    return re.findall(r"^(Started|Adopted|Found|Leaving) run_\w+", log, re.MULTILINE)


def _error_of(log: str) -> str:
    """The error that ended an attempt, from its log: the last in a chain, with all its lines."""
    found = re.findall(
        r"^(?:Flora\w+|Airflow\w+|ConnectionError|TimeoutError): .*(?:\n(?!::|\w+(?:Error|Exception): ).+)*",
        log,
        re.MULTILINE,
    )
    return str(found[0]) if found else f"(no error in the log: {log[-1500:]})"
