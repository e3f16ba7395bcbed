"""People who choose among outputs on a real Airflow, which they answer over its REST API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import requests

from airflow_provider_flora.batch.manifest import Manifest
from airflow_provider_flora.emulator import Emulator
from airflow_provider_flora.operators.choose import FloraChooseOutputOperator
from scripts.local_airflow import ASKING, ENDED, LocalAirflow

REJECT = FloraChooseOutputOperator.REJECT


@dataclass(frozen=True)
class Choices:
    """A DAG run with tasks that ask a person."""

    airflow: LocalAirflow
    dag_id: str
    run_id: str

    def value(self, task_id: str) -> Any:
        return self.airflow.xcom(self.dag_id, self.run_id, task_id)

    def labels(self, task_id: str, key: str = "chosen") -> list[str]:
        return [output["label"] for output in self.value(task_id)[key]]

    def log(self, task_id: str) -> str:
        return self.airflow.task_log(self.dag_id, self.run_id, task_id)

    def wait(self, task_id: str, *states: str) -> str | None:
        return self.airflow.wait_for_task_state(self.dag_id, self.run_id, task_id, *states, timeout=120).state

    def question(self, task_id: str) -> Any:
        return self.airflow.question(self.dag_id, self.run_id, task_id)

    def answer(self, task_id: str, *options: str, note: str | None = None) -> str | None:
        """Answer, and return the state in which the task ends."""
        return self.airflow.answer(self.dag_id, self.run_id, task_id, options, {"note": note}).state

    def clear(self, *task_ids: str) -> None:
        self.airflow.clear(self.dag_id, self.run_id, task_ids, downstream=False)


# --- each way to ask and to answer ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def choices(airflow: LocalAirflow, tmp_path_factory: pytest.TempPathFactory) -> Choices:
    """A DAG run in which nobody has answered yet."""
    manifest = tmp_path_factory.mktemp("batch") / "manifest.jsonl"
    output = {"output_id": "image", "type": "imageUrl", "url": "https://media.example/sneaker.png"}
    line = {"row_id": "sneaker", "status": "completed", "run_id": "run_1", "outputs": [output]}
    Manifest(manifest).write([line])
    dag_id = "flora_choices"
    return Choices(airflow, dag_id, airflow.trigger(dag_id, {"manifest": str(manifest)}))


def test_a_person_sees_the_pictures_and_chooses_one(choices: Choices, environment: dict[str, str]) -> None:
    question = choices.question("one")
    assert question["subject"] == "A picture in red"
    assert question["options"] == ["1", "2", "3", REJECT]
    assert list(question["params"]) == ["note"]
    mug = f"{environment['FLORA_MEDIA_BASE']}/mug.png?attempt=1"
    assert question["body"].startswith("For the *front* page.\n\n| ` 1 ` | ` 2 ` | ` 3 ` |")
    assert f"![Output 2]({mug})" in question["body"]

    choices.answer("one", "2")
    value = choices.value("one")
    assert value["chosen"] == [
        {"label": "2", "output_id": "image", "type": "imageUrl", "url": mug, "run_id": "run_mug"}
    ]
    assert choices.labels("one", "rejected") == ["1", "3"]
    assert value["by"] == {"id": "admin", "name": "admin"}
    assert value["note"] is None
    assert "'admin' chose ['2']" in choices.log("one")
    choices.wait("after_one", "success")
    assert choices.value("after_one") == ["2"]


def test_several_are_chosen_by_their_labels_with_a_note(choices: Choices) -> None:
    choices.answer("several", "chair", "lamp", note="warm ones")
    assert choices.labels("several") == ["lamp", "chair"]
    assert choices.labels("several", "rejected") == ["mug"]
    assert choices.value("several")["note"] == "warm ones"


@pytest.mark.parametrize(
    ("task_id", "state", "after"),
    [
        ("skipped", "skipped", "skipped"),
        ("failed", "failed", "upstream_failed"),
        ("returned", "success", "success"),
    ],
)
def test_a_rejection_does_what_the_dag_says_and_leaves_the_note(
    choices: Choices, task_id: str, state: str, after: str
) -> None:
    assert choices.answer(task_id, REJECT, note="too dark") == state, choices.log(task_id)
    choices.wait(f"after_{task_id}", after)
    value = choices.value(task_id)
    assert (value["chosen"], value["note"]) == ([], "too dark")
    assert choices.labels(task_id, "rejected") == ["1", "2", "3"]


def test_the_rows_of_a_manifest_are_options(choices: Choices) -> None:
    choices.answer("of_a_manifest", "sneaker")
    assert [output["run_id"] for output in choices.value("of_a_manifest")["chosen"]] == ["run_1"]


def test_after_the_time_limit_the_default_is_chosen_by_nobody(choices: Choices) -> None:
    assert choices.wait("default", *ENDED) == "success", choices.log("default")
    assert choices.labels("default") == ["2"]
    assert choices.value("default")["by"] is None


def test_after_the_time_limit_without_a_default_the_task_fails(choices: Choices) -> None:
    assert choices.wait("too_late", *ENDED) == "failed"
    assert "HITLTimeoutError" in choices.log("too_late")


def test_without_outputs_nobody_is_asked(choices: Choices) -> None:
    assert choices.wait("nothing", *ENDED) == "failed"
    assert "There are no outputs to choose from" in choices.log("nothing")


def test_only_an_assigned_user_may_answer(choices: Choices) -> None:
    choices.question("for_others")
    with pytest.raises(requests.HTTPError, match="403"):
        choices.answer("for_others", "1")


def test_nobody_chooses_among_outputs_that_they_do_not_see(choices: Choices) -> None:
    """The other outputs of a second attempt are not shown by Airflow, which shows the first question again."""
    first = choices.question("cleared")
    choices.clear("cleared")
    choices.answer("cleared", "1")
    assert choices.labels("cleared") == ["1"]
    choices.clear("pictures", "cleared")
    state = choices.wait("cleared", *ASKING, *ENDED)
    if state in ASKING:  # an Airflow that shows the new question
        assert choices.question("cleared")["body"] != first["body"]
    else:
        assert "outputs of an earlier attempt" in choices.log("cleared")


# --- the examples -----------------------------------------------------------------------------------------


def prompts_of(emulator: Emulator) -> list[str]:
    """The prompts of all stills, in the order of their starts."""
    inputs = [{one["id"]: one["value"] for one in run["inputs"]} for run in emulator.ledger()["runs"]]
    return [one["prompt"] for one in inputs if "prompt" in one]


def photos_of(emulator: Emulator) -> list[str]:
    """The photos of all videos."""
    inputs = [{one["id"]: one["value"] for one in run["inputs"]} for run in emulator.ledger()["runs"]]
    return [one["photo"] for one in inputs if "photo" in one]


def test_the_chosen_variation_becomes_a_video(airflow: LocalAirflow, emulator: Emulator) -> None:
    example = Choices(airflow, "flora_choose", airflow.trigger("flora_choose", {"prompt": "A kite"}))
    question = example.question("choose")
    assert question["options"] == ["golden hour", "overcast", "candlelight", REJECT]
    for picture in question["body"].split("](")[1:]:
        shown = requests.get(picture.partition(")")[0], timeout=10)
        assert shown.headers["Content-Type"] == "image/png"
    example.answer("choose", "overcast")
    assert airflow.wait_for_dag_run(example.dag_id, example.run_id) == "success"
    [chosen] = example.value("choose")["chosen"]
    assert photos_of(emulator) == [chosen["url"]]
    [run] = [run for run in emulator.ledger()["runs"] if run["run_id"] == chosen["run_id"]]
    assert run["inputs"][0]["value"] == "A kite, overcast"
    assert example.value("video")["status"] == "completed"
    assert emulator.ledger()["charged_runs"] == 4


def test_the_note_of_a_rejection_goes_into_the_next_prompt(airflow: LocalAirflow, emulator: Emulator) -> None:
    dag_id = "flora_choose_again"
    example = Choices(airflow, dag_id, airflow.trigger(dag_id, {"prompt": "A kite"}))
    example.answer("choose_1", REJECT, note="It should be green")
    example.answer("choose_2", "candlelight")
    assert airflow.wait_for_dag_run(dag_id, example.run_id) == "success"
    assert sorted(prompts_of(emulator)) == sorted(
        f"A kite, {light}.{note}"
        for note in ("", " It should be green.")
        for light in ("golden hour", "overcast", "candlelight")
    )
    assert example.wait("choose_3", "skipped")
    assert photos_of(emulator) == [example.value("choose_2")["chosen"][0]["url"]]
    assert emulator.ledger()["charged_runs"] == 7


def test_after_three_rejections_there_is_no_video(airflow: LocalAirflow, emulator: Emulator) -> None:
    dag_id = "flora_choose_again"
    example = Choices(airflow, dag_id, airflow.trigger(dag_id, {"prompt": "A kite"}))
    for number, note in enumerate(("greener", "larger", None), 1):
        example.answer(f"choose_{number}", REJECT, note=note)
    assert airflow.wait_for_dag_run(dag_id, example.run_id) == "success"
    assert example.wait("video", "skipped")
    assert "A kite, overcast. greener. larger." in prompts_of(emulator)
    assert emulator.ledger()["charged_runs"] == 9
