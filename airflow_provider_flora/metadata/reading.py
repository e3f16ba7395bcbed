"""Reads what Airflow's database has of a task's runs, as plain views. Opens no file and renders nothing.

The sources are the task instance, its XComs, its rendered fields, and on Airflow 3.3 its task state store. What a
task has stored may come from another release, or from a person, so everything is read leniently.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlencode

from sqlalchemy import func, select, tuple_
from sqlalchemy.orm import aliased

from airflow_provider_flora.airflow_compat import RenderedTaskInstanceFields as Rendered
from airflow_provider_flora.airflow_compat import TaskInstance, XComModel
from airflow_provider_flora.files.downloads.record import OutputFile
from airflow_provider_flora.links.flora import TECHNIQUE_URL_KEY
from airflow_provider_flora.runs.outcome import BATCH_KEY, ERROR_KEY, RUN_COST_KEY
from airflow_provider_flora.task.state import PROGRESS

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

UNFINISHED = frozenset(
    {
        "scheduled",
        "queued",
        "running",
        "restarting",
        "deferred",
        "up_for_reschedule",
        "up_for_retry",
        "awaiting_input",
    }
)
"""States of a task instance that is on its way. An instance without a state has not begun."""
_KEYS = (
    "return_value",
    "run_id",
    "outputs",
    "output_texts",
    "charged_cost",
    "files",
    "manifest",
    TECHNIQUE_URL_KEY,
    RUN_COST_KEY,
    BATCH_KEY,
    ERROR_KEY,
)
_KINDS = {"text": "text", "imageUrl": "image", "videoUrl": "video", "audioUrl": "audio"}
_ORIGIN = re.compile(r"(https?://(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\])(?::[0-9]{1,5})?)(?=/|$)")
_HTTPS = re.compile(r"https://[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]{1,5})?(?:[/?#][!-~]*)?")


@dataclass(frozen=True)
class Task:
    """The name of a task instance. ``map_index`` is -1 for a task that is not mapped."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int = -1

    def query(self, **more: object) -> str:
        """Return the query of a page about the task instance."""
        return urlencode({**asdict(self), **{name: value for name, value in more.items() if value is not None}})


@dataclass(frozen=True)
class Output:
    """An output of a run.

    :param url: URL, or the text of an output of type ``text``.
    :param file: its file in the storage, if it was downloaded.
    """

    output_id: str
    type: str
    url: str
    file: OutputFile | None = None

    @property
    def kind(self) -> str:
        """``text``, ``image``, ``video``, ``audio`` or ``document``."""
        return _KINDS.get(self.type, "document")


@dataclass(frozen=True)
class RunView:
    """What became of a run: of a task, or of a row of a batch.

    :param run_id: Flora's id of the run.
    :param charged_cost: USD; ``None`` if Flora has not reported it, or the run has not ended.
    :param error: ``{"code", "message", "remedy"}`` of a run that did not complete.
    :param created_at: unix milliseconds, and so are the other times.
    :param inputs: pairs of an input's id and its value, which is plain JSON.
    """

    run_id: str | None = None
    technique_id: str | None = None
    status: str | None = None
    outputs: tuple[Output, ...] = ()
    charged_cost: float | None = None
    created_at: int | None = None
    started_at: int | None = None
    completed_at: int | None = None
    error: Mapping[str, str] | None = None
    inputs: tuple[tuple[str, Any], ...] = ()

    @property
    def files(self) -> list[OutputFile]:
        """The files of the outputs."""
        return [output.file for output in self.outputs if output.file]


@dataclass(frozen=True)
class TaskView:
    """A task instance and what became of its run or batch.

    :param state: Airflow's state, or ``None``.
    :param technique_url: the technique's page in Flora.
    :param run_cost: USD, the price of a run when it was started.
    :param progress: how far a batch or an active run is, in words.
    :param manifest: URI of a batch's manifest.
    :param counts: the numbers in the value of a batch that has ended.
    :param choice: what a person has answered: ``by``, ``note``, and the number ``rejected``.
    :param conn_id: the task's Flora connection, if Airflow has the task's rendered fields.
    """

    task: Task
    state: str | None
    operator: str
    try_number: int
    began: datetime | None
    ended: datetime | None
    run: RunView = field(default_factory=RunView)
    technique_url: str | None = None
    run_cost: float | None = None
    progress: str | None = None
    manifest: str | None = None
    counts: Mapping[str, float] = field(default_factory=dict)
    choice: Mapping[str, Any] | None = None
    conn_id: str | None = None
    is_flora: bool = False

    @property
    def asks_person(self) -> bool:
        """Whether the task waits for a person's choice."""
        return self.is_unfinished and self.operator == "FloraChooseOutputOperator"

    @property
    def is_unfinished(self) -> bool:
        """Whether the task instance is on its way."""
        return self.state in UNFINISHED

    @property
    def own_origin(self) -> str | None:
        """The origin of the task's connection."""
        found = _ORIGIN.match(self.technique_url or "")
        return found[1] if found else None

    @property
    def technique(self) -> str | None:
        """The technique, as its page or the task names it."""
        return self.run.technique_id or technique_in(self.technique_url)


@dataclass(frozen=True)
class Neighbours:
    """The instances of a mapped task beside one of them.

    :param position: from 1.
    """

    previous: int | None
    next: int | None
    position: int
    count: int


def technique_in(url: str | None) -> str | None:
    """Return the technique whose page a URL is."""
    return unquote((url or "").rpartition("/")[2]) or None


def is_safe(url: str, own_origin: str | None) -> bool:
    """Whether a browser may fetch a URL that was generated: by https, or from the connection's own origin.

    Every other URL is shown as a text. So is one with characters that URLs do not have, since browsers differ in
    how they read those.
    """
    if _HTTPS.fullmatch(url):
        return True
    found = _ORIGIN.match(url)
    return bool(found and found[1] == own_origin and re.fullmatch(r"[!-~]*", url) and "\\" not in url)


def is_floras() -> Any:
    """Return the SQL condition that a task instance is a Flora task: by its operator's name or its technique."""
    xcom = aliased(XComModel)
    has_technique = select(xcom.key).where(*of_instance(xcom), xcom.key == TECHNIQUE_URL_KEY)
    return TaskInstance.operator.like("Flora%") | has_technique.exists()


def is_flora(operator: str | None, xcoms: Mapping[str, Any]) -> bool:
    """Whether a task instance that was read is a Flora task, as :func:`is_floras` says in SQL."""
    return (operator or "").startswith("Flora") or TECHNIQUE_URL_KEY in xcoms


def of_instance(model: Any) -> tuple[Any, ...]:
    """Return the SQL conditions that join a table of task instances' values with them."""
    return tuple(
        getattr(model, name) == getattr(TaskInstance, name) for name in ("dag_id", "run_id", "task_id", "map_index")
    )


def instance_query() -> Any:
    """Return the query of the columns that :func:`read_views` takes."""
    names = (
        "dag_id",
        "run_id",
        "task_id",
        "map_index",
        "state",
        "operator",
        "try_number",
        "start_date",
        "end_date",
    )
    return select(*(getattr(TaskInstance, name) for name in names))


def read_task(session: Session, task: Task) -> TaskView | None:
    """Return a task instance with its inputs, or ``None`` if Airflow does not have it."""
    found = session.execute(
        instance_query().where(*(getattr(TaskInstance, name) == value for name, value in asdict(task).items()))
    ).first()
    if found is None:
        # Airflow 3.1 does not encode the names in a tab's address, so that a plus in a run's id becomes a blank.
        other = replace(task, run_id=task.run_id.replace(" ", "+"))
        return read_task(session, other) if other != task else None
    (view,) = read_views(session, [found])
    rendered = session.scalar(
        select(Rendered.rendered_fields).where(
            *(getattr(Rendered, name) == value for name, value in asdict(task).items())
        )
    )
    parameters = rendered if isinstance(rendered, Mapping) else {}
    run = replace(view.run, inputs=_read_inputs(parameters.get("inputs")))
    return replace(view, run=run, conn_id=as_text(parameters.get("flora_conn_id")))


def read_neighbours(session: Session, task: Task) -> Neighbours | None:
    """Return the neighbours of an instance of a mapped task, or ``None`` if the task is not mapped."""
    if task.map_index < 0:
        return None
    index = TaskInstance.map_index
    mine = (
        TaskInstance.dag_id == task.dag_id,
        TaskInstance.run_id == task.run_id,
        TaskInstance.task_id == task.task_id,
        index >= 0,
    )
    before = session.execute(select(func.max(index), func.count()).where(*mine, index < task.map_index)).one()
    after = session.execute(select(func.min(index), func.count()).where(*mine, index > task.map_index)).one()
    return Neighbours(before[0], after[0], before[1] + 1, before[1] + 1 + after[1])


def read_views(session: Session, instances: Sequence[Any]) -> list[TaskView]:
    """Return views of task instances of one DAG run, without their inputs.

    :param instances: rows of :func:`instance_query`.
    """
    if not instances:
        return []
    xcoms = read_values(session, XComModel, instances[0], _KEYS, _are_among(XComModel, instances))
    states = _read_states(session, instances)
    return [
        _view(row, xcoms.get((row.task_id, row.map_index), {}), states.get((row.task_id, row.map_index), {}))
        for row in instances
    ]


def _are_among(model: Any, instances: Sequence[Any]) -> Any:
    return tuple_(model.task_id, model.map_index).in_([(row.task_id, row.map_index) for row in instances])


def read_values(
    session: Session, model: Any, dag_run: Any, keys: Sequence[str], *conditions: Any
) -> dict[tuple[str, int], dict[str, Any]]:
    """Return the values of a DAG run's tasks by task id and map index, and then by key.

    :param model: the table: that of XComs or of the task state store.
    :param dag_run: has a ``dag_id`` and a ``run_id``.
    :param conditions: SQL conditions that leave out tasks.
    """
    found = session.execute(
        select(model.task_id, model.map_index, model.key, model.value).where(
            model.dag_id == dag_run.dag_id, model.run_id == dag_run.run_id, model.key.in_(keys), *conditions
        )
    )
    values: dict[tuple[str, int], dict[str, Any]] = {}
    for task_id, map_index, key, value in found:
        values.setdefault((task_id, map_index), {})[key] = plain(value)
    return values


def _read_states(session: Session, instances: Sequence[Any]) -> dict[tuple[str, int], dict[str, Any]]:
    try:
        from airflow_provider_flora.airflow_compat import TaskStateStoreModel
    except ImportError:  # before Airflow 3.3
        return {}
    among = _are_among(TaskStateStoreModel, instances)
    return read_values(session, TaskStateStoreModel, instances[0], (PROGRESS,), among)


def plain(value: Any) -> Any:
    """Return a stored value as plain JSON. Some Airflows store XComs as text, Airflow 2 as bytes."""
    if isinstance(value, bytes):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):  # pickled
            return None
    if isinstance(value, str) and value[:1] in ("{", "[", '"'):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _view(row: Any, xcoms: Mapping[str, Any], states: Mapping[str, Any]) -> TaskView:
    returned = xcoms.get("return_value")
    counts = xcoms.get(BATCH_KEY)
    value = next((found for found in (returned, counts) if isinstance(found, Mapping)), {})
    manifest = as_text(xcoms.get("manifest")) or as_text(value.get("manifest"))
    technique_url = as_text(xcoms.get(TECHNIQUE_URL_KEY))
    run = read_run(
        {
            **{key: xcoms.get(key) for key in ("run_id", "outputs", "charged_cost", "files")},
            **({"outputs": returned} if isinstance(returned, list) else {}),
            **({"outputs": value["chosen"]} if "chosen" in value else {}),
            **{key: entry for key, entry in value.items() if entry is not None},
            "error": xcoms.get(ERROR_KEY),
        }
    )
    if run.error and not run.status:
        run = replace(run, status="failed")
    return TaskView(
        task=Task(row.dag_id, row.run_id, row.task_id, row.map_index),
        state=row.state,
        operator=row.operator or "",
        try_number=row.try_number,
        began=row.start_date,
        ended=row.end_date,
        run=run,
        technique_url=technique_url,
        run_cost=as_number(xcoms.get(RUN_COST_KEY)),
        progress=as_text(states.get(PROGRESS)),
        manifest=manifest,
        counts=_read_counts(value) if manifest else {},
        choice=_read_choice(value) if "chosen" in value else None,
        is_flora=is_flora(row.operator, xcoms),
    )


def _read_counts(value: Mapping[str, Any]) -> Mapping[str, float]:
    found = {name: as_number(entry) for name, entry in value.items()}
    return {name: number for name, number in found.items() if number is not None}


def _read_choice(value: Mapping[str, Any]) -> Mapping[str, Any]:
    by, rejected = value.get("by"), value.get("rejected")
    return {
        "by": as_text(by.get("name")) if isinstance(by, Mapping) else None,
        "note": as_text(value.get("note")),
        "rejected": len(rejected) if isinstance(rejected, list) else 0,
    }


def read_run(value: Mapping[str, Any]) -> RunView:
    """Return the view of a run's value or of a manifest's line, which have the same fields."""
    return RunView(
        run_id=as_text(value.get("run_id")),
        technique_id=as_text(value.get("technique_id")),
        status=as_text(value.get("status")),
        outputs=_read_outputs(value.get("outputs"), value.get("files")),
        charged_cost=as_number(value.get("charged_cost")),
        error=_read_error(value.get("error")),
        inputs=_read_inputs(value.get("inputs")),
        **{name: _read_time(value.get(name)) for name in ("created_at", "started_at", "completed_at")},
    )


def _read_outputs(outputs: Any, files: Any) -> tuple[Output, ...]:
    entries = [entry for entry in outputs if isinstance(entry, Mapping)] if isinstance(outputs, list) else []
    found = [_read_file(entry) for entry in files] if isinstance(files, list) else []
    if len(found) == len(entries):  # in the order of the outputs; several may have one id
        of_outputs = found
    else:
        by_id = {file.output_id: file for file in reversed(found) if file}
        of_outputs = [by_id.get(str(entry.get("output_id"))) for entry in entries]
    return tuple(
        Output(as_text(entry.get("output_id")) or "", as_text(entry.get("type")) or "", _read_url(entry), file)
        for entry, file in zip(entries, of_outputs, strict=True)
    )


def _read_url(entry: Mapping[str, Any]) -> str:
    url = entry.get("url")
    return url if isinstance(url, str) else ""


def _read_file(entry: Any) -> OutputFile | None:
    if not isinstance(entry, Mapping):
        return None
    values = {one.name: entry.get(one.name) for one in fields(OutputFile)}
    size = values.pop("bytes")
    if (
        type(size) is not int
        or not 0 <= size < 2**63
        or not all(isinstance(value, str) for value in values.values())
    ):
        return None
    return OutputFile(bytes=size, **values)  # type: ignore[arg-type]


def _read_error(error: Any) -> Mapping[str, str] | None:
    if not isinstance(error, Mapping):
        return None
    code = as_text(error.get("code")) or as_text(error.get("kind")) or ""
    return {
        "code": code,
        "message": as_text(error.get("message")) or "an error without a message",
        "remedy": as_text(error.get("remedy")) or "",
    }


def _read_inputs(inputs: Any) -> tuple[tuple[str, Any], ...]:
    """Return the inputs of any form that the operator takes. Airflow cuts very long ones, and makes them a text."""
    inputs = plain(inputs)
    if isinstance(inputs, Mapping):
        return tuple((str(name), value) for name, value in inputs.items())
    if isinstance(inputs, list):
        return tuple(
            (str(entry.get("id")), entry.get("value")) if isinstance(entry, Mapping) else ("", entry)
            for entry in inputs
        )
    return () if inputs is None else (("", inputs),)


def _read_time(value: Any) -> int | None:
    from airflow_provider_flora.api.lenient import LAST_MILLISECOND

    number = as_number(value)
    return int(number) if number is not None and 0 <= number <= LAST_MILLISECOND else None


def as_text(value: Any) -> str | None:
    """Return a value if it is a text with something in it, and otherwise ``None``."""
    return value if isinstance(value, str) and value else None


def as_number(value: Any) -> float | None:
    """Return a value if it is a number, and otherwise ``None``."""
    return value if type(value) in (int, float) and abs(value) < 1e300 else None
