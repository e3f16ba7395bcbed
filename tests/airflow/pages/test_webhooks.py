"""Webhooks that come to a real API server: what they start, and that nothing else starts it."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import socket
import subprocess
import time
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from airflow_provider_flora.api.client import FloraClient
from airflow_provider_flora.api.settings import ClientSettings
from airflow_provider_flora.emulator import Emulator
from airflow_provider_flora.emulator.server import WEBHOOK_SECRET
from scripts.local_airflow import LocalAirflow
from tests.airflow.conftest import REPOSITORY
from tests.airflow.pages.conftest import STORED_SECRET

DAG = "flora_webhook"
PATIENCE = 120.0


@pytest.fixture
def flora(_emulator: Emulator) -> Emulator:
    """The emulator, with what the other tests have left in it."""
    return _emulator


@pytest.fixture(scope="module")
def waiting(airflow: LocalAirflow) -> LocalAirflow:
    """The Airflow, with a DAG that waits for webhooks."""
    airflow.wait_for_dag(DAG)
    airflow.unpause(DAG)
    return airflow


def url_of(airflow: LocalAirflow, conn_id: str = "flora_default") -> str:
    return f"{airflow.url}/flora/webhooks/{conn_id}"


def events(airflow: LocalAirflow) -> list[dict[str, Any]]:
    return [event["extra"] for event in airflow.api("GET", "/assets/events", params={"limit": 100})["asset_events"]]


def webhook(number: int) -> bytes:
    data = {"run_id": f"run_forged_{number}", "run_type": "technique", "status": "completed"}
    return json.dumps({"id": f"whd_forged_{number}", "type": "run.completed", "data": data}).encode()


def signed(body: bytes, secret: str) -> dict[str, str]:
    now = int(time.time())
    v1 = hmac.new(secret.encode(), b"%d." % now + body, hashlib.sha256).hexdigest()
    return {"Flora-Signature": f"t={now},v1={v1}"}


def test_the_end_of_a_run_that_somebody_has_started_runs_a_dag_that_finds_its_outputs(
    waiting: LocalAirflow, flora: Emulator
) -> None:
    with FloraClient(ClientSettings(flora.api_key, base_url=flora.base_url)) as client:
        run = client.start_technique_run("editorial-still", {"prompt": "a poster"}, callback_url=url_of(waiting))

    def delivered() -> list[dict[str, Any]]:
        return [one for one in flora.ledger()["deliveries"] if one["run_id"] == run.run_id]

    [delivery] = waiting.wait_until(delivered, PATIENCE, "the delivery")
    assert (delivery["status"], delivery["attempt"]) == (200, 1)
    [event] = [one for one in events(waiting) if one["webhook_id"] == delivery["webhook_id"]]
    assert event["payload"] == {
        "run_id": run.run_id,
        "status": "completed",
        "run_type": "technique",
        "workspace_id": "ws_emulator",
    }
    started = waiting.wait_until(
        lambda: waiting.api("GET", f"/dags/{DAG}/dagRuns")["dag_runs"], PATIENCE, "the DAG run"
    )
    [dag_run] = [one["dag_run_id"] for one in started]
    assert waiting.wait_for_dag_run(DAG, dag_run, PATIENCE) == "success"
    [found] = waiting.xcom(DAG, dag_run, "find_runs")
    assert found["run_id"] == run.run_id
    assert found["outputs"][0]["url"].startswith(flora.origin)


def test_a_connection_in_airflow_s_database_has_a_route_too(waiting: LocalAirflow) -> None:
    body = webhook(0)
    for conn_id, secret, status in (
        ("flora_stored", STORED_SECRET, 200),
        ("flora_stored", WEBHOOK_SECRET, 401),
        ("store", WEBHOOK_SECRET, 404),
        ("unknown", WEBHOOK_SECRET, 404),
    ):
        answer = requests.post(url_of(waiting, conn_id), body, headers=signed(body, secret), timeout=60)
        assert answer.status_code == status, conn_id
        assert secret not in answer.text


def test_a_delivery_by_hand_is_answered_as_the_docs_show(waiting: LocalAirflow) -> None:
    page = (REPOSITORY / "docs" / "webhooks.rst").read_text()
    [lines] = re.findall(r"^   \$ (SECRET=.*?)\n   (\{.*\})$", page, re.MULTILINE | re.DOTALL)
    command = lines[0].replace("\n   $ ", "\n").replace("http://localhost:8080", waiting.url)
    done = subprocess.run(["bash", "-ec", command], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == lines[1]


def test_what_is_not_flora_s_changes_nothing_with_a_login_or_without(waiting: LocalAirflow) -> None:
    before = events(waiting)
    login = {"_token": waiting.token()}
    url, body = url_of(waiting), webhook(1)
    good = signed(body, WEBHOOK_SECRET)
    tries: list[tuple[str, bytes, dict[str, str], int]] = [
        ("POST", body, {}, 401),
        ("POST", body, signed(body, STORED_SECRET), 401),
        ("POST", body[:-1], good, 401),
        ("POST", body + b" " * 70_000, good, 413),
        ("PUT", body, good, 405),
        ("GET", b"", {}, 405),
        ("HEAD", b"", {}, 405),
    ]
    for method, content, headers, status in tries:
        for cookies in ({}, login):
            answer = requests.request(method, url, data=content, headers=headers, cookies=cookies, timeout=60)
            assert answer.status_code == status
            assert "set-cookie" not in answer.headers
    for path in ("", "/", "/flora_default/", "/a%2Fb", "/..%2foutputs"):
        answer = requests.post(url_of(waiting, "")[:-1] + path, body, headers=good, timeout=60)
        assert answer.status_code in (404, 405), path
    assert events(waiting) == before


def test_a_delivery_that_is_cut_holds_nothing_up(waiting: LocalAirflow) -> None:
    before, body = events(waiting), webhook(2)
    where = urlsplit(url_of(waiting))
    head = f"POST {where.path} HTTP/1.1\r\nHost: {where.netloc}\r\nContent-Length: {len(body)}\r\n"
    head += f"Flora-Signature: {signed(body, WEBHOOK_SECRET)['Flora-Signature']}\r\n\r\n"
    for length in (0, 1, len(body) - 1):
        with socket.create_connection((str(where.hostname), where.port or 80), 60) as sender:
            sender.sendall(head.encode() + body[:length])
    assert events(waiting) == before
    answer = requests.post(url_of(waiting), body, headers=signed(body, "whsec_other"), timeout=60)
    assert answer.status_code == 401
    assert "ClientDisconnect" not in waiting.process_log("api-server")


def test_no_secret_is_in_a_log(waiting: LocalAirflow) -> None:
    for name in ("api-server", "scheduler", "dag-processor", "triggerer"):
        log = waiting.process_log(name)
        assert STORED_SECRET not in log
        assert WEBHOOK_SECRET not in log
