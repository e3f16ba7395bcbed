"""The states of a start, wherever they are listed: in the code's own table, in the docs and in the drawing."""

from __future__ import annotations

import re
from pathlib import Path

from airflow_provider_flora.runs import starting
from airflow_provider_flora.runs.starting import Starter, State

DOCS = Path(__file__).parents[3] / "docs"
STATES = {state.name for state in State}


def test_each_state_has_an_action() -> None:
    assert {state.name for state in Starter._ACTIONS} == STATES


def test_the_table_in_the_code_has_each_state() -> None:
    table = (starting.__doc__ or "").split("    ================")[2]
    assert set(re.findall(r"^    ([A-Z_]+)  ", table, re.MULTILINE)) == STATES


def test_the_page_has_each_state() -> None:
    page = (DOCS / "reliability.rst").read_text()
    assert set(re.findall(r"^   \* - ([A-Z_]+)$", page, re.MULTILINE)) == STATES


def test_the_drawing_has_each_state() -> None:
    drawing = (DOCS / "_static" / "run-states.svg").read_text()
    assert set(re.findall(r'font-weight="600" font-size="12">([A-Z_]+)</text>', drawing)) == STATES
