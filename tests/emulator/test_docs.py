"""The emulator's page in the documentation: it names everything, and reads without Sphinx."""

from __future__ import annotations

import re
from pathlib import Path

import docutils.core
import pytest

from airflow_provider_flora.emulator import __main__
from airflow_provider_flora.emulator.faults.kinds import KINDS, OPERATIONS
from airflow_provider_flora.emulator.state.catalogue import TECHNIQUES

PAGE = (Path(__file__).parents[2] / "docs" / "emulator.rst").read_text(encoding="utf-8")


def test_the_page_renders_without_sphinx():
    # A code host renders pages like this: an unknown directive or a broken link stops the test.
    settings = {"halt_level": 2, "file_insertion_enabled": False, "raw_enabled": False, "syntax_highlight": "none"}
    html = docutils.core.publish_string(PAGE, writer="html", settings_overrides=settings).decode()
    assert "order_fault" in html


def test_the_page_names_every_option_operation_and_technique_count(capsys):
    with pytest.raises(SystemExit):
        __main__.main(["--help"])
    options = set(re.findall(r"^  (--[a-z-]+)", capsys.readouterr().out, flags=re.MULTILINE))
    assert len(options) > 10
    assert {option for option in options if f"``{option}" not in PAGE} == set()
    assert {operation for operation in OPERATIONS if f"``{operation}``" not in PAGE} == set()
    assert f"{len(TECHNIQUES)} techniques" in PAGE


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_has_a_row_for_every_kind_of_fault_with_its_words(kind):
    row = PAGE.partition(f"   * - ``{kind}``\n")[2].partition("   * - ")[0]
    assert row, "a row of its own"
    assert {word for word in KINDS[kind].words if f"``{word}``" not in row} == set()
