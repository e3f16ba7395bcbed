"""Deliveries of the end of a run."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise

import pytest

from tests.emulator.caller import wait_until

SECRET = "whsec_of_the_test"


class Receiver:
    """Takes what is delivered and answers with the statuses that it was given, the last one forever."""

    def __init__(self, *statuses):
        self.statuses = list(statuses)
        self.taken = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.taken.append((time.time(), self.path, dict(self.headers), body))
                status = receiver.statuses.pop(0) if len(receiver.statuses) > 1 else receiver.statuses[0]
                self.send_response(status)
                self.send_header("location", "/elsewhere")
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def wait(self, count):
        wait_until(lambda: len(self.taken) >= count)
        time.sleep(0.1)  # One too many would follow.
        assert len(self.taken) == count
        return self.taken


@pytest.fixture
def receive():
    receivers = []

    def make(*statuses):
        receivers.append(Receiver(*statuses))
        return receivers[-1]

    yield make
    for receiver in receivers:
        receiver.server.shutdown()
        receiver.server.server_close()


@pytest.fixture
def flora(emulate):
    return emulate(allow_loopback_callbacks=True, webhook_secret=SECRET, webhook_time_scale=0.005)


def recorded(flora, count):
    """The deliveries of the ledger, once there are so many: one is recorded after its answer."""
    wait_until(lambda: len(flora.emulator.ledger()["deliveries"]) >= count)
    return flora.emulator.ledger()["deliveries"]


def signed(secret, second, body):
    return hmac.new(secret.encode(), f"{second}.".encode() + body, hashlib.sha256).hexdigest()


def test_one_signed_post_reports_that_the_run_has_completed(flora, receive):
    receiver = receive(204)
    run = flora.start(callback_url=receiver.url).json()
    ((at, path, headers, body),) = receiver.wait(1)
    event = json.loads(body)
    assert path == "/hook"
    assert event["data"] == {
        "run_id": run["run_id"],
        "run_type": "technique",
        "workspace_id": "ws_emulator",
        "status": "completed",
    }
    assert event["type"] == headers["Flora-Event"] == "run.completed"
    assert event["id"] == headers["Flora-Webhook-Id"]
    assert event["id"].startswith("whd_")
    assert event["api_version"] == "2026-06-11"
    stamp, signature = headers["Flora-Signature"].split(",")
    second = int(stamp.removeprefix("t="))
    ended = flora.get(run["poll_url"]).json()
    assert ended["completed_at"] <= event["created_at"] <= 1000 * at
    assert event["created_at"] // 1000 <= second <= at
    assert signature == f"v1={signed(SECRET, second, body)}"
    (delivery,) = recorded(flora, 1)
    assert (delivery["status"], delivery["attempt"], delivery["webhook_id"]) == (204, 1, event["id"])
    assert ended["status"] == "completed", "not reported before the end"


def test_a_failure_is_reported_with_its_code(flora, receive):
    receiver = receive(200)
    flora.emulator.order_fault("fail_run", error_code="GPU_PROVIDER_ERROR", error_message="Rejected.")
    flora.start(callback_url=receiver.url)
    event = json.loads(receiver.wait(1)[0][3])
    assert event["type"] == "run.failed"
    assert event["data"]["status"] == "failed"
    assert event["data"]["error_code"] == "GPU_PROVIDER_ERROR"
    assert event["data"]["error_message"] == "Rejected."
    assert "outputs" not in event["data"]


def test_four_attempts_with_growing_delays_and_one_body(flora, receive):
    receiver = receive(500)
    flora.start(callback_url=receiver.url)
    taken = receiver.wait(4)
    times = [at for at, *_ in taken]
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert all(gap > 0.9 * delay for gap, delay in zip(gaps, [0.05, 0.3, 1.5], strict=True)), gaps
    assert len({body for *_, body in taken}) == 1, "byte-identical"
    assert len({headers["Flora-Webhook-Id"] for _, _, headers, _ in taken}) == 1
    assert [one["attempt"] for one in recorded(flora, 4)] == [1, 2, 3, 4]


def test_it_ends_with_the_first_success(flora, receive):
    receiver = receive(503, 200)
    flora.start(callback_url=receiver.url)
    receiver.wait(2)
    assert [one["status"] for one in recorded(flora, 2)] == [503, 200]


def test_a_redirect_is_not_followed_and_is_no_success(flora, receive):
    receiver = receive(307, 200)
    flora.start(callback_url=receiver.url)
    assert [path for _, path, *_ in receiver.wait(2)] == ["/hook", "/hook"]
    assert [one["status"] for one in recorded(flora, 2)] == [307, 200]


def test_a_dead_receiver_is_recorded(flora, receive):
    receiver = receive(200)
    receiver.server.shutdown()
    receiver.server.server_close()
    flora.start(callback_url=receiver.url)
    first = recorded(flora, 1)[0]
    assert first["status"] is None
    assert "ClientConnectorError" in first["error"]


def test_a_run_without_an_end_or_a_callback_reports_nothing(flora, receive):
    receiver = receive(200)
    flora.run()
    flora.emulator.order_fault("stall_run")
    flora.start(callback_url=receiver.url)
    time.sleep(0.2)
    receiver.wait(0)


def test_a_reset_cancels_what_is_due(emulate):
    flora = emulate(allow_loopback_callbacks=True, run_seconds=600)
    flora.start(callback_url="http://127.0.0.1:9/")
    (delivery,) = flora.emulator._webhooks._tasks
    flora.emulator.reset()
    wait_until(delivery.done)
    assert delivery.cancelled()


def test_during_a_rotation_both_secrets_sign(emulate, receive):
    flora = emulate(allow_loopback_callbacks=True, webhook_secret=SECRET, former_webhook_secret="whsec_old")
    receiver = receive(200)
    flora.start(callback_url=receiver.url)
    _, _, headers, body = receiver.wait(1)[0]
    stamp, *signatures = headers["Flora-Signature"].split(",")
    second = int(stamp.removeprefix("t="))
    assert signatures == [f"v1={signed(secret, second, body)}" for secret in (SECRET, "whsec_old")]
