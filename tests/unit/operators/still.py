"""A task that runs a technique, its life on the Airflow at hand, and what it asked Flora for."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_flora.emulator import Emulator
from airflow_provider_flora.operators.flora import FloraRunTechniqueOperator
from tests.unit.operators.fake_task import HAS_STATE_STORE, FakeStore, TaskLife

MODES = pytest.mark.parametrize("deferrable", [False, True], ids=["on a worker", "deferred"])


def still(**given: Any) -> FloraRunTechniqueOperator:
    """An operator whose technique takes a text and gives an image."""
    return FloraRunTechniqueOperator(
        **{
            "task_id": "still",
            "technique_id": "editorial-still",
            "inputs": {"prompt": "a cup"},
            "poll_interval": 0.05,
            "deferrable": False,
            **given,
        }
    )


def life_of(operator: FloraRunTechniqueOperator, **given: Any) -> TaskLife:
    """The life of a task on the Airflow at hand: with a state store where it has one."""
    return TaskLife(operator, **{"store": FakeStore() if HAS_STATE_STORE else None, **given})


def posts_to(flora: Emulator) -> int:
    return int(flora.ledger()["requests"].get("startTechniqueRun", 0))
