"""The DAGs of the fault tests: real operators, and what a DAG run orders to happen to their processes.

Each task runs `pre_execute` in its own process, before the operator and again when it resumes. On the try that is
named in the DAG run's conf, or as soon after it as the fault can come, it puts the ordered fault in place, at
exactly one point of the operator's work:

    hit                 what dies or breaks, and when
    intent              the process, when the intent is stored and nothing is sent
    answer              the process, when Flora has made the run and holds its answer back
    before_id           the process, when the answer is read and the run's id is not stored
    after_id            the process, when the run's id is stored and the task does not wait yet
    result              the process, when it has the result in its hands (deferrable: when it resumes with it)
    pushed              the process, when the result is in XCom and not noted as delivered
    delivered           the process, when the result is noted as delivered and Airflow does not know of the success
    upload              the process, when the upload host has the first bytes of a file and takes no more of them
    completed           the process, when the upload is completed and Airflow does not know of the asset
    download            the process, when five files are whole, four are half there and one was not asked for
    store_before        the state store, from the beginning
    store_after         the state store, for whatever names a run

The moment of a hit is written to a file, for the seconds that it took to recover.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import DAG

from airflow_provider_flora.operators.flora import FloraRunTechniqueOperator
from airflow_provider_flora.operators.uploads import FloraUploadAssetOperator

MARKS = "FLORA_FAULTS_MARKS"
MANY = (4, 6, 20, 50)
PATIENCE = timedelta(seconds=30)
"""Pause between retries that must outlast an outage of Flora or of Airflow's API server. A retry during the
outage fails."""


def break_as_ordered(context: Any) -> None:
    """Set the faults that the DAG run asks for in this attempt."""
    from airflow_provider_flora.runs import starting

    conf = context["dag_run"].conf or {}
    task = context["task"]
    # The emulator makes a run at once, and its history lags by 2 s at most: no scenario has to wait for minutes.
    starting.start_duration, starting.HISTORY_LAG = lambda _: 8.0, 4.0
    if "key_kept_for" in conf:
        starting.KEY_LIFETIME, starting.KEY_MARGIN = conf["key_kept_for"], 0.0
    if "on_unknown_start" in conf:
        task.on_unknown_start = conf["on_unknown_start"]
    if context["ti"].try_number > 1:
        time.sleep(conf.get("seconds_before_retry", 0))
    # Airflow itself may end the first try before the fault can come: then it comes on the next one.
    is_due = context["ti"].try_number in conf.get("on_tries", [1]) or not mark_of(context).exists()
    if is_due and conf.get("hit"):
        HITS[conf["hit"]](context)


def mark_of(context: Any) -> Path:
    ti = context["ti"]
    return Path(os.environ[MARKS]) / f"{ti.run_id}--{ti.map_index}"


def mark(context: Any) -> None:
    """Write down when the fault came."""
    mark_of(context).write_text(str(time.time()))


def die(context: Any) -> None:
    """End this process as the kernel's out-of-memory killer would."""
    mark(context)
    os.kill(os.getpid(), signal.SIGKILL)


# --- the process ------------------------------------------------------------------------------------------


def intent(context: Any) -> None:
    _die_around_save(context, lambda record: record.unanswered, first=False)


def before_id(context: Any) -> None:
    _die_around_save(context, lambda record: record.run_id is not None, first=True)


def after_id(context: Any) -> None:
    _die_around_save(context, lambda record: record.run_id is not None, first=False)


def delivered(context: Any) -> None:
    _die_around_save(context, lambda record: record.delivered, first=False)


def succeeded(context: Any) -> None:
    _die_around_save(context, lambda record: record.delivered, first=True)


def pushed(context: Any) -> None:
    from airflow_provider_flora.operators import flora

    flora.do_after_success = lambda *_: die(context)


def _die_around_save(context: Any, is_it: Callable[[Any], bool], *, first: bool) -> None:
    from airflow_provider_flora.runs.record import Records

    save = Records.save

    def save_and_die(self: Any, record: Any) -> None:
        if first and is_it(record):
            die(context)
        save(self, record)
        if is_it(record):
            die(context)

    Records.save = save_and_die  # type: ignore[method-assign]


def result(context: Any) -> None:
    FloraRunTechniqueOperator._hand_over = lambda *_: die(context)  # type: ignore[method-assign]


def answer(context: Any) -> None:
    """The emulator holds the answer back. Its ledger shows when the run was made."""
    from airflow_provider_flora.api.client import FloraClient

    conf = context["dag_run"].conf
    ask = FloraClient.ask

    def start_and_be_watched(self: Any, request: Any, read: Any) -> Any:
        def is_made(ledger: Any) -> bool:
            texts = {entry["value"] for run in ledger["runs"] for entry in run["inputs"]}
            return request.body["inputs"][0]["value"] in texts and len(texts) >= conf.get("together", 1)

        if request.spends_money:
            _meet(context, conf.get("together", 1))
            _die_when(context, is_made)
        return ask(self, request, read)

    FloraClient.ask = start_and_be_watched  # type: ignore[method-assign]


def upload(context: Any) -> None:
    """The emulator stops reading. A file that was sent completely is no longer open."""
    import psutil

    video = f"{context['dag_run'].conf['folder']}/video.mp4"

    def is_halfway(ledger: Any) -> bool:
        return ledger["faults_fired"] and video in [file.path for file in psutil.Process().open_files()]

    _die_when(context, is_halfway)


def completed(context: Any) -> None:
    from airflow_provider_flora.api.client import FloraClient

    complete = FloraClient.complete_asset

    def complete_and_die(self: Any, asset_id: str) -> None:
        complete(self, asset_id)
        die(context)

    FloraClient.complete_asset = complete_and_die  # type: ignore[assignment, method-assign]


def download(context: Any) -> None:
    """The emulator stops sending."""
    folder = Path(context["dag_run"].conf["folder"])

    def is_halfway(ledger: Any) -> bool:
        # Before the fourth has stopped, files are being renamed.
        return (
            ledger["faults_fired"].get("delay") == 4
            and [path.stat().st_size > 0 for path in folder.glob(".*")] == [True] * 4
        )

    _die_when(context, is_halfway)


def _die_when(context: Any, is_it: Callable[[Any], bool]) -> None:
    """Die at the point that the emulator's ledger shows, at any step of the task."""
    ledger_url = f"{context['dag_run'].conf['origin']}/_emulator/ledger"

    def watch() -> None:
        while True:
            with urllib.request.urlopen(ledger_url) as ledger:
                if is_it(json.load(ledger)):
                    die(context)
            time.sleep(0.05)

    threading.Thread(target=watch, daemon=True).start()


def _meet(context: Any, count: int) -> None:
    """Wait until that many tasks of the DAG run are here, so that they go on in the same second."""
    ti = context["ti"]
    place = Path(os.environ[MARKS]) / f"{ti.run_id}--meeting"
    place.mkdir(exist_ok=True)
    (place / str(ti.map_index)).touch()
    ends = time.monotonic() + 120
    while len(list(place.iterdir())) < count and time.monotonic() < ends:
        time.sleep(0.05)


# --- the state store --------------------------------------------------------------------------------------


class _Unreachable:
    """A task's state store that cannot be reached, from the moment at which `is_it` is true."""

    def __init__(self, store: Any, context: Any, is_it: Callable[[Any], bool]) -> None:
        self._store = store
        self._context = context
        self._is_it = is_it

    @contextmanager
    def _reached(self, value: Any) -> Iterator[None]:
        if self._is_it(value):
            mark(self._context)
            raise ConnectionError("the state store cannot be reached")
        yield

    def get(self, key: str, default: Any = None) -> Any:
        with self._reached(None):
            return self._store.get(key, default)

    def set(self, key: str, value: Any, **how: Any) -> None:
        with self._reached(value):
            self._store.set(key, value, **how)


def store_before(context: Any) -> None:
    context["task_state_store"] = _Unreachable(context["task_state_store"], context, lambda value: True)


def store_after(context: Any) -> None:
    context["task_state_store"] = _Unreachable(
        context["task_state_store"], context, lambda value: bool(value and value["run_id"])
    )


HITS: dict[str, Callable[[Any], None]] = {
    one.__name__: one
    for one in (
        *(intent, answer, before_id, after_id, result, pushed, succeeded, delivered),
        *(upload, completed, download),
        *(store_before, store_after),
    )
}


# --- the DAGs ---------------------------------------------------------------------------------------------


def technique(**parameters: Any) -> dict[str, Any]:
    """The operator's parameters; the prompt of a run shows whose it is."""
    return {
        "task_id": "run_technique",
        "technique_id": "tagline-writer",
        "flora_conn_id": "{{ dag_run.conf['connection'] }}",
        "timeout": "{{ dag_run.conf.get('timeout', 900) }}",
        "poll_interval": 1.0,
        "adopt_run_id": "{{ var.json.get('flora_adopt', {}).get(run_id, '') }}",
        "retries": 2,
        "retry_delay": timedelta(seconds=1),
        "pre_execute": break_as_ordered,
        **parameters,
    }


for mode, deferrable in (("deferrable", True), ("synchronous", False)):
    with DAG(f"one_{mode}", max_active_runs=200):
        FloraRunTechniqueOperator(inputs={"brief": "{{ run_id }}"}, deferrable=deferrable, **technique())
    with DAG(f"patient_{mode}", max_active_runs=200):
        FloraRunTechniqueOperator(
            inputs={"brief": "{{ run_id }}"}, deferrable=deferrable, **technique(retry_delay=PATIENCE)
        )
    with DAG(f"limited_{mode}", max_active_runs=200):
        FloraRunTechniqueOperator(
            inputs={"brief": "{{ run_id }}"},
            deferrable=deferrable,
            **technique(execution_timeout=timedelta(seconds=8)),
        )
    # The prompt changes with each attempt.
    with DAG(f"changing_{mode}", max_active_runs=200):
        FloraRunTechniqueOperator(
            inputs={"brief": "{{ run_id }} in try {{ ti.try_number }}"}, deferrable=deferrable, **technique()
        )
    video = "{{ dag_run.conf['folder'] }}/video.mp4"
    clip = {"technique_id": "clip-recut", "deferrable": deferrable}
    with DAG(f"input_{mode}", max_active_runs=200):
        FloraRunTechniqueOperator(inputs={"mood": "{{ run_id }}", "clip": video}, **technique(**clip))
    with DAG(f"upload_{mode}", max_active_runs=200):
        asset = FloraUploadAssetOperator(
            task_id="upload",
            file=video,
            flora_conn_id="{{ dag_run.conf['connection'] }}",
            retries=2,
            retry_delay=timedelta(seconds=1),
            pre_execute=break_as_ordered,
        )
        FloraRunTechniqueOperator(inputs={"mood": "{{ run_id }}", "clip": asset.output["url"]}, **technique(**clip))
    with DAG(f"download_{mode}", max_active_runs=200):
        FloraRunTechniqueOperator(
            inputs={"script": "{{ run_id }}"},
            download_to="{{ dag_run.conf['folder'] }}",
            deferrable=deferrable,
            **technique(technique_id="ten-takes"),
        )
    for count in MANY:
        for patient, retry_delay in (("", timedelta(seconds=1)), ("patient_", PATIENCE)):
            with DAG(f"{patient}many_{count}_{mode}", max_active_runs=200, max_active_tasks=64):
                FloraRunTechniqueOperator.partial(
                    deferrable=deferrable, **technique(retry_delay=retry_delay)
                ).expand(inputs=[{"brief": f"{{{{ run_id }}}} number {number}"} for number in range(count)])
