"""How the documentation is built: `make docs`. Nothing is fetched from the network."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

# Airflow writes its settings into its home when it is imported.
os.environ.setdefault("AIRFLOW_HOME", str(Path(__file__).parent / "_build" / "airflow"))

from docutils import nodes
from pydantic import BaseModel
from sphinx.util import logging

import airflow_provider_flora

log = logging.getLogger(__name__)
REPOSITORY = Path(__file__).parents[1]

project = "Flora provider for Apache Airflow"
author = "the authors of airflow-provider-flora"
project_copyright = author
version = release = airflow_provider_flora.__version__

extensions = ["sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
default_role = "code"
nitpicky = True
# Names of Airflow's and Python's own, whose pages are not here.
nitpick_ignore_regex = [
    ("py:.*", r"ObjectStoragePath|Airflow\w*Exception|AirflowSensorTimeout|Connection|Context|dict\[str"),
    ("py:.*", r"ParametersT|Task"),
    ("py:.*", r"airflow_provider_flora\.(api\.(calls|exchange|waiting)|runs\.events)\..*"),
    ("py:.*", r"(airflow|collections|datetime|pathlib|typing|types)\..*"),
]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True

html_theme = "furo"
html_title = "Flora for Airflow"
html_static_path = ["_static"]
html_css_files = ["flora.css"]
html_copy_source = False
html_show_sphinx = False


def name_the_fields(
    app: object, what: str, name: str, subject: Any, options: object, signature: str | None, returns: str | None
) -> tuple[str | None, str | None] | None:
    """Show a model by its fields: pydantic's own signature is too long to read."""
    if what == "class" and isinstance(subject, type) and issubclass(subject, BaseModel):
        return f"({', '.join(subject.model_fields)})", None
    return None


def resolve_links(app: Any, doctree: nodes.document, docname: str) -> None:
    """Turn links between the source files, which a code host understands, into links of the built pages.

    ``page.rst#section`` becomes the built page, and ``../CONTRIBUTING.md`` the file's page on the code host. A link
    whose page, section or file is not there is a warning.
    """
    for link in doctree.findall(nodes.reference):
        target = link.get("refuri", "")
        if not target or re.match(r"[a-z]+:", target) or link.get("internal"):
            continue
        path, _, section = target.partition("#")
        if path.startswith("../"):
            if not (REPOSITORY / path[3:]).exists():
                log.warning("there is no file %r", path[3:], location=link)
            link["refuri"] = f"{code_host()}/blob/main/{path[3:]}"
            continue
        page = path.removesuffix(".rst") if path else docname
        if path == page or page not in app.env.found_docs:
            log.warning("there is no page %r", path, location=link)
            continue
        if section and section not in app.env.get_doctree(page).ids:
            log.warning("the page %r has no section %r", page, section, location=link)
        address = app.builder.get_relative_uri(docname, page) if path else ""
        link["refuri"] = f"{address}#{section}" if section else address


def code_host() -> str:
    """The address of the source code, which pyproject.toml alone knows."""
    found = re.search(r'^Source = "(.+)"$', (REPOSITORY / "pyproject.toml").read_text(), re.MULTILINE)
    assert found, "pyproject.toml has no Source among its urls"
    return found[1]


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-signature", name_the_fields)
    app.connect("doctree-resolved", resolve_links)
