"""What is done once a task has succeeded. Imported with the operators, so it imports little."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


def do_after_success(task: Any, action: Callable[[], object]) -> None:
    """Do something after Airflow has recorded the task's success, and not before.

    An error after ``execute`` fails the task: a clear must return the same runs then.
    """
    callbacks = task.on_success_callback or ()
    callbacks = [*callbacks] if isinstance(callbacks, Sequence) else [callbacks]
    task.on_success_callback = [*callbacks, lambda context: action()]
