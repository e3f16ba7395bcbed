"""What can go wrong with Flora, and what each error calls for.

    FloraError
    ├── FloraSettingsError      the connection cannot be used as it is
    ├── FloraParameterError     a parameter cannot be used; nothing was sent
    ├── FloraPriceError         the technique costs more than it may; nothing was sent
    ├── FloraInputError         the inputs do not fit the technique; nothing was sent
    ├── FloraFileError          a file cannot be read, or Flora would not take it; nothing was sent
    ├── FloraUploadError        a file did not become an asset
    ├── FloraConnectionError    no answer: the network, a time-out, a broken answer
    │   └── FloraTimeoutError   no answer in time: the request may still be at work
    ├── FloraAnswerError        an answer that is not what Flora says it sends
    ├── FloraAPIError           Flora's own error: status, code, message, fields, request id
    ├── FloraRunFailedError     the run ended badly
    └── FloraRunTimeoutError    the run did not end in time (and goes on at Flora)

Nothing here does I/O or knows of Airflow. No message holds the API key.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from airflow_provider_flora.api.models import Run


class Remedy(str, Enum):
    """What an error calls for."""

    RETRY_NOW = "retry now"
    RETRY_LATER = "retry later"
    CHANGE_INPUT = "change the input"
    GIVE_UP = "give up"

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed when it is made again."""
        return self in (Remedy.RETRY_NOW, Remedy.RETRY_LATER)


# Measured by the vendor, and the developer site's lower-case names. A code that is not here: retry now.
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
    **dict.fromkeys(
        (
            "BILLING_NOT_ENOUGH_CREDITS",
            "BILLING_CREDITS_LIMIT_EXCEEDED",
            "BILLING_WOULD_EXCEED_LIMIT",
            "BILLING_FAILED_TO_RESERVE_CREDITS",
            "GENERATION_NOT_PAID",
            "GENERATION_CANCELLED",
        ),
        Remedy.GIVE_UP,
    ),
}
_GIVE_UP_PATTERN = re.compile(r"ACCESS_.*|.*_ENTITLEMENT_REQUIRED")
# A refusal by moderation often travels under a code that looks transient (measured: GPU_PROVIDER_ERROR and
# GENERATION_NO_RESULT), and in words such as content_policy_violation.
_REFUSAL = re.compile(
    r"safety|unsafe|moderat(?:ion|ed|or)|(?<![a-z])polic(?:y|ies)(?![a-z])|\brefus(?:al|als|ed|es)\b", re.IGNORECASE
)
# A refused *connection* is the network's doing, not the moderator's.
_REFUSED_CONNECTION = re.compile(r"\bconnect[^.;]*\brefused\b|\brefused\b[^.;]*\bconnect", re.IGNORECASE)


def remedy_for_run(error_code: str | None, error_message: str | None) -> Remedy:
    """Tell what a failed run calls for, from its code and its message."""
    if _GIVE_UP_PATTERN.fullmatch(error_code or ""):
        return Remedy.GIVE_UP
    remedy = REMEDIES_BY_CODE.get(error_code or "", Remedy.RETRY_NOW)
    if remedy.retryable and _REFUSAL.search(_REFUSED_CONNECTION.sub("", error_message or "")):
        return Remedy.CHANGE_INPUT
    return remedy


class FloraError(Exception):
    """Anything that went wrong with Flora.

    :cvar transient: the same request may be sent again.
    :cvar remedy: what the error calls for.
    :ivar attempts: how often the request was sent; each sending before the last met a transient error.
    """

    attempts: int = 1
    transient: bool = False
    remedy: Remedy = Remedy.GIVE_UP


class FloraSettingsError(FloraError):
    """The connection cannot be used as it is."""


class FloraParameterError(FloraError):
    """A parameter cannot be used as it is. Nothing was sent."""


class FloraPriceError(FloraError):
    """The technique costs more than it may. Nothing was started."""

    def __init__(self, technique_id: str, run_cost: float | None, limit: float) -> None:
        price = "an unknown price" if run_cost is None else f"{run_cost:g} USD"
        super().__init__(
            f"A run of technique {technique_id!r} costs {price}, more than max_run_cost={limit:g} USD allows; "
            "nothing was started or charged. Raise max_run_cost or choose another technique."
        )


class FloraInputError(FloraError):
    """The inputs do not fit the technique. Nothing was sent.

    :param problems: every mistake, each naming its input and what that takes.
    """

    remedy = Remedy.CHANGE_INPUT

    def __init__(self, technique_id: str, problems: list[str]) -> None:
        self.technique_id = technique_id
        self.problems = problems
        count = "1 mistake" if len(problems) == 1 else f"{len(problems)} mistakes"
        lines = "".join(f"\n  - {problem}" for problem in problems)
        super().__init__(
            f"{count} in the inputs for technique {technique_id!r}; nothing was started or charged:{lines}"
        )


class FloraFileError(FloraError):
    """A file cannot be read, or Flora would not take it. Nothing was sent.

    :param retryable: whether it may be otherwise at the next try.
    """

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.remedy = Remedy.RETRY_LATER if retryable else Remedy.CHANGE_INPUT


class FloraUploadError(FloraError):
    """A file did not become an asset.

    :param transient: the same bytes may be sent to the same place again.
    :param spent: another place must be reserved for them first.
    """

    def __init__(
        self,
        message: str,
        *,
        transient: bool = False,
        spent: bool = False,
        remedy: Remedy = Remedy.RETRY_LATER,
    ) -> None:
        super().__init__(message)
        self.transient = transient
        self.spent = spent
        self.remedy = remedy


class FloraConnectionError(FloraError):
    """No answer that could be read in full: the request may or may not have been processed."""

    transient = True
    remedy = Remedy.RETRY_NOW


class FloraTimeoutError(FloraConnectionError):
    """No answer within the connection's ``timeout``: the request may still be at work at Flora."""


class FloraAnswerError(FloraError):
    """An answer that is not what Flora says it sends: not JSON, too large, a redirect, a field missing."""

    def __init__(self, message: str, *, request_id: str | None = None, transient: bool = True) -> None:
        super().__init__(message + (f" [request id {request_id}]" if request_id else ""))
        self.request_id = request_id
        self.transient = transient
        self.remedy = Remedy.RETRY_NOW if transient else Remedy.GIVE_UP


class FloraAPIError(FloraError):
    """Flora's own error.

    :param status: HTTP status.
    :param code: Flora's machine-readable code, e.g. ``rate_limited``; ``None`` if the answer was not Flora's
        (a proxy in front may answer HTML).
    :param message: Flora's text.
    :param fields: ``{field: message}`` of the inputs that Flora refused.
    :param request_id: ``req_…``, which Flora's support asks for.
    :param retry_after: seconds that Flora asks to wait, if it does.
    """

    _TRANSIENT_STATUSES: ClassVar[frozenset[int]] = frozenset({408, 429})
    _REMEDIES: ClassVar[dict[int, Remedy]] = {400: Remedy.CHANGE_INPUT, 422: Remedy.CHANGE_INPUT}
    _WAYS_OUT: ClassVar[dict[int, str]] = {
        401: "Check the API key in the Flora connection; a new one comes from Flora's settings under API keys.",
        402: "Top up the workspace's credits in Flora, then clear the task.",
        403: "The key's workspace or plan does not allow this; ask the workspace's owner.",
        404: "Check the id, and that the key belongs to the workspace that holds it.",
        409: "A run was started under this idempotency key before; it is in the technique's run history.",
        422: "The idempotency key was used for other inputs before; use a new key for new inputs.",
        429: "The workspace's rate limit is shared by everything that uses its key; start fewer at once.",
    }

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        fields: dict[str, str] | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        self.status = status
        self.code = code
        self.message = message
        self.fields = fields or {}
        self.request_id = request_id
        self.retry_after = retry_after
        super().__init__(self._text())
        self.transient = status in self._TRANSIENT_STATUSES or status >= 500
        self.remedy = (
            Remedy.RETRY_LATER if self.transient or status == 409 else self._REMEDIES.get(status, Remedy.GIVE_UP)
        )

    def _text(self) -> str:
        text = f"Flora answered {self.status}"
        if self.code:
            text += f" {self.code}"
        text += f": {self.message}"
        if self.fields:
            text += " (" + "; ".join(f"{field}: {why}" for field, why in self.fields.items()) + ")"
        if self.request_id:
            text += f" [request id {self.request_id}]"
        if way_out := self._WAYS_OUT.get(self.status):
            text += f" {way_out}"
        return text


class FloraRunFailedError(FloraError):
    """The run ended badly. A failed run is in general not charged; a retry is a new run and is."""

    def __init__(self, run: Run, technique_id: str) -> None:
        self.run = run
        self.technique_id = technique_id
        self.remedy = remedy_for_run(run.error_code, run.error_message)
        text = f"Run {run.run_id} of technique {technique_id!r} failed"
        text += f" with {run.error_code}" if run.error_code else " without an error code"
        if run.error_message:
            text += f": {run.error_message}"
        if run.request_id:
            text += f" [request id {run.request_id}]"
        super().__init__(f"{text} (remedy: {self.remedy.value})")


class FloraRunTimeoutError(FloraError):
    """The run did not end in time. It goes on at Flora, where nothing can cancel it."""

    remedy = Remedy.RETRY_LATER

    def __init__(self, run_id: str, technique_id: str, waited: str, last_known: str = "") -> None:
        self.run_id = run_id
        self.technique_id = technique_id
        super().__init__(
            f"Run {run_id} of technique {technique_id!r} did not end {waited}{last_known}. It goes on at Flora, "
            f"which cannot cancel runs, and may be charged: wait for it by its run_id."
        )
