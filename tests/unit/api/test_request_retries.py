"""Which requests are sent again, when, how often, and that a paid one is never sent twice at a time."""

from __future__ import annotations

import math
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from typing import Any

import pytest
import requests
import requests_mock
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_flora.api import answers, exchange, operations, retries
from airflow_provider_flora.api.client import FloraClient
from airflow_provider_flora.api.errors import (
    FloraAnswerError,
    FloraAPIError,
    FloraConnectionError,
    FloraError,
    FloraInputError,
    FloraTimeoutError,
)
from airflow_provider_flora.api.settings import ClientSettings
from airflow_provider_flora.emulator import Emulator
from tests.unit.api.both_clients import KEY, MakeClient
from tests.unit.api.scripted_flora import Drip, ScriptedFlora, Silence, answer, cut, error, reset, run_json

GET = operations.get_technique("tech_1")
START = operations.start_technique_run("tech_1", [], "async", None, "key")
SETTINGS = ClientSettings("key")
GOOD = answer(run_json())
TRANSIENT_ERRORS = {
    **{str(status): error(status) for status in (408, 429, 500, 502, 503, 504)},
    "an HTML page": answer(b"<html>502 Bad Gateway</html>", 502, "text/html"),
    "a 200 that is no JSON": answer(b"<html>", 200, "text/html"),
    "a 200 that is empty": answer(b""),
    "cut JSON": answer(b'{"run_id": "run_'),
    "a cut answer": cut(GOOD[:-7]),
    "a cut head": cut(b"HTTP/1.1 200 OK\r\ncont"),
    "a reset": reset,
    "a closed connection": cut(b""),
}


@pytest.mark.parametrize("transient", TRANSIENT_ERRORS.values(), ids=TRANSIENT_ERRORS)
def test_after_a_transient_error_a_request_is_sent_again(
    transient: Any, make_client: MakeClient, pauses: list[float]
) -> None:
    with ScriptedFlora(transient, GOOD) as flora:
        assert make_client(flora.base_url).get_technique_run("tech_1", "run_1").run_id == "run_1"

    assert len(flora.requests) == 2
    assert len(pauses) <= 1  # aiohttp asks a second time by itself when a GET finds the connection gone


@pytest.mark.parametrize("transient", TRANSIENT_ERRORS.values(), ids=TRANSIENT_ERRORS)
def test_a_start_is_sent_again_with_the_very_same_key_and_body_and_never_twice_at_a_time(
    transient: Any, make_client: MakeClient
) -> None:
    with ScriptedFlora(transient, transient, GOOD) as flora:
        make_client(flora.base_url).start_technique_run("tech_1", [{"id": "prompt", "type": "text", "value": "a"}])

    assert len(flora.requests) == 3
    assert len({request.body for request in flora.requests}) == 1
    assert flora.requests[0].json["idempotency_key"]
    assert flora.most_at_once == 1


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 409, 410, 413, 415, 422])
@pytest.mark.parametrize("retry_after", [None, "1"])
def test_a_refusal_is_never_sent_again(
    status: int, retry_after: str | None, make_client: MakeClient, pauses: list[float]
) -> None:
    headers = {"retry_after": retry_after} if retry_after else {}
    with ScriptedFlora(error(status, **headers)) as flora:
        client = make_client(flora.base_url)
        for call in (lambda: client.get_technique("tech_1"), lambda: client.start_technique_run("tech_1", [])):
            with pytest.raises(FloraAPIError, match=str(status)):
                call()

    assert len(flora.requests) == 2
    assert pauses == []


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 409, 422])
def test_a_refusal_after_a_transient_error_ends_the_retries(status: int, make_client: MakeClient) -> None:
    with ScriptedFlora(error(503), error(status), GOOD) as flora, pytest.raises(FloraAPIError, match=str(status)):
        make_client(flora.base_url).start_technique_run("tech_1", [])

    assert len(flora.requests) == 2


@pytest.mark.parametrize("max_retries", [0, 1, 4, 7])
def test_a_request_is_sent_again_max_retries_times_and_the_last_error_is_raised(
    max_retries: int, make_client: MakeClient, pauses: list[float]
) -> None:
    replies = [*[error(503)] * max_retries, error(500, "the_last_one")]
    with ScriptedFlora(*replies) as flora, pytest.raises(FloraAPIError, match="the_last_one"):
        make_client(flora.base_url, max_retries=max_retries).get_technique("tech_1")

    assert len(flora.requests) == max_retries + 1
    assert len(pauses) == max_retries


def test_requests_of_the_sync_client_that_find_no_connection_are_sent_again(pauses: list[float]) -> None:
    refused = {"exc": requests.exceptions.ConnectTimeout}
    with requests_mock.Mocker() as flora:
        flora.post(requests_mock.ANY, [refused, {"exc": requests.exceptions.ConnectionError}, {"json": run_json()}])
        FloraClient(ClientSettings(KEY)).start_technique_run("tech_1", [])

    assert len({request.body for request in flora.request_history}) == 1
    assert flora.call_count == 3


def test_the_library_below_does_not_send_a_start_again_on_its_own(make_client: MakeClient) -> None:
    with ScriptedFlora(GOOD, reset, GOOD) as flora:
        client = make_client(flora.base_url, max_retries=0)
        client.get_technique_run("tech_1", "run_1")
        with pytest.raises(FloraConnectionError):
            client.start_technique_run("tech_1", [])

    assert [request.method for request in flora.requests] == ["GET", "POST"]


def test_a_start_on_a_kept_connection_that_the_server_has_closed_is_sent_once_more_with_the_same_key(
    make_client: MakeClient,
) -> None:
    with ScriptedFlora(cut(GOOD), GOOD) as flora:
        client = make_client(flora.base_url)
        client.get_technique_run("tech_1", "run_1")
        client.start_technique_run("tech_1", [])

    assert [request.method for request in flora.requests] == ["GET", "POST"]


def test_wrong_inputs_are_not_sent_at_all(make_client: MakeClient) -> None:
    with ScriptedFlora(answer({"technique_id": "t", "name": "T"})) as flora, pytest.raises(FloraInputError):
        make_client(flora.base_url).start_technique_run("tech_1", {"nope": "x"})

    assert [request.method for request in flora.requests] == ["GET"]


@pytest.mark.parametrize("account", ["docs", "site"])
@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "reset", "when": "after"},
        {"kind": "html", "when": "after"},
        {"kind": "cut_json"},
    ],
    ids=lambda fault: fault["kind"],
)
def test_a_lost_answer_to_a_start_costs_one_run_under_either_account_of_idempotency(
    fault: dict[str, Any], account: str, make_client: MakeClient
) -> None:
    with Emulator(run_seconds=0, api_key=KEY, idempotency=account) as emulator:
        emulator.order_fault(operation="startTechniqueRun", **fault)
        client = make_client(emulator.base_url)
        if account == "docs":
            with pytest.raises(FloraAPIError, match=r"409 idempotency_duplicate.*run history"):
                client.start_technique_run("tagline-writer", {"brief": "Soap"})
        else:
            assert client.start_technique_run("tagline-writer", {"brief": "Soap"}).run_id
        ledger = emulator.ledger()

    assert ledger["started_runs"] == 1
    assert ledger["requests"]["startTechniqueRun"] == 2


# --- how long a pause is --------------------------------------------------------------------------------------


def api_error(status: int, retry_after: float | None = None) -> FloraAPIError:
    return FloraAPIError(status, "words", retry_after=retry_after)


@given(st.integers(1, 10_000))
def test_a_pause_grows_with_each_attempt_is_spread_and_is_never_longer_than_30_s(attempt: int) -> None:
    pause = retries.pause_before_retry(api_error(503), attempt, GET, 60)

    assert min(30, 2.0 ** min(attempt - 1, 10)) / 2 <= pause <= min(30, 2.0 ** min(attempt - 1, 10))


def test_two_clients_that_failed_together_do_not_come_back_together() -> None:
    assert len({retries.pause_before_retry(api_error(503), 3, GET, 60) for _ in range(50)}) > 40


@given(st.integers(1, 100))
def test_a_429_without_a_time_is_waited_for_5_s_or_more_and_30_s_at_most(attempt: int) -> None:
    assert 5 <= retries.pause_before_retry(api_error(429), attempt, GET, 60) <= 30


@given(st.floats(0, 300))
def test_what_flora_asks_for_is_waited_for_and_little_more(seconds: float) -> None:
    for status in (429, 503):
        pause = retries.pause_before_retry(api_error(status, seconds), 1, GET, 60)
        assert seconds <= pause <= seconds * 1.1


@pytest.mark.parametrize(("timeout", "least"), [(1.0, 120.0), (60.0, 120.0), (90.0, 180.0)])
@pytest.mark.parametrize(
    "error",
    [
        FloraTimeoutError("slow"),
        FloraConnectionError("reset"),
        FloraAnswerError("cut"),
        FloraAPIError(502, "a proxy's"),
        FloraAPIError(403, "a proxy's"),
    ],
    ids=str,
)
def test_a_start_is_sent_again_only_when_the_first_has_surely_ended(
    error: FloraError, timeout: float, least: float
) -> None:
    assert retries.pause_before_retry(error, 1, START, ClientSettings("k", timeout=timeout)) >= least


def test_a_start_that_flora_itself_ended_is_sent_again_soon() -> None:
    unsent = FloraConnectionError("refused")
    unsent.was_sent = False
    for ended in (unsent, FloraAPIError(500, "internal", code="internal_error")):
        assert retries.pause_before_retry(ended, 1, START, SETTINGS) <= 1


def test_a_poll_that_timed_out_is_repeated_soon() -> None:
    assert retries.pause_before_retry(FloraTimeoutError("slow"), 1, GET, SETTINGS) <= 1


def test_a_retry_without_an_error_pauses_as_after_any() -> None:
    assert 0.5 <= retries.pause_before_retry(None, 1, GET, SETTINGS) <= 1


@pytest.mark.parametrize(("value", "seconds"), [("7", 7.0), ("2.5", 2.5), ("0", 0.0), ("-3", 0.0), (" 4 ", 4.0)])
@pytest.mark.parametrize("status", [429, 503])
def test_a_retry_after_in_seconds_is_observed(
    status: int, value: str, seconds: float, make_client: MakeClient, pauses: list[float]
) -> None:
    with ScriptedFlora(error(status, retry_after=value), GOOD) as flora:
        make_client(flora.base_url).get_technique_run("tech_1", "run_1")

    assert seconds <= pauses[0] <= seconds * 1.1


@pytest.mark.parametrize(("seconds", "least", "most"), [(100, 80, 120), (-86_400, 0, 0)])
def test_a_retry_after_as_a_date_is_observed(
    seconds: int, least: int, most: int, make_client: MakeClient, pauses: list[float]
) -> None:
    date = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=seconds), usegmt=True)
    with ScriptedFlora(error(429, retry_after=date), GOOD) as flora:
        make_client(flora.base_url).get_technique_run("tech_1", "run_1")

    assert least <= pauses[0] <= most


@pytest.mark.parametrize(
    "nonsense",
    ["soon", "", "nan", "1 s", "Mon, 99 Jan 2024 00:00:00 GMT", "Mon, 1 Jan 2024 00:00:00 +99999999999999999999"],
)
def test_a_retry_after_that_is_no_time_is_as_good_as_none(
    nonsense: str, make_client: MakeClient, pauses: list[float]
) -> None:
    with ScriptedFlora(error(429, retry_after=nonsense), GOOD) as flora:
        make_client(flora.base_url).get_technique_run("tech_1", "run_1")

    assert 5 <= pauses[0] <= 30


@pytest.mark.parametrize("value", ["301", "86400", "1e300", "inf", "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_an_absurdly_long_pause_is_an_error_and_not_waited_for(
    value: str, make_client: MakeClient, pauses: list[float]
) -> None:
    with ScriptedFlora(error(429, retry_after=value)) as flora, pytest.raises(FloraAPIError) as caught:
        make_client(flora.base_url).get_technique_run("tech_1", "run_1")

    assert caught.value.retry_after is not None
    assert caught.value.retry_after > 300
    assert len(flora.requests) == 1
    assert pauses == []


@given(st.text() | st.floats().map(str) | st.integers().map(str))
def test_any_retry_after_is_a_number_of_seconds_or_none(value: str) -> None:
    with pytest.raises(FloraAPIError) as caught:
        answers.check_status(exchange.Response(429, {"retry-after": value}, b""))

    seconds = caught.value.retry_after
    assert seconds is None or (seconds >= 0 and not math.isnan(seconds))


def test_silence_is_a_timeout_and_a_start_waits_for_it_before_it_is_sent_again(
    make_client: MakeClient, pauses: list[float]
) -> None:
    with ScriptedFlora(Silence(), GOOD) as flora:
        make_client(flora.base_url, timeout=0.8).start_technique_run("tech_1", [])

    assert len({request.body for request in flora.requests}) == 1
    assert pauses[0] >= 0.8


@pytest.mark.parametrize(
    "slow",
    [
        Silence,
        lambda: Silence(GOOD[:20]),
        lambda: Silence(GOOD[:-4]),
        lambda: Drip(b"HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n", every=0.05),
    ],
    ids=["no answer", "half a head", "half a body", "a body in drops"],
)
def test_every_way_of_being_too_slow_is_a_timeout(slow: Any, make_client: MakeClient) -> None:
    words = r"No answer from .* to GET /techniques/tech_1 within 0.3 s"
    with ScriptedFlora(slow()) as flora, pytest.raises(FloraTimeoutError, match=words):
        make_client(flora.base_url, timeout=0.3, max_retries=0).get_technique("tech_1")


@pytest.mark.parametrize(
    "wrong",
    [FloraError("x"), ValueError("x"), FloraInputError("t", []), FloraAnswerError("x", transient=False)],
    ids=repr,
)
def test_only_transient_errors_are_retried(wrong: Exception) -> None:
    assert not retries.is_worth_retrying(wrong)


@pytest.mark.parametrize("call", ["get_technique", "list_techniques", "list_technique_runs", "list_workspaces"])
def test_every_operation_is_tried_again(call: str, make_client: MakeClient) -> None:
    body = {"technique_id": "t", "name": "T", "techniques": [], "technique_runs": [], "workspaces": []}
    with ScriptedFlora(error(503), answer(body)) as flora:
        result = getattr(make_client(flora.base_url), call)(*(["t"] if call == "get_technique" else []))
        if call.startswith("list"):
            list(result)

    assert len(flora.requests) == 2


def test_each_retry_is_told_before_its_pause(pauses: list[float]) -> None:
    told: list[tuple[str, str, float, int]] = []

    def tell(request: exchange.Request, why: str, seconds: float) -> None:
        told.append((request.path, why[:18], seconds, len(pauses)))

    with ScriptedFlora(error(503), error(503), GOOD) as flora:
        FloraClient(ClientSettings(KEY, flora.base_url), on_retry=tell).get_technique_run("tech_1", "run_1")

    assert [(path, why, before) for path, why, _, before in told] == [
        ("/techniques/tech_1/runs/run_1", "Flora answered 503", 0),
        ("/techniques/tech_1/runs/run_1", "Flora answered 503", 1),
    ]
    assert [seconds for _, _, seconds, _ in told] == pauses
