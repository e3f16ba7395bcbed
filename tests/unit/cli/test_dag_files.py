"""`technique --dag` and `--batch`: each printed file is imported by Airflow, and really runs."""

from __future__ import annotations

import ast
import csv
import re
import runpy
import subprocess
import sys
import tokenize
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_flora.api.errors import FloraError
from airflow_provider_flora.api.models import Slot, Technique
from airflow_provider_flora.api.settings import ClientSettings
from airflow_provider_flora.batch import running
from airflow_provider_flora.cli.dag_files import batch_file, dag_file
from airflow_provider_flora.emulator import Emulator
from airflow_provider_flora.emulator.state.catalogue import TECHNIQUES
from tests.unit.cli.conftest import Run
from tests.unit.operators.still import life_of

RUNNABLE = [one.slug for one in TECHNIQUES if one.slug != "lip-sync"]
FLORA = ClientSettings(api_key="k")
QUICK = {"poll_interval": 0.05, "deferrable": False}


def operator_of(text: str, path: Path) -> Any:
    """Import a printed file as Airflow does, and return its task."""
    path.write_text(text, encoding="utf-8")
    (make,) = (
        value
        for name, value in runpy.run_path(str(path)).items()
        if callable(value) and getattr(value, "__module__", "").startswith("<run_path>")
    )
    dag = make()
    assert set(dag.tags) == {"flora"}
    (task,) = dag.tasks
    assert task.retries == 2
    for name, value in QUICK.items():
        setattr(task, name, value)
    return task


@pytest.mark.parametrize("slug", RUNNABLE)
def test_a_printed_dag_runs_as_it_stands(run: Run, flora: Emulator, tmp_path: Path, slug: str) -> None:
    task = operator_of(run("technique", slug, "--dag").out, tmp_path / "dag.py")
    value = life_of(task).run(render=True)
    (paid,) = flora.ledger()["runs"]
    assert (value["run_id"], paid["status"]) == (paid["run_id"], "completed")
    assert task.max_run_cost == paid["charged"]


@pytest.mark.parametrize("slug", RUNNABLE)
def test_a_printed_batch_runs_with_its_csv(
    run: Run, flora: Emulator, tmp_path: Path, slug: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "TICK", 0.05)
    text = run("technique", slug, "--batch").out
    task = operator_of(text, tmp_path / "dag.py")
    Path(task.rows).write_text(csv_in(text))
    assert Path(task.rows).parent == tmp_path == Path(task.manifest).parent
    value = life_of(task).run(render=True)
    assert (value["rows"], value["completed"], flora.ledger()["charged_runs"]) == (1, 1, 1)


def csv_in(text: str) -> str:
    """The CSV that a printed batch shows."""
    return "".join(f"{line}\n" for line in re.findall(r"^    (\S.*)$", text.split('"""')[1], re.MULTILINE))


def test_a_technique_that_no_run_can_fill_has_no_dag(run: Run) -> None:
    ran = run("technique", "lip-sync", "--dag")
    assert (ran.code, ran.out) == (1, "")
    assert "'speech' is missing: it takes audio, which Flora's API does not support" in ran.err


@pytest.mark.parametrize("form", ["--dag", "--batch"])
def test_a_printed_file_is_formatted(run: Run, form: str) -> None:
    pytest.importorskip("ruff", reason="the formatter is a developer's, and not in this environment")
    text = "\n\n".join(run("technique", slug, form).out for slug in RUNNABLE)
    assert max(map(len, text.splitlines())) <= 116
    for slug in RUNNABLE:
        text = run("technique", slug, form).out
        command = [sys.executable, "-m", "ruff", "format", "--line-length", "116", "-"]
        assert subprocess.run(command, input=text, text=True, capture_output=True, check=True).stdout == text


def test_json_has_the_file_as_a_text(run: Run) -> None:
    assert (
        run("technique", "tagline-writer", "--dag", "--json").json
        == run("technique", "tagline-writer", "--dag").out
    )


def test_samples_for_the_real_flora_are_on_the_web() -> None:
    slots = [Slot(id="photo", type="imageUrl"), Slot(id="clip", type="videoUrl")]
    text = dag_file(Technique(technique_id="tech_1", inputs=slots), FLORA)
    assert re.findall(r'"(?:photo|clip)": "https://', text) == ['"photo": "https://', '"clip": "https://']


@pytest.mark.parametrize("cost", [0.0, 0.1234567, 1234567.891, 1e-7, 3.0])
def test_the_limit_is_the_price_itself(cost: float) -> None:
    text = dag_file(Technique(technique_id="tech_1", run_cost=cost), FLORA)
    (limit,) = re.findall(r"max_run_cost=(\S+),", text)
    assert ast.literal_eval(limit) == cost


def test_without_a_price_there_is_no_limit() -> None:
    text = dag_file(Technique(technique_id="tech_1"), FLORA)
    assert "max_run_cost" not in text
    assert "Flora names no price" in text


@pytest.mark.parametrize(
    ("slug", "name"),
    [
        ("x" * 400, "x" * 100),
        ("10-takes", "flora_10_takes"),
        ("class", "flora_class"),
        ("光", "flora"),
        ("dag", "dag"),
        ("timedelta", "timedelta"),
    ],
)
def test_every_slug_gives_a_dag_that_can_be_imported(slug: str, name: str, tmp_path: Path) -> None:
    technique = Technique(technique_id="tech_1", slug=slug, inputs=[Slot(id="prompt", type="text")])
    assert operator_of(dag_file(technique, FLORA), tmp_path / "dag.py").dag.dag_id == name
    assert operator_of(batch_file(technique, FLORA), tmp_path / "batch.py").dag.dag_id == f"{name}_batch"


def test_an_input_called_id_is_not_the_row_s_id(flora: Emulator, tmp_path: Path) -> None:
    technique = Technique(technique_id="tech_1", inputs=[Slot(id="id", type="text")])
    text = batch_file(technique, FLORA)
    assert csv_in(text).splitlines()[0] == "row,id"
    assert operator_of(text, tmp_path / "dag.py").row_id == "row"


@pytest.mark.parametrize("name", ["{{ 7 * 7 }}", "{% raw %}", "{a.b}", "#", 'a"b', "a\\b", "a\nb", "\u202eb"])
@pytest.mark.parametrize("write", [dag_file, batch_file])
def test_an_id_that_airflow_would_read_as_a_template_is_refused(write: Any, name: str) -> None:
    with pytest.raises(FloraError, match="cannot be in a printed DAG file"):
        write(Technique(technique_id="tech_1", inputs=[Slot(id=name, type="text")]), FLORA)
    with pytest.raises(FloraError, match="cannot be in a printed DAG file"):
        write(Technique(technique_id=name), FLORA)


HOSTILE = st.one_of(
    st.text(max_size=200),
    st.text(alphabet="\"'\\\n\r\t #{}%\0\u2028\x0c abN", max_size=60),
    st.sampled_from(
        ['""" + exit() + """', "'''", '\\"""', "\\N{BULLET}", "\\x", "\\", "\r\nimport os\n", "{name}"]
    ),
)


IDS = st.one_of(
    st.text(st.characters(exclude_characters='{}%#\\"', exclude_categories=("C", "Z")), min_size=1, max_size=40),
    st.sampled_from(["a,b", " a", "a b ", "it's", "import os", "=1+1", "id", "row"]),
)


@pytest.mark.parametrize("write", [dag_file, batch_file])
@settings(max_examples=40, deadline=None)
@given(name=HOSTILE, about=HOSTILE, slot_id=IDS, what=HOSTILE, ratio=HOSTILE, optional=st.booleans())
def test_no_text_of_flora_s_becomes_code(
    write: Any, name: str, about: str, slot_id: str, what: str, ratio: str, optional: bool
) -> None:
    slot = Slot(id=slot_id, type="text", description=what, specified_aspect_ratio=ratio, optional=optional)
    text = write(Technique(technique_id=slot_id, name=name, description=about, run_cost=0.5, inputs=[slot]), FLORA)
    plainest = Slot(id="prompt", type="text", optional=optional)
    expected = write(Technique(technique_id="tech_1", run_cost=0.5, inputs=[plainest]), FLORA)
    assert shape(text) == shape(expected)
    arguments = {one.arg: one.value for one in ast.walk(ast.parse(text)) if isinstance(one, ast.keyword)}
    assert ast.literal_eval(arguments["technique_id"]) == slot_id
    inputs = ast.literal_eval(arguments["inputs"])
    assert [*inputs] == [slot_id] * (not optional)
    assert not any(re.search(r"\{[{%#]", value) for value in inputs.values())
    if write is batch_file:
        header, row = csv.reader(StringIO(csv_in(text)))
        assert header[1:] == [slot_id] * (not optional)
        assert len(row) == len(header)


def shape(text: str) -> list[tuple[int, str]]:
    """The tokens of a file, without what names, texts and comments say."""
    hidden = (tokenize.STRING, tokenize.NAME, tokenize.COMMENT, tokenize.NL)
    tokens = list(tokenize.generate_tokens(StringIO(text).readline))
    compile(text, "dag.py", "exec")
    return [(one.type, "" if one.type in hidden else one.string) for one in tokens if one.type != tokenize.COMMENT]
