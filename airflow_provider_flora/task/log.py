"""The log of a task."""

from __future__ import annotations

from typing import Protocol


class Log(Protocol):
    """A task's logger in any Airflow."""

    def info(self, event: str, /, *args: object) -> object:
        """Log an event."""

    def warning(self, event: str, /, *args: object) -> object:
        """Log a problem."""
