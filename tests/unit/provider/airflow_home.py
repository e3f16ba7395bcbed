"""Gives Airflow a home of its own for these tests, before it is imported. Imports nothing of Airflow."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile

if "airflow" not in sys.modules and "FLORA_UNIT_AIRFLOW_HOME" not in os.environ:
    home = tempfile.mkdtemp(prefix="flora-unit-")
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    os.environ["FLORA_UNIT_AIRFLOW_HOME"] = os.environ["AIRFLOW_HOME"] = home
    os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
    os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = f"sqlite:///{home}/airflow.db"
