"""Turns a finished run into XComs, or into an exception that Airflow handles correctly."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from airflow_provider_flora import metrics
from airflow_provider_flora.airflow_compat import AirflowFailException, push_xcom
from airflow_provider_flora.api.error_dicts import describe_error
from airflow_provider_flora.api.errors import FloraError, remedy_of, run_failure
from airflow_provider_flora.task.success import do_after_success

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from airflow_provider_flora.api.models import Run
    from airflow_provider_flora.task.log import Log

LARGE_TEXT_BYTES = 64 * 1024
ERROR_KEY = "flora_error"
"""XCom of a task that failed: the error as ``api.error_dicts`` describes it."""
BATCH_KEY = "flora_batch_value"
"""XCom of a batch that has ended, completed or failed: its value."""
RUN_COST_KEY = "flora_run_cost"
"""XCom of a task that has started a run: its price in USD."""


@dataclass
class Outcome:
    """What came of a task so far. Its operator keeps it for whatever tells of the task, such as ``lineage``.

    :param technique_name: the technique's name, if it was seen in this process.
    :param run: the task's run, once it is over, or was started and is not waited for.
    :param value: the value of a task that has no run of its own: a batch, an upload.
    :param inputs: paths and URLs that a batch's rows have read.
    :param files: files that were written: ``{"uri", "bytes"}``, and for a batch the URLs of those at Flora.
    :param left_out: number of inputs and files of a batch that are not among them, since there are so many.
    :param place: URL of the API, if Flora assets were made.
    :param error: the error with which the task has failed.
    """

    technique_name: str | None = None
    run: Run | None = None
    value: Mapping[str, Any] | None = None
    inputs: Sequence[str] = ()
    files: Sequence[Mapping[str, Any]] = ()
    left_out: tuple[int, int] = (0, 0)
    place: str | None = None
    error: FloraError | None = None


def outcome_of(task: Any) -> Outcome:
    """Return what came of a task so far, in the process that runs it."""
    found = getattr(task, "_flora_outcome", None)
    if found is None:
        found = task._flora_outcome = Outcome()
    return found


def value_of(run: Run, technique_id: str) -> dict[str, Any]:
    """Return a run as a plain dict for XCom.

    Times are unix milliseconds. ``charged_cost`` is in USD, and ``None`` until Flora reports it: before completion
    the API shows a quote in its place. The ``url`` of a text output *is* the text.
    """
    outputs = [output.model_dump() for output in run.outputs]
    return {
        "run_id": run.run_id,
        "technique_id": technique_id,
        "status": run.status,
        "outputs": outputs,
        "output_urls": [output["url"] for output in outputs if output["type"] != "text"],
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
    log: Log,
    download: Callable[[], list[dict[str, Any]]] | None = None,
) -> Any:
    """Push a run's XComs, add the run to the events of the task's assets, and return the task's value.

    :param returns: ``run`` for the whole value, ``outputs`` for the list of outputs.
    :param download: downloads the outputs of a completed run and returns their files.
    :raises FloraRunFailedError: the run failed.
    """
    outcome = outcome_of(context["task"])
    outcome.run = run
    if run.failed:
        raise run_failure(run, technique_id)
    value = value_of(run, technique_id)
    if download is not None:
        outcome.files = value["files"] = download()
    if context["task"].do_xcom_push:
        for key, part in _xcoms(value, log).items():
            push_xcom(context["ti"], key, part)
    extra = {key: value[key] for key in ("run_id", "technique_id", "charged_cost")}
    add_to_asset_events({**extra, "files": value.get("files", [])}, context)
    log.info("%s", _summary(value))
    return value["outputs"] if returns == "outputs" else value


def count_run(run: Run, technique_id: str, task: Any, context: Mapping[str, Any], *, again: bool = False) -> None:
    """Count a run that a task is about to hand over, once over all attempts of the task.

    A completed run is counted when Airflow has recorded the task's success, a failed one now.

    :param again: whether the task's next attempt, if it has one, finds the same failed run.
    """
    if not metrics.are_on():
        return
    if run.completed:
        now = time.time()
        do_after_success(task, lambda: metrics.count_completed(run, technique_id, now))
    elif run.failed:
        ti, remedy = context["ti"], remedy_of(run)
        if not (again and remedy.retryable and ti.try_number <= ti.max_tries):
            metrics.count_failed(technique_id, remedy)


def _xcoms(value: Mapping[str, Any], log: Log) -> dict[str, Any]:
    """Return the parts of a run's value that become separate XComs, for ``op.output[key]``.

    ``run_id`` is another one, pushed when the run has started. A text is stored twice at most: in the return value
    and in ``output_texts``. A large text is stored in the return value only. ``outputs`` is a separate XCom only if
    it contains no text.
    """
    texts = [output["url"] for output in value["outputs"] if output["type"] == "text"]
    parts = {key: value[key] for key in ("output_urls", "charged_cost", "files") if key in value}
    if not texts:
        parts["outputs"] = value["outputs"]
    if any(len((text or "").encode(errors="replace")) > LARGE_TEXT_BYTES for text in texts):
        log.warning(
            "An output text is larger than %d KB. It is only in the return value, not in the XCom output_texts",
            LARGE_TEXT_BYTES // 1024,
        )
    else:
        parts["output_texts"] = texts
    return parts


def _summary(value: Mapping[str, Any]) -> str:
    """Return the result of a run in one line for the log."""
    files = {file["output_id"]: file["uri"] for file in value.get("files", ())}
    outputs = [_shorten(output, files.get(output["output_id"])) for output in value["outputs"]]
    cost = value["charged_cost"]
    charged = "charge not known yet" if cost is None else f"charged {cost:g} USD"
    took = ""
    if value["status"] == "completed" and value["completed_at"] and value["created_at"]:
        took = f" after {(value['completed_at'] - value['created_at']) / 1000:.0f} s"
    return f"{value['run_id']} {value['status']}{took}, {charged}: {', '.join(outputs) or 'no outputs'}"


def _shorten(output: Mapping[str, Any], file: str | None) -> str:
    if file is not None:
        return f"{output['output_id']} = {file}"
    if output["type"] == "text":
        return f"{output['output_id']} = text of {len(output['url'] or '')} characters"
    return f"{output['output_id']} = {output['url']}"


def add_to_asset_events(extra: Mapping[str, Any], context: Mapping[str, Any]) -> None:
    """Add what a task has done to the event of each Airflow asset that it updates.

    An asset alias is left to the DAG's author: its asset is not known here.
    """
    outlets = getattr(context["task"], "outlets", None)
    if not outlets:
        return
    from airflow_provider_flora.airflow_compat import Asset

    for outlet in outlets:
        if isinstance(outlet, Asset):
            event = context["outlet_events"][outlet]
            event.extra = {**event.extra, **extra}


@contextmanager
def airflow_errors(context: Mapping[str, Any]) -> Iterator[None]:
    """Prevent retries that cannot succeed, and push the error as an XCom, for Airflow does not keep it.

    The Flora error is raised without its causes. An error whose remedy is "change the input" or "give up" becomes
    an ``AirflowFailException`` too, with the same attributes.

    :raises FloraError: the Flora error.
    """
    try:
        yield
    except FloraError as error:
        outcome_of(context["task"]).error = error
        if context["task"].do_xcom_push:
            with suppress(Exception):  # the error itself matters more
                context["ti"].xcom_push(key=ERROR_KEY, value=describe_error(error))
        raise (error if error.remedy.retryable else _make_final(error)) from None


def _make_final(error: FloraError) -> FloraError:
    """Return an error with the same class, attributes and text that Airflow does not retry."""
    if isinstance(error, AirflowFailException):
        return error
    kind: Any = type(error)
    final = _final_class(kind)
    copy: FloraError = final.__new__(final, *error.args)
    copy.__dict__.update(error.__dict__)
    return copy.with_traceback(error.__traceback__)


@cache
def _final_class(kind: Any) -> Any:
    names = {"__module__": kind.__module__, "__doc__": kind.__doc__}
    return type(kind.__name__, (kind, AirflowFailException), names)
