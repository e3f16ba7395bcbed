"""Charges that Flora reported only after a task had handed its run over, put into the task's XComs.

Flora reports a charge some time after a run has completed. A task waits a while for it, and then returns ``None``.
Only Airflow's own form of XComs is changed: a custom backend is left alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, select, update
from sqlalchemy.orm import aliased

from airflow_provider_flora.airflow_compat import TaskInstance, XComModel, conf
from airflow_provider_flora.api.errors import FloraParameterError
from airflow_provider_flora.links.flora import TECHNIQUE_URL_KEY
from airflow_provider_flora.metadata.reading import UNFINISHED, Task, as_text, of_instance, plain, technique_in
from airflow_provider_flora.metadata.records import read_instance

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

_COST, _VALUE = "charged_cost", "return_value"
_KEYS = ("run_id", _COST, _VALUE, TECHNIQUE_URL_KEY)


@dataclass(frozen=True)
class Missing:
    """A run that a task has handed over without its charge.

    :param technique_id: its technique, if an XCom names it.
    """

    task: Task
    run_id: str
    technique_id: str | None


def custom_backend() -> str | None:
    """Return the name of Airflow's XCom backend, or ``None`` if it is Airflow's own."""
    name = conf.get("core", "xcom_backend", fallback="")
    if not name or name.rpartition(".")[2] == "BaseXCom":
        return None
    return str(name)


def read_missing(session: Session, since: datetime) -> list[Missing]:
    """Return the runs of tasks that have ended since a moment, of which no charge is known."""
    own = aliased(XComModel)
    query = (
        select(
            *(getattr(XComModel, name) for name in ("dag_id", "run_id", "task_id", "map_index")),
            XComModel.key,
            XComModel.value,
        )
        .join(TaskInstance, and_(*of_instance(XComModel)))
        .where(
            XComModel.key.in_(_KEYS),
            TaskInstance.end_date >= since,
            TaskInstance.state.notin_(UNFINISHED),
            select(own.key)
            .where(*of_instance(own), own.key == "run_id")
            .exists(),  # the values of others stay there
        )
    )
    tasks: dict[Task, dict[str, Any]] = {}
    rows: Any = session.execute(query)
    for *names, key, stored in rows:
        xcoms = tasks.setdefault(Task(*names), {})
        value = _read(stored)
        # Of a value with many outputs, only what matters here is kept.
        if key == _VALUE:
            value = {name: value.get(name) for name in _OF_VALUE} if isinstance(value, Mapping) else None
        xcoms[key] = value
    return [
        Missing(task, str(xcoms["run_id"]), _technique_of(xcoms))
        for task, xcoms in tasks.items()
        if as_text(xcoms.get("run_id")) and _without_charge(xcoms, xcoms["run_id"])
    ]


_OF_VALUE = ("run_id", "status", "technique_id", _COST)


def _read(stored: Any) -> Any:
    """Return a stored XCom as plain JSON. ``None`` may be stored as a text too."""
    value = plain(stored)
    return None if value == "null" else value


def _technique_of(xcoms: Mapping[str, Any]) -> str | None:
    value = xcoms.get(_VALUE)
    named = as_text(value.get("technique_id")) if isinstance(value, Mapping) else None
    return named or technique_in(as_text(xcoms.get(TECHNIQUE_URL_KEY)))


def _without_charge(xcoms: Mapping[str, Any], run_id: str) -> list[str]:
    """Return the keys of a run's XComs that lack its charge. A task that did not wait for its run has none."""
    value = xcoms.get(_VALUE)
    if isinstance(value, Mapping):
        if value.get("run_id") != run_id or value.get("status") != "completed":
            return []
        keys = [_VALUE] if _COST in value and value[_COST] is None else []
    else:
        keys = []
    return keys + ([_COST] if _COST in xcoms and xcoms[_COST] is None else [])


def fill_in(session: Session, missing: Missing, charged_cost: float) -> bool:
    """Put a charge into the XComs of a task, in the form in which they are. The caller commits.

    :param charged_cost: USD.
    :return: whether something was changed: not if the task was cleared or deleted meanwhile, or has the charge.
    """
    try:
        if read_instance(session, missing.task, lock=True).state in UNFINISHED:
            return False
    except FloraParameterError:
        return False
    of_task = [getattr(XComModel, name) == value for name, value in asdict(missing.task).items()]
    rows: Any = session.execute(select(XComModel.key, XComModel.value).where(*of_task, XComModel.key.in_(_KEYS)))
    stored: dict[str, Any] = dict(map(tuple, rows))
    xcoms = {key: _read(value) for key, value in stored.items()}
    if xcoms.get("run_id") != missing.run_id:
        return False
    keys = _without_charge(xcoms, missing.run_id)
    for key in keys:
        new = charged_cost if key == _COST else {**xcoms[_VALUE], _COST: charged_cost}
        session.execute(
            update(XComModel).where(*of_task, XComModel.key == key).values(value=_in_form_of(stored[key], new)),
            execution_options={"synchronize_session": False},
        )
    return bool(keys)


def _in_form_of(stored: Any, new: Any) -> Any:
    if isinstance(stored, bytes):
        return json.dumps(new).encode()
    return json.dumps(new) if isinstance(stored, str) else new
