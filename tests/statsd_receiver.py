"""A StatsD on this machine: what Airflow sends to it, as it came over UDP."""

from __future__ import annotations

import re
import socket
import threading
from collections import Counter
from dataclasses import dataclass
from types import TracebackType

_LINE = re.compile(
    r"""
    [^.:|]+ \. (?P<name>[^,:|]+)  # after Airflow's prefix
    (?P<tags> (?: ,[^,=:|]+=[^,=:|]+ )* )
    :(?P<value>[^|]+) \|(?P<kind>\w+)
    """,
    re.VERBOSE,
)


@dataclass(frozen=True)
class Sample:
    """A value that was sent.

    :param kind: ``c`` for a counter, ``ms`` for a timer, ``g`` for a gauge.
    :param tags: as ``name=value``, in their order.
    """

    name: str
    kind: str
    tags: tuple[str, ...]
    value: float


_MARK, _END = b"mark", b"end"


class StatsdReceiver:
    """A UDP socket, and a thread that empties it, since its buffer is small."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)  # as far as the system allows
        self._socket.bind(("127.0.0.1", 0))
        self._lines: list[str] = []
        self._is_up_to_date = threading.Event()
        self._thread = threading.Thread(target=self._receive, daemon=True)

    def __enter__(self) -> StatsdReceiver:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._send(_END)
        self._thread.join()
        self._socket.close()

    def _receive(self) -> None:
        while (packet := self._socket.recv(65536)) != _END:
            if packet == _MARK:
                self._is_up_to_date.set()
            else:
                self._lines += packet.decode().splitlines()

    def _send(self, packet: bytes) -> None:
        self._socket.sendto(packet, self._socket.getsockname())

    @property
    def settings(self) -> dict[str, str]:
        """The environment in which Airflow sends the provider's metrics here, with their tags."""
        return {
            "AIRFLOW__METRICS__STATSD_ON": "True",
            "AIRFLOW__METRICS__STATSD_HOST": "127.0.0.1",
            "AIRFLOW__METRICS__STATSD_PORT": str(self._socket.getsockname()[1]),
            "AIRFLOW__METRICS__STATSD_INFLUXDB_ENABLED": "True",
            "AIRFLOW__METRICS__METRICS_ALLOW_LIST": "flora",
        }

    @property
    def lines(self) -> list[str]:
        """All that was sent so far. Over loopback, it is in the buffer when its sender goes on."""
        self._is_up_to_date.clear()
        self._send(_MARK)
        assert self._is_up_to_date.wait(60), "the receiver's own packet was lost"
        return [*self._lines]

    @property
    def samples(self) -> list[Sample]:
        """The provider's metrics so far. Airflow's own may be of DAGs whose names have `flora` in them."""
        found = []
        for line in self.lines:
            if not line.startswith("airflow.flora."):
                continue
            parts = _LINE.fullmatch(line)
            assert parts, f"not StatsD as Airflow sends it: {line!r}"
            tags = tuple(parts["tags"].lstrip(",").split(",")) if parts["tags"] else ()
            found.append(Sample(parts["name"], parts["kind"], tags, float(parts["value"])))
        return found

    def counts(self, prefix: str = "") -> Counter[str]:
        """Return the counters whose names begin so, summed up: ``{"flora.runs.started,technique=a": 2}``."""
        counts: Counter[str] = Counter()
        for sample in self.samples:
            if sample.kind == "c" and sample.name.startswith(prefix):
                counts[",".join((sample.name, *sample.tags))] += int(sample.value)
        return counts

    def values(self, name: str) -> list[float]:
        """Return the values of a timer or a gauge, in their order."""
        return [sample.value for sample in self.samples if sample.name == name]

    def forget(self) -> None:
        """Forget all that was sent so far."""
        del self._lines[: len(self.lines)]
