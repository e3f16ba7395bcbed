"""What a failed run calls for. The table is written out here a second time, from Flora's published one."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_flora.api.errors import FloraRunFailedError, FloraRunTimeoutError, Remedy, remedy_for_run
from airflow_provider_flora.api.models import Run

CODES = {
    Remedy.RETRY_NOW: """
        GENERATION_PROVIDER_TIMEOUT GENERATION_FAILED_TO_START GPU_PROVIDER_ERROR GENERATION_FAILED_TO_UPLOAD
        GENERATION_GENERIC_ERROR GENERATION_FAILED_TO_UPDATE SERVER_ERROR GENERATION_FAILED_TO_GET
        GENERATION_PREGENERATION_FAILED GENERATION_POSTGENERATION_FAILED GENERATION_MAP_AFTER_REQUEST_FAILED
        model_timeout internal_error
        A_NEW_CODE NO_ACCESS_TO_GPU ENTITLEMENT_REQUIRED_SOON Provider_Error
    """,
    Remedy.RETRY_LATER: """
        GENERATION_DOWNSTREAM_SERVICE_ERROR GENERATION_QUEUE_TOO_LARGE GENERATION_INVALID_PROVIDER_RESPONSE
        GENERATION_QUEUE_NOT_MOVING GENERATION_NO_RESULT GENERATION_CIRCUIT_BREAKER_OPEN
        GENERATION_MODAL_POLL_ERROR AUDIO_GENERATION_ERROR GENERATION_PROVIDER_FAILED_TO_GET_STATUS
        provider_error
    """,
    Remedy.CHANGE_INPUT: """
        GENERATION_PROMPT_MODERATED GENERATION_INVALID_PARAMS LLM_REFUSAL GENERATION_INVALID_URL
        GENERATION_INPUT_VALIDATION GENERATION_ENDPOINT_NOT_FOUND GENERATION_MAP_BEFORE_REQUEST_FAILED
        GENERATION_PROVIDER_NOT_SUPPORTED safety_blocked input_unreachable
    """,
    Remedy.GIVE_UP: """
        BILLING_NOT_ENOUGH_CREDITS BILLING_CREDITS_LIMIT_EXCEEDED BILLING_WOULD_EXCEED_LIMIT
        BILLING_FAILED_TO_RESERVE_CREDITS GENERATION_NOT_PAID GENERATION_CANCELLED
        ACCESS_DENIED ACCESS_ ACCESS_ANYTHING_ELSE SEEDANCE_ENTITLEMENT_REQUIRED _ENTITLEMENT_REQUIRED
    """,
}
EACH_CODE = [(code, remedy) for remedy, codes in CODES.items() for code in codes.split()]

REFUSALS = [
    "Your request was rejected by the safety system. safety_violations=[sexual]",
    "SAFETY",
    "blocked: moderation",
    "The prompt was moderated.",
    "moderation_blocked",
    "The moderator did not like this.",
    "This violates our usage policies.",
    "Violates the content policy",
    "content_policy_violation",
    "The model refused to answer.",
    "LLM refusal",
    "The provider refuses this image.",
    "Request refused. Connect with support to learn more.",
    "The image was found to be unsafe.",
]
NO_REFUSALS = [
    "connection refused",
    "Connection refused by upstream",
    "[Errno 111] Connection refused",
    "The connection was refused",
    "connect ECONNREFUSED 10.0.0.1:443",
    "connection to gpu-7 was refused",
    "the host refused the connection",
    "refused to connect",
    "Our police station is busy",
    "moderately high load, try again",
    "metropolicyclic compound not found",
    "timed out",
    "",
    None,
]


@pytest.mark.parametrize(("code", "remedy"), [*EACH_CODE, ("", Remedy.RETRY_NOW), (None, Remedy.RETRY_NOW)])
def test_each_code_calls_for_what_flora_says(code: str | None, remedy: Remedy) -> None:
    assert remedy_for_run(code, "Something went wrong.") is remedy


@pytest.mark.parametrize("message", REFUSALS)
@pytest.mark.parametrize("code", ["GPU_PROVIDER_ERROR", "GENERATION_NO_RESULT", "A_NEW_CODE", None])
def test_a_refusal_calls_for_another_input_whatever_transient_code_it_travels_under(
    code: str | None, message: str
) -> None:
    assert remedy_for_run(code, message) is Remedy.CHANGE_INPUT


@pytest.mark.parametrize("message", NO_REFUSALS)
def test_what_is_no_refusal_is_retried(message: str | None) -> None:
    assert remedy_for_run("GPU_PROVIDER_ERROR", message) is Remedy.RETRY_NOW
    assert remedy_for_run("GENERATION_NO_RESULT", message) is Remedy.RETRY_LATER


def test_a_refusal_beside_a_refused_connection_still_counts() -> None:
    message = "Connection refused by the cache; the prompt was rejected by the safety system."

    assert remedy_for_run("GPU_PROVIDER_ERROR", message) is Remedy.CHANGE_INPUT


@pytest.mark.parametrize("code", CODES[Remedy.GIVE_UP].split())
def test_no_message_makes_a_code_to_give_up_on_retryable(code: str) -> None:
    assert remedy_for_run(code, REFUSALS[0]) is Remedy.GIVE_UP


@given(st.none() | st.text(), st.none() | st.text())
def test_there_is_a_remedy_for_everything(code: str | None, message: str | None) -> None:
    assert remedy_for_run(code, message) in Remedy


def test_only_the_two_retries_are_retryable() -> None:
    assert [remedy for remedy in Remedy if remedy.retryable] == [Remedy.RETRY_NOW, Remedy.RETRY_LATER]


def failed_run(**fields: Any) -> Run:
    return Run(run_id="run_1", status="failed", progress=100, **fields)


def test_a_failed_run_is_told_with_code_message_request_id_and_remedy() -> None:
    run = failed_run(error_code="GENERATION_INVALID_URL", error_message="No image there.", request_id="req_42")

    error = FloraRunFailedError(run, "tech_1")

    assert str(error) == (
        "Run run_1 of technique 'tech_1' failed with GENERATION_INVALID_URL: No image there. [request id req_42] "
        "(remedy: change the input)"
    )
    assert (error.run, error.technique_id, error.remedy) == (run, "tech_1", Remedy.CHANGE_INPUT)
    assert not error.transient


def test_a_failed_run_without_a_word_is_told_as_such() -> None:
    assert str(FloraRunFailedError(failed_run(), "tech_1")) == (
        "Run run_1 of technique 'tech_1' failed without an error code (remedy: retry now)"
    )


def test_a_time_out_says_that_the_run_goes_on_and_which_it_is() -> None:
    error = FloraRunTimeoutError("run_1", "tech_1", "within 60 s", " (it is running, 30 %)")

    assert "Run run_1 of technique 'tech_1' did not end within 60 s (it is running, 30 %)" in str(error)
    assert "goes on at Flora" in str(error)
    assert (error.run_id, error.technique_id, error.remedy) == ("run_1", "tech_1", Remedy.RETRY_LATER)
