"""Orders of faults: what was ordered, and which faults a request meets.

An order is a JSON object with a ``kind``, the words of its kind (see ``kinds.py``), and these:

    operation   an operation's name, such as startTechniqueRun; "*", the default, means every operation
    contains    text that must be in the URL or the body
    skip        how many matching requests pass first; default 0
    times       how often it fires; default 1; null means until cleared
    when        the moment of the request; the default depends on the kind

Orders are tried first come, first served. Once one has answered the request, the later ones do not fire: two orders
for one operation fire one after the other. What a fault does to an answer is in ``breakage.py``.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from airflow_provider_flora.emulator.faults.kinds import KINDS, OPERATIONS, REQUIRED, Kind, Word
from airflow_provider_flora.emulator.faults.rate_limit import TokenBucket


@dataclass
class Fault:
    """A fault that was ordered."""

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

    def meets(self, operation: str, text: bytes) -> bool:
        """Whether it fires for this request. A matching request counts towards ``skip`` and the rate."""
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
        """Whether it never fires again."""
        if self._until is not None:
            return time.monotonic() >= self._until or self.times == 0
        return self.times == 0

    def as_json(self) -> dict[str, Any]:
        """The order and how often it has fired."""
        names = ("kind", "when", "operation", "contains", "skip", "times", "fired")
        return {**{name: getattr(self, name) for name in names}, **self.words}


class Faults:
    """The orders that are in force.

    :param fired: gives the counter of what has fired, by kind.
    """

    def __init__(self, fired: Callable[[], Counter[str]]) -> None:
        self._fired = fired
        self._orders: list[Fault] = []

    def add(self, spec: Any) -> Fault:
        """Place an order.

        :param spec: the order, as a JSON object; see the top of this file.
        :raises ValueError: when the order is not valid; the message says what would be.
        """
        fault = _read_order(spec)
        self._orders.append(fault)
        return fault

    def clear(self) -> None:
        """Cancel every order."""
        self._orders.clear()

    def as_json(self) -> list[dict[str, Any]]:
        """The orders in force."""
        self._drop_spent()
        return [fault.as_json() for fault in self._orders]

    def fire(self, when: str, operation: str, text: bytes) -> Iterator[Fault]:
        """Fire the faults that this request meets, one after the other, as the caller asks for the next.

        :param when: the moment of the request.
        :param operation: its operation.
        :param text: its URL and body, and the name of its asset.
        """
        if not self._orders:
            return
        self._drop_spent()
        for fault in [*self._orders]:
            if fault.when == when and not fault.spent and fault.meets(operation, text):
                fault.fired += 1
                fault.times = fault.times and fault.times - 1
                self._fired()[fault.kind] += 1
                yield fault

    def _drop_spent(self) -> None:
        self._orders = [fault for fault in self._orders if not fault.spent]


def _read_order(spec: Any) -> Fault:
    if not isinstance(spec, dict):
        raise ValueError("an order must be a JSON object")
    kind = KINDS.get(spec.get("kind", ""))
    if kind is None:
        raise ValueError(f"kind is {spec.get('kind')!r}: it must be one of {', '.join(KINDS)}")
    accepted = {**_shared_words(spec["kind"], kind), **kind.words}
    for name in spec:
        if name != "kind" and name not in accepted:
            raise ValueError(f"{spec['kind']} does not take {name!r}: it takes {', '.join(accepted)}")
    values: dict[str, Any] = {}
    for name, word in accepted.items():
        values[name] = spec.get(name, word.default)
        if values[name] is REQUIRED:
            raise ValueError(f"{spec['kind']} needs {name}: {word.needs}")
        if not word.accepts(values[name]):
            raise ValueError(f"{name} is {values[name]!r}: it must be {word.needs}")
    own = {name: values.pop(name) for name in kind.words}
    return Fault(kind=spec["kind"], words=own, **values)


def _shared_words(name: str, kind: Kind) -> dict[str, Word]:
    """The words that every order may have."""
    endless = name in ("rate_limit", "outage")
    return {
        "when": Word((str,), kind.when[0], kind.when.__contains__, f"one of {', '.join(kind.when)}"),
        "operation": Word(
            (str,), kind.operation, ("*", *OPERATIONS).__contains__, f"* or one of {', '.join(OPERATIONS)}"
        ),
        "contains": Word((str,), "", needs="text"),
        "skip": Word((int,), 0, lambda value: value >= 0, "a whole number"),
        "times": Word(
            (int, type(None)),
            None if endless else 1,
            lambda value: value is None or value > 0,
            "1 or more, or null",
        ),
    }
