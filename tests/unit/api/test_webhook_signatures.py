"""Which deliveries of webhooks are Flora's, and what is read of them."""

from __future__ import annotations

import hashlib
import hmac
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from airflow_provider_flora.api.webhooks import LONGEST_SIGNATURE, TOLERANCE, read_webhook, refusal

SECRET, OTHER = "whsec_one", "whsec_other"
NOW = 1_800_000_000
BODY = b'{"id":"whd_1"}'


def v1(secret: str = SECRET, at: str = str(NOW), body: bytes = BODY) -> str:
    return "v1=" + hmac.new(secret.encode(), at.encode() + b"." + body, hashlib.sha256).hexdigest()


def why(signature: str, body: bytes = BODY, now: float = NOW) -> str:
    return refusal(body, signature, SECRET, now) or ""


@pytest.mark.parametrize("signature", [f"t={NOW},{v1()}", f"{v1()},t={NOW}", f" t = {NOW} , {v1()} ,v2=new"])
def test_a_signature_of_now_is_believed(signature: str) -> None:
    assert refusal(BODY, signature, SECRET, NOW + 0.5) is None


@pytest.mark.parametrize("others", [[v1(OTHER)], [v1(OTHER), v1("whsec_third")], ["v1="], ["v1=ü"]], ids=str)
def test_one_of_several_signatures_is_enough_while_a_secret_is_rotated(others: list[str]) -> None:
    assert why(",".join([f"t={NOW}", *others, v1()])) == ""
    assert why(",".join([f"t={NOW}", v1(), *others])) == ""
    assert "this body with this secret" in why(",".join([f"t={NOW}", *others]))


@pytest.mark.parametrize(("age", "believed"), [(TOLERANCE, True), (TOLERANCE + 1, False), (TOLERANCE + 0.5, False)])
def test_a_signature_is_believed_for_five_minutes_before_and_after_its_time(age: float, believed: bool) -> None:
    for now in (NOW + age, NOW - age):
        assert ("differs by more than 300 seconds" not in why(f"t={NOW},{v1()}", now=now)) is believed


@pytest.mark.parametrize(
    "time",
    ["", "now", "-1", "+1", "1.0", "1e9", "0x1", " ", "1_000", "١٨", "9" * 13, "nan", "inf", f"{NOW}\n0"],
)
def test_a_time_that_is_no_number_of_seconds_is_refused_though_it_is_signed(time: str) -> None:
    assert "is not t=SECONDS" in why(f"t={time},{v1(at=time)}")


@pytest.mark.parametrize(
    "signature", ["", v1(), f"t={NOW},t={NOW},{v1()}", f"T={NOW},{v1()}", f"t={NOW};{v1()}", "\0", "=,=,="]
)
def test_a_header_of_another_form_is_refused(signature: str) -> None:
    assert "is not t=SECONDS" in why(signature)


def test_a_header_that_would_take_long_to_compare_is_refused() -> None:
    signature = f"t={NOW}," + ",".join([v1(OTHER)] * 40 + [v1()])
    assert len(signature) > LONGEST_SIGNATURE
    assert "more than 2,000 characters" in why(signature)


@pytest.mark.parametrize("body", [b"", BODY + b" ", BODY[:-1], BODY.replace(b"1", b"2"), b"\xff"])
def test_another_body_is_refused(body: bytes) -> None:
    assert "this body with this secret" in why(f"t={NOW},{v1()}", body)


def test_a_reason_holds_no_secret_and_no_signature_that_would_be_right() -> None:
    for signature in (f"t={NOW},{v1(OTHER)}", "nonsense", f"t={NOW - 1000},{v1(at=str(NOW - 1000))}"):
        assert why(signature)
        assert SECRET not in why(signature)
        assert v1()[3:] not in why(signature)


@given(st.text(max_size=200), st.binary(max_size=50))
def test_no_header_and_no_body_raises(signature: str, body: bytes) -> None:
    assert refusal(body, signature, SECRET, NOW)


def webhook(**changes: object) -> bytes:
    data = {"run_id": "run_1", "run_type": "technique", "workspace_id": "ws_1", "status": "completed"}
    return json.dumps({"id": "whd_1", "type": "run.completed", "data": data, **changes}).encode()


def test_a_webhook_is_read() -> None:
    read = read_webhook(webhook(api_version="2026-06-11", created_at=1_800_000_000_000, new=[1]))
    assert read.id == "whd_1"
    assert read.status == "completed"
    assert read.data is not None
    assert read.data.model_dump(exclude_none=True) == {
        "run_id": "run_1",
        "run_type": "technique",
        "workspace_id": "ws_1",
    }


@pytest.mark.parametrize(
    ("kind", "status"), [("run.completed", "completed"), ("run.failed", "failed"), ("run.paused", None), ("", None)]
)
def test_the_type_says_how_a_run_ended(kind: str, status: str | None) -> None:
    assert read_webhook(webhook(type=kind)).status == status


def test_a_message_is_read_though_it_is_huge_or_not_storable() -> None:
    data = {"run_id": "run_1", "error_code": {"odd": 1}, "error_message": "\0\ud800" + "x" * 10_000}
    read = read_webhook(webhook(data=data))
    assert read.data is not None
    assert read.data.error_code == '{"odd": 1}'
    assert (read.data.error_message or "").startswith("\ufffd\ufffdxx")
    assert len(read.data.error_message or "") < 4100


@pytest.mark.parametrize(
    "run_id", [None, "", "run_1\n", "run 1", "../run", "r" * 201, "run_\u00fc", {}, "a%b"], ids=repr
)
def test_a_run_whose_id_is_none_is_left_out(run_id: object) -> None:
    assert read_webhook(webhook(data={"run_id": run_id})).data is None


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"null", b"{", b"[" * 60_000, webhook(id=None), webhook(id="a b"), webhook(id="x" * 201)],
    ids=range(8),
)
def test_what_is_no_webhook_is_an_error(body: bytes) -> None:
    with pytest.raises(ValidationError):
        read_webhook(body)
