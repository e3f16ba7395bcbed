"""Parses DAG files as Airflow's DAG processor does, and finds the lines of tasks in them."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from airflow_provider_flora.airflow_compat import collect_dags, is_without_dags, make_dag_bag
from airflow_provider_flora.checking.report import Finding, Place

_LAST_LINES = 4
_UNUSABLE_FOLDER = "Airflow cannot search this folder, and loads none of its DAGs"
_NO_DAG = (
    "There is no DAG here. Airflow looks for DAGs in .py and .zip files that have the words dag and airflow and "
    "that no .airflowignore leaves out. Check the path."
)
_NUMBER_OF_CALL = re.compile(r"__\d+$")  # which Airflow adds for each further call of a decorated function
_IN_TRACEBACK = re.compile(r'^ *File "(?P<file>[^"\n]+)", line (?P<line>\d+)', re.MULTILINE)


@dataclass
class Parsed:
    """What is in DAG files.

    :param dags: the DAGs, by file and id.
    :param mistakes: files that cannot be imported, DAGs that Airflow refuses, and paths without a DAG.
    """

    dags: list[Any] = field(default_factory=list)
    mistakes: list[Finding] = field(default_factory=list)


def parse(paths: Iterable[Path]) -> Parsed:
    """Parse DAG files. Their code is run.

    :param paths: files, and folders in which Airflow finds DAG files.
    """
    bag = make_dag_bag()
    mistakes = []
    for path in paths:
        path = path.resolve()
        folder = path if path.is_dir() else path.parent
        if str(folder) not in sys.path:
            sys.path.append(str(folder))  # as Airflow does with its folder of DAGs
        place = Place(file=shown(str(path)))
        try:
            collect_dags(bag, path)
        except Exception as error:  # such as a link that leads back into its own folder
            message = f"{_UNUSABLE_FOLDER}: {error} Correct it, or leave that part out with .airflowignore."
            mistakes.append(Finding(place=place, message=message))
            continue
        # A Python file may be there for others to import.
        if path.suffix != ".py" and is_without_dags(bag, path):
            mistakes.append(Finding(place=place, message=_NO_DAG))
    mistakes += (_import_mistake(file, text) for file, text in bag.import_errors.items())
    return Parsed(
        sorted(bag.dags.values(), key=lambda dag: (dag.fileloc, dag.dag_id)),
        sorted(mistakes, key=lambda mistake: mistake.place.file),
    )


def _import_mistake(file: str, text: str) -> Finding:
    frames = [found for found in _IN_TRACEBACK.finditer(text) if found["file"] == file]
    own = text[frames[0].start() :] if frames else text  # what comes before is Airflow's
    lines = [line for line in own.strip("\n").splitlines() if line.strip(" ^~")]
    last = "\n".join(lines[-_LAST_LINES:])
    line = int(frames[-1]["line"]) if frames else None
    return Finding(place=Place(file=shown(file), line=line), message=f"Airflow cannot load this file:\n{last}")


def shown(file: str) -> str:
    """Return a path as an editor finds it from here."""
    path = Path(file)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else file


def line_of(file: str, task_id: str) -> int | None:
    """Return the line of a DAG file that names a task, if exactly one does.

    :param task_id: its id, in which the ids of its groups come first.
    """
    places = _lines_of_names(file)
    label = task_id.rpartition(".")[2]
    names = (task_id, label, _NUMBER_OF_CALL.sub("", label))
    lines = next((places[name] for name in names if name in places), [])
    return lines[0] if len(lines) == 1 else None


@cache
def _lines_of_names(file: str) -> dict[str, list[int]]:
    """Return the lines of calls with a literal ``task_id``, and of functions, by their names."""
    try:
        tree = ast.parse(Path(file).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return {}
    found: dict[str, list[int]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            for keyword in node.keywords:
                if keyword.arg == "task_id" and isinstance(keyword.value, ast.Constant):
                    found.setdefault(str(keyword.value.value), []).append(keyword.value.lineno)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.decorator_list:
            found.setdefault(node.name, []).append(node.lineno)
    return found
