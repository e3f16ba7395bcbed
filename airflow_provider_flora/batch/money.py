"""What a batch may spend and has spent. No I/O."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from airflow_provider_flora.api.errors import (
    FloraBatchError,
    FloraBudgetError,
    FloraError,
    FloraPriceError,
    Remedy,
)
from airflow_provider_flora.runs.techniques import check_price, exceeds

if TYPE_CHECKING:
    from airflow_provider_flora.api.models import Technique


class Budget:
    """The limits of a batch, in USD, and what its execution has spent. Several threads may use it.

    :param technique_id: the technique, as the user named it.
    :param max_run_cost: limit for one run.
    :param max_total_cost: limit for all runs of the execution: those that are charged, active, and started next.
    :param spent: what earlier attempts of the execution have spent.
    """

    def __init__(
        self, technique_id: str, max_run_cost: float | None, max_total_cost: float | None, spent: float = 0.0
    ) -> None:
        self.spent = spent
        self.granted: float | None = None
        """USD that the execution may spend of the DAG run's budget; ``None`` if that has no limit."""
        self.error: FloraError | None = None
        """The error that says that a limit is reached, if it is."""
        self._technique_id = technique_id
        self._max_run_cost = max_run_cost
        self._max_total_cost = max_total_cost
        self._reserved: dict[str, float] = {}
        self._lock = threading.Lock()

    @property
    def is_spent(self) -> bool:
        """Whether no further row may be started."""
        return self.error is not None

    def check(self, technique: Technique, rows: int) -> None:
        """Check the price of all rows that are to run, before the first is started.

        :raises FloraPriceError: one run costs more than ``max_run_cost``.
        :raises FloraBatchError: all of them cost more than ``max_total_cost``.
        """
        price = self._price(technique)
        total = self.planned + rows * price
        if self._exceeds(total):
            before = f" and {self.planned:.2f} USD before them" if self.planned else ""
            raise FloraBatchError(
                f"{rows:,} rows cost {rows * price:.2f} USD ({price:g} USD each){before}, more than "
                f"max_total_cost={self._max_total_cost:g} USD. Nothing was started now. Raise max_total_cost, or "
                "give fewer rows.",
                Remedy.GIVE_UP,
            )

    def reserve(self, row_id: str, technique: Technique) -> None:
        """Reserve the price of a row that is about to be started. Repeated calls reserve it once.

        :raises FloraPriceError: it costs more than ``max_run_cost``.
        :raises FloraBatchError: with it, the execution would spend more than ``max_total_cost``.
        :raises FloraBudgetError: with it, the execution would spend more than the DAG run's budget allows it.
        """
        price = self._price(technique)
        with self._lock:
            others = self.planned - self._reserved.get(row_id, 0.0)
            if self._exceeds(others + price):
                self.error = FloraBatchError(
                    f"With the next run, {others + price:.2f} USD would be spent, more than max_total_cost="
                    f"{self._max_total_cost:g} USD. No further row is started. Raise max_total_cost and clear the "
                    "task: what is completed is not paid again.",
                    Remedy.GIVE_UP,
                )
                raise self.error
            if self.granted is not None and exceeds(others + price, self.granted):
                self.error = FloraBudgetError(
                    f"With the next run, {others + price:.2f} USD would be spent, more than the {self.granted:.2f} "
                    "USD of max_dag_run_cost that were granted: the price has risen, or Flora has charged more. No "
                    "further row is started. A retry asks again, for the rows that are left.",
                    Remedy.RETRY_LATER,
                )
                raise self.error
            self._reserved[row_id] = price

    def add_active(self, row_id: str, technique: Technique) -> None:
        """Add a run that an earlier attempt has started."""
        with self._lock:
            self._reserved.setdefault(row_id, technique.run_cost or 0.0)

    def end(self, row_id: str, cost: float | None) -> None:
        """Replace the reserved price of a row by what was charged.

        :param cost: USD; ``None`` if it is not known, which counts as the price.
        """
        with self._lock:
            price = self._reserved.pop(row_id, 0.0)
            self.spent += price if cost is None else cost

    def _exceeds(self, total: float) -> bool:
        return self._max_total_cost is not None and exceeds(total, self._max_total_cost)

    @property
    def planned(self) -> float:
        """USD that the execution has spent, or may have spent."""
        return self.spent + sum(self._reserved.values())

    def _price(self, technique: Technique) -> float:
        if self._max_run_cost is not None:
            check_price(technique, self._technique_id, self._max_run_cost)
        price = technique.run_cost
        if price is None and self._max_total_cost is not None:
            raise FloraPriceError(self._technique_id, None, self._max_total_cost, "max_total_cost")
        return price or 0.0
