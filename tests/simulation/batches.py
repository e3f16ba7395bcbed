"""Histories of batches: one task that runs a technique for each of a few rows.

The world is that of single tasks. Rows are told apart by their prompts, which a run at Flora shows. What is
promised is checked from the outside: no row has two runs that are charged, each line shows the row's own run, and a
patient user has every row in the end.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from functools import cache, partial
from types import SimpleNamespace
from typing import Any

from . import world as worlds
from .airflow_model import (
    Definition,
    Deployment,
    HandingOverError,
    Instance,
    Scheduler,
    Store,
    StoreAwayError,
    changed,
)
from .flora import PRICE, FloraRun
from .history import PATIENCE, Finding, play_as
from .promises import ENDS, NO_SURPRISE, NOT_STUCK, ONE_CHARGE, OWN_RUN
from .promises import PRICE as PRICE_PROMISE
from .world import World, plain

LONGEST_TRY = 8 * 3600.0


class Shelf:
    """What a deployment's storage holds: the manifest, and the journals of an Airflow without a state store."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.files: dict[str, Any] = {}

    def trouble(self, what: str) -> None:
        """Meet, at times, a storage that is away."""
        self.world.hub.process.effect(what)
        weather = self.world.weather
        if weather.store and not weather.calm and self.world.tape.chance(0.1):
            from airflow_provider_flora.api.errors import FloraStorageError

            self.world.narrate("the storage is away: {}", what)
            raise FloraStorageError(f"{what}: away")


def _shelf() -> Shelf:
    world = World.active
    assert world is not None
    shelf: Shelf = world.shelf  # type: ignore[attr-defined]
    return shelf


class ModelManifest:
    """What the batch has in place of ``Manifest``."""

    def __init__(self, uri: Any) -> None:
        self.uri = str(uri)

    def check(self) -> None:
        _shelf().trouble("manifest checked")

    def load(self) -> dict[str, Any]:
        shelf = _shelf()
        shelf.trouble("manifest read")
        return {line["row_id"]: plain(line) for line in shelf.files.get(self.uri, [])}

    def write(self, lines: Iterable[Mapping[str, Any]]) -> None:
        shelf = _shelf()
        shelf.trouble("manifest write")
        shelf.files[self.uri] = plain(list(lines))
        shelf.trouble("manifest written")


class ModelFolderStore:
    """What the batch has in place of ``FolderStore``."""

    def __init__(self, folder: Any) -> None:
        self._folder = str(folder)

    def get(self, key: str) -> Any:
        shelf = _shelf()
        shelf.trouble(f"folder get {key}")
        return plain(shelf.files.get(f"{self._folder}/{key}"))

    def set(self, key: str, value: Any) -> None:
        shelf = _shelf()
        shelf.trouble(f"folder set {key}")
        shelf.files[f"{self._folder}/{key}"] = plain(value)
        shelf.trouble(f"folder has {key}")

    def delete(self, key: str) -> None:
        shelf = _shelf()
        shelf.trouble(f"folder delete {key}")
        shelf.files.pop(f"{self._folder}/{key}", None)


def install() -> None:
    """Put what batches need into the interpreter, after ``world.install``."""
    import asyncio

    from airflow_provider_flora.batch import batch, journal, running
    from airflow_provider_flora.operators.batch import FloraRunTechniqueBatchOperator
    from airflow_provider_flora.triggers.batch import FloraBatchTrigger

    from . import virtual_time
    from .virtual_time import clock, run_coroutine

    virtual_time.MOST_STEPS = 400_000
    real_run = asyncio.run

    def run(coroutine: Any, **given: Any) -> Any:
        world = World.active
        if clock.hub is None or world is None:
            return real_run(coroutine, **given)
        return run_coroutine(coroutine, lambda text: world.broken(NO_SURPRISE, text))

    asyncio.run = run  # type: ignore[assignment]
    replaced: Any = batch
    replaced.Manifest, replaced.FolderStore, replaced.Destination = ModelManifest, ModelFolderStore, str
    replaced = journal
    replaced.PAGE_ROWS = 2
    replaced.threading = SimpleNamespace(Lock=virtual_time.Lock)
    replaced = running
    replaced.TICK = 30.0
    for logs in (FloraRunTechniqueBatchOperator, FloraBatchTrigger):
        replaced = logs
        replaced.log = worlds.Log()


@cache
def _built() -> Any:
    from airflow_provider_flora.operators.batch import FloraRunTechniqueBatchOperator

    operator = FloraRunTechniqueBatchOperator(
        task_id="a_task", technique_id="a technique", rows=[], manifest="/m/manifest.jsonl", deferrable=False
    )
    return type(operator), operator.__dict__


class Rows:
    """The rows and parameters of a batch, as its DAG has them now."""

    def __init__(self, world: World) -> None:
        pick = world.tape.pick
        count = pick((3, 5, 8))
        self.prompts = {f"row-{number}": f"a cup {number};" for number in range(count)}
        self._row_ids = {prompt: row_id for row_id, prompt in self.prompts.items()}
        self.starts_at_once = pick((1, 1, 1, 3))
        self.max_active_runs = pick((1, 2, 100))
        self.row_retries = pick((0, 1, 2))
        self.limited = world.tape.chance(0.2)
        self.reuse = not world.tape.chance(0.1)

    def change(self, number: int) -> None:
        """Change the inputs of a row."""
        row_id = f"row-{number}"
        self.prompts[row_id] = f"a cup {number} once more, {self.prompts[row_id]}"
        self._row_ids[self.prompts[row_id]] = row_id

    def prompt_of(self, run: FloraRun) -> str | None:
        """Return the row's prompt that a run was started with."""
        return max((prompt for prompt in self._row_ids if prompt in run.inputs), key=len, default=None)

    def row_of(self, run: FloraRun) -> str | None:
        """Return the row that a run was started for."""
        return self._row_ids.get(self.prompt_of(run) or "")

    def make_task(self, instance: Instance) -> Any:
        """Return the task as a process has it."""
        kind, fields = _built()
        definition = instance.definition
        operator = object.__new__(kind)
        operator.__dict__.update(
            fields,
            technique_id=instance.technique_name,
            rows=[{"id": row_id, "prompt": prompt} for row_id, prompt in self.prompts.items()],
            row_id="id",
            inputs=None,
            reuse=self.reuse,
            deferrable=definition.deferrable,
            retries=definition.retries,
            retry_delay=timedelta(seconds=definition.retry_delay),
            timeout=definition.timeout,
            poll_interval=definition.poll_interval,
            execution_timeout=definition.execution_timeout and timedelta(seconds=definition.execution_timeout),
            starts_at_once=self.starts_at_once,
            max_active_runs=self.max_active_runs,
            row_retries=self.row_retries,
            max_run_cost=PRICE if self.limited else None,
            _limits={"max_run_cost": self.limited, "max_total_cost": False, "max_dag_run_cost": False},
            on_success_callback=[],
        )
        return operator


def play(seed: int, replay: Sequence[int] | None = None, *, narrating: bool = False) -> Finding | World:
    """Play a history of a batch. See ``history.play``."""
    return play_as(_BatchHistory, seed, replay, narrating=narrating)


class _BatchHistory:
    def __init__(self, world: World) -> None:
        self.world = world
        self.hub, self.tape = world.hub, world.tape
        self.errors: list[BaseException] = []
        self.is_over = False
        self.lost_at = 0.0
        self.known: set[str] = set()
        world.on_started = self._started
        world.shelf = Shelf(world)  # type: ignore[attr-defined]

    def play(self) -> None:
        pick, world = self.tape.pick, self.world
        weather = world.weather
        weather.zombies = weather.suspensions = weather.clock_steps = False
        has_store = not self.tape.chance(0.3)
        skew = pick((0.0, 0.0, 0.4, -2.5, 5400.0))
        deployment = Deployment(world, 0, skew, 0.0 if has_store else float("inf"), clears_on_success=False)
        deployment.client_extra = json.dumps({"timeout": pick((60, 10)), "max_retries": pick((4, 1, 0))})
        world.deployments.append(deployment)
        self.rows = Rows(world)
        definition = Definition(
            retries=pick((1, 2, 5)),
            retry_delay=pick((5.0, 0.0, 60.0, 400.0)),
            timeout=pick((3600.0, 600.0, 60.0)),
            poll_interval=pick((5.0, 30.0)),
            deferrable=self.tape.chance(0.5),
            execution_timeout=pick((20.0, 60.0, 200.0)) if self.tape.chance(0.1) else None,
        )
        self.instance = Instance(deployment, -1, definition)
        self.instance.make_task = self.rows.make_task
        scheduler = Scheduler(self.instance)
        scheduler.on_success = self._handed_over
        scheduler.on_try_end = self._try_ended
        if weather.others:
            for _ in range(self.tape.below(3)):
                self.hub.at(self.hub.now + pick((0.0, 1.0, 10.0, 60.0)), self._somebody_elses_run)
        self.hub.spawn(scheduler.process, partial(self._guarded, scheduler))
        self.hub.run(lambda: self.is_over or bool(self.errors or world.findings))
        if self.errors:
            raise self.errors[0]

    def _guarded(self, scheduler: Scheduler) -> None:
        try:
            self._live(scheduler)
        except BaseException as error:
            self.errors.append(error)
        self.is_over = True

    def _somebody_elses_run(self) -> None:
        run = self.world.flora.make_run(self.world.flora.techniques[0], "somebody else's")
        self.world.narrate_for("Flora", "{} of somebody else exists", run.run_id)

    def _live(self, scheduler: Scheduler) -> None:
        hub, tape = self.hub, self.tape
        hub.sleep(0.01)
        scheduler.run_until_it_ends()
        for _ in range(2):
            if tape.chance(0.6):
                break
            hub.sleep(tape.pick((1.0, 30.0, 600.0, 9000.0)))
            if tape.chance(0.3):
                self.rows.change(tape.below(len(self.rows.prompts)))
            if tape.chance(0.15):
                self._lose_journal()
            scheduler.clear(change=self.instance.definition)
            scheduler.run_until_it_ends()
        self.world.heal()
        for _ in range(4):
            if self.instance.state == "success":
                break
            hub.sleep(PATIENCE)
            scheduler.clear(
                change=changed(self.instance.definition, execution_timeout=None, timeout=900.0, retries=2)
            )
            scheduler.run_until_it_ends()
        self._check_end()

    def _lose_journal(self) -> None:
        """Lose what the deployment knows of starts. The manifest remains, and what it shows as completed."""
        shelf: Shelf = self.world.shelf  # type: ignore[attr-defined]
        self.world.narrate("the journal is lost")
        self.lost_at = self.hub.now
        lines = shelf.files.get("/m/manifest.jsonl", [])
        self.known = {line["run_id"] for line in lines if line["status"] == "completed"}
        shelf.files = {name: content for name, content in shelf.files.items() if name == "/m/manifest.jsonl"}
        self.instance.lose_record()

    # --- promises -----------------------------------------------------------------------------------------

    def _started(self, run: FloraRun) -> None:
        prompt = self.rows.prompt_of(run)
        limit = PRICE if self.rows.limited else None
        if limit is not None and run.cost > limit:
            self.world.broken(PRICE_PROMISE, f"{run.run_id} costs {run.cost:g} USD")
        if run.failed:
            return
        for other in self.world.flora.runs:
            same = other is not run and other.owner is not None and self.rows.prompt_of(other) == prompt
            if same and not other.failed and not self._is_excused(other, run):
                self.world.broken(ONE_CHARGE, f"{other.run_id} and {run.run_id} are both charged to {prompt}")

    def _is_excused(self, one: FloraRun, other: FloraRun) -> bool:
        if one.sent <= self.lost_at and one.run_id not in self.known:
            return True  # after a clear, nothing ties the row to the run any more
        # A clear of a run that has ended in a way that is not known, or of a task that has succeeded without reuse.
        if one.outcome in ("cancelled", "expired", "never", "paused") and self.instance.cleared_at > one.sent:
            return True
        return not self.rows.reuse and one.owner is not other.owner

    def _handed_over(self, instance: Instance, value: Any, store: Store | None) -> None:
        lines = self.world.shelf.files["/m/manifest.jsonl"]  # type: ignore[attr-defined]
        if [line["row_id"] for line in lines] != [*self.rows.prompts]:
            self.world.broken(OWN_RUN, "the manifest does not have the rows")
        runs = {run.run_id: run for run in self.world.flora.runs}
        instance.execution.delivered = self.world.flora.runs[0]
        for line in lines:
            run = runs.get(line["run_id"])
            if line["status"] != "completed":
                self.world.broken(OWN_RUN, f"the task succeeds, and {line['row_id']} is {line['status']}")
            elif run is None or self.rows.prompt_of(run) != self.rows.prompts[line["row_id"]]:
                made_of = run and (self.rows.row_of(run), self.rows.prompt_of(run))
                self.world.broken(OWN_RUN, f"{line['row_id']} has {line['run_id']} of {made_of}")
            elif run.outcome != "completed" or not run.has_ended(self.hub.now):
                self.world.broken(OWN_RUN, f"{line['run_id']} is handed over, and has not completed")

    def _try_ended(self, instance: Instance, result: tuple[Any, ...], lasted: float) -> None:
        if lasted > LONGEST_TRY:
            self.world.broken(ENDS, f"a try lasted {lasted:.0f} s")
        if result[0] != "failed":
            return
        from airflow_provider_flora.airflow_compat import AirflowTaskTimeout
        from airflow_provider_flora.api.errors import FloraError, FloraInternalError

        error = result[1]
        expected = isinstance(error, (FloraError, HandingOverError, StoreAwayError, AirflowTaskTimeout))
        if not expected or isinstance(error, FloraInternalError):
            self.world.broken(NO_SURPRISE, f"{type(error).__name__}: {error}")

    def _check_end(self) -> None:
        if self.instance.state == "success" or any(run.endless for run in self.instance.runs):
            return  # a run without an end keeps a place among the active ones until the timeout
        lines = self.world.shelf.files.get("/m/manifest.jsonl", [])  # type: ignore[attr-defined]
        runs = {run.run_id: run for run in self.world.flora.runs}
        for line in lines:
            if line["status"] == "completed" or line["status"] == "unknown":
                continue
            run = runs.get(line["run_id"])
            if run is not None and (run.failed or run.endless or run.outcome in ("cancelled", "expired")):
                continue
            self.world.broken(NOT_STUCK, f"{line['row_id']} is {line['status']} for ever: {line['error']}")
            return
        if not lines:
            self.world.broken(NOT_STUCK, f"there is no manifest: {self.instance.last_error}")
