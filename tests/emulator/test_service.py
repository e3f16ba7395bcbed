"""Keys, rate limits and the headers that every answer carries."""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime

import pytest
import requests


def test_every_answer_carries_a_request_id_of_its_own(flora):
    answers = [
        flora.get("/techniques"),
        flora.get("/nope"),
        flora.start(),
        flora.start("nope"),
        flora.start(inputs=[]),
    ]
    answers.append(flora.get(f"{flora.emulator.origin}/media/samples/mug.png"))
    answers.append(requests.get(f"{flora.emulator.base_url}/techniques", timeout=60))
    flora.emulator.order_fault("html")
    answers.append(flora.get("/techniques"))
    request_ids = [answer.headers["request-id"] for answer in answers]
    assert all(request_id.startswith("req_") for request_id in request_ids)
    assert len(set(request_ids)) == len(answers)


def test_a_technique_has_a_page_to_which_links_lead(flora):
    page = requests.get(f"{flora.emulator.origin}/techniques/wonder-fy", timeout=60)
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "<h1>Wonder(fy)</h1><p>Apply Wonder&#x27;s cinematic style to images</p>" in page.text
    assert requests.get(f"{flora.emulator.origin}/techniques/nope", timeout=60).status_code == 404


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic c2s="])
def test_without_a_key_every_operation_is_unauthorized(flora, header):
    for path in ("/techniques", "/workspaces", "/technique-runs", "/techniques/x", "/techniques/x/runs/y", "/nope"):
        headers = {} if header is None else {"authorization": header}
        answer = requests.get(flora.emulator.base_url + path, headers=headers, timeout=60)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthorized")


def test_a_wrong_key_has_its_own_error_and_a_key_can_be_rotated(flora):
    wrong = flora.send("GET", "/techniques", key="sk_test_wrong")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (401, "invalid_api_key")
    flora.emulator.api_key = "sk_test_wrong"
    assert flora.send("GET", "/techniques", key="sk_test_wrong").status_code == 200
    assert flora.send("GET", "/techniques", key="sk_test_emulator").status_code == 401


def test_the_clock_may_be_wrong(emulate):
    flora = emulate(clock_skew=-3600)
    before = time.time()
    run = flora.start()
    date = parsedate_to_datetime(run.headers["Date"]).timestamp()
    created = run.json()["created_at"] // 1000
    assert int(before) <= created + 3600 <= date + 3600 <= time.time()
    assert flora.ended(run.json())["status"] == "completed"


def test_what_comes_too_fast_is_refused_with_the_time_to_come_back(emulate, uptime):
    flora = emulate(rate_limit=3)
    answers = [flora.start() for _ in range(6)]
    assert [answer.status_code for answer in answers] == [200] * 3 + [429] * 3
    assert answers[-1].json()["error"]["code"] == "rate_limited"
    assert answers[-1].headers["retry-after"] == "1"
    assert flora.emulator.ledger()["started_runs"] == 3
    uptime.seconds += 0.3
    assert flora.start().status_code == 429
    uptime.seconds += 0.1
    assert flora.start().status_code == 200


def test_a_slow_rate_answers_how_long_to_wait(emulate, uptime):
    flora = emulate(rate_limit=0.25)
    flora.get("/techniques")
    assert flora.get("/techniques").headers["retry-after"] == "4"


def test_the_rate_limit_does_not_count_strangers(emulate):
    flora = emulate(rate_limit=1)
    for _ in range(3):
        assert flora.send("GET", "/techniques", key="sk_test_wrong").status_code == 401
    assert flora.get("/techniques").status_code == 200
