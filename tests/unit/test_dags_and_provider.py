"""What Airflow sees of the provider: DAGs with its operators, and the provider's description."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
from collections.abc import Iterator
from importlib import import_module
from inspect import isfunction
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import airflow_provider_flora
from airflow_provider_flora.airflow_compat import (
    BaseHook,
    BaseOperator,
    BaseOperatorLink,
    BaseSensorOperator,
    BaseTrigger,
    airflow_is_at_least,
)
from airflow_provider_flora.get_provider_info import CONNECTION_FIELDS, CONNECTION_FORM, get_provider_info
from airflow_provider_flora.hooks.flora import FloraHook
from airflow_provider_flora.operators.flora import FloraRunTechniqueOperator
from airflow_provider_flora.sensors.flora import FloraTechniqueRunSensor
from tests.unit.airflow_names import DAG, HAS_HITL, DagSerialization, task
from tests.unit.operators.fake_task import HAS_STATE_STORE
from tests.unit.operators.still import still

REPOSITORY = Path(__file__).parents[2]
PACKAGE = Path(airflow_provider_flora.__file__).parent


def serialized(dag: DAG) -> dict[str, Any]:
    """Return a DAG as the scheduler gets it."""
    whole: dict[str, Any] = json.loads(json.dumps(DagSerialization.to_dict(dag)))
    return whole


# --- DAGs -------------------------------------------------------------------------------------------------


@pytest.fixture
def dag() -> DAG:
    """One technique feeds another, mapped over products and over outputs, and a sensor waits for a third."""
    with DAG("videos", schedule=None) as dag:
        first = still(inputs={"prompt": "{{ ds }}"}, returns="outputs")
        FloraRunTechniqueOperator(
            task_id="video", technique_id="product-motion", inputs={"photo": first.output["output_urls"]}
        )
        FloraRunTechniqueOperator.partial(
            task_id="each", technique_id="editorial-still", max_active_tis_per_dag=2, deferrable=True
        ).expand(inputs=[{"prompt": "a cup"}, {"prompt": "a jug"}])

        @task
        def show(output: dict[str, str]) -> None:
            """Take one output."""

        show.expand(output=first.output)
        FloraTechniqueRunSensor(task_id="wait", technique_id="editorial-still", run_id=first.output["run_id"])
    return dag


@pytest.mark.parametrize("path", sorted((REPOSITORY / "example_dags").glob("*.py")), ids=lambda path: path.stem)
def test_each_task_of_an_example_is_retried(path: Path) -> None:
    names = runpy.run_path(str(path))
    if path.stem == "flora_on_designers_run" and not airflow_is_at_least(3, 0):
        assert path.stem not in names  # the file can be imported, and makes no DAG
        return
    make = names[path.stem]  # the DAG has the file's name
    if path.stem.startswith("flora_choose") and not HAS_HITL:
        return  # the file can be imported, and makes no DAG
    found = make()
    assert found.dag_id == path.stem
    assert all(one.retries == 2 for one in found.tasks)


def test_operators_chain_map_and_feed_each_other(dag: DAG) -> None:
    assert set(dag.task_dict) == {"still", "video", "each", "show", "wait"}
    assert dag.get_task("still").downstream_task_ids == {"video", "show", "wait"}
    assert dag.get_task("each").operator_class is FloraRunTechniqueOperator


def test_a_dag_with_them_is_serialized(dag: DAG) -> None:
    tasks = {task["__var"]["task_id"]: task["__var"] for task in serialized(dag)["dag"]["tasks"]}
    assert tasks["still"]["inputs"] == {"prompt": "{{ ds }}"}
    assert tasks["still"]["technique_id"] == "editorial-still"
    links = json.dumps(tasks["still"]["_operator_extra_links"])
    assert "Technique in Flora" in links or "FloraTechniqueLink" in links  # by its name, or by its class


def test_a_mapped_task_is_made_whole_with_its_inputs(dag: DAG) -> None:
    mapped = dag.get_task("each")
    whole = mapped.unmap({"inputs": {"prompt": "a jug"}})
    assert (whole.inputs, whole.technique_id, whole.deferrable) == ({"prompt": "a jug"}, "editorial-still", True)


# --- the provider -----------------------------------------------------------------------------------------

BASES = {
    "operators": BaseOperator,
    "sensors": BaseSensorOperator,
    "hooks": BaseHook,
    "triggers": BaseTrigger,
    "links": BaseOperatorLink,
}


def modules_of(room: str) -> Iterator[ModuleType]:
    for path in sorted((PACKAGE / room).glob("[!_]*.py")):
        yield import_module(f"{PACKAGE.name}.{room}.{path.stem}")


def classes_of(room: str) -> list[type]:
    """The public classes of Airflow's kind that a room of the package defines."""
    return [
        found
        for module in modules_of(room)
        for name, found in vars(module).items()
        if isinstance(found, type) and issubclass(found, BASES[room])
        if found.__module__ == module.__name__ and not name.startswith("_")
    ]


def texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from texts_in(part)


@pytest.mark.parametrize("room", ["operators", "sensors", "hooks", "triggers"])
def test_each_module_with_something_for_dags_is_listed(room: str) -> None:
    (listed,) = get_provider_info()[room]
    assert sorted(listed["python-modules"]) == sorted({found.__module__ for found in classes_of(room)})


def test_each_link_and_decorator_and_plugin_is_listed() -> None:
    info = get_provider_info()
    assert sorted(info["extra-links"]) == sorted(f"{one.__module__}.{one.__name__}" for one in classes_of("links"))
    decorators = {
        name: f"{module.__name__}.{name}"
        for module in modules_of("decorators")
        for name, found in vars(module).items()
        if isfunction(found) and found.__module__ == module.__name__ and not name.startswith("_")
    }
    assert {one["name"]: one["class-name"] for one in info["task-decorators"]} == decorators
    plugins = {path.stem for path in (PACKAGE / "plugins").glob("*_plugin.py")}
    assert {one["plugin-class"].split(".")[-2] for one in info["plugins"]} == plugins


def test_each_name_that_is_listed_can_be_imported() -> None:
    names = [text for text in texts_in(get_provider_info()) if text.startswith(f"{PACKAGE.name}.")]
    assert len(names) > 10
    for name in names:
        parent, _, last = name.rpartition(".")
        assert hasattr(import_module(parent), last) or import_module(name)


def test_each_integration_is_described_and_each_guide_is_there() -> None:
    info = get_provider_info()
    (flora,) = info["integrations"]
    named = {
        one["integration-name"] for room in ("operators", "sensors", "hooks", "triggers") for one in info[room]
    }
    assert named == {flora["integration-name"]}
    for guide in flora["how-to-guide"]:
        assert guide.startswith("/docs/")
        assert (REPOSITORY / guide[1:]).is_file()


def test_the_form_shows_the_key_the_address_and_five_fields() -> None:
    (connection,) = get_provider_info()["connection-types"]
    assert list(connection["conn-fields"]) == ["workspace_id", "timeout", "max_retries", "proxies", "verify"]
    form = connection["ui-field-behaviour"]
    assert form["hidden-fields"] == ["schema", "login", "port", "extra"]
    assert form["relabeling"] == {"password": "API key", "host": "Base URL"}
    assert set(form["placeholders"]) == {"password", "host", *CONNECTION_FIELDS}


def test_airflow_2_reads_the_same_form_from_the_hook() -> None:
    assert FloraHook.get_ui_field_behaviour() == {
        "hidden_fields": CONNECTION_FORM["hidden-fields"],
        "relabeling": CONNECTION_FORM["relabeling"],
        "placeholders": CONNECTION_FORM["placeholders"],
    }


if not HAS_STATE_STORE:  # Airflow 3 reads the form from the provider's description

    def test_airflow_2_makes_a_widget_of_each_field() -> None:
        pytest.importorskip("flask_appbuilder")
        labels = [str(widget.args[0]) for widget in FloraHook.get_connection_form_widgets().values()]
        assert labels == [label for label, _, _ in CONNECTION_FIELDS.values()]


def test_airflows_own_list_of_forms_has_floras() -> None:
    from airflow.providers_manager import ProvidersManager

    manager = ProvidersManager()
    if not HAS_STATE_STORE:
        pytest.importorskip("flask_appbuilder")
    shown = [name for name in manager.connection_form_widgets if "flora__" in name]
    assert [name.rpartition("__")[2] for name in sorted(shown)] == sorted(CONNECTION_FIELDS)
    behaviour = manager.field_behaviours["flora"]
    assert sorted(behaviour.get("hidden_fields") or behaviour["hidden-fields"]) == sorted(
        ["schema", "login", "port", "extra"]
    )
    assert behaviour["relabeling"] == {"password": "API key", "host": "Base URL"}


COMMANDS = {"get": ["get", "airflow-provider-flora"], "hooks": ["hooks"]}
SHOWN = {"get": "airflow-provider-flora", "hooks": "airflow_provider_flora.hooks.flora.FloraHook"}
ENVIRONMENTS = (".venv", ".venv-airflow-2.11")


@pytest.fixture(scope="module")
def airflow_output(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], subprocess.Popen[str]]:
    """`airflow providers`, each command in each environment that is here, all at once."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "FLORA"))}
    return {
        (environment, name): subprocess.Popen(
            [airflow, "providers", *command, "--output", "json"],
            env={
                **ours,
                "AIRFLOW_HOME": str(tmp_path_factory.mktemp("airflow")),
                "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for environment in ENVIRONMENTS
        for name, command in COMMANDS.items()
        if (airflow := REPOSITORY / environment / "bin" / "airflow").exists()
    }


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_the_command_line_shows_the_provider(
    airflow_output: dict[tuple[str, str], subprocess.Popen[str]], environment: str, command: str
) -> None:
    ran = airflow_output.get((environment, command))
    if ran is None:
        pytest.skip(f"there is no {environment}; `make test-airflow` makes it")
    printed, _ = ran.communicate(timeout=600)
    assert ran.returncode == 0, printed
    assert SHOWN[command] in printed
