"""`make demo` and `make airflow`, as a person starts them."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil
import requests

from airflow_provider_flora.emulator import Emulator

REPOSITORY = Path(__file__).parents[2]
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
        timeout=180,
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


def test_airflow_with_the_emulator_leaves_nothing_behind(
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
    try:
        ends = time.monotonic() + 120
        while "Ctrl-C" not in log.read_text() and process.poll() is None and time.monotonic() < ends:
            time.sleep(0.3)
        shown = dict(re.findall(r"^  (\w+) +(\S+)", log.read_text(), re.MULTILINE))
        assert requests.get(shown["Airflow"], timeout=10).ok, log.read_text()
        assert requests.get(shown["Ledger"], timeout=10).json()["started_runs"] == 0
        started = psutil.Process(process.pid).children(recursive=True)
        assert len(started) > 5
    finally:
        process.send_signal(signal.SIGINT)
        code = process.wait(timeout=60)
    assert code == 0, log.read_text()
    assert psutil.wait_procs(started, timeout=5)[1] == []
