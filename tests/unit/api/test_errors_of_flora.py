"""Flora's own errors as a person reads them, and what a program may do about each."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_flora.api import answers
from airflow_provider_flora.api.client import FloraClient
from airflow_provider_flora.api.errors import (
    FloraAPIError,
    FloraError,
    FloraPriceError,
    FloraRunFailedError,
    Remedy,
)
from airflow_provider_flora.api.exchange import Response
from airflow_provider_flora.api.models import Run
from airflow_provider_flora.api.settings import ClientSettings
from tests.unit.api.both_clients import MakeClient
from tests.unit.api.scripted_flora import ScriptedFlora, answer, run_json

# What Flora documents: status, its codes, whether the same request may be sent again, what it calls for.
ERRORS = [
    (400, ["invalid_json", "input_validation_error"], False, Remedy.CHANGE_INPUT),
    (401, ["unauthorized", "invalid_api_key"], False, Remedy.GIVE_UP),
    (402, ["insufficient_credits"], False, Remedy.GIVE_UP),
    (403, ["forbidden", "paid_plan_required"], False, Remedy.GIVE_UP),
    (404, ["not_found"], False, Remedy.GIVE_UP),
    (409, ["idempotency_duplicate", "conflict"], False, Remedy.RETRY_LATER),
    (422, ["idempotency_conflict"], False, Remedy.CHANGE_INPUT),
    (429, ["rate_limited"], True, Remedy.RETRY_LATER),
    (500, ["unknown_error", "internal_error"], True, Remedy.RETRY_LATER),
    (503, ["service_unavailable"], True, Remedy.RETRY_LATER),
]
EACH_ERROR = [(status, code, again, remedy) for status, codes, again, remedy in ERRORS for code in codes]
ADVICE = {
    401: "Check the API key.",
    402: "Top up the workspace's credits",
    403: "workspace's owner",
    404: "The id was not found with the API key. Check the id",
    409: "run history",
    422: "Use a new key",
    429: "share its rate limit",
}


def error_of(body: Any, status: int = 400, **headers: str) -> FloraAPIError:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(FloraAPIError) as caught:
        answers.check_status(
            Response(status, {name.replace("_", "-"): value for name, value in headers.items()}, content)
        )
    return caught.value


@pytest.mark.parametrize(("status", "code", "again", "remedy"), EACH_ERROR)
def test_an_error_names_status_code_message_request_id_and_remedy(
    status: int, code: str, again: bool, remedy: Remedy
) -> None:
    error = error_of({"error": {"code": code, "message": "Some words."}}, status, request_id="req_42")

    assert (error.status, error.code, error.message, error.request_id) == (status, code, "Some words.", "req_42")
    assert str(error).startswith(f"Flora answered {status} {code}: Some words. [request id req_42]")
    assert ADVICE.get(status, "") in str(error)
    assert (error.transient, error.remedy) == (again, remedy)


@pytest.mark.parametrize(
    ("call", "subject"),
    [
        (lambda client: client.get_technique("a/b {c}"), "Technique 'a/b {c}'"),
        (lambda client: client.start_technique_run("tech_1", []), "Technique 'tech_1'"),
        (lambda client: client.get_technique_run("tech_1", "run_1"), "Run 'run_1' of technique 'tech_1'"),
        (lambda client: client.get_asset("asset_1"), "Asset 'asset_1'"),
        (lambda client: client.complete_asset("asset_1"), "Asset 'asset_1'"),
        (lambda client: client.retry_asset("asset_1"), "Asset 'asset_1'"),
        (lambda client: client.create_asset("ws_1", "https://a.example/b"), "Workspace 'ws_1'"),
        (
            lambda client: client.create_asset("ws_1", "https://a.example/b", project_id="p"),
            "Workspace 'ws_1' or project 'p'",
        ),
    ],
)
def test_a_404_names_what_was_not_found_and_with_which_key(
    call: Callable[[FloraClient], Any], subject: str
) -> None:
    refusal = answer({"error": {"code": "not_found", "message": "Not found."}}, 404)
    with ScriptedFlora(refusal) as flora, pytest.raises(FloraAPIError) as caught:
        call(FloraClient(ClientSettings("key", flora.base_url, key_name="the API key of {mine}")))

    assert f"{subject} was not found with the API key of {{mine}}. Check the id" in str(caught.value)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_names_the_key_in_both_clients(status: int, make_client: MakeClient) -> None:
    refusal = answer({"error": {"code": "no", "message": "No."}}, status)
    with ScriptedFlora(refusal) as flora, pytest.raises(FloraAPIError, match="the key of 'mine'"):
        make_client(flora.base_url, key_name="the key of 'mine'").get_technique("tech_1")


def test_a_404_of_a_proxy_does_not_claim_that_something_is_missing_at_flora() -> None:
    text = str(error_of(b"<html>", 404))

    assert "was not found" not in text
    assert text.endswith("Check the base URL.")


@pytest.mark.parametrize(
    ("status", "code"), [(402, None), (402, "insufficient_credits"), (403, "BILLING_NOT_ENOUGH_CREDITS")]
)
def test_an_api_error_for_credits_that_ran_out_asks_to_top_up(status: int, code: str | None) -> None:
    assert "Top up the workspace's credits in Flora" in str(FloraAPIError(status, "Empty.", code=code))


@pytest.mark.parametrize(
    ("code", "asks"), [("BILLING_NOT_ENOUGH_CREDITS", True), ("BILLING_TOMORROW", True), ("ACCESS_DENIED", False)]
)
def test_a_failed_run_asks_to_top_up_if_credits_ran_out(code: str, asks: bool) -> None:
    text = str(FloraRunFailedError(Run.model_validate(run_json("failed", error_code=code)), "tech_1"))

    assert "(remedy: give up)" in text
    assert ("Top up the workspace's credits in Flora" in text) is asks


def test_every_message_of_every_field_is_reported() -> None:
    fields = [
        {"field": "inputs[0].value", "message": "Must not be empty"},
        {"field": "mode", "message": "Required"},
        {"field": "mode", "message": "Must be one of: async, stream"},
    ]
    error = error_of({"error": {"code": "input_validation_error", "message": "Invalid input.", "fields": fields}})

    assert error.fields == {
        "inputs[0].value": "Must not be empty",
        "mode": "Required; Must be one of: async, stream",
    }
    for field in fields:
        assert field["field"] in str(error)
        assert field["message"] in str(error)


@pytest.mark.parametrize(
    ("fields", "read"),
    [
        (None, {}),
        ([], {}),
        ("mode", {}),
        ({"mode": "Required"}, {}),
        (["mode", None, 5, {"field": "mode", "message": "Required"}], {"mode": "Required"}),
        ([{"field": "mode"}], {"mode": ""}),
        ([{"message": "Required"}], {"": "Required"}),
        ([{"field": 0, "message": ["a", "b"]}], {"0": "['a', 'b']"}),
    ],
)
def test_fields_of_another_shape_do_not_hide_the_rest_of_the_error(fields: Any, read: dict[str, str]) -> None:
    error = error_of({"error": {"code": "input_validation_error", "message": "Words.", "fields": fields}})

    assert (error.code, error.message, error.fields) == ("input_validation_error", "Words.", read)


@pytest.mark.parametrize(
    ("status", "words"), [(502, "Bad Gateway"), (504, "Gateway Timeout"), (400, "Bad Request"), (599, "an error")]
)
@pytest.mark.parametrize(
    "body",
    [
        b"<html><body>502 Bad Gateway</body></html>",
        b"",
        b"null",
        b"[]",
        b"{}",
        b'"error"',
        b'{"error": null}',
        b'{"error": "not_found"}',
        b'{"error": ["not_found"]}',
        b'{"error": {}}',
        b'{"error": {"code": null, "message": null}}',
        b'{"error": {"code": 7, "message": {"a": 1}}}',
        b'{"error": {"message": ""}}',
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b'{"error": ' * 100_000,
    ],
    ids=lambda body: repr(body[:40]),
)
def test_an_answer_of_a_proxy_is_reported_with_its_status_and_as_not_floras(
    body: bytes, status: int, words: str
) -> None:
    error = error_of(body, status, request_id="req_42")

    assert (error.status, error.code, error.fields) == (status, None, {})
    assert f"Flora answered {status}: {words} (not Flora's own answer" in str(error)
    assert "req_42" in str(error)


def test_a_code_without_a_message_is_kept() -> None:
    assert str(error_of({"error": {"code": "unknown_error"}}, 500)).startswith(
        "Flora answered 500 unknown_error: Internal Server Error"
    )


def test_without_a_request_id_none_is_shown() -> None:
    error = error_of({"error": {"code": "a", "message": "b"}})

    assert error.request_id is None
    assert "request id" not in str(error)


@pytest.mark.parametrize("status", [408, 425, 451, 501, 502, 504, 520, 599])
def test_of_the_statuses_that_flora_does_not_document_only_408_and_500_upwards_may_be_sent_again(
    status: int,
) -> None:
    assert error_of(b"", status).transient == (status == 408 or status >= 500)


@given(st.binary(), st.integers(400, 599), st.text())
def test_any_bytes_with_an_error_status_are_an_api_error_that_can_be_shown(
    body: bytes, status: int, header: str
) -> None:
    response = Response(status, {"retry-after": header, "request-id": header, "date": header}, body)
    with pytest.raises(FloraAPIError) as caught:
        answers.check_status(response)

    assert str(status) in str(caught.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda values: st.lists(values) | st.dictionaries(st.text(), values),
    max_leaves=10,
)


@given(
    st.fixed_dictionaries({"code": JSON, "message": JSON, "fields": JSON})
    | JSON
    | st.fixed_dictionaries(
        {"fields": st.lists(st.fixed_dictionaries({}, optional={"field": JSON, "message": JSON}))}
    )
)
def test_an_error_of_any_shape_is_an_api_error_that_can_be_encoded(shape: Any) -> None:
    error = error_of({"error": shape})

    assert str(error).encode()


@pytest.mark.parametrize("surrogate", [r'"\ud800"', r'"a\udfffb"'])
def test_half_a_surrogate_pair_in_an_error_can_be_printed(surrogate: str) -> None:
    error = error_of(f'{{"error": {{"code": {surrogate}, "message": {surrogate}}}}}'.encode(), 500)

    assert str(error).encode()


def test_a_price_above_the_limit_names_both_and_what_to_do() -> None:
    text = str(FloraPriceError("tech_1", 0.55, 0.5, "max_run_cost"))

    assert "'tech_1' costs 0.55 USD, more than max_run_cost=0.5 USD" in text
    assert "Nothing was started or charged" in text
    assert "Raise max_run_cost" in text


def test_an_unknown_price_is_above_every_limit() -> None:
    assert "an unknown price" in str(FloraPriceError("tech_1", None, 0.5, "--max-cost"))


def test_every_error_is_a_flora_error_with_a_remedy_and_no_error_is_transient_by_default() -> None:
    pending = [FloraError]
    while pending:
        kind = pending.pop()
        pending += kind.__subclasses__()
        assert isinstance(kind.remedy, Remedy)
    assert not FloraError.transient
