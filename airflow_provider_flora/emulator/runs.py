"""One run: its life is a pure function of the clock, so that nothing has to tick for it.

A run never changes after it was made. What it looks like at a given moment is computed when somebody
asks. Where runs are kept is the business of ``history.py``.

    pending ──started_at──▶ running ──ended_at──▶ completed, or failed when it has a failure
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_flora.emulator.catalogue import Slot, Technique
from airflow_provider_flora.emulator.texts import text_output

STATUSES = ("pending", "running", "completed", "failed")
WORKSPACE_ID = "ws_emulator"
PROJECT_ID = "prj_emulator"
EXTENSIONS = {"imageUrl": "png", "videoUrl": "mp4", "audioUrl": "wav", "documentUrl": "pdf"}


@dataclass(frozen=True, eq=False)
class Run:
    """A run of a technique.

    :param run_id: Its public id.
    :param number: Its place in the order of creation.
    :param technique: What it runs.
    :param inputs: What it was given, as it came.
    :param created_at: Unix milliseconds.
    :param started_at: Unix milliseconds; infinite when it never starts.
    :param ended_at: Unix milliseconds; infinite when it never ends.
    :param failure: ``error_code`` and ``error_message`` when it is to fail.
    :param idempotency_key: The key it was started with.
    :param callback_url: Who wants to hear of its end.
    :param output_bytes: Its files are blobs of that length, in place of what the technique draws.
    :param foreign: Put there by a control request, not started by the client under test.
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
    order: tuple[int, int] = field(init=False)
    """What history is sorted by."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "order", (self.created_at, self.number))

    def status_at(self, now: float) -> str:
        """Its status at that moment, in unix milliseconds."""
        if now >= self.ended_at:
            return "failed" if self.failure else "completed"
        return "running" if now >= self.started_at else "pending"

    def next_change_after(self, now: float) -> float:
        """When its status changes next, in unix milliseconds; infinite when it does not."""
        return next((moment for moment in (self.started_at, self.ended_at) if moment > now), math.inf)

    def progress_at(self, now: float) -> int:
        """0 to 100. A failed run is at 100 too: progress does not tell success."""
        if now >= self.ended_at:
            return 100
        if now < self.started_at:
            return 0
        if math.isinf(self.ended_at):
            return 50
        return min(99, 1 + int(99 * (now - self.started_at) / (self.ended_at - self.started_at)))

    def charged_at(self, now: float) -> float:
        """What has been charged for it, in USD: nothing before its end, nothing for a failure."""
        return self.technique.run_cost if self.status_at(now) == "completed" else 0

    def as_json(self, now: float, origin: str, cost_lag: float) -> dict[str, Any]:
        """The run on the wire.

        :param now: Unix milliseconds.
        :param origin: Where the caller reaches the emulator, for the URLs in the answer.
        :param cost_lag: Seconds after its end for which the charge is not known yet.
        """
        status = self.status_at(now)
        wire: dict[str, Any] = {
            "run_id": self.run_id,
            "status": status,
            "progress": self.progress_at(now),
            "created_at": self.created_at,
            "poll_url": f"{origin}/api/v1/techniques/{self.technique.technique_id}/runs/{self.run_id}",
        }
        if now >= self.started_at:
            wire["started_at"] = int(self.started_at)
        if now >= self.ended_at:
            wire["completed_at"] = int(self.ended_at)
        if status == "failed" and self.failure:
            wire["error_code"], wire["error_message"] = self.failure
        if status == "completed":
            wire["outputs"] = self._outputs(origin)
        quoted = status in ("pending", "running")
        if quoted or (status == "completed" and now >= self.ended_at + cost_lag * 1000):
            wire["charged_cost"] = self.technique.run_cost
        return wire

    def as_history_item(self, now: float, origin: str, cost_lag: float) -> dict[str, Any]:
        """The run as history lists it: more fields; the parameters are those of :meth:`as_json`."""
        return {
            **self.as_json(now, origin, cost_lag),
            "technique_run_id": self.run_id,
            "technique": {"technique_id": self.technique.technique_id, "name": self.technique.name},
            "workspace_id": WORKSPACE_ID,
            "project_id": PROJECT_ID,
        }

    def _outputs(self, origin: str) -> list[dict[str, str]]:
        return [
            {
                "output_id": slot.id,
                "type": slot.type,
                "url": text_output(self.technique, slot, self.inputs)
                if slot.type == "text"
                else f"{origin}/media/{self._media_path(slot)}",
            }
            for slot in self.technique.outputs
        ]

    def _media_path(self, slot: Slot) -> str:
        extension = EXTENSIONS[slot.type]
        if self.output_bytes is not None:
            return f"blobs/{self.output_bytes}/{self.run_id}-{slot.id}.{extension}"
        return f"{self.run_id}/{slot.id}.{extension}"
