"""Which room of the package may know of which: the picture in CONTRIBUTING, read from all imports."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import airflow_provider_flora

PACKAGE = Path(airflow_provider_flora.__file__).parent
NAME = "airflow_provider_flora"

# Each room, and those that it may import from. A file at the top is a room of its own.
MAY_IMPORT: dict[str, set[str]] = {
    "__init__": {"api", "version"},
    "__main__": {"cli"},
    "version": set(),
    "airflow_compat": set(),
    "metrics": {"airflow_compat", "api"},
    "api": {"version"},
    "cli": {
        "airflow_compat",
        "api",
        "batch",
        "checking",
        "emulator",
        "files",
        "hooks",
        "metadata",
        "runs",
        "task",
        "version",
    },
    "emulator": set(),
    "get_provider_info": {"__init__"},
    "task": {"airflow_compat", "api"},
    "files": {"airflow_compat", "api", "task", "version"},
    "runs": {"airflow_compat", "api", "metrics", "task"},
    "batch": {"airflow_compat", "api", "files", "metrics", "runs", "task"},
    "hooks": {"airflow_compat", "api", "files", "get_provider_info", "metrics", "runs", "task"},
    "lineage": {"airflow_compat", "api", "files", "runs", "version"},
    "links": {"airflow_compat", "api"},
    "notifications": {"airflow_compat", "api", "runs"},
    "metadata": {"airflow_compat", "api", "files", "links", "runs", "task"},
    "plugins": {"__init__", "airflow_compat", "api", "files", "hooks", "links", "metadata", "runs", "task"},
    "triggers": {"airflow_compat", "api", "hooks", "runs"},
    "sensors": {"airflow_compat", "api", "hooks", "lineage", "runs", "task", "triggers"},
    "testing": {"airflow_compat", "api", "emulator", "hooks", "runs"},
    "checking": {"airflow_compat", "api", "batch", "files", "hooks", "operators", "runs", "sensors", "task"},
    "operators": {
        "airflow_compat",
        "api",
        "batch",
        "files",
        "hooks",
        "lineage",
        "links",
        "runs",
        "task",
        "triggers",
    },
    "decorators": {"airflow_compat", "api", "operators", "runs"},
}
WITHOUT_AIRFLOW = ("api", "emulator", "__init__", "version")


def room_of(parts: tuple[str, ...]) -> str:
    return parts[0] if parts else "__init__"


def files() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield room_of(parts), path


def imported(path: Path) -> set[str]:
    """The full names of all modules that a file imports, wherever in it, be it for its types only."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def own(name: str) -> str | None:
    """The room that a full name is in, if it is in the package."""
    first, *rest = name.split(".")
    if first != NAME:
        return None
    if rest and ((PACKAGE / rest[0]).is_dir() or (PACKAGE / f"{rest[0]}.py").exists()):
        return rest[0]
    return "__init__"


def test_every_room_is_in_the_picture() -> None:
    assert {room for room, _ in files()} == set(MAY_IMPORT)


def test_no_room_imports_from_one_that_it_must_not_know_of() -> None:
    wrong = [
        f"{path.relative_to(PACKAGE)} ({room}) imports {name} ({other})"
        for room, path in files()
        for name in imported(path)
        if (other := own(name)) is not None and other != room and other not in MAY_IMPORT[room]
    ]
    assert not wrong


def test_the_picture_has_no_circle() -> None:
    left = {room: others - {"__init__"} for room, others in MAY_IMPORT.items() if room != "__init__"}
    while left:
        free = {room for room, others in left.items() if not others & left.keys()}
        assert free, f"a circle among {sorted(left)}"
        left = {room: others for room, others in left.items() if room not in free}


def test_uploads_and_downloads_do_not_know_of_each_other() -> None:
    for room, other in (("uploads", "downloads"), ("downloads", "uploads")):
        for path in (PACKAGE / "files" / room).glob("*.py"):
            assert not any(name.startswith(f"{NAME}.files.{other}") for name in imported(path)), path


def test_airflow_is_imported_in_one_file_only() -> None:
    knowing = {
        str(path.relative_to(PACKAGE))
        for _, path in files()
        for name in imported(path)
        if name.split(".")[0] == "airflow"
    }
    assert knowing == {"airflow_compat.py"}


@pytest.mark.parametrize("room", WITHOUT_AIRFLOW)
def test_api_and_emulator_do_without_airflow(room: str) -> None:
    for own_room, path in files():
        if own_room == room:
            assert not any(own(name) == "airflow_compat" for name in imported(path)), path


AIRFLOWS_WORDS = re.compile(
    r"\b(Airflow|DAG|XCom|clear|expand|operator|sensor|task|max_run_cost|Admin)\b|connection's"
)


def test_the_api_prints_no_words_of_airflow() -> None:
    for path in (PACKAGE / "api").glob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        comments = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        for node in nodes:
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in comments:
                assert not AIRFLOWS_WORDS.search(node.value), f"{path}:{node.lineno}"


def test_what_is_public_is_found_when_it_is_asked_for_and_costs_nothing_before() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    names = {
        alias.asname
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{NAME}.api")
        for alias in node.names
    }
    assert {"FloraClient", "AsyncFloraClient", "ClientSettings", "FloraError", "FloraRunFailedError"} <= names
    program = f"""
import sys
import {NAME} as package
assert not {{"requests", "aiohttp", "pydantic", "airflow"}} & set(sys.modules), "imported too early"
for name in {sorted(map(str, names))!r}:
    assert getattr(package, name).__name__ == name
assert not hasattr(package, "nothing_of_the_kind")
assert "airflow" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=600)


def test_every_error_is_public() -> None:
    from airflow_provider_flora.api import errors

    for name, value in vars(errors).items():
        if isinstance(value, type) and issubclass(value, errors.FloraError):
            assert getattr(airflow_provider_flora, name) is value
            assert f" {name} " in (PACKAGE / "__init__.py").read_text(), f"{name} is not among the public names"
