"""Idempotency, under either account."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from tests.emulator.caller import text, wait_until

OTHER = [text("prompt", "A teapot")]


def started(flora):
    return flora.emulator.ledger()["started_runs"]


def test_docs_a_repeated_key_is_a_409_without_the_run_id(flora):
    first = flora.start(idempotency_key="k").json()
    for again in (flora.start(idempotency_key="k"), flora.start(inputs=OTHER, idempotency_key="k")):
        assert again.status_code == 409
        assert again.json()["error"]["code"] == "idempotency_duplicate"
        assert first["run_id"] not in again.text
    assert flora.start("tagline-writer", [text("brief", "x")], idempotency_key="k").status_code == 409
    assert flora.start(idempotency_key="other").status_code == 200
    assert started(flora) == 2


def test_site_a_repeated_key_replays_the_first_answer(emulate):
    flora = emulate(idempotency="site")
    first = flora.start(idempotency_key="k")
    flora.ended(first.json())
    again = flora.start(idempotency_key="k")
    assert (again.status_code, again.json()) == (200, first.json())
    assert again.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first.headers
    assert again.headers["request-id"] != first.headers["request-id"]
    assert started(flora) == 1


def test_site_another_body_is_a_422(emulate):
    flora = emulate(idempotency="site")
    flora.start(idempotency_key="k")
    other = flora.start(inputs=OTHER, idempotency_key="k")
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_conflict")
    technique = flora.start("script-to-clips", [text("script", "A kettle")], idempotency_key="k")
    assert technique.status_code == 422
    assert started(flora) == 1


@pytest.mark.parametrize("account", ["docs", "site"])
def test_a_key_is_free_again_after_its_window(emulate, account):
    flora = emulate(idempotency=account, idempotency_window=0.2)
    first = flora.start(idempotency_key="k").json()
    time.sleep(0.25)
    again = flora.start(idempotency_key="k")
    assert again.status_code == 200
    assert again.json()["run_id"] != first["run_id"]


@pytest.mark.parametrize(
    "fault",
    [{"kind": "status", "status": 503}, {"kind": "html"}, {"kind": "reset"}, {"kind": "status", "status": 429}],
)
def test_a_key_is_released_when_the_request_itself_fails(flora, fault):
    flora.emulator.order_fault(**fault)
    try:
        assert flora.start(idempotency_key="k").status_code >= 429
    except requests.ConnectionError:
        assert fault["kind"] == "reset"
    assert started(flora) == 0
    assert flora.start(idempotency_key="k").status_code == 200


def test_a_refused_request_does_not_burn_its_key(flora):
    assert flora.start(inputs=[], idempotency_key="k").status_code == 400
    assert flora.start(idempotency_key="k").status_code == 200


@pytest.mark.parametrize("fault", [{"kind": "reset"}, {"kind": "html"}])
def test_a_lost_answer_leaves_the_key_burned(flora, fault):
    flora.emulator.order_fault(**fault, when="after")
    try:
        flora.start(idempotency_key="k")
    except requests.ConnectionError:
        assert fault["kind"] == "reset"
    assert started(flora) == 1
    assert flora.start(idempotency_key="k").status_code == 409


def test_a_run_that_fails_later_has_burned_its_key(flora):
    flora.emulator.order_fault("fail_run")
    assert flora.run(idempotency_key="k")["status"] == "failed"
    assert flora.start(idempotency_key="k").status_code == 409


def test_the_header_is_ignored(flora):
    for _ in range(2):
        answer = flora.send(
            "POST",
            "/techniques/editorial-still/runs",
            json={"inputs": OTHER, "mode": "async"},
            headers={"Idempotency-Key": "k"},
        )
        assert answer.status_code == 200


def test_two_requests_with_one_key_at_once_may_both_run(flora, an_hour):
    flora.emulator.order_fault("delay", when="during", seconds=3600, operation="startTechniqueRun", times=2)

    def start(_):
        return requests.post(
            f"{flora.emulator.base_url}/techniques/editorial-still/runs",
            json={"inputs": OTHER, "mode": "async", "idempotency_key": "k"},
            headers={"authorization": f"Bearer {flora.emulator.api_key}"},
            timeout=60,
        ).status_code

    with ThreadPoolExecutor(2) as pool:
        answers = pool.map(start, range(2))
        wait_until(lambda: flora.emulator.ledger()["faults_fired"] == {"delay": 2})
        an_hour.set()
        assert list(answers) == [200, 200]
    assert started(flora) == 2
    assert flora.start(idempotency_key="k").status_code == 409


@pytest.mark.parametrize("run", ["last", "first"])
@pytest.mark.parametrize("answer", ["504", "reset"])
@pytest.mark.parametrize("account", ["docs", "site"])
def test_a_second_start_is_charged_too_while_the_first_is_at_work(emulate, an_hour, account, answer, run):
    flora = emulate(idempotency=account)
    flora.emulator.order_fault("slow_start", seconds=3600, answer=answer, run=run)
    try:
        assert flora.start(idempotency_key="k").status_code == 504
    except requests.ConnectionError:
        assert answer == "reset"
    second = flora.start(idempotency_key="k")
    assert second.status_code == 200, "its key is not known yet"
    an_hour.set()
    wait_until(lambda: not flora.emulator._service._slow_starts)
    wait_until(lambda: flora.emulator.ledger()["charged_runs"] == 2)
    assert [one["idempotency_key"] for one in flora.emulator.ledger()["runs"]] == ["k", "k"]
    third = flora.start(idempotency_key="k")
    assert third.status_code == (409 if account == "docs" else 200)
    assert ("idempotent-replayed" in third.headers) is (account == "site")
    assert started(flora) == 2


def test_an_unknown_account_is_refused(emulate):
    with pytest.raises(ValueError, match="docs, site"):
        emulate(idempotency="both")
