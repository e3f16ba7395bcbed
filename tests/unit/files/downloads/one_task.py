"""One try of a task in a process of its own, so that it can be killed and its memory be measured.

    python -m tests.unit.files.downloads.one_task FOLDER STORE TECHNIQUE TRY

STORE is a file in which the task's state outlives the process, on an Airflow that keeps it. Prints the files and
the peak of the memory in bytes.
"""

from __future__ import annotations

import json
import resource
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from airflow_provider_flora.runs import starting
from tests.unit import airflow_home  # noqa: F401  # before anything of Airflow
from tests.unit.operators.fake_task import HAS_STATE_STORE, FakeStore, TaskLife


class FileStore(FakeStore):
    """Airflow's state store, as a file."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        if path.exists():
            self.rows = json.loads(path.read_text())

    def set(self, key: str, value: Any, *, retention: Any = None) -> None:
        super().set(key, value, retention=retention)
        part = self._path.with_suffix(".part")
        part.write_text(json.dumps(self.rows))
        part.replace(self._path)


def operator(technique_id: str, folder: str) -> Any:
    from airflow_provider_flora.operators.flora import FloraRunTechniqueOperator

    return FloraRunTechniqueOperator(
        task_id="videos",
        technique_id=technique_id,
        inputs={"script": folder},
        download_to=folder,
        poll_interval=0.05,
        deferrable=False,
        retries=2,
        retry_delay=timedelta(0),
    )


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    folder, store, technique_id, try_number = sys.argv[1:]
    # Without a state store the second attempt waits for the first one's start to end: seconds here, minutes there.
    starting.start_duration, starting.HISTORY_LAG = lambda _: 1.0, 0.1
    life = TaskLife(operator(technique_id, folder), store=FileStore(Path(store)) if HAS_STATE_STORE else None)
    life.try_number = int(try_number) - 1
    # All attempts are of one DAG run, which began when the first did.
    began = Path(store).with_suffix(".began")
    if not began.exists():
        began.write_text((life.started - timedelta(minutes=1)).isoformat())
    life.started = datetime.fromisoformat(began.read_text())
    files = life.run()["files"]
    print(json.dumps({"files": files, "peak": peak()}))


if __name__ == "__main__":
    main()
