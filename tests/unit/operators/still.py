"""A task that runs a technique, its life on the Airflow at hand, and what it asked Flora for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from airflow_provider_flora.emulator import Emulator
from airflow_provider_flora.operators.batch import FloraRunTechniqueBatchOperator
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


def life_of(operator: FloraRunTechniqueOperator | FloraRunTechniqueBatchOperator, **given: Any) -> TaskLife:
    """The life of a task on the Airflow at hand: with a state store where it has one."""
    return TaskLife(operator, **{"store": FakeStore() if HAS_STATE_STORE else None, **given})


def posts_to(flora: Emulator) -> int:
    return int(flora.ledger()["requests"].get("startTechniqueRun", 0))


def batch_of(rows: Any, folder: Path, *, technique_id: str, row_id: str, **given: Any) -> TaskLife:
    """The life of a batch's task that waits in its process. Its manifest is in a folder."""
    retries = given.pop("retries", 2)
    arguments = {
        "task_id": "stills",
        "inputs": {"prompt": "{prompt}"},
        "manifest": str(folder / "manifest.jsonl"),
        "poll_interval": 0.05,
        "deferrable": False,
        **given,
    }
    operator = FloraRunTechniqueBatchOperator(rows=rows, technique_id=technique_id, row_id=row_id, **arguments)
    return life_of(operator, retries=retries)
