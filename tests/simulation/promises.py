"""What is promised to whoever uses the operator, checked on a history from the outside.

The model of Flora knows who asked for each run, the model of Airflow what each try returned. Nothing of the
code under test is asked. What no code can promise stands in one place, :func:`excused`, with its reason.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .airflow_model import (
    Execution,
    HandingOverError,
    Instance,
    Store,
    StoreAwayError,
    inputs_of,
)
from .flora import FloraRun
from .world import unix

if TYPE_CHECKING:
    from .world import World

ONE_CHARGE = "one charge for each execution"
OWN_RUN = "no run of somebody else, nor of other inputs, is handed over"
NOT_LOST = "a paid run is handed over, or named by the error"
ENDS = "every wait ends"
PRICE = "max_run_cost is never exceeded"
DAILY_COST = "max_daily_cost is exceeded only by what starts soon after a reading"
BUDGET = "max_dag_run_cost is never exceeded"
NO_SURPRISE = "no unexpected error"
RETRYABLE = "what ends a wait on a paid run can be retried"
NOT_STUCK = "a task can always be brought on"
NO_OTHERS = "an error names no run that is known to be another's"
PROMISES = (
    ONE_CHARGE,
    OWN_RUN,
    NOT_LOST,
    ENDS,
    PRICE,
    DAILY_COST,
    BUDGET,
    NO_SURPRISE,
    RETRYABLE,
    NOT_STUCK,
    NO_OTHERS,
)

KEY_SURELY_KNOWN_FOR = 2 * 3600.0 - 400.0
"""Seconds; the shorter of Flora's two accounts, less what a try takes until its request."""
PRICE_MAY_BE_OLD = 60.0 + 70.0
"""Seconds for which a technique is kept, and that a start may take after its price was read."""
READING_MAY_BE_OLD = 60.0 + 70.0 + 30.0
"""Seconds for which a reading of the history is used, that a start may take after it was checked, and that the
reading may take."""
FLORA_SETTLES_WITHIN = 2 * 3600.0
"""Seconds. A charge that comes later need not be counted."""
MOST_NAMED = 20
"""Runs that an error names, if there are so many."""
DAY = 86_400
LONGEST_TRY = 4 * 3600.0


def excused(one: FloraRun, other: FloraRun) -> bool:
    """Whether no code could have kept a second charge from being made.

    - The user said so: ``on_unknown_start="restart"`` accepts a second charge where the fate of a start is unknown.
    - The user has said with ``adopt_run_id`` that the run is another task's, or has named another one in its place.
      What is left of two runs without an answer is then taken for the other task's, and the run is out of sight.
    - The user has cleared the task since, and the run has ended in a way that is not known.
    - Without a record of it (there is no state store, or what was in it is lost) all that ties a try to an earlier
      one is the idempotency key that both derive. Flora forgets it, after two hours by one account; and a try whose
      inputs are others derives another. Nor can a try after ``retries`` was lowered be distinguished from one after
      a clear; with a record, only if something else in the DAG run was cleared. (Raised ``retries`` only make a try
      look for more earlier ones than there were.)
    """
    instance: Instance = other.owner.instance
    if instance.definition.on_unknown_start == "restart":
        return True
    if one.is_taken or one.is_left:
        return True
    if one.outcome in ("cancelled", "expired") and instance.cleared_at > one.sent:
        return True
    first, second = sorted((one, other), key=lambda run: run.sent)
    was_lost, clears = instance.record_was_lost(first), instance.deployment.dag_run.clear_number
    if other.owner.retries_were_lowered and (was_lost or clears):
        return True
    mapped = instance.deployment.dag_run.instances
    if (was_lost or not one.is_reported) and any(run.is_taken for task in mapped for run in task.runs):
        return True
    return was_lost and (second.sent - first.created > KEY_SURELY_KNOWN_FOR or first.inputs != second.inputs)


class Promises:
    """Watches a history."""

    def __init__(self, world: World) -> None:
        self._world = world
        world.on_started = self._started

    def _started(self, run: FloraRun) -> None:
        execution: Execution = run.owner
        limit = execution.instance.definition.max_run_cost
        cheapest = run.technique.cheapest(run.sent - PRICE_MAY_BE_OLD)
        if limit is not None and (cheapest is None or cheapest > limit):
            self._world.broken(PRICE, f"{run.run_id} costs {run.cost:g} USD, and {limit:g} is the limit")
        self._check_daily_cost(run)
        if run.failed:
            return
        self._check_budget(run)
        for other in self._world.flora.runs:
            if other is not run and other.owner is execution and not other.failed and not excused(other, run):
                self._world.broken(ONE_CHARGE, f"{other.run_id} and {run.run_id} are both charged to {execution}")
                return

    def _check_daily_cost(self, run: FloraRun) -> None:
        """Check that what was to be seen of the day, when a run was first asked for, left room for it."""
        limit = run.owner.instance.deployment.max_daily_cost
        record = run.owner.instance.record
        # A start that is recorded may have a run, so it is sent again without asking, even if it was never sent.
        if limit is None or (record is not None and len(record.sent) > 1):
            return
        seen_at = run.first_sent - READING_MAY_BE_OLD
        charged = sum(
            one.cost
            for one in self._world.flora.runs
            if one is not run
            and one.outcome == "completed"
            and max(one.listed_from, one.cost_known) <= min(seen_at, one.created + FLORA_SETTLES_WITHIN)
            and unix(one.created) // DAY == unix(run.first_sent) // DAY
        )
        cheapest = run.technique.cheapest(run.first_sent - PRICE_MAY_BE_OLD) or 0.0
        if round(charged + cheapest - limit, 6) > 0:
            self._world.broken(
                DAILY_COST, f"{run.run_id} is started, {charged:g} USD were charged, and {limit:g} is the limit"
            )

    def _check_budget(self, run: FloraRun) -> None:
        """Check what all runs of a DAG run cost that are charged, by the prices that their tasks may have read."""
        dag_run, limit = run.owner.instance.deployment.dag_run, run.owner.instance.definition.max_dag_run_cost
        runs = [one for instance in dag_run.instances for one in instance.runs if not one.failed]
        pairs = [(one, other) for one in runs for other in runs if one is not other and one.owner is other.owner]
        if limit is None or any(excused(one, other) for one, other in pairs):
            return  # more than one charge for an execution, of which nothing is known that could be counted
        if any(one.is_taken or one.is_left for one in runs):
            return  # a run that a person has named does not count
        unknown = {one.owner.instance for one in runs if one.owner.instance.record_was_lost(one)}
        if unknown and (self._world.weather.clock_steps or any(one.definition.varies for one in unknown)):
            return  # an earlier run is not found, or its task is taken for another execution
        prices = [min(one.cost, one.technique.cheapest(one.sent - PRICE_MAY_BE_OLD) or 0.0) for one in runs]
        if sum(prices) > limit + 1e-9:
            ids = ", ".join(one.run_id for one in runs)
            self._world.broken(BUDGET, f"{ids} cost {sum(prices):g} USD, and {limit:g} is the limit")

    def handed_over(self, instance: Instance, value: Any, store: Store | None) -> None:
        """Check what a task that succeeds has returned."""
        world, definition = self._world, instance.definition
        run_id = value.get("run_id") if isinstance(value, dict) else instance.xcoms.get("run_id")
        run = next((run for run in world.flora.runs if run.run_id == run_id), None)
        if run is None:
            world.broken(OWN_RUN, f"{instance.name} hands over {run_id!r}, which does not exist")
            return
        by_user = run_id in instance.adopted
        if not by_user:
            self._check_owner(instance, run)
        if definition.wait_for_completion:
            if run.outcome != "completed" or not run.has_ended(world.hub.now):
                world.broken(OWN_RUN, f"{run_id} is handed over, and has not completed")
            outputs = value if isinstance(value, list) else value["outputs"]
            if f"https://f/{run_id}" not in [output["url"] for output in outputs]:
                world.broken(OWN_RUN, f"{run_id} is handed over with {outputs}")
            if isinstance(value, dict) and value["charged_cost"] not in (None, run.cost):
                world.broken(OWN_RUN, f"{run_id} is handed over with the cost {value['charged_cost']}")
        if run.owner is not None and run.owner.instance is not instance:
            run.is_taken = True
        instance.execution.delivered = run
        instance.noted_in = store if store is not None and not store.troubles else None

    def _check_owner(self, instance: Instance, run: FloraRun) -> None:
        broken = self._world.broken
        execution: Execution | None = run.owner
        if instance.execution.has_reused_a_key and not instance.deployment.has_store:
            return  # without a store, a clear that leaves as many tries as there were before is taken for a retry
        if instance.execution.retries_were_lowered and not instance.deployment.has_store:
            return  # and a retry after ``retries`` were lowered is taken for the first attempt after a clear
        if any(own.is_taken for own in instance.runs) and not (run.is_reported and execution is instance.execution):
            return  # a person gave its run to another task, so one of that task's may be the only one that fits
        if execution is None or execution.instance is not instance:
            broken(OWN_RUN, f"{instance.name} hands over {run.run_id} of {execution or 'somebody else'}")
        elif execution is not instance.execution and instance.execution.may_pass_for_a_retry:
            return  # a result handed over once more costs nothing, a mistaken start does
        elif run.inputs != inputs_of(instance.prompt):
            broken(OWN_RUN, f"{instance.name} hands over {run.run_id}, whose inputs were {run.inputs}")
        elif run.technique is not self._world.flora.techniques[instance.definition.technique]:
            broken(OWN_RUN, f"{instance.name} hands over {run.run_id} of another technique")
        elif execution is not instance.execution and run.run_id in instance.noted:
            broken(
                OWN_RUN, f"{instance.name} hands over {run.run_id} of {execution} again, for {instance.execution}"
            )

    def delivery_noted(self, instance: Instance) -> None:
        """Take note that a task had every occasion to keep in mind that its result was delivered."""
        run = instance.execution.delivered
        if instance.deployment.clears_on_success:
            return  # what was known of the run has just been taken away
        if instance.noted_in is not None and not instance.noted_in.troubles and run is not None:
            instance.noted.add(run.run_id)

    def try_ended(self, instance: Instance, result: tuple[Any, ...], lasted: float) -> None:
        """Check how a try ended."""
        if lasted > LONGEST_TRY + instance.definition.timeout:
            self._world.broken(ENDS, f"a try of {instance.name} lasted {lasted:.0f} s")
        if result[0] != "failed":
            return
        if not _expected(result[1]):
            self._world.broken(NO_SURPRISE, f"{type(result[1]).__name__}: {result[1]}")
        is_of_a_key = str(getattr(result[1], "code", "")).startswith("idempotency_")
        # With "restart" a try may use several keys, and without a record the next one cannot know how many.
        # With a run that a person gave to another task, its key is used and its run out of sight.
        execution, was_taken = instance.execution, any(run.is_taken for run in instance.runs)
        passes_for_another = execution.retries_were_lowered or execution.has_reused_a_key or was_taken
        if is_of_a_key and not passes_for_another and instance.definition.on_unknown_start != "restart":
            self._world.broken(NO_SURPRISE, f"a key that counts as unused was used before: {result[1]}")
        self._check_candidates(instance, str(result[1]), self._world.hub.now - lasted)
        if result[2] and not type(result[1]).__name__.startswith("FloraUnknownStart"):
            for run in instance.runs:
                if run.outcome in ("completed", "never", "paused") and self._is_waited_for(instance, run):
                    self._world.broken(RETRYABLE, f"the wait for {run.run_id} ended for good: {result[1]}")

    def _check_candidates(self, instance: Instance, error: str, began: float) -> None:
        """Check that a try that stops has not counted a run of a mapped sibling, or an earlier one of its own."""
        _, _, named = error.partition("Possible runs: ")
        if not named:
            return
        siblings = [one for one in instance.deployment.dag_run.instances if one is not instance]
        theirs = {one.xcoms.get("run_id") for one in siblings if one.run_id_pushed_at < began}
        for run in self._world.flora.runs:
            is_earlier = run.run_id in instance.noted and not instance.record_was_lost(run)
            if run.run_id in named and (run.run_id in theirs or is_earlier):
                self._world.broken(NO_OTHERS, f"{instance.name} takes {run.run_id} of {run.owner} into account")

    def _is_waited_for(self, instance: Instance, run: FloraRun) -> bool:
        """Whether the try knew that the run is there, and nobody has named another one."""
        if run.is_left or run.is_taken or instance.definition.adopt_run_id not in (None, "none", run.run_id):
            return False
        if instance.xcoms.get("run_id") == run.run_id:
            return True
        if instance.definition.on_unknown_start == "restart" or run.owner.retries_were_lowered:
            return False  # it may have been replaced, as the docs say
        is_known = run.is_reported and not instance.record_was_lost(run)
        return is_known and run.owner is instance.execution and run.owner.delivered is None

    def check_end(self, instances: list[Instance]) -> None:
        """Check, when a patient user has done what can be done, what became of the task and its runs."""
        for instance in instances:
            error = str(instance.last_error) if instance.state == "failed" else ""
            for run in instance.runs:
                if not self._is_accounted_for(instance, run):
                    self._world.broken(NOT_LOST, f"{run.run_id}, paid by {run.owner}, is not handed over: {error}")
            if instance.state == "failed" and self._should_succeed(instance):
                self._world.broken(NOT_STUCK, f"{instance.name} fails after everything a user can do: {error}")

    def _is_accounted_for(self, instance: Instance, run: FloraRun) -> bool:
        return (
            run.owner is not instance.execution  # the user has asked for another since
            or run.outcome != "completed"
            or run.is_taken  # a person has given it to another task, which hands it over
            or run.is_left
            or instance.definition.adopt_run_id not in (None, "none", run.run_id)  # a person wants another's result
            or run.owner.delivered is not None  # a second one beside it is another promise's matter
            or instance.definition.on_unknown_start == "restart"
            or _is_named(instance, run)
            or (
                instance.is_marked and not instance.deployment.has_store
            )  # by a person, and a clear pays for another
            or (
                (instance.definition.varies or instance.execution.retries_were_lowered)
                and instance.record_was_lost(run)
            )
            or self._cannot_be_found(instance, run)
        )

    def _cannot_be_found(self, instance: Instance, run: FloraRun) -> bool:
        """Whether no answer reported the run, and Flora no longer knows the name of its technique."""
        technique = run.technique
        is_named = not technique.deleted and instance.technique_name in (
            technique.technique_id,
            technique.slugs[-1],
        )
        return not is_named and (not run.is_reported or instance.record_was_lost(run))

    def _should_succeed(self, instance: Instance) -> bool:
        technique = self._world.flora.techniques[instance.definition.technique]
        limit = instance.definition.max_run_cost
        return (
            instance.deployment.has_store
            and instance.deployment.max_daily_cost is None  # it may start again on another day
            and not instance.definition.varies  # each try has other inputs than the run that is there
            and not technique.deleted
            and instance.definition.max_dag_run_cost is None  # it may be spent
            and (limit is None or (technique.price is not None and technique.price <= limit))
        )


def _is_named(instance: Instance, run: FloraRun) -> bool:
    """Whether an error names a run: the last one, or, where none can be remembered from try to try, any."""
    if str(instance.last_error).count(" UTC)") + str(instance.last_error).count("unknown)") >= MOST_NAMED:
        return True  # among more runs than an error names
    errors = run.owner.errors if instance.record_was_lost(run) else run.owner.errors[-1:]
    return any(run.run_id in str(error) or getattr(error, "run_id", None) == run.run_id for error in errors)


def _expected(error: BaseException) -> bool:
    from airflow_provider_flora.airflow_compat import AirflowFailException, AirflowTaskTimeout
    from airflow_provider_flora.api.errors import FloraError

    kinds = (FloraError, AirflowFailException, AirflowTaskTimeout, StoreAwayError, HandingOverError)
    return isinstance(error, kinds) or type(error).__name__ == "TaskDeferralTimeout"
