"""The pages read well without Sphinx, and what they show is what is tested."""

from __future__ import annotations

import ast
import importlib
import re
import runpy
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from docutils.nodes import make_id

import airflow_provider_flora
from airflow_provider_flora.api import errors

REPOSITORY = Path(__file__).parents[2]
DOCS = REPOSITORY / "docs"
PAGES = sorted(DOCS.glob("*.rst"))
TEXTS = [*PAGES, *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"))]
EXAMPLES = sorted((REPOSITORY / "example_dags").glob("*.py"))
OWN = [path for folder in ("own_dags", "checked/dags") for path in (Path(__file__).parent / folder).glob("*.py")]
SHOWN = [*EXAMPLES, *sorted(OWN), REPOSITORY / "tests" / "airflow" / "pages" / "dags" / "webhooks.py"]
WITH_AUTODOC = ("api", "emulator")  # beside what is written by hand there

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
each_text = pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)

CODE = re.compile(
    r"(?:^\.\. From (?P<file>\S+): (?P<part>\S+)\n\n)?"
    r"^(?P<indent> *)\.\. code-block:: (?P<language>\w+)\n\n(?P<code>(?:(?P=indent) +.*\n|\n)+)",
    re.MULTILINE,
)


def blocks_of(path: Path, language: str) -> Iterator[tuple[str | None, str]]:
    """Each block of code in a language, with where it is from."""
    text = path.read_text() + "\n"
    if path.suffix == ".md":
        for code in re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            yield None, code
        return
    for block in CODE.finditer(text):
        if block["language"] == language:
            source = block["file"] and f"{block['file']}: {block['part']}"
            yield source, textwrap.dedent(block["code"]).strip("\n") + "\n"


def parts_of(path: Path) -> dict[str, str]:
    """What is between the START and END markers of a file."""
    name = path.relative_to(REPOSITORY)
    found = re.findall(r"^ *# \[START (\S+)\]\n(.*?)^ *# \[END \1\]$", path.read_text(), re.MULTILINE | re.DOTALL)
    return {f"{name}: {part}": textwrap.dedent(code).strip("\n") + "\n" for part, code in found}


PARTS = {source: code for path in SHOWN for source, code in parts_of(path).items()}


# --- examples ---------------------------------------------------------------------------------------------


@each_page
def test_an_example_on_a_page_is_what_the_tests_run(page: Path) -> None:
    for source, code in blocks_of(page, "python"):
        if source is not None:
            assert code == PARTS.get(source), f"{page.name} is not what {source} is now: copy it"


def test_each_marked_part_is_on_a_page() -> None:
    shown = {source for page in PAGES for source, _ in blocks_of(page, "python")}
    assert set(PARTS) <= shown


@each_text
def test_the_code_on_a_page_can_be_parsed_and_imports_what_there_is(path: Path) -> None:
    for _, code in blocks_of(path, "python"):
        tree = ast.parse(code if not code.startswith("schedule=[") else "f(" + code + ")")
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("airflow_provider_flora"):
                module = importlib.import_module(node.module or "")
                assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


def test_no_example_and_no_page_needs_a_logical_date() -> None:
    """Of what a template may use, Airflow leaves these out where there is none."""
    needs = re.compile(r"\{\{ *(?:ds|ts|logical_date|data_interval_\w+)(?:_nodash\w*)?\b(?! *\|? *%\})[^}]*\}\}")
    excused = "``{{ ds }}``"  # where it is explained
    texts = {path.name: path.read_text().replace(excused, "") for path in [*TEXTS, *EXAMPLES]}
    assert {name: found for name, text in texts.items() if (found := needs.findall(text))} == {}


# --- without Sphinx ---------------------------------------------------------------------------------------


@each_page
def test_a_page_needs_no_sphinx(page: Path) -> None:
    text = page.read_text()
    found = re.findall(r":(?:doc|ref|class|meth|func|mod):`|\.\. (?:literalinclude|include|raw)::|:file:", text)
    assert found == []
    if page.stem not in WITH_AUTODOC:
        assert ".. auto" not in text


@each_page
def test_a_page_begins_with_its_title_and_has_a_text(page: Path) -> None:
    lines = [line for line in page.read_text().splitlines() if line and not line.startswith(".. ")]
    assert set(lines[1]) == {"="}
    assert len(lines[1]) >= len(lines[0])
    assert len(lines) > 20


def sections(path: Path) -> set[str]:
    """The addresses of the sections of a page, which docutils and code hosts make of the titles."""
    lines = path.read_text().splitlines()
    if path.suffix == ".md":
        titles = [line.lstrip("#").strip() for line in lines if line.startswith("#")]
        return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
    return {make_id(title) for title, under in pairwise(lines) if re.fullmatch(r"([=~-])\1{2,}", under)}


def links_of(path: Path) -> set[str]:
    text = path.read_text()
    if path.suffix == ".md":
        found = re.findall(r"\]\(([^)\s]+)\)", text)
    else:
        found = [
            *re.findall(r"`[^`<]*<([^>`]+)>`__?", text),
            *re.findall(r"^\.\. image:: (\S+)$", text, re.MULTILINE),
        ]
    return {link for link in found if not re.match(r"[a-z]+:", link)}


@each_text
def test_each_relative_link_leads_to_a_file_and_a_section(path: Path) -> None:
    missing = set()
    for link in links_of(path):
        name, _, section = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        if not target.exists() or (section and section not in sections(target)):
            missing.add(link)
    assert missing == set()


def test_the_readme_and_the_index_lead_to_each_page() -> None:
    pages = {page.name for page in PAGES} - {"index.rst"}
    assert {link.partition("#")[0] for link in links_of(DOCS / "index.rst")} >= pages
    toctree = (DOCS / "index.rst").read_text().partition(".. toctree::")[2].split()
    assert {f"{name}.rst" for name in toctree if name != ":hidden:"} == pages
    readme = {Path(link).name for link in links_of(REPOSITORY / "README.md")}
    assert pages - readme == set()


def test_on_a_package_page_each_link_of_the_readme_leads_to_the_code_host() -> None:
    hook = runpy.run_path(str(REPOSITORY / "hatch_build.py"))["with_absolute_links"]
    text = hook((REPOSITORY / "README.md").read_text(), "https://host.example/flora")
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert "https://host.example/flora/blob/main/docs/reliability.rst" in links
    (picture,) = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)  # the page of a file is no picture
    assert picture == "https://host.example/flora/raw/main/docs/_static/ui/overview.png"
    assert [link for link in links if not link.startswith("https://")] == []


def test_each_file_that_contributing_names_is_there() -> None:
    names = set(
        re.findall(r"`([\w./-]+\.(?:py|rst|svg|md|toml|txt))`", (REPOSITORY / "CONTRIBUTING.md").read_text())
    )
    folders = [
        REPOSITORY,
        REPOSITORY / "tests",
        *(REPOSITORY / "airflow_provider_flora").glob("**/"),
        REPOSITORY / "requirements",
    ]
    assert len(names) > 20
    assert {name for name in names if not any((folder / name).exists() for folder in folders)} == set()


# --- what is public ---------------------------------------------------------------------------------------


def exported() -> set[str]:
    """The names that the package imports for its type checkers: those that it has for everybody."""
    tree = ast.parse(Path(airflow_provider_flora.__file__).read_text())
    return {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names} - {
        "annotations",
        "import_module",
        "__version__",
        "TYPE_CHECKING",
        "Any",
    }


def test_each_name_that_the_package_exports_is_in_the_reference() -> None:
    table = (DOCS / "api.rst").read_text().partition(".. auto")[0]
    names = set(re.findall(r"``airflow_provider_flora\.([A-Z]\w+)``", table))
    assert names == exported()
    assert [name for name in names if not hasattr(airflow_provider_flora, name)] == []


def test_each_import_in_the_reference_is_there() -> None:
    table = (DOCS / "api.rst").read_text().partition(".. auto")[0]
    for path in re.findall(r"``(airflow_provider_flora\.[\w.]+)\.([A-Z]\w+)``", table):
        assert hasattr(importlib.import_module(path[0]), path[1]), path


def test_the_tree_of_errors_has_each_class_with_its_kind() -> None:
    page = (DOCS / "errors.rst").read_text()
    shown = dict(re.findall(r"^   [│ ]*[├└]── (\w+) +(\w+):", page, re.MULTILINE))
    classes = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, errors.FloraError)]
    assert shown == {one.__name__: one.kind for one in classes if one is not errors.FloraError}
