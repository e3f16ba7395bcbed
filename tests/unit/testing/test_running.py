"""How ``run_dag`` finds a DAG, reads a log, and reports a DAG run: with a stand-in for the process of Airflow."""

from __future__ import annotations

import json
import sqlite3
import types
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_flora.testing import (
    DagImportError,
    DagRunError,
    DagRunTimeoutError,
    FloraEmulator,
    RunDag,
)
from airflow_provider_flora.testing.process import MARK


def mark(**said: Any) -> str:
    return f"{MARK}{json.dumps(said)}\n"


class Played:
    """An Airflow that remembers what it is to run, and has run this."""

    def __init__(self, folder: Path, log: str, *, ended: bool = True, state: str | None = "success") -> None:
        self.database = folder / "airflow.db"
        self.log, self.ended = log, ended
        self.wanted: Mapping[str, Any] = {}
        self.dags_folder = Path()
        self.timeout = 0.0
        with sqlite3.connect(self.database) as database:
            database.executescript(
                """
                CREATE TABLE dag_run (dag_id, run_id, state);
                CREATE TABLE task_instance (dag_id, run_id, task_id, map_index, state, try_number, start_date);
                CREATE TABLE xcom (dag_id, run_id, task_id, map_index, key, value);
                INSERT INTO task_instance VALUES
                    ('shop', 'r', 'last', -1, 'upstream_failed', 0, NULL),
                    ('shop', 'r', 'sell', 1, 'failed', 2, '2'),
                    ('shop', 'r', 'sell', 0, 'success', 1, '1'),
                    ('other', 'r', 'x', -1, 'success', 1, '0');
                INSERT INTO xcom VALUES
                    ('shop', 'r', 'sell', 0, 'number', 0.09), ('shop', 'r', 'sell', 0, 'text', '"é"'),
                    ('shop', 'r', 'sell', 0, 'none', NULL),
                    ('shop', 'r', 'sell', 0, 'bytes', CAST('{"a": 1}' AS BLOB)),
                    ('shop', 'r', 'sell', 0, 'tuple',
                     '{"__classname__": "builtins.tuple", "__version__": 1, "__data__": [1, 2]}');
                """
            )
            if state:
                database.execute("INSERT INTO dag_run VALUES ('shop', 'r', ?), ('later', 'r', ?)", (state, state))
            else:
                database.execute("DELETE FROM task_instance")

    def run(self, wanted: Mapping[str, Any], dags_folder: Path, timeout: float) -> tuple[bool, str]:
        self.wanted, self.dags_folder, self.timeout = wanted, dags_folder, timeout
        return self.ended, self.log


LOG = "".join(
    [
        "loading\n",
        mark(dag_id="shop"),
        "began\n",
        mark(task_id="sell", map_index=0),
        "\x1b[1msold\x1b[0m\n",
        mark(task_id=None),
        "between\n",
        mark(task_id="sell", map_index=1),
        "no",
        mark(task_id=None),
        mark(task_id="sell", map_index=1),
        "ValueError: never\n",
        mark(task_id=None),
        "ended\n",
    ]
)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with a DAG in a folder of a DAGs folder."""
    (tmp_path / "dags" / "team").mkdir(parents=True)
    (tmp_path / "dags" / "team" / "shop.py").write_text("")
    (tmp_path / "tests" / "unit").mkdir(parents=True)
    return tmp_path


def runner(emulator: FloraEmulator, airflow: Played, repository: Path) -> RunDag:
    sections: list[tuple[str, ...]] = []
    test = types.SimpleNamespace(
        path=repository / "tests" / "unit" / "test_shop.py",
        sections=sections,
        add_report_section=lambda *section: sections.append(section),
    )
    run: Any = RunDag
    made: RunDag = run(emulator, airflow, test)
    return made


def test_a_file_is_found_above_the_test_and_all_is_passed_on(
    flora_emulator: FloraEmulator, repository: Path
) -> None:
    airflow = Played(repository, LOG)
    date = datetime(2026, 3, 1, tzinfo=timezone.utc)
    runner(flora_emulator, airflow, repository)("dags/team/shop.py", conf={"a": 1}, logical_date=date, timeout=7)
    assert airflow.wanted == {
        "file": str(repository / "dags" / "team" / "shop.py"),
        "dag_id": None,
        "conf": {"a": 1},
        "logical_date": "2026-03-01T00:00:00+00:00",
        "variable": "AIRFLOW_CONN_FLORA_DEFAULT",
    }
    assert (airflow.dags_folder, airflow.timeout) == (repository / "dags", 7)


def test_a_dag_is_found_by_its_file(flora_emulator: FloraEmulator, repository: Path) -> None:
    airflow = Played(repository, LOG)
    file = repository / "elsewhere.py"
    run = runner(flora_emulator, airflow, repository)
    run(types.SimpleNamespace(fileloc=str(file), dag_id="shop"))
    assert (airflow.wanted["file"], airflow.wanted["dag_id"]) == (str(file), "shop")
    assert airflow.dags_folder == repository
    file.write_text("def shop(): ...")
    module: dict[str, Any] = {}
    exec(compile(file.read_text(), file, "exec"), module)
    run(module["shop"], "another", logical_date=None)
    assert (airflow.wanted["file"], airflow.wanted["dag_id"]) == (str(file), "another")
    assert airflow.wanted["logical_date"] is None


def test_what_is_no_dag_is_refused(flora_emulator: FloraEmulator, repository: Path) -> None:
    run = runner(flora_emulator, Played(repository, LOG), repository)
    with pytest.raises(FileNotFoundError, match=r"There is no dags/shop\.py in .*unit or a folder above it"):
        run("dags/shop.py")
    with pytest.raises(TypeError, match="run_dag takes the path of a file or a DAG, not 3"):
        run(3)


def test_the_log_is_cut_by_task_and_the_database_read(flora_emulator: FloraEmulator, repository: Path) -> None:
    run = runner(flora_emulator, Played(repository, LOG, state="failed"), repository)
    result = run("dags/team/shop.py")
    assert (result.dag_id, result.run_id, result.state) == ("shop", "r", "failed")
    assert list(result.states.items()) == [
        ("sell[0]", "success"),
        ("sell[1]", "failed"),
        ("last", "upstream_failed"),
    ]
    assert result.task("sell", 0).log == "sold\n"
    assert result.task("sell", 1).log == "noValueError: never\n"
    assert result.task("sell", 1).attempts == 2
    assert result.log == "loading\nbegan\nsold\nbetween\nnoValueError: never\nended\n"
    assert result.task("sell", 0).xcoms == {
        "number": 0.09,
        "text": "é",
        "none": None,
        "bytes": {"a": 1},
        "tuple": [1, 2],
    }
    assert (result.charged, result.charged_runs) == (0, 0)
    assert vars(run)["_test"].sections == [("call", "DAG run", str(result))]


@pytest.mark.parametrize(
    ("played", "error", "message"),
    [
        (
            {"log": mark(import_error="Traceback: no")},
            DagImportError,
            r"shop\.py cannot be imported:\nTraceback: no",
        ),
        ({"log": mark(dag_ids=[])}, DagRunError, r"shop\.py has no DAG$"),
        (
            {"log": mark(dag_ids=["a", "b"])},
            DagRunError,
            r"has these DAGs: a, b\. It has no 'shop'\.",
        ),
        ({"log": "no such module\n"}, DagRunError, r"Airflow could not load .*shop\.py:\nno such module"),
        (
            {"log": "stuck at the top\n", "ended": False},
            DagRunTimeoutError,
            r"shop\.py was ended, since it took longer than 120 s\.\nThe end of the log:\nstuck at the top",
        ),
        (
            {"log": LOG, "ended": False, "state": "running"},
            DagRunTimeoutError,
            r"shop was ended, .* 120 s\.\n  sell\[0\]: success\n  sell\[1\]: failed after 2 attempts, "
            r"noValueError: never\n(?s:.*)The end of the log:\n(?s:.*)ended$",
        ),
        (
            {"log": f"{mark(dag_id='shop')}Invalid input\n", "state": None},
            DagRunError,
            r"shop could not be run:\nInvalid input",
        ),
        (
            {"log": LOG, "state": "running"},
            DagRunError,
            r"shop stopped in the middle\.\n  sell\[0\]: success\n(?s:.*)The end of the log:\n(?s:.*)ended$",
        ),
        (
            {"log": mark(dag_id="later")},
            DagRunError,
            r"later has no task to run in this DAG run\. Airflow leaves out each task whose start_date is after",
        ),
    ],
)
def test_what_is_no_result_is_an_error_that_says_why(
    flora_emulator: FloraEmulator,
    repository: Path,
    played: dict[str, Any],
    error: type[DagRunError],
    message: str,
) -> None:
    run = runner(flora_emulator, Played(repository, **played), repository)
    with pytest.raises(DagRunError, match=message) as raised:
        run("dags/team/shop.py", "shop")
    assert raised.type is error


def test_a_file_with_several_dags_asks_which(flora_emulator: FloraEmulator, repository: Path) -> None:
    run = runner(flora_emulator, Played(repository, mark(dag_ids=["a", "b"])), repository)
    with pytest.raises(DagRunError, match=r"has these DAGs: a, b\. Say which, as dag_id\."):
        run("dags/team/shop.py")
