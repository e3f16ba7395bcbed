"""`make demo` and `make airflow`, as a person starts them."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import requests

from airflow_provider_flora.emulator import Emulator
from scripts.example_runs import WATCHING
from scripts.local_airflow import PASSWORD, USER

REPOSITORY = Path(__file__).parents[2]
EXAMPLES = {path.stem for path in (REPOSITORY / "example_dags").glob("*.py")}
ASKING = {"flora_choose", "flora_choose_again"}
"""The examples whose run waits for a person."""
Script = Callable[[str], list[str]]


def demo(script: Script, environment: Mapping[str, str], **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the demonstration without a terminal."""
    return subprocess.run(
        script("demo"),
        cwd=REPOSITORY,
        env={**environment, **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
    )


def real(emulator: Emulator) -> dict[str, str]:
    """Variables that make the demonstration take the emulator for the real Flora."""
    return {"FLORA_API_KEY": emulator.api_key, "FLORA_BASE_URL": emulator.base_url}


def test_the_demonstration_shows_the_outputs(script: Script, script_environment: dict[str, str]) -> None:
    done = demo(script, script_environment)

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    for shown in ("Editorial Still", "0.09 USD a run", "prompt: ", "no worker is occupied", "completed  100 %"):
        assert shown in done.stdout
    saved = re.search(r"downloaded to (\S+\.png)", done.stdout)
    assert saved is not None
    assert Path(saved[1]).read_bytes().startswith(b"\x89PNG")


def test_the_demonstration_fails_when_the_run_does(
    script: Script, script_environment: dict[str, str], emulator: Emulator
) -> None:
    emulator.order_fault("fail_run", error_code="GENERATION_PROMPT_MODERATED", error_message="Not this one.")
    done = demo(script, script_environment, **real(emulator), YES="1")

    assert done.returncode == 1, done.stdout + done.stderr
    assert "GENERATION_PROMPT_MODERATED" in done.stderr
    assert "Not this one." in done.stderr
    assert emulator.api_key not in done.stdout + done.stderr


def test_nothing_is_charged_without_consent(
    script: Script, script_environment: dict[str, str], emulator: Emulator
) -> None:
    done = demo(script, script_environment, **real(emulator))

    assert done.returncode == 1
    assert "Tagline Writer" in done.stdout  # the cheapest one that takes only text
    assert "This run costs 0.01 USD" in done.stdout
    assert emulator.ledger()["started_runs"] == 0


def read_until(log: Path, text: str, process: subprocess.Popen[bytes], timeout: float) -> str:
    """What a script has printed, once this text is in it, or the process or the time is over."""
    ends = time.monotonic() + timeout
    while not re.search(text, log.read_text()) and process.poll() is None and time.monotonic() < ends:
        time.sleep(0.3)
    return log.read_text()


def test_airflow_with_the_emulator_runs_each_example_and_leaves_nothing_behind(
    script: Script, script_environment: dict[str, str], tmp_path: Path
) -> None:
    log = tmp_path / "output"
    with log.open("wb") as out:
        process = subprocess.Popen(
            script("airflow_with_emulator"),
            cwd=REPOSITORY,
            env=script_environment,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    started: list[psutil.Process] = []
    try:
        printed = read_until(log, "Ctrl-C", process, 600)
        shown = dict(re.findall(r"^  (\w+) +(\S+)", printed, re.MULTILINE))
        assert requests.get(shown["Airflow"], timeout=10).ok, printed
        assert requests.get(shown["Ledger"], timeout=10).ok
        started = psutil.Process(process.pid).children(recursive=True)
        assert len(started) > 5

        asking = " and ".join(sorted(ASKING))
        count = len(EXAMPLES) - len(ASKING)
        end = f"{count} of {len(EXAMPLES)} example runs are finished; {asking} wait for your answer\n"
        printed = read_until(log, end, process, 900)
        assert end in printed
        check_runs(shown["Airflow"], printed)
    finally:
        process.send_signal(signal.SIGINT)
        code = process.wait(timeout=60)
    assert code == 0, log.read_text()
    assert psutil.wait_procs(started, timeout=5)[1] == []


def check_runs(url: str, printed: str) -> None:
    """Each example has a run that succeeded or asks, and the addresses lead to runs and tasks that there are."""
    login = {"username": USER, "password": PASSWORD}
    token = requests.post(f"{url}/auth/token", json=login, timeout=30).json()["access_token"]

    def ask(path: str) -> Any:
        answer = requests.get(f"{url}/api/v2{path}", headers={"Authorization": f"Bearer {token}"}, timeout=30)
        assert answer.ok, f"{path}: {answer.text}"
        return answer.json()

    states: dict[str, set[str]] = {}
    for run in ask("/dags/~/dagRuns?limit=100")["dag_runs"]:
        states.setdefault(run["dag_id"], set()).add(run["state"])
    states[WATCHING].discard("running")  # it is started again by a run of an example that is seen late
    assert states == {dag_id: {"running" if dag_id in ASKING else "success"} for dag_id in EXAMPLES}

    pages = re.findall(
        r"/dags/(\w+)/runs/(\w+)(?:/tasks/(\w+))?/(plugin/[\w-]+|required_actions)$", printed, re.MULTILINE
    )
    assert [page for *_, page in pages] == ["plugin/flora-outputs", "plugin/flora-run", "required_actions"]
    for dag_id, run_id, task_id, _ in pages:
        ask(f"/dags/{dag_id}/dagRuns/{run_id}" + (f"/taskInstances/{task_id}" if task_id else ""))
    assert re.search(rf"{url}/plugin/flora$", printed, re.MULTILINE)
