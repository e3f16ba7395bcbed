"""A folder of wrong DAGs: each mistake is found, and none is invented. Each file says which mistakes it has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from airflow_provider_flora.checking.at_flora import FloraCatalogue
from airflow_provider_flora.checking.check import check
from airflow_provider_flora.checking.known import Known
from airflow_provider_flora.emulator import Emulator
from tests.unit.checking.expectations import WRONG_DAGS, costs_of, expected, mistakes_of, settings_of

FILES = sorted(WRONG_DAGS.glob("*.py"))


@pytest.fixture(autouse=True)
def unusable_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_NOBODY", '{"conn_type": "http"}')


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_each_mistake_of_a_file_is_found_and_none_is_invented(file: Path, emulator: Emulator) -> None:
    assert expected("MISTAKE", file) != []
    assert mistakes_of(check([file], FloraCatalogue(settings_of(emulator)))) == expected("MISTAKE", file)


def test_a_folder_has_the_mistakes_of_its_files(emulator: Emulator) -> None:
    found = check([WRONG_DAGS], FloraCatalogue(settings_of(emulator)))
    assert mistakes_of(found) == sorted(mistake for file in FILES for mistake in expected("MISTAKE", file))


def test_nothing_is_started_or_uploaded_and_each_technique_is_asked_for_once(emulator: Emulator) -> None:
    found = check([WRONG_DAGS], FloraCatalogue(settings_of(emulator)))
    named = {cost.technique for dag in found.costs if dag.dag_id != "unusable_connection" for cost in dag.tasks}
    named -= {None}  # of an item that cannot be made
    ledger = emulator.ledger()
    assert ledger["requests"] == {"getTechnique": len(named)}
    assert (ledger["started_runs"], ledger["uploads"], ledger["assets"]) == (0, [], [])


def test_a_bug_of_the_check_is_a_mistake_of_its_task_and_hides_no_other(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Known, name: str) -> Any:
        if self._operator.task_id == "first":
            raise AttributeError("'Odd' object has no attribute 'even'")
        return get(self, name)

    get = Known.get
    monkeypatch.setattr(Known, "get", fail)
    path = WRONG_DAGS / "unusable_connection.py"
    found = check([path], FloraCatalogue(settings_of(emulator)))
    [(task, message), (other, _)] = mistakes_of(found)
    assert (task, other) == ("first", "second")
    assert message == (
        "This task is not checked, for a bug of this check: AttributeError: 'Odd' object has no attribute 'even'. "
        "--debug shows where."
    )
    assert "the price of first, which is not known" in dict(costs_of(found))["unusable_connection"]
    with_traceback = check([path], FloraCatalogue(settings_of(emulator)), debug=True)
    assert "in fail" in dict(mistakes_of(with_traceback))["first"]
