"""The command ``check``: what it prints, its exit codes, and what the process that runs DAG files cannot do.

That process is forked for most tests, which saves each of them the seconds in which Airflow is loaded.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest

from airflow_provider_flora.checking import process
from airflow_provider_flora.checking.report import Finding, Place, Report
from airflow_provider_flora.cli.check import print_report
from airflow_provider_flora.cli.main import main
from airflow_provider_flora.cli.terminal import Terminal
from airflow_provider_flora.emulator import Emulator
from tests.unit.checking.expectations import RIGHT_DAGS, WRONG_DAGS
from tests.unit.forks import run_python

DAG_FILE = """
from airflow_provider_flora.operators.flora import FloraRunTechniqueOperator
try:
    from airflow.sdk import DAG
except ImportError:
    from airflow.models.dag import DAG
{code}
with DAG({dag_id!r}, schedule=None) as stills:
    FloraRunTechniqueOperator(task_id="still", technique_id={technique!r}, inputs={{"prompt": "a mug"}})
"""


class Ran(NamedTuple):
    """What came of a command."""

    code: int
    out: str
    err: str


@pytest.fixture
def run(run_apart: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    """Runs a command, and what is in another process in a fork."""
    monkeypatch.setattr(process, "subprocess", SimpleNamespace(run=run_python, STDOUT=subprocess.STDOUT))
    return run_apart


@pytest.fixture
def run_apart(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Runs a command."""

    def run_command(*arguments: object) -> Ran:
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as ended:
            code = int(ended.code or 0)
        printed = capsys.readouterr()
        return Ran(code, printed.out, printed.err)

    return run_command


@pytest.fixture
def key(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    """The emulator, whose key and address are in the environment."""
    monkeypatch.setenv("FLORA_API_KEY", emulator.api_key)
    monkeypatch.setenv("FLORA_BASE_URL", emulator.base_url)
    return emulator


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes a DAG file with one task."""

    def write_file(
        name: str = "stills.py", *, code: str = "", technique: str = "editorial-still", dag_id: str = "stills"
    ) -> Path:
        path = tmp_path / "dags" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(DAG_FILE.format(code=code, technique=technique, dag_id=dag_id))
        return path

    return write_file


def test_mistakes_come_first_with_file_and_line_then_what_a_dag_run_costs(
    run_apart: Callable[..., Ran], key: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(WRONG_DAGS)
    ran = run_apart("check", "unknown_input.py", RIGHT_DAGS / "files.py")
    line = 1 + (WRONG_DAGS / "unknown_input.py").read_text().splitlines().index('        task_id="relight",')
    assert ran.code == 1
    assert ran.out.splitlines()[:7] == [
        f"unknown_input.py:{line}  unknown_input.relight",
        "  'foto' is not an input of this technique; it has: 'photo', 'light', 'background'",
        "  'photo' is missing: it takes the https:// URL of an image",
        "",
        "2 DAGs, 5 Flora tasks, 2 mistakes",
        "",
        "A DAG run costs, if each task runs once:",
    ]
    assert "  unknown_input  0.18 USD\n" in ran.out
    assert f"{RIGHT_DAGS}/files.py" in ran.out.partition("Not checked, since it is known at run time only:")[2]


def test_json_has_all_of_it(run: Callable[..., Ran], key: Emulator, write: Callable[..., Path]) -> None:
    path = write(code="print('hello')", technique="editorial-stil")
    ran = run("check", path, "--json")
    report = json.loads(ran.out)
    assert (ran.code, report["dags"], report["tasks"]) == (1, 1, 1)
    [mistake] = report["mistakes"]
    assert mistake["place"] == {"file": str(path), "line": 9, "dag_id": "stills", "task_id": "still"}
    assert mistake["message"].startswith("Flora answered 404 ")
    [cost] = report["costs"]
    assert (cost["dag_id"], cost["known_cost"], cost["tasks"][0]["run_cost"]) == ("stills", 0.0, None)


def test_a_dag_without_a_mistake_is_code_0_and_only_its_technique_is_asked_for(
    run: Callable[..., Ran], key: Emulator, write: Callable[..., Path]
) -> None:
    ran = run("check", write())
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("1 DAG, 1 Flora task, 0 mistakes\n")
    ledger = key.ledger()
    assert (ledger["requests"], ledger["started_runs"], ledger["uploads"]) == ({"getTechnique": 1}, 0, [])


@pytest.mark.parametrize("importer", ["a_file.py", "z_file.py"])
def test_a_dag_that_a_file_imports_from_another_is_that_others(
    run: Callable[..., Ran], key: Emulator, write: Callable[..., Path], importer: str
) -> None:
    write("own_stills.py")
    path = write(importer, code="from own_stills import stills as others", dag_id="others")
    ran = run("check", path.parent, "--json")
    report = json.loads(ran.out)
    assert (ran.code, report["dags"], report["tasks"], report["mistakes"]) == (0, 2, 2, [])


def test_two_files_with_a_dag_of_the_same_name_are_a_mistake(
    run: Callable[..., Ran], key: Emulator, write: Callable[..., Path]
) -> None:
    write("one.py")
    ran = run("check", write("other.py").parent)
    assert (ran.code, "AirflowDagDuplicatedIdException" in ran.out) == (1, True)


def test_a_thread_that_a_file_has_started_is_not_waited_for(
    run: Callable[..., Ran], key: Emulator, write: Callable[..., Path]
) -> None:
    path = write(code="import threading, time; threading.Thread(target=time.sleep, args=(3600,)).start()")
    assert run("check", path).code == 0  # a check that waits is ended by the test, after two minutes


@pytest.mark.parametrize("arguments", [(), ("--json",)])
def test_names_and_texts_that_are_no_valid_text_are_shown(
    run: Callable[..., Ran], key: Emulator, write: Callable[..., Path], arguments: tuple[str, ...]
) -> None:
    write("still\udcff.py")  # which Airflow does not load
    path = write("other.py", technique="{{ ds }}\ud800")
    ran = run("check", path.parent, *arguments)
    assert (ran.code, ran.err) == (1, "")
    assert ("still?.py" in ran.out, "{{ ds }}?" in ran.out) == (True, True)


def test_a_path_that_does_not_exist_is_a_usage_error(run: Callable[..., Ran], tmp_path: Path) -> None:
    ran = run("check", tmp_path / "dgas")
    assert (ran.code, ran.out) == (2, "")
    assert f"There is no file or folder '{tmp_path}/dgas'" in ran.err


@pytest.mark.parametrize("name", ["empty", "helpers", "products.csv", "techniques.json"])
def test_a_path_without_a_dag_is_a_mistake_that_names_it(
    run: Callable[..., Ran], key: Emulator, write: Callable[..., Path], tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    if path.suffix:
        path.write_text("[]\n")
    else:
        path.mkdir()
    if name == "helpers":
        (path / "prices.py").write_text("LIMIT = 0.5\n")
    ran = run("check", path, write(), "--json")
    [mistake] = json.loads(ran.out)["mistakes"]
    assert (ran.code, mistake["place"]["file"], json.loads(ran.out)["tasks"]) == (1, str(path), 1)
    assert mistake["message"].startswith("There is no DAG here. ")


def test_a_python_file_without_a_dag_and_a_path_that_is_given_twice_are_no_mistakes(
    run: Callable[..., Ran], key: Emulator, write: Callable[..., Path], tmp_path: Path
) -> None:
    helper = tmp_path / "prices.py"
    helper.write_text("LIMIT = 0.5\n")
    path = write(code="import prices")
    ran = run("check", helper, path, path.parent)
    assert (ran.code, ran.out.splitlines()[0]) == (0, "1 DAG, 1 Flora task, 0 mistakes")


@pytest.mark.parametrize("arguments", [(), ("--json",)])
def test_a_folder_that_airflow_cannot_search_is_a_mistake_and_hides_no_other(
    run: Callable[..., Ran], key: Emulator, write: Callable[..., Path], tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    path = write(technique="editorial-stil")
    folder = tmp_path / "looped"
    folder.mkdir()
    (folder / "loop").symlink_to(".")
    ran = run("check", folder, path, *arguments)
    assert (ran.code, ran.err) == (1, "")
    assert f"{folder}" in ran.out
    assert "Airflow cannot search this folder, and loads none of its DAGs: Detected recursive loop" in ran.out
    assert "Technique 'editorial-stil' was not found" in ran.out


def test_a_misspelt_argument_has_the_line_of_its_task(
    run: Callable[..., Ran], key: Emulator, write: Callable[..., Path]
) -> None:
    path = write()
    path.write_text(path.read_text().replace("technique_id=", "max_run_cots=1, technique_id="))
    ran = run("check", path)
    line = 1 + [text.strip()[:25] for text in path.read_text().splitlines()].index("FloraRunTechniqueOperator")
    assert (ran.code, ran.out.splitlines()[0]) == (1, f"{path}:{line}")
    assert "{'max_run_cots': 1}" in ran.out


def test_a_bug_of_the_check_is_told_with_its_traceback_if_that_is_wanted(
    run: Callable[..., Ran], key: Emulator, write: Callable[..., Path]
) -> None:
    path = write(code="from airflow_provider_flora.checking.known import Known\nKnown.get = None")
    ran = run("check", path)
    assert (ran.code, ran.err) == (1, "")
    assert "a bug of this check: TypeError: 'NoneType' object is not callable. --debug shows where." in ran.out
    ran = run("check", path, "--debug")
    assert (ran.code, "checks.py" in ran.out) == (1, True)


def test_a_check_that_is_terminated_ends_the_process_that_parses_and_leaves_no_folder(
    key: Emulator, write: Callable[..., Path], tmp_path: Path
) -> None:
    begun, folders = tmp_path / "begun", tmp_path / "folders"
    folders.mkdir()
    tell = f"pathlib.Path({str(begun)!r}).write_text(str(os.getpid()))"
    path = write(code=f"import os, pathlib, time\n{tell}\ntime.sleep(3600)")
    with subprocess.Popen(
        [sys.executable, "-m", "airflow_provider_flora", "check", str(path)],
        env={**os.environ, "TMPDIR": str(folders)},
    ) as process:
        while not (begun.exists() and begun.read_text()):
            assert process.poll() is None
            time.sleep(0.05)
        assert list(folders.iterdir()) != []
        process.terminate()
        assert process.wait() == 128 + signal.SIGTERM
    assert list(folders.iterdir()) == []
    with pytest.raises(ProcessLookupError):
        os.kill(int(begun.read_text()), 0)


def test_saved_techniques_need_no_key(
    run: Callable[..., Ran],
    key: Emulator,
    write: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    saved = tmp_path / "techniques.json"
    saved.write_text(run("techniques", "--json").out)
    monkeypatch.delenv("FLORA_API_KEY")
    ran = run("check", write(), "--offline", saved)
    assert (ran.code, "  stills  0.09 USD\n" in ran.out) == (0, True)
    saved.write_text("{}")
    ran = run("check", write(), "--offline", saved)
    assert (ran.code, "is not a list of techniques" in ran.err) == (2, True)


def test_a_connection_of_the_command_is_used_and_must_be_there(
    run: Callable[..., Ran], emulator: Emulator, connect: Callable[..., None], write: Callable[..., Path]
) -> None:
    connect(emulator, conn_id="ours")
    assert run("check", write(), "--conn-id", "ours").code == 0
    ran = run("check", write(), "--conn-id", "theirs")
    assert ran.code == 2
    assert "The connection 'theirs' is neither in the environment nor in a secrets backend" in ran.err


def test_nothing_of_the_users_airflow_is_touched_and_no_example_of_airflows_is_loaded(
    run_apart: Callable[..., Ran],
    key: Emulator,
    write: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    database, home = tmp_path / "airflow.db", tmp_path / "home"
    monkeypatch.setenv("AIRFLOW_HOME", str(home))
    monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", f"sqlite:///{database}")
    monkeypatch.setenv("AIRFLOW__CORE__LOAD_EXAMPLES", "True")
    monkeypatch.setenv("_AIRFLOW_PROCESS_CONTEXT", "server")
    look = """
try:
    from airflow.sdk import Variable
except ImportError:
    from airflow.models import Variable
try:
    print(Variable.get("light", "dusk"))
except ImportError as error:  # Airflow 3.0 looks for it in a task's process only
    assert "SUPERVISOR_COMMS" in str(error)
"""
    write(code=look)
    write("other.py", dag_id="other")
    (tmp_path / "dags" / ".airflowignore").write_text("other.py\n")
    ran = run_apart("check", tmp_path / "dags", "--json")
    report = json.loads(ran.out)
    assert (report["mistakes"], report["dags"], ran.code) == ([], 1, 0)
    assert (database.exists(), home.exists()) == (False, False)


def test_nothing_that_steers_a_terminal_reaches_it(
    run: Callable[..., Ran], key: Emulator, write: Callable[..., Path]
) -> None:
    hostile = "\x1b]0;owned\x07\x9b31m\u202e"
    path = write(technique=f"still{hostile}")
    broken = write("broken.py", code=f"raise RuntimeError({'[bold]' + hostile!r})")
    steering = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]")
    for arguments in ((), ("--json",)):
        ran = run("check", path, broken, *arguments)
        assert ran.code == 1
        assert not steering.search(ran.out + ran.err)
        assert "RuntimeError: [bold]" in ran.out


def test_a_file_that_kills_the_process_is_told_with_its_last_words(
    run: Callable[..., Ran], key: Emulator, write: Callable[..., Path]
) -> None:
    ran = run("check", write(code="import os\nprint('farewell', flush=True)\nos._exit(3)"))
    assert (ran.code, ran.out) == (1, "")
    assert "The process that parses the DAG files ended with exit code 3:" in ran.err
    assert "farewell" in ran.err


def test_a_task_with_many_mistakes_shows_the_first_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    place = Place(file="dags/stills.py", line=9, dag_id="stills", task_id="batch")
    mistakes = [Finding(place=place, message=f"row '{number}' is wrong") for number in range(60)]
    print_report(Report(dags=1, tasks=1, mistakes=mistakes, left=[], costs=[]), Terminal("flora"))
    assert capsys.readouterr().out.splitlines() == [
        "dags/stills.py:9  stills.batch",
        *(f"  row '{number}' is wrong" for number in range(20)),
        "  and 40 more; --json has all",
        "",
        "1 DAG, 1 Flora task, 60 mistakes",
    ]
