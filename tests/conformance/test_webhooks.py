"""Flora's own client and the receiver of webhooks say the same of the same deliveries."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_flora.api.webhooks import refusal
from tests.conformance.test_flora_client import missing

HERE = Path(__file__).parent
SECRET, OTHER = "whsec_conformance", "whsec_other"
NOW = 1_800_000_000
BODIES = (b"", b"{}", '{"id":"whd_1","text":"Füße \U0001f600"}'.encode(), b'{"a": "\\ud800"}', b"x" * 60_000)

needs_client = pytest.mark.skipif(
    missing() is not None and not os.environ.get("FLORA_TESTS_LEAVE_NOTHING_OUT"), reason=str(missing())
)


def sign(body: bytes, secret: str, second: object) -> str:
    return hmac.new(secret.encode(), f"{second}.".encode() + body, hashlib.sha256).hexdigest()


def deliveries() -> list[tuple[bytes, str, str, float]]:
    """Body, signature, secret and time of deliveries: good ones, and each changed in some way."""
    made = random.Random(14)
    found: list[tuple[bytes, str, str, float]] = []
    for body in BODIES:
        v1, other = sign(body, SECRET, NOW), sign(body, OTHER, NOW)
        headers = [
            f"t={NOW},v1={v1}",
            f"v1={v1},t={NOW}",
            f" t={NOW} , v1={v1} ",
            f"t={NOW},v1={other},v1={v1}",
            f"t={NOW},v1={v1},v1={other}",
            f"t={NOW},v0={other},v1={v1},extra",
            f"t={NOW},v1={other}",
            f"t={NOW},v1={v1[:-1]}",
            f"t={NOW},v1={v1}0",
            f"t={NOW},v1={v1.upper()}",
            f"t={NOW},v1=",
            f"t={NOW}",
            f"v1={v1}",
            f"t=,v1={sign(body, SECRET, '')}",
            f"t=now,v1={sign(body, SECRET, 'now')}",
            "",
        ]
        found += [(body, header, SECRET, NOW) for header in headers]
        found += [(body, headers[0], SECRET, NOW + age) for age in (-1000, -301, -300, 0, 299, 300, 301, 1000)]
        found += [(body, headers[0], secret, NOW) for secret in (OTHER, SECRET.upper(), SECRET + " ")]
        for _ in range(20):
            at = made.randrange(len(headers[0]))
            found.append(
                (body, headers[0][:at] + made.choice("0123456789abcdef=,t v") + headers[0][at + 1 :], SECRET, NOW)
            )
            if body:
                at = made.randrange(len(body))
                found.append((body[:at] + b"?" + body[at + 1 :], headers[0], SECRET, NOW))
    return found


def ask_client(asked: dict[str, Any]) -> Any:
    assert missing() is None
    done = subprocess.run(
        ["node", "webhook_verdicts.mjs"],
        cwd=HERE,
        env={"PATH": os.environ["PATH"]},
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return json.loads(done.stdout)


def text(body: bytes) -> str:
    return base64.b64encode(body).decode()


@needs_client
def test_flora_s_own_client_believes_what_the_receiver_believes_and_nothing_else() -> None:
    all_of_them = deliveries()
    keys = ("body", "signature", "secret", "now")
    asked = [dict(zip(keys, (text(body), *others), strict=True)) for body, *others in all_of_them]
    verdicts = ask_client({"deliveries": asked, "toSign": []})["verdicts"]
    ours = [refusal(*delivery) for delivery in all_of_them]
    different = [
        (delivery[1:], theirs, our)
        for delivery, theirs, our in zip(all_of_them, verdicts, ours, strict=True)
        if (theirs is None) != (our is None)
    ]
    assert different == []
    assert 30 < ours.count(None) < len(ours) - 100


@needs_client
def test_what_node_has_signed_is_believed() -> None:
    asked = [{"body": text(body), "secret": SECRET, "second": NOW} for body in BODIES]
    signed = ask_client({"deliveries": [], "toSign": asked})["signed"]
    assert [refusal(body, one, SECRET, NOW) for body, one in zip(BODIES, signed, strict=True)] == [None] * len(
        BODIES
    )


@needs_client
def test_the_receiver_is_stricter_about_the_form_of_a_signature_than_flora_s_client() -> None:
    """These are none that Flora sends."""
    body, v1 = b"{}", sign(b"{}", SECRET, NOW)
    stricter = [
        f"t={NOW},t={NOW},v1={v1}",
        f"t={NOW}.0,v1={v1}",
        f"t=+{NOW},v1={v1}",
        f"t={NOW}," + f"v1={'0' * 64}," * 40 + f"v1={v1}",
    ]
    asked = [{"body": text(body), "signature": one, "secret": SECRET, "now": NOW} for one in stricter]
    assert ask_client({"deliveries": asked, "toSign": []})["verdicts"] == [None] * len(stricter)
    assert all(refusal(body, one, SECRET, NOW) for one in stricter)
