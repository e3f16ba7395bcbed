"""The faults, each with what must come of it. How they are run and judged is in `fault_running.py`.

For each execution that a user asked for, one run is charged, and each task has the outputs of its own inputs. Where
certainty is impossible the task stops, with an error that says what is known.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import psutil

from tests.faults.fault_running import FINAL, Running, Scenario, Script

FAULTS = os.environ.get("FLORA_FAULTS")
ALL = FAULTS == "all"
UNTIL_ALL_WAIT = 160.0 if ALL else 45.0
"""Seconds that a run takes where tasks must wait until what is to happen has happened: starting 50 takes time."""
MODES = ("deferrable", "synchronous")
ACCOUNTS = ("docs", "site")
POST = {"operation": "startTechniqueRun"}
HOLD_THE_ANSWER = {"kind": "delay", "when": "after", "seconds": 90, **POST}
UPLOADS: Sequence[tuple[str, str, Mapping[str, Any]]] = (
    ("upload", "an upload task", {"tasks": 2}),
    ("input", "the upload of an input", {"says": "Started"}),
)
HOLD_ON = {"kind": "delay", "when": "during", "seconds": 150}
HALFWAY_UP: Mapping[str, Any] = {"orders": [{**HOLD_ON, "operation": "uploadBytes"}], "sent": [None, 204]}
TEN_FILES: Mapping[str, Any] = {
    "dag": "download",
    "orders": [
        {"kind": "large_output", "bytes": 6_000_000},
        {**HOLD_ON, "operation": "getMedia", "skip": 5, "times": 4},
    ],
    "flora": {"run_seconds": 1.0},
    "says": "Started Adopted",
}
REFUSED_BY_MODERATION = {
    "kind": "fail_run",
    "error_code": "GPU_PROVIDER_ERROR",
    "error_message": "Your request was rejected by the safety system. safety_violations=[sexual]",
}
NOT_WHICH = r"FloraUnknownStart|Flora reports that the start has a run, but not which one\. .*Possible runs: run_"
FORGOTTEN = r"Flora may have forgotten its idempotency key\. .*Possible runs: run_"


# --- what a person does, or what happens to Airflow, meanwhile ---------------------------------------------


def clear_finished(running: Running) -> None:
    running.wait_ended()
    running.wait_delivered()
    running.clear()


def clear_waiting(running: Running) -> None:
    running.wait_runs(1)
    running.wait_states("deferred", "running")
    running.clear()


def clear_failed_whose_run_completed(running: Running) -> None:
    running.wait_ended()
    running.wait_runs(1, "completed")
    running.clear()


def somebody_runs_the_same(running: Running) -> None:
    running.wait_runs(1)
    running.flora.seed_runs(technique_id="tagline-writer", status="completed")


def hand_the_run_over(running: Running) -> None:
    """What the error says: name the run, and clear the task."""
    running.wait_ended()
    [run] = running.wait_runs(1)
    value = f'{{"{running.run_id}": "{run["run_id"]}"}}'
    running.airflow.api("POST", "/variables", body={"key": "flora_adopt", "value": value})
    running.clear()


def no_service_for_a_minute(running: Running) -> None:
    time.sleep(60)
    running.flora.clear_faults()


def no_service_for_a_minute_while_waiting(running: Running) -> None:
    running.wait_runs(1, "running")
    running.flora.order_fault("status", status=503, times=None)
    running.mark()
    time.sleep(60)
    running.flora.clear_faults()


def kill(*components: str, seconds_away: float = 0) -> Script:
    """SIGKILL parts of Airflow while every task waits for its run, and start them again; no name: all of it."""

    def script(running: Running) -> None:
        def work() -> None:
            for component in components or running.airflow.pids():
                running.airflow.kill(component)
            time.sleep(seconds_away)
            running.airflow.start_all()

        running.wait_runs(running.scenario.tasks)
        running.wait_states("deferred" if running.scenario.mode == "deferrable" else "running")
        running.once_for_all(work)

    return script


def kill_a_triggerer_for_good(running: Running) -> None:
    """The other one takes its waits over."""
    running.wait_states("deferred")
    running.once_for_all(lambda: running.airflow.kill("triggerer"))
    running.wait_states(*FINAL)
    running.once_for_all(running.airflow.start_all, is_the_fault=False)


def kill_the_worker(is_time: Callable[[Running], object]) -> Script:
    """SIGKILL the whole Celery worker, with the tasks' processes and their supervisors, and start it."""

    def script(running: Running) -> None:
        def work() -> None:
            running.airflow.kill("celery-worker")
            running.airflow.start_all()

        running.airflow.wait_until(lambda: is_time(running), 180, "the worker to be where it is to be killed")
        running.once_for_all(work)

    return script


def a_run_is_made(running: Running) -> object:
    return running.flora.ledger()["runs"]


def an_upload_is_halfway(running: Running) -> bool:
    if not running.flora.ledger()["faults_fired"]:
        return False
    opened = []
    for process in running.airflow.processes("celery-worker"):
        with suppress(psutil.NoSuchProcess):
            opened += [file.path for file in process.open_files()]
    return str(running.video) in opened


def four_files_are_halfway(running: Running) -> object:
    # Before the fourth has stopped, files are being renamed.
    return (
        running.flora.ledger()["faults_fired"].get("delay") == 4
        and [path.stat().st_size > 0 for path in running.folder.glob(".*")] == [True] * 4
    )


# --- the faults -------------------------------------------------------------------------------------------


def _both(in_part: str, fault: str, what: str, **words: Any) -> Iterator[Scenario]:
    """A fault in both modes; the part has those that `in_part` names."""
    for mode in MODES:
        yield Scenario(fault, what, mode, in_part=mode in in_part, **words)


def _deaths() -> Iterator[Scenario]:
    yield from _both("deferrable", "1", "killed before the POST", hit="intent", says="Started")
    for account, says in (("docs", "Found"), ("site", "Started")):
        held: dict[str, Any] = {"account": account, "hit": "answer", "orders": [HOLD_THE_ANSWER]}
        both = "deferrable synchronous" if account == "docs" else "deferrable"
        yield from _both(both, "2", "killed before the answer", says=says, **held)
    held = {"hit": "answer", "orders": [HOLD_THE_ANSWER]}
    off: Mapping[str, Any] = {"clock_skew": -5400.0, "list_lag": 2.0}
    yield from _both("synchronous", "2", "the same, Flora 90 minutes behind", flora=off, says="Found", **held)
    stranger = {**held, "script": somebody_runs_the_same}
    yield from _both(
        "deferrable",
        "2",
        "the same, and somebody runs the same technique",
        state="failed",
        error=NOT_WHICH,
        **stranger,
    )
    yield from _both(
        "",
        "2",
        "the same, and a second charge is accepted",
        conf={"on_unknown_start": "restart"},
        charged=2,
        says="Started",
        **stranger,
    )
    yield from _both("deferrable", "3", "killed before the id is stored", hit="before_id", says="Started Found")
    yield from _both("synchronous", "4", "killed after the id is stored", hit="after_id", says="Started Adopted")
    yield from _both("deferrable", "8", "killed with the result in hand", hit="result", says="Started Adopted")
    yield from _both("synchronous", "8", "killed after the XComs", hit="pushed", says="Started Adopted")
    # Airflow has recorded the success by then: there is no retry.
    yield from _both("deferrable", "8", "killed before delivery is noted", hit="succeeded", says="Started")
    yield from _both("synchronous", "8", "killed after delivery is noted", hit="delivered", says="Started")


def _answers() -> Iterator[Scenario]:
    lost: Sequence[tuple[str, str, Mapping[str, Any], Mapping[str, Any]]] = (
        ("deferrable", "reset after processing", {"kind": "reset", "when": "after"}, {}),
        (
            "synchronous",
            "read time-out after processing",
            {"kind": "delay", "when": "after", "seconds": 5},
            {"timeout": 2},
        ),
        ("synchronous", "cut JSON", {"kind": "cut_json"}, {}),
        ("deferrable", "HTML 502 before processing", {"kind": "html", "when": "before"}, {}),
        ("synchronous", "HTML 502 after processing", {"kind": "html", "when": "after"}, {}),
    )
    for part, what, order, connection in lost:
        for account in ACCOUNTS:
            known = account == "site" or "before" in what
            words: dict[str, Any] = {"account": account, "connection": connection, "orders": [{**order, **POST}]}
            in_part = part if account == "docs" else ""
            yield from _both(in_part, "5", what, says="Started" if known else "Found", **words)
    limited = {"kind": "status", "status": 429, "code": "rate_limited", **POST}
    yield from _both("deferrable", "6", "429 with retry-after", orders=[{**limited, "retry_after": 3}])
    yield from _both("synchronous", "6", "429 without retry-after", orders=[limited])
    no_service = {"kind": "status", "status": 503, "times": None}
    yield from _both(
        "synchronous",
        "6",
        "503 for a minute",
        dag="patient",
        orders=[no_service],
        script=no_service_for_a_minute,
        connection={"max_retries": 4},
    )
    yield from _both(
        "deferrable",
        "6",
        "503 for a minute while waiting",
        flora={"run_seconds": 30.0},
        script=no_service_for_a_minute_while_waiting,
    )


def _times() -> Iterator[Scenario]:
    # Long enough for a slow triggerer to see the run active, and so short that the second attempt sees its end.
    longer, slow = {"flora": {"run_seconds": 26.0}}, {"flora": {"run_seconds": 12.0}}
    yield from _both(
        "deferrable", "9", "timeout", conf={"timeout": 15}, says="Started Adopted", script=first_run, **longer
    )
    yield from _both(
        "synchronous", "9", "execution_timeout", dag="limited", says="Started Adopted", script=first_run, **slow
    )


def first_run(running: Running) -> None:
    running.wait_runs(1)
    running.mark()


def _failures() -> Iterator[Scenario]:
    yield from _both(
        "deferrable",
        "10",
        "a transient failure",
        orders=[{"kind": "fail_run"}],
        started=2,
        says="Started Started",
    )
    yield from _both(
        "synchronous",
        "10",
        "refused by moderation",
        orders=[REFUSED_BY_MODERATION],
        started=1,
        charged=0,
        state="failed",
        error=r"rejected by the safety system.*change the input",
    )


def _clears() -> Iterator[Scenario]:
    yield from _both(
        "deferrable", "11", "clear of a finished task", script=clear_finished, charged=2, says="Started Started"
    )
    yield from _both(
        "deferrable synchronous",
        "11",
        "clear of a waiting task",
        script=clear_waiting,
        flora={"run_seconds": 12.0},
        says="Started Adopted",
    )
    yield from _both(
        "synchronous",
        "11",
        "clear of a failed task whose run completed",
        conf={"timeout": 1},
        flora={"run_seconds": 60.0},
        script=clear_failed_whose_run_completed,
        says="Started Adopted",
    )


def _stores() -> Iterator[Scenario]:
    for_good = {"on_tries": [1, 2, 3]}
    yield from _both("deferrable", "13", "no store before the POST", hit="store_before", says="Started")
    yield from _both(
        "synchronous",
        "13",
        "no store before the POST, in every try",
        hit="store_before",
        conf=for_good,
        charged=0,
        state="failed",
        error="the state store cannot be reached",
    )
    yield from _both("deferrable", "13", "no store after the POST", hit="store_after", says="Started Found")
    yield from _both(
        "synchronous",
        "13",
        "no store after the POST, in every try",
        hit="store_after",
        conf=for_good,
        state="failed",
        error=r"Run run_\w+ of technique .* was started.*adopt_run_id='run_",
    )


def _windows() -> Iterator[Scenario]:
    gone: dict[str, Any] = {"flora": {"idempotency_window": 5.0}, "orders": [HOLD_THE_ANSWER]}
    conf = {"key_kept_for": 4.0, "seconds_before_retry": 6}
    lost: dict[str, Any] = {"hit": "answer", "conf": conf, **gone}
    yield from _both("deferrable", "14", "key forgotten", state="failed", error=FORGOTTEN, **lost)
    yield from _both(
        "", "14", "key forgotten, a second charge is accepted", charged=2, says="Started",
        **{**lost, "conf": {**conf, "on_unknown_start": "restart"}},
    )  # fmt: skip
    yield from _both(
        "synchronous", "14", "key forgotten, nothing was sent", hit="intent", conf=conf, says="Started"
    )
    # One of them only: there is one variable.
    yield Scenario(
        "14", "key forgotten, and the run is handed over", "synchronous", says="Adopted", in_part=True,
        script=hand_the_run_over, **lost,
    )  # fmt: skip
    yield from _both(
        "deferrable", "14", "inputs changed after a lost answer", dag="changing", state="failed",
        error="the task's inputs have changed", hit="answer", orders=[HOLD_THE_ANSWER],
    )  # fmt: skip
    yield from _both(
        "", "14", "inputs changed after the id is stored", dag="changing", state="failed",
        error=r"started run_\w+, but the task's inputs have changed", hit="after_id",
    )  # fmt: skip


def _mapped() -> Iterator[Scenario]:
    for account in ACCOUNTS:
        words: dict[str, Any] = {"account": account, "hit": "answer", "connection": {"timeout": 120}}
        if account == "docs":
            words |= {"state": "failed", "error": NOT_WHICH}
        for count, part in ((20, ""), (4, "deferrable")):
            for scenario in _both(
                part,
                "12",
                f"{count} mapped tasks killed before the answer",
                dag=f"many_{count}",
                tasks=count,
                charged=count,
                conf={"together": count},
                orders=[{**HOLD_THE_ANSWER, "times": count}],
                **words,
            ):
                # Twenty need twenty of the 24 slots.
                yield replace(scenario, together=scenario.name if count == 20 else None)


def _parts_of_airflow() -> Iterator[Scenario]:
    kills: Sequence[tuple[str, Script, Sequence[str]]] = (
        ("the triggerer killed", kill("triggerer"), ("deferrable",)),
        ("the scheduler killed", kill("scheduler"), MODES),
        ("no API server for 20 s", kill("api-server", seconds_away=20), MODES),
        ("all of Airflow killed", kill(), MODES),
    )
    for what, script, modes in kills:
        words: Mapping[str, Any] = {"script": script, "together": what, "patient": "API" in what}
        for mode in modes:
            yield _many(6, "7", what, mode, in_part="all" in what or "API" in what, **words)
        # A waiting task holds no worker, so there can be many. A task that holds one is one of few.
        yield _many(50, "7", what, "deferrable", **words)


def _many(count: int, fault: str, what: str, mode: str, *, patient: bool = False, **words: Any) -> Scenario:
    return Scenario(
        fault,
        f"{what} while {count} tasks wait",
        mode,
        dag=f"patient_many_{count}" if patient else f"many_{count}",
        tasks=count,
        charged=count,
        flora={"run_seconds": UNTIL_ALL_WAIT},
        **words,
    )


def _files() -> Iterator[Scenario]:
    long: Mapping[str, Any] = {"connection": {"timeout": 120}}
    for (dag, whose, words), part in zip(UPLOADS, MODES, strict=True):
        halfway = {**words, **HALFWAY_UP, **long, "hit": "upload"}
        yield from _both(part, "16", f"killed in the middle of {whose}", dag=dag, **halfway)
        yield from _both(part, "16", f"killed at the end of {whose}", dag=dag, hit="completed", sent=[204], **words)
    yield from _both("deferrable", "17", "killed in the middle of ten files", hit="download", **TEN_FILES, **long)


def _celery() -> Iterator[Scenario]:
    held: Mapping[str, Any] = {"celery": True, "orders": [HOLD_THE_ANSWER], "says": "Found"}
    yield from _both("", "15", "Celery: 2, killed before the answer", hit="answer", **held)
    yield from _both(
        "synchronous",
        "15",
        "Celery: 2, the worker killed before the answer",
        script=kill_the_worker(a_run_is_made),
        connection={"timeout": 60},
        together="the worker",
        **held,
    )
    killed: Mapping[str, Any] = {"connection": {"timeout": 120}, "together": "the worker", "celery": True}
    for dag, whose, words in UPLOADS:
        what = f"Celery: 16, the worker killed in the middle of {whose}"
        halfway = {**words, **HALFWAY_UP, "script": kill_the_worker(an_upload_is_halfway)}
        yield from _both("synchronous", "15", what, dag=dag, **halfway, **killed)
    what = "Celery: 17, the worker killed in the middle of ten files"
    halfway = {**TEN_FILES, "script": kill_the_worker(four_files_are_halfway)}
    yield from _both("synchronous", "15", what, **halfway, **killed)
    yield from _both(
        "", "15", "Celery: 4, killed after the id is stored", celery=True, hit="after_id", says="Started Adopted"
    )
    triggerer: Mapping[str, Any] = {"script": kill_a_triggerer_for_good, "celery": True}
    what = "Celery: 7, one of two triggerers killed"
    yield _many(6, "15", what, "deferrable", together="a triggerer", in_part=True, **triggerer)
    yield _many(50, "15", what, "deferrable", together="a triggerer", **triggerer)
    for mode in MODES:
        yield _many(
            6, "15", "Celery: 7, all of Airflow killed", mode, script=kill(), celery=True, together="all of Celery"
        )


SCENARIOS: Sequence[Scenario] = sorted(
    (
        *_deaths(),
        *_answers(),
        *_parts_of_airflow(),
        *_times(),
        *_failures(),
        *_clears(),
        *_mapped(),
        *_stores(),
        *_windows(),
        *_files(),
        *_celery(),
    ),
    key=lambda scenario: int(scenario.fault),
)
