"""The event that ends a deferred wait. The trigger writes it, the resumed task reads it. Plain JSON.

    {"version": 1, "technique_id": ..., "run_id": ..., "run": {...}, "whole": true}
        the run has completed or failed. If ``whole`` is false, the run's texts are left out, and the task gets them
        from Flora: texts may be large, and the event is stored in Airflow's database.
    {"version": 1, "technique_id": ..., "run_id": ..., "error": {...}}
        the wait ended with an error, without a finished run (see ``api.error_dicts``)

A triggerer and a worker may run different releases. Unknown entries are ignored, and missing ones get defaults. An
unreadable event is a retryable error: the next attempt waits for the run again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from airflow_provider_flora.api.error_dicts import describe_error, rebuild_error
from airflow_provider_flora.api.errors import FloraError, FloraWaitError

if TYPE_CHECKING:
    from airflow_provider_flora.api.client import FloraClient
    from airflow_provider_flora.api.models import Run, RunOutput

VERSION = 1
FETCH_TIMEOUT = 60.0
"""Seconds to get a finished run from Flora again, enough for a transient error to pass."""
FETCH_INTERVAL = 2.0


class WaitEvent(dict[str, Any]):
    """The event of the trigger. Its repr is one short line without outputs, since Airflow logs it."""

    @classmethod
    def of_run(cls, run: Run, technique_id: str) -> WaitEvent:
        """Return the event of a finished run."""
        content = run.model_dump(exclude_none=True)
        for output, entry in zip(run.outputs, content["outputs"], strict=True):
            if not _is_link(output):
                entry["url"] = ""
        whole = all(map(_is_link, run.outputs))
        return cls(version=VERSION, technique_id=technique_id, run_id=run.run_id, run=content, whole=whole)

    @classmethod
    def of_error(cls, error: FloraError, technique_id: str, run_id: str) -> WaitEvent:
        """Return the event of a wait that ended without a finished run."""
        error.run_id, error.technique_id = run_id, technique_id
        return cls(version=VERSION, technique_id=technique_id, run_id=run_id, error=describe_error(error))

    def __repr__(self) -> str:
        run, error = self.get("run"), self.get("error")
        if run is None:
            return f"<{self.get('run_id')} {error['kind'] if error else 'event'}>"
        count = len(run["outputs"])
        return f"<{run['run_id']} {run['status']}, {count} output{'' if count == 1 else 's'}>"


def finished_run(event: object, get_client: Callable[[], FloraClient], technique_id: str) -> Run:
    """Return the finished run of an event.

    :param event: the trigger's event.
    :param get_client: returns a client for one more request, if the event does not contain the whole run.
    :param technique_id: id for an event without one.
    :raises FloraError: the error that ended the wait, with its class and attributes.
    :raises FloraWaitError: the event cannot be read, or the run cannot be fetched now.
    """
    entries: Mapping[str, Any] = event if isinstance(event, Mapping) else {}
    if isinstance(error := entries.get("error"), Mapping):
        raise rebuild_error(error)
    run = _read_run(entries)
    whole = entries.get("whole", all(output.url for output in run.outputs))
    if whole:
        return run
    try:
        name = entries.get("technique_id")
        return get_client().wait_for_technique_run(
            name if isinstance(name, str) else technique_id, run.run_id, FETCH_INTERVAL, FETCH_TIMEOUT
        )
    except FloraError as failure:
        raise FloraWaitError(
            f"Run {run.run_id} has finished, but its texts cannot be fetched now: {str(failure).rstrip('.')}. A "
            "retry fetches them.",
            run.run_id,
        ) from failure


def _read_run(entries: Mapping[str, Any]) -> Run:
    from pydantic import ValidationError

    from airflow_provider_flora.api.models import Run

    content = entries.get("run")
    try:
        run = Run.model_validate(content)
        # Lenient reading turns unreadable outputs into none. Then the retry must get the run from Flora.
        if run.finished and isinstance(content, Mapping) and isinstance(content.get("outputs", []), list):
            return run
    except ValidationError:
        pass
    run_id = entries.get("run_id") or (content.get("run_id") if isinstance(content, Mapping) else None)
    values = (entries.get(name) for name in ("error", "timeout"))
    reason = next((f": {value}" for value in values if isinstance(value, str)), "")
    raise FloraWaitError(
        f"The trigger's event for {f'run {run_id}' if run_id else 'a run'} cannot be read{reason}. The triggerer "
        "may have another release of the provider. A retry waits for the run again.",
        run_id if isinstance(run_id, str) else None,
    )


def _is_link(output: RunOutput) -> bool:
    """Whether an output's ``url`` is a URL, and not a text."""
    return output.type != "text" and str(output.url).startswith(("https://", "http://"))
