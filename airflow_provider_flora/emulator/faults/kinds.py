"""Which faults there are: the table of their kinds, and the words that each takes.

``when`` is the moment of the request at which a fault acts. Where a kind has several, the first is the default:

    before     before the request is processed
    during     between the check of the idempotency key and the making of a run or asset, or halfway through a file
    after      in place of the answer
    start      at the start of a run
    process    when all bytes of an asset are there
    upload     at an upload

    kind           when                    its own words                            what happens
    status         before                  status=503, code, message, retry_after   this error, as Flora words it
    rate_limit     before                  per_second, retry_after=true             429 to what comes faster
    html           before, after           status=502                               the error page of a proxy
    redirect       before                  location, status=302                     a redirect
    reset          before, during, after                                            the connection is reset
    outage         before                  seconds                                  every connection is reset
    delay          before, during, after   seconds                                  a late answer to this request
    slow_list      before                  seconds                                  a delay of listTechniqueRuns
    cut_json       after                                                            the first half of the answer
    not_a_run      after                                                            200, JSON without run_id
    oversize       after                                                            200, more than 16 MB
    fail_run       start                   error_code, error_message                the run fails at its end
    slow_start     start                   seconds, answer="late", run="last"       the start takes this time
    slow_run       start                   seconds                                  the run takes this time
    stall_run      start                                                            the run never ends
    end_run        start                   status                                   the run ends in this status
    set_output     start                   url, output_id, seconds                  replaces an output's URL or text
    large_output   start                   bytes                                    its files are blobs of this size
    fail_asset     process                 failure_message                          the asset fails
    expire_upload  upload                                                           the reservation has expired
    cut_media      during                                                           half a file, then the end
    short_media    during                                                           half a file, as if it were whole

``retry_after`` of a status is a number of seconds or an HTTP date; of a rate limit, whether the header is sent. An
outage begins when it is ordered. An outage and a rate limit fire without end, unless ``times`` is set.

``url`` of an output is any text, or null. ``output_id`` names one output; without it, every output is replaced.
``seconds`` is how long after the end of the run it is replaced; without it, for ever.

During a slow start the idempotency key is not known yet, so a second start with it is carried out. The run is made
``last``, when the time is over, or ``first``. ``answer`` is what the client gets. ``late`` is Flora's own answer.
The others come at once, from a proxy that does not wait: ``408``, ``502`` or ``504`` with its page, ``html`` or
``cut_json`` with 200, or a ``reset``. With ``timeout`` there is no answer. Flora goes on in any case.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_flora.emulator.media.blobs import MAX_BYTES
from airflow_provider_flora.emulator.state.runs import STATUSES

REQUIRED = object()
_NUMBER = (int, float)


@dataclass(frozen=True)
class Word:
    """One word of an order: its types, its default, and a check of its value."""

    types: tuple[type, ...]
    default: Any = REQUIRED
    check: Callable[[Any], object] = lambda value: True
    needs: str = "another type"

    def accepts(self, value: Any) -> bool:
        """Whether the word may have this value."""
        if isinstance(value, bool) and bool not in self.types:
            return False
        return isinstance(value, self.types) and bool(self.check(value))


@dataclass(frozen=True)
class Kind:
    """A kind of fault: the moments at which it can act, and its own words. The first moment is the default."""

    when: tuple[str, ...]
    words: dict[str, Word] = field(default_factory=dict)
    operation: str = "*"


def _status(default: int) -> Word:
    return Word((int,), default, lambda value: 200 <= value <= 599, "a number from 200 to 599")


_SECONDS = {"seconds": Word(_NUMBER, REQUIRED, lambda value: value >= 0, "a number of seconds")}
_TEXT_OR_NONE = Word((str, type(None)), None, needs="text or null")

ANSWERS = ("late", "408", "502", "504", "html", "cut_json", "reset", "timeout")

KINDS: dict[str, Kind] = {
    "status": Kind(
        ("before",),
        {
            "status": _status(503),
            "code": _TEXT_OR_NONE,
            "message": _TEXT_OR_NONE,
            "retry_after": Word((*_NUMBER, str, type(None)), None, needs="seconds, an HTTP date or null"),
        },
    ),
    "html": Kind(("before", "after"), {"status": _status(502)}),
    "reset": Kind(("before", "during", "after")),
    "redirect": Kind(
        ("before",),
        {"location": Word((str,), "https://elsewhere.example/", needs="a URL"), "status": _status(302)},
    ),
    "rate_limit": Kind(
        ("before",),
        {
            "per_second": Word(_NUMBER, REQUIRED, lambda value: value > 0, "a number above 0"),
            "retry_after": Word((bool,), True, needs="true or false"),
        },
    ),
    "outage": Kind(("before",), _SECONDS),
    "delay": Kind(("before", "during", "after"), _SECONDS),
    "slow_list": Kind(("before",), _SECONDS, "listTechniqueRuns"),
    "cut_json": Kind(("after",)),
    "not_a_run": Kind(("after",)),
    "oversize": Kind(("after",)),
    "fail_run": Kind(
        ("start",),
        {
            "error_code": Word((str,), "GENERATION_GENERIC_ERROR", needs="text"),
            "error_message": Word((str,), "The generation failed.", needs="text"),
        },
        "startTechniqueRun",
    ),
    "slow_start": Kind(
        ("start",),
        {
            **_SECONDS,
            "answer": Word((str,), "late", ANSWERS.__contains__, f"one of {', '.join(ANSWERS)}"),
            "run": Word((str,), "last", ("last", "first").__contains__, "last or first"),
        },
        "startTechniqueRun",
    ),
    "slow_run": Kind(("start",), _SECONDS, "startTechniqueRun"),
    "stall_run": Kind(("start",), operation="startTechniqueRun"),
    "end_run": Kind(
        ("start",),
        {
            "status": Word(
                (str,), REQUIRED, lambda value: value and value not in STATUSES, f"none of {', '.join(STATUSES)}"
            )
        },
        "startTechniqueRun",
    ),
    "set_output": Kind(
        ("start",),
        {
            "url": Word((str, type(None)), REQUIRED, needs="text or null"),
            "output_id": _TEXT_OR_NONE,
            "seconds": Word(
                (*_NUMBER, type(None)),
                None,
                lambda value: value is None or value >= 0,
                "seconds or null",
            ),
        },
        "startTechniqueRun",
    ),
    "large_output": Kind(
        ("start",),
        {"bytes": Word((int,), REQUIRED, lambda value: 0 <= value <= MAX_BYTES, "a number of bytes")},
        "startTechniqueRun",
    ),
    "fail_asset": Kind(
        ("process",), {"failure_message": Word((str,), "The file could not be processed.", needs="text")}
    ),
    "expire_upload": Kind(("upload",), operation="uploadBytes"),
    "cut_media": Kind(("during",), operation="getMedia"),
    "short_media": Kind(("during",), operation="getMedia"),
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
