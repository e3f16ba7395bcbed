# [START howto_test_conftest]
import json
import os
import tempfile
from pathlib import Path

# Airflow reads these when it is imported.
os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="airflow-")
os.environ["AIRFLOW__CORE__DAGS_FOLDER"] = str(Path(__file__).parents[1] / "dags")
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"

import pytest

from airflow_provider_flora.emulator import Emulator


@pytest.fixture(scope="session", autouse=True)
def database():
    from airflow.utils.db import initdb

    initdb()


@pytest.fixture
def flora(monkeypatch):
    with Emulator(run_seconds=1, cost_lag=0) as emulator:
        connection = {"conn_type": "flora", "host": emulator.base_url, "password": emulator.api_key}
        monkeypatch.setenv("AIRFLOW_CONN_FLORA_DEFAULT", json.dumps(connection))
        yield emulator


# [END howto_test_conftest]
