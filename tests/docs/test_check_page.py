"""The page about checks shows what the command prints, and commands that there are."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

from airflow_provider_flora.cli.main import main, make_parser
from airflow_provider_flora.emulator import Emulator

CHECKED = Path(__file__).parent / "checked"
PAGE = Path(__file__).parents[2] / "docs" / "check.rst"
PROGRAM = "python -m airflow_provider_flora "


def test_the_page_shows_what_the_command_prints(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with Emulator(port=0, api_key="sk_test_docs") as emulator:
        for name, value in {
            "FLORA_API_KEY": emulator.api_key,
            "FLORA_BASE_URL": emulator.base_url,
            "AIRFLOW_HOME": str(tmp_path),
        }.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("AIRFLOW_CONN_FLORA_DEFAULT", raising=False)
        monkeypatch.chdir(CHECKED)
        assert main(["check", "dags"]) == 1
    printed = "".join(line.rstrip() + "\n" for line in capsys.readouterr().out.splitlines())
    _, _, shown = PAGE.read_text().partition(f"   $ {PROGRAM}check dags\n")
    shown = textwrap.dedent(re.match(r"(?:   .*\n|\n)+", shown)[0])
    assert shown.rstrip() == printed.rstrip()


def test_each_command_on_the_page_is_one() -> None:
    lines = re.findall(rf"{PROGRAM}(\w[^`\n>]*)", PAGE.read_text())
    assert len(lines) == 6
    for line in lines:
        options = make_parser().parse_args(line.split())
        assert options.command.name in ("check", "techniques")
