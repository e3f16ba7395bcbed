"""Whatever happens in whatever order: one paid run for each execution that was asked for."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

import pytest
from fake_task import HAS_STATE_STORE, FakeStore
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from lives import POINTS, Crash, Life, runs_of

from airflow_provider_flora.api.errors import FloraError, FloraRunFailedError
from airflow_provider_flora.emulator import Emulator

pytestmark = pytest.mark.skipif(not HAS_STATE_STORE, reason="this Airflow has no task state store")

_emulators: list[Emulator] = []


@pytest.fixture(autouse=True, scope="module")
def _one_emulator() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    with Emulator(port=0, run_seconds=0, cost_lag=0) as emulator:
        _emulators.append(emulator)
        yield
    logging.disable(logging.NOTSET)
    _emulators.clear()


class TaskOfManyTries(RuleBasedStateMachine):
    """Tries that succeed, die, meet broken answers or failed runs; retries, and clears at any time."""

    @initialize()
    def begin(self) -> None:
        self.flora = _emulators[0]
        self.flora.reset()
        self.life = Life(self.flora, FakeStore(), retries=3)
        self.wishes = 1
        self.finished = False

    def _try(self, dies: str | None = None) -> None:
        with contextlib.suppress(Crash, FloraRunFailedError, FloraError):
            run = self.life.start(dies=dies)
            seen = next(known for known in runs_of(self.flora) if known["run_id"] == run.run_id)
            if seen["status"] == "completed":
                self.life.deliver()
                self.finished = True

    @precondition(lambda self: not self.finished)
    @rule()
    def try_to_the_end(self) -> None:
        self._try()

    @precondition(lambda self: not self.finished)
    @rule(point=st.sampled_from(POINTS))
    def die(self, point: str) -> None:
        self._try(point)

    @precondition(lambda self: not self.finished)
    @rule(
        fault=st.sampled_from([("reset", "before"), ("reset", "after"), ("html", "after"), ("cut_json", "after")])
    )
    def lose_the_answer(self, fault: tuple[str, str]) -> None:
        self.flora.order_fault(kind=fault[0], when=fault[1], operation="startTechniqueRun")
        self._try()
        self.flora.clear_faults()

    @precondition(lambda self: not self.finished)
    @rule(code=st.sampled_from(["GENERATION_GENERIC_ERROR", "LLM_REFUSAL"]), point=st.sampled_from([None, *POINTS]))
    def meet_a_failed_run(self, code: str, point: str | None) -> None:
        self.flora.order_fault(kind="fail_run", error_code=code)
        self._try(point)
        self.flora.clear_faults()

    @precondition(lambda self: self.life.try_number > 0)
    @rule()
    def clear(self) -> None:
        self.wishes += self.finished
        self.finished = False
        self.life.clear()

    @invariant()
    def no_more_is_charged_than_was_asked_for(self) -> None:
        if hasattr(self, "flora"):
            assert self.flora.ledger()["charged_runs"] <= self.wishes

    @invariant()
    def what_is_finished_was_charged(self) -> None:
        if hasattr(self, "flora") and self.finished:
            assert self.flora.ledger()["charged_runs"] == self.wishes

    def teardown(self) -> None:
        """However it went, one more undisturbed try brings the result, unless a run failed for good."""
        if not hasattr(self, "flora") or self.finished:
            return
        with contextlib.suppress(FloraRunFailedError):
            self.life.start()
            self.life.start()
            assert self.flora.ledger()["charged_runs"] <= self.wishes


TestAnyOrderOfEvents = TaskOfManyTries.TestCase
TestAnyOrderOfEvents.settings = settings(
    max_examples=25,
    stateful_step_count=10,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
