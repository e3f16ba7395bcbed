"""The recipes: each takes as many lines of glue as its page says, and five at most."""

from __future__ import annotations

import ast
import re
from itertools import pairwise

import pytest

from tests.docs.test_docs import DOCS, blocks_of

PAGE = DOCS / "recipes.rst"
MOST = 5
NOT_COUNTED = {"publish"}
"""Functions that are a job of the reader's own, as the page says."""


def recipes() -> dict[str, str]:
    """The text of each section."""
    lines = PAGE.read_text().splitlines()
    starts = [place for place, (_, under) in enumerate(pairwise(lines)) if re.fullmatch("-{4,}", under)]
    return {lines[start]: "\n".join(lines[start:end]) for start, end in pairwise([*starts, len(lines)])}


def said() -> dict[str, int]:
    """The lines of glue of each recipe, as the table has them."""
    found = re.findall(r"^   \* - `(.+) <#.*\n     - (\d+) lines?$", PAGE.read_text(), re.MULTILINE)
    return {title: int(count) for title, count in found}


def glue_of(code: str) -> int:
    return sum(map(_glue_of, ast.parse(code).body))


def _glue_of(node: ast.stmt) -> int:
    """The lines of a statement that are neither an operator nor a docstring; of a DAG's function, those in it."""
    if isinstance(node, ast.FunctionDef):
        if node.name in NOT_COUNTED:
            return 0
        own = sum(map(_glue_of, node.body))
        is_dag = any(getattr(getattr(one, "func", one), "id", "") == "dag" for one in node.decorator_list)
        return own if is_dag else 1 + own
    if isinstance(node, (ast.Expr, ast.Assign)):
        if isinstance(node.value, ast.Constant) or _declares(node.value):
            return 0
        if isinstance(node.value, ast.Call) and ast.unparse(node.value).startswith(tuple(NOT_COUNTED)):
            return 0
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


def _declares(value: ast.expr) -> bool:
    """Whether an expression makes an operator or an asset: ``Operator(…)``, ``Operator.partial(…).expand(…)``."""
    return isinstance(value, ast.Call) and bool(re.match(r"\w+Operator\b|Asset\(", ast.unparse(value)))


def test_the_table_has_each_recipe() -> None:
    assert list(said()) == list(recipes())
    assert len(said()) == 8


@pytest.mark.parametrize("title", list(recipes()))
def test_a_recipe_takes_as_little_glue_as_its_page_says(title: str) -> None:
    codes = [code for source, code in blocks_of(PAGE, "python") if code.splitlines()[0] in recipes()[title]]
    assert sum(map(glue_of, codes)) == said()[title] <= MOST


def test_glue_is_what_is_not_an_operator() -> None:
    assert glue_of("a = SomeOperator(task_id='a')\nb = SomeOperator.partial(x=1).expand(y=a.output)") == 0
    assert glue_of("a >> b") == 1
    assert (
        glue_of("@dag\ndef one():\n    @task\n    def rows():\n        '''Text.'''\n        return [\n  1]\n") == 3
    )
