"""DAGs without a mistake: what is left for run time is named, and what a DAG run costs is summed up."""

from __future__ import annotations

from pathlib import Path

import pytest

from airflow_provider_flora.checking.at_flora import FloraCatalogue
from airflow_provider_flora.checking.check import check
from airflow_provider_flora.emulator import Emulator
from tests.unit.checking.expectations import RIGHT_DAGS, costs_of, expected, left_of, mistakes_of, settings_of

FILES = sorted(RIGHT_DAGS.glob("*.py"))
EXAMPLES = Path(__file__).parents[3] / "example_dags"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_file_has_no_mistake_and_its_costs_and_what_is_left_are_named(file: Path, emulator: Emulator) -> None:
    found = check([file], FloraCatalogue(settings_of(emulator)))
    assert mistakes_of(found) == []
    assert left_of(found) == expected("LEFT", file)
    assert costs_of(found) == expected("COST", file)


def test_the_example_dags_have_no_mistake(emulator: Emulator) -> None:
    found = check([EXAMPLES], FloraCatalogue(settings_of(emulator)))
    assert mistakes_of(found) == []
    assert found.tasks >= 14
    assert dict(costs_of(found))["flora_chain"] == "0.09 USD, and 0.55 USD for each item of still"
