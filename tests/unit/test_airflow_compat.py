"""The one file that knows where each Airflow keeps its names, and how a connection is read without blocking."""

from __future__ import annotations

import ast
import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import airflow_provider_flora
from airflow_provider_flora import airflow_compat
from airflow_provider_flora.airflow_compat import (
    PLACES,
    AirflowNotFoundException,
    airflow_is_at_least,
    get_async_connection,
    push_xcom,
    states_of_tasks,
)
from airflow_provider_flora.hooks.flora import FloraHook
from tests.unit.operators.fake_task import HAS_STATE_STORE

PACKAGE = Path(airflow_provider_flora.__file__).parent
REPOSITORY = Path(__file__).parents[2]
COMMON_COMPAT = "airflow.providers.common" + ".compat"


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def test_one_file_of_the_package_imports_from_airflow() -> None:
    files = {path for path in PACKAGE.rglob("*.py") for name in imports(path) if name.split(".")[0] == "airflow"}
    assert files == {Path(airflow_compat.__file__)}


def test_nothing_needs_the_layer_that_older_airflows_come_without() -> None:
    folders = ("airflow_provider_flora", "benchmarks", "docs", "example_dags", "scripts", "tests")
    files = [path for folder in folders for path in (REPOSITORY / folder).rglob("*.*")]
    texts = {path: path.read_text() for path in files if path.suffix in (".py", ".rst")}
    assert len(texts) > 100
    assert [path for path, text in texts.items() if COMMON_COMPAT in text] == []


@pytest.mark.parametrize("name", PLACES)
def test_every_name_is_found_in_the_airflow_that_is_here(name: str) -> None:
    missing = set()
    if not airflow_is_at_least(3, 0):
        missing |= {"AssetEvent", "AssetModel", "BaseEventTrigger", "asset_manager"}
    if not HAS_STATE_STORE:
        missing |= {"NEVER_EXPIRE", "TaskAwaitingInput", "TaskScope", "TaskStateStoreModel", "get_state_backend"}
    if name in missing:
        assert not hasattr(airflow_compat, name)
    elif any("api_fastapi" in place for place in PLACES[name]) and not airflow_is_at_least(3, 1):
        pytest.skip("only pages need it")
    elif name == "OperatorLineage" and find_spec("airflow.providers.openlineage") is None:
        pytest.skip("Airflow's provider for OpenLineage is not here")
    else:
        assert getattr(airflow_compat, name) is getattr(airflow_compat, name) is not None


def test_an_unknown_name_is_an_error_that_names_it() -> None:
    with pytest.raises(ImportError, match="NoSuchName"):
        from airflow_provider_flora.airflow_compat import NoSuchName  # type: ignore[attr-defined]  # noqa: F401


def test_a_place_that_is_broken_is_not_taken_for_one_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: str) -> None:
        raise ModuleNotFoundError("No module named 'upath'", name="upath")

    monkeypatch.delitem(vars(airflow_compat), "ObjectStoragePath", raising=False)
    monkeypatch.setattr(airflow_compat, "import_module", fail)
    with pytest.raises(ModuleNotFoundError, match="upath"):
        airflow_compat.ObjectStoragePath  # noqa: B018


def test_importing_the_file_imports_nothing_of_airflow() -> None:
    code = "import sys, airflow_provider_flora.airflow_compat; print(*[m for m in sys.modules if m == 'airflow'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


# --- connections ------------------------------------------------------------------------------------------


class SlowHook:
    """A hook with a connection that needs a running loop. Both ways to read it report which one was used."""

    def __init__(self, loop_goes_on: threading.Event) -> None:
        self._loop_goes_on = loop_goes_on

    def get_connection(self, conn_id: str) -> Any:
        assert self._loop_goes_on.wait(60), "reading holds up the loop"
        return "read in a thread"

    async def aget_connection(self, conn_id: str) -> Any:
        while not self._loop_goes_on.is_set():
            await asyncio.sleep(0.01)
        return "read on the loop"


@pytest.mark.parametrize(
    ("connection", "way"),
    [(SimpleNamespace(), "read in a thread"), (SimpleNamespace(aextra_dejson=None), "read on the loop")],
    ids=["before 3.3.2", "since 3.3.2"],
)
def test_reading_a_connection_does_not_hold_up_the_loop(
    connection: Any, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(vars(airflow_compat), "Connection", connection)
    loop_goes_on = threading.Event()

    async def read() -> Any:
        asyncio.get_running_loop().call_later(0.05, loop_goes_on.set)
        return await get_async_connection("any", SlowHook(loop_goes_on))  # type: ignore[arg-type]

    assert asyncio.run(read()) == way
    assert loop_goes_on.is_set()


def test_a_connection_of_the_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_SOME_FLORA", json.dumps({"conn_type": "flora", "password": "sk_some"}))
    assert asyncio.run(get_async_connection("some_flora", FloraHook)).password == "sk_some"


@pytest.mark.parametrize("connection", [SimpleNamespace(), SimpleNamespace(aextra_dejson=None)])
def test_a_missing_connection_is_distinguished(connection: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class NoConnection:
        @classmethod
        def get_connection(cls, conn_id: str) -> None:
            raise AirflowNotFoundException(conn_id)

        @classmethod
        async def aget_connection(cls, conn_id: str) -> None:
            raise AirflowNotFoundException(conn_id)

    monkeypatch.setitem(vars(airflow_compat), "Connection", connection)
    with pytest.raises(AirflowNotFoundException, match="missing"):
        asyncio.run(get_async_connection("missing", NoConnection))  # type: ignore[arg-type]


# --- XCom -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("version", "pushed"), [("2.11.0", True), ("3.0.6", False), ("3.1.0", True)])
def test_only_airflow_3_0_is_spared_a_value_of_none(
    version: str, pushed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    xcoms: dict[str, Any] = {}
    ti = SimpleNamespace(xcom_push=lambda key, value: xcoms.update({key: value}))
    monkeypatch.setattr("airflow.__version__", version)
    push_xcom(ti, "charged_cost", None)
    push_xcom(ti, "outputs", [])
    assert xcoms == {"outputs": [], **({"charged_cost": None} if pushed else {})}


@pytest.mark.skipif(not airflow_is_at_least(3, 0), reason="Airflow 2 is asked in its database")
def test_a_mapped_task_and_one_with_the_name_of_its_instance_have_states_of_their_own() -> None:
    instances = {
        **{("relight", index): f"relight[{index}]" for index in range(12)},
        ("relight_3", -1): "relight_3",
        ("relight_3_0", 0): "relight_3_0[0]",
        ("film_2", 1): "film_2[1]",
        ("7", -1): "7",
    }

    def get_task_states(dag_id: str, task_ids: list[str], run_ids: list[str]) -> dict[str, dict[str, str]]:
        """Answer with the names that Airflow's execution API gives (`get_task_instance_states`)."""
        asked.append(task_ids)
        rows = {key: state for key, state in instances.items() if key[0] in task_ids}
        return {
            run_ids[0]: {task if index < 0 else f"{task}_{index}": state for (task, index), state in rows.items()}
        }

    asked: list[list[str]] = []
    ti = SimpleNamespace(dag_id="a_dag", run_id="a_run", get_task_states=get_task_states)
    assert states_of_tasks(ti, ["relight", "relight_3", "relight_3_0", "film_2", "7"]) == instances
    assert asked == [["relight", "film_2", "7"], ["relight_3"], ["relight_3_0"]]
