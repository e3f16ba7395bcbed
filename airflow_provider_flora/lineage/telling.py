"""The methods of an operator that Airflow's provider for OpenLineage calls. Imported with the operators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from airflow_provider_flora.airflow_compat import OperatorLineage


class TellsLineage:
    """An operator that tells OpenLineage what it reads and writes. Without that provider nothing calls it.

    :cvar lineage_mode: what the operator does with runs; see ``mode`` in ``lineage.facet``.
    """

    lineage_mode: ClassVar[str]

    def get_openlineage_facets_on_start(self) -> OperatorLineage[Any, Any]:
        """Return what is known before the task has begun: its inputs."""
        from airflow_provider_flora.lineage.events import lineage_of

        return lineage_of(self, self.lineage_mode)

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> OperatorLineage[Any, Any]:
        """Return what the task has read and written, and its run. A task that has failed is asked, too."""
        from airflow_provider_flora.lineage.events import lineage_of

        return lineage_of(self, self.lineage_mode)
