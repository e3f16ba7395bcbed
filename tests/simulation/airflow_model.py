"""A model of Airflow 3.3, and of 2.11 to 3.2: task instances, their tries, deferrals and clears, and the state
store.

How tries are numbered is as in Airflow's own code: the first try has ``try_number=1`` and
``max_tries=retries``; an automatic retry raises the first alone; a clear sets ``max_tries`` to ``try_number``
plus the ``retries`` that the DAG has now, gives the task instance a new id and raises the DAG run's
``clear_number``; a clear of a running task leaves ``max_tries`` alone. A clear of a finished DAG run gives the
run a new ``start_date``.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from functools import cache, partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from .flora import FloraRun
from .virtual_time import Crash, Fiber, Loop, Process
from .world import World, plain, unix

if TYPE_CHECKING:
    from airflow_provider_flora.runs.record import Record

DAG_ID, RUN_ID, TASK_ID = "a_dag", "a_dag_run", "a_task"
SOON = 0.5
OVERWRITTEN = ("flora_dag_run_cost",)
"""XComs that a try may push again: Airflow replaces them. It fails only where two requests for one meet."""


class StoreAwayError(Exception):
    """The state store cannot be reached."""


class HandingOverError(Exception):
    """Something fails after ``execute`` has returned: ``post_execute``, or pushing the value."""


@dataclass(frozen=True)
class Definition:
    """The task, as the DAG has it now."""

    technique: int = 0
    by_slug: bool = False
    prompt: str = "a cup"
    varies: bool = False
    retries: int = 2
    retry_delay: float = 5.0
    timeout: float = 3600.0
    poll_interval: float = 5.0
    deferrable: bool = False
    max_run_cost: float | None = None
    max_dag_run_cost: float | None = None
    on_unknown_start: str = "stop"
    adopt_run_id: str | None = None
    execution_timeout: float | None = None
    returns: str = "run"
    wait_for_completion: bool = True
    technique_name: str | None = None
    """As it was named when the DAG was written; a technique may be renamed since."""


class Execution:
    """What a user asked for once: the task's first try and its retries, or a clear that asks for a new run."""

    __slots__ = (
        "asked",
        "delivered",
        "errors",
        "has_reused_a_key",
        "instance",
        "number",
        "retries_were_lowered",
        "untraced_since",
    )

    def __init__(self, instance: Instance, number: int) -> None:
        self.instance = instance
        self.number = number
        self.delivered: FloraRun | None = None
        self.asked: set[tuple[int, str]] = set()
        """The techniques and inputs of its tries."""
        self.errors: list[BaseException] = []
        self.has_reused_a_key = False
        """Whether it has sent a start under a key of another execution, as Flora has seen."""
        self.retries_were_lowered = False
        """Whether one of its tries counted as an earlier one than it was."""
        self.untraced_since: int | None = None
        """The number of tries before a clear that left no trace in any number that Airflow shows."""

    @property
    def may_pass_for_a_retry(self) -> bool:
        """Whether nothing distinguishes its try from a retry: only the first one after such a clear has the numbers
        of a first try, and it is over."""
        return self.untraced_since is not None and self.instance.try_number > self.untraced_since + 1

    @property
    def deployment_number(self) -> int:
        return self.instance.deployment.number

    def __str__(self) -> str:
        return f"{self.instance.name}" + (f", execution {self.number}" if self.number > 1 else "")


class Deployment:
    """One Airflow: its clock, its connection, its state store, its triggerer.

    :param store_from: from when on it has a state store; never, if that is infinite.
    """

    def __init__(self, world: World, number: int, skew: float, store_from: float, clears_on_success: bool) -> None:
        self.world = world
        self.number = number
        self.name = "" if number == 0 else "other deployment's "
        self.skew = skew
        self.store_from = store_from
        self.clears_on_success = clears_on_success
        self.rows: dict[int, dict[str, str]] = {}
        self.api_key = "sk_live_1"
        self.away_until = 0.0
        self.client_extra = "{}"
        self.max_daily_cost: float | None = None
        self.triggerer = Triggerer(self)
        self.dag_run = DagRun(self)

    @property
    def has_store(self) -> bool:
        return self.world.hub.now >= self.store_from

    def now(self) -> datetime:
        return datetime.fromtimestamp(unix(self.world.hub.now, self.skew), timezone.utc)

    def connection(self, conn_id: str) -> Any:
        """Return the connection, as a hook reads it."""
        world, weather, tape = self.world, self.world.weather, self.world.tape
        if weather.connection and not weather.calm:
            if world.hub.now >= self.away_until and tape.chance(0.2):
                self.away_until = world.hub.now + tape.pick((1.0, 30.0, 400.0))
            if world.hub.now < self.away_until:
                from airflow_provider_flora.airflow_compat import AirflowNotFoundException

                world.narrate("the connection cannot be read")
                raise AirflowNotFoundException(f"The conn_id `{conn_id}` isn't defined")
        return SimpleNamespace(
            conn_id=conn_id,
            conn_type="flora",
            host=None,
            schema=None,
            login=None,
            port=None,
            password=self.api_key,
            extra=self.client_extra,
        )


class DagRun:
    """A DAG run, whose dates are by its deployment's clock."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.instances: list[Instance] = []
        self.dag_id = DAG_ID
        self.run_id = RUN_ID
        self.clear_number = 0
        self.start_date = deployment.now() - timedelta(seconds=2, microseconds=137 * deployment.number)
        self.run_after = self.start_date - timedelta(seconds=30)
        self.logical_date = self.run_after - timedelta(hours=1)


class Instance:
    """A task instance as Airflow's database has it."""

    def __init__(self, deployment: Deployment, map_index: int, definition: Definition) -> None:
        self.deployment = deployment
        self.world = deployment.world
        self.map_index = map_index
        self.definition = definition
        self.name = f"{deployment.name}task" + (f"[{map_index}]" if map_index >= 0 else "")
        self.id = self.world.new_id("ti")
        self.try_number = 0
        self.max_tries = definition.retries
        self.counted_retries = definition.retries
        """The ``retries`` that ``max_tries`` was set with."""
        self.state = "none"
        self.xcoms: dict[str, Any] = {}
        self.run_id_pushed_at = 0.0
        self.execution = Execution(self, 1)
        self.last_error: BaseException | None = None
        self.adopted: set[str] = set()
        """Ids of runs that the user has named as its own."""
        self.is_marked = False
        self.cleared_at = 0.0
        self.record_lost_at = 0.0
        self.noted: set[str] = set()
        """Ids of runs whose delivery the code had every occasion to note."""
        self.noted_in: Store | None = None
        self.make_task: Callable[[Instance], Any] | None = None
        """Makes the task, if it is not one that runs a technique once."""
        deployment.dag_run.instances.append(self)

    @property
    def runs(self) -> list[FloraRun]:
        """The runs that it has asked for, in any execution."""
        return [run for run in self.world.flora.runs if run.owner is not None and run.owner.instance is self]

    def record_was_lost(self, run: FloraRun) -> bool:
        """Whether what was noted of a run, if anything could be, is known no longer."""
        return not (run.recorded and self.deployment.has_store) or run.sent <= self.record_lost_at

    def lose_record(self) -> None:
        """Take away what it has in the state store."""
        self.deployment.rows.pop(self.map_index, None)
        self.record_lost_at = self.world.hub.now
        self.noted.clear()

    @property
    def record(self) -> Record | None:
        """The record of its run in the state store."""
        from airflow_provider_flora.runs.record import Record
        from airflow_provider_flora.task.state import RUN

        row = self.deployment.rows.get(self.map_index, {}).get(RUN)
        return None if row is None else Record.from_plain(json.loads(row))

    @record.setter
    def record(self, record: Record) -> None:
        from airflow_provider_flora.task.state import RUN

        self.deployment.rows.setdefault(self.map_index, {})[RUN] = json.dumps(record.to_plain())

    @property
    def prompt(self) -> str:
        """The input as the next try renders it."""
        definition = self.definition
        return f"{definition.prompt} {self.try_number}" if definition.varies else definition.prompt

    @property
    def technique_name(self) -> str:
        definition = self.definition
        return definition.technique_name or self.world.flora.techniques[definition.technique].technique_id


class RuntimeTaskInstance:
    """``context["ti"]``."""

    def __init__(self, instance: Instance, process: Process, task: Any, start_date: datetime) -> None:
        self._instance = instance
        self._process = process
        self.task = task
        self.dag_id, self.run_id, self.task_id = DAG_ID, RUN_ID, TASK_ID
        self.map_index = instance.map_index
        self.id = instance.id
        self.try_number = instance.try_number
        self.max_tries = instance.max_tries
        self.start_date = start_date

    def xcom_push(self, key: str, value: Any, **_: Any) -> None:
        self._process.effect(f"xcom {key}")
        if self._process.is_zombie:
            raise StoreAwayError(f"cannot push {key}: another try has begun")
        if key == "run_id":
            self._instance.run_id_pushed_at = self._instance.world.hub.now
            for run in self._instance.runs:
                if run.run_id == value:
                    run.is_reported = True
        if key in self._instance.xcoms and key not in OVERWRITTEN:
            raise RuntimeError(f"the XCom {key} is pushed twice in one try")  # some versions of Airflow refuse it
        self._instance.xcoms[key] = plain(value)
        self._process.effect(f"xcom {key} pushed")

    def xcom_pull(self, task_ids: Any = None, key: str = "return_value", **_: Any) -> Any:
        self._process.effect("xcom pull")
        instances = self._instance.deployment.dag_run.instances
        return [plain(instance.xcoms[key]) for instance in instances if key in instance.xcoms]

    def get_task_states(self, **_: Any) -> dict[str, dict[str, Any]]:
        self._process.effect("states of tasks")
        instances = self._instance.deployment.dag_run.instances
        names = [TASK_ID if one.map_index < 0 else f"{TASK_ID}_{one.map_index}" for one in instances]
        return {RUN_ID: {name: one.state for name, one in zip(names, instances, strict=True)}}

    def get_first_reschedule_date(self, context: Any) -> None:
        return None


class Store:
    """``context["task_state_store"]`` of one process."""

    def __init__(self, instance: Instance, process: Process) -> None:
        self._instance = instance
        self._process = process
        self.troubles = 0

    @property
    def _rows(self) -> dict[str, str]:
        return self._instance.deployment.rows.setdefault(self._instance.map_index, {})

    def get(self, key: str, default: Any = None) -> Any:
        self._process.effect(f"store get {key}")
        if self._trouble() is not None:
            raise StoreAwayError(f"cannot read {key}")
        row = self._rows.get(key)
        return default if row is None else json.loads(row)

    def set(self, key: str, value: Any, *, retention: Any = None) -> None:
        self._process.effect(f"store set {key}")
        if value is None:
            raise ValueError("Cannot set value as None")
        text = json.dumps(value)
        trouble = self._trouble()
        self._wait()
        if self._process.is_zombie:
            raise StoreAwayError(f"cannot write {key}: another try has begun")
        if trouble != "not done":
            self._rows[key] = text
        self._wait()
        if trouble is not None:
            raise StoreAwayError(f"cannot write {key}")
        self._process.effect(f"store has {key}")

    def delete(self, key: str) -> None:
        self._process.effect(f"store delete {key}")
        if self._trouble() is not None:
            raise StoreAwayError(f"cannot delete {key}")
        self._rows.pop(key, None)

    def _wait(self) -> None:
        world = self._instance.world
        if world.hub.process is self._process:
            world.may_suspend()
        if world.weather.slow_store and not world.weather.calm and world.hub.process is self._process:
            seconds = world.tape.pick((0.0, 0.0, 1.0, 5.0, 40.0, 150.0))
            if seconds:
                world.narrate("the state store takes {:g} s", seconds)
                world.hub.sleep(seconds)

    def _trouble(self) -> str | None:
        world = self._instance.world
        if not world.weather.store or world.weather.calm or not world.tape.chance(0.2):
            return None
        self.troubles += 1
        trouble = world.tape.pick(("not done", "not done", "done, but the answer is lost"))
        world.narrate("the state store is away: {}", trouble)
        return trouble


# --- the triggerer ----------------------------------------------------------------------------------------


class Waiting:
    """A deferred task's trigger, as the database keeps it."""

    def __init__(self, path: str, arguments: dict[str, Any], fire: Callable[[Any], None], task: Execution) -> None:
        self.path = path
        self.arguments = arguments
        self.fire = fire
        self.task = task
        self.running: Any = None
        self.by_user = False


_trigger_classes: dict[str, type[Any]] = {}


def _trigger_class(path: str) -> type[Any]:
    if path not in _trigger_classes:
        module, _, name = path.rpartition(".")
        _trigger_classes[path] = getattr(importlib.import_module(module), name)
    return _trigger_classes[path]


class Triggerer:
    """The process in which all triggers of a deployment run."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._world = deployment.world
        self._waiting: list[Waiting] = []
        self._loop: Loop | None = None
        self.deaths = 0

    def add(self, waiting: Waiting) -> None:
        """Run a trigger from now on."""
        self._waiting.append(waiting)
        self._begin(waiting)
        weather, tape = self._world.weather, self._world.tape
        if weather.triggerer_dies and not weather.calm and tape.chance(0.5):
            hub = self._world.hub
            hub.at(hub.now + tape.pick((0.05, 0.5, 5.0, 30.0)), self._die)

    def remove(self, waiting: Waiting, *, by_user: bool) -> None:
        """Stop a trigger."""
        if waiting in self._waiting:
            self._waiting.remove(waiting)
            if waiting.running is not None:
                waiting.by_user = by_user
                waiting.running.cancel()

    def end(self) -> None:
        """End the process."""
        if self._loop is not None:
            self._loop.kill()
            self._loop = None

    def _die(self) -> None:
        if self._loop is None or self._world.weather.calm:
            return
        self.end()
        self.deaths += 1
        self._world.narrate_for("triggerer", "dies")
        hub = self._world.hub
        hub.at(hub.now + self._world.tape.pick((1.0, 20.0, 200.0)), self._restart)

    def _restart(self) -> None:
        for waiting in self._waiting:
            self._begin(waiting)

    def _begin(self, waiting: Waiting) -> None:
        world = self._world
        if self._loop is None:
            if self.deaths and not self._waiting:
                return
            process = Process(f"{self._deployment.name}triggerer", self._deployment.skew)
            process.task = waiting.task
            self._loop = Loop(world.hub, process, lambda text: world.broken("no unexpected error", text))
        waiting.running = self._loop.create_task(self._run(waiting))

    async def _run(self, waiting: Waiting) -> None:
        from asyncio import CancelledError

        trigger = None
        try:
            trigger = _trigger_class(waiting.path)(**plain(waiting.arguments))
            async for event in trigger.run():
                result: tuple[Any, ...] = ("event", plain(event.payload))
                break
            else:
                result = ("failed", "the trigger ended without an event")
        except CancelledError:
            if trigger is not None and waiting.by_user and hasattr(trigger, "on_kill"):
                await trigger.on_kill()
            raise
        except Exception as error:
            self._world.broken("no unexpected error", f"the trigger raised {error!r}")
            result = ("failed", repr(error))
        if waiting in self._waiting:
            self._waiting.remove(waiting)
            waiting.fire(result)


# --- workers ----------------------------------------------------------------------------------------------


@cache
def _built(
    limited: bool, budgeted: bool, deferrable: bool, wait_for_completion: bool, returns: str, on_unknown_start: str
) -> Any:
    """Return the fields of an operator that was built as a DAG builds it: that takes Airflow a millisecond."""
    from airflow_provider_flora.operators.flora import FloraRunTechniqueOperator

    operator = FloraRunTechniqueOperator(
        task_id=TASK_ID,
        technique_id="a technique",
        inputs={"prompt": "a prompt"},
        max_run_cost=1.0 if limited else None,
        max_dag_run_cost=1.0 if budgeted else None,
        deferrable=deferrable,
        wait_for_completion=wait_for_completion,
        returns=returns,
        on_unknown_start=on_unknown_start,
    )
    return type(operator), operator.__dict__


def _rendered(instance: Instance) -> Any:
    """Return the task as a process has it: built, with the values that its templates rendered to."""
    if instance.make_task is not None:
        return instance.make_task(instance)
    definition = instance.definition
    kind, fields = _built(
        definition.max_run_cost is not None,
        definition.max_dag_run_cost is not None,
        definition.deferrable,
        definition.wait_for_completion,
        definition.returns,
        definition.on_unknown_start,
    )
    operator = object.__new__(kind)
    operator.__dict__.update(
        fields,
        technique_id=instance.technique_name,
        inputs={"prompt": instance.prompt},
        retries=definition.retries,
        retry_delay=timedelta(seconds=definition.retry_delay),
        timeout=definition.timeout,
        poll_interval=definition.poll_interval,
        max_run_cost=definition.max_run_cost,
        max_dag_run_cost=definition.max_dag_run_cost,
        adopt_run_id=definition.adopt_run_id,
        execution_timeout=definition.execution_timeout and timedelta(seconds=definition.execution_timeout),
        on_success_callback=[],
    )
    return operator


@dataclass
class Resumption:
    """With what a deferred task is resumed."""

    method: str
    kwargs: dict[str, Any]


@dataclass
class Worker:
    """The process of a try, or of the part of a try that follows a deferral."""

    instance: Instance
    process: Process
    start_date: datetime
    resumption: Resumption | None = None
    store: Store | None = None
    result: tuple[Any, ...] = ("died",)
    on_success: Callable[[Instance, Any, Store | None], None] = field(default=lambda *_: None)
    on_delivered: Callable[[Instance], None] = field(default=lambda *_: None)

    def run(self, done: Callable[[tuple[Any, ...]], None]) -> None:
        """Run the task as Airflow's task runner does, and return how it ended."""
        from airflow_provider_flora.airflow_compat import AirflowFailException, AirflowTaskTimeout, TaskDeferred

        try:
            self._run()
        except Crash:
            pass  # what it was: a death after the success was recorded leaves a success
        except TaskDeferred as deferred:
            self.result = self._deferred(deferred)
        except AirflowFailException as error:
            self.result = ("failed", error, True)
        except AirflowTaskTimeout as error:
            self.result = ("failed", error, False)
        except Exception as error:
            self.result = ("failed", error, False)
        if not self.process.alive and self.result[0] != "success":
            self.result = ("died",)
        done(self.result)

    def _run(self) -> None:
        from airflow.sdk.bases.operator import ExecutorSafeguard

        instance, process = self.instance, self.process
        task = _rendered(instance)
        ti = RuntimeTaskInstance(instance, process, task, self.start_date)
        context: dict[str, Any] = {"ti": ti, "task_instance": ti, "task": task, "run_id": RUN_ID, "params": {}}
        context["dag_run"] = instance.deployment.dag_run
        context["dag"] = SimpleNamespace(task_dict={TASK_ID: task})
        if instance.deployment.has_store:
            process.keeps_records = True
            self.store = context["task_state_store"] = Store(instance, process)
        ExecutorSafeguard.tracker.set(task)
        if instance.definition.execution_timeout:
            from airflow_provider_flora.airflow_compat import AirflowTaskTimeout

            hub = instance.world.hub
            process.alarm = (hub.now + instance.definition.execution_timeout, AirflowTaskTimeout)
        try:
            if self.resumption is None:
                value = task.execute(context)
            else:
                value = task.resume_execution(self.resumption.method, self.resumption.kwargs, context)
        finally:
            process.alarm = None
        process.effect("execute has returned")
        self._hand_over(task, context, value)

    def _hand_over(self, task: Any, context: Any, value: Any) -> None:
        from airflow_provider_flora.api.errors import FloraError

        instance, process = self.instance, self.process
        world = instance.world
        fails = "nothing"
        if world.weather.handing_over and not world.weather.calm and world.tape.chance(0.4):
            fails = world.tape.pick(("post_execute", "pushing the return value"))
        if fails == "post_execute":
            raise HandingOverError(fails)
        process.effect("post_execute done")
        if process.is_zombie:
            raise HandingOverError("another try has begun")
        if fails != "nothing":
            raise HandingOverError(fails)
        context["ti"].xcom_push("return_value", value)
        instance.state = "success"
        self.result = ("success", value)
        world.narrate(
            "success is recorded; it returned {}", lambda: value.get("run_id") if isinstance(value, dict) else value
        )
        self.on_success(instance, value, self.store)
        if instance.deployment.clears_on_success:
            instance.lose_record()
        process.effect("success recorded")
        callbacks = task.on_success_callback or ()
        for callback in callbacks if isinstance(callbacks, (list, tuple)) else (callbacks,):
            try:
                callback(context)
            except (StoreAwayError, FloraError) as error:
                world.narrate("a success callback failed: {}", error)
            except Exception as error:
                world.broken("no unexpected error", f"a success callback raised {error!r}")
        process.effect("success callbacks called")
        self.on_delivered(instance)

    def _deferred(self, deferred: Any) -> tuple[Any, ...]:
        try:
            path, arguments = deferred.trigger.serialize()
            self.process.effect("deferral")
        except Crash:
            return ("died",)
        timeout = deferred.timeout
        seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
        return ("deferred", path, plain(arguments), deferred.method_name, dict(deferred.kwargs or {}), seconds)


# --- the scheduler ----------------------------------------------------------------------------------------


class Scheduler:
    """Takes one task instance from try to try. It runs as a fiber of its own, which never dies."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.world = instance.world
        self.hub = instance.world.hub
        self.tape = instance.world.tape
        self.process = Process("scheduler")
        self.worker: Worker | None = None
        self.waiting: Waiting | None = None
        self.tries_left_to_disturb = 4
        self._token = 0
        self._is_open = False
        self.on_success: Callable[[Instance, Any, Store | None], None] = lambda *_: None
        self.on_delivered: Callable[[Instance], None] = lambda *_: None
        self.on_try_end: Callable[[Instance, tuple[Any, ...], float], None] = lambda *_: None

    # --- waiting for what comes first -----------------------------------------------------------------

    def _await(self) -> Any:
        return self.hub.wait()

    def _ticket(self) -> int:
        self._token += 1
        self._is_open = True
        return self._token

    def _post(self, token: int, value: Any) -> bool:
        if not self._is_open or token != self._token:
            return False
        self._is_open = False
        fiber = self.process.fiber
        assert isinstance(fiber, Fiber)
        self.hub.wake(fiber, value)
        return True

    # --- tries --------------------------------------------------------------------------------------------

    def run_until_it_ends(self) -> None:
        """Make tries until the task instance has succeeded or failed."""
        instance = self.instance
        while True:
            result = self.make_try()
            if result[0] in ("success", "marked"):
                return
            if result[0] == "cleared":
                self.hub.sleep(self.tape.pick((1.0, 5.0)))
                continue
            final = result[0] == "failed" and result[2]
            if final or instance.max_tries == 0 or instance.try_number > instance.max_tries:
                instance.state = "failed"
                self.world.narrate_for(instance.name, "has failed")
                return
            instance.state = "up_for_retry"
            self.hub.sleep(instance.definition.retry_delay)
            if self.world.weather.edits and not self.world.weather.calm and self.tape.chance(0.4):
                self._edit()

    def _edit(self) -> None:
        """Change the DAG, or what its templates render to, between two tries."""
        instance, definition = self.instance, self.instance.definition
        edit = self.tape.pick(("retries", "retries", "adopt", "take it back", "abandon by command", "by command"))
        if edit == "abandon by command":
            self.abandon_by_command()
            return
        if edit == "by command":
            self.adopt_by_command()
            return
        if edit == "retries":
            retries = max(0, definition.retries + self.tape.pick((-1, 1, -2, 2)))
            instance.definition = changed(definition, retries=retries)
        elif edit == "take it back":
            instance.definition = changed(definition, adopt_run_id=None)
        else:
            self.adopt_anothers(instance)
        self.world.narrate_for("a person", "edits {}: {}", instance.name, edit)

    def abandon_by_command(self) -> None:
        """Make the task leave what it has, as ``airflow flora abandon`` does."""
        from airflow_provider_flora.runs.record import Record, abandon

        instance, dag_run = self.instance, self.instance.deployment.dag_run
        earlier = instance.record
        if not instance.deployment.has_store or (earlier and (earlier.delivered or not earlier.was_sent)):
            return
        blank = Record(max_tries=instance.max_tries, clear_number=dag_run.clear_number)
        instance.record = abandon(earlier, instance.try_number, blank)
        instance.execution = Execution(instance, instance.execution.number + 1)
        self.world.narrate_for("a person", "abandons the run of {} by command", instance.name)

    def adopt_by_command(self) -> None:
        """Make the task hand over another run, as ``airflow flora adopt`` does.

        It is one that its last error names, or else one that somebody has just started by hand.
        """
        from airflow_provider_flora.runs.dag_run_budget import share_after
        from airflow_provider_flora.runs.record import Record, adopt, lost_record
        from airflow_provider_flora.task.state import SHARE

        instance, dag_run = self.instance, self.instance.deployment.dag_run
        technique = self.world.flora.techniques[instance.definition.technique]
        own = [
            run
            for run in instance.runs
            if run.run_id in str(instance.last_error) and run.technique is technique and not run.failed
        ]
        if not instance.deployment.has_store:
            return
        run = own[-1] if own else self.world.flora.make_run(technique, "somebody else's")
        run.is_taken |= not own
        earlier = instance.record
        if earlier is None:
            first = dag_run.run_after.timestamp() - instance.deployment.skew
            earlier = lost_record(first, unix(self.hub.now, 0.0) + 120)
        blank = Record(
            technique_id=technique.technique_id, max_tries=instance.max_tries, clear_number=dag_run.clear_number
        )
        record = adopt(run.run_id, earlier, blank)
        rows = instance.deployment.rows.get(instance.map_index, {})
        if SHARE in rows:
            rows[SHARE] = json.dumps(share_after(json.loads(rows[SHARE]), instance.record, record))
        instance.record = record
        instance.adopted.add(run.run_id)
        for other in instance.runs:
            other.is_left |= other.is_reported and other is not run
        self.world.narrate_for("a person", "adopts {} for {} by command", run.run_id, instance.name)

    def adopt_anothers(self, instance: Instance) -> None:
        """Name a run of the technique that the task has not asked for, if there is one."""
        definition = instance.definition
        technique = self.world.flora.techniques[definition.technique]
        others = [run for run in self.world.flora.runs if run.technique is technique and run not in instance.runs]
        if others:
            run = self.tape.pick(others[:4])
            run.is_taken = True
            instance.definition = changed(definition, adopt_run_id=run.run_id)
            instance.adopted.add(run.run_id)

    def make_try(self) -> tuple[Any, ...]:
        """Make the next try, with its deferral and resumption."""
        instance, hub, world = self.instance, self.hub, self.world
        instance.try_number += 1
        instance.is_marked = False
        instance.id = world.new_id("ti")
        instance.xcoms = {}
        instance.state = "running"
        instance.execution.retries_were_lowered |= instance.definition.retries < instance.counted_retries
        instance.execution.asked.add((instance.definition.technique, instance.prompt))
        adopted = instance.definition.adopt_run_id
        if adopted not in (None, "none"):
            for run in instance.runs:
                run.is_left |= run.is_reported and run.run_id != adopted
        began = hub.now
        start_date = instance.deployment.now()
        self._plan_interruption()
        resumption: Resumption | None = None
        while True:
            result = self._work(start_date, resumption)
            if result[0] != "deferred":
                break
            result = self._defer(result)
            if result[0] != "resume":
                break
            resumption = result[1]
        self._interruption = -1
        if result[0] == "died":
            hub.sleep(self.tape.pick((0.5, 0.5, 5.0, 300.0)))  # until Airflow notices
        elif result[0] == "failed":
            instance.last_error = result[1]
            instance.execution.errors.append(result[1])
            world.narrate_for(
                instance.name,
                "try {} fails{}: {}",
                instance.try_number,
                ", not to be retried" if result[2] else "",
                lambda: f"{type(result[1]).__name__}: {result[1]}",
            )
        self.on_try_end(instance, result, hub.now - began)
        return result

    def _work(self, start_date: datetime, resumption: Resumption | None) -> tuple[Any, ...]:
        instance, world = self.instance, self.world
        name = f"try {instance.try_number} of {instance.name}" + (" (resumed)" if resumption else "")
        process = Process(name, instance.deployment.skew, instance.execution)
        if world.weather.crashes and not world.weather.calm and self.tape.chance(0.5):
            process.dies_at = 1 + self.tape.below(12) + self.tape.below(self.tape.pick((12, 12, 30)))
            process.watched = lambda what: world.narrate("the process dies at: {}", what)
        if world.weather.clock_steps and not world.weather.calm and self.tape.chance(0.5):
            step = self.tape.pick((60.0, -60.0, 200.0, -200.0))
            self.hub.at(
                self.hub.now + self.tape.pick((0.15, 0.35, 1.0, 10.0, 60.0)), self._step_clock, process, step
            )
        worker = Worker(instance, process, start_date, resumption)
        worker.on_success, worker.on_delivered = self.on_success, self.on_delivered
        self.worker = worker
        token = self._ticket()
        if world.weather.zombies and not world.weather.calm and self.tape.chance(0.4):
            after = self.tape.pick((0.15, 0.35, 0.45, 2.0, 30.0)) + self.tape.below(10) / 10
            self.hub.at(self.hub.now + after, self._give_up, token, process)
        self.hub.spawn(process, partial(worker.run, lambda result: self._post(token, result) and None))
        result: tuple[Any, ...] = self._await()
        self.worker = None
        return result

    def _step_clock(self, process: Process, step: float) -> None:
        if process.alive:
            process.skew += step
            self.world.narrate_for(process.name, "its machine's clock is set by {:g} s", step)

    def _give_up(self, token: int, process: Process) -> None:
        """Take a process for dead that is not: it goes on for a while, as a zombie."""
        if process.alive and self.instance.state == "running" and self._post(token, ("died",)):
            process.is_zombie = True
            self.world.narrate_for("Airflow", "takes {} for dead", process.name)
            lives_for = (60.0, 10.0, 2.0) if self.instance.deployment.has_store else (2.0, 0.5)
            self.hub.at(self.hub.now + self.tape.pick(lives_for), self.hub.kill, process)

    def _defer(self, deferral: tuple[Any, ...]) -> tuple[Any, ...]:
        _, path, arguments, method, kwargs, seconds = deferral
        instance = self.instance
        triggerer = instance.deployment.triggerer
        instance.state = "deferred"
        token = self._ticket()
        waiting = Waiting(path, arguments, lambda result: self._post(token, result) and None, instance.execution)
        self.waiting = waiting
        deaths = triggerer.deaths
        triggerer.add(waiting)
        if seconds is not None:
            self.hub.at(self.hub.now + seconds, self._post, token, ("timeout",))
        result = self._await()
        self.waiting = None
        if result[0] == "event":
            return ("resume", Resumption(method, {**kwargs, "event": result[1]}))
        if result[0] == "failed":
            return ("resume", Resumption("__fail__", {"error": "Trigger failure", "traceback": [result[1]]}))
        if result[0] == "timeout":
            triggerer.remove(waiting, by_user=False)
            if triggerer.deaths == deaths:
                self.world.broken("every wait ends", "the trigger let its deadline pass, and five minutes more")
            return ("resume", Resumption("__fail__", {"error": "Trigger timeout"}))
        return result  # type: ignore[no-any-return]

    # --- people -------------------------------------------------------------------------------------------

    _interruption = -1

    def _plan_interruption(self) -> None:
        weather = self.world.weather
        if weather.interrupts and not weather.calm and self.tape.chance(0.3):
            kind = self.tape.pick(("clear", "mark success", "mark failed", "abandon and clear"))
            after = self.tape.pick((0.1, 0.4, 2.0, 30.0)) + self.tape.below(10) / 10
            self._interruption = self.instance.try_number
            self.hub.at(self.hub.now + after, self._interrupt, self.instance.try_number, kind)

    def _interrupt(self, try_number: int, kind: str) -> None:
        if self._interruption != try_number or (self.worker is None and self.waiting is None):
            return
        instance = self.instance
        if instance.state == "success":
            return
        self.world.narrate_for("a person", "{} while {} is {}", kind, instance.name, instance.state)
        if kind.endswith("clear"):
            abandoned = changed(instance.definition, adopt_run_id="none") if kind != "clear" else None
            self.clear(running=self.worker is not None, change=abandoned)
            result: tuple[Any, ...] = ("cleared",)
        else:
            instance.is_marked = True
            instance.state = "success" if kind == "mark success" else "failed"
            if kind == "mark success" and instance.deployment.clears_on_success:
                instance.lose_record()
            result = ("marked", kind)
        self._post(self._token, result)
        if self.worker is not None:
            self.hub.kill(self.worker.process)
        if self.waiting is not None:
            instance.deployment.triggerer.remove(self.waiting, by_user=True)

    def clear(self, *, running: bool = False, change: Definition | None = None) -> None:
        """Do what a user's clear does."""
        instance = self.instance
        dag_run = instance.deployment.dag_run
        if change is not None:
            instance.definition = change
            if change.adopt_run_id is not None:
                instance.adopted.add(change.adopt_run_id)
        instance.cleared_at = self.hub.now
        if self._asks_for_another():
            instance.execution = Execution(instance, instance.execution.number + 1)
        before = (instance.max_tries, dag_run.clear_number)
        if not running:
            instance.counted_retries = instance.definition.retries
            instance.max_tries = instance.try_number + instance.counted_retries
        if self.tape.below(5) < 4:  # unless "reset_dag_runs" is off
            dag_run.clear_number += 1
            if all(one.state in ("success", "failed") for one in dag_run.instances):
                dag_run.start_date = instance.deployment.now()
        leaves_no_trace = before == (instance.max_tries, dag_run.clear_number)
        if leaves_no_trace and instance.execution.untraced_since is None:
            instance.execution.untraced_since = instance.try_number
        instance.id = self.world.new_id("ti")
        self.world.narrate_for("a person", "clears {}, for {}", instance.name, instance.execution)

    def _asks_for_another(self) -> bool:
        """Whether a clear of now asks for one more run, by what the docs say of clears."""
        instance = self.instance
        execution = instance.execution
        runs = [run for run in instance.runs if run.owner is execution]
        if execution.delivered is not None or not instance.deployment.has_store:
            return True
        adopted = instance.definition.adopt_run_id
        if adopted == "none":
            return True
        if adopted is not None and any(
            run.run_id != adopted and not run.failed and run.is_reported for run in runs
        ):
            return True  # another run in place of the one that it has
        if any(run.outcome in ("cancelled", "expired") and run.has_ended(self.hub.now) for run in runs):
            return True
        asked_now = (instance.definition.technique, instance.prompt)
        return instance.definition.varies or execution.asked != {asked_now}


def inputs_of(prompt: str) -> str:
    """Return the inputs of a run as Flora sees them."""
    return json.dumps([{"id": "prompt", "type": "text", "value": prompt}], sort_keys=True)


def changed(definition: Definition, **fields: Any) -> Definition:
    """Return a task that somebody has edited."""
    edited = object.__new__(Definition)
    edited.__dict__.update(definition.__dict__, **fields)  # as dataclasses.replace does, in a tenth of its time
    return edited
