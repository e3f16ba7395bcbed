"""Reading tables: from files of each form, lists and manifests; the ids and inputs of rows, and all mistakes."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from airflow_provider_flora.airflow_compat import ObjectStoragePath
from airflow_provider_flora.api.errors import FloraFileError, FloraParameterError
from airflow_provider_flora.batch.rows import Row, RowProblem, fill, read_rows

Table = Callable[..., str]


@pytest.fixture
def table(tmp_path: Path) -> Table:
    """Writes a file, and returns its path: ``table("rows.csv", "sku,light\\n")``."""

    def write(name: str, content: str | bytes) -> str:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


def read(source: Any, row_id: str | None = None, inputs: Any = None) -> list[Row]:
    """Return the rows of a table without mistakes."""
    rows, problems = read_rows(source, row_id=row_id, inputs=inputs)
    assert problems == []
    return rows


def problems_of(source: Any, row_id: str | None = None, inputs: Any = None) -> list[RowProblem]:
    return read_rows(source, row_id=row_id, inputs=inputs)[1]


def lines(*entries: Any) -> str:
    return "".join(f"{json.dumps(entry)}\n" for entry in entries)


# --- tables -----------------------------------------------------------------------------------------------

SHOP = [
    Row(1, "A-1", {"sku": "A-1", "light": "dawn, soft"}, {"light": "dawn, soft"}),
    Row(2, "B 2", {"sku": "B 2", "light": 'say "ü✨"\nnow'}, {"light": 'say "ü✨"\nnow'}),
]
CSV = 'sku,light\nA-1,"dawn, soft"\nB 2,"say ""ü✨""\nnow"\n'


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.csv", CSV),
        ("ROWS.CSV", CSV),
        ("rows.csv", "\ufeff" + CSV),
        ("rows.csv", CSV.removesuffix("\n")),
        ("rows.csv", "\n" + CSV.replace("A-1", "\nA-1") + "\n\n"),
        ("rows.jsonl", lines(*(row.columns for row in SHOP))),
        ("rows.ndjson", lines(*(row.columns for row in SHOP)).replace("\n", "\r\n\r\n")),
        ("rows.jsonl", "\ufeff" + lines(*(row.columns for row in SHOP)).strip()),
    ],
)
def test_a_table_is_read_from_files_of_each_form(table: Table, name: str, content: str) -> None:
    assert read(table(name, content), "sku") == SHOP


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_of_a_table_end_in_any_way(table: Table, end: str) -> None:
    assert [row.columns for row in read(table("rows.csv", f"sku,light{end}A,dawn{end}B,dusk{end}"))] == [
        {"sku": "A", "light": "dawn"},
        {"sku": "B", "light": "dusk"},
    ]


def test_a_table_is_read_from_a_list_of_dicts() -> None:
    assert read([row.columns for row in SHOP], "sku") == SHOP
    assert read(tuple(row.columns for row in SHOP), "sku") == SHOP


def test_a_table_is_read_from_s3(s3: Any) -> None:
    s3.put_object(Bucket="files", Key="shop/rows.csv", Body=CSV.encode())
    assert read("s3://store@files/shop/rows.csv", "sku") == SHOP
    assert read(ObjectStoragePath("s3://store@files/shop/rows.csv"), "sku") == SHOP
    assert read(ObjectStoragePath("s3://files/shop/rows.csv", conn_id="store"), "sku") == SHOP


def test_a_local_table_is_read_by_path_and_uri(table: Table) -> None:
    path = table("rows.csv", CSV)
    assert read(f"file://{path}", "sku") == read(Path(path), "sku") == SHOP


def test_a_table_longer_than_a_chunk_is_read_whole(table: Table) -> None:
    texts = [f"{number}," + "ü✨\r\n" * 10_000 for number in range(40)]
    file = io.StringIO()
    csv.writer(file).writerows([["text"], *([text] for text in texts)])
    assert [row.inputs["text"] for row in read(table("rows.csv", file.getvalue()))] == texts


CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
COLUMNS = st.lists(CELLS.filter(str.strip), min_size=1, max_size=4, unique=True)
ANY_VALUE = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
WITH_TABLE = hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@WITH_TABLE
@given(data=st.data(), end=st.sampled_from(["\n", "\r\n"]))
def test_whatever_csv_is_written_is_read(table: Table, data: st.DataObject, end: str) -> None:
    columns = data.draw(COLUMNS)
    width = len(columns)
    cells = data.draw(st.lists(st.lists(CELLS, min_size=width, max_size=width), min_size=1, max_size=5))
    file = io.StringIO()
    csv.writer(file, lineterminator=end, quoting=csv.QUOTE_ALL).writerows([columns, *cells])
    rows = read(table("rows.csv", file.getvalue()))
    assert [row.columns for row in rows] == [
        {name: cell or None for name, cell in zip(columns, row, strict=True)} for row in cells
    ]


@WITH_TABLE
@given(written=st.lists(st.dictionaries(st.text(max_size=4), ANY_VALUE, max_size=4), min_size=1, max_size=5))
def test_whatever_json_is_written_is_read(table: Table, written: list[dict[str, Any]]) -> None:
    assert [row.columns for row in read(table("rows.jsonl", lines(*written)))] == written
    plain = "\n".join(json.dumps(line, ensure_ascii=False).encode(errors="replace").decode() for line in written)
    assert [row.columns for row in read(table("rows.jsonl", plain))] == [
        json.loads(line) for line in plain.split("\n")
    ]


@WITH_TABLE
@given(content=st.binary(max_size=40), name=st.sampled_from(["rows.csv", "rows.jsonl"]))
def test_any_file_is_read_or_refused_by_name(table: Table, content: bytes, name: str) -> None:
    refusal = ""
    try:
        rows, problems = read_rows(table(name, content), row_id=None, inputs=None)
    except (FloraFileError, FloraParameterError) as error:
        refusal = str(error)
    assert name in refusal if refusal else rows or problems


# --- manifests --------------------------------------------------------------------------------------------

LINE = {
    "version": 1,
    "row_id": "A-1",
    "status": "completed",
    "run_id": "run_1",
    "inputs": {"product": "a cup", "mood": None, "row_id": "an input"},
    "outputs": [
        {"output_id": "prompt", "type": "text", "url": "A cup.\nAt dawn."},
        {"output_id": "image", "type": "imageUrl", "url": "https://flora.example/1.png"},
        {"output_id": "image", "type": "imageUrl", "url": "https://flora.example/2.png"},
        {"output_id": "mood", "type": "text", "url": "calm"},
    ],
    "files": [{"output_id": "image", "uri": "s3://files/1.png"}],
}


def test_completed_lines_of_a_manifest_are_rows_of_their_inputs_and_outputs(table: Table) -> None:
    failed = {**LINE, "row_id": "B", "status": "failed", "outputs": None}
    path = table("manifest.jsonl", lines(failed, LINE, {**LINE, "row_id": "C", "inputs": None, "outputs": None}))
    first, second = read_rows(path, row_id=None, inputs={"id": "{row_id}"})[0]
    assert first == Row(
        1,
        "A-1",
        {
            "row_id": "A-1",
            "run_id": "run_1",
            "product": "a cup",
            "mood": "calm",
            "image": "https://flora.example/1.png",
            "prompt": "A cup.\nAt dawn.",
        },
        {"id": "A-1"},
    )
    assert list(first.columns)[:2] == ["row_id", "run_id"]
    assert second == Row(2, "C", {"row_id": "C", "run_id": "run_1"}, {"id": "C"})


def test_ids_and_runs_of_a_manifest_are_no_inputs_of_the_next_batch(table: Table) -> None:
    path = table("manifest.jsonl", lines({**LINE, "inputs": {"sku": "A"}, "outputs": []}))
    assert read(path)[0].inputs == {"sku": "A"}
    assert read(path, "sku")[0].inputs == {}
    assert read(path, "sku")[0].row_id == "A"


def test_a_manifest_with_nothing_completed_is_refused(table: Table) -> None:
    path = table("manifest.jsonl", lines({**LINE, "status": "failed"}))
    with pytest.raises(FloraParameterError, match=r"manifest\.jsonl' has no completed rows"):
        read_rows(path, row_id=None, inputs=None)


def test_lines_that_only_resemble_a_manifest_are_rows(table: Table) -> None:
    line = {"row_id": "A", "status": "failed", "inputs": "x"}
    assert read(table("rows.jsonl", lines(line)))[0].columns == line


# --- inputs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "columns", "filled"),
    [
        ("s3://shop/{sku}.jpg", {"sku": "A-1"}, "s3://shop/A-1.jpg"),
        ('{"sku": "{sku}", "keep": {"x": 1}}', {"sku": "A"}, '{"sku": "A", "keep": {"x": 1}}'),
        ("{a}{b}", {"a": "{b}", "b": "{a}"}, "{b}{a}"),
        ("{{a}}", {"a": "1"}, "{1}"),
        ("{A} {a } { a} {} {a", {"a": "1"}, "{A} {a } { a} {} {a"),
        ("{a!r} {a:>5} {a.x} {a[0]}", {"a": "1"}, "{a!r} {a:>5} {a.x} {a[0]}"),
        ("{größe ✨}", {"größe ✨": "L"}, "L"),
        ("{}", {"": "1"}, "1"),
        ("<{a}>", {"a": None}, "<>"),
        ("<{a}>", {"a": True}, "<true>"),
        ("<{a}>", {"a": 5}, "<5>"),
        ("<{a}>", {"a": 0.1}, "<0.1>"),
        ("<{a}>", {"a": ["ü", {"b": None}]}, '<["ü", {"b": null}]>'),
        ("<{a}>", {"a": Decimal("1.50")}, "<1.50>"),
        (r"\1 \g<0> {a}", {"a": r"\1"}, r"\1 \g<0> \1"),
    ],
)
def test_a_column_in_braces_is_replaced_and_nothing_else(
    template: str, columns: dict[str, Any], filled: str
) -> None:
    assert fill(template, columns) == filled


NAMES = st.text("ab ", max_size=2)


@given(
    parts=st.lists(st.tuples(st.text('ab:"\\', max_size=3), NAMES)),
    columns=st.dictionaries(NAMES, st.text("ab{}\\", max_size=5)),
)
def test_a_text_is_filled_in_one_pass(parts: list[tuple[str, str]], columns: dict[str, str]) -> None:
    template = "".join(f"{text}{{{name}}}" for text, name in parts)
    expected = "".join(text + columns.get(name, f"{{{name}}}") for text, name in parts)
    assert fill(template, columns) == expected


@given(st.text())
def test_a_text_without_known_columns_stays_as_it_is(text: str) -> None:
    assert fill(text, {"no such name": "x"}) == text


def test_the_columns_are_the_inputs_without_that_of_the_id() -> None:
    row = {"sku": 7, "count": 5, "loud": False, "price": 1.5, "mood": None, "tags": ["a"]}
    [read_row] = read([row], "sku")
    assert read_row.inputs == {"count": "5", "loud": "false", "price": "1.5", "mood": None, "tags": ["a"]}
    assert read_row.columns == row
    assert read([row])[0].inputs["sku"] == "7"


def test_an_input_that_is_one_column_has_its_value_and_another_its_text(table: Table) -> None:
    path = table("rows.csv", "sku,light\nA,\n")
    inputs = {"one": "{light}", "text": "<{light}>", "fixed": "soft", "number": 5, "list": ["{light}"]}
    [row] = read(path, "sku", inputs)
    assert row.inputs == {"one": None, "text": "<>", "fixed": "soft", "number": 5, "list": ["{light}"]}
    assert read(path)[0].inputs["light"] is None
    assert read([{"tags": ["a"], "on": True}], inputs={"t": "{tags}", "o": "{on}"})[0].inputs == {
        "t": ["a"],
        "o": "true",
    }


def test_a_path_among_the_inputs_is_a_template_too() -> None:
    assert read([{"sku": "A"}], inputs={"photo": Path("/photos/{sku}.jpg")})[0].inputs == {"photo": "/photos/A.jpg"}


def test_a_row_without_a_column_of_a_template_is_a_mistake_of_that_row() -> None:
    rows, problems = read_rows(
        [{"sku": "A", "light": "dawn"}, {"sku": "B"}, {"sku": "C", "light": None}],
        row_id="sku",
        inputs={"light": "{light}", "prompt": "{sku} in {light}, {weather}"},
    )
    assert [(row.row_id, row.inputs["prompt"]) for row in rows] == [
        ("A", "A in dawn, {weather}"),
        ("C", "C in , {weather}"),
    ]
    assert [(problem.position, problem.row_id) for problem in problems] == [(2, "B"), (2, "B")]
    assert problems[0].message == "'light' is '{light}', and the row has no 'light'. Add it, or null for no value"
    assert "'prompt' is '{sku} in {light}, {weather}', and the row has no 'light'" in problems[1].message


@pytest.mark.parametrize("template", ["{colour}", "{product colour}", "{product-colour}", "{1}"])
def test_an_input_that_is_one_unknown_column_is_refused_with_the_known_ones(template: str) -> None:
    with pytest.raises(FloraParameterError) as caught:
        read_rows([{"sku": "A"}, {"light": "dawn"}], row_id=None, inputs={"tone": template})
    assert f"inputs['tone'] is '{template}'" in str(caught.value)
    assert "'sku', 'light'" in str(caught.value)


@pytest.mark.parametrize("template", ["{}", '{"a": 1}', "a {colour}", "{{colour}}", "{ colour }"])
def test_other_braces_are_left_to_the_user(template: str) -> None:
    assert read([{"sku": "A"}], inputs={"tone": template})[0].inputs == {"tone": template}


@pytest.mark.parametrize("inputs", ["{sku}", [{"id": "light", "value": "x"}], {5: "{sku}"}])
def test_inputs_of_another_form_are_refused(inputs: Any) -> None:
    with pytest.raises(FloraParameterError, match="inputs of a batch takes"):
        read_rows([{"sku": "A"}], row_id=None, inputs=inputs)


# --- ids --------------------------------------------------------------------------------------------------


def test_a_row_is_named_by_its_position_or_its_column() -> None:
    table = [{"sku": " A "}, {"sku": 7}, {"sku": 1.5}, {"sku": "x" * 200}]
    assert [row.row_id for row in read(table)] == ["1", "2", "3", "4"]
    assert [row.row_id for row in read(table, "sku")] == [" A ", "7", "1.5", "x" * 200]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({}, "'sku' is missing. Give the row an id"),
        ({"sku": None}, "'sku' is empty. Give the row an id"),
        ({"sku": " \t"}, "'sku' is empty. Give the row an id"),
        ({"sku": ["A"]}, "'sku' is ['A'], and an id is a text or a number"),
        ({"sku": "A\nB"}, "'sku' is 'A\\nB' with a control character. Remove it"),
        ({"sku": "A\x85"}, "'sku' is 'A\\x85' with a control character. Remove it"),
        ({"sku": "A\ud83d"}, "'sku' is 'A\\ud83d' with a control character. Remove it"),
        ({"sku": "x" * 201}, "of 201 characters, and an id has at most 200"),
    ],
)
def test_a_row_that_cannot_be_named_is_a_mistake(value: dict[str, Any], message: str) -> None:
    rows, [problem] = read_rows([{"sku": "first"}, value], row_id="sku", inputs=None)
    assert [row.row_id for row in rows] == ["first"]
    assert (problem.position, problem.row_id) == (2, None)
    assert message in problem.message


def test_two_rows_of_one_id_are_a_mistake_that_names_both() -> None:
    rows, problems = read_rows([{"sku": "A"}, {"sku": 5}, {"sku": "5"}, {"sku": "A"}], row_id="sku", inputs=None)
    assert [row.position for row in rows] == [1, 2]
    assert problems == [
        RowProblem(3, "5", "'sku' is '5', as in row 2. Give each row its own"),
        RowProblem(4, "A", "'sku' is 'A', as in row 1. Give each row its own"),
    ]


def test_all_mistakes_of_a_row_are_named() -> None:
    problems = problems_of([{"sku": "A", "light": "x"}, {"sku": "A"}], "sku", {"light": "{light}"})
    assert [problem.position for problem in problems] == [2, 2]


def test_an_id_that_no_row_has_is_refused_with_the_columns() -> None:
    with pytest.raises(
        FloraParameterError, match=r"row_id='SKU' is not a column of the rows\. They have 'sku', 'light'"
    ):
        read_rows([{"sku": "A"}, {"light": "B"}], row_id="SKU", inputs=None)
    with pytest.raises(FloraParameterError, match=r"'c29' and 10 more\."):
        read_rows([{f"c{number}": "x" for number in range(40)}], row_id="SKU", inputs=None)


# --- rows and tables that cannot be read ------------------------------------------------------------------


def test_rows_of_another_length_than_the_header_are_mistakes(table: Table) -> None:
    rows, problems = read_rows(
        table("rows.csv", 'sku,light\n"A\n1",dawn\nB\nC,dusk,soft\nD,noon\n'), row_id=None, inputs=None
    )
    assert [row.position for row in rows] == [1, 4]
    assert [(problem.position, problem.row_id) for problem in problems] == [(2, None), (3, None)]
    assert problems[0].message.startswith("line 4 has 1 values, and there are 2 columns. ")
    assert problems[1].message.startswith("line 5 has 3 values, and there are 2 columns. ")


def test_lines_that_are_no_objects_are_mistakes(table: Table) -> None:
    content = '{"sku": "A"}\n\n{"sku": \n["B"]\n' + "[" * 100_000 + '\n{"sku": "C"}\n'
    rows, problems = read_rows(table("rows.jsonl", content), row_id="sku", inputs=None)
    assert [(row.position, row.row_id) for row in rows] == [(1, "A"), (5, "C")]
    assert [problem.position for problem in problems] == [2, 3, 4]
    assert problems[0].message.startswith("line 3 is not JSON (")
    assert problems[1].message == "line 4 is ['B'], and not an object"
    assert problems[2].message.startswith("line 5 is not JSON (")


def test_entries_that_are_no_dicts_of_columns_are_mistakes() -> None:
    rows, problems = read_rows([5, {"sku": "A"}, {5: "B"}, "C"], row_id="sku", inputs=None)
    assert [row.position for row in rows] == [2]
    assert [(problem.position, problem.message) for problem in problems] == [
        (1, "5 is not a dict of values by column"),
        (3, "the column 5 has a name that is no text"),
        (4, "'C' is not a dict of values by column"),
    ]


def test_when_no_row_can_be_read_the_columns_are_not_blamed(table: Table) -> None:
    [problem] = problems_of(table("rows.jsonl", "sku"), "sku", {"light": "{light}"})
    assert "is not JSON" in problem.message


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.csv", "sku,light,sku\nA,x,y\n", r"rows\.csv' has 2 columns 'sku'"),
        ("rows.csv", "sku, \nA,x\n", r"Column 2 of '.*rows\.csv' has no name"),
        ("rows.csv", "sku\nA\nB\0\n", r"rows\.csv' cannot be read: row 2: line 3 has a NUL character"),
        (
            "rows.csv",
            b"sku\nA\nB\nx\xff\n",
            r"rows\.csv' cannot be read: row 3: line 4 is not UTF-8 .*its byte 2\)",
        ),
        ("rows.csv", "sku\n".encode("utf-16"), r"rows\.csv' cannot be read: the header: line 1 is not UTF-8"),
        ("rows.csv", 'sku\nA\n"B\n', r"rows\.csv' cannot be read: row 2: line 3: unexpected end"),
        (
            "rows.csv",
            "sku\n" + "x" * 140_000,
            r"rows\.csv' cannot be read: row 1: line 2: field larger.* or use \.jsonl",
        ),
        ("rows.csv", 'sku\n"B"x\n', r"rows\.csv' cannot be read: row 1: line 2: "),
        (
            "rows.jsonl",
            b'{"sku": "A"}\n\n{"sku": "\xff"}\n',
            r"rows\.jsonl' cannot be read: row 2: line 3 is not UTF-8",
        ),
    ],
)
def test_a_file_that_cannot_be_trusted_is_refused(
    table: Table, name: str, content: str | bytes, message: str
) -> None:
    with pytest.raises(FloraFileError, match=message) as caught:
        read_rows(table(name, content), row_id=None, inputs=None)
    assert not caught.value.remedy.retryable


@pytest.mark.parametrize(("name", "content"), [("rows.csv", ""), ("rows.csv", "sku,light\n"), ("rows.jsonl", "\n")])
def test_a_file_without_rows_is_refused(table: Table, name: str, content: str) -> None:
    with pytest.raises(FloraParameterError, match=f"{name}' has no rows"):
        read_rows(table(name, content), row_id="sku", inputs=None)


@pytest.mark.parametrize(
    "source", [[], "rows.txt", "rows", "", "[{'sku': 'A'}]", b"rows.csv", 5, None, {"sku": "A"}, "s3://store@files"]
)
def test_what_is_no_table_is_refused(source: Any) -> None:
    with pytest.raises(FloraParameterError, match=re.escape(repr(source))) as caught:
        read_rows(source, row_id=None, inputs=None)
    assert ("use the output of the task itself" in str(caught.value)) == (source == "[{'sku': 'A'}]")


def test_a_file_that_does_not_exist_is_an_error_that_no_retry_solves(tmp_path: Path, s3: Any) -> None:
    for path in (f"{tmp_path}/no.csv", "s3://store@files/no.jsonl"):
        with pytest.raises(FloraFileError, match=f"There is no file '{path}'") as caught:
            read_rows(path, row_id=None, inputs=None)
        assert not caught.value.remedy.retryable


def test_a_storage_that_is_away_is_an_error_that_a_retry_may_solve(break_s3: Callable[[], None]) -> None:
    break_s3()
    with pytest.raises(FloraFileError, match=r"files/rows\.csv' cannot be read now.*503") as caught:
        read_rows("s3://store@files/rows.csv", row_id=None, inputs=None)
    assert caught.value.remedy.retryable
