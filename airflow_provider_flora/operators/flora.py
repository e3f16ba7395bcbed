"""FloraRunTechniqueOperator: a Flora technique as a task.

The operator only puts the steps in order. What is checked before money is spent is in ``api.inputs``, whether a
run may be started in ``runs.starting``, what becomes of a finished one in ``runs.outcome``. Imports that cost time
are made when a task runs: the DAG processor imports this file for every DAG that uses it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.common.compat.sdk import AirflowTaskTimeout, BaseOperator, conf

from airflow_provider_flora.links.flora import TECHNIQUE_URL_KEY, FloraTechniqueLink, technique_url
from airflow_provider_flora.runs.deadline import NO_TRIGGERER_GRACE, Deadline
from airflow_provider_flora.runs.parameters import given, number, one_of

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context, ObjectStoragePath

    from airflow_provider_flora.api.client import FloraClient
    from airflow_provider_flora.api.inputs import Inputs
    from airflow_provider_flora.api.models import Run, RunInput, Technique
    from airflow_provider_flora.files.downloading import Downloads
    from airflow_provider_flora.files.inputs import InputFiles
    from airflow_provider_flora.hooks.flora import FloraHook
    from airflow_provider_flora.runs.starting import Order
    from airflow_provider_flora.runs.techniques import RecentTechnique


class FloraRunTechniqueOperator(BaseOperator):
    """Run a Flora technique exactly once and hand its outputs on.

    **A run costs money and cannot be cancelled.** Before one is started, every mistake in the inputs is reported
    at once; after it, no crash, retry or restart of Airflow starts another: see :doc:`/reliability`.

    The return value is a dict with ``run_id``, ``technique_id``, ``status``, ``outputs`` (each ``{"output_id",
    "type", "url"}``), ``output_urls`` (media), ``output_texts``, ``charged_cost`` (USD, or ``None`` while Flora
    has not told it), ``created_at``, ``started_at`` and ``completed_at`` (unix milliseconds). ``op.output[key]``
    passes ``outputs``, ``output_urls``, ``output_texts``, ``run_id`` or ``charged_cost`` to another task.

    :param technique_id: id or slug of the technique. (templated)
    :param inputs: ``{input_id: value}`` or Flora's own list of ``{"id", "type", "value"}``; a value of ``None`` is
        left out. An image or a film is an ``https://`` URL, or a file that is uploaded first: a local path or the
        URI of a storage, ``s3://conn_id@bucket/key``. See :doc:`/uploads`. (templated)
    :param flora_conn_id: the connection. (templated)
    :param wait_for_completion: wait for the run to finish. Without it the value has the run's id and status only.
    :param deferrable: wait in the triggerer, without holding a worker. Default: Airflow's ``default_deferrable``.
    :param poll_interval: seconds between two looks at the run; Flora recommends 2 to 5. (templated)
    :param timeout: seconds to wait at most, as does ``execution_timeout``: the earlier wins. The run goes on at
        Flora, and the next try waits for it. (templated)
    :param callback_url: public HTTPS URL that Flora calls once when the run has finished. (templated)
    :param validate_inputs: check the inputs against the technique before anything is spent.
    :param max_run_cost: USD; a technique whose price, of the last minute, is higher is not run. (templated)
    :param returns: ``run`` for the dict above, ``outputs`` for its list of outputs, so that a downstream task can
        be mapped over it.
    :param on_unknown_start: where it cannot be told whether an earlier try started a run: ``stop`` with an error
        that names the runs it could be, or ``restart`` and accept a second charge.
    :param adopt_run_id: wait for this run and start none. (templated)
    :param download_to: put the outputs as files into this folder, of any storage that Airflow's
        ``ObjectStoragePath`` reaches: ``s3://conn_id@bucket/prefix/{{ ds }}/``. The value has ``files`` then, each
        ``{"uri", "media_type", "bytes", "sha256", "output_id"}``. See :doc:`/downloads`. (templated)
    :param file_name: the names of these files, from ``technique``, ``run_id``, ``output_id``, ``index`` and
        ``ext``. (templated)
    :raises AirflowFailException: what no retry can mend: wrong inputs, a price above ``max_run_cost``, a run that
        failed with "change the input" or "give up".
    :raises FloraRunFailedError: the run failed and a retry, which is a new run, may succeed.
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
        "adopt_run_id",
        "download_to",
        "file_name",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {"inputs": "json"}
    operator_extra_links = (FloraTechniqueLink(),)
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
        returns: str = "run",
        on_unknown_start: str = "stop",
        adopt_run_id: str | None = None,
        download_to: str | ObjectStoragePath | None = None,
        file_name: str = "{technique}-{run_id}-{output_id}.{ext}",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        one_of("returns", returns, ("run", "outputs"))
        one_of("on_unknown_start", on_unknown_start, ("stop", "restart"))
        if returns == "outputs" and not wait_for_completion:
            raise ValueError("returns='outputs' needs wait_for_completion=True: a run that goes on has no outputs")
        if download_to is not None and not wait_for_completion:
            raise ValueError("download_to needs wait_for_completion=True: a run that goes on has no outputs")
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
        self.returns = returns
        self.on_unknown_start = on_unknown_start
        self.adopt_run_id = adopt_run_id
        self.download_to = download_to
        self.file_name = file_name
        self._run_id: str | None = None

    def execute(self, context: Context) -> Any:
        """Check, start once, wait, hand over."""
        from airflow_provider_flora.runs.outcome import airflow_errors

        hook = self._hook()
        with airflow_errors(), hook.get_conn() as client:
            deadline = Deadline(number("timeout", self.timeout), self.execution_timeout)
            number("poll_interval", self.poll_interval)  # told now: once the run has started, it has cost money
            self._downloads()
            run = self._start(client, context)
            self._run_id = run.run_id
            if self.do_xcom_push:
                context["ti"].xcom_push(key="run_id", value=run.run_id)
            if run.settled or not self.wait_for_completion:
                return self._hand_over(run, context, hook)
            if not self.deferrable:
                return self._hand_over(self._wait(client, run, deadline), context, hook)
        return self._defer(run, deadline)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Hand over the finished run that the trigger's event carries."""
        from airflow_provider_flora.runs.outcome import airflow_errors, run_of_event

        with airflow_errors():
            return self._hand_over(run_of_event(event), context, self._hook())

    def on_kill(self) -> None:
        """Say what goes on: Flora cannot cancel a run."""
        if self._run_id:
            self.log.warning("%s goes on at Flora, which cannot cancel runs; a retry takes it up", self._run_id)

    def _start(self, client: FloraClient, context: Context) -> Run:
        from airflow_provider_flora.runs.starting import Starter, memory_of

        files = self._input_files(client, context)
        starter = Starter(
            client,
            technique_id=self.technique_id,
            given=files.digested(),
            order=lambda: self._order(client, context, files),
            callback_url=given(self.callback_url),
            memory=memory_of(context),
            max_tries=context["ti"].max_tries,
            on_unknown_start=self.on_unknown_start,
            siblings=lambda: _runs_of_siblings(context),
            log=self.log,
        )
        adopt_run_id = given(self.adopt_run_id)
        return starter.start() if adopt_run_id is None else starter.adopt(adopt_run_id)

    def _input_files(self, client: FloraClient, context: Context) -> InputFiles:
        from airflow_provider_flora.files.inputs import InputFiles
        from airflow_provider_flora.files.remembering import AssetMemory, seed_of

        memory = AssetMemory(context.get("task_state_store"), self.log)
        return InputFiles(self.inputs, client, memory, seed_of(context), self.log)

    def _order(self, client: FloraClient, context: Context, files: InputFiles) -> Order:
        from airflow_provider_flora.runs.starting import Order
        from airflow_provider_flora.runs.techniques import RecentTechnique

        technique = RecentTechnique(client, self.technique_id)
        if self.do_xcom_push:  # before anything is refused: the page is where a person looks next
            page = technique_url(client.settings, technique.found.slug or technique.found.technique_id)
            context["ti"].xcom_push(key=TECHNIQUE_URL_KEY, value=page)
        inputs = technique.checked(lambda found: self._inputs_for(found, client, files))
        return Order(
            technique.found.technique_id,
            lambda: files.uploaded(inputs, technique.found),
            lambda: self._check_before_spending(technique),
        )

    def _inputs_for(self, technique: Technique, client: FloraClient, files: InputFiles) -> list[RunInput]:
        from airflow_provider_flora.api.inputs import check_inputs, run_inputs

        if not self.validate_inputs:
            return run_inputs(files.given, self.technique_id, technique)
        return check_inputs(
            files.given,
            technique,
            on_own_origin=client.settings.on_own_origin,
            file_problem=files.problem,
        )

    def _check_before_spending(self, technique: RecentTechnique) -> None:
        technique.checked(self._check_price)
        if downloads := self._downloads():
            downloads.check_folder()

    def _check_price(self, technique: Technique) -> None:
        from airflow_provider_flora.api.errors import FloraPriceError

        max_run_cost = given(self.max_run_cost)
        if max_run_cost is None:
            self.log.info("A run of %s costs %s USD", technique.name, technique.run_cost)
            return
        limit = number("max_run_cost", max_run_cost, at_least=0.0)
        if technique.run_cost is None or technique.run_cost > limit:
            raise FloraPriceError(self.technique_id, technique.run_cost, limit)

    def _wait(self, client: FloraClient, run: Run, deadline: Deadline) -> Run:
        from airflow_provider_flora.api.errors import FloraRunTimeoutError

        try:
            return client.wait_for_technique_run(
                self.technique_id,
                run.run_id,
                number("poll_interval", self.poll_interval),
                deadline.seconds_left(),
                on_change=lambda seen: self.log.info("%s is %s, %g %%", seen.run_id, seen.status, seen.progress),
            )
        except AirflowTaskTimeout:
            raise FloraRunTimeoutError(run.run_id, self.technique_id, "within the execution_timeout") from None

    def _defer(self, run: Run, deadline: Deadline) -> None:
        from airflow_provider_flora.triggers.flora import FloraTechniqueRunTrigger

        self.defer(
            trigger=FloraTechniqueRunTrigger(
                technique_id=self.technique_id,
                run_id=run.run_id,
                deadline=deadline.unix_time(),
                poll_interval=number("poll_interval", self.poll_interval),
                flora_conn_id=self.flora_conn_id,
            ),
            method_name="execute_complete",
            # The trigger keeps the deadline and says what the run does; this is for when no triggerer is alive.
            timeout=timedelta(seconds=deadline.seconds_left()) + NO_TRIGGERER_GRACE,
        )

    def _hand_over(self, run: Run, context: Context, hook: FloraHook) -> Any:
        from airflow_provider_flora.runs.outcome import hand_over
        from airflow_provider_flora.runs.starting import mark_delivered, memory_of

        downloads = self._downloads() if self.wait_for_completion else None
        download = None
        if downloads is not None:
            store = context.get("task_state_store")
            download = partial(downloads.fetch, run, self.technique_id, hook.settings, store)
        value = hand_over(run, self.technique_id, context, self.returns, download)
        mark_delivered(memory_of(context), self.log)
        return value

    def _downloads(self) -> Downloads | None:
        download_to = given(self.download_to)
        if download_to is None:
            return None
        from airflow_provider_flora.files.downloading import Downloads

        return Downloads(download_to, self.file_name, self.log)

    def _hook(self) -> FloraHook:
        from airflow_provider_flora.hooks.flora import FloraHook

        return FloraHook(self.flora_conn_id)


def _runs_of_siblings(context: Context) -> set[str]:
    """Return the runs of the other mapped instances of this task, as far as they have told of one."""
    ti = context["ti"]
    if ti.map_index is None or ti.map_index < 0:
        return set()
    # Without map_indexes: all of them. One alone comes as itself, not in a list.
    found = ti.xcom_pull(task_ids=ti.task_id, key="run_id")
    return {found} if isinstance(found, str) else {run_id for run_id in found or () if isinstance(run_id, str)}
