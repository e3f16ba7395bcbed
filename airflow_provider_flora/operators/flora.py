"""FloraRunTechniqueOperator: runs a Flora technique as a task.

The operator only orders the steps. ``api.inputs`` checks the inputs, ``runs.starting`` decides whether to start a
run, ``runs.outcome`` turns a finished run into XComs. Slow imports are made when a task runs, since the DAG
processor imports this file for every DAG that uses it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_provider_flora.airflow_compat import AirflowTaskTimeout, BaseOperator, conf, push_xcom
from airflow_provider_flora.lineage.telling import TellsLineage
from airflow_provider_flora.links.flora import TASK_LINKS, TECHNIQUE_URL_KEY, technique_url
from airflow_provider_flora.task.deadline import NO_TRIGGERER_GRACE, Deadline
from airflow_provider_flora.task.parameters import check_choice, none_if_empty, parse_limit, parse_number
from airflow_provider_flora.task.state import store_of
from airflow_provider_flora.task.success import do_after_success

if TYPE_CHECKING:
    from airflow_provider_flora.airflow_compat import Context, ObjectStoragePath
    from airflow_provider_flora.api.client import FloraClient
    from airflow_provider_flora.api.inputs import Inputs
    from airflow_provider_flora.api.models import Run, RunInput, Technique
    from airflow_provider_flora.files.downloads.downloads import Downloads
    from airflow_provider_flora.files.uploads.run_inputs import InputFiles
    from airflow_provider_flora.hooks.flora import FloraHook
    from airflow_provider_flora.runs.dag_run_budget import Share
    from airflow_provider_flora.runs.limits import LimitedStart
    from airflow_provider_flora.runs.record import Records
    from airflow_provider_flora.runs.starting import PlannedRun, StartedRun
    from airflow_provider_flora.runs.techniques import RecentTechnique

FIRST_POLL_WITHIN = 10.0
"""Longest time in seconds that a worker waits for the first poll of a run before it defers."""


class FloraRunTechniqueOperator(TellsLineage, BaseOperator):
    """Run a Flora technique exactly once and return its outputs.

    **A run costs money and cannot be cancelled.** Every mistake in its inputs is reported before the run starts.
    After that, no crash, retry or restart of Airflow starts another run: see :doc:`/reliability`.

    The return value is a dict with ``run_id``, ``technique_id``, ``status``, ``outputs`` (each ``{"output_id",
    "type", "url"}``), ``output_urls`` (media), ``output_texts``, ``charged_cost`` (USD, or ``None`` until Flora
    reports it), ``created_at``, ``started_at`` and ``completed_at`` (unix milliseconds). ``op.output[key]`` passes
    ``outputs``, ``output_urls``, ``output_texts``, ``run_id`` or ``charged_cost`` to another task.

    :param technique_id: id or slug of the technique. (templated)
    :param inputs: ``{input_id: value}`` or Flora's own list of ``{"id", "type", "value"}``. Values of ``None`` are
        left out. An image or a video is an ``https://`` URL, or a file that is uploaded first: a local path or the
        URI of a storage, ``s3://conn_id@bucket/key``. See :doc:`/uploads`. (templated)
    :param flora_conn_id: the connection. (templated)
    :param wait_for_completion: wait for the run to finish. Without it the value has the run's id and status only.
    :param deferrable: wait in the triggerer, without occupying a worker. Default: Airflow's ``default_deferrable``.
    :param poll_interval: seconds between two polls of the run. Flora recommends 2 to 5. (templated)
    :param timeout: longest wait in seconds. A shorter ``execution_timeout`` takes precedence. The run goes on at
        Flora, and the next attempt waits for it. (templated)
    :param callback_url: public HTTPS URL that Flora calls once when the run has finished. (templated)
    :param validate_inputs: check the inputs against the technique before anything is paid.
    :param max_run_cost: USD. A technique with a higher price, at most 90 s old, is not run. (templated)
    :param max_dag_run_cost: USD. No run is started whose price would bring all Flora tasks of the DAG run above it.
        See :doc:`/spending_control`. (templated)
    :param on_budget: what a task does whose run would exceed ``max_dag_run_cost``: ``fail``, or ``skip``.
    :param returns: ``run`` for the dict above, ``outputs`` for its list of outputs, so that a downstream task can
        be mapped over it.
    :param on_unknown_start: action if an earlier attempt may have started a run that cannot be identified: ``stop``
        with an error that names the possible runs, or ``restart`` and accept a second charge.
    :param adopt_run_id: wait for this run and do not start one. (templated)
    :param download_to: download the outputs into this folder, in any storage of Airflow's ``ObjectStoragePath``:
        ``s3://conn_id@bucket/prefix/{{ ds }}/``. The value then has ``files``, each
        ``{"uri", "media_type", "bytes", "sha256", "output_id"}``. See :doc:`/downloads`. (templated)
    :param file_name: format of the names of these files, with the fields ``technique``, ``flora_run_id``,
        ``output_id``, ``index`` and ``ext``. (templated)
    :raises AirflowFailException: an error that a retry cannot fix: wrong inputs, a price above a limit, a run that
        failed with "change the input" or "give up".
    :raises FloraRunFailedError: the run failed. A retry, which is a new run, may succeed.
    :raises FloraRunTimeoutError: the run did not finish in time.
    """

    template_fields: Sequence[str] = (
        "technique_id",
        "inputs",
        "flora_conn_id",
        "poll_interval",
        "timeout",
        "callback_url",
        "max_run_cost",
        "max_dag_run_cost",
        "adopt_run_id",
        "download_to",
        "file_name",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {"inputs": "json"}
    operator_extra_links = TASK_LINKS
    lineage_mode = "single"
    starts_runs: ClassVar[bool] = True
    """Whether its runs count against the budget of a DAG run."""
    ui_color = "#e8f0e4"

    def __init__(
        self,
        *,
        technique_id: str,
        inputs: Inputs,
        flora_conn_id: str = "flora_default",
        wait_for_completion: bool = True,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        poll_interval: float = 5.0,
        timeout: float = 3600.0,
        callback_url: str | None = None,
        validate_inputs: bool = True,
        max_run_cost: float | None = None,
        max_dag_run_cost: float | None = None,
        on_budget: str = "fail",
        returns: str = "run",
        on_unknown_start: str = "stop",
        adopt_run_id: str | None = None,
        download_to: str | ObjectStoragePath | None = None,
        file_name: str = "{technique}-{flora_run_id}-{output_id}.{ext}",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_choice("returns", returns, ("run", "outputs"))
        check_choice("on_unknown_start", on_unknown_start, ("stop", "restart"))
        check_choice("on_budget", on_budget, ("fail", "skip"))
        if returns == "outputs" and not wait_for_completion:
            raise ValueError("returns='outputs' needs wait_for_completion=True: an active run has no outputs")
        if download_to is not None and not wait_for_completion:
            raise ValueError("download_to needs wait_for_completion=True: an active run has no outputs")
        self.technique_id = technique_id
        self.inputs = inputs
        self.flora_conn_id = flora_conn_id
        self.wait_for_completion = wait_for_completion
        self.deferrable = deferrable
        self.poll_interval = poll_interval
        self.timeout = timeout
        self.callback_url = callback_url
        self.validate_inputs = validate_inputs
        self.max_run_cost = max_run_cost
        self._has_limit = max_run_cost is not None
        self.max_dag_run_cost = max_dag_run_cost
        self._has_dag_run_limit = max_dag_run_cost is not None
        self.on_budget = on_budget
        self.returns = returns
        self.on_unknown_start = on_unknown_start
        self.adopt_run_id = adopt_run_id
        self.download_to = download_to
        self.file_name = file_name
        self._run_id: str | None = None
        self._share: Share | None = None

    def execute(self, context: Context) -> Any:
        """Check the parameters, start the run once, wait for it, and return its value."""
        from airflow_provider_flora.runs.dag_run_budget import Share
        from airflow_provider_flora.runs.limits import LimitedStart, Limits
        from airflow_provider_flora.runs.outcome import airflow_errors

        hook = self._make_hook()
        self._has_link = False
        with airflow_errors(context):
            records = self._make_records(context)
            with records.protect_paid_run():
                self._share = Share.begin(context, self.log)  # first: until then the others wait for it
                self.inputs = self._get_inputs(context)
                deadline = Deadline(parse_number("timeout", self.timeout), self.execution_timeout)
                parse_number("poll_interval", self.poll_interval)  # checked before the run is paid
                self._make_downloads()
                client = hook.get_conn()
                limits = Limits.of(context, hook.rules, self.flora_conn_id, self.technique_id)
            with LimitedStart(limits, client) as limited:
                started = self._start(client, context, records, limited)
            run = started.run
            self._run_id = run.run_id
            if self.do_xcom_push:
                context["ti"].xcom_push(key="run_id", value=run.run_id)
                if not self._has_link:  # no plan is made where a run is resumed, and Airflow has cleared the XCom
                    page = technique_url(client.settings, self.technique_id)
                    context["ti"].xcom_push(key=TECHNIQUE_URL_KEY, value=page)
            if self.wait_for_completion and not run.settled:
                if self.deferrable and not run.finished and not self._finishes_soon(client, started, deadline):
                    self._defer(started, deadline)
                run = self._wait(client, started, deadline)
            return self._hand_over(run, context, hook)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Return the value of the finished run in the trigger's event."""
        from airflow_provider_flora.api.errors import FloraBudgetError
        from airflow_provider_flora.runs.dag_run_budget import Share
        from airflow_provider_flora.runs.events import finished_run
        from airflow_provider_flora.runs.outcome import airflow_errors

        hook = self._make_hook()
        with airflow_errors(context):
            run = finished_run(event, hook.get_conn, self.technique_id)
            try:
                self._share = Share.resume(context, self.log)
            except FloraBudgetError as error:  # the run that was paid matters more: its price stays reserved
                self.log.warning("What the run has cost is not noted in the budget of the DAG run: %s", error)
            return self._hand_over(run, context, hook)

    def on_kill(self) -> None:
        """Log that the run goes on: Flora cannot cancel runs."""
        if self._run_id:
            self.log.warning("%s goes on at Flora, which cannot cancel runs. A retry waits for it", self._run_id)

    def _get_inputs(self, context: Context) -> Inputs:
        """Return the inputs. A task that is made of a function calls it here."""
        return self.inputs

    def _make_records(self, context: Context) -> Records:
        from airflow_provider_flora.runs.record import Records
        from airflow_provider_flora.task.attempt import Attempt

        return Records(store_of(context), Attempt.of(context))

    def _start(self, client: FloraClient, context: Context, records: Records, limited: LimitedStart) -> StartedRun:
        from airflow_provider_flora.runs.dag_run_budget import giving_back, skipping
        from airflow_provider_flora.runs.starting import ABANDON, Starter
        from airflow_provider_flora.task.attempt import xcoms_of_siblings

        files = self._make_input_files(client, context)
        adopt_run_id = none_if_empty(self.adopt_run_id)
        starter = Starter(
            client,
            technique_id=self.technique_id,
            inputs=files.inputs,
            files=files.compute_digests,
            plan=lambda: self._make_plan(client, context, files, limited, lambda: starter.runs_left),
            callback_url=none_if_empty(self.callback_url),
            records=records,
            on_unknown_start=self.on_unknown_start,
            siblings=lambda: xcoms_of_siblings(context, "run_id"),
            log=self.log,
            abandoned=adopt_run_id == ABANDON,
        )
        if adopt_run_id not in (None, ABANDON):
            if self._share is not None:
                record = records.load()
                if record is not None and record.run_id != adopt_run_id:
                    self._share.leave_run()
            started = starter.adopt(adopt_run_id)
        else:
            with skipping(self.on_budget), giving_back(self._share, starter):
                started = starter.start()
        if self._share is not None:
            self._share.take_up(started.run)
        return started

    def _make_input_files(self, client: FloraClient, context: Context) -> InputFiles:
        from airflow_provider_flora.files.uploads.record import UploadRecord
        from airflow_provider_flora.files.uploads.run_inputs import InputFiles
        from airflow_provider_flora.task.attempt import execution_id

        record = UploadRecord(store_of(context), self.log)
        return InputFiles(self.inputs, client, record, execution_id(context), self.log)

    def _with_texts(self, inputs: Inputs) -> Inputs:
        from airflow_provider_flora.files.uploads.run_inputs import with_texts

        plain: Inputs = with_texts(inputs)
        return plain

    def _make_plan(
        self,
        client: FloraClient,
        context: Context,
        files: InputFiles,
        limited: LimitedStart,
        runs_left: Callable[[], int],
    ) -> PlannedRun:
        from airflow_provider_flora.runs.outcome import RUN_COST_KEY, outcome_of
        from airflow_provider_flora.runs.starting import PlannedRun
        from airflow_provider_flora.runs.techniques import RecentTechnique

        technique = RecentTechnique(client, self.technique_id)
        outcome_of(self).technique_name = technique.get().name
        # Before the checks, so that a refused task has its link. Only once, since a plan may be made again.
        if self.do_xcom_push and not self._has_link:
            self._has_link = True
            page = technique_url(client.settings, technique.get().slug or technique.get().technique_id)
            context["ti"].xcom_push(key=TECHNIQUE_URL_KEY, value=page)
            push_xcom(context["ti"], RUN_COST_KEY, technique.get().run_cost)
        inputs = technique.check(lambda found: self._check_inputs(found, client, files))
        return PlannedRun(
            technique.get().technique_id,
            lambda: files.upload(inputs, technique.get()),
            lambda: self._check_before_spending(technique, runs_left()),
            lambda: self._check_limits(technique.get(), client, context, limited),
        )

    def _check_inputs(self, technique: Technique, client: FloraClient, files: InputFiles) -> list[RunInput]:
        from airflow_provider_flora.api.inputs import check_inputs, run_inputs

        if not self.validate_inputs:
            return run_inputs(files.inputs, self.technique_id, technique)
        return check_inputs(
            files.inputs,
            technique,
            on_own_origin=client.settings.on_own_origin,
            file_problem=files.find_problem,
        )

    def _check_before_spending(self, technique: RecentTechnique, runs_left: int) -> None:
        technique.check(self._check_price)
        if downloads := self._make_downloads():
            downloads.check_names(technique.get())
            downloads.check_folder()
        if self._share is not None:  # last, since what is refused before it takes nothing from the others
            price, limit = technique.get().run_cost, self._get_dag_run_limit()
            self._share.reserve(price, limit, self.technique_id, runs_left=runs_left)

    def _get_dag_run_limit(self) -> float | None:
        return parse_limit("max_dag_run_cost", self.max_dag_run_cost, was_given=self._has_dag_run_limit)

    def _check_limits(
        self, technique: Technique, client: FloraClient, context: Context, limited: LimitedStart
    ) -> None:
        from airflow_provider_flora.runs.limits import warn_in_tests

        if self._share is not None:
            self._share.confirm(self._get_dag_run_limit(), self.technique_id)
        limited.check(technique)
        warn_in_tests(context, technique, client, self.log)

    def _check_price(self, technique: Technique) -> None:
        from airflow_provider_flora.runs.techniques import check_price

        # A cluster policy may have set it since.
        limit = parse_limit("max_run_cost", self.max_run_cost, was_given=self._has_limit)
        if limit is None:
            self.log.info("A run of %s costs %s USD", technique.name, technique.run_cost)
        else:
            check_price(technique, self.technique_id, limit)

    def _finishes_soon(self, client: FloraClient, started: StartedRun, deadline: Deadline) -> bool:
        """Poll the run once. Return whether it has finished, since deferring needs a second worker process."""
        from airflow_provider_flora.api import answers, operations
        from airflow_provider_flora.api.errors import FloraError

        interval = parse_number("poll_interval", self.poll_interval)
        time.sleep(min(interval, FIRST_POLL_WITHIN, deadline.seconds_left()))
        request = operations.get_technique_run(started.technique_id, started.run.run_id)
        try:
            return client.ask(request, answers.read_run).finished
        except FloraError as error:
            self.log.info("%s could not be polled: %s", started.run.run_id, error)
            return False

    def _wait(self, client: FloraClient, started: StartedRun, deadline: Deadline) -> Run:
        from airflow_provider_flora.api.errors import FloraRunTimeoutError
        from airflow_provider_flora.api.waiting import WaitLog

        run = started.run
        try:
            return client.wait_for_technique_run(
                started.technique_id,
                run.run_id,
                parse_number("poll_interval", self.poll_interval),
                deadline.timeout,
                deadline=deadline.unix_time(),
                listener=WaitLog(self.log),
            )
        except AirflowTaskTimeout:
            raise FloraRunTimeoutError(run.run_id, self.technique_id, "within the execution_timeout") from None

    def _defer(self, started: StartedRun, deadline: Deadline) -> None:
        from airflow_provider_flora.triggers.flora import FloraTechniqueRunTrigger

        self.defer(
            trigger=FloraTechniqueRunTrigger(
                technique_id=started.technique_id,
                run_id=started.run.run_id,
                deadline=deadline.unix_time(),
                poll_interval=parse_number("poll_interval", self.poll_interval),
                flora_conn_id=self.flora_conn_id,
                timeout=deadline.timeout,
            ),
            method_name="execute_complete",
            # The trigger has the deadline. This timeout takes effect if no triggerer is alive.
            timeout=timedelta(seconds=deadline.seconds_left()) + NO_TRIGGERER_GRACE,
        )

    def _hand_over(self, run: Run, context: Context, hook: FloraHook) -> Any:
        from airflow_provider_flora.runs.credits import post_credits_errors
        from airflow_provider_flora.runs.outcome import count_run, hand_over

        download = None
        records = self._make_records(context)
        with records.protect_paid_run(run.run_id):
            downloads = self._make_downloads() if self.wait_for_completion else None
            if downloads is not None:
                store = store_of(context)
                download = partial(downloads.download, run, self.technique_id, hook.settings, store)
        count_run(run, self.technique_id, self, context)
        if self._share is not None:
            self._share.settle_run(run, records)
        with post_credits_errors(lambda: hook.settings):
            value = hand_over(run, self.technique_id, context, self.returns, self.log, download)
        if store_of(context) is not None:
            # If this fails, the next clear returns the same run again, at no cost.
            do_after_success(self, records.record_delivery)
        return value

    def _make_downloads(self) -> Downloads | None:
        download_to = none_if_empty(self.download_to)
        if download_to is None:
            return None
        from airflow_provider_flora.files.downloads.downloads import Downloads

        return Downloads(download_to, self.file_name, self.log)

    def _make_hook(self) -> FloraHook:
        from airflow_provider_flora.hooks.flora import FloraHook

        return FloraHook(self.flora_conn_id)
