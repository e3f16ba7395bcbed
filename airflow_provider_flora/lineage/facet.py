"""The run facet ``flora_run``. Its JSON schema is ``docs/_static/FloraRunFacet-1-0-0.json``.

A change of its fields needs a new version of the schema, in a file of its own: an event names the one it follows.
"""

from __future__ import annotations

import attr
from openlineage.client.facet_v2 import RunFacet

from airflow_provider_flora.version import __version__

FACET = "flora_run"
"""The facet's key in a run."""
_PROJECT = "airflow-provider-flora/airflow-provider-flora"
PRODUCER = f"https://github.com/{_PROJECT}/tree/v{__version__}"
SCHEMA_URL = (
    f"https://raw.githubusercontent.com/{_PROJECT}/main/docs/_static/FloraRunFacet-1-0-0.json#/$defs/FloraRunFacet"
)


@attr.define(kw_only=True)
class FloraRunFacet(RunFacet):
    """What a task has had done at Flora. A field without a value is not in the event.

    :param mode: ``single``; ``batch``, with a run for each row; ``wait`` or ``download``, with a run that something
        else has started and paid.
    :param techniqueId: id or slug, as the DAG names it.
    :param runId: Flora's id of the run. A batch has none.
    :param status: the run's, as Flora names it; of a batch, ``completed`` or ``failed``.
    :param chargedCost: USD; of a batch, what this execution has spent.
    :param rows: number of a batch's rows: ``rows``, ``completed`` (``reused`` among them), ``failed``, ``unknown``,
        ``skipped``.
    :param errorKind: class of the error with which the task failed, with its ``errorCode`` and ``remedy``.
    :param inputsLeftOut: number of input datasets that are not in the event, since it has so many.
    """

    mode: str
    techniqueId: str  # noqa: N815  OpenLineage's way to write names
    techniqueName: str | None = None  # noqa: N815
    runId: str | None = None  # noqa: N815
    status: str | None = None
    chargedCost: float | None = None  # noqa: N815
    rows: dict[str, int] | None = None
    errorKind: str | None = None  # noqa: N815
    errorCode: str | None = None  # noqa: N815
    remedy: str | None = None
    inputsLeftOut: int = 0  # noqa: N815
    outputsLeftOut: int = 0  # noqa: N815

    @staticmethod
    def _get_schema() -> str:
        return SCHEMA_URL
