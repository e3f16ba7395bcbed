"""The control endpoints and the ledger."""

from __future__ import annotations

import socket
import time

import pytest
import requests

from tests.emulator.caller import text, wait_until


def control(flora, method, path, **options):
    return requests.request(method, f"{flora.emulator.origin}/_emulator/{path}", timeout=60, **options)


def test_the_ledger_shows_what_happened_and_what_it_cost(flora):
    run = flora.run(idempotency_key="k")
    flora.run("script-to-clips", [text("script", "x")])
    flora.emulator.order_fault("stall_run")
    flora.start()
    flora.get("/nope")
    while flora.emulator.ledger()["runs"][-1]["status"] == "pending":
        time.sleep(0.01)  # What follows compares the ledger with itself.
    ledger = control(flora, "GET", "ledger").json()
    polls = ledger["requests"].pop("getTechniqueRun")
    assert ledger["requests"] == {"startTechniqueRun": 3, "unknown": 1}
    assert ledger["responses"] == {"200": 3 + polls, "404": 1}
    assert ledger["faults_fired"] == {"stall_run": 1}
    assert (ledger["started_runs"], ledger["charged_runs"], ledger["charged_total"]) == (3, 2, 1.05)
    assert ledger["runs"][0] == {
        "run_id": run["run_id"],
        "technique_id": "tech_editorial-still",
        "inputs": [text("prompt", "A kettle")],
        "idempotency_key": "k",
        "status": "completed",
        "created_at": run["created_at"],
        "charged": 0.09,
        "error_code": None,
    }
    assert ledger["runs"][2]["charged"] == 0
    assert "runs" not in control(flora, "GET", "ledger?runs=0").json()
    assert flora.emulator.ledger() == {
        **control(flora, "GET", "ledger").json(),
        "connections": ledger["connections"] + 1,
    }


def test_connections_are_counted_as_they_are_accepted(flora):
    for _ in range(5):
        flora.get("/techniques")
    assert flora.emulator.ledger()["connections"] == 1, "one session, one connection"
    with socket.create_connection((flora.emulator.host, flora.emulator.port)):
        wait_until(lambda: flora.emulator.ledger()["connections"] == 2)


def test_a_reset_forgets_everything(flora):
    run = flora.run(idempotency_key="k")
    flora.emulator.order_fault("status", times=None, operation="listWorkspaces")
    assert control(flora, "POST", "reset").status_code == 200
    ledger = flora.emulator.ledger()
    assert ledger == {
        "runs": [],
        "started_runs": 0,
        "charged_runs": 0,
        "charged_total": 0,
        "requests": {},
        "responses": {},
        "connections": 0,
        "faults_fired": {},
        "deliveries": [],
        "uploads": [],
        "assets": [],
        "faults": [],
    }
    assert flora.get(run["poll_url"]).status_code == 404
    assert flora.get(run["outputs"][0]["url"]).status_code == 404
    assert flora.history() == []
    assert flora.start(idempotency_key="k").status_code == 200
    assert flora.get("/workspaces").status_code == 200


def test_runs_are_seeded_over_http(flora):
    answer = control(flora, "POST", "runs", json={"count": 3, "technique_id": "wonder-fy", "status": "failed"})
    assert len(answer.json()["run_ids"]) == 3
    assert [item["error_code"] for item in flora.history(technique_id="wonder-fy")] == ["provider_error"] * 3


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ({"count": 0}, "from 1 to"),
        ({"count": "3"}, "from 1 to"),
        ({"technique_id": "nope"}, "no technique"),
        ({"status": "done"}, "pending, running"),
        ({"spacing_ms": -1}, "milliseconds"),
        ({"colour": "red"}, "it takes count"),
        ([], "JSON object"),
    ],
)
def test_a_bad_seeding_is_refused(flora, order, message):
    answer = control(flora, "POST", "runs", json=order)
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]


def test_a_bad_body_of_a_control_request_is_refused(flora):
    assert control(flora, "POST", "faults", data=b"{").status_code == 400
