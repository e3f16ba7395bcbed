"""A model of Flora, at the level of requests and answers, and of the network and the proxies on the way to it.

Its own code: it shares nothing with the client or the emulator. It knows for each run who asked for it, with
which inputs, and whether it is charged. The bounds of what it does stand first: the code under test may rely on
them, for without any bound nothing can be promised.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from email.utils import formatdate
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic_core import to_json

from .virtual_time import BEGIN, EPOCH, Process

if TYPE_CHECKING:
    from .weather import World

LONGEST_START = 115.0
"""Seconds after which a start that was sent has surely become a run, or never will."""
LONGEST_LAG = 20.0
"""Seconds by which a list may lag behind."""
LONGEST_ABSENCE = 25.0
"""Seconds for which a run that was just created may be missing when it is asked for by its id."""
TRIP = 0.1
"""Seconds that a request and its answer take together, at least."""
KEYS_KEPT_FOR = {"docs": 2 * 3600.0, "site": 24 * 3600.0}
PRICE = 0.5
WORKSPACE = "ws_1"
LONGEST_429 = 3600

ENDINGS: dict[str, tuple[str, str | None, str | None]] = {
    "completed": ("completed", None, None),
    "retry now": ("failed", "GENERATION_PROVIDER_TIMEOUT", "the model took too long"),
    "retry later": ("failed", "GENERATION_QUEUE_TOO_LARGE", "try again later"),
    "change the input": ("failed", "GENERATION_PROMPT_MODERATED", "rejected by the safety system"),
    "hidden refusal": ("failed", "GPU_PROVIDER_ERROR", "Your request was rejected by the safety system"),
    "give up": ("failed", "BILLING_NOT_ENOUGH_CREDITS", "top up"),
    "unknown code": ("failed", "SOMETHING_NEW", None),
    "cancelled": ("cancelled", None, None),
    "expired": ("expired", None, None),
    "never": ("running", None, None),
    "paused": ("paused_for_review", None, None),
}
"""How a run can end: its status, error code and message. The last two never end."""
FAILED = frozenset(name for name, (status, _, _) in ENDINGS.items() if status == "failed")
ODD = ("cancelled", "expired", "never", "paused")

HTML = b"<html><body><h1>Something went wrong</h1></body></html>"


class Answer(NamedTuple):
    """What comes back. A status of 0: nothing does, for the reason in the body."""

    status: int
    headers: dict[str, str]
    body: bytes


RESET = Answer(0, {}, b"reset")
TIMEOUT = Answer(0, {}, b"timeout")
UNREACHABLE = Answer(0, {}, b"unreachable")


class FloraRun:
    """A run, and what the model alone knows of it."""

    __slots__ = (
        "absent_until",
        "begun",
        "cost",
        "cost_known",
        "created",
        "ends",
        "exists",
        "first_sent",
        "inputs",
        "is_left",
        "is_reported",
        "is_taken",
        "key",
        "listed_from",
        "missing",
        "outcome",
        "outputs",
        "owner",
        "recorded",
        "run_id",
        "sent",
        "technique",
    )

    def __init__(self, run_id: str, technique: FloraTechnique, inputs: str) -> None:
        self.run_id = run_id
        self.technique = technique
        self.inputs = inputs
        self.owner: Any = None
        """The execution that asked for it; ``None`` is somebody else."""
        self.first_sent = 0.0
        """When the first start with its key was sent."""
        self.sent = self.created = self.exists = self.begun = self.ends = 0.0
        self.listed_from = self.absent_until = self.cost_known = 0.0
        self.outcome = "completed"
        self.cost = PRICE
        self.outputs = "image"
        self.key: str | None = None
        self.recorded = False
        """Whether the process that asked for it had a state store to note it in."""
        self.is_reported = False
        """Whether an answer has reported its id to the task that asked for it."""
        self.is_left = False
        """Whether a user has named another run in the place of this one, which the task had."""
        self.is_taken = False
        """Whether a user has named it as another task's, or another task has handed it over: that is a promise
        of its own."""
        self.missing = False  # taken away by somebody

    @property
    def failed(self) -> bool:
        """Whether it ended, or will end, without being charged."""
        return self.outcome in FAILED

    @property
    def endless(self) -> bool:
        return self.outcome in ("never", "paused")

    def has_ended(self, now: float) -> bool:
        return not self.endless and now >= self.ends


class FloraTechnique:
    """A technique: what it is called and what it costs, now and before."""

    __slots__ = ("deleted", "prices", "slugs", "technique_id")

    def __init__(self, technique_id: str, slug: str, price: float | None) -> None:
        self.technique_id = technique_id
        self.slugs = [slug]  # the last one is the one of now
        self.prices: list[tuple[float, float | None]] = [(0.0, price)]
        self.deleted = False

    @property
    def price(self) -> float | None:
        return self.prices[-1][1]

    def cheapest(self, since: float) -> float | None:
        """Return the lowest price that it has had since a moment; ``None`` if it had none."""
        before = [price for when, price in self.prices if when <= since][-1:]
        known = [price for price in (*before, *(price for when, price in self.prices if when > since)) if price]
        return min(known, default=None)


class UsedKey(NamedTuple):
    """A key that Flora knows."""

    body: bytes
    answer: bytes
    run: FloraRun
    until: float


class Flora:
    """The service. :meth:`deliver` takes a request; what it answers is up to the weather of the history."""

    def __init__(self, world: World, account: str) -> None:
        self.world = world
        self.hub = world.hub
        self.tape = world.tape
        self.weather = world.weather
        self.account = account
        self.techniques = [
            FloraTechnique("tech_one", "one-still", PRICE),
            FloraTechnique("tech_two", "two-still", PRICE),
        ]
        self.runs: list[FloraRun] = []
        self.keys: dict[str, UsedKey] = {}
        self.first_sent: dict[str | None, float] = {}
        """When the first start with a key was sent, be it that it never arrived."""
        self.api_keys = {"sk_live_1"}
        self.limited_until = 0.0
        self.requests = 0
        self._page_cap = self.tape.pick((100, 100, 1, 2)) if self.weather.pages else 100

    # --- requests -----------------------------------------------------------------------------------------

    def deliver(
        self,
        sender: Any,
        method: str,
        path: str,
        query: Mapping[str, str],
        api_key: str,
        body: bytes | None,
        timeout: float,
    ) -> tuple[float, Callable[[], Answer]]:
        """Take a request.

        :param sender: the execution that it belongs to.
        :param timeout: seconds after which the client no longer waits.
        :return: after how many seconds the client learns something, and what gives it then.
        """
        self.requests += 1
        parts = path.split("/")
        is_start = method == "POST" and len(parts) == 4 and parts[3] == "runs"
        trouble = self.weather.trouble_of_start() if is_start else self.weather.trouble_of_poll()
        if trouble is None and self.hub.now < self.limited_until:
            trouble = "429"
        if is_start:
            return self._deliver_start(sender, parts[2], api_key, body or b"", timeout, trouble)
        if trouble is None:
            answer = self._answer_get(method, parts, query, api_key)
            return TRIP, lambda: answer
        return self._trouble(trouble, timeout, lambda: self._answer_get(method, parts, query, api_key))

    def _answer_get(self, method: str, parts: list[str], query: Mapping[str, str], api_key: str) -> Answer:
        if api_key not in self.api_keys:
            return self._error(401, "invalid_api_key", "The API key is not valid.")
        if method == "GET" and parts[1] == "technique-runs":
            return self._list(query)
        if method == "GET" and parts[1] == "techniques":
            technique = self._technique(parts[2])
            if technique is not None and len(parts) == 3:
                return self._answer(200, self._technique_json(technique))
            if technique is not None and len(parts) == 5:
                return self._run(technique, parts[4])
        return self._error(404, "not_found", "There is no such thing.")

    def _trouble(
        self, trouble: str, timeout: float, answer: Callable[[], Answer]
    ) -> tuple[float, Callable[[], Answer]]:
        """Return what a client sees of a request that never reaches Flora, or that Flora refuses at once."""
        if trouble == "timeout":
            return timeout, lambda: TIMEOUT
        if trouble == "cut":
            whole = answer()
            return TRIP, lambda: Answer(whole.status, whole.headers, whole.body[: len(whole.body) // 2])
        result = self._trouble_answer(trouble)
        return TRIP, lambda: result

    def _trouble_answer(self, trouble: str) -> Answer:
        if trouble == "reset":
            return RESET
        if trouble == "unreachable":
            return UNREACHABLE
        if trouble == "429":
            return self._limited()
        if trouble == "200":
            return Answer(200, self._headers("text/html"), HTML)
        if trouble in ("500", "503 own"):
            return self._error(int(trouble[:3]), "unknown_error", "Something went wrong.")
        if trouble in ("own 401", "own 403", "own 404"):
            code = {"own 401": "invalid_api_key", "own 403": "forbidden", "own 404": "not_found"}[trouble]
            return self._error(int(trouble[-3:]), code, "Not now.")
        if trouble == "402":
            return self._error(402, "insufficient_credits", "The workspace has no credits left.")
        if trouble == "conflict":
            return self._error(409, "conflict", "The technique is being edited.")
        return Answer(int(trouble), self._headers("text/html"), HTML)  # a proxy's

    def _limited(self) -> Answer:
        pause = self.tape.pick((1, 5, 30, None, 120, 290, 301, LONGEST_429))
        if not self.weather.calm:
            self.limited_until = max(self.limited_until, self.hub.now + self.tape.pick((0, pause or 0)))
        headers = {} if pause is None else {"retry-after": str(pause)}
        return self._error(429, "rate_limited", "Too many requests.", headers)

    # --- starts -------------------------------------------------------------------------------------------

    def _deliver_start(
        self, sender: Any, technique_id: str, api_key: str, body: bytes, timeout: float, trouble: str | None
    ) -> tuple[float, Callable[[], Answer]]:
        world = self.world
        key = json.loads(body).get("idempotency_key")
        self.first_sent.setdefault(key, self.hub.now)
        if trouble is not None and not trouble.startswith("late "):
            world.narrate("POST {}: {}", lambda: _shown(body), trouble)
            return self._trouble(trouble, timeout, lambda: self._error(500, "unknown_error", "?"))
        request = json.loads(body)
        early = self._refusal(sender, technique_id, api_key, body, request.get("idempotency_key"))
        if early is not None:
            world.narrate("POST {}: {} {}", lambda: _shown(body), early.status, lambda: _code(early))
            return TRIP, lambda: early
        takes = self.weather.start_takes()
        box: list[Answer] = []
        made: list[FloraRun] = []
        sent = self.hub.now
        self.hub.at(
            sent + takes,
            partial(self._finish_start, sender, technique_id, body, request, sent, trouble, box, made),
            self.hub.process,
        )
        seen_after, seen = takes, None
        if trouble in ("late reset", "late 502", "late 504", "late 408", "late html", "late cut"):
            seen_after = takes * self.tape.pick((1.0, 1.0, 0.5, 0.1)) + TRIP
            seen = {"late reset": RESET, "late html": Answer(200, self._headers("text/html"), HTML)}.get(trouble)
            if trouble in ("late 502", "late 504", "late 408"):
                seen = Answer(int(trouble[-3:]), self._headers("text/html"), HTML)
        if trouble == "late timeout" or seen_after + TRIP > timeout:
            seen_after, seen = timeout, TIMEOUT
        world.narrate(
            "POST {}: Flora works on it for {:.1f} s; seen of it: {}",
            lambda: _shown(body),
            takes,
            lambda: "the answer" if seen is None else f"{trouble or 'timeout'} after {seen_after:.1f} s",
        )

        def outcome() -> Answer:
            if seen is not None:
                return seen
            answer = box[0] if box else RESET
            if made and trouble != "late cut":
                made[0].is_reported = True
            return answer._replace(body=answer.body[:-9]) if trouble == "late cut" else answer

        return seen_after + TRIP, outcome

    def _refusal(self, sender: Any, technique_id: str, api_key: str, body: bytes, key: str | None) -> Answer | None:
        """Return what Flora answers at once, if it does."""
        if api_key not in self.api_keys:
            return self._error(401, "invalid_api_key", "The API key is not valid.")
        if self._technique(technique_id) is None:
            return self._error(404, "not_found", "There is no such technique.")
        used = self.keys.get(key) if key else None
        if used is None or used.until <= self.hub.now:
            return None
        if used.run.owner is not sender:
            sender.has_reused_a_key = True
        if self.account == "docs":
            return self._error(409, "idempotency_duplicate", "This key was used before.")
        if used.body != body:
            return self._error(422, "idempotency_conflict", "This key was used with another body.")
        used.run.is_reported = True
        return Answer(200, {**self._headers("application/json"), "idempotent-replayed": "true"}, used.answer)

    def _finish_start(
        self,
        sender: Any,
        technique_id: str,
        body: bytes,
        request: dict[str, Any],
        sent: float,
        trouble: str | None,
        box: list[Answer],
        made: list[FloraRun],
        process: Process,
    ) -> None:
        """Make the run of a start that has been at work."""
        technique = self._technique(technique_id)
        if trouble == "late 500" or technique is None:  # Flora's own: the key is released
            box.append(self._error(500, "unknown_error", "Something went wrong."))
            return
        run = self.make_run(technique, json.dumps(request["inputs"], sort_keys=True))
        run.owner, run.sent, run.key = sender, sent, request.get("idempotency_key")
        run.first_sent = self.first_sent[run.key]
        if self.tape.below(4) == 3:
            run.created = sent  # some state when they were asked
        made.append(run)
        run.recorded = process.keeps_records
        answer = self._run_json(run, self.hub.now)
        box.append(self._answer(201, answer))
        if run.key is not None:
            until = self.hub.now + KEYS_KEPT_FOR[self.account]
            known = self.keys.get(run.key)
            if known is None or known.until <= self.hub.now:
                self.keys[run.key] = UsedKey(body, box[0].body, run, until)
        self.world.narrate_for(
            "Flora", "{} of {} exists and is charged {}", run.run_id, sender, lambda: _charge(run)
        )
        self.world.started(run)

    def make_run(self, technique: FloraTechnique, inputs: str) -> FloraRun:
        """Make a run that exists from now on."""
        now, weather = self.hub.now, self.weather
        run = FloraRun(f"run_{len(self.runs) + 1:03d}", technique, inputs)
        run.created = run.exists = now
        run.cost = technique.price or 0.0
        run.outcome = weather.ending()
        run.begun = now + 0.3
        run.ends = now + weather.run_takes()
        run.cost_known = run.ends + weather.cost_lag()
        run.listed_from = now + weather.list_lag()
        run.absent_until = now + weather.absence()
        run.outputs = weather.outputs()
        self.runs.append(run)
        return run

    # --- answers ------------------------------------------------------------------------------------------

    def _technique(self, name: str) -> FloraTechnique | None:
        for technique in self.techniques:
            if not technique.deleted and name in (technique.technique_id, technique.slugs[-1]):
                return technique
        return None

    def _technique_json(self, technique: FloraTechnique) -> dict[str, Any]:
        slot = {"id": "prompt", "name": "Prompt", "type": "text"}
        return {
            "technique_id": technique.technique_id,
            "slug": technique.slugs[-1],
            "name": "Still",
            "run_cost": technique.price,
            "inputs": [slot],
            "outputs": [{"id": "image", "name": "Image", "type": "imageUrl"}],
        }

    def _run(self, technique: FloraTechnique, run_id: str) -> Answer:
        for run in self.runs:
            if run.run_id == run_id and run.technique is technique:
                if run.missing or self.hub.now < run.absent_until:
                    break
                return self._answer(200, self._run_json(run, self.hub.now))
        return self._error(404, "not_found", "There is no such run.")

    def _list(self, query: Mapping[str, str]) -> Answer:
        now = self.hub.now
        technique_id = query.get("technique_id")
        if self.weather.crowd and not self.weather.calm and self.tape.chance(0.1):
            self.make_run(self.techniques[0], "somebody else's")  # between two pages, at times
        lag = self.weather.status_lag()
        shown = [
            run
            for run in self.runs
            if run.listed_from <= now
            and not run.missing
            and (technique_id is None or run.technique.technique_id == technique_id)
        ]
        shown.sort(key=lambda run: -run.created)
        # The cursor is an offset: a run that comes in between pages makes the last of one the first of the next.
        begin = int(query.get("cursor", "0"))
        size = min(int(query.get("limit", "20")), self._page_cap)
        page = [
            {
                **self._run_json(run, max(run.exists, now - lag)),
                "technique_run_id": run.run_id,
                "technique": {"technique_id": run.technique.technique_id, "name": "Still"},
                "workspace_id": WORKSPACE,
            }
            for run in shown[begin : begin + size]
        ]
        if self.weather.undated:
            for shown_run in page[::2]:
                del shown_run["created_at"]
        cursor = str(begin + size) if begin + size < len(shown) else None
        return self._answer(200, {"technique_runs": page, "meta": {"next_cursor": cursor}})

    def _run_json(self, run: FloraRun, when: float) -> dict[str, Any]:
        shown: dict[str, Any] = {"run_id": run.run_id, "created_at": int(_unix(run.created) * 1000)}
        ended = run.has_ended(when)
        if ended:
            status, code, message = ENDINGS[run.outcome]
            shown.update(status=status, progress=100, completed_at=int(_unix(run.ends) * 1000))
            if status == "completed":
                shown["outputs"] = _outputs(run, when)
                if when >= run.cost_known:
                    shown["charged_cost"] = run.cost
            elif code is not None:
                shown.update(error_code=code, error_message=message)
        elif when < run.begun:
            shown.update(status="pending", progress=0, charged_cost=99.0)  # a quote
        else:
            shown.update(status="paused_for_review" if run.outcome == "paused" else "running", progress=40)
        return shown

    def _answer(self, status: int, body: dict[str, Any]) -> Answer:
        return Answer(status, self._headers("application/json"), _encoded(body))

    def _error(self, status: int, code: str, message: str, more_headers: Mapping[str, str] | None = None) -> Answer:
        headers = {**self._headers("application/json"), **(more_headers or {})}
        return Answer(status, headers, _encoded({"error": {"code": code, "message": message}}))

    def _headers(self, content_type: str) -> dict[str, str]:
        headers = {"content-type": content_type, "request-id": f"req_{self.requests}"}
        process = self.hub.process
        process.answers += content_type == "application/json"
        if not self.weather.no_date_header:
            headers["date"] = _date(int(_unix(self.hub.now)))
        elif process.answers % 4 not in (1, 2):  # a new process gets two answers without a date
            age = 40 + process.answers % 4 * 10
            headers.update(date=_date(int(_unix(self.hub.now - age))), age=str(age))  # a cache's
        if self.weather.cached_dates and not self.weather.no_date_header:
            age = (0, 55, 110)[self.requests % 3]
            headers.update(date=_date(int(_unix(self.hub.now - age))), age=str(age))
        return headers


def _encoded(body: dict[str, Any]) -> bytes:
    try:
        return to_json(body)
    except ValueError:  # half a character, which only Python's own encoder sends
        return json.dumps(body).encode()


def _unix(moment: float) -> float:
    return EPOCH + (moment - BEGIN)


@lru_cache(maxsize=100_000)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)


def _shown(body: bytes) -> str:
    request = json.loads(body)
    return f"{request['inputs'][0]['value']!r} under key …{str(request.get('idempotency_key'))[-4:]}"


def _code(answer: Answer) -> str:
    found: dict[str, Any] = json.loads(answer.body)
    return str(found["error"]["code"]) if "error" in found else f"again: {found['run_id']}"


def _outputs(run: FloraRun, when: float) -> list[dict[str, Any]]:
    outputs: list[dict[str, Any]] = [{"output_id": "image", "type": "imageUrl", "url": f"https://f/{run.run_id}"}]
    if run.outputs != "image":
        texts = {"half a character": "a cup \ud83d", "zero byte": "a\0cup"}
        text = texts.get(run.outputs, "a cup") if run.outputs != "no text yet" or when > run.ends + 30 else None
        outputs.append({"output_id": "text", "type": "text", "url": text})
    return outputs


def _charge(run: FloraRun) -> str:
    return "nothing, for it will fail" if run.failed else f"{run.cost:g} USD ({run.outcome})"
