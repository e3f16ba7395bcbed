"""A finished run becomes a value in XCom, or the right exception. Knows nothing of how the run came to be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_flora.api.errors import FloraError, FloraRunFailedError, Remedy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from airflow_provider_flora.api.models import Run

XCOM_KEYS = ("outputs", "output_urls", "output_texts", "charged_cost")
"""Parts of the value that are XComs of their own, so that ``op.output["output_urls"]`` is an argument for another
task; ``files`` is one where outputs were downloaded. ``run_id`` is one too, pushed as soon as the run exists: no
key is pushed twice in a try, which Airflow does not bear well across a deferral."""


def value_of(run: Run, technique_id: str) -> dict[str, Any]:
    """Return a run as a plain dict, fit for XCom.

    Times are unix milliseconds, ``charged_cost`` is in USD and ``None`` while Flora has not told it: before
    completion the API shows a quote in its place. A text output's ``url`` *is* the text.
    """
    outputs = [output.model_dump() for output in run.outputs]
    return {
        "run_id": run.run_id,
        "technique_id": technique_id,
        "status": run.status,
        "outputs": outputs,
        "output_urls": [output["url"] for output in outputs if output["type"] != "text"],
        "output_texts": [output["url"] for output in outputs if output["type"] == "text"],
        "charged_cost": run.charged_cost if run.completed else None,
        "created_at": run.created_at,
        "started_at": run.started_at,
        "completed_at": run.completed_at,
    }


def hand_over(
    run: Run,
    technique_id: str,
    context: Mapping[str, Any],
    returns: str,
    download: Callable[[], list[dict[str, Any]]] | None = None,
) -> Any:
    """Push the parts of a run's value to XCom, tell the task's assets, and return what the task returns.

    :param returns: ``run`` for the whole value, ``outputs`` for the list of outputs.
    :param download: brings the outputs of a completed run home and gives their files.
    :raises FloraRunFailedError: the run failed.
    """
    if run.failed:
        raise FloraRunFailedError(run, technique_id)
    value = value_of(run, technique_id)
    if download is not None:
        value["files"] = download()
    if context["task"].do_xcom_push:
        for key in (*XCOM_KEYS, *(("files",) if download is not None else ())):
            context["ti"].xcom_push(key=key, value=value[key])
    _tell_assets(value, context)
    return value["outputs"] if returns == "outputs" else value


def _tell_assets(value: Mapping[str, Any], context: Mapping[str, Any]) -> None:
    """Let the event of each asset that the task updates carry what became of the run.

    An alias stands for no asset until somebody says which, so its events are the DAG author's.
    """
    outlets = getattr(context["task"], "outlets", None)
    if not outlets:
        return
    from airflow.providers.common.compat.sdk import Asset

    told = {key: value[key] for key in ("run_id", "technique_id", "charged_cost")}
    for outlet in outlets:
        if isinstance(outlet, Asset):
            event = context["outlet_events"][outlet]
            event.extra = {**event.extra, **told, "files": value.get("files", [])}


class FloraWaitError(FloraError):
    """A wait in the triggerer ended without a finished run."""

    def __init__(self, message: str, remedy: Remedy) -> None:
        super().__init__(message)
        self.remedy = remedy


def run_of_event(event: Mapping[str, Any]) -> Run:
    """Return the finished run that a trigger's event carries.

    :raises FloraWaitError: it carries none: the time was over, or waiting further could not help.
    """
    from airflow_provider_flora.api.models import Run

    if "run" in event:
        return Run.model_validate(event["run"])
    if "timeout" in event:
        raise FloraWaitError(event["timeout"], Remedy.RETRY_LATER)
    raise FloraWaitError(event["error"], Remedy.RETRY_LATER if event["retryable"] else Remedy.GIVE_UP)


@contextmanager
def airflow_errors() -> Iterator[None]:
    """Keep Airflow from retrying what a retry cannot mend.

    :raises AirflowFailException: for a :class:`FloraError` whose remedy is "change the input" or "give up".
    """
    try:
        yield
    except FloraError as error:
        if error.remedy.retryable:
            raise
        raise AirflowFailException(str(error)) from error
