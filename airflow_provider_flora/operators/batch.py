"""FloraRunTechniqueBatchOperator: runs a Flora technique once for each row of a table.

The operator only orders the steps, which are in ``batch``. Slow imports are made when a task runs, as in
``operators.flora``.
"""

from __future__ import annotations

import asyncio
import re
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_provider_flora.airflow_compat import BaseOperator, conf
from airflow_provider_flora.lineage.telling import TellsLineage
from airflow_provider_flora.links.flora import TASK_LINKS, TECHNIQUE_URL_KEY, technique_url
from airflow_provider_flora.task.deadline import NO_TRIGGERER_GRACE, Deadline
from airflow_provider_flora.task.parameters import check_choice, none_if_empty, parse_limit, parse_number
from airflow_provider_flora.task.success import do_after_success

if TYPE_CHECKING:
    from airflow_provider_flora.airflow_compat import Context, ObjectStoragePath
    from airflow_provider_flora.api.models import Technique
    from airflow_provider_flora.api.settings import ClientSettings
    from airflow_provider_flora.batch.batch import Batch, Order
    from airflow_provider_flora.batch.running import Parameters

_SHARE = re.compile(r"\d+(\.\d+)? ?%")


class FloraRunTechniqueBatchOperator(TellsLineage, BaseOperator):
    """Run a Flora technique once for each row of a table, and write what became of each into a manifest.

    **Each row is paid once**, by the same rules as a single task's run (see :doc:`/reliability`), and only if it
    has changed since its last line in the manifest. All rows and the price of all of them are checked before the
    first is started. A row that fails takes nothing from the others. See :doc:`/batch`.

    The return value is ``{"manifest", "rows", "completed", "reused", "failed", "unknown", "skipped",
    "charged_cost"}``: the manifest's URI, numbers of rows (``completed`` includes ``reused``), and USD.

    :param technique_id: id or slug of the technique. (templated)
    :param rows: path or URI of a ``.csv`` or ``.jsonl`` file or of another batch's manifest, or a list of dicts.
        (templated)
    :param manifest: path or URI of the manifest, which ends in ``.jsonl``. It is the batch's memory: a DAG run
        without it runs everything again. (templated)
    :param row_id: column that names a row. Default: its position. (templated)
    :param inputs: ``{input_id: value}``, in which ``{column}`` is replaced by the row's value. Every other brace
        stays as it is. Default: the row's columns are the inputs. (templated)
    :param download_to: download the outputs into this folder; see :doc:`/downloads`. (templated)
    :param file_name: format of the names of these files: ``row_id``, the row's columns, and ``technique``,
        ``flora_run_id``, ``output_id``, ``index`` and ``ext``. (templated)
    :param reuse: do not run a row again that the manifest shows as completed, if its technique, inputs and files
        are unchanged and its output files are still there.
    :param max_active_runs: number of runs that are active at Flora at once. (templated)
    :param starts_at_once: number of rows that are started at once. A killed task leaves at most so many in doubt.
    :param max_run_cost: USD. A technique with a higher price, at most 90 s old, is not run. (templated)
    :param max_total_cost: USD. No further row is started if all runs of the task would cost more. (templated)
    :param max_dag_run_cost: USD. No row is started if the prices of all would bring all Flora tasks of the DAG run
        above it. See :doc:`/spending_control`. (templated)
    :param on_budget: what the task does if its rows would exceed ``max_dag_run_cost``: ``fail``, or ``skip``.
    :param row_retries: number of times that a row is run again, if a retry may help.
    :param max_failed_rows: number of rows that may fail without failing the task, or a share such as ``"5%"``.
        (templated)
    :param deferrable: wait in the triggerer, without occupying a worker. Default: Airflow's ``default_deferrable``.
    :param poll_interval: seconds between two polls of the runs. (templated)
    :param timeout: longest duration of each attempt in seconds. A shorter ``execution_timeout`` takes precedence.
        A retry goes on with the rows that are left. (templated)
    :param validate_inputs: check the inputs of all rows against the technique.
    :param flora_conn_id: the connection. (templated)
    :raises AirflowFailException: an error that a retry cannot fix: mistakes in rows, a limit of the costs, or too
        many failed rows of which a retry can help none.
    :raises FloraBatchError: too many rows failed, and a retry may help some of them; or the time was over.
    """

    template_fields: Sequence[str] = (
        "technique_id",
        "rows",
        "manifest",
        "row_id",
        "inputs",
        "download_to",
        "file_name",
        "max_active_runs",
        "max_run_cost",
        "max_total_cost",
        "max_dag_run_cost",
        "max_failed_rows",
        "poll_interval",
        "timeout",
        "flora_conn_id",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {"inputs": "json"}
    operator_extra_links = TASK_LINKS
    lineage_mode = "batch"
    starts_runs: ClassVar[bool] = True
    """Whether its runs count against the budget of a DAG run."""
    ui_color = "#e8f0e4"

    def __init__(
        self,
        *,
        technique_id: str,
        rows: Any,
        manifest: str | ObjectStoragePath,
        row_id: str | None = None,
        inputs: Mapping[str, Any] | None = None,
        download_to: str | ObjectStoragePath | None = None,
        file_name: str = "{row_id}-{output_id}.{ext}",
        reuse: bool = True,
        max_active_runs: int = 100,
        starts_at_once: int = 1,
        max_run_cost: float | None = None,
        max_total_cost: float | None = None,
        max_dag_run_cost: float | None = None,
        on_budget: str = "fail",
        row_retries: int = 2,
        max_failed_rows: int | str = 0,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        poll_interval: float = 5.0,
        timeout: float = 6 * 3600.0,
        validate_inputs: bool = True,
        flora_conn_id: str = "flora_default",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_choice("on_budget", on_budget, ("fail", "skip"))
        for name, number, least in (("starts_at_once", starts_at_once, 1), ("row_retries", row_retries, 0)):
            if not isinstance(number, int) or number < least:
                raise ValueError(f"{name} takes a whole number of at least {least}, not {number!r}")
        self.technique_id = technique_id
        self.rows = rows
        self.manifest = manifest
        self.row_id = row_id
        self.inputs = inputs
        self.download_to = download_to
        self.file_name = file_name
        self.reuse = reuse
        self.max_active_runs = max_active_runs
        self.starts_at_once = starts_at_once
        self.max_run_cost = max_run_cost
        self.max_total_cost = max_total_cost
        self.max_dag_run_cost = max_dag_run_cost
        self._limits = {
            "max_run_cost": max_run_cost is not None,
            "max_total_cost": max_total_cost is not None,
            "max_dag_run_cost": max_dag_run_cost is not None,
        }
        self.on_budget = on_budget
        self.row_retries = row_retries
        self.max_failed_rows = max_failed_rows
        self.deferrable = deferrable
        self.poll_interval = poll_interval
        self.timeout = timeout
        self.validate_inputs = validate_inputs
        self.flora_conn_id = flora_conn_id

    def execute(self, context: Context) -> dict[str, Any]:
        """Check all rows, run those that are to run, and return the value."""
        from airflow_provider_flora.runs.outcome import airflow_errors

        with airflow_errors(context):
            deadline = Deadline(parse_number("timeout", self.timeout), self.execution_timeout)
        return self._work(context, deadline.unix_time(), was_deferred=False)

    def execute_complete(self, context: Context, event: object, deadline: float) -> dict[str, Any]:
        """Go on after some runs have finished."""
        return self._work(context, deadline, was_deferred=True)

    def _work(self, context: Context, deadline: float, *, was_deferred: bool) -> dict[str, Any]:
        from airflow_provider_flora.batch.batch import Batch
        from airflow_provider_flora.lineage.locations import remember_batch
        from airflow_provider_flora.runs.dag_run_budget import Share, skipping
        from airflow_provider_flora.runs.outcome import BATCH_KEY, add_to_asset_events, airflow_errors, outcome_of

        with airflow_errors(context):
            share = (Share.resume if was_deferred else Share.begin)(context, self.log)
            parameters = self._make_parameters(context, deadline)
            batch = Batch(
                self._make_order(),
                parameters,
                context,
                make_client=lambda: self._make_hook().get_conn(),
                read_settings=_SettingsReader(self._make_hook),
                on_technique=lambda *found: self._push_first(context, batch.manifest_uri, *found),
                rules=self._make_hook().rules,
                was_deferred=was_deferred,
                share=share,
                log=self.log,
            )
            if active := batch.run(may_defer=self.deferrable):
                self._defer(parameters, batch, active)
            value = batch.hand_over()
            remember_batch(outcome_of(self), value, batch.technique_name, batch.lines())
            if self.do_xcom_push:
                context["ti"].xcom_push(key=BATCH_KEY, value=value)  # a task that fails returns nothing
            with skipping(self.on_budget):
                batch.raise_if_failed()
        add_to_asset_events({**value, "changed_rows": batch.changed_rows()}, context)
        do_after_success(self, batch.record_delivery)
        return value

    def on_kill(self) -> None:
        """Log that the runs go on: Flora cannot cancel runs."""
        self.log.warning("Runs that are active go on at Flora, which cannot cancel runs. A retry waits for them")

    def _push_first(self, context: Context, manifest: str, settings: ClientSettings, technique: Technique) -> None:
        """Push what is known before the first start: a task that waits or fails has it too."""
        if self.do_xcom_push:
            context["ti"].xcom_push(key="manifest", value=manifest)
            page = technique_url(settings, technique.slug or technique.technique_id)
            context["ti"].xcom_push(key=TECHNIQUE_URL_KEY, value=page)

    def _make_order(self) -> Order:
        from airflow_provider_flora.batch.batch import Order

        return Order(
            rows=self.rows,
            row_id=none_if_empty(self.row_id),
            inputs=self.inputs,
            manifest=self.manifest,
            file_name=self.file_name,
            reuse=self.reuse,
            row_retries=self.row_retries,
            max_failed_rows=self._parse_allowed_failures(),
            max_run_cost=self._parse_limit("max_run_cost"),
            max_total_cost=self._parse_limit("max_total_cost"),
            max_dag_run_cost=self._parse_limit("max_dag_run_cost"),
        )

    def _make_parameters(self, context: Context, deadline: float) -> Parameters:
        from airflow_provider_flora.batch.running import Parameters
        from airflow_provider_flora.task.attempt import execution_id

        return Parameters(
            conn_id=self.flora_conn_id,
            technique_id=self.technique_id,
            validate_inputs=self.validate_inputs,
            max_active_runs=_whole(parse_number("max_active_runs", self.max_active_runs, at_least=1)),
            starts_at_once=self.starts_at_once,
            poll_interval=parse_number("poll_interval", self.poll_interval),
            deadline=deadline,
            timeout=parse_number("timeout", self.timeout),
            download_to=none_if_empty(self.download_to),
            seed=execution_id(context),
        )

    def _parse_limit(self, name: str) -> float | None:
        return parse_limit(name, getattr(self, name), was_given=self._limits[name])

    def _parse_allowed_failures(self) -> int | str:
        value = self.max_failed_rows
        if isinstance(value, str) and _SHARE.fullmatch(value.strip()):
            return value.strip()
        return _whole(parse_number("max_failed_rows", value, at_least=0.0))

    def _defer(self, parameters: Parameters, batch: Batch, active: list[str]) -> None:
        from airflow_provider_flora.triggers.batch import FloraBatchTrigger

        self.log.info("Waiting for %d runs in the triggerer", len(active))
        left = max(0.0, parameters.deadline - time.time())
        self.defer(
            trigger=FloraBatchTrigger(
                technique_id=batch.history_id,
                run_ids=active,
                deadline=parameters.deadline,
                poll_interval=parameters.poll_interval,
                flora_conn_id=self.flora_conn_id,
            ),
            method_name="execute_complete",
            kwargs={"deadline": parameters.deadline},
            # The trigger has the deadline. This timeout takes effect if no triggerer is alive.
            timeout=timedelta(seconds=left) + NO_TRIGGERER_GRACE,
        )

    def _make_hook(self) -> Any:
        from airflow_provider_flora.hooks.flora import FloraHook

        return FloraHook(self.flora_conn_id)


def _whole(number: float) -> int:
    return int(min(number, sys.maxsize))  # infinity is no limit


class _SettingsReader:
    """Reads the connection again for the watcher, in a thread: one at a time, since Airflow's channel is shared."""

    def __init__(self, make_hook: Any) -> None:
        self._make_hook = make_hook
        self._lock = threading.Lock()

    async def __call__(self) -> ClientSettings:
        """Read the connection."""
        settings: ClientSettings = await asyncio.to_thread(self._read)
        return settings

    def _read(self) -> Any:
        with self._lock:
            return self._make_hook().settings
