"""One run: its status is a pure function of the clock, so it needs no timer.

A run never changes after it was made. Its state at a moment is computed when it is read. Where runs are kept is
decided in ``history.py``.

    pending ──started_at──▶ running ──ended_at──▶ completed, or failed when it has a failure,
                                                  or its end status when it has one
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_flora.emulator.media.texts import write_text
from airflow_provider_flora.emulator.state.catalogue import Slot, Technique
from airflow_provider_flora.emulator.state.workspace import PROJECT_ID, WORKSPACE_ID

STATUSES = ("pending", "running", "completed", "failed")
EXTENSIONS = {"imageUrl": "png", "videoUrl": "mp4", "audioUrl": "wav", "documentUrl": "pdf"}


@dataclass(frozen=True)
class SetOutput:
    """What a run reports in place of an output's URL or text.

    :param url: the text to report, or ``None``.
    :param output_id: the output; ``None`` for every one.
    :param seconds: how long after the end of the run it is reported; ``None`` for ever.
    """

    url: str | None
    output_id: str | None
    seconds: float | None

    def holds(self, output_id: str, seconds_after: float) -> bool:
        """Whether it is reported for this output, a number of seconds after the end of the run."""
        return self.output_id in (None, output_id) and (self.seconds is None or seconds_after < self.seconds)


@dataclass(frozen=True, eq=False)
class Run:
    """A run of a technique.

    :param run_id: its public id.
    :param number: runs are numbered as they are made.
    :param technique: the technique.
    :param inputs: its inputs, as the client sent them.
    :param created_at: unix milliseconds.
    :param started_at: unix milliseconds; infinite when it never starts.
    :param ended_at: unix milliseconds; infinite when it never ends.
    :param failure: ``error_code`` and ``error_message`` when it is to fail.
    :param idempotency_key: the key that it was started with.
    :param callback_url: where its end is reported.
    :param output_bytes: the size of its files, which then are blobs and not drawn.
    :param foreign: whether a control request made it, and not the client under test.
    :param end_status: its last status, in place of ``completed`` or ``failed``.
    :param set_outputs: what it reports in place of its outputs; the first one that holds counts.
    """

    run_id: str
    number: int
    technique: Technique
    inputs: tuple[dict[str, str], ...]
    created_at: int
    started_at: float
    ended_at: float
    failure: tuple[str, str] | None = None
    idempotency_key: str | None = None
    callback_url: str | None = None
    foreign: bool = False
    output_bytes: int | None = None
    end_status: str | None = None
    set_outputs: tuple[SetOutput, ...] = ()
    sort_key: tuple[int, int] = field(init=False)
    """What history is sorted by."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "sort_key", (self.created_at, self.number))

    def status_at(self, now: float) -> str:
        """Its status at that moment, in unix milliseconds."""
        if now >= self.ended_at:
            return self.end_status or ("failed" if self.failure else "completed")
        return "running" if now >= self.started_at else "pending"

    def next_change_after(self, now: float) -> float:
        """When its status changes next, in unix milliseconds; infinite when it does not."""
        return next((moment for moment in (self.started_at, self.ended_at) if moment > now), math.inf)

    def progress_at(self, now: float) -> int:
        """0 to 100. A failed run is at 100 too: progress says nothing about success."""
        if now >= self.ended_at:
            return 100
        if now < self.started_at:
            return 0
        if math.isinf(self.ended_at):
            return 50
        return min(99, 1 + int(99 * (now - self.started_at) / (self.ended_at - self.started_at)))

    def charged_at(self, now: float) -> float:
        """Its charge in USD: 0 before its end, and 0 for a failure."""
        return self.technique.run_cost if self.status_at(now) == "completed" else 0

    def as_json(self, now: float, origin: str, cost_lag: float) -> dict[str, Any]:
        """The run as JSON.

        :param now: unix milliseconds.
        :param origin: where the caller reaches the emulator, for the URLs in the answer.
        :param cost_lag: seconds after its end until its charge is known.
        """
        status = self.status_at(now)
        fields: dict[str, Any] = {
            "run_id": self.run_id,
            "status": status,
            "progress": self.progress_at(now),
            "created_at": self.created_at,
            "poll_url": f"{origin}/api/v1/techniques/{self.technique.technique_id}/runs/{self.run_id}",
        }
        if now >= self.started_at:
            fields["started_at"] = int(self.started_at)
        if now >= self.ended_at:
            fields["completed_at"] = int(self.ended_at)
        if self.failure and now >= self.ended_at:
            fields["error_code"], fields["error_message"] = self.failure
        if status == "completed":
            fields["outputs"] = self._outputs(now, origin)
        quoted = status in ("pending", "running")
        if quoted or (status == "completed" and now >= self.ended_at + cost_lag * 1000):
            fields["charged_cost"] = self.technique.run_cost
        return fields

    def as_history_item(self, now: float, origin: str, cost_lag: float) -> dict[str, Any]:
        """The run as history lists it, with more fields. The parameters are those of :meth:`as_json`."""
        return {
            **self.as_json(now, origin, cost_lag),
            "technique_run_id": self.run_id,
            "technique": {"technique_id": self.technique.technique_id, "name": self.technique.name},
            "workspace_id": WORKSPACE_ID,
            "project_id": PROJECT_ID,
        }

    def _outputs(self, now: float, origin: str) -> list[dict[str, str | None]]:
        return [
            {"output_id": slot.id, "type": slot.type, "url": self._output_url(slot, now, origin)}
            for slot in self.technique.outputs
        ]

    def _output_url(self, slot: Slot, now: float, origin: str) -> str | None:
        for reported in self.set_outputs:
            if reported.holds(slot.id, (now - self.ended_at) / 1000):
                return reported.url
        if slot.type == "text":
            return write_text(self.technique.slug, slot.id, self.inputs)
        return f"{origin}/media/{self._media_path(slot)}"

    def _media_path(self, slot: Slot) -> str:
        extension = EXTENSIONS[slot.type]
        if self.output_bytes is not None:
            return f"blobs/{self.output_bytes}/{self.run_id}-{slot.id}.{extension}"
        return f"{self.run_id}/{slot.id}.{extension}"
