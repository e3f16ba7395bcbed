"""One task instance as ``runs.starting`` sees it, over attempts that may die at any point of a start."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from airflow_provider_flora.api.client import FloraClient
from airflow_provider_flora.api.exchange import Request
from airflow_provider_flora.api.models import Run, RunInput
from airflow_provider_flora.api.settings import ClientSettings
from airflow_provider_flora.emulator import Emulator
from airflow_provider_flora.runs.record import Records
from airflow_provider_flora.runs.starting import PlannedRun, Starter
from airflow_provider_flora.task.attempt import Attempt
from airflow_provider_flora.task.state import RUN
from tests.unit.operators.fake_task import FakeStore

TECHNIQUE = "editorial-still"
POINTS = ("before the intent", "before the POST", "after the POST", "before the record", "after the record")
"""Where an attempt can die: before or after each of the steps of a start."""

log = logging.getLogger("a task")


class Crash(BaseException):
    """The process is gone."""


class DyingClient(FloraClient):
    """Dies around the POST, on order."""

    dies: str | None = None

    def ask(self, request: Request, read: Any) -> Any:
        if not request.spends_money:
            return super().ask(request, read)
        if self.dies == "before the POST":
            raise Crash
        try:
            return super().ask(request, read)
        finally:
            if self.dies == "after the POST":
                raise Crash  # with any answer


class DyingStore:
    """A store in whose writes a process dies, on order."""

    def __init__(self, store: FakeStore, dies: str | None) -> None:
        self._store = store
        self._dies = dies
        self.get = store.get

    def set(self, key: str, value: Any, **kwargs: Any) -> None:
        of_a_run = value["run_id"] is not None
        if not value["sent"] and not of_a_run:
            self._store.set(key, value, **kwargs)  # the mark that nothing has been sent yet
            return
        if self._dies == ("before the record" if of_a_run else "before the intent"):
            raise Crash
        self._store.set(key, value, **kwargs)
        if self._dies == "after the record" and of_a_run:
            raise Crash


def text(value: str) -> list[RunInput]:
    return [RunInput(id="prompt", type="text", value=value)]


class Life:
    """A task instance; :meth:`start` is its next attempt, as far as the run is started.

    :param store: Airflow's state store; ``None`` for an Airflow that has none.
    """

    def __init__(
        self, flora: Emulator, store: FakeStore | None, *, prompt: str = "a cup", retries: int = 2, **kept: Any
    ) -> None:
        self.flora = flora
        self.store = store
        self.prompt = prompt
        self.retries = self.max_tries = retries
        self.try_number = 0
        self.clear_number = 0
        self.client_settings: dict[str, Any] = {"timeout": 60, "max_retries": 0}
        self.siblings: Sequence[str] = ()
        self.on_unknown_start = "stop"
        self.abandoned = False
        self.kept = {"map_index": -1, "dag_run_began": time.time() - 1, "retry_delay": 300.0, **kept}

    def attempt(self) -> Attempt:
        return Attempt(
            "dag",
            "run",
            "task",
            try_number=self.try_number,
            max_tries=self.max_tries,
            dag_run_due=self.kept["dag_run_began"],
            began=time.time(),
            retries=self.retries,
            clear_number=self.clear_number,
            **self.kept,
        )

    def records(self, dies: str | None = None) -> Records:
        return Records(None if self.store is None else DyingStore(self.store, dies), self.attempt())

    def start(
        self,
        *,
        dies: str | None = None,
        adopt: str | None = None,
        may_spend: Callable[[], None] = lambda: None,
        look_first: bool = True,
    ) -> Run:
        """Make the next attempt.

        :param look_first: ask for the technique first, as the operator does.
        """
        self.try_number += 1
        starter = self.make_starter(dies=dies, may_spend=may_spend, look_first=look_first)
        with starter._client:
            return (starter.adopt(adopt) if adopt else starter.start()).run

    def make_starter(
        self, *, dies: str | None = None, may_spend: Callable[[], None] = lambda: None, look_first: bool = True
    ) -> Starter:
        settings = ClientSettings(self.flora.api_key, self.flora.base_url, **self.client_settings)
        client = DyingClient(settings)
        client.dies = dies
        if look_first:
            client.get_technique(TECHNIQUE)
        return Starter(
            client,
            technique_id=TECHNIQUE,
            inputs={"prompt": self.prompt},
            files=dict,
            plan=lambda: PlannedRun(f"tech_{TECHNIQUE}", lambda: text(self.prompt), may_spend),
            callback_url=None,
            records=self.records(dies),
            on_unknown_start=self.on_unknown_start,
            siblings=lambda: self.siblings,
            log=log,
            abandoned=self.abandoned,
        )

    def deliver(self) -> None:
        """Do what Airflow does after it has recorded the task's success."""
        self.records().record_delivery()

    def clear(self) -> None:
        """Do what a user's clear does."""
        self.max_tries = self.try_number + self.retries
        self.clear_number += 1

    @property
    def record(self) -> Any:
        assert self.store is not None
        return self.store.get(RUN)


def runs_of(flora: Emulator) -> list[dict[str, Any]]:
    """Return the runs that were started, oldest first."""
    runs: list[dict[str, Any]] = flora.ledger()["runs"]
    return runs


def posts_to(flora: Emulator) -> int:
    """Return how often a start was asked for."""
    return int(flora.ledger()["requests"].get("startTechniqueRun", 0))


def prompts_of(flora: Emulator) -> list[str]:
    """Return what each run was given."""
    return [run["inputs"][0]["value"] for run in runs_of(flora)]
