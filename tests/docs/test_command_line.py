"""The page of the command line shows what the commands print: they are run against the emulator, in a terminal."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from airflow_provider_flora.cli.main import COMMANDS
from airflow_provider_flora.emulator import Emulator
from tests.docs.test_docs import DOCS, REPOSITORY
from tests.unit.cli.a_terminal import Terminal, environment

PAGE = DOCS / "command_line.rst"
ORIGIN = "http://127.0.0.1:8765"
FOLDER = "/home/ada"
COLUMNS = 100


def sessions() -> Iterator[tuple[str, str]]:
    """Each command of the page with what it prints, as it is there."""
    for block in re.findall(r"^\.\. code-block:: console\n\n((?:   .*\n|\n)+)", PAGE.read_text(), re.MULTILINE):
        for part in re.split(r"^   \$ ", block, flags=re.MULTILINE)[1:]:
            command, _, printed = part.partition("\n")
            yield command, "".join(f"{line[3:].rstrip()}\n" for line in printed.rstrip("\n").splitlines())


def plain(text: str) -> str:
    """Return a text without what differs from run to run: ids, times, and how long something took."""
    for pattern in (r"run_[0-9a-f]{6,}", r"asset_\w+"):
        ids = list(dict.fromkeys(re.findall(pattern, text)))
        for number, found in enumerate(ids):
            text = text.replace(found, f"{found.partition('_')[0]}_{number}")
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d(:\d\d)?", "THEN", text)
    text = re.sub(r"[\d.]+ MB in [\d.]+ s|[\d,]+ bytes", "SO MUCH", text)
    return re.sub(r"\b\d+ s\b", "SO LONG", text)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the page's commands run."""
    (tmp_path / "dags").mkdir()
    Image.new("RGB", (64, 64), "teal").save(tmp_path / "lamp.png")
    return tmp_path


def printed_by(command: str, folder: Path, emulator: Emulator) -> str:
    """Run a command of the page, and return what a person sees."""
    env = {
        "PYTHONPATH": str(REPOSITORY),
        "FLORA_API_KEY": emulator.api_key,
        "FLORA_BASE_URL": emulator.base_url,
        "AIRFLOW_HOME": str(folder / "airflow"),
    }
    if re.search(r"[|>]|^cat", command):
        flora = f'flora() {{ {shlex.quote(sys.executable)} -m airflow_provider_flora "$@"; }}; '
        done = subprocess.run(
            ["bash", "-c", flora + command],
            cwd=folder,
            env={**environment(), **env},
            text=True,
            stdout=subprocess.PIPE,
            timeout=600,
            check=True,
        )
        return done.stdout
    program, *arguments = shlex.split(command)
    arguments = arguments if program == "flora" else arguments[2:]
    with Terminal(*arguments, columns=COLUMNS, env=env, folder=folder) as terminal:
        if arguments[0] == "start":
            terminal.wait_for("[y/N]")
            terminal.type("y\n")
        terminal.end()
    return "".join(f"{line}\n" for line in terminal.lines if "━" not in line)


def test_each_command_prints_what_the_page_shows(folder: Path) -> None:
    shown = {}
    with Emulator(run_seconds=3, cost_lag=0) as emulator:
        for command, printed in sessions():
            if command.startswith(("alias", "export", "eval")):
                assert printed == ""
                continue
            really = printed_by(command, folder, emulator)
            really = really.replace(emulator.origin, ORIGIN).replace(str(folder), FOLDER)
            shown[command] = (plain(printed), plain(really))
    assert len(shown) > 6
    for command, (page, really) in shown.items():
        assert page == really, f"{PAGE.name} does not show what `{command}` prints now"


def test_the_page_has_each_command() -> None:
    page = PAGE.read_text()
    assert [command.name for command in COMMANDS if f"   * - ``{command.name}" not in page] == []
