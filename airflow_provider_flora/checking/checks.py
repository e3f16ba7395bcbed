"""Checks a Flora task, with its technique if it has one, by the rules that its operator follows before it pays."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from airflow_provider_flora.api.errors import FloraError, FloraInputError
from airflow_provider_flora.api.inputs import check_inputs, names_a_file, run_inputs
from airflow_provider_flora.batch.entries import Execution, find_equal_names, find_problems, make_entries
from airflow_provider_flora.batch.manifest import Manifest
from airflow_provider_flora.batch.money import Budget
from airflow_provider_flora.batch.rows import check_source, read_rows
from airflow_provider_flora.checking.catalogue import Catalogue, ConnectionProblem, Found
from airflow_provider_flora.checking.files_here import FilesHere, is_local
from airflow_provider_flora.checking.known import Known, Unknown
from airflow_provider_flora.checking.report import Cost
from airflow_provider_flora.checking.tasks import FloraTask, Item
from airflow_provider_flora.files.downloads.downloads import Downloads
from airflow_provider_flora.files.storage import as_uri
from airflow_provider_flora.files.uploads.run_inputs import with_texts
from airflow_provider_flora.files.uploads.source import SourceFile
from airflow_provider_flora.files.uploads.uploader import Place, check_url, location_of
from airflow_provider_flora.operators.batch import FloraRunTechniqueBatchOperator
from airflow_provider_flora.operators.choose import FloraChooseOutputOperator, manifest_of
from airflow_provider_flora.operators.downloads import FloraDownloadOutputsOperator
from airflow_provider_flora.operators.uploads import FloraUploadAssetOperator
from airflow_provider_flora.runs.choosing import find_outputs
from airflow_provider_flora.runs.starting import ABANDON
from airflow_provider_flora.runs.techniques import check_price
from airflow_provider_flora.sensors.flora import FloraTechniqueRunSensor
from airflow_provider_flora.task.parameters import none_if_empty, parse_limit, parse_number

log = logging.getLogger(__name__)
_ANY_COLUMN = "https://run-time.invalid/column"
_ANY_FOLDER = "/"
_ANY_WORKSPACE = "ws_"
_NAMED_ITEMS = 10
_NUMBERS = {"timeout": 1e-3, "poll_interval": 1e-3, "max_active_runs": 1.0}
"""Parameters that are numbers, and the smallest of each."""


@dataclass
class Checked:
    """What a check of a task has found.

    :param mistakes: what is wrong.
    :param left: what is known at run time only.
    :param costs: what its runs cost.
    :param unusable: why nothing can be looked up with its connection, if that is so.
    """

    mistakes: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    costs: list[Cost] = field(default_factory=list)
    unusable: FloraError | None = None


def check_task(task: FloraTask, catalogue: Catalogue) -> Checked:
    """Check each item of a task."""
    checked = Checked()
    numbers: dict[str, list[int]] = {}
    for number, one in enumerate(task.items, 1):
        if one.operator is None:
            if one.mistake:
                numbers.setdefault(one.mistake, []).append(number)
            else:
                checked.left.append("its parameters are given at run time")
            checked.costs.append(_cost(task, 1, None, None))
            continue
        item = _Item(task, one, catalogue)
        item.check()
        for message in dict.fromkeys(item.mistakes):
            numbers.setdefault(message, []).append(number)
        checked.left += item.left
        checked.costs += item.costs
        checked.unusable = checked.unusable or item.unusable
    checked.left = list(dict.fromkeys(checked.left))  # the items have much in common
    checked.mistakes += (f"{_name(items, task)}{message}" for message, items in numbers.items())
    return checked


def _name(numbers: list[int], task: FloraTask) -> str:
    """Return the numbers of items, unless it is all items of the task."""
    if len(numbers) == len(task.items):
        return ""
    named = ", ".join(map(str, numbers[:_NAMED_ITEMS])) + ", …" * (len(numbers) > _NAMED_ITEMS)
    return f"item{'s' * (len(numbers) > 1)} {named}: "


def _cost(
    task: FloraTask, runs: int, run_cost: float | None, technique: str | None, for_each: str | None = None
) -> Cost:
    return Cost(
        task_id=task.place.task_id or "",
        runs=runs,
        run_cost=run_cost,
        for_each=[*task.for_each, *([for_each] if for_each else [])],
        technique=technique,
    )


class _Item:
    """One operator, and what was found in it."""

    def __init__(self, task: FloraTask, item: Item, catalogue: Catalogue) -> None:
        self.mistakes: list[str] = []
        self.left: list[str] = []
        self.costs: list[Cost] = []
        self.unusable: FloraError | None = None
        self._task = task
        self._operator = item.operator
        self._catalogue = catalogue
        self._known = Known(item.operator, item.group)
        self._files = FilesHere(may_be_written=bool(item.operator.upstream_task_ids))

    def check(self) -> None:
        """Check everything."""
        self._check_numbers()
        if isinstance(self._operator, FloraUploadAssetOperator):
            self._check_upload()
        elif isinstance(self._operator, FloraChooseOutputOperator):
            self._check_choice()
        else:
            self._check_with_technique()
        self.mistakes += self._known.mistakes
        self.left += [*self._known.left, *(f"{why}; it is read at run time" for why in self._files.left.values())]

    def _check_with_technique(self) -> None:
        technique_id, conn_id = self._known.get("technique_id"), self._conn_id()
        found = None
        if not isinstance(technique_id, Unknown):
            with self._mistakes():
                found = self._catalogue.find(technique_id, conn_id)
        if isinstance(self._operator, FloraTechniqueRunSensor):
            pass  # it pays nothing
        elif isinstance(self._operator, FloraDownloadOutputsOperator):
            with self._mistakes():
                self._make_downloads(self._known.get("download_to"), self._known.get("file_name"))
        elif isinstance(self._operator, FloraRunTechniqueBatchOperator):
            self._check_batch(technique_id, found)
        else:
            self._check_run(technique_id, found)
        self._check_dag_run_limit(technique_id, found)

    def _conn_id(self) -> str | None:
        conn_id = self._known.get("flora_conn_id")
        return None if isinstance(conn_id, Unknown) else conn_id

    def _connect(self) -> Callable[[str], bool] | None:
        with self._mistakes():
            return self._catalogue.connect(self._conn_id())
        return None

    @contextmanager
    def _mistakes(self) -> Iterator[None]:
        """Turn an error into mistakes; if it may be over at run time, into what is left."""
        try:
            yield
        except ConnectionProblem as problem:
            self.unusable = problem.error
        except FloraInputError as error:
            self.mistakes += error.problems
        except FloraError as error:
            (self.left if error.remedy.retryable else self.mistakes).append(str(error))

    def _check_numbers(self) -> None:
        for name, least in _NUMBERS.items():
            value = self._known.get(name) if hasattr(self._operator, name) else least
            if not isinstance(value, Unknown):
                with self._mistakes():
                    parse_number(name, value, at_least=least)

    def _limit(self, name: str) -> float | None:
        """Return a limit in USD, or ``None`` if there is none, or none is known yet."""
        value = self._known.get(name)
        if isinstance(value, Unknown):
            return None
        with self._mistakes():
            return parse_limit(name, value, was_given=False)
        return None

    def _check_dag_run_limit(self, technique_id: Any, found: Found | None) -> None:
        limit = self._limit("max_dag_run_cost") if getattr(self._operator, "starts_runs", False) else None
        if limit is not None and found is not None:
            with self._mistakes():
                check_price(found.technique, technique_id, limit, "max_dag_run_cost")

    def _add_cost(self, technique_id: Any, found: Found | None, runs: int, for_each: str | None = None) -> None:
        name = None if isinstance(technique_id, Unknown) else str(technique_id)
        price = found.technique.run_cost if found else None
        self.costs.append(_cost(self._task, runs, price, name, for_each))

    # --- a run ------------------------------------------------------------------------------------------------

    def _check_run(self, technique_id: Any, found: Found | None) -> None:
        inputs, limit = self._known.get("inputs"), self._limit("max_run_cost")
        adopted = none_if_empty(self._known.get("adopt_run_id"))
        if adopted in (None, ABANDON) or isinstance(adopted, Unknown):
            self._add_cost(technique_id, found, 1)
        if found is None:
            return
        if not isinstance(inputs, Unknown):
            with self._mistakes():
                self._check_inputs(with_texts(inputs), found)
        if limit is not None:
            with self._mistakes():
                check_price(found.technique, technique_id, limit)
        with self._mistakes():
            self._check_names(found)

    def _check_inputs(self, inputs: Any, found: Found) -> None:
        if self._operator.validate_inputs:
            check_inputs(
                inputs, found.technique, on_own_origin=found.on_own_origin, file_problem=self._files.problem
            )
        else:
            run_inputs(inputs, found.technique.technique_id, found.technique)

    def _check_names(self, found: Found) -> None:
        """Check the names of output files. A folder in a storage is not looked at: that takes its connection."""
        folder, file_name = none_if_empty(self._known.get("download_to")), self._known.get("file_name")
        if folder is not None and (downloads := self._make_downloads(folder, file_name)) is not None:
            downloads.check_names(found.technique)

    def _make_downloads(self, folder: Any, file_name: Any) -> Downloads | None:
        if isinstance(file_name, Unknown):
            return None
        uri = as_uri(folder)
        is_elsewhere = isinstance(folder, Unknown) or (isinstance(uri, str) and not is_local(uri))
        return Downloads(_ANY_FOLDER if is_elsewhere else folder, file_name, log)

    # --- an upload, and a choice ------------------------------------------------------------------------------

    def _check_upload(self) -> None:
        on_own_origin = self._connect()
        file, content_type = self._known.get("file"), none_if_empty(self._known.get("content_type"))
        workspace_id, project_id = (
            None if isinstance(value, Unknown) else none_if_empty(value)
            for value in map(self._known.get, ("workspace_id", "project_id"))
        )
        with self._mistakes():
            Place(workspace_id or _ANY_WORKSPACE, project_id=project_id)
        if isinstance(file, Unknown) or isinstance(content_type, Unknown):
            return
        with self._mistakes():
            location = location_of(file)
            if names_a_file(location, None):
                is_stored = none_if_empty(self._known.get("conn_id")) is not None
                if not self._files.is_left(location, is_stored=is_stored):
                    SourceFile(location).check(content_type)
            elif on_own_origin is not None:
                check_url(location, content_type, on_own_origin)

    def _check_choice(self) -> None:
        outputs, labels = self._known.get("outputs"), self._known.get("labels")
        is_whole = not self._known.left and not self._known.mistakes
        manifest = manifest_of(outputs)
        self._connect()
        with self._mistakes():
            if manifest is not None:
                self._files.check_is_there(manifest)
            elif is_whole:
                find_outputs(outputs, labels, self._operator.REJECT)

    # --- a batch ----------------------------------------------------------------------------------------------

    def _check_batch(self, technique_id: Any, found: Found | None) -> None:
        rows, inputs = self._known.get("rows"), self._known.get("inputs")
        limits = self._limit("max_run_cost"), self._limit("max_total_cost")
        source = self._source_of_rows(rows)
        if source is None:
            with self._mistakes():
                self._check_table(rows, inputs, technique_id, found, *limits)
            if not self.costs:
                self._add_cost(technique_id, found, 1, "row of its table")  # which cannot be read
            return
        self._add_cost(technique_id, found, 1, f"row of {source}")
        if found is None:
            return
        with self._mistakes():
            Budget(technique_id, limits[0], None).check(found.technique, 1)
        if isinstance(inputs, Mapping):
            with self._mistakes():
                self._check_inputs(_with_any_columns(inputs), found)

    def _check_table(
        self,
        rows: Any,
        inputs: Any,
        technique_id: Any,
        found: Found | None,
        run_cost: float | None,
        total_cost: float | None,
    ) -> None:
        row_id = self._known.get("row_id")
        is_whole = not isinstance(inputs, Unknown) and not isinstance(row_id, Unknown)
        read, problems = read_rows(
            rows, row_id=none_if_empty(row_id) if is_whole else None, inputs=inputs if is_whole else {}
        )
        self.mistakes += map(str, problems)
        wrong = len({problem.position for problem in problems})
        if found is None or not is_whole:
            self._add_cost(technique_id, found, len(read) + wrong)
            return
        to_run = self._check_rows(read, technique_id, found) + wrong
        self._add_cost(technique_id, found, to_run)
        self._check_budget(technique_id, found, to_run, run_cost, total_cost)

    def _source_of_rows(self, rows: Any) -> str | None:
        """Return where rows come from that cannot be read now, or ``None`` if they can be read."""
        if isinstance(rows, Unknown):
            return rows.source
        location = as_uri(rows)
        if not isinstance(location, str) or self._files.is_here(location):
            return None
        with self._mistakes():
            check_source(rows)
            self._files.check_is_there(location)
        return PurePath(location).name if is_local(location) else location

    def _check_rows(self, rows: list[Any], technique_id: str, found: Found) -> int:
        """Check rows, and return how many are to run."""
        folder, file_name = none_if_empty(self._known.get("download_to")), self._known.get("file_name")
        entries = make_entries(
            rows,
            technique_id,
            self._read_manifest(),
            Execution("", 0),
            self._files,
            reuse=self._operator.reuse,
            file_name=None if folder is None or isinstance(file_name, Unknown) else file_name,
        )
        to_run = [entry for entry in entries if entry.line is None]
        problems = find_problems(
            to_run,
            found.technique,
            self._files,
            validate_inputs=self._operator.validate_inputs,
            on_own_origin=found.on_own_origin,
        )
        self.mistakes += map(str, [*problems, *find_equal_names(entries, found.technique)])
        return len(to_run)

    def _read_manifest(self) -> Mapping[str, Mapping[str, Any]]:
        manifest = self._known.get("manifest")
        if isinstance(manifest, Unknown) or not is_local(manifest):
            return {}
        with self._mistakes():
            return Manifest(manifest).load()
        return {}

    def _check_budget(
        self, technique_id: str, found: Found, rows: int, run_cost: float | None, total_cost: float | None
    ) -> None:
        with self._mistakes():
            Budget(technique_id, run_cost, None).check(found.technique, rows)
        if total_cost is None:
            return
        try:
            Budget(technique_id, None, total_cost).check(found.technique, rows)
        except FloraError as error:
            if self._operator.reuse and self._may_have_a_manifest():
                self.left.append(f"{error} At run time, rows that the manifest has are not counted.")
            else:
                self.mistakes.append(str(error))

    def _may_have_a_manifest(self) -> bool:
        """Whether there may be a manifest that cannot be read now."""
        manifest = self._known.get("manifest")
        files = FilesHere(may_be_written=False)
        return isinstance(manifest, Unknown) or not (files.is_here(manifest) or files.is_missing(as_uri(manifest)))


def _with_any_columns(inputs: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return a batch's inputs with a stand-in where a column's value comes at run time."""
    return {
        name: _ANY_COLUMN if isinstance(value, str) and "{" in value else value for name, value in inputs.items()
    }
