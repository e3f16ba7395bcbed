"""FloraDownloadOutputsOperator: downloads the outputs of an existing run.

Slow imports are made when a task runs, as in ``operators.flora``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow_provider_flora.airflow_compat import AirflowFailException, BaseOperator
from airflow_provider_flora.lineage.telling import TellsLineage
from airflow_provider_flora.task.state import store_of

if TYPE_CHECKING:
    from airflow_provider_flora.airflow_compat import Context, ObjectStoragePath
    from airflow_provider_flora.api.models import Run


class FloraDownloadOutputsOperator(TellsLineage, BaseOperator):
    """Download the outputs of a completed run. The task does not start or wait for a run, and costs nothing.

    The value and the XComs are those of
    :class:`~airflow_provider_flora.operators.flora.FloraRunTechniqueOperator` with ``download_to``.

    :param technique_id: id or slug of the technique. (templated)
    :param run_id: the run. (templated)
    :param download_to: folder in any storage of Airflow's ``ObjectStoragePath``. (templated)
    :param file_name: format of the names of the files, with the fields ``technique``, ``flora_run_id``,
        ``output_id``, ``index`` and ``ext``. (templated)
    :param flora_conn_id: the connection. (templated)
    :raises AirflowFailException: the run has not completed, or a parameter is invalid.
    :raises FloraError: an output could not be downloaded, and a retry may succeed.
    """

    template_fields: Sequence[str] = ("technique_id", "run_id", "download_to", "file_name", "flora_conn_id")
    ui_color = "#e8f0e4"
    lineage_mode = "download"

    def __init__(
        self,
        *,
        technique_id: str,
        run_id: str,
        download_to: str | ObjectStoragePath,
        file_name: str = "{technique}-{flora_run_id}-{output_id}.{ext}",
        flora_conn_id: str = "flora_default",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.technique_id = technique_id
        self.run_id = run_id
        self.download_to = download_to
        self.file_name = file_name
        self.flora_conn_id = flora_conn_id

    def execute(self, context: Context) -> dict[str, Any]:
        """Get the run, download its outputs, and return its value."""
        from airflow_provider_flora.files.downloads.downloads import Downloads
        from airflow_provider_flora.hooks.flora import FloraHook
        from airflow_provider_flora.runs.outcome import airflow_errors, hand_over

        with airflow_errors(context), FloraHook(self.flora_conn_id).get_conn() as client:
            downloads = Downloads(self.download_to, self.file_name, self.log)
            run = client.get_technique_run(self.technique_id, self.run_id)
            if not run.completed:
                raise AirflowFailException(self._not_completed_message(run))
            store = store_of(context)
            if self.do_xcom_push:
                context["ti"].xcom_push(key="run_id", value=run.run_id)
            download = partial(downloads.download, run, self.technique_id, client.settings, store)
            value: dict[str, Any] = hand_over(run, self.technique_id, context, "run", self.log, download)
            return value

    def _not_completed_message(self, run: Run) -> str:
        if run.failed:
            code = run.error_code or "no error code"
            return f"Run {run.run_id} failed ({code}: {run.error_message}), so it has no outputs to download."
        return (
            f"Run {run.run_id} has not completed yet ({run.status}, {run.progress:g} %), so it has no outputs to "
            "download. Put a FloraTechniqueRunSensor before this task to wait for the run."
        )
