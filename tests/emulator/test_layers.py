"""Which folders of the emulator may import which."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_provider_flora import emulator

ROOT = Path(emulator.__file__).parent
MAY_IMPORT = {
    "http": set(),
    "media": set(),
    "state": {"media"},
    "faults": {"http", "media", "state"},
    "operations": {"http", "media", "state", "faults"},
}


def imported(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            yield from (f"{node.module}.{name.name}" for name in node.names)


def test_every_folder_has_a_line_in_the_table():
    assert {file.parent.name for file in ROOT.glob("*/__init__.py")} == set(MAY_IMPORT)


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_a_folder_imports_only_from_those_below_it(folder):
    allowed = {folder, *MAY_IMPORT[folder]}
    for file in (ROOT / folder).rglob("*.py"):
        for name in imported(file):
            if name.startswith(emulator.__name__):
                assert name.removeprefix(f"{emulator.__name__}.").split(".")[0] in allowed, f"{file} imports {name}"


def test_the_emulator_imports_nothing_of_the_client_nor_of_airflow():
    for file in ROOT.rglob("*.py"):
        for name in imported(file):
            assert name.split(".")[0] != "airflow", f"{file} imports {name}"
            assert name.startswith(emulator.__name__) or not name.startswith("airflow_provider_flora"), (
                f"{file} imports {name}"
            )
