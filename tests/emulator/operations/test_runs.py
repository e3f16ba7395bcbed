"""Starting a run, and its life."""

from __future__ import annotations

import json
import time
from itertools import groupby

import pytest
import requests

from tests.emulator.caller import image, text

PHOTO = image("photo", "https://example.com/shoe.png")
LIGHT = text("light", "dusk")


def fields(answer):
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["code"] == "input_validation_error"
    return {field["field"]: field["message"] for field in answer.json()["error"]["fields"]}


def test_a_run_goes_from_pending_over_running_to_completed(emulate):
    flora = emulate(run_seconds=600, cost_lag=600)
    started = flora.start()
    run = started.json()
    assert run["status"] == "pending"
    assert run["progress"] == 0
    assert run["charged_cost"] == 0.09, "a quote"
    assert not {"started_at", "completed_at", "outputs"} & run.keys()
    seen = [run]
    while seen[-1]["status"] != "completed":
        flora.later(20)
        seen.append(flora.get(run["poll_url"]).json())
    assert list(dict.fromkeys(one["status"] for one in seen)) == ["pending", "running", "completed"]
    progress = [one["progress"] for one in seen]
    assert progress == sorted(progress)
    assert progress[-1] == 100
    assert all(one["progress"] < 100 for one in seen[:-1])
    end = seen[-1]
    assert end["created_at"] <= end["started_at"] <= end["completed_at"]
    assert 540_000 <= end["completed_at"] - end["created_at"] <= 660_000, "600 s, give or take a tenth"
    assert "charged_cost" not in end, "unknown for a while"
    flora.later(600)
    assert flora.get(run["poll_url"]).json()["charged_cost"] == 0.09


def test_durations_vary_and_the_seed_decides_how(emulate):
    def durations(seed):
        flora = emulate(run_seconds=0.1, seed=seed)
        runs = [flora.start().json() for _ in range(3)]
        ended = [flora.ended(run) for run in runs]
        return [run["completed_at"] - run["created_at"] for run in ended]

    first = durations(1)
    assert len(set(first)) > 1
    assert first == durations(1) != durations(2)


def test_with_no_run_seconds_a_run_ends_at_once(emulate):
    run = emulate(run_seconds=0).start().json()
    assert run["status"] == "completed"
    assert run["outputs"]
    assert run["charged_cost"] == 0.09


def test_a_failed_run_is_at_100_and_completed_and_not_charged(flora):
    flora.emulator.order_fault("fail_run", error_code="LLM_REFUSAL", error_message="No.")
    answer = flora.start()
    assert answer.status_code == 200, "success of the request is not success of the run"
    run = flora.ended(answer.json())
    assert run["status"] == "failed"
    assert run["progress"] == 100
    assert run["completed_at"]
    assert (run["error_code"], run["error_message"]) == ("LLM_REFUSAL", "No.")
    assert "outputs" not in run
    assert "charged_cost" not in run
    ledger = flora.emulator.ledger()
    assert (ledger["charged_runs"], ledger["charged_total"]) == (0, 0)
    assert ledger["runs"][0]["error_code"] == "LLM_REFUSAL"


def test_a_text_output_has_its_text_in_url(flora):
    run = flora.run("tagline-writer", [text("brief", "An airline for dogs")])
    (output,) = run["outputs"]
    assert output["type"] == "text"
    assert "An airline for dogs" in output["url"]


def test_every_technique_that_can_be_run_gives_all_its_outputs(flora):
    refused = []
    for technique in flora.get("/techniques", limit=100).json()["techniques"]:
        values = {"text": "words", "imageUrl": "https://e.com/a.png", "videoUrl": "https://e.com/a.mp4"}
        inputs = [
            {"id": slot["id"], "type": slot["type"], "value": values[slot["type"]]}
            for slot in technique["inputs"]
            if slot["type"] in values
        ]
        answer = flora.start(technique["slug"], inputs)
        if answer.status_code != 200:
            refused.append(technique["slug"])
            assert fields(answer) == {"speech": "Required"}
            continue
        outputs = flora.ended(answer.json())["outputs"]
        assert [(o["output_id"], o["type"]) for o in outputs] == [
            (o["id"], o["type"]) for o in technique["outputs"]
        ]
    assert refused == ["lip-sync"], "its recording cannot be given to a run"


def test_a_run_belongs_to_its_technique(flora):
    run = flora.start().json()
    assert flora.get(f"/techniques/editorial-still/runs/{run['run_id']}").json()["run_id"] == run["run_id"]
    for path in (f"/techniques/product-relight/runs/{run['run_id']}", "/techniques/editorial-still/runs/run_x"):
        assert flora.get(path).status_code == 404
    assert flora.start("nope").status_code == 404


@pytest.mark.parametrize(
    ("inputs", "field", "message"),
    [
        ([LIGHT], "photo", "Required"),
        ([PHOTO], "light", "Required"),
        ([PHOTO, text("light", "")], "light", "Must not be empty"),
        ([PHOTO, LIGHT, text("zoom", "2")], "inputs[2].id", "no input 'zoom'"),
        ([text("photo", "a shoe"), LIGHT], "photo", "Expected type imageUrl"),
        ([image("photo", "http://example.com/a.png"), LIGHT], "photo", "HTTPS"),
        ([image("photo", "shoe.png"), LIGHT], "photo", "HTTPS"),
        ([image("photo", "https:///a.png"), LIGHT], "photo", "HTTPS"),
        ([image("photo", "https://["), LIGHT], "photo", "HTTPS"),
        ([PHOTO, PHOTO, LIGHT], "photo", "more than once"),
        ([{**PHOTO, "type": "audioUrl"}, LIGHT], "inputs[0].type", "Must be one of: text, imageUrl, videoUrl"),
        ([PHOTO, {**LIGHT, "value": 5}], "inputs[1].value", "Expected a string"),
        ([PHOTO, {"id": "light", "value": "dusk"}], "inputs[1].type", "Required"),
        ([PHOTO, {**LIGHT, "note": ""}], "inputs[1].note", "Unrecognized"),
        ([PHOTO, "light"], "inputs[1]", "Expected an object"),
        ({"photo": "x"}, "inputs", "Expected an array"),
    ],
)
def test_what_is_wrong_with_an_input_is_named(flora, inputs, field, message):
    problems = fields(flora.start("product-relight", inputs))
    assert message in problems[field]
    assert not flora.emulator.ledger()["runs"]


@pytest.mark.parametrize(
    ("body", "field", "message"),
    [
        ({"colour": "red"}, "colour", "Unrecognized"),
        ({"mode": "sync"}, "mode", "async, stream"),
        ({"mode": ["async"]}, "mode", "async, stream"),
        ({"idempotency_key": ""}, "idempotency_key", "non-empty"),
        ({"idempotency_key": 7}, "idempotency_key", "non-empty"),
        ({"callback_url": None}, "callback_url", "non-empty"),
        ({"callback_url": "http://example.com/"}, "callback_url", "HTTPS"),
    ],
)
def test_what_is_wrong_with_the_body_is_named(flora, body, field, message):
    assert message in fields(flora.start(**body))[field]


def test_everything_wrong_is_reported_at_once(flora):
    answer = flora.send("POST", "/techniques/product-relight/runs", json={"inputs": [], "extra": 1})
    assert fields(answer).keys() == {"extra", "photo", "light", "mode"}
    assert "photo: Required" in answer.json()["error"]["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"inputs=1", b"\xff\xfe"])
def test_a_body_that_is_not_json_is_refused(flora, body):
    answer = flora.send("POST", "/techniques/editorial-still/runs", data=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json")


def test_a_body_that_is_no_object_is_refused(flora):
    assert "body" in fields(flora.send("POST", "/techniques/editorial-still/runs", json=[1]))


def test_several_values_of_one_input_are_one_run_for_each(flora):
    products = [image("products", f"https://example.com/{n}.png") for n in range(3)]
    problems = fields(flora.start("product-lookbook-grid", products))
    assert problems == {"products": "Given more than once: start one run for each value"}
    run_ids = {flora.start("product-lookbook-grid", [product]).json()["run_id"] for product in products}
    assert len(run_ids) == flora.emulator.ledger()["started_runs"] == 3


def test_an_element_is_accepted_if_its_slot_accepts_elements(flora):
    assert flora.start("cctv-cam", [image("face", "elem_42")]).status_code == 200
    assert "face" in fields(flora.start("cctv-cam", [image("face", "elem 42")]))


def test_the_emulators_own_media_need_not_be_https(flora):
    port = flora.emulator.port
    for origin in (flora.emulator.origin, f"http://localhost:{port}"):
        inputs = [image("photo", f"{origin}/media/samples/mug.png"), LIGHT]
        assert flora.start("product-relight", inputs).status_code == 200
    other = [image("photo", f"http://127.0.0.1:{port + 1}/media/samples/mug.png"), LIGHT]
    assert "photo" in fields(flora.start("product-relight", other))


def test_a_streamed_run_sends_events_until_its_end(emulate):
    flora = emulate(run_seconds=600)
    body = {"inputs": [text("prompt", "A kettle")], "mode": "stream"}
    events = []
    with flora.send("POST", "/techniques/editorial-still/runs", json=body, stream=True) as answer:
        assert answer.headers["content-type"] == "text/event-stream"
        assert answer.headers["request-id"].startswith("req_")
        for line in filter(None, answer.iter_lines()):
            events.append(json.loads(line.removeprefix(b"data: ")))
            if len(events) == 1 or events[-1]["status"] != events[-2]["status"]:
                flora.later(350)
    assert [status for status, _ in groupby(event["status"] for event in events)] == [
        "pending",
        "running",
        "completed",
    ]
    assert len({event["run_id"] for event in events}) == 1
    assert events[-1]["outputs"]


def test_a_stalled_run_never_ends(flora):
    flora.emulator.order_fault("stall_run")
    run = flora.start().json()
    time.sleep(0.2)
    now = flora.get(run["poll_url"]).json()
    assert now["status"] == "running"
    assert 0 < now["progress"] < 100
    assert flora.run()["status"] == "completed", "the next one ends"


def test_a_fault_may_make_a_run_slow(flora):
    flora.emulator.order_fault("slow_run", seconds=0.5)
    slow = flora.run()
    assert (slow["completed_at"] - slow["created_at"], slow["status"]) == (500, "completed")
    assert slow["created_at"] < slow["started_at"] < slow["completed_at"]
    usual = flora.run()
    assert usual["completed_at"] - usual["created_at"] < 250, "the next one takes the usual time"


@pytest.mark.parametrize("status", ["cancelled", "expired"])
def test_a_run_may_end_in_a_status_of_a_later_release(emulate, status):
    flora = emulate(allow_loopback_callbacks=True)
    flora.emulator.order_fault("end_run", status=status)
    run = flora.start(callback_url="http://127.0.0.1:9/").json()
    while run["status"] in ("pending", "running"):
        run = flora.get(run["poll_url"]).json()
    assert (run["status"], run["progress"]) == (status, 100)
    assert run["completed_at"] >= run["started_at"]
    assert not {"outputs", "charged_cost", "error_code"} & run.keys()
    assert [one["status"] for one in flora.history()] == [status]
    time.sleep(0.05)
    ledger = flora.emulator.ledger()
    assert (ledger["runs"][0]["status"], ledger["charged_runs"]) == (status, 0)
    assert ledger["deliveries"] == [], "Flora has no event for it"
    assert flora.run()["status"] == "completed", "the next one"


def test_a_run_with_an_unknown_final_status_may_have_an_error(flora):
    flora.emulator.order_fault("end_run", status="cancelled")
    flora.emulator.order_fault("fail_run", error_code="GENERATION_CANCELLED", error_message="Cancelled.")
    run = flora.start().json()
    while run["status"] != "cancelled":
        run = flora.get(run["poll_url"]).json()
    assert (run["error_code"], run["error_message"]) == ("GENERATION_CANCELLED", "Cancelled.")
    assert flora.emulator.ledger()["runs"][0]["error_code"] == "GENERATION_CANCELLED"


BRIEF = [text("brief", "An airline for dogs")]


@pytest.mark.parametrize(
    ("reported", "on_the_wire"),
    [
        (None, '"url":null'),
        ("cut inside an emoji \ud83d", "cut inside an emoji \\ud83d"),
        ("a NUL \0 in it", "a NUL \\u0000 in it"),
        ("x" * 70_000, "x" * 70_000),
        ("", '"url":""'),
    ],
    ids=["null", "half an emoji", "NUL", "70 KB", "nothing"],
)
def test_an_output_may_be_anything(flora, reported, on_the_wire):
    order = {"kind": "set_output", "url": reported}
    assert requests.post(f"{flora.emulator.origin}/_emulator/faults", json=order, timeout=60).status_code == 200
    run = flora.run("tagline-writer", BRIEF)
    assert [output["url"] for output in run["outputs"]] == [reported]
    for path in (run["poll_url"], "/technique-runs"):
        answer = flora.get(path)
        assert on_the_wire in answer.text
        assert answer.status_code == 200
    assert flora.run("tagline-writer", BRIEF)["outputs"][0]["url"].startswith("1. An airline"), "the next one"


def test_one_output_among_several_may_be_replaced_and_for_a_while(flora):
    photo = [image("asset", "https://e.com/a.png")]
    flora.emulator.order_fault("set_output", url=None, output_id="redesign", seconds=600)
    flora.emulator.order_fault("set_output", url="Words", output_id="critique")
    run = flora.run("art-directors-critique", photo)
    assert {one["output_id"]: one["url"] for one in run["outputs"]} == {"critique": "Words", "redesign": None}
    flora.later(600)
    later = {one["output_id"]: one["url"] for one in flora.get(run["poll_url"]).json()["outputs"]}
    assert later["critique"] == "Words"
    assert flora.get(later["redesign"]).headers["content-type"] == "image/png"


def test_a_page_of_history_may_be_above_16_mb_and_half_of_it_below(flora):
    flora.emulator.order_fault("set_output", url="x" * 200_000, times=None)
    for _ in range(100):
        flora.start("tagline-writer", BRIEF)
    time.sleep(0.06)
    pages = {limit: len(flora.get("/technique-runs", limit=limit).content) for limit in (50, 100)}
    assert pages[50] < 16 * 1024 * 1024 < pages[100]


def test_no_two_emulators_give_the_same_run_id(emulate):
    assert emulate(seed=1).start().json()["run_id"] != emulate(seed=1).start().json()["run_id"]
