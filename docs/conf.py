"""How the documentation is built: `make docs`. Nothing is fetched from the network."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

# Airflow writes its settings into its home when it is imported.
os.environ.setdefault("AIRFLOW_HOME", str(Path(__file__).parent / "_build" / "airflow"))

from pydantic import BaseModel

import airflow_provider_flora

project = "Flora provider for Apache Airflow"
author = "the authors of airflow-provider-flora"
project_copyright = author
version = release = airflow_provider_flora.__version__

extensions = ["sphinx.ext.autodoc"]
exclude_patterns = ["_build", "reliability_results.rst"]
default_role = "code"
nitpicky = True
# Names of Airflow's and Python's own, whose pages are not here.
nitpick_ignore_regex = [
    ("py:.*", r"ObjectStoragePath|Airflow(Fail|Skip)Exception|AirflowSensorTimeout|Connection|Context|dict\[str"),
    ("py:.*", r"(airflow|collections|datetime|typing|types)\..*"),
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


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-signature", name_the_fields)
