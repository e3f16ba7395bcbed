"""The remedy of a failed run, from its code and its message: two tables, and nothing else."""

from __future__ import annotations

import re
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_provider_flora.api.models import Run


class Remedy(str, Enum):
    """What to do about an error."""

    RETRY_NOW = "retry now"
    RETRY_LATER = "retry later"
    CHANGE_INPUT = "change the input"
    GIVE_UP = "give up"

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed later."""
        return self in (Remedy.RETRY_NOW, Remedy.RETRY_LATER)


# Codes measured by the vendor, and the developer site's lower-case names. Unknown codes: retry now.
REMEDIES_BY_CODE: dict[str, Remedy] = {
    **dict.fromkeys(
        (
            "GENERATION_PROVIDER_TIMEOUT",
            "GENERATION_FAILED_TO_START",
            "GPU_PROVIDER_ERROR",
            "GENERATION_FAILED_TO_UPLOAD",
            "GENERATION_GENERIC_ERROR",
            "GENERATION_FAILED_TO_UPDATE",
            "SERVER_ERROR",
            "GENERATION_FAILED_TO_GET",
            "GENERATION_PREGENERATION_FAILED",
            "GENERATION_POSTGENERATION_FAILED",
            "GENERATION_MAP_AFTER_REQUEST_FAILED",
            "model_timeout",
            "internal_error",
        ),
        Remedy.RETRY_NOW,
    ),
    **dict.fromkeys(
        (
            "GENERATION_DOWNSTREAM_SERVICE_ERROR",
            "GENERATION_QUEUE_TOO_LARGE",
            "GENERATION_INVALID_PROVIDER_RESPONSE",
            "GENERATION_QUEUE_NOT_MOVING",
            "GENERATION_NO_RESULT",
            "GENERATION_CIRCUIT_BREAKER_OPEN",
            "GENERATION_MODAL_POLL_ERROR",
            "AUDIO_GENERATION_ERROR",
            "GENERATION_PROVIDER_FAILED_TO_GET_STATUS",
            "provider_error",
        ),
        Remedy.RETRY_LATER,
    ),
    **dict.fromkeys(
        (
            "GENERATION_PROMPT_MODERATED",
            "GENERATION_INVALID_PARAMS",
            "LLM_REFUSAL",
            "GENERATION_INVALID_URL",
            "GENERATION_INPUT_VALIDATION",
            "GENERATION_ENDPOINT_NOT_FOUND",
            "GENERATION_MAP_BEFORE_REQUEST_FAILED",
            "GENERATION_PROVIDER_NOT_SUPPORTED",
            "safety_blocked",
            "input_unreachable",
        ),
        Remedy.CHANGE_INPUT,
    ),
    **dict.fromkeys(("GENERATION_NOT_PAID", "GENERATION_CANCELLED"), Remedy.GIVE_UP),
}
TOP_UP = "Top up the workspace's credits in Flora, then start again."
# Only a person can grant money and access, so future codes of these families give up too.
_GIVE_UP = re.compile(r"(?:ACCESS|BILLING)_.*|.*_ENTITLEMENT_REQUIRED")

# A moderation refusal often has a transient code (measured: GPU_PROVIDER_ERROR and GENERATION_NO_RESULT) and the
# words of the provider that refused. A missed refusal is paid again; a false one costs a person's clear. So the
# words are broad, and known harmless ones are removed first. The tests hold the providers' messages.
_REFUSAL = re.compile(
    r"""
      safety | unsafe | nsfw | moderat(?:ion|ed|ors?)(?![a-z]) | responsible[ _]?ai | guardrail
    | (?<![a-z]) (?: polic(?:y|ies) | refus(?:al|als|ed|es) | recitation | blocklist | spii ) (?![a-z])
    | content[-_ ]?(?:filter|checker|exists[ ]risk) | risk[ ]control | considered[ ]high[ ]risk
    | (?: prohibited | disallowed | inappropriate | offensive | harmful | explicit | adult | violent )
      [-_ ] (?: content | material | image | video | prompt | text | word )
    | sensitive[ ]?(?: content | information | material | word ) | new_sensitive | (?: filtered | banned )[ ]word
    | nudity | sexual | (?<![a-z])porn | hate[ ]speech | self[-_ ]harm
    | copyrighted | copyright[ ](?: restriction | infring | violat | protect ) | celebrit | public[ ]figure
    | (?: community | content | usage | user )[ ](?: guideline | standard )
    | (?: violat | against | breach | conflict | flagged )[^.;]{0,200}
      (?<![a-z])(?: guidelines? | standards | terms | rules | sensitive | inappropriate ) (?![a-z])
    | block(?:ed)?[_ ]?reason
    | (?<![a-z])(?: prompt | content | image | video | audio | input | output | response )s?
      [ _](?:(?: is | was | were | has[ ]been | have[ ]been | got )[ ])?
      (?: blocked | filtered | flagged | banned | rejected ) (?![a-z])
    | (?: prompt | word )[ ][^ .;]{1,40}[ ]is[ ]banned | banned[ ]prompt
    | (?<![a-z])I(?: ['\u2019]m | [ ]am )[ ](?: sorry | unable ) | (?<![a-z])I[ ]can(?: not | ['\u2019]t )(?![a-z])
    """,
    re.IGNORECASE | re.VERBOSE,
)
_HARMLESS = re.compile(
    r"""
      connect[^.;]{0,200}\brefused\b | \brefused\b[^.;]{0,200}connect
    | \b(?: fair[- ]us(?:e|age) | retry | retries | rate[- ]?limit(?:ing)? | throttling | back-?off | timeout
        | concurrency | queue | scheduling | scaling | cache | caching | retention | network | firewall | bucket
        | access | iam | cors | organi[sz]ation | security | restart | eviction | pull )[-_ ]polic(?:y|ies)
    | \bpolic(?:y|ies)[ ](?: of | for | on )[ ](?: retr | timeouts | rate | caching )
    | \b1008[ ]\(policy[ ]violation\)  # what a websocket of any kind closes with
    | \b(?: moderation | safety )[\w ]{0,40}\b(?: timed[ ]out | time-?out | unavailable | overloaded | unreachable )
    """,
    re.IGNORECASE | re.VERBOSE,
)
_READ_CHARACTERS = 100_000


def remedy_for_run(error_code: str | None, error_message: str | None) -> Remedy:
    """Return the remedy of a failed run."""
    code = error_code or ""
    if _GIVE_UP.fullmatch(code):
        return Remedy.GIVE_UP
    remedy = REMEDIES_BY_CODE.get(code, Remedy.RETRY_NOW)
    words = (error_message or "")[:_READ_CHARACTERS]
    if code not in REMEDIES_BY_CODE:
        words = f"{code[:_READ_CHARACTERS]}: {words}"  # an unknown code may itself name a refusal
    if remedy.retryable and _REFUSAL.search(_HARMLESS.sub("", words)):
        return Remedy.CHANGE_INPUT
    return remedy


def is_out_of_credits(code: str | None) -> bool:
    """Whether a code of an answer or of a failed run means that the workspace lacks credits."""
    return code in ("insufficient_credits", "GENERATION_NOT_PAID") or (code or "").startswith("BILLING_")


def remedy_of(run: Run) -> Remedy:
    """Return the remedy of a run that ended without completing.

    A run with an unknown final status may have been charged, so only a person may replace it.
    """
    return remedy_for_run(run.error_code, run.error_message) if run.status == "failed" else Remedy.GIVE_UP
