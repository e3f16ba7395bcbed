"""Gives Airflow a home of its own for these tests, before it is imported. Imports nothing of Airflow.

A process that a test starts has the home of the test; one that runs tests beside others has one of its own.
"""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile

GIVEN = "FLORA_UNIT_AIRFLOW_HOME" + os.environ.get("PYTEST_XDIST_WORKER", "")

if "airflow" not in sys.modules and GIVEN not in os.environ:
    home = tempfile.mkdtemp(prefix="flora-unit-")
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    os.environ[GIVEN] = os.environ["AIRFLOW_HOME"] = home
    os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
    os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = f"sqlite:///{home}/airflow.db"
