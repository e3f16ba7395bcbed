"""Every command that needs no database of Airflow's: on terminals, with a wrong key, and without a network."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.cells import cell_len

from airflow_provider_flora.cli.main import COMMANDS
from airflow_provider_flora.emulator import Emulator
from tests.unit.checking.expectations import RIGHT_DAGS, WRONG_DAGS
from tests.unit.cli.a_terminal import Terminal
from tests.unit.cli.conftest import REPOSITORY, Run

DATABASE = {"task", "adopt", "abandon", "undelivered", "reconcile"}
"""Commands with tests of their own, in Airflow's tables."""


@dataclass(frozen=True)
class Case:
    """A command that is tried.

    :param line: what is typed. ``{completed}`` and ``{failed}`` are runs, ``{folder}`` is an empty folder.
    :param shows: words that it prints on a terminal of any width.
    :param code: its exit code.
    """

    line: str
    shows: tuple[str, ...]
    code: int = 0


MISTAKE = f"{WRONG_DAGS.name}/unknown_input.py"
CASES = (
    Case("techniques", ("TECHNIQUE", "product-relight", "0.18", "A star marks an optional input.")),
    Case("technique product-relight", ("Relights your product photo", "0.18 USD a run", "imageUrl")),
    Case("technique product-relight --dag", ("FloraRunTechniqueOperator(", "max_run_cost=0.18,")),
    Case("technique product-relight --batch", ("FloraRunTechniqueBatchOperator(", "product_relight.csv")),
    Case("runs", ("{completed}", "{failed}", "provider_")),
    Case("run {completed}", ("Status     completed", "0.09 USD", "http://")),
    Case("run {failed}", ("Status     failed", "provider_error", "Remedy")),
    Case("start tagline-writer -i brief=a --yes", ("costs 0.01 USD.", "Started run_", "Status     completed")),
    Case("wait {completed}", ("Status     completed",)),
    Case("wait {failed}", ("Status     failed", "Error: "), 1),
    Case(f"upload {RIGHT_DAGS.name}/mug.png", ("Uploaded right_dags/mug.png as asset_", "http://")),
    Case("download {completed} {folder}", ("file://{folder}/",)),
    Case("spend", ("DAY", "total", "█")),
    Case(f"check {MISTAKE}", ("1 DAG, 1 Flora task, 2 mistakes", "0.18 USD", "unknown_input.relight"), 1),
)

ALL_OF_THEM = """
import fcntl, json, os, struct, sys, termios
from airflow_provider_flora.checking import process
from airflow_provider_flora.cli.main import main

check_apart, reports = process.check_apart, []

def check_once(*arguments, **options):  # reading DAG files takes its time: Airflow is imported
    reports[:] = reports or [check_apart(*arguments, **options)]
    return reports[0]

process.check_apart = check_once
for columns in 80, 200:
    fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    for no_colour in "", "1":
        os.environ["NO_COLOR"] = no_colour
        for line in json.loads(sys.argv[1]):
            print("$", columns, no_colour == "", line, flush=True)
            print("=", main(line.split()), flush=True)
"""


def test_each_command_is_here() -> None:
    tried = {case.line.split()[0] for case in CASES}
    assert tried == {command.name for command in COMMANDS if command.uses_flora} - DATABASE


# --- on a terminal ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def flora() -> Iterator[Emulator]:
    """Flora for all terminals."""
    with Emulator(port=0, run_seconds=0.05, cost_lag=0, seed=0) as flora:
        yield flora


@pytest.fixture(scope="module")
def words(flora: Emulator, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the braces of the cases stand for."""
    (completed,), (failed,) = flora.seed_runs(1), flora.seed_runs(1, status="failed")
    return {"completed": completed, "failed": failed, "folder": str(tmp_path_factory.mktemp("outputs"))}


@pytest.fixture(scope="module")
def shown(flora: Emulator, words: dict[str, str]) -> dict[str, str]:
    """What each command has shown in a terminal, with its exit code at the end, by width, colour and line."""
    lines = json.dumps([case.line.format(**words) for case in CASES])
    env = {
        "FLORA_API_KEY": flora.api_key,
        "FLORA_BASE_URL": flora.base_url,
        "PYTHONPATH": str(REPOSITORY),
    }
    with Terminal(lines, env=env, folder=WRONG_DAGS.parent, program=("-c", ALL_OF_THEM)) as terminal:
        assert terminal.end(300) == 0, terminal.seen
    parts = re.split(r"^\$ (.*)\r\n", terminal.seen, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("colour", [True, False], ids=["colour", "no colour"])
@pytest.mark.parametrize("columns", [80, 200])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.line)
def test_on_a_terminal(
    shown: dict[str, str], words: dict[str, str], case: Case, columns: int, colour: bool
) -> None:
    seen = shown[f"{columns} {colour} {case.line.format(**words)}"]
    lines = re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen))
    *printed, end, _ = lines
    assert end == f"= {case.code}"
    for text in case.shows:
        # What is long is broken where the terminal is narrow.
        assert "".join(text.format(**words).split()) in "".join("".join(printed).split())
    # The terminal itself breaks a sentence, a path and code, which can be copied whole.
    tables = (
        [] if "--dag" in case.line or "--batch" in case.line else [line for line in printed if "  " in line.strip()]
    )
    assert max(map(cell_len, tables), default=0) <= columns
    has_colour = re.search(r"\x1b\[[0-9;]*m", seen) is not None
    assert has_colour <= colour
    if not case.line.startswith("start"):  # whose bar moves the cursor
        assert ("\x1b" in seen) <= colour
    if case.line in ("techniques", "technique product-relight", "runs", "wait {failed}"):
        assert has_colour == colour


# --- without success --------------------------------------------------------------------------------------

LINES = sorted({case.line for case in CASES})


@pytest.fixture
def try_line(run: Run, flora_key: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs a command that can reach nothing, and returns what it says."""
    monkeypatch.chdir(WRONG_DAGS.parent)

    def run_line(line: str, key: str, address: str) -> str:
        monkeypatch.setenv("FLORA_API_KEY", key)
        monkeypatch.setenv("FLORA_BASE_URL", address)
        ran = run(*line.format(completed="run_1", failed="run_2", folder=tmp_path).split())
        assert ran.code == 1
        assert key not in ran.out + ran.err
        assert "Traceback" not in ran.err
        assert "bug" not in ran.err
        if line.startswith("check"):  # which says it of the task
            assert ran.err == ""
            return ran.out.splitlines()[1].strip()
        assert ran.out == ""
        return ran.err.splitlines()[-1].removeprefix("Error: ")

    return run_line


@pytest.mark.parametrize("line", LINES)
def test_a_wrong_key_is_one_sentence(try_line: Callable[..., str], flora_key: Emulator, line: str) -> None:
    said = try_line(line, "sk_test_nobody_may_see", flora_key.base_url)
    assert said.startswith("Flora answered 401 invalid_api_key: ")
    assert "the key in FLORA_API_KEY" in said


@pytest.mark.parametrize("line", LINES)
def test_no_network_is_one_sentence(try_line: Callable[..., str], line: str) -> None:
    said = try_line(line, "sk_test_nobody_may_see", "http://127.0.0.1:9/api/v1")
    assert re.fullmatch(
        r"No answer from http://127\.0\.0\.1:9/api/v1 to GET /\S+: Connection refused\. "
        r"Check the address, the network and the proxy\.",
        said,
    )
