"""What the runs of a day are charged, whoever started them: the limit ``max_daily_cost`` of a connection.

Flora's run history has the charges. One task of a machine reads it, at most once a minute, and the others use what
it has found. A day begins at midnight UTC by Flora's clock, and has the runs that were created since then:

    a run                                               counts as
    ==================================================  =====================================================
    completed, with a charge                            its charge
    failed                                              nothing: Flora does not usually charge for it
    any other: active, without a charge yet, or ended   what Flora shows as its charge or quote, else the price of
    with a status that this release does not know       its technique
    the same, and its technique has no price or is      nothing; errors say how many there are
    deleted

So that a reading costs a page or two in a day of 10,000 runs, the sum of those whose charge will not change any
more is kept, and only younger ones are read again. A run counts as settled after :data:`SETTLED_AFTER` in any case.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from pydantic import BaseModel, ValidationError

from airflow_provider_flora.api import calls, operations
from airflow_provider_flora.api.errors import (
    FloraError,
    FloraLimitError,
    FloraPriceError,
    FloraStorageError,
    Remedy,
)
from airflow_provider_flora.runs.shared_files import SharedFile
from airflow_provider_flora.runs.techniques import RecentTechnique, exceeds

if TYPE_CHECKING:
    from airflow_provider_flora.api.client import FloraClient
    from airflow_provider_flora.api.models import Run, Technique
    from airflow_provider_flora.task.rules import ConnectionRules

LIMIT = "max_daily_cost"
READ_EVERY = 60.0
"""Seconds for which a reading is used."""
SETTLED_AFTER = 2 * 3600.0
"""Seconds after its creation from which on a run is not read again, even if its charge has not come."""
APPEARS_WITHIN = 300.0
"""Seconds after its creation within which a run appears in the history: a slow start, and a list that lags."""
DAY = 86_400
MAX_PAGES = 1_000
"""Pages of 100 runs after which a reading ends without a result."""
MAX_TECHNIQUES = 20
"""Techniques whose price a reading asks for."""


def check_daily_cost(
    rules: ConnectionRules, client: FloraClient, conn_id: str, technique: Technique, technique_id: str
) -> None:
    """Check that a run may be started today, if the connection has a limit.

    :param technique_id: the technique, as the user named it.
    :raises FloraLimitError, FloraPriceError, FloraStorageError: as :meth:`DailyCost.check`.
    """
    if rules.max_daily_cost is not None:
        DailyCost(client, rules.max_daily_cost, conn_id).check(technique, technique_id)


class Reading(BaseModel):
    """What the history said.

    :param day: days from 1970 to the day that it is about.
    :param read_at: Flora's unix time (s) when the reading began.
    :param charged: USD; what all runs of the day count as.
    :param unpriced: the number of runs that count as nothing since their price is not known.
    :param settled: USD; what the runs until ``settled_until`` count as. They are not read again.
    :param settled_unpriced: the number of runs without a price among these.
    :param settled_until: unix time in milliseconds.
    """

    day: int
    read_at: float
    charged: float
    unpriced: int
    settled: float
    settled_unpriced: int
    settled_until: float


class DailyCost:
    """The cost of a day, in the workspace of a client.

    :param limit: USD.
    :param conn_id: the connection that sets the limit.
    """

    def __init__(self, client: FloraClient, limit: float, conn_id: str) -> None:
        self._client = client
        self._limit = limit
        self._named = f"{LIMIT}={limit:g} USD of the connection {conn_id!r}"
        key = [client.settings.base_url, client.settings.api_key]
        self._file = SharedFile("daily", key, DAY)
        self._prices: dict[str, float | None] = {}

    def check(self, technique: Technique, technique_id: str) -> None:
        """Check that a run may be started today.

        :param technique_id: the technique, as the user named it.
        :raises FloraLimitError: its price would bring the day above the limit. With the remedy "retry later": the
            history cannot be read.
        :raises FloraPriceError: its price is not known.
        :raises FloraStorageError: another task reads the history for too long.
        """
        price = technique.run_cost
        if price is None:
            raise FloraPriceError(technique_id, None, self._limit, LIMIT)
        reading = self.read()
        if exceeds(reading.charged + price, self._limit):
            error = FloraLimitError(self._explain(reading, price, technique_id), LIMIT)
            error.technique_id = technique_id
            raise error

    def read(self) -> Reading:
        """Return what the day has cost, at most a minute ago.

        :raises FloraLimitError: the history cannot be read. A retry may help.
        :raises FloraStorageError: another task reads it for too long. A retry may help.
        """
        try:
            if self._client.clock_skew is None:
                next(self._pages(page_size=1), None)  # whose answer has the time
            return self._find_recent() or self._read_once()
        except (FloraLimitError, FloraStorageError):
            raise
        except FloraError as error:
            unread = FloraLimitError(
                f"Nothing was started: the run history cannot be read, so {self._named} cannot be checked. {error}",
                LIMIT,
                Remedy.RETRY_LATER,
            )
            unread.request_id = error.request_id
            raise unread from error

    def _read_once(self) -> Reading:
        """Read the history, unless another task does so meanwhile."""
        with self._file.locked():
            found = self._find_recent()
            if found is None:
                began = time.time()
                found = self._read_history()
                self._file.write(found.model_dump_json().encode(), began)
            return found

    def _find_recent(self) -> Reading | None:
        found = self._load()
        # Each answer has the time in whole seconds, so that two tasks differ by one.
        is_recent = found is not None and -2 < self._flora_time() - found.read_at < READ_EVERY
        return found if is_recent else None

    def _load(self) -> Reading | None:
        """Return the last reading, if it is today's."""
        content = self._file.read()
        if content is not None:
            with suppress(ValidationError):
                found = Reading.model_validate_json(content)
                return found if found.day == self._flora_time() // DAY else None
        return None

    def _flora_time(self) -> float:
        return time.time() + (self._client.clock_skew or 0.0)

    def _read_history(self) -> Reading:
        now, before = self._flora_time(), self._load()
        if before is None:
            day = int(now // DAY)
            before = Reading(
                day=day,
                read_at=now,
                charged=0,
                unpriced=0,
                settled=0,
                settled_unpriced=0,
                settled_until=day * DAY * 1000 - 1,
            )
        return self._add_up(self._runs_after(before.settled_until), before, now)

    def _add_up(self, runs: Sequence[tuple[float, Run]], before: Reading, now: float) -> Reading:
        amounts = [(created, run, self._amount_of(run)) for created, run in runs]
        frozen = (now - SETTLED_AFTER) * 1000
        open_since = [created for created, run, _ in amounts if not run.settled and created > frozen]
        # Not only by a clock, which may be wrong: all runs that are so much older than this one have appeared.
        latest = min(now * 1000, max((created for created, _ in runs), default=0.0))
        until = min([latest - APPEARS_WITHIN * 1000, *(created - 1 for created in open_since)])
        if until < before.settled_until or any(run.created_at is None for _, run in runs):
            until = before.settled_until  # a run without a time may be younger or older than it seems
        settled = [amount for created, _, amount in amounts if created <= until]
        return Reading(
            day=before.day,
            read_at=now,
            charged=before.settled + sum(amount or 0.0 for _, _, amount in amounts),
            unpriced=before.settled_unpriced + sum(amount is None for _, _, amount in amounts),
            settled=before.settled + sum(amount or 0.0 for amount in settled),
            settled_unpriced=before.settled_unpriced + sum(amount is None for amount in settled),
            settled_until=until,
        )

    def _runs_after(self, moment: float) -> list[tuple[float, Run]]:
        """Return the runs that were created after a moment, each once, with when that was.

        :param moment: unix time in milliseconds.
        """
        found: dict[str, tuple[float, Run]] = {}
        latest = self._flora_time() * 1000  # of a run without a time, which is as old as the one before it
        for number, page in enumerate(self._pages(), 1):
            is_last = False
            for run in page:
                latest = latest if run.created_at is None else run.created_at
                if latest > moment:
                    # A run that starts meanwhile shifts the pages, so that one may be on two of them.
                    found[run.run_id] = latest, run
                else:
                    is_last = True
            if is_last:
                break
            if number >= MAX_PAGES:
                raise FloraLimitError(
                    f"Nothing was started: the workspace has {len(found):,} runs since midnight UTC or more, too "
                    f"many to check {self._named}. Remove {LIMIT} from the connection's extra.",
                    LIMIT,
                )
        return [*found.values()]

    def _pages(self, page_size: int = 100) -> Iterator[Sequence[Run]]:
        """Read the history page by page, newest first; not narrowed to a workspace, as no start is."""
        pages = operations.list_technique_runs(None, None, None, None, page_size, in_workspace=False)
        while pages.request is not None:
            yield self._client.drive(calls.read_page(pages))

    def _amount_of(self, run: Run) -> float | None:
        """Return what a run counts as, in USD; ``None`` if its price is not known."""
        if run.status == "failed":
            return 0.0
        if run.charged_cost is not None:
            return max(0.0, run.charged_cost)
        return None if run.technique is None else self._price_of(run.technique.technique_id)

    def _price_of(self, technique_id: str) -> float | None:
        if technique_id not in self._prices and len(self._prices) < MAX_TECHNIQUES:
            try:
                self._prices[technique_id] = RecentTechnique(self._client, technique_id).get().run_cost
            except FloraError as error:
                if error.transient:
                    raise
                self._prices[technique_id] = None  # it was deleted
        return self._prices.get(technique_id)

    def _explain(self, reading: Reading, price: float, technique_id: str) -> str:
        midnight, read_at = _utc(reading.day * DAY), _utc(reading.read_at)
        unpriced = f" {reading.unpriced:,} runs of unknown price are not counted." if reading.unpriced else ""
        return (
            f"A run of technique {technique_id!r} costs {price:g} USD. With it, the workspace's runs since "
            f"{midnight:%Y-%m-%d %H:%M} UTC would cost {reading.charged + price:.2f} USD, more than "
            f"{self._named}. Until {read_at:%H:%M:%S} UTC they have cost {reading.charged:.2f} USD, with active "
            f"runs at their price.{unpriced} Nothing was started or charged. Clear the task after midnight UTC, or "
            f"raise {LIMIT} in the connection's extra."
        )


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, timezone.utc)
