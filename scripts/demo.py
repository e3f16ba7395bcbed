"""Run a Flora technique from a DAG on a real Airflow, and show a person what happens: `make demo`.

Without a key it runs against the emulator and costs nothing. From the environment:

FLORA_API_KEY    use the real Flora with this key; shows the price of the run and asks before it starts
FLORA_BASE_URL   Flora's address; default: the public one
TECHNIQUE        id or slug of the technique; default: the cheapest that takes only text
INPUTS           its inputs as JSON, {"input_id": "value"}
YES              1: do not ask before a run that costs money
"""

from __future__ import annotations

import json
import mimetypes
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests

from airflow_provider_flora.api.client import FloraClient
from airflow_provider_flora.api.errors import FloraError
from airflow_provider_flora.api.inputs import check_inputs
from airflow_provider_flora.api.models import Technique
from airflow_provider_flora.api.settings import DEFAULT_BASE_URL, ClientSettings
from scripts.emulator_process import API_KEY, EmulatorProcess
from scripts.local_airflow import FINISHED, LocalAirflow, LocalAirflowError, NotYetError, tail

REPOSITORY = Path(__file__).resolve().parents[1]
PLACE = Path(os.environ.get("AIRFLOW_HOME") or REPOSITORY / ".airflow") / "demo"
DAG = "flora_quickstart"
TASK = "run_technique"
SAMPLE_TEXT = "A red sneaker on wet asphalt at night"
EMULATED_RUN_SECONDS = 10
MOST_TECHNIQUES_TO_FETCH = 25
MOST_BYTES_TO_SAVE = 200 * 1024 * 1024


class DemoError(Exception):
    """An error that ends the demonstration. The user sees its message."""


class DeclinedError(DemoError):
    """The user's decision not to pay."""


@dataclass(frozen=True)
class Flora:
    """The Flora that the demonstration talks to."""

    settings: ClientSettings
    emulated: bool

    @property
    def connection(self) -> str:
        """The same as an Airflow connection."""
        return json.dumps({"conn_type": "flora", "password": self.settings.api_key, "host": self.settings.base_url})


@dataclass
class Reported:
    """The reported state of a run, so that only changes are printed."""

    start: float
    last: dict[str, Any] = field(default_factory=dict)

    def update(self, subject: str, value: Any, line: str) -> None:
        """Print a line if the subject has a new value."""
        if self.last.get(subject) != value:
            self.last[subject] = value
            show(f"  {time.monotonic() - self.start:5.1f} s  {line}")


def show(text: str = "") -> None:
    """Print a line at once."""
    print(text, flush=True)


def show_facts(facts: Mapping[str, Any]) -> None:
    """Print names and values in two columns."""
    for name, value in facts.items():
        show(f"  {name:<10} {value}")


def dollars(cost: float | None) -> str:
    """A price for a person."""
    return "not known" if cost is None else f"{cost:.2f} USD"


@contextmanager
def flora(log: Path) -> Iterator[Flora]:
    """The real Flora if there is a key, else an emulator."""
    if key := os.environ.pop("FLORA_API_KEY", ""):
        base_url = os.environ.get("FLORA_BASE_URL") or DEFAULT_BASE_URL
        yield Flora(ClientSettings(key, base_url), emulated=False)
        return
    with EmulatorProcess(log, run_seconds=EMULATED_RUN_SECONDS) as emulator:
        yield Flora(ClientSettings(API_KEY, emulator.base_url), emulated=True)


def choose_technique(client: FloraClient, emulated: bool) -> Technique:
    """Return the technique of the environment, or the cheapest that takes only text."""
    if wanted := os.environ.get("TECHNIQUE") or ("editorial-still" if emulated else ""):
        return client.get_technique(wanted)
    by_price = sorted(
        (technique for technique in client.list_techniques() if technique.run_cost is not None),
        key=lambda technique: technique.run_cost or 0,
    )
    for technique in by_price[:MOST_TECHNIQUES_TO_FETCH]:
        whole = technique if technique.inputs else client.get_technique(technique.technique_id)
        required = [slot for slot in whole.inputs if not slot.optional]
        if required and all(slot.type == "text" for slot in required):
            return whole
    raise DemoError(
        "None of this workspace's cheapest techniques takes only text. Choose one with TECHNIQUE=... INPUTS='{...}'"
    )


def choose_inputs(technique: Technique, settings: ClientSettings) -> dict[str, str]:
    """Return the checked inputs of the environment, or a sample text for each required input."""
    inputs: dict[str, str] = {
        slot.id: SAMPLE_TEXT for slot in technique.inputs if not slot.optional and slot.type == "text"
    }
    if text := os.environ.get("INPUTS"):
        try:
            wanted = json.loads(text)
        except ValueError as error:
            raise DemoError(f"INPUTS is not valid JSON: {error}") from None
        if not isinstance(wanted, dict):
            raise DemoError('INPUTS must be a JSON object such as {"prompt": "..."}')
        inputs = wanted
    check_inputs(inputs, technique, on_own_origin=settings.on_own_origin)
    return inputs


def ask(technique: Technique) -> None:
    """Ask the user whether to pay."""
    if os.environ.get("YES") == "1":
        return
    show()
    try:
        answer = input(
            f"This run costs {dollars(technique.run_cost)} and cannot be cancelled. If it fails, Airflow starts a "
            "new one, at most twice. Flora usually does not charge for failed runs. Start it? [y/N] "
        )
    except EOFError:
        raise DemoError("There is no terminal to ask on. Set YES=1 to start a paid run without asking.") from None
    if answer.strip().lower() not in ("y", "yes"):
        raise DeclinedError("Nothing was started or paid.")


def watch(airflow: LocalAirflow, client: FloraClient, technique: Technique, run_id: str) -> str:
    """Report progress until the DAG run has ended. Return its state."""
    every = 0.5 if client.settings.on_loopback else 3.0  # Flora recommends 2 to 5 s
    reported = Reported(time.monotonic())
    flora_run_id: str | None = None
    is_deferral_reported = False

    def poll() -> str | None:
        nonlocal flora_run_id, is_deferral_reported
        flora_run_id = flora_run_id or airflow.xcom(DAG, run_id, TASK, "run_id")
        if flora_run_id:
            reported.update("run", flora_run_id, f"Flora has started {flora_run_id}, whose id is in XCom")
        if not is_deferral_reported and airflow.task_instance(DAG, run_id, TASK).state == "deferred":
            is_deferral_reported = True
            reported.update(
                "state", "deferred", "the task is deferred: the triggerer waits, and no worker is occupied"
            )
        if flora_run_id and reported.last.get("finished") is None:
            report_progress(reported, client, technique, flora_run_id)
        state = airflow.dag_run_state(DAG, run_id)
        return state if state in FINISHED else None

    try:
        state = airflow.wait_until(poll, 3900, "the DAG run to end", every=every)
    except KeyboardInterrupt:
        if flora_run_id:
            show(f"\n  Stopped, but {flora_run_id} goes on at Flora.")
        raise
    reported.update("end", state, f"the task has resumed and returned the outputs: {state}")
    return str(state)


def report_progress(reported: Reported, client: FloraClient, technique: Technique, run_id: str) -> None:
    """Print status and progress, ten points at a time."""
    with suppress(FloraError):
        run = client.get_technique_run(technique.technique_id, run_id)
        step = (run.status, int(run.progress // 10))
        reported.update("progress", step, f"{run.status:<10} {run.progress:3.0f} %")
        if run.finished:
            reported.last["finished"] = True


def save(url: str, folder: Path, name: str) -> Path | None:
    """Download an output, without the API key. Return None if that fails."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with requests.get(url, timeout=60, stream=True) as answer:
            answer.raise_for_status()
            kind = answer.headers.get("content-type", "").split(";")[0]
            suffix = Path(urlsplit(url).path).suffix or mimetypes.guess_extension(kind) or ""
            path = folder / f"{name}{suffix}"
            with path.open("wb") as file:
                for chunk in answer.iter_content(1 << 16):
                    file.write(chunk)
                    if file.tell() > MOST_BYTES_TO_SAVE:
                        raise OSError("the file is too large for the demonstration")
    except (requests.RequestException, OSError) as error:
        show(f"    not downloaded: {error}")
        return None
    return path


def show_outputs(result: Mapping[str, Any]) -> None:
    """Print the outputs in XCom, and download their files."""
    show("\nOutputs, from XCom")
    for output in result["outputs"]:
        show(f"  {output['output_id']} ({output['type']})")
        for line in output["url"].splitlines():
            show(f"    {line}")
        if output["type"] != "text":
            name = f"{result['run_id']}-{output['output_id']}"
            if path := save(output["url"], PLACE / "outputs", name):
                show(f"    downloaded to {path}")


def failure(airflow: LocalAirflow, run_id: str) -> str:
    """The end of the log of the first task that failed."""
    for instance in airflow.task_instances(DAG, run_id):
        if instance.state == "failed":
            log = airflow.task_log(DAG, run_id, instance.task_id, map_index=instance.map_index)
            shown = [line for line in log.splitlines() if line and not line.startswith("::")]
            return f"Its task {instance.task_id} failed. The end of its log:\n\n" + "\n".join(shown[-12:])
    return "None of its tasks failed. The end of the scheduler's log:\n\n" + tail(
        airflow.home / "processes" / "scheduler.log"
    )


def run_dag(
    airflow: LocalAirflow, client: FloraClient, technique: Technique, inputs: Mapping[str, str]
) -> Mapping[str, Any]:
    """Trigger the DAG, report its progress, and return its value in XCom."""
    started = time.monotonic()
    run_id = airflow.trigger(DAG, {"technique_id": technique.technique_id, "inputs": inputs})
    show(f"\nThe DAG {DAG} was triggered")
    state = watch(airflow, client, technique, run_id)
    if state != "success":
        raise DemoError(f"The DAG run {run_id} failed. {failure(airflow, run_id)}")
    result = airflow.xcom(DAG, run_id, TASK)
    if not isinstance(result, dict) or not result.get("outputs"):
        raise DemoError(f"The DAG run {run_id} succeeded, but its XCom has no outputs: {result!r}")
    show_outputs(result)
    show()
    show_facts(
        {
            "Cost": dollars(result["charged_cost"]),
            "Time": f"{time.monotonic() - started:.0f} s since the trigger",
        }
    )
    return result


def demonstrate(home: Path) -> None:
    """Run the whole demonstration."""
    show("A Flora technique, run from an Airflow DAG\n")
    with flora(home / "emulator.log") as where, FloraClient(where.settings) as client:
        technique = choose_technique(client, where.emulated)
        inputs = choose_inputs(technique, where.settings)
        note = " (the emulator: nothing is paid)" if where.emulated else ""
        show_facts(
            {
                "Flora": where.settings.base_url + note,
                "Technique": f"{technique.name} ({technique.technique_id})",
                "Price": f"{dollars(technique.run_cost)} a run",
                "Inputs": "\n             ".join(f"{name}: {value}" for name, value in inputs.items()),
            }
        )
        if not where.emulated:
            ask(technique)
        show("\nStarting Airflow. This takes about 15 seconds")
        reported = Reported(time.monotonic())
        airflow = LocalAirflow(
            home,
            REPOSITORY / "example_dags",
            env={"AIRFLOW_CONN_FLORA_DEFAULT": where.connection},
            database_cache=PLACE.parent / "empty-databases",
            report=lambda step: reported.update("step", step, step),
        )
        with airflow:
            run_dag(airflow, client, technique, inputs)
    if where.emulated:
        show("\nNext: `make airflow` opens this DAG and the other examples in Airflow's own UI.")
        show("      FLORA_API_KEY=sk_live_... make demo runs a technique of your workspace.")
    else:
        show("\nNext: copy example_dags/flora_quickstart.py into your DAG folder and adapt it.")


def main() -> int:
    """Return the exit code: 0 only if the outputs are in XCom."""
    key = os.environ.get("FLORA_API_KEY", "")
    PLACE.mkdir(parents=True, exist_ok=True)
    home = Path(tempfile.mkdtemp(prefix="run-", dir=PLACE))
    keep = False
    try:
        demonstrate(home)
    except DeclinedError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except (DemoError, FloraError, LocalAirflowError, NotYetError, requests.RequestException) as error:
        text = str(error).replace(key, "***") if key else str(error)
        sys.stdout.flush()
        print(f"\nThe demonstration failed. {text}", file=sys.stderr)
        if keep := any(home.iterdir()):
            print(f"\nAll logs: {home}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130
    finally:
        if not keep:
            shutil.rmtree(home, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
