"""What the tests in this folder share: the key that must stay secret, and a DAG run that has ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

API_KEY = "sk_test_that_must_not_be_seen_anywhere"

Xcom = Callable[..., Any]


@dataclass(frozen=True)
class Ran:
    """A DAG run that has ended: its state, and `xcom(task_id, key="return_value", map_index=-1)`."""

    state: str | None
    xcom: Xcom
    log: str


RunDag = Callable[..., Ran]
