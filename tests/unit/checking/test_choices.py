"""Tasks that ask a person: what they choose from is checked, as far as it is known. Airflow 3.1 and later."""

from __future__ import annotations

from pathlib import Path

import pytest

from airflow_provider_flora.checking.at_flora import FloraCatalogue
from airflow_provider_flora.checking.check import check
from airflow_provider_flora.emulator import Emulator
from tests.unit.airflow_names import HAS_HITL
from tests.unit.checking.expectations import left_of, mistakes_of, settings_of

pytestmark = pytest.mark.skipif(not HAS_HITL, reason="Airflow has no human-in-the-loop tasks")

DAG_FILE = """
from airflow.sdk import DAG, task
from airflow_provider_flora.operators.choose import FloraChooseOutputOperator

ONE = {"output_id": "image", "type": "imageUrl", "url": "https://shop.example.com/1.png"}

with DAG("choices", schedule=None):
    @task
    def outputs():
        return [ONE]

    found = outputs()
    for name, parameters in {
        "listed": {"outputs": [ONE, ONE], "labels": ["a", "b"]},
        "of_a_task": {"outputs": found, "labels": ["a"]},
        "of_tasks": {"outputs": [found, found]},
        "gone": {"outputs": "FOLDER/stills.jsonl"},
        "labels": {"outputs": [ONE, ONE], "labels": ["a"]},
        "table": {"outputs": "FOLDER/stills.csv"},
    }.items():
        FloraChooseOutputOperator(task_id=name, **parameters)
    found >> FloraChooseOutputOperator(task_id="written", outputs="FOLDER/stills.jsonl")
"""


def test_what_a_person_is_asked_about_is_checked(emulator: Emulator, tmp_path: Path) -> None:
    path = tmp_path / "choices.py"
    path.write_text(DAG_FILE.replace("FOLDER", str(tmp_path)))
    found = check([path], FloraCatalogue(settings_of(emulator)))
    assert mistakes_of(found) == [
        (
            "gone",
            f"There is no file '{tmp_path}/stills.jsonl' on the worker. Use its full path, or a storage that all "
            "workers reach. Nothing comes before this task that could write it.",
        ),
        ("labels", "labels takes a list with one label for each of the 2 outputs, not 1."),
        (
            "table",
            "outputs takes the value of FloraRunTechniqueOperator, a list of such values, or the path or URI of a "
            f"manifest, which ends in .jsonl. It does not take '{tmp_path}/stills.csv'.",
        ),
    ]
    assert [task for task, _ in left_of(found)] == ["of_a_task", "of_tasks", "written"]
    assert emulator.ledger()["requests"] == {}
