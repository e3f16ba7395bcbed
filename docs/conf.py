"""How the documentation is built: `make docs`. Nothing is fetched from the network."""

from __future__ import annotations

import os

import airflow_provider_flora

# Airflow reads its settings when it is imported; these keep the build from depending on a machine's own.
os.environ.setdefault("AIRFLOW__CORE__LOAD_EXAMPLES", "False")

project = "Flora provider for Apache Airflow"
author = "the authors of airflow-provider-flora"
project_copyright = author
version = release = airflow_provider_flora.__version__

extensions = ["sphinx.ext.autodoc"]
exclude_patterns = ["_build", "reliability_results.rst"]
default_role = "code"
nitpicky = True
# Types of other projects, and names that exist for the type checker only: their pages are not here.
nitpick_ignore_regex = [
    ("py:.*", r"(airflow|aiohttp|collections|datetime|pydantic|requests|tenacity|typing|types)\..*"),
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
