"""The event of a run that has ended, as an Airflow asset gets it. Plain JSON of a bounded size.

    {"type": "flora.run", "version": 1, "run_id": ..., "technique_id": ..., "technique_name": ...,
     "status": ..., "outputs": [{"output_id", "type", "url"}], "output_urls": [...], "charged_cost": ...,
     "created_at": ..., "started_at": ..., "completed_at": ..., "error_code": ..., "error_message": ...,
     "whole": true}

The keys that a task's XCom has too have the same meaning there (see ``runs.outcome``). Airflow stores the event in
its database, and shows it. So a text of more than :data:`LONGEST_TEXT` characters, an overlong URL, and outputs
beyond :data:`MOST_OUTPUTS` are left out, and ``whole`` is false: the run itself, from Flora, has them.

Which runs an asset was told of is kept in the asset's state store under :data:`TOLD_KEY`. Airflow's triggerer
writes it together with the event, in one transaction (see ``plugins.told_runs``), so that neither is there without
the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_provider_flora.api.models import Run

TYPE = "flora.run"
VERSION = 1
LONGEST_TEXT = 1000
LONGEST_URL = 2000
LONGEST_ID = 200
"""Characters of the id of a run. A longer one is no id of Flora's, and such a run is not told of."""
MOST_OUTPUTS = 50
TOLD_KEY = "flora_told_runs"
"""Key in an asset's state store: ids of the runs that the asset was told of, oldest first."""
TOLD_KEPT = 1000
"""Number of those ids: more than are told before a watch has taken note of them."""


class RunEvent(dict[str, Any]):
    """The event of a run. Its repr is one short line without outputs, since Airflow logs it."""

    @classmethod
    def of_run(cls, run: Run, technique_id: str, technique_name: str | None) -> RunEvent:
        """Return the event of a run that has ended."""
        from airflow_provider_flora.runs.outcome import value_of

        kept = [output for output in run.outputs[:MOST_OUTPUTS] if _is_short(output.type, output.url)]
        value = value_of(run.model_copy(update={"outputs": kept}), technique_id)
        return cls(
            type=TYPE,
            version=VERSION,
            technique_name=technique_name and technique_name[:LONGEST_ID],
            error_code=run.error_code and run.error_code[:LONGEST_ID],
            error_message=run.error_message,
            whole=len(kept) == len(run.outputs),
            **value,
        )

    def __repr__(self) -> str:
        return f"<{self['run_id']} {self['status']} of {self['technique_id']}>"


def _is_short(output_type: str, url: str | None) -> bool:
    return len(url or "") <= (LONGEST_TEXT if output_type == "text" else LONGEST_URL)


def run_told_by(extra: object) -> str | None:
    """Return the run that an asset event tells of, if a trigger of the provider has made it.

    :param extra: the ``extra`` of the asset event.
    """
    if not isinstance(extra, Mapping) or extra.get("from_trigger") is not True or "from_rest_api" in extra:
        return None
    payload = extra.get("payload")
    if not isinstance(payload, Mapping) or payload.get("type") != TYPE:
        return None
    run_id = payload.get("run_id")
    return run_id if isinstance(run_id, str) else None


def add_told_run(told: object, run_id: str) -> list[str]:
    """Return what is to be kept of told runs, with one more.

    :param told: what was kept. Anything but a list counts as nothing.
    """
    return [*(one for one in told_runs(told) if one != run_id), run_id][-TOLD_KEPT:]


def told_runs(told: object) -> list[str]:
    """Read what is kept of told runs."""
    return [one for one in told if isinstance(one, str)] if isinstance(told, list) else []
