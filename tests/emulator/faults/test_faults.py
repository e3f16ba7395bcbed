"""Faults on order, and that the ledger knows of them."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from http.client import HTTPConnection

import pytest
import requests

from tests.emulator.caller import wait_until


def order(flora, **spec):
    return requests.post(f"{flora.emulator.origin}/_emulator/faults", json=spec, timeout=60)


def started(flora):
    return flora.emulator.ledger()["started_runs"]


def send_start(flora):
    """Send a start, and do not wait for the answer."""
    client = HTTPConnection(flora.emulator.host, flora.emulator.port)
    body = {"inputs": [{"id": "prompt", "type": "text", "value": "x"}], "mode": "async"}
    headers = {"authorization": f"Bearer {flora.emulator.api_key}"}
    client.request("POST", "/api/v1/techniques/editorial-still/runs", json.dumps(body), headers)
    return client


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "input_validation_error"),
        (401, "invalid_api_key"),
        (402, "insufficient_credits"),
        (403, "forbidden"),
        (404, "not_found"),
        (409, "idempotency_duplicate"),
        (422, "idempotency_conflict"),
        (429, "rate_limited"),
        (500, "unknown_error"),
        (503, "service_unavailable"),
    ],
)
def test_status_answers_before_anything_is_processed(flora, status, code):
    assert order(flora, kind="status", status=status).status_code == 200
    answer = flora.start()
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert "retry-after" not in answer.headers
    assert started(flora) == 0
    assert flora.start().status_code == 200, "once"


def test_status_takes_a_code_a_message_and_a_retry_after(flora):
    for retry_after in (7, "Wed, 21 Oct 2026 07:28:00 GMT"):
        order(flora, kind="status", status=403, code="paid_plan_required", message="Pay.", retry_after=retry_after)
        answer = flora.get("/techniques")
        assert answer.json()["error"] == {"code": "paid_plan_required", "message": "Pay."}
        assert answer.headers["retry-after"] == str(retry_after)


def test_a_409_of_another_kind_has_nothing_to_do_with_the_key(flora):
    order(flora, kind="status", status=409, code="conflict", message="The canvas is being changed.")
    answer = flora.start(idempotency_key="k")
    assert answer.status_code == 409
    assert answer.json()["error"] == {"code": "conflict", "message": "The canvas is being changed."}
    assert flora.start(idempotency_key="k").status_code == 200, "the key is free"
    assert flora.start(idempotency_key="k").json()["error"]["code"] == "idempotency_duplicate"


@pytest.mark.parametrize(
    "retry_after", [0, 1.5, 3600, pytest.param(formatdate(time.time() + 3600, usegmt=True), id="a date")]
)
def test_a_429_may_ask_for_any_pause(flora, retry_after):
    order(flora, kind="status", status=429, retry_after=retry_after)
    answer = flora.start()
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "rate_limited")
    assert answer.headers["retry-after"] == str(retry_after)


@pytest.mark.parametrize("status", [401, 403, 404])
@pytest.mark.parametrize("kind", ["status", "html"])
def test_a_refusal_may_come_once_from_flora_or_from_a_proxy(flora, kind, status):
    run = flora.run()
    order(flora, kind=kind, status=status, operation="getTechniqueRun")
    answer = flora.get(run["poll_url"])
    assert answer.status_code == status
    assert answer.headers["content-type"].startswith("application/json" if kind == "status" else "text/html")
    assert ('{"error":{"code":' in answer.text) is (kind == "status")
    assert flora.get(run["poll_url"]).json() == run


def test_html_before_and_after(flora):
    for when, runs in (("before", 0), ("after", 1)):
        order(flora, kind="html", when=when)
        answer = flora.start()
        assert (answer.status_code, answer.headers["content-type"]) == (502, "text/html; charset=utf-8")
        assert "<html>" in answer.text
        assert started(flora) == runs


def test_reset_before_and_after(flora):
    for when, runs in (("before", 0), ("after", 1)):
        order(flora, kind="reset", when=when)
        with pytest.raises(requests.ConnectionError, match="reset"):
            flora.start()
        assert started(flora) == runs
    assert flora.emulator.ledger()["responses"]["reset"] == 2


def test_cut_json_looks_like_a_whole_answer(flora):
    order(flora, kind="cut_json")
    answer = flora.start()
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("application/json")
    assert int(answer.headers["content-length"]) == len(answer.content)
    with pytest.raises(json.JSONDecodeError):
        json.loads(answer.text)
    assert started(flora) == 1


def test_not_a_run_is_json_without_a_run(flora):
    order(flora, kind="not_a_run")
    answer = flora.start()
    assert answer.status_code == 200
    assert "run_id" not in answer.json()
    assert started(flora) == 1


def test_oversize_is_more_than_16_mb(flora):
    order(flora, kind="oversize")
    assert len(flora.start().content) > 16 * 1024 * 1024


def test_what_was_streamed_cannot_be_replaced_but_its_connection_can_be_broken(flora):
    for kind in ("html", "cut_json", "not_a_run", "oversize"):
        flora.emulator.order_fault(kind, when="after")
        answer = flora.start(mode="stream")
        assert answer.status_code == 200
        assert '"status":"completed"' in answer.text
    order(flora, kind="reset", when="after")
    with pytest.raises(requests.RequestException):
        flora.start(mode="stream")


def test_oversize_can_be_left_unread(flora):
    order(flora, kind="oversize")
    with flora.send("GET", "/techniques", stream=True) as answer:
        answer.raw.read(1000)
    assert flora.get("/techniques").status_code == 200


def test_redirect_points_elsewhere(flora):
    order(flora, kind="redirect", location="https://evil.example/")
    answer = flora.get("/techniques")
    assert (answer.status_code, answer.headers["location"]) == (302, "https://evil.example/")


@pytest.mark.parametrize(("when", "runs"), [("before", 0), ("after", 1)])
def test_delay_comes_before_or_after_the_work_and_holds_nobody_else_up(flora, an_hour, when, runs):
    order(flora, kind="delay", seconds=3600, when=when, operation="startTechniqueRun")
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(flora.start)
        wait_until(lambda: flora.emulator.ledger()["faults_fired"])
        assert requests.get(f"{flora.emulator.origin}/media/samples/none.png", timeout=60).status_code == 404
        assert started(flora) == runs
        assert not late.done()
        an_hour.set()
        assert late.result().status_code == 200
    assert started(flora) == 1


def test_a_client_that_gave_up_does_not_undo_the_run(flora, an_hour):
    order(flora, kind="delay", seconds=3600)
    client = send_start(flora)
    wait_until(lambda: flora.emulator.ledger()["faults_fired"])
    client.close()
    assert started(flora) == 0
    an_hour.set()
    wait_until(lambda: started(flora) == 1)


def test_slow_list_slows_only_the_history(flora, an_hour):
    order(flora, kind="slow_list", seconds=3600, times=None)
    with ThreadPoolExecutor(1) as pool:
        history = pool.submit(flora.get, "/technique-runs")
        wait_until(lambda: flora.emulator.ledger()["faults_fired"])
        flora.get("/techniques")
        assert not history.done()
        an_hour.set()
        assert history.result().status_code == 200


def test_an_outage_takes_everything_down_for_a_while(flora, uptime):
    order(flora, kind="outage", seconds=5)
    for path in ("/techniques", "/workspaces", f"{flora.emulator.origin}/media/samples/mug.png"):
        with pytest.raises(requests.ConnectionError):
            flora.get(path)
    uptime.seconds += 5
    assert flora.get("/techniques").status_code == 200
    ledger = flora.emulator.ledger()
    assert ledger["faults_fired"] == {"outage": 3}
    assert ledger["faults"] == []


def test_a_rate_limit_fault_may_omit_retry_after(flora, uptime):
    for sent in (True, False):
        order(flora, kind="rate_limit", per_second=2, retry_after=sent)
        answers = [flora.get("/techniques") for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 429, 429]
        assert ("retry-after" in answers[-1].headers) is sent
        flora.emulator.clear_faults()
    assert flora.emulator.ledger()["faults_fired"] == {"rate_limit": 4}


def test_an_order_names_the_requests_it_means(flora):
    order(flora, kind="status", operation="getTechnique", contains="relight", skip=1, times=2)
    assert flora.get("/techniques").status_code == 200
    assert flora.get("/techniques/tagline-writer").status_code == 200
    answers = [flora.get("/techniques/product-relight").status_code for _ in range(4)]
    assert answers == [200, 503, 503, 200]


def test_contains_looks_into_the_body(flora):
    order(flora, kind="fail_run", contains="teapot")
    assert flora.run()["status"] == "completed"
    assert flora.run(inputs=[{"id": "prompt", "type": "text", "value": "A teapot"}])["status"] == "failed"


def test_orders_are_tried_in_turn_and_the_first_answer_ends_the_matter(flora):
    order(flora, kind="delay", seconds=0.01, times=None)
    order(flora, kind="status", status=503)
    order(flora, kind="html")
    order(flora, kind="redirect")
    order(flora, kind="cut_json")
    assert [flora.get("/workspaces").status_code for _ in range(5)] == [503, 502, 302, 200, 200]
    fired = flora.emulator.ledger()["faults_fired"]
    assert fired == {"delay": 5, "status": 1, "html": 1, "redirect": 1, "cut_json": 1}


def test_orders_last_until_cleared_when_times_is_null(flora):
    order(flora, kind="status", times=None)
    assert {flora.get("/techniques").status_code for _ in range(3)} == {503}
    (standing,) = flora.emulator.ledger()["faults"]
    assert (standing["kind"], standing["fired"], standing["times"]) == ("status", 3, None)
    assert requests.delete(f"{flora.emulator.origin}/_emulator/faults", timeout=60).status_code == 200
    assert flora.get("/techniques").status_code == 200


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"kind": "explode"}, "one of status, "),
        ({}, "one of status, "),
        ({"kind": "status", "colour": 1}, "it takes when, operation"),
        ({"kind": "delay"}, "needs seconds"),
        ({"kind": "delay", "seconds": -1}, "a number of seconds"),
        ({"kind": "delay", "seconds": True}, "a number of seconds"),
        ({"kind": "html", "when": "during"}, "one of before, after"),
        ({"kind": "reset", "times": 0}, "1 or more"),
        ({"kind": "reset", "skip": "2"}, "a whole number"),
        ({"kind": "reset", "operation": "start"}, "startTechniqueRun"),
        ({"kind": "status", "status": 99}, "200 to 599"),
        ({"kind": "rate_limit", "per_second": 0}, "above 0"),
        ({"kind": "slow_start"}, "needs seconds"),
        ({"kind": "end_run", "status": "failed"}, "none of pending, running, completed, failed"),
        ({"kind": "end_run", "status": ""}, "none of pending"),
        ({"kind": "set_output"}, "needs url"),
        ({"kind": "set_output", "url": 5}, "text or null"),
        ({"kind": "set_output", "url": None, "seconds": -1}, "seconds or null"),
        ({"kind": "slow_start", "seconds": 1, "answer": "503"}, "one of late, 408, 502, 504"),
        ({"kind": "slow_start", "seconds": 1, "answer": 504}, "one of late, 408, 502, 504"),
        ({"kind": "slow_start", "seconds": 1, "run": "never"}, "last or first"),
    ],
)
def test_an_order_that_makes_no_sense_is_refused_with_what_would(flora, spec, message):
    answer = order(flora, **spec)
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]
    assert flora.emulator.ledger()["faults"] == []


def test_in_python_a_bad_order_is_a_value_error(flora):
    with pytest.raises(ValueError, match="needs seconds"):
        flora.emulator.order_fault("delay")


def test_media_can_be_broken_too(flora):
    flora.emulator.order_fault("status", operation="getMedia", status=503)
    url = f"{flora.emulator.origin}/media/samples/mug.png"
    assert [flora.get(url).status_code for _ in range(2)] == [503, 200]


@pytest.mark.parametrize(
    ("answer", "status", "content_type"),
    [
        ("408", 408, "text/html"),
        ("502", 502, "text/html"),
        ("504", 504, "text/html"),
        ("html", 200, "text/html"),
        ("cut_json", 200, "application/json"),
    ],
)
@pytest.mark.parametrize("run", ["last", "first"])
def test_a_proxy_may_answer_while_flora_is_still_at_work(flora, an_hour, run, answer, status, content_type):
    order(flora, kind="slow_start", seconds=3600, answer=answer, run=run)
    response = flora.start(mode="stream")
    assert (response.status_code, response.headers["content-type"]) == (status, f"{content_type}; charset=utf-8")
    with pytest.raises(requests.JSONDecodeError):
        response.json()
    assert started(flora) == len(flora.history()) == (run == "first")
    an_hour.set()
    wait_until(lambda: not flora.emulator._service._slow_starts)
    assert started(flora) == len(flora.history()) == 1


def test_a_connection_may_be_reset_while_flora_is_still_at_work(flora, an_hour):
    order(flora, kind="slow_start", seconds=3600, answer="reset")
    with pytest.raises(requests.ConnectionError, match="reset"):
        flora.start()
    assert started(flora) == 0
    an_hour.set()
    wait_until(lambda: started(flora) == 1)
    assert flora.emulator.ledger()["responses"] == {"reset": 1}


def test_an_answer_may_never_come_although_the_run_exists(flora):
    order(flora, kind="slow_start", seconds=0.1, answer="timeout")
    client = send_start(flora)
    wait_until(lambda: started(flora) == 1)
    client.sock.settimeout(0.2)
    with pytest.raises(TimeoutError):
        client.getresponse()
    assert flora.emulator.ledger()["responses"] == {}
    client.close()  # and the connection is let go with its client
    wait_until(lambda: flora.emulator.ledger()["responses"] == {"reset": 1})


def test_a_slow_start_answers_late_where_no_proxy_gives_up(flora):
    order(flora, kind="slow_start", seconds=0.3)
    begun = time.perf_counter()
    response = flora.start()
    assert time.perf_counter() - begun > 0.3
    assert (response.status_code, response.json()["status"]) == (200, "pending")
    assert started(flora) == 1


def test_a_refused_start_is_refused_at_once(flora):
    order(flora, kind="slow_start", seconds=5, answer="504")
    assert flora.start(inputs=[]).status_code == 400
    assert flora.emulator.ledger()["faults_fired"] == {}


def test_a_start_that_is_at_work_does_not_outlive_a_reset(flora):
    order(flora, kind="slow_start", seconds=0.2, answer="504")
    assert flora.start().status_code == 504
    flora.emulator.reset()
    time.sleep(0.3)
    assert started(flora) == 0
