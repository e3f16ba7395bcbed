"""Where techniques come from: whose connection is used, what is said if there is none, and saved techniques."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from airflow_provider_flora.api.client import FloraClient
from airflow_provider_flora.api.errors import FloraParameterError
from airflow_provider_flora.checking.at_flora import FloraCatalogue
from airflow_provider_flora.checking.catalogue import ConnectionProblem, SavedTechniques
from airflow_provider_flora.checking.check import check
from airflow_provider_flora.emulator import Emulator
from tests.unit.checking.expectations import costs_of, mistakes_of, settings_of

DAG_FILE = """
from airflow_provider_flora.operators.flora import FloraRunTechniqueOperator
try:
    from airflow.sdk import DAG
except ImportError:
    from airflow.models.dag import DAG

with DAG("stills", schedule=None, params={"conn_id": "paid"}):
    for name in ("first", "second"):
        FloraRunTechniqueOperator(
            task_id=name, technique_id="editorial-still", inputs={"prompt": "a mug"}, flora_conn_id=CONN_ID
        )
"""


@pytest.fixture
def dag_file(tmp_path: Path) -> Callable[..., Path]:
    """Writes a DAG file with two tasks of one technique, for a connection."""

    def write(conn_id: str = "flora_default") -> Path:
        path = tmp_path / "stills.py"
        path.write_text(DAG_FILE.replace("CONN_ID", repr(conn_id)))
        return path

    return write


def test_a_task_has_its_own_connection_before_the_commands(
    emulator: Emulator, connect: Callable[..., None], dag_file: Callable[..., Path]
) -> None:
    connect(emulator, conn_id="paid")
    with Emulator(port=0, api_key="sk_other") as other:
        for conn_id in ("paid", "{{ params.conn_id }}"):
            assert mistakes_of(check([dag_file(conn_id)], FloraCatalogue(settings_of(other)))) == []
        assert other.ledger()["requests"] == {}
    assert emulator.ledger()["requests"] == {"getTechnique": 2}


def test_a_task_whose_connection_is_not_here_has_the_commands(
    emulator: Emulator, dag_file: Callable[..., Path]
) -> None:
    for conn_id in ("flora_default", "{{ var.value.conn_id }}"):
        found = check([dag_file(conn_id)], FloraCatalogue(settings_of(emulator)))
        assert costs_of(found) == [("stills", "2 x 0.09 = 0.18 USD")]


def test_no_connection_is_one_mistake_for_all_tasks(dag_file: Callable[..., Path]) -> None:
    found = check([dag_file("paid")], FloraCatalogue())
    assert mistakes_of(found) == [
        (
            "first",
            "The connection 'paid' is neither in the environment nor in a secrets backend, and a check does not "
            "read Airflow's database. Set AIRFLOW_CONN_PAID='flora://:YOUR_KEY@', or FLORA_API_KEY. These 2 tasks "
            "are not checked: stills.first, stills.second",
        )
    ]
    unknown = "the price of first, which is not known, and the price of second, which is not known"
    assert costs_of(found) == [("stills", unknown)]


def test_a_connection_that_is_known_at_run_time_only_is_no_mistake(dag_file: Callable[..., Path]) -> None:
    found = check([dag_file("{{ var.value.conn_id }}")], FloraCatalogue())
    assert mistakes_of(found) == []
    assert "'flora_conn_id' is a template: {{ var.value.conn_id }}" in {finding.message for finding in found.left}


def test_a_wrong_key_is_one_mistake_in_floras_words_and_asked_for_once(
    emulator: Emulator, connect: Callable[..., None], dag_file: Callable[..., Path]
) -> None:
    connect(emulator, password="sk_wrong")
    [(_, message)] = mistakes_of(check([dag_file()], FloraCatalogue()))
    assert message.startswith("Flora answered 401 ")
    assert "the API key of connection 'flora_default'" in message
    assert "not found" not in message
    assert emulator.ledger()["responses"] == {"401": 1}


def test_a_connection_that_flora_refuses_is_not_tried_with_another_technique(emulator: Emulator) -> None:
    catalogue = FloraCatalogue(replace(settings_of(emulator), api_key="sk_wrong"))
    for technique_id in ("editorial-still", "product-motion"):
        with pytest.raises(ConnectionProblem, match="401"):
            catalogue.find(technique_id, None)
    assert emulator.ledger()["responses"] == {"401": 1}


def test_a_flora_that_does_not_answer_is_one_mistake(
    connect: Callable[..., None], dag_file: Callable[..., Path]
) -> None:
    with Emulator(port=0, api_key="sk_gone") as gone:
        connect(gone)
    [(_, message)] = mistakes_of(check([dag_file()], FloraCatalogue()))
    assert message.endswith("These 2 tasks are not checked: stills.first, stills.second")


# --- saved techniques -------------------------------------------------------------------------------------


@pytest.fixture
def saved(emulator: Emulator, tmp_path: Path) -> Path:
    """The file that the command `techniques` writes."""
    path = tmp_path / "techniques.json"
    with FloraClient(settings_of(emulator)) as client:
        path.write_text(json.dumps([technique.model_dump() for technique in client.list_techniques()]))
    return path


def test_saved_techniques_take_the_place_of_floras(
    saved: Path, emulator: Emulator, dag_file: Callable[..., Path]
) -> None:
    asked = emulator.ledger()["requests"]
    found = check([dag_file()], SavedTechniques.read(str(saved)))
    assert (mistakes_of(found), costs_of(found)) == ([], [("stills", "2 x 0.09 = 0.18 USD")])
    assert emulator.ledger()["requests"] == asked


def test_a_technique_that_was_not_saved_says_how_to_save_it(saved: Path, dag_file: Callable[..., Path]) -> None:
    saved.write_text(json.dumps([entry for entry in json.loads(saved.read_text()) if entry["slug"] == "ten-takes"]))
    mistakes = mistakes_of(check([dag_file()], SavedTechniques.read(str(saved))))
    assert [task for task, _ in mistakes] == ["first", "second"]
    assert mistakes[0][1] == (
        f"Technique 'editorial-still' is not in '{saved}'. Check the id. If the technique is new, save the "
        f"techniques anew: python -m airflow_provider_flora techniques --json > {saved}"
    )


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("no json", "is not JSON: Expecting value"),
        ('{"techniques": []}', "is not a list of techniques"),
        ("[]", "is not a list of techniques"),
        ('[{"technique_id": "tech_1", "inputs": []}, {"name": "Still"}]', "Entry 2 of"),
        ("[" * 100_000, "is not JSON"),
        (None, "cannot be read: No such file or directory"),
    ],
)
def test_a_file_of_another_form_is_refused(content: str | None, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "techniques.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(FloraParameterError, match=problem) as caught:
        SavedTechniques.read(str(path))
    assert f"Save the techniques anew: python -m airflow_provider_flora techniques --json > {path}" in str(
        caught.value
    )
