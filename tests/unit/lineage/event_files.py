"""Events of tasks, as the OpenLineage client writes them to a file for Airflow's provider for OpenLineage."""

from __future__ import annotations

import inspect
import json
import types
import uuid
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("airflow.providers.openlineage", reason="the provider for OpenLineage is not installed")

from airflow.providers.openlineage.extractors.manager import ExtractorManager
from airflow.providers.openlineage.plugins.adapter import OpenLineageAdapter
from airflow.utils.state import TaskInstanceState
from openlineage.client import OpenLineageClient
from openlineage.client.transport.file import FileConfig, FileTransport

from tests.unit.lineage.event_checks import check_event


class EventFile:
    """A file that the client writes events to."""

    def __init__(self, path: Path) -> None:
        self._path = path
        config = FileConfig(log_file_path=str(path), append=True)
        self._adapter = OpenLineageAdapter(OpenLineageClient(transport=FileTransport(config)))
        self._manager = ExtractorManager()

    def write(self, task: Any, kind: str, error: BaseException | None = None) -> dict[str, Any]:
        """Do what Airflow's listener does, and return the event, which is valid.

        :param kind: ``start``, ``complete`` or ``fail``.
        """
        states = {"start": "RUNNING", "complete": "SUCCESS", "fail": "FAILED"}
        found = self._manager.extract_metadata(
            dagrun=types.SimpleNamespace(run_id="a_dag_run"),
            task=task,
            task_instance_state=getattr(TaskInstanceState, states[kind]),
            task_instance=None,
        )
        now = "2026-11-28T10:00:00+00:00"
        given = {
            "run_id": str(uuid.uuid4()),
            "job_name": f"a_dag.{task.task_id}",
            "event_time": now,
            "end_time": now,
            "task": found,
            "error": error,
        }
        send = getattr(self._adapter, f"{kind}_task")
        # Each version of the provider has parameters of its own, which may be none.
        send(**{name: given.get(name) for name in inspect.signature(send).parameters})
        event: dict[str, Any] = json.loads(self._path.read_text().splitlines()[-1])
        assert event["eventType"] == kind.upper()
        check_event(event)
        return event
