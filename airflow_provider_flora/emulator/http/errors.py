"""Flora's error answers: one exception, and the code and message of each HTTP status.

When an error is raised is decided where its rule stands, not here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

STANDARD: dict[int, tuple[str, str]] = {
    400: ("input_validation_error", "Invalid input."),
    401: ("invalid_api_key", "Invalid API key."),
    402: ("insufficient_credits", "Insufficient credits."),
    403: ("forbidden", "Forbidden."),
    404: ("not_found", "Not found."),
    409: ("idempotency_duplicate", "Duplicate idempotency key."),
    422: ("idempotency_conflict", "This idempotency key was used with another body."),
    429: ("rate_limited", "Rate limit exceeded."),
    500: ("unknown_error", "An unknown error occurred."),
    503: ("service_unavailable", "Service unavailable."),
}


class ApiError(Exception):
    """An answer other than success.

    :param status: the HTTP status.
    :param code: Flora's code; the usual one of the status when left out.
    :param message: text for a person; the usual ones for that status when left out.
    :param fields: what is wrong with the request, as pairs of field and message.
    :param headers: headers of the answer.
    """

    def __init__(
        self,
        status: int,
        code: str | None = None,
        message: str | None = None,
        *,
        fields: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        usual_code, usual_message = STANDARD.get(status, STANDARD[500])
        if fields and message is None:
            message = "; ".join(f"{field}: {words}" for field, words in fields)
        self.status = status
        self.code = code or usual_code
        self.message = message or usual_message
        self.fields = fields
        self.headers = dict(headers or {})
        super().__init__(f"{status} {self.code}: {self.message}")

    def body(self) -> dict[str, Any]:
        """The JSON of the answer."""
        error: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.fields:
            error["fields"] = [{"field": field, "message": words} for field, words in self.fields]
        return {"error": error}
