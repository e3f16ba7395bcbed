"""Faults on order: which there are, and when an ordered one is due.

What they do to an answer is in ``breakage.py``. An order is a JSON object; every order may say which requests
it means:

    operation   an operation's name, such as startTechniqueRun; "*", the default, means every one
    contains    text that must be in the URL or the body
    skip        let so many matching requests pass first; default 0
    times       fire so often, then be gone; default 1; null, until cleared

`kind` says what happens and `when` at which moment of the request: "before" it is processed; "during", past the
check of the idempotency key and before anything is made, or halfway through a file that is sent or uploaded;
"after", in place of the answer that was due; "start", to the run that it starts; "process", to the asset whose
bytes are now all there; "upload", to the reservation that is now used. Where there is a choice, the first is the
default.

    kind         when                      its own words                             what happens
    status       before                    status=503, code, message, retry_after    that error, as Flora words it
    rate_limit   before                    per_second, retry_after=true              429 to what comes faster
    html         before, after             status=502                                a proxy's page
    redirect     before                    location, status=302                      sent elsewhere
    reset        before, during, after                                               the connection is reset
    outage       before                    seconds                                   every connection is reset
    delay        before, during, after     seconds                                   others are not held up
    slow_list    before                    seconds                                   a delay of listTechniqueRuns
    cut_json     after                                                               half of the body
    not_a_run    after                                                               200, JSON without run_id
    oversize     after                                                               200, more than 16 MB
    fail_run     start                     error_code, error_message                 the run fails at its end
    stall_run    start                                                               the run never ends
    large_output start                     bytes                                     its files are blobs that long
    fail_asset   process                   failure_message                           the asset fails in the end
    expire_upload upload                                                             its time is over
    cut_media    during                                                              half a file, then it breaks off
    short_media  during                                                              half a file, as if it were all

`retry_after` of a status is a number of seconds or an HTTP date; of a rate limit, whether it is told. An outage
begins with its order; it and a rate limit fire without end unless `times` is given.

Orders are tried in the order in which they were placed. One that answers ends the matter, so two orders for one
operation fire one after the other.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_flora.emulator.blobs import MAX_BYTES
from airflow_provider_flora.emulator.rate_limit import TokenBucket

_REQUIRED = object()
_NUMBER = (int, float)


@dataclass(frozen=True)
class _Word:
    """One word of an order: what it may be, and what it is when left out."""

    types: tuple[type, ...]
    default: Any = _REQUIRED
    check: Callable[[Any], object] = lambda value: True
    needs: str = "another type"

    def accepts(self, value: Any) -> bool:
        if isinstance(value, bool) and bool not in self.types:
            return False
        return isinstance(value, self.types) and bool(self.check(value))


@dataclass(frozen=True)
class _Kind:
    """A kind of fault: the moments at which it may act, the first being the default, and its own words."""

    when: tuple[str, ...]
    words: dict[str, _Word] = field(default_factory=dict)
    operation: str = "*"


def _status(default: int) -> _Word:
    return _Word((int,), default, lambda value: 200 <= value <= 599, "a number from 200 to 599")


_SECONDS = {"seconds": _Word(_NUMBER, _REQUIRED, lambda value: value >= 0, "a number of seconds")}
_TEXT_OR_NONE = _Word((str, type(None)), None, needs="text or null")

KINDS: dict[str, _Kind] = {
    "status": _Kind(
        ("before",),
        {
            "status": _status(503),
            "code": _TEXT_OR_NONE,
            "message": _TEXT_OR_NONE,
            "retry_after": _Word((*_NUMBER, str, type(None)), None, needs="seconds, an HTTP date or null"),
        },
    ),
    "html": _Kind(("before", "after"), {"status": _status(502)}),
    "reset": _Kind(("before", "during", "after")),
    "redirect": _Kind(
        ("before",),
        {"location": _Word((str,), "https://elsewhere.example/", needs="a URL"), "status": _status(302)},
    ),
    "rate_limit": _Kind(
        ("before",),
        {
            "per_second": _Word(_NUMBER, _REQUIRED, lambda value: value > 0, "a number above 0"),
            "retry_after": _Word((bool,), True, needs="true or false"),
        },
    ),
    "outage": _Kind(("before",), _SECONDS),
    "delay": _Kind(("before", "during", "after"), _SECONDS),
    "slow_list": _Kind(("before",), _SECONDS, "listTechniqueRuns"),
    "cut_json": _Kind(("after",)),
    "not_a_run": _Kind(("after",)),
    "oversize": _Kind(("after",)),
    "fail_run": _Kind(
        ("start",),
        {
            "error_code": _Word((str,), "GENERATION_GENERIC_ERROR", needs="text"),
            "error_message": _Word((str,), "The generation failed.", needs="text"),
        },
        "startTechniqueRun",
    ),
    "stall_run": _Kind(("start",), operation="startTechniqueRun"),
    "large_output": _Kind(
        ("start",),
        {"bytes": _Word((int,), _REQUIRED, lambda value: 0 <= value <= MAX_BYTES, "a number of bytes")},
        "startTechniqueRun",
    ),
    "fail_asset": _Kind(
        ("process",), {"failure_message": _Word((str,), "The file could not be processed.", needs="text")}
    ),
    "expire_upload": _Kind(("upload",), operation="uploadBytes"),
    "cut_media": _Kind(("during",), operation="getMedia"),
    "short_media": _Kind(("during",), operation="getMedia"),
}

OPERATIONS = (
    "listTechniques",
    "getTechnique",
    "startTechniqueRun",
    "getTechniqueRun",
    "listTechniqueRuns",
    "listWorkspaces",
    "getMedia",
    "createAsset",
    "completeAsset",
    "retryAsset",
    "getAsset",
    "listAssets",
    "uploadBytes",
)


@dataclass
class Fault:
    """An order that was placed."""

    kind: str
    when: str
    operation: str
    contains: str
    skip: int
    times: int | None
    words: dict[str, Any]
    fired: int = 0

    def __post_init__(self) -> None:
        self._bucket = TokenBucket(self.words["per_second"]) if self.kind == "rate_limit" else None
        self._until = time.monotonic() + self.words["seconds"] if self.kind == "outage" else None
        self.wait: int | None = None

    def due(self, operation: str, text: bytes) -> bool:
        """Whether it fires for this request, which counts as one that matches if it does match."""
        if self.operation not in ("*", operation) or self.contains.encode() not in text:
            return False
        if self.skip:
            self.skip -= 1
            return False
        if self._bucket is not None:
            self.wait = self._bucket.take()
            return self.wait is not None
        return True

    @property
    def spent(self) -> bool:
        """Whether it will never fire again."""
        if self._until is not None:
            return time.monotonic() >= self._until or self.times == 0
        return self.times == 0

    def as_json(self) -> dict[str, Any]:
        """The order as it stands."""
        names = ("kind", "when", "operation", "contains", "skip", "times", "fired")
        return {**{name: getattr(self, name) for name in names}, **self.words}


class Faults:
    """The orders that are in force.

    :param fired: Where to count what fires, by kind.
    """

    def __init__(self, fired: Callable[[], Counter[str]]) -> None:
        self._fired = fired
        self._orders: list[Fault] = []

    def order(self, spec: Any) -> Fault:
        """Place an order.

        :param spec: As the top of this file says.
        :raises ValueError: When the order makes no sense; the message says what would.
        """
        fault = _read_order(spec)
        self._orders.append(fault)
        return fault

    def clear(self) -> None:
        """Take every order back."""
        self._orders.clear()

    def as_json(self) -> list[dict[str, Any]]:
        """The orders in force."""
        self._drop_spent()
        return [fault.as_json() for fault in self._orders]

    def due(self, when: str, operation: str, text: bytes) -> Iterator[Fault]:
        """The faults that fire now, one after the other; those not asked for do not fire.

        :param when: The moment in the life of the request.
        :param operation: Its operation.
        :param text: Its URL and body, and the name of the asset that it is about.
        """
        if not self._orders:
            return
        self._drop_spent()
        for fault in [*self._orders]:
            if fault.when == when and not fault.spent and fault.due(operation, text):
                fault.fired += 1
                fault.times = fault.times and fault.times - 1
                self._fired()[fault.kind] += 1
                yield fault

    def _drop_spent(self) -> None:
        self._orders = [fault for fault in self._orders if not fault.spent]


def _read_order(spec: Any) -> Fault:
    if not isinstance(spec, dict):
        raise ValueError("an order is a JSON object")
    kind = KINDS.get(spec.get("kind", ""))
    if kind is None:
        raise ValueError(f"kind is {spec.get('kind')!r}: it must be one of {', '.join(KINDS)}")
    endless = spec["kind"] in ("rate_limit", "outage")
    common = {
        "when": _Word((str,), kind.when[0], kind.when.__contains__, f"one of {', '.join(kind.when)}"),
        "operation": _Word(
            (str,), kind.operation, ("*", *OPERATIONS).__contains__, f"* or one of {', '.join(OPERATIONS)}"
        ),
        "contains": _Word((str,), "", needs="text"),
        "skip": _Word((int,), 0, lambda value: value >= 0, "a whole number"),
        "times": _Word(
            (int, type(None)),
            None if endless else 1,
            lambda value: value is None or value > 0,
            "1 or more, or null",
        ),
    }
    accepted = {**common, **kind.words}
    for name in spec:
        if name != "kind" and name not in accepted:
            raise ValueError(f"{spec['kind']} does not take {name!r}: it takes {', '.join(accepted)}")
    values: dict[str, Any] = {}
    for name, word in accepted.items():
        values[name] = spec.get(name, word.default)
        if values[name] is _REQUIRED:
            raise ValueError(f"{spec['kind']} needs {name}: {word.needs}")
        if not word.accepts(values[name]):
            raise ValueError(f"{name} is {values[name]!r}: it must be {word.needs}")
    own = {name: values.pop(name) for name in kind.words}
    return Fault(kind=spec["kind"], words=own, **values)
