"""The errors of the provider: one class for each kind. ``remedies`` says what to do about failed runs.

    FloraError
    ├── FloraSettingsError      the connection cannot be used
    ├── FloraParameterError     a parameter is invalid; nothing was sent
    ├── FloraPriceError         the technique costs more than its limit; nothing was sent
    ├── FloraLimitError         a limit on all runs was reached, or cannot be checked; nothing was started
    ├── FloraInputError         the inputs do not fit the technique; nothing was sent
    ├── FloraFileError          a file cannot be read, or Flora does not accept it; nothing was sent
    ├── FloraUploadError        an upload failed
    ├── FloraConnectionError    no complete answer: the network failed
    │   └── FloraTimeoutError   no answer in time; Flora may still process the request
    ├── FloraAnswerError        an answer that does not follow Flora's documentation
    │   └── FloraAnswerSizeError    an answer that is too large to read
    ├── FloraAPIError           Flora's own error: status, code, message, fields, request id
    │   └── FloraAPICreditsError    Flora refused a request for want of credits
    ├── FloraRunFailedError     the run failed
    │   └── FloraRunCreditsError    the run failed for want of credits
    ├── FloraCreditsError       the workspace lacks credits: the base of these two too
    ├── FloraRunTimeoutError    the run did not finish in time, and goes on at Flora
    ├── FloraUnknownStartError  a start was sent, and its run cannot be identified
    ├── FloraNotStoredError     a run or an intent to start one could not be stored
    ├── FloraWaitError          a wait ended, and its result cannot be read
    ├── FloraDownloadError      an output could not be downloaded
    ├── FloraStorageError       a storage could not be read or written
    ├── FloraBatchError         too many rows of a batch did not complete
    ├── FloraBudgetError        with what is to start, a budget would be exceeded; nothing was started
    └── FloraInternalError      a bug in this provider ended a wait

No I/O, and nothing of Airflow. No message contains the API key.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_provider_flora.api.remedies import TOP_UP, is_out_of_credits
from airflow_provider_flora.api.remedies import Remedy as Remedy
from airflow_provider_flora.api.remedies import remedy_for_run as remedy_for_run
from airflow_provider_flora.api.remedies import remedy_of as remedy_of

if TYPE_CHECKING:
    from airflow_provider_flora.api.models import Run


class FloraError(Exception):
    """The base class of all errors of the provider.

    :cvar kind: one word for each class of errors, for programs: ``settings``, ``run_failed``, ``timeout`` ...
    :cvar transient: whether the same request may succeed when it is sent again.
    :ivar remedy: what to do about the error.
    :ivar code: Flora's machine-readable code, if it sent one.
    :ivar status: HTTP status, if Flora or a proxy in front of it answered.
    :ivar run_id: the run that the error is about, if there is one.
    :ivar technique_id: the technique, as the user named it.
    :ivar request_id: ``req_…``, which Flora's support asks for.
    """

    kind: ClassVar[str] = "flora"
    transient: bool = False
    remedy: Remedy = Remedy.GIVE_UP
    code: str | None = None
    status: int | None = None
    run_id: str | None = None
    technique_id: str | None = None
    request_id: str | None = None


class FloraSettingsError(FloraError):
    """A connection that cannot be used."""

    kind = "settings"


class FloraParameterError(FloraError):
    """An invalid parameter. Nothing was sent."""

    kind = "parameter"


class FloraPriceError(FloraError):
    """A technique that costs more than its limit. Nothing was started.

    :param run_cost: price in USD; ``None`` if Flora did not name one.
    :param limit: USD.
    :param limit_name: the parameter that set the limit.
    """

    kind = "price"

    def __init__(self, technique_id: str, run_cost: float | None, limit: float, limit_name: str) -> None:
        self.technique_id = technique_id
        price = "an unknown price" if run_cost is None else f"{run_cost:g} USD"
        super().__init__(
            f"A run of technique {technique_id!r} costs {price}, more than {limit_name}={limit:g} USD. Nothing was "
            f"started or charged. Raise {limit_name} or choose another technique."
        )


class FloraLimitError(FloraError):
    """A limit on all runs that would be exceeded, or that cannot be checked. Nothing was started.

    :param limit_name: what the user calls the limit.
    :param remedy: "retry later" if the limit could not be checked.
    """

    kind = "limit"

    def __init__(self, message: str, limit_name: str, remedy: Remedy = Remedy.GIVE_UP) -> None:
        super().__init__(message)
        self.limit_name = limit_name
        self.remedy = remedy


class FloraInputError(FloraError):
    """Inputs that do not fit the technique. Nothing was sent.

    :param problems: every mistake, with its input and what that input accepts.
    """

    kind = "input"
    remedy = Remedy.CHANGE_INPUT

    def __init__(self, technique_id: str, problems: list[str]) -> None:
        self.technique_id = technique_id
        self.problems = problems
        count = "1 mistake" if len(problems) == 1 else f"{len(problems)} mistakes"
        lines = "".join(f"\n  - {problem}" for problem in problems)
        super().__init__(
            f"{count} in the inputs for technique {technique_id!r}. Nothing was started or charged.{lines}"
        )


class FloraFileError(FloraError):
    """A file that cannot be read, or that Flora does not accept. Nothing was sent.

    :param retryable: whether the file may be readable later.
    """

    kind = "file"

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.remedy = Remedy.RETRY_LATER if retryable else Remedy.CHANGE_INPUT


class FloraUploadError(FloraError):
    """A failed upload.

    :param transient: whether the same bytes may be sent to the same reservation again.
    :param spent: whether a new reservation is needed first.
    :param remedy: what to do about the error.
    """

    kind = "upload"

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
    """A request without a complete answer. Flora may have processed it.

    :ivar was_sent: whether the request may have reached Flora. ``False`` if no connection was made.
    """

    kind = "connection"
    was_sent: bool = True
    transient = True
    remedy = Remedy.RETRY_NOW


class FloraTimeoutError(FloraConnectionError):
    """A request without an answer within the connection's ``timeout``. Flora may still process it."""

    kind = "no_answer_in_time"


class FloraAnswerError(FloraError):
    """An answer that does not follow Flora's documentation: no JSON, a missing field, a redirect, too large."""

    kind = "answer"

    def __init__(self, message: str, *, request_id: str | None = None, transient: bool = True) -> None:
        super().__init__(message + (f" [request id {request_id}]" if request_id else ""))
        self.request_id = request_id
        self.transient = transient
        self.remedy = Remedy.RETRY_NOW if transient else Remedy.GIVE_UP


class FloraAnswerSizeError(FloraAnswerError):
    """An answer that is too large to read. A list can be read in smaller pages."""

    kind = "answer_size"

    def __init__(self, limit: int) -> None:
        super().__init__(f"Flora's answer is larger than {limit >> 20} MB.", transient=False)


class FloraCreditsError(FloraError):
    """A workspace without enough credits. Only a person can help, who tops them up."""

    kind = "credits"


class FloraAPIError(FloraError):
    """Flora's own error.

    :param status: HTTP status.
    :param code: Flora's machine-readable code, e.g. ``rate_limited``; ``None`` if a proxy answered.
    :param message: Flora's text.
    :param fields: ``{field: message}`` of the inputs that Flora refused.
    :param request_id: ``req_…``, which Flora's support asks for.
    :param retry_after: seconds that Flora asks to wait, if any.
    :param subject: what the request was about: ``technique 'portrait'``. A 404 names it.
    :param key_name: what the text calls the API key.
    """

    kind = "api"

    _TRANSIENT_STATUSES: ClassVar[frozenset[int]] = frozenset({408, 429})
    _REMEDIES: ClassVar[dict[int, Remedy]] = {400: Remedy.CHANGE_INPUT, 422: Remedy.CHANGE_INPUT}
    _ADVICE: ClassVar[dict[int, str]] = {
        401: "Check {key}. Flora's settings, under API keys, make a new one.",
        402: TOP_UP,
        403: "The workspace or plan of {key} does not allow this. Ask the workspace's owner.",
        404: "{subject} was not found with {key}. Check the id, and that the key belongs to the id's workspace.",
        409: "This idempotency key has already started a run. Find it in the technique's run history.",
        422: "This idempotency key was used with other inputs. Use a new key for new inputs.",
        429: "All users of a workspace share its rate limit. Start fewer runs at once.",
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
        subject: str = "",
        key_name: str = "the API key",
    ) -> None:
        self.status: int = status
        self.code = code
        self.message = message
        self.fields = fields or {}
        self.request_id = request_id
        self.retry_after = retry_after
        super().__init__(self._text(self._advice(subject or "the id", key_name)))
        self.transient = status in self._TRANSIENT_STATUSES or status >= 500
        self.remedy = (
            Remedy.RETRY_LATER
            if self.transient or status == 409 or not self.is_floras_own
            else self._REMEDIES.get(status, Remedy.GIVE_UP)
        )

    @property
    def is_floras_own(self) -> bool:
        """Whether Flora itself answered. Its errors have a code; those of a proxy have none."""
        return self.code is not None

    def _advice(self, subject: str, key_name: str) -> str:
        if self.status == 404 and not self.is_floras_own:
            return "Check the base URL."
        advice = TOP_UP if is_out_of_credits(self.code) else self._ADVICE.get(self.status, "")
        return advice.format(subject=subject[0].upper() + subject[1:], key=key_name)

    def _text(self, advice: str) -> str:
        text = f"Flora answered {self.status}"
        if self.code:
            text += f" {self.code}"
        text += f": {self.message}"
        if self.fields:
            text += " (" + "; ".join(f"{field}: {why}" for field, why in self.fields.items()) + ")"
        if self.request_id:
            text += f" [request id {self.request_id}]"
        return f"{text} {advice}" if advice else text


class FloraAPICreditsError(FloraCreditsError, FloraAPIError):
    """A request that Flora refused for want of credits: 402, or a code ``BILLING_…``."""

    kind = "api_credits"


def api_error(status: int, message: str, *, code: str | None, **details: Any) -> FloraAPIError:
    """Return the error for an answer, of the class that says what it is about. See :class:`FloraAPIError`."""
    # Without a code it is a proxy's, which knows nothing of credits.
    is_empty = code is not None and (status == HTTPStatus.PAYMENT_REQUIRED or is_out_of_credits(code))
    kind = FloraAPICreditsError if is_empty else FloraAPIError
    return kind(status, message, code=code, **details)


class FloraRunFailedError(FloraError):
    """A failed run. Flora does not usually charge for it. A retry starts a new run, which is charged."""

    kind = "run_failed"

    def __init__(self, run: Run, technique_id: str) -> None:
        self.run = run
        self.run_id = run.run_id
        self.technique_id = technique_id
        self.code = run.error_code
        self.request_id = run.request_id
        self.remedy = remedy_of(run)
        text = f"Run {run.run_id} of technique {technique_id!r} "
        if run.status == "failed":
            text += f"failed with {run.error_code}" if run.error_code else "failed without an error code"
        else:
            text += f"ended with the unknown status {run.status!r}"
        if run.error_message:
            text += f": {run.error_message}"
        if run.request_id:
            text += f" [request id {run.request_id}]"
        advice = f" {TOP_UP}" if is_out_of_credits(self.code) else ""
        super().__init__(f"{text} (remedy: {self.remedy.value}){advice}")


class FloraRunCreditsError(FloraCreditsError, FloraRunFailedError):
    """A run that failed for want of credits: ``BILLING_…`` or ``GENERATION_NOT_PAID``."""

    kind = "run_credits"


def run_failure(run: Run, technique_id: str) -> FloraRunFailedError:
    """Return the error for a failed run, of the class that says what it failed for."""
    is_empty = run.status == "failed" and is_out_of_credits(run.error_code)
    return (FloraRunCreditsError if is_empty else FloraRunFailedError)(run, technique_id)


class FloraRunTimeoutError(FloraError):
    """A run that did not finish in time. It goes on at Flora, which cannot cancel runs."""

    kind = "timeout"
    remedy = Remedy.RETRY_LATER

    def __init__(
        self, run_id: str, technique_id: str, waited: str, last_known: str = "", *, last_error: str = ""
    ) -> None:
        self.run_id = run_id
        self.technique_id = technique_id
        failing = f" The last polls failed: {last_error.rstrip('.')}." if last_error else ""
        super().__init__(
            f"Run {run_id} of technique {technique_id!r} did not finish {waited}{last_known}.{failing} The run "
            "goes on at Flora and may be charged. Wait for it by its run_id."
        )


class FloraUnknownStartError(FloraError):
    """A start whose run cannot be identified. An earlier attempt sent it."""

    kind = "unknown_start"
    remedy = Remedy.GIVE_UP


class FloraNotStoredError(FloraError):
    """A started run whose id could not be stored, or an intent that could not be stored in time."""

    kind = "not_stored"
    remedy = Remedy.RETRY_NOW


class FloraWaitError(FloraError):
    """A wait whose result cannot be read. A retry waits for the run again."""

    kind = "wait"
    remedy = Remedy.RETRY_LATER

    def __init__(self, message: str, run_id: str | None = None) -> None:
        super().__init__(message)
        self.run_id = run_id


class FloraDownloadError(FloraError):
    """A failed download of an output. A retry resumes the same run and costs nothing.

    :param transient: whether the same request may succeed soon.
    :param gone: whether the file no longer exists at its URL.
    :param retry_after: seconds that the server asks to wait, if any.
    """

    kind = "download"
    remedy = Remedy.RETRY_LATER

    def __init__(
        self, message: str, *, transient: bool = False, gone: bool = False, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.transient = transient
        self.gone = gone
        self.retry_after = retry_after


class FloraStorageError(FloraError):
    """A storage that could not be read or written. A retry resumes the same run and costs nothing."""

    kind = "storage"
    remedy = Remedy.RETRY_LATER


class FloraBatchError(FloraError):
    """A batch that did not complete as many of its rows as it has to. What completed is in its manifest.

    :param remedy: what to do about the rows that did not complete.
    """

    kind = "batch"

    def __init__(self, message: str, remedy: Remedy = Remedy.CHANGE_INPUT) -> None:
        super().__init__(message)
        self.remedy = remedy


class FloraBudgetError(FloraError):
    """A budget that several runs share, and that the next one would exceed. Nothing was started.

    :param remedy: "give up", or "retry later" if it is not known yet what the others spend.
    """

    kind = "budget"

    def __init__(self, message: str, remedy: Remedy = Remedy.GIVE_UP) -> None:
        super().__init__(message)
        self.remedy = remedy


class FloraInternalError(FloraError):
    """A bug in this provider, or in a package that it uses, that ended a wait."""

    kind = "internal"
    remedy = Remedy.RETRY_LATER

    def __init__(self, cause: BaseException) -> None:
        super().__init__(
            f"A bug in the Flora provider ended the wait: {type(cause).__name__}: {cause}. The run goes on at "
            "Flora. A retry waits for it again. Please report the traceback in the log."
        )
