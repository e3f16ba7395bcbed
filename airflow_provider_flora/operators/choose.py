"""FloraChooseOutputOperator: asks a person which outputs to go on with.

It needs Airflow 3.1 or newer. On an older one this file can be imported, and the operator cannot be made. What is
asked is in ``runs.choosing``; slow imports are made when a task runs, as in ``operators.flora``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow_provider_flora.airflow_compat import (
    AirflowException,
    AirflowFailException,
    AirflowSkipException,
    Param,
    ParamsDict,
    airflow_is_at_least,
    ask_person,
    find_hitl_operator,
    pauses,
    response_timeout_name,
)
from airflow_provider_flora.task.parameters import check_choice, none_if_empty

if TYPE_CHECKING:
    from airflow_provider_flora.airflow_compat import Context, HITLOperator
else:
    HITLOperator = find_hitl_operator()

_UNSHOWN_NUMBER = 4
"""Airflow 3.1 shows buttons for up to three options, a list for five and more, and nothing for four."""
_NOTE: dict[str, Any] = {
    "type": ["null", "string"],
    "title": "Note",
    "description": "Why these, or why none",
    "format": "multiline",
    "maxLength": 2000,
}


class FloraChooseOutputOperator(HITLOperator):
    """Ask a person to choose among outputs. The person sees them in Airflow's UI, and may reject all with a note.

    A human-in-the-loop task, for Airflow 3.1 and newer. It starts no run, costs nothing, and waits without a
    worker. See :doc:`/choose`.

    The return value is ``{"chosen", "rejected", "note", "by", "at"}``. The first two are lists of ``{"label",
    "output_id", "type", "url", "run_id"}``. ``note`` is a text or ``None``. ``by`` is the person's ``{"id",
    "name"}``, and ``None`` if the time limit was over. ``at`` is the time of the answer in ISO 8601.

    :param outputs: the value of a task that runs a technique or of a mapped one, or the path or URI of a manifest,
        which ends in ``.jsonl``. 40 outputs at most. (templated)
    :param labels: the label of each output. Default: the ``row_id`` of a manifest's line, otherwise the position,
        from 1. (templated)
    :param subject: the headline. (templated)
    :param body: Markdown above the outputs. Not for what was generated: it is not escaped. (templated)
    :param multiple: whether several outputs may be chosen.
    :param on_reject: what happens if all are rejected. ``skip``: the task is skipped, and so are those after it.
        ``fail``: it fails, without a retry. ``return``: it succeeds, with nothing chosen. The value is an XCom in
        any case.
    :param response_timeout: longest wait for an answer. Then the answer is ``defaults``; if there are none, the
        task fails. Default: no limit.
    :param defaults: label of an output, ``FloraChooseOutputOperator.REJECT``, or a list of labels.
    :param assigned_users: who may answer: ``{"id", "name"}``, or a list of these. Default: everybody whom Airflow
        allows to answer tasks of the DAG.
    :param notifiers: Airflow notifiers that are called when the wait begins.
    :param flora_conn_id: the connection. Outputs on its own origin are shown even if that is not https. (templated)
    :raises AirflowFailException: a person cannot be asked about these outputs; or all are rejected and
        ``on_reject`` is ``fail``.
    :raises AirflowSkipException: all are rejected, and ``on_reject`` is ``skip``.
    :raises AirflowException: the answer is not clear. A retry asks again.
    :raises AirflowOptionalProviderFeatureException: this Airflow is older than 3.1.
    """

    REJECT = "Reject all"

    template_fields: Sequence[str] = ("outputs", "labels", "subject", "body", "flora_conn_id")
    ui_color = "#e8f0e4"

    def __init__(
        self,
        *,
        outputs: Any,
        labels: Sequence[str] | None = None,
        subject: str = "Choose an output",
        on_reject: str = "skip",
        response_timeout: timedelta | None = None,
        flora_conn_id: str = "flora_default",
        **kwargs: Any,
    ) -> None:
        check_choice("on_reject", on_reject, ("skip", "fail", "return"))
        if response_timeout is not None:
            kwargs[response_timeout_name()] = response_timeout
        super().__init__(subject=subject, options=[], **kwargs)
        # The whole form. Some versions of Airflow would show the DAG's params too, and demand them. Airflow 3.1
        # would show a note of None as "[object Object]".
        self.params = ParamsDict({"note": Param("", **_NOTE)})
        self.outputs = outputs
        self.labels = labels
        self.on_reject = on_reject
        self.flora_conn_id = flora_conn_id

    def validate_options(self) -> None:
        """Accept that there are no options yet: a task's outputs are known when this task runs."""

    def validate_defaults(self) -> None:
        """Check the defaults, as soon as the options are known.

        :raises ValueError: they are no options, or too many.
        """
        if self.options:
            super().validate_defaults()

    def execute(self, context: Context) -> Any:
        """Show the outputs, and wait."""
        from airflow_provider_flora.runs.choosing import check_size, find_outputs, show
        from airflow_provider_flora.runs.outcome import airflow_errors

        with airflow_errors(context):
            outputs = find_outputs(self._read_outputs(), self.labels, self.REJECT)
            shown = show(outputs, self._is_on_own_origin)
            above = none_if_empty(self.body)
            self.body = f"{above}\n\n{shown}" if above else shown
            check_size(self.body)
        self._set_options(outputs)
        try:
            self.validate_defaults()
        except ValueError as error:
            raise AirflowFailException(str(error)) from None
        if len(self.options) == _UNSHOWN_NUMBER and not airflow_is_at_least(3, 2):
            self.multiple = True  # shown as a list; execute_complete takes one option only
        if not ask_person(self, context["ti"].id).endswith(shown):
            raise AirflowFailException(
                "Airflow shows the outputs of an earlier attempt of this task, and these are others. It does not "
                "replace what it has once asked. Trigger a new DAG run."
            )
        try:
            super().execute(context)
        except pauses() as pause:
            # Whatever becomes of the manifest or the other task meanwhile: what was shown is what is chosen.
            pause.kwargs = {**(pause.kwargs or {}), "outputs": outputs}
            raise

    def execute_complete(
        self, context: Context, event: dict[str, Any], outputs: Sequence[dict[str, Any]] = ()
    ) -> dict[str, Any]:
        """Return what was chosen.

        :raises HITLTimeoutError: the time is over, and there are no defaults.
        """
        self._set_options(outputs)
        answer = super().execute_complete(context, event)
        picked = set(answer["chosen_options"])
        if len(picked) > 1 and self.REJECT in (self.defaults or ()):
            picked.discard(self.REJECT)  # Airflow's list begins with the defaults, and a person has added to them
        if len(picked) > 1 and (self.REJECT in picked or not self.multiple):
            raise AirflowException(f"The answer is not clear: {sorted(picked)}. A retry or a clear asks again.")
        by = answer["responded_by_user"]
        value = {
            "chosen": [output for output in outputs if output["label"] in picked],
            "rejected": [output for output in outputs if output["label"] not in picked],
            "note": answer["params_input"].get("note") or None,
            "by": dict(by) if by else None,
            "at": answer["responded_at"].isoformat(),
        }
        self.log.info("%s", _summary(value))
        if not value["chosen"] and self.on_reject != "return":
            if self.do_xcom_push:
                context["ti"].xcom_push(key="return_value", value=value)
            raise (AirflowSkipException if self.on_reject == "skip" else AirflowFailException)(_summary(value))
        return value

    def _set_options(self, outputs: Sequence[Mapping[str, Any]]) -> None:
        self.options = [*(output["label"] for output in outputs), self.REJECT]

    def _read_outputs(self) -> Any:
        manifest = manifest_of(self.outputs)
        return self.outputs if manifest is None else _completed_lines(manifest)

    def _is_on_own_origin(self, url: str) -> bool:
        from airflow_provider_flora.hooks.flora import FloraHook

        return FloraHook(self.flora_conn_id).settings.on_own_origin(url)


def manifest_of(outputs: Any) -> str | None:
    """Return the path or URI of the manifest that has the outputs, or ``None`` if they are given in another way."""
    from airflow_provider_flora.files.storage import as_uri

    location = as_uri(outputs)
    return location if isinstance(location, str) and location.endswith(".jsonl") else None


def _completed_lines(manifest: str) -> Iterator[Mapping[str, Any]]:
    from airflow_provider_flora.batch import read_manifest

    return (line for line in read_manifest(manifest) if line.get("status") == "completed")


def _summary(value: Mapping[str, Any]) -> str:
    """Return an answer in one line for the log. Labels and note are shown as Python texts, without line breaks."""
    by = repr(value["by"]["name"]) if value["by"] else "The default, after the time limit,"
    labels = [output["label"] for output in value["chosen"]]
    what = f"chose {labels}" if labels else f"rejected all {len(value['rejected'])} outputs"
    note = f", with the note {value['note']!r}" if value["note"] else ""
    return f"{by} {what}{note}"
