"""What a failed run calls for. The table is written out here a second time, from Flora's published one."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_flora.api.errors import FloraRunFailedError, FloraRunTimeoutError
from airflow_provider_flora.api.models import Run
from airflow_provider_flora.api.remedies import Remedy, remedy_for_run

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
        BILLING_FAILED_TO_RESERVE_CREDITS BILLING_CODE_OF_TOMORROW GENERATION_NOT_PAID GENERATION_CANCELLED
        ACCESS_DENIED ACCESS_ ACCESS_ANYTHING_ELSE SEEDANCE_ENTITLEMENT_REQUIRED _ENTITLEMENT_REQUIRED
    """,
}
EACH_CODE = [(code, remedy) for remedy, codes in CODES.items() for code in codes.split()]

# What providers answer in public, by provider. Ids and addresses are left out.
REFUSALS_BY_PROVIDER = {
    "Flora": """
        Your request was rejected by the safety system. safety_violations=[sexual]
    """,
    "OpenAI": """
        Your request was rejected as a result of our safety system. Your prompt may contain text that it bans.
        moderation_blocked
        content_policy_violation
        This content may violate our content policy. If you believe this to be in error, submit your feedback.
        Your request was blocked by our moderation system.
        We're so sorry, but the prompt may violate our guardrails around nudity, sexuality, or erotic content.
        I'm sorry, but I can't help with that.
        The model refused to answer.
    """,
    "Azure OpenAI": """
        The response was filtered due to the prompt triggering Azure OpenAI's content management policy.
        ResponsibleAIPolicyViolation
        {"finish_reason": "content_filter"}
    """,
    "Google Gemini": """
        finishReason: SAFETY
        finishReason: IMAGE_SAFETY
        PROHIBITED_CONTENT
        IMAGE_PROHIBITED_CONTENT
        The response was blocked: BLOCKLIST
        finish_reason=SPII
        IMAGE_RECITATION
        Blocked reason: OTHER. undefined
        prompt_feedback { block_reason: OTHER }
    """,
    "Google Imagen and Veo": """
        The prompt contains sensitive words that violate Google's Responsible AI practices.
        All images were filtered out because they violated Vertex AI's usage guidelines.
        The response is blocked, as it may violate our policies. If you believe this is an error, send feedback.
        Veo could not generate videos because the input image violates Vertex AI's usage guidelines.
    """,
    "Stability": """
        Your request was flagged by our content moderation system, as a result your request was denied.
        (400, 'invalid_prompts', 'One or more prompts contains filtered words.')
        CONTENT_FILTERED
    """,
    "Replicate": """
        NSFW content detected. Try running it again, or try a different prompt.
        The input or output was flagged as sensitive. Please try again with different inputs. (E005)
        Potential NSFW content was detected in one or more images. A black image will be returned instead.
    """,
    "fal.ai": """
        The content could not be processed because it contained material flagged by a content checker.
    """,
    "Runway": """
        SAFETY.INPUT.TEXT
        INPUT_PREPROCESSING.SAFETY.TEXT
        Content moderation failed.
    """,
    "Luma": """
        Advanced moderation failed
    """,
    "Black Forest Labs": """
        Request Moderated
        Content Moderated
    """,
    "Midjourney": """
        Sorry! Our AI moderators feel your prompt might be against our community standards.
        word "transparent" is banned
        Banned prompt detected
    """,
    "Amazon Bedrock": """
        This request has been blocked by our content filters. Our filters automatically flagged this prompt.
        The generated image(s) has been blocked by our content filters.
        GUARDRAIL_INTERVENED
    """,
    "ElevenLabs": """
        Your prompt appears to have violated our Terms of Service. Please try again with a different prompt.
    """,
    "xAI": """
        Content violates usage guidelines. Failed check: SAFETY_CHECK_TYPE_BIO
        Generated image rejected by content moderation.
    """,
    "Kling": """
        Failure to pass the risk control system
    """,
    "ByteDance Seedance": """
        OutputVideoSensitiveContentDetected
        The request failed because the output audio may contain sensitive information.
        The request failed because the output audio may be related to copyright restrictions.
    """,
    "MiniMax Hailuo": """
        input new_sensitive (1026)
        output new_sensitive
    """,
    "DeepSeek": """
        Content Exists Risk
    """,
    "Moonshot": """
        The request was rejected because it was considered high risk
    """,
    "Alibaba": """
        DataInspectionFailed: Output data may contain inappropriate content.
    """,
    "Ideogram": """
        Prompt failed safety check
        Image blocked by safety filter
    """,
    "Adobe Firefly": """
        One or more words may not meet User Guidelines and were denied.
    """,
    "gateways": """
        Blocked by content filter
        Your upload was flagged: it goes against our guidelines.
        The prompt was flagged under our guidelines
        input contains sensitive words: [test]
        Your prompt was blocked.
        The image depicts a public figure and cannot be used.
        The image was found to be unsafe.
        The prompt was moderated.
        The moderator did not like this.
        LLM refusal
        The provider refuses this image.
        Request refused. Connect with support to learn more.
    """,
}
REFUSALS = [
    message.strip() for messages in REFUSALS_BY_PROVIDER.values() for message in messages.strip().splitlines()
]
NO_REFUSALS = [
    # the network
    "connection refused",
    "Connection refused by upstream",
    "[Errno 111] Connection refused",
    "The connection was refused",
    "connect ECONNREFUSED 10.0.0.1:443",
    "connection to gpu-7 was refused",
    "the host refused the connection",
    "refused to connect",
    "blocked by CORS policy: No 'Access-Control-Allow-Origin' header is present",
    "The network policy of the cluster denied the pod's egress.",
    "received 1008 (policy violation) We are sorry, something went wrong. You are not charged for this request.",
    "<html><head><title>502 Bad Gateway</title></head></html> Copyright 2026",
    "timed out",
    # too many at once
    "fair-use policy: too many concurrent generations",
    "Your account exceeded our fair use policy: too many concurrent requests.",
    "Fair usage policy limit reached, try again in 5 minutes",
    "Too many concurrent requests. Your subscription is associated with a maximum of 2 concurrent requests.",
    "Rate limit reached for images per minute. Limit: 5 / 1min.",
    "429 Too Many Requests: rate limit policy exceeded",
    "ThrottlingException: Too many requests, please wait before trying again.",
    "The server is currently overloaded with other requests. Sorry about that!",
    "moderately high load, try again",
    # money
    "You exceeded your current quota, please check your plan and billing details.",
    "RESOURCE_EXHAUSTED: Quota exceeded for aiplatform.googleapis.com/online_prediction_requests_per_base_model",
    "insufficient balance (1008)",
    "Unusual activity detected. Free Tier usage disabled.",
    # machines
    "Retries exhausted: the retry policy allows 3 attempts",
    "No further attempt by the policy of retries",
    "The pod was evicted by the eviction policy",
    "AccessDenied: the bucket policy does not allow s3:PutObject",
    "moderation service unavailable",
    "The safety checker timed out",
    "unsupported content-type: application/octet-stream",
    "Invalid filtergraph: Error initializing complex filters",
    "Error reinitializing filters! Failed to inject frame into filter network: Invalid argument",
    "[Errno 25] Inappropriate ioctl for device",
    'duplicate key value violates unique constraint "runs_pkey"',
    "See the guidelines for prompts if this happens often.",
    "File names are case sensitive",
    "INTERNAL.BAD_OUTPUT.CODE01",
    "NO_IMAGE",
    "no_media_generated: the model gave no output",
    "CUDA out of memory. Tried to allocate 20.00 MiB",
    "Our police station is busy",
    "metropolicyclic compound not found",
    "",
    None,
]


@pytest.mark.parametrize(("code", "remedy"), [*EACH_CODE, ("", Remedy.RETRY_NOW), (None, Remedy.RETRY_NOW)])
def test_each_code_has_the_documented_remedy(code: str | None, remedy: Remedy) -> None:
    assert remedy_for_run(code, "Something went wrong.") is remedy


@pytest.mark.parametrize("message", REFUSALS)
@pytest.mark.parametrize("code", ["GPU_PROVIDER_ERROR", "GENERATION_NO_RESULT", "A_NEW_CODE", None])
def test_a_refusal_asks_to_change_the_input_under_any_transient_code(code: str | None, message: str) -> None:
    assert remedy_for_run(code, message) is Remedy.CHANGE_INPUT


@pytest.mark.parametrize("message", NO_REFUSALS)
def test_what_is_no_refusal_is_retried(message: str | None) -> None:
    assert remedy_for_run("GPU_PROVIDER_ERROR", message) is Remedy.RETRY_NOW
    assert remedy_for_run("GENERATION_NO_RESULT", message) is Remedy.RETRY_LATER


def test_a_refusal_beside_a_refused_connection_still_counts() -> None:
    message = "Connection refused by the cache; the prompt was rejected by the safety system."

    assert remedy_for_run("GPU_PROVIDER_ERROR", message) is Remedy.CHANGE_INPUT


def test_the_table_of_refusals_is_large_enough_to_trust() -> None:
    assert len(REFUSALS) >= 40
    assert len(set(REFUSALS)) == len(REFUSALS)


@pytest.mark.parametrize("code", ["CONTENT_MODERATION_FAILED", "NSFW_DETECTED", "IMAGE_PROHIBITED_CONTENT"])
def test_an_unknown_code_may_itself_name_a_refusal(code: str) -> None:
    assert remedy_for_run(code, None) is Remedy.CHANGE_INPUT


def test_a_huge_message_is_judged_by_its_beginning() -> None:
    assert remedy_for_run(None, "flagged violat connect refused I " * 1_000_000) is Remedy.RETRY_NOW


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


def test_a_failed_run_is_reported_with_code_message_request_id_and_remedy() -> None:
    run = failed_run(error_code="GENERATION_INVALID_URL", error_message="No image there.", request_id="req_42")

    error = FloraRunFailedError(run, "tech_1")

    assert str(error) == (
        "Run run_1 of technique 'tech_1' failed with GENERATION_INVALID_URL: No image there. [request id req_42] "
        "(remedy: change the input)"
    )
    assert (error.run, error.technique_id, error.remedy) == (run, "tech_1", Remedy.CHANGE_INPUT)
    assert not error.transient


def test_a_failed_run_without_a_message_is_reported_as_such() -> None:
    assert str(FloraRunFailedError(failed_run(), "tech_1")) == (
        "Run run_1 of technique 'tech_1' failed without an error code (remedy: retry now)"
    )


def test_a_timeout_names_the_run_that_goes_on() -> None:
    error = FloraRunTimeoutError("run_1", "tech_1", "within 60 s", " (it is running, 30 %)")

    assert "Run run_1 of technique 'tech_1' did not finish within 60 s (it is running, 30 %)" in str(error)
    assert "goes on at Flora" in str(error)
    assert (error.run_id, error.technique_id, error.remedy) == ("run_1", "tech_1", Remedy.RETRY_LATER)
