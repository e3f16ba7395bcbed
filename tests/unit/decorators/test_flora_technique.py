"""@task.flora_technique: what the function may do, and that it changes nothing about what is paid."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from airflow_provider_flora.airflow_compat import AirflowFailException
from airflow_provider_flora.api.errors import (
    FloraInputError,
    FloraParameterError,
    FloraRunTimeoutError,
    FloraUnknownStartError,
)
from airflow_provider_flora.api.models import RunInput
from airflow_provider_flora.decorators.flora import NOT_YET_RETURNED, flora_technique
from airflow_provider_flora.emulator import Emulator
from airflow_provider_flora.operators.flora import FloraRunTechniqueOperator
from tests.unit.airflow_names import DAG, task
from tests.unit.checking.expectations import RIGHT_DAGS
from tests.unit.operators.fake_task import HAS_STATE_STORE, TaskLife
from tests.unit.operators.still import MODES, life_of, posts_to

pytestmark = pytest.mark.usefixtures("quick")
needs_store = pytest.mark.skipif(not HAS_STATE_STORE, reason="this Airflow has no task state store")


def decorated(function: Callable[..., Any], *args: Any, **given: Any) -> FloraRunTechniqueOperator:
    """The task of a function whose technique takes a text and gives an image, called with arguments in a DAG."""
    parameters = {"technique_id": "editorial-still", "poll_interval": 0.05, "deferrable": False, **given}
    with DAG("a_dag", schedule=None):
        operator: FloraRunTechniqueOperator = flora_technique(**parameters)(function)(*args).operator
    return operator


def prompts(flora: Emulator) -> list[str]:
    """What each run in the ledger was given, the oldest first."""
    return [entry["value"] for run in flora.ledger()["runs"] for entry in run["inputs"]]


class Cups:
    """Functions for `decorated`. Each call gives another prompt, and is counted."""

    def __init__(self, returned: Callable[[int], Any] = lambda call: {"prompt": f"cup {call}"}) -> None:
        self.calls = 0
        self._returned = returned

    def function(self) -> Callable[[], Any]:
        def cups() -> Any:
            self.calls += 1
            return self._returned(self.calls)

        return cups


# --- what it is to Airflow --------------------------------------------------------------------------------


def test_airflow_knows_it_as_a_decorator_of_tasks() -> None:
    assert task.flora_technique is flora_technique


def test_it_has_every_parameter_of_the_operator_but_inputs_for_editors_too() -> None:
    wanted = inspect.signature(FloraRunTechniqueOperator.__init__).parameters
    source = inspect.getsource(inspect.getmodule(flora_technique))  # type: ignore[arg-type]
    known = {name: parameter.annotation for name, parameter in wanted.items() if name not in ("self", "inputs")}
    for name, annotation in known.items():
        if name != "kwargs":
            assert f"    {name}: {annotation}" in source


def test_what_the_function_says_it_returns_is_not_taken_for_what_the_task_returns() -> None:
    def write() -> dict[str, str]:
        return {"prompt": "a cup"}

    assert decorated(write).multiple_outputs is False
    with pytest.raises(ValueError, match=r"takes no multiple_outputs.*output_urls"):
        decorated(write, multiple_outputs=True)


def test_a_mistake_in_a_parameter_is_found_when_the_dag_is_parsed() -> None:
    with pytest.raises(ValueError, match="returns takes 'run' or 'outputs'"):
        decorated(Cups().function(), returns="everything")
    with pytest.raises(TypeError, match="inputs"):
        decorated(Cups().function(), inputs={"prompt": "a cup"})


def test_parameters_come_from_default_args_too() -> None:
    with DAG("a_dag", schedule=None, default_args={"technique_id": "editorial-still", "max_run_cost": 0.5}):

        @flora_technique
        def write() -> dict[str, str]:
            return {"prompt": "a cup"}

        operator = write().operator
    assert (operator.technique_id, operator.max_run_cost, operator.task_id) == ("editorial-still", 0.5, "write")


def test_a_mapped_task_has_the_arguments_of_each_instance(flora: Emulator) -> None:
    with DAG("a_dag", schedule=None):

        @flora_technique(technique_id="editorial-still", poll_interval=0.05, deferrable=False)
        def write(what: str, light: str) -> dict[str, str]:
            return {"prompt": f"{what} at {light}"}

        mapped = write.partial(light="dusk").expand(what=["a cup", "a jug"]).operator
    for index, what in enumerate(("a cup", "a jug")):
        whole = mapped.unmap({"op_kwargs": {"what": what}})
        life_of(whole, map_index=index).run()
    assert prompts(flora) == ["a cup at dusk", "a jug at dusk"]


# --- the function -----------------------------------------------------------------------------------------


@MODES
def test_it_runs_the_technique_with_what_the_function_returns(flora: Emulator, deferrable: bool) -> None:
    cups = Cups()
    life = life_of(decorated(cups.function(), deferrable=deferrable))
    value = life.run()
    assert (value["run_id"], value["status"]) == (flora.ledger()["runs"][0]["run_id"], "completed")
    assert prompts(flora) == ["cup 1"]
    assert cups.calls == 1  # not again when the task resumes
    assert len(life.events) == deferrable


@MODES
def test_a_downstream_task_is_mapped_over_its_outputs(flora: Emulator, deferrable: bool) -> None:
    life = life_of(decorated(Cups().function(), deferrable=deferrable, returns="outputs"))
    (output,) = life.run()
    assert output["output_id"] == "still"


def test_it_is_passed_arguments_and_what_it_wants_of_the_context(flora: Emulator) -> None:
    def write(what: str, light: str = "dusk", ti: Any = None, **context: Any) -> dict[str, str]:
        return {"prompt": f"{what} at {light}, {ti.task_id} of {context['run_id']}"}

    life_of(decorated(write, "a cup in {{ run_id }}")).run(render=True)
    assert prompts(flora) == ["a cup in a_dag_run at dusk, write of a_dag_run"]


def test_an_argument_may_have_the_name_of_something_in_the_context(flora: Emulator) -> None:
    def write(run_id: str, dag_run: Any = None) -> dict[str, str]:
        return {"prompt": run_id}

    with DAG("a_dag", schedule=None):
        decorator = flora_technique(technique_id="editorial-still", poll_interval=0.05, deferrable=False)
        operator = decorator(write)(run_id="run_of_flora", dag_run="mine").operator
    life = life_of(operator)
    context = life.context()
    operator.execute(context)
    assert prompts(flora) == ["run_of_flora"]
    assert (context["run_id"], context["dag_run"].run_id) == ("a_dag_run", "a_dag_run")


def test_what_it_returns_is_no_template(flora: Emulator) -> None:
    def write() -> dict[str, str]:
        return {"prompt": "{{ run_id }} {% raw"}

    life_of(decorated(write)).run(render=True)
    assert prompts(flora) == ["{{ run_id }} {% raw"]


@MODES
@pytest.mark.parametrize("as_model", [False, True])
def test_it_may_return_floras_own_list(flora: Emulator, deferrable: bool, as_model: bool) -> None:
    entry = {"id": "prompt", "type": "text", "value": "a cup"}
    life_of(
        decorated(Cups(lambda _: [RunInput(**entry) if as_model else entry]).function(), deferrable=deferrable)
    ).run()
    assert prompts(flora) == ["a cup"]


@MODES
@pytest.mark.parametrize("as_list", [False, True])
def test_it_may_return_a_path_which_airflow_cannot_keep_for_a_task_that_defers(
    flora: Emulator, deferrable: bool, as_list: bool
) -> None:
    photo = RIGHT_DAGS / "mug.png"
    inputs = [{"id": "photo", "type": "imageUrl", "value": photo}] if as_list else {"photo": photo}
    cups = Cups(lambda _: inputs)
    life = life_of(decorated(cups.function(), technique_id="product-motion", deferrable=deferrable))
    assert life.run()["status"] == "completed"
    assert len(life.events) == deferrable


@MODES
def test_airflow_shows_the_inputs_once_the_task_has_ended(flora: Emulator, deferrable: bool) -> None:
    operator = decorated(Cups().function(), deferrable=deferrable)
    shown = []
    operator.on_success_callback = lambda context: shown.append(context["task"].inputs)
    life_of(operator).run()
    assert operator.inputs == NOT_YET_RETURNED
    assert shown == [{"prompt": "cup 1"}]
    assert operator.overwrite_rtif_after_execution  # type: ignore[attr-defined]


# --- what is not inputs -----------------------------------------------------------------------------------


@pytest.mark.parametrize("returned", [None, "a cup", 7, {"a cup"}, b"a cup"])
def test_what_is_no_inputs_is_refused_with_its_value_before_anything_is_paid(
    flora: Emulator, returned: Any
) -> None:
    life = life_of(decorated(Cups(lambda _: returned).function()))
    with pytest.raises(FloraParameterError) as caught:
        life.run()
    assert isinstance(caught.value, AirflowFailException)  # a retry would not help
    assert f"cups() returned {returned!r}" in str(caught.value)
    assert "{input_id: value}" in str(caught.value)
    assert life.ti.xcoms["flora_error"]["kind"] == "parameter"
    assert posts_to(flora) == 0


@pytest.mark.parametrize("wrap", [lambda one: {"prompt": one}, lambda one: [{"id": "prompt", "value": one}]])
def test_an_output_of_another_task_is_refused_with_the_way_to_pass_it(
    flora: Emulator, wrap: Callable[[Any], Any]
) -> None:
    with DAG("a_dag", schedule=None):

        @task
        def other() -> str:
            return "a cup"

        output = other()
    life = life_of(decorated(Cups(lambda _: wrap(output)).function()))
    with pytest.raises(FloraParameterError, match="pass it to the function as an argument"):
        life.run()
    assert posts_to(flora) == 0


def test_inputs_with_mistakes_are_refused_as_those_of_the_operator_are(flora: Emulator) -> None:
    life = life_of(decorated(Cups(lambda _: {"promt": "a cup", "prompt": 7}).function()))
    with pytest.raises(FloraInputError, match=r"(?s)2 mistakes.*'promt'.*'prompt' takes a text, not 7") as caught:
        life.run()
    assert isinstance(caught.value, AirflowFailException)
    assert posts_to(flora) == 0


# --- paid once --------------------------------------------------------------------------------------------


def test_a_function_that_raises_starts_nothing_and_is_called_again_by_a_retry(flora: Emulator) -> None:
    def returned(call: int) -> Any:
        if call == 1:
            raise RuntimeError("the function failed")
        return {"prompt": "a cup"}

    life = life_of(decorated(Cups(returned).function()))
    with pytest.raises(RuntimeError, match="the function failed"):
        life.run()
    assert posts_to(flora) == 0
    assert life.run()["status"] == "completed"
    assert posts_to(flora) == 1


def timed_out(flora: Emulator, returned: Callable[[int], Any], **given: Any) -> TaskLife:
    """A task whose first attempt has timed out. Its run goes on, and completes soon."""
    flora.order_fault("status", status=503, operation="getTechniqueRun", times=None)
    life = life_of(decorated(Cups(returned).function(), timeout=0.2, **given))
    with pytest.raises(FloraRunTimeoutError):
        life.run()
    flora.clear_faults()
    life.operator.timeout = 60
    return life


@MODES
def test_a_retry_with_the_same_inputs_resumes_the_run(flora: Emulator, deferrable: bool) -> None:
    life = timed_out(flora, lambda _: {"prompt": "a cup"}, deferrable=deferrable)
    assert life.run()["run_id"] == flora.ledger()["runs"][0]["run_id"]
    assert flora.ledger()["started_runs"] == 1


@needs_store
@MODES
def test_a_retry_with_other_inputs_stops_and_a_clear_pays_for_them(flora: Emulator, deferrable: bool) -> None:
    life = timed_out(flora, lambda call: {"prompt": f"cup {call}"}, deferrable=deferrable)
    first = flora.ledger()["runs"][0]["run_id"]
    with pytest.raises(
        FloraUnknownStartError, match=rf"{first}, but the task's inputs have changed since"
    ) as caught:
        life.run()
    assert isinstance(caught.value, AirflowFailException)
    assert "function" in str(caught.value)
    assert prompts(flora) == ["cup 1"]
    life.clear()
    assert life.run()["run_id"] == flora.ledger()["runs"][1]["run_id"]
    assert prompts(flora) == ["cup 1", "cup 3"]


@needs_store
def test_the_run_whose_inputs_the_function_no_longer_returns_can_be_adopted(flora: Emulator) -> None:
    life = timed_out(flora, lambda call: {"prompt": f"cup {call}"})
    life.operator.adopt_run_id = flora.ledger()["runs"][0]["run_id"]
    assert life.run()["run_id"] == life.operator.adopt_run_id
    assert posts_to(flora) == 1


@needs_store
@pytest.mark.parametrize("returned", [None, RuntimeError("the function failed")])
def test_a_function_that_fails_in_a_retry_does_not_lose_the_run(flora: Emulator, returned: Any) -> None:
    def by_call(call: int) -> Any:
        if call == 2 and isinstance(returned, Exception):
            raise returned
        return returned if call == 2 else {"prompt": "a cup"}

    life = timed_out(flora, by_call)
    with pytest.raises((FloraParameterError, RuntimeError)) as caught:
        life.run()
    assert not isinstance(caught.value, AirflowFailException)  # a retry costs nothing and may return the run
    assert life.run()["run_id"] == flora.ledger()["runs"][0]["run_id"]
    assert posts_to(flora) == 1
