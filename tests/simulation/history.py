"""One history: drawn from a tape, played to its end, judged.

The cast: a task instance, or a few mapped ones; at times the same DAG in another deployment; people who clear,
edit and mark; and Flora. When the story is over the world is healed and a patient user retries and clears, so
that what was paid can be handed over.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from . import world as worlds
from .airflow_model import Definition, Deployment, Instance, Scheduler, changed
from .flora import PRICE
from .promises import ENDS, NO_SURPRISE, NOT_STUCK, RETRYABLE, Promises
from .virtual_time import EndlessError
from .world import World

PATIENCE = 600.0
"""Seconds after the world was healed before the patient user acts: all that was at work has ended."""
RESERVE = 3
"""Retries that a task without a state store keeps for the healed world: there, a clear asks for a new run."""


@dataclass
class Finding:
    """A history that broke a promise."""

    seed: int
    choices: list[int]
    promise: str
    text: str
    story: list[tuple[float, str, str]]

    @property
    def kind(self) -> str:
        """What it shares with findings of the same kind: the promise, and of an error its words."""
        if self.promise not in (NO_SURPRISE, RETRYABLE, NOT_STUCK):
            return self.promise
        words = re.sub(r"[\d.]+|\[\d\]|other deployment's |, execution \d+", "", self.text)
        return f"{self.promise}: {words[:70]}"


def play(seed: int, replay: Sequence[int] | None = None, *, narrating: bool = False) -> Finding | World:
    """Play a history.

    :return: what was found, or the world as it is at the end.
    """
    return play_as(_History, seed, replay, narrating=narrating)


def play_as(
    kind: Callable[[World], Any], seed: int, replay: Sequence[int] | None, *, narrating: bool
) -> Finding | World:
    """Play a history of a kind. See :func:`play`."""
    world = World(seed, replay, narrating=narrating)
    worlds.enter(world, seed)
    try:
        kind(world).play()
    except EndlessError as error:
        world.broken(ENDS, str(error))
    finally:
        for deployment in world.deployments:
            deployment.triggerer.end()
        worlds.leave()
    if world.findings:
        promise, text = world.findings[0]
        return Finding(seed, world.tape.choices, promise, text, world.story)
    return world


class _History:
    def __init__(self, world: World) -> None:
        self.world = world
        self.hub = world.hub
        self.tape = world.tape
        self.promises = Promises(world)
        self.schedulers: list[Scheduler] = []
        self.playing = 0
        self.errors: list[BaseException] = []
        self.store_changes: tuple[str, int] = ("", 0)
        """What happens to the store between two tries, and after how many."""

    def play(self) -> None:
        self._draw()
        self.playing = len(self.schedulers)
        for scheduler in self.schedulers:
            self.hub.spawn(scheduler.process, partial(self._guarded, scheduler))
        findings = self.world.findings
        self.hub.run(lambda: not self.playing or bool(self.errors or findings))
        if self.errors:
            raise self.errors[0]
        if findings:
            return  # the story ends here
        self.promises.check_end([scheduler.instance for scheduler in self.schedulers])

    def _guarded(self, scheduler: Scheduler) -> None:
        try:
            self._live(scheduler)
        except BaseException as error:
            self.errors.append(error)
        self.playing -= 1

    # --- the cast -----------------------------------------------------------------------------------------

    def _draw(self) -> None:
        world, pick = self.world, self.tape.pick
        weather = world.weather
        store = pick(("store", "store", "store", "none", "upgrade", "emptied"))
        changes_at = pick((30.0, 5.0, 200.0, math.inf, math.inf)) if store in ("upgrade", "emptied") else math.inf
        store_from = {"none": math.inf, "upgrade": self.hub.now + changes_at}.get(store, 0.0)
        skew = pick((0.0, 0.0, 0.0, 0.4, -2.5, 5400.0, -5400.0))
        first = Deployment(world, 0, skew, store_from, clears_on_success=self.tape.chance(0.1))
        timeout, max_retries = pick((60, 10, 5, 30)), pick((4, 1, 0, 2))
        first.client_extra = json.dumps({"timeout": timeout, "max_retries": max_retries})
        world.deployments.append(first)
        definition = self._definition(store)
        indexes = pick(((-1,), (-1,), (-1,), (-1,), (0, 1), (0, 1, 2)))
        for index in indexes:
            prompt = definition.prompt if index < 1 or self.tape.chance(0.3) else f"{definition.prompt} {index}"
            self._add(Instance(first, index, changed(definition, prompt=prompt)))
        if self.tape.chance(0.1):
            other = Deployment(world, 1, pick((0.0, 1.5, 5400.0)), pick((0.0, math.inf)), clears_on_success=False)
            other.client_extra = first.client_extra
            world.deployments.append(other)
            retries = definition.retries + (0 if other.has_store or store in ("none", "upgrade") else RESERVE)
            self._add(Instance(other, indexes[0], changed(definition, execution_timeout=None, retries=retries)))
        if weather.others:
            for _ in range(self.tape.below(3) if not weather.crowd else 25):
                self.hub.at(self.hub.now + pick((0.0, 1.0, 10.0, 60.0)), self._somebody_elses_run, definition)
        if weather.rotation:
            self.hub.at(self.hub.now + pick((1.0, 5.0, 30.0, 100.0)), self._rotate)
        if weather.technique_changes:
            self.hub.at(self.hub.now + pick((1.0, 5.0, 30.0, 100.0)), self._change_technique, definition)
        if self.tape.chance(0.15):
            max_daily_cost = PRICE * pick((2, 1, 3, 5))
            for deployment in world.deployments:
                extra = {**json.loads(deployment.client_extra), "max_daily_cost": max_daily_cost}
                deployment.client_extra, deployment.max_daily_cost = json.dumps(extra), max_daily_cost
        if changes_at == math.inf and store in ("upgrade", "emptied"):
            self.store_changes = (store, pick((1, 2, 2, 3)))
        elif store == "emptied":
            self.hub.at(self.hub.now + changes_at, self._empty, first)

    def _definition(self, store: str) -> Definition:
        pick, chance = self.tape.pick, self.tape.chance
        by_slug = chance(0.3)
        storeless = store in ("none", "upgrade")
        timeout, poll_interval = pick(((3600.0, 120.0), (600.0, 30.0), (60.0, 5.0), (5.0, 2.0)))
        return Definition(
            by_slug=by_slug,
            technique_name="one-still" if by_slug else None,
            varies=chance(0.1),
            retries=pick((2, 3, 1, 0)) + (RESERVE if storeless else 0),
            retry_delay=pick((5.0, 0.0, 60.0, 400.0, 6500.0 if storeless else 30.0)),
            timeout=timeout,
            poll_interval=poll_interval,
            deferrable=pick((False, True)),
            max_run_cost=PRICE if chance(0.2) else None,
            max_dag_run_cost=pick((PRICE, 2 * PRICE, 2.5 * PRICE)) if chance(0.25) else None,
            on_unknown_start="restart" if chance(0.07) else "stop",
            execution_timeout=pick((200.0, 400.0) if storeless else (20.0, 60.0, 5.0)) if chance(0.1) else None,
            returns="outputs" if chance(0.1) else "run",
        )

    def _add(self, instance: Instance) -> None:
        scheduler = Scheduler(instance)
        scheduler.on_success = self.promises.handed_over
        scheduler.on_delivered = self.promises.delivery_noted
        scheduler.on_try_end = self._try_ended
        self.schedulers.append(scheduler)

    # --- what happens in the world ------------------------------------------------------------------------

    def _somebody_elses_run(self, definition: Definition) -> None:
        flora = self.world.flora
        run = flora.make_run(flora.techniques[definition.technique], "somebody else's")
        self.world.narrate_for("Flora", "{} of somebody else exists", run.run_id)

    def _rotate(self) -> None:
        if self.world.weather.calm:
            return
        flora, first = self.world.flora, self.world.deployments[0]
        flora.api_keys = {"sk_live_2"}
        self.world.narrate_for("a person", "rotates the API key")
        self.hub.at(self.hub.now + self.tape.pick((0.0, 2.0, 30.0, 300.0)), self._hand_out_new_key, first)

    def _hand_out_new_key(self, first: Deployment) -> None:
        for deployment in self.world.deployments:
            deployment.api_key = "sk_live_2"

    def _change_technique(self, definition: Definition) -> None:
        if self.world.weather.calm:
            return
        technique = self.world.flora.techniques[definition.technique]
        change = self.tape.pick(("dearer", "price unknown", "renamed", "deleted", "dearer for a while"))
        self.world.narrate_for("a person", "changes the technique: {}", change)
        if change in ("dearer", "dearer for a while"):
            technique.prices.append((self.hub.now, 20 * PRICE))
        elif change == "price unknown":
            technique.prices.append((self.hub.now, None))
        elif change == "renamed":
            technique.slugs.append("one-still-renamed")
        else:
            technique.deleted = True
        if change == "dearer for a while":
            self.hub.at(self.hub.now + 90.0, self._make_cheap, technique)

    def _make_cheap(self, technique: Any) -> None:
        technique.prices.append((self.hub.now, PRICE))

    def _empty(self, deployment: Deployment) -> None:
        if self.world.weather.calm:
            return
        for instance in deployment.dag_run.instances:
            instance.lose_record()
        self.world.narrate_for("a person", "changes the store's backend: all records are gone")

    def _try_ended(self, instance: Instance, result: tuple[Any, ...], lasted: float) -> None:
        self.promises.try_ended(instance, result, lasted)
        what, after = self.store_changes
        if instance.try_number == after and instance.deployment.number == 0 and not self.world.weather.calm:
            self.store_changes = ("", 0)
            if what == "upgrade":
                instance.deployment.store_from = self.hub.now
            else:
                self._empty(instance.deployment)
        left = instance.max_tries + 1 - instance.try_number
        if not instance.deployment.has_store and left <= RESERVE:
            self.world.heal()

    # --- a task instance's life ---------------------------------------------------------------------------

    def _live(self, scheduler: Scheduler) -> None:
        hub, tape = self.hub, self.tape
        hub.sleep(0.01 + tape.pick((0.0, 0.0, 0.05, 1.0)))
        scheduler.run_until_it_ends()
        for _ in range(3):
            action = (
                tape.pick(("nothing",) * 6 + ACTIONS) if scheduler.instance.deployment.number == 0 else "nothing"
            )
            if action == "nothing":
                break
            hub.sleep(tape.pick((1.0, 30.0, 600.0, 9000.0)))
            self._act(scheduler, action)
            scheduler.run_until_it_ends()
        self._bring_on(scheduler)

    def _act(self, scheduler: Scheduler, action: str) -> None:
        instance = scheduler.instance
        definition = changed(instance.definition, adopt_run_id=None)
        if action == "clear with other inputs":
            definition = changed(definition, prompt=f"{definition.prompt} again")
        elif action == "clear with another technique":
            definition = changed(definition, technique=1 - definition.technique, technique_name=None)
        elif action == "clear with one retry less":
            definition = changed(definition, retries=max(0, definition.retries - 1))
        elif action == "clear with more retries":
            definition = changed(definition, retries=definition.retries + 1)
        elif action == "mark success, then clear" and instance.state == "failed":
            instance.state = "success"
            self.world.narrate_for("a person", "marks {} as success", instance.name)
            if instance.deployment.clears_on_success:
                instance.lose_record()
        elif action == "adopt and clear":
            own = [run.run_id for run in instance.runs if run.run_id in str(instance.last_error)]
            definition = changed(definition, adopt_run_id=own[-1] if own else None)
        elif action == "abandon and clear":
            definition = changed(definition, adopt_run_id="none")
        elif action == "adopt by command, then clear":
            scheduler.adopt_by_command()
        elif action == "abandon by command, then clear":
            scheduler.abandon_by_command()
        elif action == "adopt another's and clear":
            instance.definition = definition
            scheduler.adopt_anothers(instance)
            definition = instance.definition
        scheduler.clear(change=definition)

    def _bring_on(self, scheduler: Scheduler) -> None:
        """Heal the world, and be patient."""
        self.world.heal()
        instance = scheduler.instance
        for patience in range(5):
            self.hub.sleep(PATIENCE)
            done = instance.state == "success" and instance.execution.delivered is not None
            if done or not instance.deployment.has_store:
                break
            scheduler.clear(change=self._mended(instance, patience))
            scheduler.run_until_it_ends()

    def _mended(self, instance: Instance, patience: int) -> Definition:
        """Return the task as a patient user edits it: at last, they do what its error says."""
        retries = min(1, instance.definition.retries)
        definition = changed(instance.definition, adopt_run_id=None, execution_timeout=None, retries=retries)
        runs = [run for run in instance.runs if run.owner is instance.execution]
        if any(run.endless for run in runs):
            return changed(definition, adopt_run_id="none")
        slug = self.world.flora.techniques[definition.technique].slugs[-1]
        if definition.technique_name is not None and patience:
            definition = changed(definition, technique_name=slug)
        if patience == 2:
            own = [run.run_id for run in instance.runs if run.run_id in str(instance.last_error)]
            return changed(definition, adopt_run_id=own[-1] if own else None)
        return changed(definition, adopt_run_id="none") if patience == 3 else definition


ACTIONS = (
    "clear",
    "clear",
    "clear with other inputs",
    "clear with another technique",
    "clear with one retry less",
    "clear with more retries",
    "mark success, then clear",
    "adopt and clear",
    "abandon and clear",
    "adopt another's and clear",
    "adopt by command, then clear",
    "abandon by command, then clear",
)
