"""A batch from its rows to its manifest: the order of the steps.

read        the rows, the manifest, and the journal of earlier attempts
check       all rows that are to run, and their price, before the first is started
run         them (``batch.running``), as often as the task is resumed
hand over   the manifest and a small value, and fail if too many rows did
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import tenacity

from airflow_provider_flora import metrics
from airflow_provider_flora.api import waiting
from airflow_provider_flora.api.errors import FloraBatchError, FloraBudgetError, FloraError, FloraPriceError, Remedy
from airflow_provider_flora.batch.entries import (
    COMPLETED,
    FAILED,
    SKIPPED,
    UNKNOWN,
    Entry,
    Execution,
    Lines,
    find_equal_names,
    find_problems,
    is_paid,
    make_entries,
    memory_of,
)
from airflow_provider_flora.batch.journal import FolderStore, Journal, TaskStore
from airflow_provider_flora.batch.manifest import Manifest
from airflow_provider_flora.batch.money import Budget
from airflow_provider_flora.batch.progress import describe
from airflow_provider_flora.batch.rows import RowProblem, read_rows
from airflow_provider_flora.batch.running import Parameters, Running
from airflow_provider_flora.files.downloads.destination import Destination
from airflow_provider_flora.files.downloads.downloads import Downloads
from airflow_provider_flora.files.listing import Listing
from airflow_provider_flora.runs.limits import Limits, warn_in_tests
from airflow_provider_flora.runs.record import digests_differ
from airflow_provider_flora.runs.techniques import RecentTechnique
from airflow_provider_flora.task.attempt import Attempt
from airflow_provider_flora.task.state import PROGRESS, save, store_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from airflow_provider_flora.api.client import FloraClient
    from airflow_provider_flora.api.models import Technique
    from airflow_provider_flora.api.settings import ClientSettings
    from airflow_provider_flora.runs.dag_run_budget import Share
    from airflow_provider_flora.runs.gate import SettingsReader
    from airflow_provider_flora.task.log import Log
    from airflow_provider_flora.task.rules import ConnectionRules

NAMED_PROBLEMS = 20
NAMED_ROWS = 100


@dataclass(frozen=True)
class Order:
    """What a batch is to do, as its operator's parameters say after they were read.

    :param max_failed_rows: a number of rows, or a share such as ``"5%"``.
    """

    rows: Any
    row_id: str | None
    inputs: Mapping[str, Any] | None
    manifest: Any
    file_name: str
    reuse: bool
    row_retries: int
    max_failed_rows: int | str
    max_run_cost: float | None
    max_total_cost: float | None
    max_dag_run_cost: float | None


class Batch:
    """A batch of one attempt, or of its part after a deferral.

    :param make_client: makes a client; several threads use one each.
    :param read_settings: reads the connection, for the watcher.
    :param on_technique: receives the technique before the checks.
    :param rules: those of the connection.
    :param was_deferred: whether the task was resumed: the rows have been checked.
    :param share: the task's share of its DAG run's budget, if that has one.
    """

    def __init__(
        self,
        order: Order,
        parameters: Parameters,
        context: Mapping[str, Any],
        *,
        make_client: Callable[[], FloraClient],
        read_settings: SettingsReader,
        on_technique: Callable[[ClientSettings, Technique], None],
        rules: ConnectionRules,
        was_deferred: bool,
        share: Share | None,
        log: Log,
    ) -> None:
        self._order = order
        self._share = share
        self._of = parameters
        self._context = context
        self._make_client = make_client
        self._read_settings = read_settings
        self._on_technique = on_technique
        self._rules = rules
        self._was_deferred = was_deferred
        self._log = log
        attempt = Attempt.of(context)
        execution = _digest([*attempt.identity, attempt.max_tries, attempt.clear_number])
        self._execution = Execution(execution, attempt.try_number)
        self._attempt = attempt
        self._lines = Lines(parameters.technique_id, self._execution)
        self._manifest = Manifest(order.manifest)
        self._store = store_of(context)
        self._running: Running | None = None

    def run(self, *, may_defer: bool) -> list[str]:
        """Run the rows. Return the runs to wait for if the task is to defer, and none if all rows are over.

        :raises FloraBatchError: rows have mistakes, or they cost too much. Nothing was started.
        :raises FloraError: the rows, the manifest, the technique or the connection cannot be read.
        """
        journal = Journal(self._make_store(), self._attempt, self._of.technique_id)
        rows, problems = read_rows(self._order.rows, row_id=self._order.row_id, inputs=self._order.inputs)
        lines = self._manifest.load()
        downloads = self._of.download_to is not None
        listing = Listing()
        self.entries = make_entries(
            rows,
            self._of.technique_id,
            lines,
            self._execution,
            listing,
            reuse=self._order.reuse,
            file_name=self._order.file_name if downloads else None,
        )
        with self._make_client() as client:
            technique = RecentTechnique(client, self._of.technique_id).get()
            if not self._was_deferred:
                self._on_technique(client.settings, technique)
            resumed = self._resume(journal)
            known = {entry.row_id for entry in resumed}
            to_start = [entry for entry in self.entries if entry.line is None and entry.row_id not in known]
            budget = self._make_budget(technique)
            for entry in resumed:
                budget.add_active(entry.row_id, technique)
            if not self._was_deferred:
                problems += self._check(technique, client, to_start, listing)
            if problems:
                raise self._refuse(problems, lines)
            if to_start and not self._was_deferred:
                budget.check(technique, len(to_start))
                warn_in_tests(self._context, technique, client, self._log, len(to_start))
            if self._share is not None:
                self._ask(self._share, budget, technique, len(to_start))
        completed = [entry.row_id for entry in self.entries if entry.line and entry.line["status"] == COMPLETED]
        # Without reuse, only a record shows after a clear that a row's run was not delivered yet.
        journal.begin(technique.technique_id, completed if self._order.reuse else ())
        self._journal = journal
        self._running = Running(
            self.entries,
            self._of,
            technique,
            journal=journal,
            manifest=self._manifest,
            lines=self._lines,
            budget=budget,
            limits=Limits.of(self._context, self._rules, self._of.conn_id, self._of.technique_id),
            make_client=self._make_client,
            read_settings=self._read_settings,
            make_technique=lambda client: RecentTechnique(client, self._of.technique_id),
            report=self._report,
            log=self._log,
        )
        self._budget = budget
        self._technique = technique
        return self._running.run(may_defer=may_defer)

    def _make_store(self) -> TaskStore | FolderStore:
        if self._store is not None:
            return TaskStore(self._store)
        identity = _digest([str(part) for part in self._attempt.identity])
        return FolderStore(Destination(f"{self._manifest.uri}.journal/{identity}"))

    def _make_budget(self, technique: Technique) -> Budget:
        order = self._order
        spent = self._sum_up(technique)
        return Budget(self._of.technique_id, order.max_run_cost, order.max_total_cost, spent)

    def _ask(self, share: Share, budget: Budget, technique: Technique, rows: int) -> None:
        """Ask once for all rows that are to start. A refusal ends the starts: what runs is brought home first.

        A task that resumes has what it was granted. It asks again only if that is too little.
        """
        limit, price = self._order.max_dag_run_cost, technique.run_cost
        if not self._was_deferred:
            share.presume((price or 0.0) * len(self.entries))
            if share.is_new_execution:
                share.move_on()
            share.settle(budget.planned)
        try:
            if rows:
                share.reserve(price, limit, self._of.technique_id, runs=rows, spent=budget.planned)
        except (FloraBudgetError, FloraPriceError) as error:
            share.settle(budget.planned)
            budget.error = error
        if limit is not None:
            budget.granted = share.reserved

    def _sum_up(self, technique: Technique) -> float:
        """Return what this execution has paid for the rows that are over. A cost that is missing is the price."""
        spent = 0.0
        for line in (entry.line for entry in self.entries):
            if line is not None and not line["reused"]:
                unknown = technique.run_cost or 0.0 if line["status"] in (COMPLETED, UNKNOWN) else 0.0
                spent += unknown if line["charged_cost"] is None else line["charged_cost"]
        return spent

    def _resume(self, journal: Journal) -> list[Entry]:
        """Find the rows whose run an earlier attempt has started. Return them."""
        resumed = []
        if gone := journal.runs_of_others({entry.row_id for entry in self.entries}):
            self._log.warning(
                "%d rows that an earlier attempt has started are no longer among the rows. Their runs may be "
                "charged, and are not waited for: %s",
                len(gone),
                ", ".join(f"{row_id} ({run_id})" for row_id, run_id in gone[:NAMED_PROBLEMS]),
            )
        for entry in self.entries:
            if entry.line is not None:
                continue
            entry.retries_left = self._order.row_retries
            record = journal.records_of(entry.row_id).load()
            if record is not None and record.run_id is not None:
                resumed.append(entry)
                same_numbers = (record.max_tries, record.clear_number) == (
                    self._attempt.max_tries,
                    self._attempt.clear_number,
                )
                # Otherwise runs.starting decides, since the task may have been cleared, or the inputs changed.
                if same_numbers and not digests_differ(record.digest, entry.digest):
                    entry.run_id, entry.was_resumed = record.run_id, True
                if self._was_deferred:
                    entry.retries_left = max(0, entry.retries_left - record.generation)
            elif record is None or record.unanswered:
                resumed.append(entry)
            elif self._may_adopt(entry):
                resumed.append(entry)
                entry.run_id = str(entry.previous["run_id"])
        return resumed

    def _may_adopt(self, entry: Entry) -> bool:
        """Whether an earlier execution has paid for the row, and only its output files are not there."""
        line = entry.previous
        return self._order.reuse and is_paid(line) and isinstance(line.get("run_id"), str) and entry.is_unchanged

    def _check(
        self,
        technique: Technique,
        client: FloraClient,
        to_start: Sequence[Entry],
        listing: Listing,
    ) -> list[RowProblem]:
        """Return the mistakes in rows that are to start, and check that there is a place for what they make."""
        self._manifest.check()
        if self._of.download_to is not None:
            downloads = Downloads(self._of.download_to, None, self._log)
            downloads.check_folder()
        found = find_problems(
            to_start,
            technique,
            listing,
            validate_inputs=self._of.validate_inputs,
            on_own_origin=client.settings.on_own_origin,
        )
        return found + find_equal_names(self.entries, technique)

    def _refuse(self, problems: Sequence[RowProblem], lines: Mapping[str, Mapping[str, Any]]) -> FloraBatchError:
        """Return the error for rows with mistakes. The manifest gets all of them, and forgets nothing."""
        by_row: dict[str, list[str]] = {}
        for problem in problems:
            if problem.row_id is not None:
                by_row.setdefault(problem.row_id, []).append(problem.message)
        written: list[tuple[int, dict[str, Any]]] = []
        for entry in self.entries:
            line = entry.line
            if entry.row_id in by_row:
                continue
            if line is None:
                line = self._lines.skipped(entry, "not_started", "Other rows have mistakes: nothing was started.")
            written.append((entry.row.position, self._remember(line, lines)))
        positions = {problem.row_id: problem.position for problem in problems}
        for row_id, messages in by_row.items():
            error = {"code": "input", "message": "; ".join(messages), "remedy": Remedy.CHANGE_INPUT.value}
            line = {"row_id": row_id, "status": FAILED, "error": error}
            written.append((positions[row_id] or 0, self._remember(line, lines)))
        self._manifest.write(line for _, line in sorted(written, key=itemgetter(0)))
        named = "".join(f"\n  - {problem}" for problem in problems[:NAMED_PROBLEMS])
        more = f"\n  and {len(problems) - NAMED_PROBLEMS:,} more" if len(problems) > NAMED_PROBLEMS else ""
        count = "1 mistake" if len(problems) == 1 else f"{len(problems):,} mistakes"
        return FloraBatchError(
            f"{count} in the rows. Nothing was started or charged. The manifest {self._manifest.uri} names all of "
            f"them.{named}{more}"
        )

    def _remember(self, line: dict[str, Any], lines: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """Add what was completed before to a line that takes its place."""
        memory = memory_of(lines.get(line["row_id"]))
        if line["status"] == COMPLETED or not is_paid(memory):
            return line
        return {**line, "completed_before": memory}

    def _report(self, line: str) -> None:
        """Show the progress in Airflow's UI. A failure is no reason to end the task."""
        if self._store is None:
            return
        try:
            save(self._store, PROGRESS, line)
        except Exception as error:
            self._log.warning("Could not store the progress: %s", error)

    # --- the end ----------------------------------------------------------------------------------------------

    def hand_over(self) -> dict[str, Any]:
        """Return the task's value, whether it fails or not. Everything is in place by then."""
        running = self._running
        assert running is not None  # noqa: S101
        self._fill_in_costs()
        if self._share is not None:
            self._share.settle(self._budget.planned)
        counts = running.count()
        line = describe(counts, self._budget.spent)
        self._log.info("%s. Manifest: %s", line, self._manifest.uri)
        self._report(line)
        return self.value(counts)

    def value(self, counts: Counter[str]) -> dict[str, Any]:
        """Return the task's value: where the manifest is, and how many rows have each status."""
        lines = [entry.line for entry in self.entries if entry.line is not None]
        return {
            "manifest": self._manifest.uri,
            "rows": len(self.entries),
            "completed": counts[COMPLETED] + counts["reused"],
            "reused": counts["reused"],
            "failed": counts[FAILED],
            "unknown": counts[UNKNOWN],
            "skipped": counts[SKIPPED],
            "charged_cost": round(self._budget.spent, 6),
            "saved_cost": round(sum(line["charged_cost"] or 0.0 for line in lines if line["reused"]), 6),
            "failures": dict(
                Counter((line["error"] or {}).get("remedy") for line in lines if line["status"] == FAILED)
            ),
        }

    def changed_rows(self) -> list[str]:
        """Return the ids of rows that this execution has completed, up to :data:`NAMED_ROWS`."""
        lines = [entry.line for entry in self.entries if entry.line is not None]
        return [line["row_id"] for line in lines if line["status"] == COMPLETED and not line["reused"]][:NAMED_ROWS]

    def lines(self) -> Iterator[Mapping[str, Any]]:
        """Iterate over the lines of the manifest."""
        return (entry.line for entry in self.entries if entry.line is not None)

    @property
    def technique_name(self) -> str:
        """The technique's name."""
        return self._technique.name

    @property
    def manifest_uri(self) -> str:
        """The manifest's URI."""
        return self._manifest.uri

    @property
    def history_id(self) -> str:
        """The technique's id, which the history filters by."""
        return str(self._journal.common["history_id"])

    def record_delivery(self) -> None:
        """Record that the task has succeeded. A later clear asks for new runs."""
        self._journal.record_delivery()

    def raise_if_failed(self) -> None:
        """Raise the error with which the task fails, if it does."""
        running = self._running
        assert running is not None  # noqa: S101
        counts = running.count()
        if running.fatal is not None:
            raise running.fatal
        if running.timed_out:
            left = counts[SKIPPED] + counts["active"]
            raise FloraBatchError(
                f"{left:,} rows were not over within {self._of.timeout:g} s. Active runs go on at Flora; a retry "
                "waits for them and starts the others.",
                Remedy.RETRY_LATER,
            )
        if self._budget.error is not None:
            raise self._budget.error
        bad = counts[FAILED] + counts[UNKNOWN]
        if bad <= self._allowed_failures():
            return
        lines = [entry.line for entry in self.entries if entry.line and entry.line["status"] in (FAILED, UNKNOWN)]
        named = "".join(
            f"\n  - row {line['row_id']!r}: {line['error']['message']}" for line in lines[:NAMED_PROBLEMS]
        )
        more = f"\n  and {len(lines) - NAMED_PROBLEMS:,} more" if len(lines) > NAMED_PROBLEMS else ""
        helps = any(line["error"]["remedy"] in (Remedy.RETRY_NOW, Remedy.RETRY_LATER) for line in lines)
        raise FloraBatchError(
            f"{bad:,} of {len(self.entries):,} rows did not complete, more than max_failed_rows="
            f"{self._order.max_failed_rows}. The others are in place; the manifest {self._manifest.uri} has all."
            f"{named}{more}",
            Remedy.RETRY_LATER if helps else Remedy.CHANGE_INPUT,
        )

    def _allowed_failures(self) -> int:
        allowed = self._order.max_failed_rows
        if isinstance(allowed, str):
            return int(Fraction(allowed.rstrip("% ")) * len(self.entries) / 100)  # a float makes 28 of 29 % of 100
        return allowed

    def _fill_in_costs(self) -> None:
        """Ask for the costs of runs that completed without one: Flora reports them a moment later."""
        missing = {
            entry.line["run_id"]: entry.line
            for entry in self.entries
            if entry.line and entry.line["status"] == COMPLETED and entry.line["charged_cost"] is None
        }
        if not missing:
            return
        late = [*missing.values()]
        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_delay(waiting.COST_GRACE),
            wait=tenacity.wait_fixed(1.0),
            retry=tenacity.retry_if_result(bool),
            retry_error_callback=lambda _: None,
        )
        try:
            with self._make_client() as client:
                retrying(self._ask_for_costs, client, missing)
        except FloraError as error:
            self._log.warning("Could not ask for the costs that are missing: %s", error)
        self._budget.spent = self._sum_up(self._technique)
        self._manifest.write(entry.line for entry in self.entries if entry.line is not None)
        for line in late:
            metrics.count_cost(line["charged_cost"], self._of.technique_id)

    def _ask_for_costs(self, client: FloraClient, missing: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """Add to lines the costs that the history shows. Return the lines that still have none."""
        oldest = min(line["created_at"] or 0 for line in missing.values())
        for run in client.list_technique_runs(self._journal.common["history_id"]):
            if run.charged_cost is not None and run.run_id in missing:
                missing.pop(run.run_id)["charged_cost"] = run.charged_cost
            if not missing or (run.created_at is not None and run.created_at < oldest):
                break
        return missing


def _digest(parts: Sequence[object]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
