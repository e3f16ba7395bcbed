"""Each command of the page Operations exists, takes its arguments, and prints what is shown."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from airflow_provider_flora import airflow_compat
from airflow_provider_flora.airflow_compat import airflow_is_at_least
from airflow_provider_flora.cli.main import main, make_parser
from airflow_provider_flora.cli.terminal import Terminal
from airflow_provider_flora.emulator import Emulator
from airflow_provider_flora.task.state import RUN
from tests.docs.test_docs import DOCS
from tests.unit.airflow_tables import NOW, TABLES, Instances

PAGE = DOCS / "operations.rst"
if not airflow_is_at_least(3, 3):
    pytest.skip("the page shows what the newest Airflow has", allow_module_level=True)


def sessions() -> Iterator[tuple[str, str]]:
    """Each command of the page with what it prints, as it is there."""
    for block in re.findall(r"^ *\.\. code-block:: console\n\n((?: +.*\n|\n)+)", PAGE.read_text(), re.MULTILINE):
        for part in re.split(r"^ +\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, printed = part.partition("\n")
            yield command, "".join(f"{line.strip()}\n" for line in printed.splitlines() if line.strip())


def test_each_command_is_one_that_exists() -> None:
    from airflow.cli.cli_parser import get_parser

    commands = [command for command, _ in sessions()]
    assert len(commands) > 8
    for command in commands:
        words = [word for word in shlex.split(command) if "=" not in word]
        assert words[0] == "airflow"
        get_parser().parse_args(words[1:])
        if words[1] == "flora":
            make_parser().parse_args(words[2:])


def plain(text: str) -> str:
    """Return a text without ids and times, and with single blanks."""
    text = re.sub(r"run_[0-9a-f]{6,}", "run_1", re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "THEN", text))
    return re.sub(r" {2,}", "  ", text)


@pytest.fixture
def tables(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Instances:
    from airflow import models
    from airflow.models.base import Base
    from sqlalchemy import create_engine
    from sqlalchemy.orm import Session

    models.import_all_models()
    engine = create_engine(f"sqlite:///{tmp_path / 'airflow.db'}")
    Base.metadata.create_all(engine, [Base.metadata.tables[name] for name in TABLES])

    @contextmanager
    def create_session() -> Iterator[Any]:
        with Session(engine) as session, session.begin():
            yield session

    monkeypatch.setattr(airflow_compat, "create_session", create_session, raising=False)
    return Instances(engine)


def test_what_is_shown_is_what_is_printed(
    tables: Instances, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    began = NOW.timestamp() - 600
    record = {"key": "a", "technique_id": "editorial-still", "max_tries": 0, "sent": [[began, began + 120]]}
    tables.add_dag_run()
    tables.add(
        state="failed",
        max_tries=0,
        stored={RUN: record},
        flora_technique_url="https://app.flora.ai/techniques/editorial-still",
        flora_run_cost=0.09,
    )
    monkeypatch.delenv("COLUMNS", raising=False)
    shown = [(command, printed) for command, printed in sessions() if printed]
    assert len(shown) == 2
    with Emulator(api_key="sk_test_page") as emulator:
        [run_id] = emulator.seed_runs(1, technique_id="editorial-still")
        monkeypatch.setenv("FLORA_API_KEY", emulator.api_key)
        monkeypatch.setenv("FLORA_BASE_URL", emulator.base_url)
        for command, printed in shown:
            asked: list[str] = []

            def confirm(self: Terminal, question: str, asked: list[str] = asked) -> bool:
                asked.append(f"{question} [y/N] y\n")
                return True

            monkeypatch.setattr(Terminal, "confirm", confirm)
            assert main(shlex.split(re.sub(r"run_\w+", run_id, command))[2:]) == 0
            captured = capsys.readouterr()
            assert plain("".join(asked) + captured.out + captured.err) == plain(printed)
