"""Makes HTML and JSON of views. Every value is escaped, and only URLs that a browser may fetch become links."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from functools import cache, partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

import airflow_provider_flora
from airflow_provider_flora.api.file_types import content_type_of, name_in_url
from airflow_provider_flora.api.lenient import storable
from airflow_provider_flora.metadata.reading import (
    Neighbours,
    RunView,
    Task,
    TaskView,
    is_safe,
    read_run,
)
from airflow_provider_flora.plugins.manifests import Page, Row

HERE = Path(__file__).parent
REMEDIES = {
    "retry now": "Clear the task: another try may succeed.",
    "retry later": "Clear the task later: another try may succeed.",
    "change the input": "Change the input, then clear the task. The same input would fail again.",
    "give up": "No other try helps. The message says what a person can do.",
}
"""What each remedy means to a person, in Airflow's words."""
_STATES = {
    "success": "good",
    "completed": "good",
    "failed": "bad",
    "upstream_failed": "bad",
    "unknown": "bad",
    "running": "busy",
    "deferred": "busy",
    "queued": "busy",
    "scheduled": "busy",
    "up_for_retry": "busy",
    "up_for_reschedule": "busy",
}


def page(template: str, **values: Any) -> str:
    """Return a page of a template in ``templates``. UTF-8 can encode it, whatever the values are."""
    return storable(_environment().get_template(template).render(**values))


def json_bytes(value: Any) -> bytes:
    """Return a value as JSON that every program can read: without NaN, infinity, and halves of characters."""
    dumps = partial(json.dumps, ensure_ascii=False, separators=(",", ":"))
    try:
        text = dumps(value, allow_nan=False)
    except ValueError:
        text = dumps(json.loads(dumps(value), parse_constant=lambda _: None))
    return storable(text).encode()


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        usd=usd,
        time=moment,
        size=size,
        duration=duration,
        as_json=_indented,
        tone=lambda state: _STATES.get(str(state), "plain"),
        words=lambda state: str(state).replace("_", " "),
    )
    environment.globals.update(
        is_safe=is_safe, is_picture=is_picture, remedies=REMEDIES, version=airflow_provider_flora.__version__
    )
    return environment


def _indented(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, indent=1, default=str)
    except RecursionError:  # from Python 3.12 on, JSON is read that is nested more deeply than this writes
        return "(nested too deeply to be shown)"


def usd(amount: float | None) -> str:
    """Return an amount of USD for people."""
    if amount is None:
        return "not known yet"
    return f"{amount:,.2f} USD" if amount >= 1 or not amount else f"{amount:.4f}".rstrip("0").ljust(4, "0") + " USD"


def moment(value: datetime | float | None) -> str:
    """Return a time for people, in UTC.

    :param value: a time, or unix milliseconds.
    """
    if value is None:
        return ""
    if not isinstance(value, datetime):
        value = datetime.fromtimestamp(value / 1000, timezone.utc)
    return value.astimezone(timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")


def size(count: int) -> str:
    """Return a number of bytes for people."""
    return f"{count / 1e6:,.1f} MB" if count >= 1e6 else f"{count / 1e3:,.1f} kB" if count >= 1000 else f"{count} B"


def duration(seconds: float | None) -> str:
    """Return a number of seconds for people."""
    if seconds is None:
        return ""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def is_picture(value: object, own_origin: str | None) -> bool:
    """Whether an input is the URL of a picture that a browser may fetch and show."""
    if not isinstance(value, str) or not is_safe(value, own_origin):
        return False
    return (content_type_of(name_in_url(value)) or "").startswith("image/")


def bars(amounts: Mapping[Any, float]) -> list[dict[str, Any]]:
    """Return the bars of a plot: their place from 0, label, amount, and length from 0 to 100."""
    most = max(amounts.values(), default=0.0) or 1.0
    return [
        {"place": place, "label": str(label), "amount": amount, "length": round(100 * amount / most, 2)}
        for place, (label, amount) in enumerate(amounts.items())
    ]


def task_as_json(view: TaskView, neighbours: Neighbours | None, batch: Page | None) -> dict[str, Any]:
    """Return a task instance as plain JSON. A batch has the outputs and files of the rows of its page."""
    found = {
        "task": asdict(view.task),
        "state": view.state,
        "try_number": view.try_number,
        **_run_as_json(view.run),
        "technique_id": view.technique,
        "technique_url": view.technique_url,
        "run_cost": view.run_cost,
        "progress": view.progress,
        "choice": view.choice,
        "neighbours": asdict(neighbours) if neighbours else None,
    }
    if batch is not None:
        found.update(_batch_as_json(view, batch))
    return found


def _batch_as_json(view: TaskView, batch: Page) -> dict[str, Any]:
    rows = [_row_as_json(row) for row in batch.rows]
    return {
        "charged_cost": view.counts.get("charged_cost"),
        "counts": dict(batch.counts or {}),
        "manifest": {
            "uri": view.manifest,
            "page": batch.number,
            "pages": batch.pages,
            "matching": batch.matching,
            "problem": batch.problem,
        },
        "rows": rows,
        **{
            key: [{"row_id": row["row_id"], **entry} for row in rows for entry in row[key]]
            for key in ("outputs", "files")
        },
    }


def _row_as_json(row: Row) -> dict[str, Any]:
    return {"row_id": row.row_id, "reused": row.reused, **_run_as_json(read_run(row.value))}


def _run_as_json(run: RunView) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "technique_id": run.technique_id,
        "status": run.status,
        "outputs": [
            {"output_id": output.output_id, "type": output.type, "url": output.url} for output in run.outputs
        ],
        "files": [asdict(file) for file in run.files],
        "charged_cost": run.charged_cost,
        "created_at": run.created_at,
        "started_at": run.started_at,
        "completed_at": run.completed_at,
        "error": dict(run.error) if run.error else None,
        "inputs": [{"id": name, "value": value} for name, value in run.inputs],
    }


def run_as_json(dag_id: str, run_id: str, views: Sequence[TaskView], totals: Mapping[str, Any]) -> dict[str, Any]:
    """Return a page of a DAG run's Flora tasks as plain JSON."""
    return {
        "dag_id": dag_id,
        "run_id": run_id,
        **totals,
        "tasks": [task_as_json(view, None, None) for view in views],
    }


def file_query(task: Task, index: int, row_id: str | None = None) -> str:
    """Return the relative URL of an output's file."""
    return f"file?{task.query(row_id=row_id, index=index)}"
