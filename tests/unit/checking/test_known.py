"""What a parameter is before a run, where Airflow has a form of its own for it, or a file cannot be read now."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from airflow_provider_flora.api.errors import FloraFileError
from airflow_provider_flora.batch import rows
from airflow_provider_flora.checking.at_flora import FloraCatalogue
from airflow_provider_flora.checking.check import check
from airflow_provider_flora.checking.known import Known
from airflow_provider_flora.emulator import Emulator
from airflow_provider_flora.files.uploads.source import SourceFile
from airflow_provider_flora.operators.flora import FloraRunTechniqueOperator
from tests.unit.checking.expectations import RIGHT_DAGS, costs_of, left_of, mistakes_of, settings_of
from tests.unit.operators.still import still


def test_a_literal_of_airflows_is_no_template() -> None:
    try:
        from airflow.sdk import literal
    except ImportError:
        literal = pytest.importorskip("airflow.utils.template", reason="Airflow 3.0 has no literal").literal
    known = Known(still(inputs={"prompt": literal("{{ as it is }}")}))
    assert (known.get("inputs"), known.left) == ({"prompt": "{{ as it is }}"}, [])


def test_stand_ins_differ_so_that_rows_do() -> None:
    known = Known(still(inputs={"a": "{{ ds }}", "b": "{{ ds }}"}))
    assert len(set(known.get("inputs").values())) == 2
    assert known.left == ["'a' is a template: {{ ds }}", "'b' is a template: {{ ds }}"]


def test_a_parameter_that_airflow_does_not_render_is_no_template() -> None:
    class Plain(FloraRunTechniqueOperator):
        template_fields = ("inputs",)

    known = Known(Plain(task_id="plain", technique_id="{{ as it is }}", inputs={}))
    assert (known.get("technique_id"), known.left) == ("{{ as it is }}", [])


def test_a_long_template_is_cut() -> None:
    known = Known(still(technique_id="{{ " + "x" * 200 + " }}"))
    known.get("technique_id")
    [left] = known.left
    assert len(left) < 140


def test_a_file_that_cannot_be_read_now_is_left(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: SourceFile) -> Any:
        raise TimeoutError("the disk is away")

    monkeypatch.setattr(SourceFile, "_open", fail)
    found = check([RIGHT_DAGS / "files.py"], FloraCatalogue(settings_of(emulator)))
    assert mistakes_of(found) == []
    assert any("the disk is away" in text for _, text in left_of(found))


def test_a_table_that_cannot_be_read_now_is_left(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(location: str) -> Any:
        raise FloraFileError("the disk is away", retryable=True)

    monkeypatch.setattr(rows, "read_lines", fail)
    found = check([RIGHT_DAGS / "batches.py"], FloraCatalogue(settings_of(emulator)))
    assert mistakes_of(found) == []
    assert ("counted", "the disk is away") in left_of(found)
    [(_, cost)] = costs_of(found)
    assert "0.18 USD for each row of its table" in cost


def test_a_dag_file_imports_what_is_beside_it_as_in_airflows_folder(emulator: Emulator, tmp_path: Path) -> None:
    (tmp_path / "prices_of_the_shop.py").write_text("LIMIT = 0.01\n")
    text = (RIGHT_DAGS / "files.py").read_text()
    (tmp_path / "shop.py").write_text(
        text.replace("from pathlib", "from prices_of_the_shop import LIMIT\nfrom pathlib", 1).replace(
            "inputs={", "max_run_cost=LIMIT, inputs={", 1
        )
    )
    found = check([tmp_path], FloraCatalogue(settings_of(emulator)))
    assert len([text for _, text in mistakes_of(found) if "max_run_cost=0.01" in text]) == 4
