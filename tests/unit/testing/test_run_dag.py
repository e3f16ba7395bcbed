"""``run_dag`` on the installed Airflow: one DAG with a bit of everything."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from airflow_provider_flora.testing import DagRunTimeoutError, FloraEmulator, RunDag
from tests.unit.waiting import wait_until

TECHNIQUE = {
    "technique_id": "tech_mine",
    "slug": "my-still",
    "name": "My Still",
    "run_cost": 0.3,
    "inputs": [{"id": "prompt", "name": "Prompt", "type": "text"}],
    "outputs": [{"id": "image", "name": "Image", "type": "imageUrl"}],
}

HANGS = """
import subprocess, time
try:
    from airflow.sdk import dag, task
except ImportError:  # Airflow 2.11
    from airflow.decorators import dag, task

@dag(schedule=None)
def hangs():
    @task
    def wait():
        started = subprocess.Popen(["sleep", "600"], start_new_session=True)
        print(f"started {started.pid}.")
        time.sleep(600)
    wait()

hangs()
"""

PRINTS = """
import subprocess, sys
try:
    from airflow.sdk import dag, task
except ImportError:  # Airflow 2.11
    from airflow.decorators import dag, task

@dag(schedule=None)
def prints():
    @task
    def begin():
        subprocess.Popen([sys.executable, "-c", "import os\\nfor _ in range(10**6): os.write(1, b'noise\\\\n')"])
    @task
    def go_on(number):
        print(number)
    begin() >> go_on.expand(number=list(range(10)))

prints()
"""


@pytest.mark.slow
def test_a_dag_run_shows_what_became_of_each_task_and_what_it_cost(
    run_dag: RunDag, flora_emulator: FloraEmulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    users_own = tmp_path / "airflow.db"
    with sqlite3.connect(users_own) as database:
        database.execute("CREATE TABLE mine (mine)")
    before = users_own.read_bytes()
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))
    monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", f"sqlite:///{users_own}")
    monkeypatch.setenv("AIRFLOW__SECRETS__BACKEND", "vault.of.RealKeys")
    monkeypatch.setenv("AIRFLOW_CONN_FLORA_PROD", "flora://:sk_live_real@")
    monkeypatch.setenv("AIRFLOW_CONN_OLD", "generic://:sk_live_real@")
    monkeypatch.setattr(sys, "path", [*sys.path, tmp_path])  # a Path: Python ignores it
    flora_emulator.add_technique(TECHNIQUE)
    flora_emulator.order_fault("fail_run", error_code="provider_error", error_message="Sorry")
    flora_emulator.order_fault("slow_run", skip=1, seconds=6)  # longer than the first poll

    result = run_dag("dags/shop.py", conf={"prompt": "A kite"})

    assert result.states == {
        "picture": "success",
        "things": "success",
        "sell[0]": "success",
        "sell[1]": "failed",
        "is_open": "success",
        "close": "skipped",
    }
    assert result.state == "failed"
    assert (result.charged, result.charged_runs, flora_emulator.charged_runs) == (0.3, 1, 1)
    assert [run["inputs"][0]["value"] for run in flora_emulator.ledger()["runs"]] == ["A kite", "A kite"]
    assert (result.task("picture").attempts, result.task("sell", 1).attempts) == (2, 2)
    assert "running trigger in line" in result.task("picture").log
    assert result.xcom("picture", "charged_cost") == 0.3
    assert result.xcom("things") == ["lamp", "mug"]
    assert result.xcom("sell", map_index=0) == "one lamp"
    assert "selling a lamp" in result.task("sell", 0).log
    assert "selling a mug" not in result.task("sell", 0).log
    assert result.task("sell", 1).error == "ValueError: a mug is not for sale"
    assert "secrets backend: {}" in result.log
    assert "The connection 'old' cannot be used: its type is 'generic'" in result.log
    assert users_own.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["airflow.db"]


@pytest.mark.slow
def test_what_a_task_has_started_ends_with_it_in_a_session_of_its_own_too(run_dag: RunDag, tmp_path: Path) -> None:
    (tmp_path / "hangs.py").write_text(HANGS)
    for timeout in (30, 120, 480):  # on a busy machine, half a minute may end before the task starts anything
        with pytest.raises(DagRunTimeoutError) as raised:
            run_dag(tmp_path / "hangs.py", timeout=timeout)
        told = str(raised.value).partition("The end of the log")[0]
        if started := re.findall(r"started (\d+)\.$", told, re.MULTILINE):
            break
    [pid] = started

    def has_ended() -> bool:
        state = subprocess.run(["ps", "-o", "stat=", "-p", pid], capture_output=True, text=True, check=False).stdout
        return state == "" or state.startswith("Z")  # read or not

    wait_until(has_ended)


@pytest.mark.slow
def test_what_a_task_has_started_may_print_while_others_run(run_dag: RunDag, tmp_path: Path) -> None:
    (tmp_path / "prints.py").write_text(PRINTS)
    result = run_dag(tmp_path / "prints.py")
    assert (result.state, len(result.tasks)) == ("success", 11)
    assert "noise" in result.log
