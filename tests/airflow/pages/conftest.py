"""An Airflow below a path, with runs of two DAGs, and those who look at them.

The guest's limit is a test's own auth manager; `requires_access_dag` and everything that asks it is Airflow's.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import requests

from airflow_provider_flora.emulator import Emulator
from airflow_provider_flora.emulator.server import WEBHOOK_SECRET
from scripts.local_airflow import PASSWORD, USER, LocalAirflow, free_port
from tests.airflow.conftest import DATABASES, EXAMPLES, REPOSITORY
from tests.airflow.pages.guests_auth_manager import GUEST, SEEN
from tests.compatibility.conftest import PYTHON

HIDDEN, HOSTILE = "pages_hidden", "pages_hostile"
STORED_SECRET = "whsec_stored"
"""Of the connection ``flora_stored``, which is in the database."""
JSON = {"Accept": "application/json"}
HTML = {"Accept": "text/html"}


class Browser:
    """Somebody who looks at the pages, logged in with the cookie of Airflow's UI, or not."""

    def __init__(self, airflow: LocalAirflow, user: str | None = None, password: str = "") -> None:
        self._url = airflow.url
        self._session = requests.Session()
        self._session.trust_env = False
        if user is not None:
            login = {"username": user, "password": password}
            answer = self._session.post(f"{airflow.url}/auth/token", json=login, timeout=30)
            answer.raise_for_status()
            self.use_token(answer.json()["access_token"])

    def use_token(self, token: str) -> None:
        self._session.cookies.set("_token", token)

    def get(self, page: str, headers: Mapping[str, str] = JSON, **query: Any) -> requests.Response:
        return self._session.get(f"{self._url}/flora/{page}", params=query, headers=headers, timeout=30)


@pytest.fixture(scope="session")
def store() -> Iterator[Any]:
    """A boto3 client of an S3 on this machine with the bucket `pages`."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    keys = {"aws_access_key_id": "me", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
    client: Any = boto3.client("s3", endpoint_url=f"http://{host}:{port}", **keys)
    client.create_bucket(Bucket="pages")
    yield client
    server.stop()


@pytest.fixture(scope="session")
def airflow(
    _emulator: Emulator, environment: Mapping[str, str], store: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalAirflow]:
    """An Airflow below the path /air, whose guest may see one of two DAGs. Two connections are in its database."""
    home, port = tmp_path_factory.mktemp("pages"), free_port()
    folder = tmp_path_factory.mktemp("dags")
    shutil.copytree(Path(__file__).parent / "dags", folder, dirs_exist_ok=True)
    shutil.copy(EXAMPLES / "flora_choose.py", folder)
    flora = json.loads(environment["AIRFLOW_CONN_FLORA_DEFAULT"])
    env = {
        **environment,
        "AIRFLOW_CONN_FLORA_DEFAULT": json.dumps({**flora, "extra": {"webhook_secret": WEBHOOK_SECRET}}),
        "FLORA_PAGES_FOLDER": str(home / "files"),
        "FLORA_PAGES_STORE": "s3://store@pages" if sys.executable == PYTHON else f"file://{home}/store",
        "PYTHONPATH": str(REPOSITORY),
        "AIRFLOW__API__BASE_URL": f"http://127.0.0.1:{port}/air",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/air/execution/",
        "AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE": "True",  # asset events start DAGs
        "AIRFLOW__CORE__AUTH_MANAGER": "tests.airflow.pages.guests_auth_manager.GuestsAuthManager",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USER}:admin,{GUEST}:viewer",
    }
    airflow = LocalAirflow(home, folder, env=env, database_cache=DATABASES, port=port, python=PYTHON)
    airflow.url += "/air"
    with airflow:
        extra = {"endpoint_url": store.meta.endpoint_url, "region_name": "us-east-1"}
        connection = {
            "connection_id": "store",
            "conn_type": "aws",
            "login": "me",
            "password": "secret",
            "extra": json.dumps(extra),
        }
        airflow.api("POST", "/connections", body=connection)
        secret = json.dumps({"webhook_secret": STORED_SECRET})
        stored = {"connection_id": "flora_stored", "conn_type": "flora", "password": "key", "extra": secret}
        airflow.api("POST", "/connections", body=stored)
        yield airflow


@pytest.fixture(scope="session")
def runs(airflow: LocalAirflow) -> dict[str, str]:
    """A finished run of each DAG."""
    started = {dag_id: airflow.trigger(dag_id) for dag_id in (SEEN, HIDDEN, HOSTILE)}
    states = {dag_id: airflow.wait_for_dag_run(dag_id, run_id, 240) for dag_id, run_id in started.items()}
    assert states == {SEEN: "failed", HIDDEN: "success", HOSTILE: "success"}  # one task of the first is refused
    return started


@pytest.fixture(scope="session")
def admin(airflow: LocalAirflow) -> Browser:
    return Browser(airflow, USER, PASSWORD)


@pytest.fixture(scope="session")
def guest(airflow: LocalAirflow) -> Browser:
    passwords = json.loads((airflow.home / "passwords.json").read_text())
    return Browser(airflow, GUEST, passwords[GUEST])


def of(task_id: str, runs: Mapping[str, str], dag_id: str = SEEN, **more: Any) -> dict[str, Any]:
    return {"dag_id": dag_id, "run_id": runs[dag_id], "task_id": task_id, **more}
