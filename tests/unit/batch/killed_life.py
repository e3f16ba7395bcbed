"""Attempts of a batch's task in processes of their own, which can be killed. Their state is in files."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from tests.unit.forks import CONTEXT
from tests.unit.operators.fake_task import FakeStore, TaskLife


class FileStore(FakeStore):
    """A state store whose values are files, so that they outlive a process."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self.rows = {path.name: path.read_text() for path in folder.iterdir() if not path.name.startswith(".")}

    def set(self, key: str, value: Any, *, retention: Any = None) -> None:
        super().set(key, value)
        hidden = self._folder / f".{key}"
        hidden.write_text(self.rows[key])
        hidden.replace(self._folder / key)

    def delete(self, key: str) -> None:
        super().delete(key)
        (self._folder / key).unlink(missing_ok=True)


@dataclass
class KilledLife:
    """The life of a task whose processes may be killed.

    :param arguments: of the operator.
    :param environment: of the processes: the connections.
    :param store: folder of the state store; ``None`` for an Airflow that has none.
    """

    arguments: dict[str, Any]
    environment: dict[str, str]
    store: Path | None
    started: datetime = field(default_factory=lambda: datetime.now(timezone.utc))
    tries: int = 0

    def attempt(self, kill_after: float | None = None) -> bool:
        """Make an attempt. Return whether it succeeded.

        :param kill_after: seconds after which its process is killed.
        """
        self.tries += 1
        process = CONTEXT.Process(target=_attempt, args=(self,), daemon=True)
        process.start()
        process.join(300 if kill_after is None else kill_after)
        if kill_after is None:
            assert process.exitcode is not None, "an attempt without an end"
        else:
            process.kill()
            process.join()
        return process.exitcode == 0


def _attempt(of: KilledLife) -> None:
    import os

    os.environ.update(of.environment)
    from airflow_provider_flora.batch import running
    from airflow_provider_flora.operators.batch import FloraRunTechniqueBatchOperator
    from airflow_provider_flora.runs import starting

    starting.start_duration = lambda _: 0.2
    starting.HISTORY_LAG = 0.1
    starting.CLOCK_MARGIN = 60.0  # the test's process, which is Flora as well, may stand still for a while
    running.TICK = 0.02
    running.SNAPSHOT_INTERVAL = 0.1
    running.RETRY_ROW_LATER = 0.05
    store = None if of.store is None else FileStore(of.store)
    life = TaskLife(FloraRunTechniqueBatchOperator(**of.arguments), store=store, retries=1000)
    life.started, life.try_number = of.started, of.tries - 1
    life.run()


def shown(manifest: Path) -> list[dict[str, Any]]:
    """Return the lines of a manifest, each of which must be whole."""
    return [json.loads(line) for line in manifest.read_text().splitlines()] if manifest.exists() else []


def pause() -> None:
    """Let runs at Flora go on for a moment."""
    time.sleep(0.05)
