"""Tests of one's own DAGs that do not end well, on real Airflow: each has an error that says why."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TESTS = """
import os
import time
from datetime import datetime

import psutil
import pytest
from airflow import settings
from airflow.sdk import dag, task

from airflow_provider_flora.testing import DagImportError, DagRunError, DagRunTimeoutError
from dags.here.stuck import stuck


@dag(schedule=None)
def of_the_test():
    @task
    def say(**context):
        print(f"the day is {context['ds']}, the word is {os.environ['AIRFLOW_VAR_WORD']}")
    say()


in_the_test = of_the_test()


def test_a_dag_of_the_test_itself(run_dag, monkeypatch):
    monkeypatch.setenv("AIRFLOW_VAR_WORD", "tea")
    result = run_dag(in_the_test, logical_date=datetime(2026, 3, 1))
    assert "the day is 2026-03-01, the word is tea" in result.task("say").log
    assert "mine/airflow.db" in settings.SQL_ALCHEMY_CONN, "as it was imported"


def test_a_dag_of_a_module_that_hangs(run_dag):
    with pytest.raises(DagRunTimeoutError) as error:
        run_dag(stuck, timeout=60)
    assert "  quick: success" in str(error.value)
    assert "  hang: running" in str(error.value)
    assert "| hanging" in str(error.value)
    pid = int(open(os.environ["PIDS"]).read())
    for _ in range(300):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            break
        time.sleep(0.1)
    else:
        pytest.fail("its processes live on")


def test_a_file_that_cannot_be_imported(run_dag):
    with pytest.raises(DagImportError, match="No module named 'not_there'"):
        run_dag("dags/broken.py")


def test_a_file_with_two_dags_and_a_conf_that_is_not_valid(run_dag):
    with pytest.raises(DagRunError, match="has these DAGs: one, two. Say which"):
        run_dag("dags/two.py")
    with pytest.raises(DagRunError, match="Invalid input for param number"):
        run_dag("dags/two.py", "one", conf={"number": "x"})
    with pytest.raises(DagRunError, match="two has no task to run"):
        run_dag("dags/two.py", "two")


def test_a_failure_is_shown(run_dag):
    assert run_dag("dags/two.py", "one").state == "success"
"""
STUCK = """
import os
import subprocess
import time

from airflow.sdk import dag, task


@dag(schedule=None)
def stuck():
    @task
    def quick(): ...

    @task
    def hang():
        print("hanging")
        child = subprocess.Popen(["sleep", "600"])
        with open(os.environ["PIDS"], "w") as pids:
            pids.write(str(child.pid))
        time.sleep(600)

    quick() >> hang()


stuck = stuck()
"""
TWO = """
from airflow.sdk import DAG, Param, task

with DAG("one", params={"number": Param(1, type="integer")}) as one:
    @task
    def fail():
        raise LookupError("no lamp")
    fail()

with DAG("two") as two:
    pass
"""


def test_each_end_has_an_error_that_says_why(tmp_path: Path) -> None:
    files = {
        "tests/test_ends.py": TESTS,
        "dags/here/stuck.py": STUCK,
        "dags/broken.py": "import not_there",
        "dags/two.py": TWO,
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    ours = {
        name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "FLORA", "PYTEST"))
    }
    mine = tmp_path / "mine"
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests"],
        cwd=tmp_path,
        env={**ours, "TMPDIR": str(tmp_path), "AIRFLOW_HOME": str(mine), "PIDS": str(tmp_path / "pids")},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert "1 failed, 4 passed" in ran.stdout, ran.stdout
    assert "Captured DAG run call" in ran.stdout
    assert "  fail: failed, LookupError: no lamp" in ran.stdout
    assert not (mine / "airflow.db").exists()
