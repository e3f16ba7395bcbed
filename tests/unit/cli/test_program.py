"""The program: its connection, its errors and exit codes, what it imports, and what reads its output."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import pytest

from airflow_provider_flora.checking import process
from airflow_provider_flora.checking.report import Finding, Place, Report
from airflow_provider_flora.cli import techniques
from airflow_provider_flora.cli.main import COMMANDS
from airflow_provider_flora.emulator import Emulator
from tests.unit.checking.expectations import RIGHT_DAGS
from tests.unit.cli.a_terminal import environment
from tests.unit.cli.conftest import REPOSITORY, Ran, Run
from tests.unit.cli.stand_in import StandIn

PROGRAM = [sys.executable, "-m", "airflow_provider_flora"]


# --- help -------------------------------------------------------------------------------------------------


def test_help_lists_each_command(run: Run) -> None:
    ran = run("--help")
    assert ran.code == 0
    listed = re.findall(r"^    (\w+) ", ran.out, re.MULTILINE)
    assert listed == [command.name for command in COMMANDS]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_each_command_has_help(run: Run, command: Any) -> None:
    ran = run(command.name, "--help")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.lower().startswith(f"usage: python -m airflow_provider_flora{'.' * (not command.uses_flora)}")


@pytest.mark.parametrize(
    "arguments", [[], ["fly"], ["runs", "--status"], ["technique"], ["technique", "a", "--dag", "--batch"]]
)
def test_a_mistake_on_the_command_line_ends_with_two(run: Run, arguments: list[str]) -> None:
    ran = run(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert "usage" in ran.err.lower()


# --- the connection ---------------------------------------------------------------------------------------


def test_without_a_key_the_two_ways_to_give_one_are_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLORA_API_KEY", "  ")
    ran = run("techniques", "--json")
    assert (ran.code, ran.out) == (2, "")
    assert "Set FLORA_API_KEY to an API key, or name a connection of Airflow's: --conn-id" in ran.err


@pytest.mark.parametrize("options", [[], ["--debug"]])
def test_a_wrong_key_is_named_and_never_printed(
    run: Run, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    monkeypatch.setenv("FLORA_API_KEY", "sk_live_secret\r\n")
    ran = run("techniques", *options)
    assert (ran.code, ran.out) == (1, "")
    assert "Flora answered 401 invalid_api_key" in ran.err
    assert "the key in FLORA_API_KEY" in ran.err
    assert "secret" not in ran.err
    assert ("Traceback" in ran.err) == bool(options)


def test_a_base_url_that_would_expose_the_key_is_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLORA_BASE_URL", "http://flora.example")
    ran = run("techniques")
    assert ran.code == 2
    assert "Plain http to 'flora.example' would expose the API key" in ran.err


def test_a_connection_of_airflow_s_goes_before_the_environment(
    run: Run, flora: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLORA_API_KEY", "sk_wrong")
    assert run("techniques", "--conn-id", "flora_default").code == 0
    missing = run("techniques", "--conn-id", "no_such", "--json")
    assert (missing.code, missing.out) == (2, "")
    # Airflow 2 logs what it finds no connection in.
    assert missing.err.splitlines()[-1].startswith("Error: The connection 'no_such' does not exist")


def test_what_airflow_logs_is_no_result(program: Run, flora: Emulator, tmp_path: Path) -> None:
    (run_id,) = flora.seed_runs(1)
    env = {
        "FLORA_API_KEY": "",
        "AIRFLOW_HOME": str(tmp_path / "airflow"),
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "DEBUG",
    }
    ran = program("download", run_id, str(tmp_path / "files"), "--json", "--conn-id", "flora_default", env=env)
    assert ran.code == 0, ran.err
    assert len(ran.json) == 1


def test_no_network_is_told_at_each_try(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLORA_BASE_URL", "http://127.0.0.1:9")
    ran = run("techniques", "--json")
    assert (ran.code, ran.out) == (1, "")
    lines = ran.err.splitlines()
    assert [line.endswith("Trying again in 0 s.") for line in lines] == [True, True, False]
    assert lines[-1].startswith("Error: No answer from http://127.0.0.1:9/api/v1")


def test_a_page_that_is_refused_shows_the_pages_before_it(
    stand_in: StandIn, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in.techniques = [{"technique_id": f"tech_{number}"} for number in range(150)]
    answer = stand_in.answer
    refusal = (500, {"error": {"code": "internal_error", "message": "Oh."}})
    monkeypatch.setattr(stand_in, "answer", lambda url: refusal if "cursor" in url else answer(url))
    ran = run("techniques")
    assert (ran.code, len(ran.rows)) == (1, 101)
    assert "Flora answered 500 internal_error" in ran.err


# --- errors -----------------------------------------------------------------------------------------------


def test_a_bug_is_one_line_and_a_traceback_only_if_asked_for(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("\x1b[2J")

    monkeypatch.setattr(techniques, "open_client", fail)
    ran = run("techniques")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == "Error: a bug in the Flora provider: ZeroDivisionError: [2J. --debug shows where.\n"
    debug = run("techniques", "--debug")
    assert "Traceback" in debug.err
    assert "\x1b" not in debug.err


# --- what it imports --------------------------------------------------------------------------------------


def test_no_command_imports_airflow_that_can_do_without_it(
    flora_key: Emulator, picture: Path, tmp_path: Path
) -> None:
    (run_id,) = flora_key.seed_runs(1)
    lines = [
        ["techniques"],
        ["technique", "product-relight"],
        ["technique", "product-relight", "--dag"],
        ["technique", "product-relight", "--batch"],
        ["runs"],
        ["run", run_id],
        ["wait", run_id],
        ["upload", str(picture)],
        ["start", "product-relight", "-i", f"photo={picture}", "-i", "light=neon", "--yes"],
        ["spend"],
    ]
    program = f"""
import sys
from airflow_provider_flora.cli.main import main
assert not {{"requests", "pydantic"}} & set(sys.modules), "help is slow"
for line in {lines!r}:
    assert main(line) == 0, line
    assert not [name for name in sys.modules if name.split(".")[0] in ("airflow", "sqlalchemy")], line
"""
    home = tmp_path / "airflow"
    subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        timeout=600,
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "AIRFLOW_HOME": str(home)},
    )
    assert not home.exists(), "no database, no settings"


# --- who reads its output ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments", [["techniques"], ["techniques", "--json"], ["spend"], ["technique", "product-relight", "--dag"]]
)
def test_a_reader_that_leaves_early_is_no_error(flora_key: Emulator, arguments: list[str]) -> None:
    command = subprocess.Popen(
        [*PROGRAM, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=REPOSITORY,
        env=environment(),
    )
    assert command.stdout is not None
    command.stdout.close()
    _, err = command.communicate(timeout=600)
    assert command.returncode == 0
    assert b"Broken" not in err
    assert b"Traceback" not in err


@pytest.fixture
def output_to(run: Run, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    """Runs a command in this process whose standard output, or with ``name`` the error, is a file of its own."""

    def run_command(file: TextIO, *arguments: str, name: str = "stdout") -> Ran:
        with file, monkeypatch.context() as patched:
            patched.setattr(sys, name, file)
            return run(*arguments)

    return run_command


def nobody() -> TextIO:
    """A pipe whose reader has left."""
    theirs, own = os.pipe()
    os.close(theirs)
    return os.fdopen(own, "w", encoding="utf-8")


def full_disk() -> TextIO:
    """A file that nothing can be written into."""
    return Path("/dev/full").open("w", encoding="utf-8")


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("technique product-relight", 0),
        ("technique product-relight --dag", 0),
        ("runs", 0),
        ("run {failed}", 0),
        ("wait {completed}", 0),
        ("wait {failed}", 1),
        ("wait {failed} --json", 1),
        ("start tagline-writer -i brief=a --yes", 0),
        ("upload {picture} {other}", 0),
        ("upload {picture} /no/such.png", 1),
        ("download {completed} {folder}", 0),
        ("spend --json", 0),
        ("technique no-such", 1),
    ],
)
def test_without_a_reader_the_exit_code_is_the_same(
    output_to: Callable[..., Ran], flora_key: Emulator, picture: Path, tmp_path: Path, line: str, code: int
) -> None:
    (completed,), (failed,) = flora_key.seed_runs(1), flora_key.seed_runs(1, status="failed")
    words = {
        "completed": completed,
        "failed": failed,
        "picture": picture,
        "other": RIGHT_DAGS / "mug.png",
        "folder": tmp_path / "files",
    }
    assert output_to(nobody(), *line.format(**words).split()).code == code
    if line.startswith("upload"):
        assert len(flora_key.ledger()["assets"]) == line.count("{picture}") + line.count("{other}")
    assert output_to(nobody(), *line.format(**words).split(), name="stderr").code == code


@pytest.mark.parametrize(
    "mistakes", [[], [Finding(place=Place(file="stills.py"), message="'foto' is not an input")]]
)
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_without_a_reader_the_verdict_of_a_check_is_the_same(
    output_to: Callable[..., Ran],
    flora_key: Emulator,
    monkeypatch: pytest.MonkeyPatch,
    mistakes: list[Finding],
    options: list[str],
) -> None:
    report = Report(dags=1, tasks=1, mistakes=mistakes, left=[], costs=[])
    monkeypatch.setattr(process, "check_apart", lambda *_, **__: report)
    assert output_to(nobody(), "check", ".", *options).code == len(mistakes)


def test_a_list_that_nobody_reads_ends_with_its_first_page(
    stand_in: StandIn, output_to: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in.techniques = [{"technique_id": f"tech_{number}"} for number in range(255)]
    answer, asked = stand_in.answer, []
    monkeypatch.setattr(stand_in, "answer", lambda url: (asked.append(url), answer(url))[1])
    ran = output_to(nobody(), "techniques")
    assert (ran.code, ran.err, len(asked)) == (0, "", 1)


@pytest.mark.parametrize("line", ["techniques", "techniques --json", "technique product-relight --dag"])
def test_a_full_disk_is_told(output_to: Callable[..., Ran], flora_key: Emulator, line: str) -> None:
    ran = output_to(full_disk(), *line.split())
    assert ran.code == 1
    assert ran.err == (
        "Error: The output cannot be written: No space left on device. What was written before is not complete. "
        "Write it to another place.\n"
    )


def test_messages_that_cannot_be_written_stop_nothing(output_to: Callable[..., Ran], flora_key: Emulator) -> None:
    ran = output_to(full_disk(), "start", "tagline-writer", "-i", "brief=a", "--yes", name="stderr")
    assert (ran.code, "completed" in ran.out) == (0, True)


def test_a_closed_output_is_no_error(program: Run) -> None:
    ran = program("techniques", stdout=None, preexec_fn=lambda: os.close(1))
    assert (ran.code, ran.err.count("\n")) == (0, 1)


def test_ctrl_c_while_it_begins_is_no_traceback(flora_key: Emulator) -> None:
    program = """
import os, runpy, signal, sys
class Interrupt:
    def find_spec(self, name, *_):
        if name == "rich_argparse":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
sys.argv = ["airflow_provider_flora", "techniques"]
runpy.run_module("airflow_provider_flora", run_name="__main__")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, timeout=600, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


# --- the emulator -----------------------------------------------------------------------------------------


def test_the_emulator_takes_its_own_arguments() -> None:
    command = subprocess.Popen(
        [*PROGRAM, "emulator", "--port", "0", "--run-seconds", "0"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )
    try:
        assert command.stdout is not None
        assert command.stdout.readline().startswith("Flora's emulator is at http://127.0.0.1:")
        command.send_signal(signal.SIGINT)
        assert command.wait(60) == 0
    finally:
        command.kill()
        command.communicate()


@pytest.mark.parametrize("port", ["x", "99999", "-5", "65536"])
@pytest.mark.parametrize("option", ["--port", "--upload-port"])
def test_a_port_that_there_cannot_be_is_named_with_the_range(run: Run, option: str, port: str) -> None:
    ran = run("emulator", f"{option}={port}")
    assert ran.code == 2
    assert f"argument {option}: {port!r} is not a port: give a number from 0 to 65535" in ran.err


# --- completion -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shell", "answered"), [("bash", "--technique"), ("zsh", "--technique:the run's technique")]
)
def test_a_shell_completes_commands_and_options(
    flora_key: Emulator, tmp_path: Path, shell: str, answered: str
) -> None:
    """As argcomplete's own script asks: first whether the program can be asked, then the program."""
    marked = [sys.executable, "-m", "argcomplete._check_module", "airflow_provider_flora"]
    assert subprocess.run(marked, cwd=REPOSITORY, timeout=600, check=False).returncode == 0
    line = "python -m airflow_provider_flora run --t"
    answer = tmp_path / "answer"
    subprocess.run(
        PROGRAM,
        cwd=REPOSITORY,
        timeout=600,
        check=False,
        env={
            **os.environ,
            "_ARGCOMPLETE": "3",
            "_ARGCOMPLETE_SHELL": shell,
            "_ARGCOMPLETE_SUPPRESS_SPACE": "1",
            "_ARGCOMPLETE_IFS": "\n",
            "_ARGCOMPLETE_STDOUT_FILENAME": str(answer),
            "COMP_LINE": line,
            "COMP_POINT": str(len(line)),
        },
    )
    (completion,) = answer.read_text().splitlines()
    assert completion.startswith(answered)
    assert (completion == answered) == (shell == "bash"), "zsh shows the help beside it"


def test_the_documented_line_registers_the_completion_in_both_shells() -> None:
    script = [sys.executable, "-m", "argcomplete.scripts.activate_global_python_argcomplete", "--dest=-"]
    printed = subprocess.run(script, capture_output=True, text=True, timeout=600, check=True).stdout
    assert "complete -o default -o bashdefault -D -F _python_argcomplete_global\n" in printed
    assert "compdef _python_argcomplete_global -default-\n" in printed
    assert "argcomplete._check_module" in printed, "it completes python -m"
