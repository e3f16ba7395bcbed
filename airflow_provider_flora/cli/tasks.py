"""``task``, ``adopt`` and ``abandon``: the record of a task's run in words, and changes of it.

What the next attempt does is what ``runs.starting`` decides: ``task`` asks the same function.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from airflow_provider_flora.api.errors import FloraAPIError, FloraError, FloraParameterError
from airflow_provider_flora.cli.command import Command, Options
from airflow_provider_flora.cli.database import (
    add_task,
    add_yes,
    open_client_here,
    open_database,
    read_named_task,
)
from airflow_provider_flora.cli.runs import as_json
from airflow_provider_flora.cli.terminal import time_of, usd

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_provider_flora.api.models import Run
    from airflow_provider_flora.cli.terminal import Terminal
    from airflow_provider_flora.metadata.reading import TaskView
    from airflow_provider_flora.metadata.records import Instance
    from airflow_provider_flora.runs.dag_run_budget import Register
    from airflow_provider_flora.runs.record import Record
    from airflow_provider_flora.runs.starting import Gone

_OUTLOOK = {
    "NEW": "starts a run, which costs {price}",
    "AT_WORK": "waits until the start that was not answered has certainly ended, and then finds its run",
    "UNANSWERED": "sends the start again with its key, of which Flora makes one run: {price} at most once",
    "UNKNOWABLE": "looks for the run in the history. It stops if one may be its own, and otherwise starts one, "
    "which costs {price}",
    "STARTED": "asks Flora for {run_id}, and goes on with it; at no cost unless the run has failed",
    "ACTIVE": "waits for {run_id}, at no further cost",
    "COMPLETED": "hands over {run_id}, at no further cost",
    "DELIVERED": "starts a new run, which costs {price}: {run_id} was handed over",
    "FAILED": "starts a new run in place of {run_id}, which costs {price}",
    "FAILED_FOR_GOOD": "fails again with the error of {run_id}, at no cost: a retry cannot fix it",
    "GONE": "stops, since Flora does not show {run_id} to this connection",
}
"""What an attempt does in each state that it may be in with the inputs that it had before."""
_ENDED = ("success", "failed", "upstream_failed", "skipped", "removed")


@dataclass(frozen=True)
class Found:
    """All that is known of a task instance.

    :param rows: number of a batch's rows by what is known of their runs.
    :param share: what it has spent and reserved, if its DAG run has a budget.
    :param run: its run as Flora has it; ``None`` if Flora was not asked, or did not answer.
    """

    view: TaskView
    instance: Instance
    record: Record | None
    rows: Mapping[str, int] | None
    share: Register | None
    run: Run | Gone | None
    flora_time: float


def outlook(found: Found, *, cleared: bool) -> tuple[str, str]:
    """Return the state in which the next attempt finds the task's run, and in words what it does then.

    :param cleared: whether a person clears the task before.
    """
    from airflow_provider_flora.metadata.records import has_store
    from airflow_provider_flora.runs.starting import Facts, decide

    record = found.record
    price = f"{usd(found.view.run_cost)} USD" if found.view.run_cost is not None else "what the technique costs"
    if record is None:
        return _outlook_without_record(found, price, has_store=has_store(), cleared=cleared)
    facts = Facts(now=found.flora_time, same_inputs=True, cleared=cleared, abandoned=False)
    state = decide(record, found.run, facts).name
    words = _OUTLOOK[state]
    if state == "GONE" and cleared:
        words = "starts a new run, which costs {price}: Flora does not show {run_id} to this connection"
    return state, words.format(price=price, run_id=record.run_id)


def _outlook_without_record(found: Found, price: str, *, has_store: bool, cleared: bool) -> tuple[str, str]:
    if found.instance.try_number == 0 or (cleared and not has_store):
        return "NEW", _OUTLOOK["NEW"].format(price=price)
    if has_store:
        return "UNKNOWABLE", _OUTLOOK["UNKNOWABLE"].format(price=price)
    return "UNANSWERED", _OUTLOOK["UNANSWERED"].format(price=price)


def _find(options: Options, terminal: Terminal) -> Found:
    from airflow_provider_flora.metadata.records import read_instance, read_record, read_rows, read_share

    with open_database() as session:
        view = read_named_task(session, options)
        instance = read_instance(session, view.task)
        record, rows = read_record(session, view.task), read_rows(session, view.task)
        share = read_share(session, view.task)
    run, skew = _ask_flora(view, record, options, terminal)
    now = time.time() + skew
    return Found(view, instance, record, None if rows is None else _count(rows), share, run, now)


def _ask_flora(
    view: TaskView, record: Record | None, options: Options, terminal: Terminal
) -> tuple[Run | Gone | None, float]:
    """Return the task's run, as far as Flora shows it, and by how many seconds Flora's clock is ahead."""
    from airflow_provider_flora.runs.starting import Gone

    run_id = record.run_id if record is not None else view.run.run_id
    technique = (None if record is None else record.run_technique) or view.technique
    if not run_id or not technique:
        return None, 0.0
    try:
        with open_client_here(view.conn_id, options, terminal) as client:
            try:
                return client.get_technique_run(technique, run_id), client.clock_skew or 0.0
            except FloraAPIError as error:
                if error.status != 404:
                    raise
                return Gone(), client.clock_skew or 0.0
    except FloraError as error:
        terminal.say(f"Flora was not asked for {run_id}: {error}", style="yellow")
        return None, 0.0


def _count(rows: Mapping[str, Record]) -> Mapping[str, int]:
    return Counter(
        "with a run" if record.run_id else "started without an answer" if record.sent else "not started"
        for record in rows.values()
    )


def _task(options: Options, terminal: Terminal) -> None:
    found = _find(options, terminal)
    if terminal.as_json:
        terminal.json(_as_json(found))
        return
    terminal.fields(_fields(found))


def _fields(found: Found) -> list[tuple[str, str]]:
    view, instance, run = found.view, found.instance, found.view.run
    task = view.task
    mapped = f"  map index {task.map_index}" if task.map_index >= 0 else ""
    tries = "1 try" if instance.try_number == 1 else f"{instance.try_number} tries"
    fields = [
        ("Task", f"{task.dag_id}  {task.run_id}  {task.task_id}{mapped}"),
        ("State", f"{view.state or 'none'}, {tries}"),
        ("Operator", view.operator),
        ("Connection", view.conn_id or "not known"),
        ("Technique", view.technique or "not known"),
    ]
    if view.run_cost is not None:
        fields.append(("Price", f"{usd(view.run_cost)} USD"))
    if view.manifest or found.rows is not None:
        fields += _fields_of_batch(found)
    elif not view.asks_person:
        fields += _fields_of_record(found)
    if found.share is not None:
        fields.append(("Budget", _share_in_words(found.share)))
    if run.charged_cost is not None or view.state == "success":
        fields.append(("Charged", "not known yet" if run.charged_cost is None else f"{usd(run.charged_cost)} USD"))
    if run.outputs:
        fields.append(("Outputs", f"{len(run.outputs)}, and {len(run.files)} files of them"))
    if run.error:
        remedy = f" ({run.error['remedy']})" if run.error["remedy"] else ""
        fields.append(("Error", f"{run.error['code']}{remedy}: {run.error['message']}"))
    if found.rows is None and not view.manifest:
        fields += [(name, f"{entry['does']}  [{entry['state']}]") for name, entry in _outlooks(found).items()]
    return fields


def _fields_of_batch(found: Found) -> list[tuple[str, str]]:
    view = found.view
    counts = ", ".join(f"{name} {number:g}" for name, number in view.counts.items())
    rows = ", ".join(f"{count:,} {what}" for what, count in (found.rows or {}).items())
    return [
        ("Manifest", view.manifest or "not known"),
        *([("Progress", view.progress)] if view.progress else []),
        *([("Result", counts)] if counts else []),
        ("Journal", rows or ("no row since the last success" if found.rows is not None else "not in this Airflow")),
        ("A clear", "goes on with its rows: one that is completed and unchanged is not paid again"),
    ]


def _fields_of_record(found: Found) -> list[tuple[str, str]]:
    from airflow_provider_flora.metadata.records import has_store

    record = found.record
    if record is None:
        why = "none is stored" if has_store() else "none: Airflow keeps one from 3.3 on"
        return [("Record", why), ("Run", _run_in_words(found, found.view.run.run_id))]
    fields = [("Run", _run_in_words(found, record.run_id))]
    if record.run_id:
        fields.append(("Handed over", "yes" if record.delivered else "no"))
    if record.adopted or not record.run_id:
        sent = [
            f"a start of {time_of(start * 1000)}, which has certainly ended by {time_of(end * 1000)}"
            for start, end in record.sent
        ]
        fields.append(("Unanswered", "; ".join(sent) or "no start"))
    if record.presumed:
        fields.append(("Presumed", "the record was lost, and earlier tries may have sent the start"))
    if record.past:
        fields.append(("Earlier runs", ", ".join(record.past)))
    if record.files:
        fields.append(("Files", ", ".join(record.files)))
    return fields


def _share_in_words(share: Register) -> str:
    if share.before is None:
        return "not known what it has spent of max_dag_run_cost"
    earlier = f", and {usd(share.before)} USD by earlier runs" if share.before else ""
    return f"{usd(share.reserved)} USD of max_dag_run_cost{earlier}"


def _run_in_words(found: Found, run_id: str | None) -> str:
    from airflow_provider_flora.runs.starting import Gone

    if not run_id:
        return "none that is known"
    if isinstance(found.run, Gone):
        return f"{run_id}, which Flora does not show to this connection"
    return f"{run_id}, {found.run.status} at Flora" if found.run is not None else run_id


def _outlooks(found: Found) -> dict[str, dict[str, str]]:
    """Return what the next attempt does: as a retry, if there may be one, and after a clear."""
    moments = {} if found.view.state in _ENDED else {"The next try": False}
    moments["A clear"] = True
    found_states = {name: outlook(found, cleared=cleared) for name, cleared in moments.items()}
    return {name: {"state": state, "does": words} for name, (state, words) in found_states.items()}


def _as_json(found: Found) -> dict[str, Any]:
    from airflow_provider_flora.runs.starting import Gone

    view, run = found.view, found.view.run
    outlooks = _outlooks(found) if found.rows is None and not view.manifest else {}
    flora = None if found.run is None or isinstance(found.run, Gone) else as_json(found.run)
    return {
        "task": asdict(view.task),
        "state": view.state,
        "try_number": found.instance.try_number,
        "operator": view.operator,
        "conn_id": view.conn_id,
        "technique": view.technique,
        "run_cost": view.run_cost,
        "run_id": found.record.run_id if found.record is not None else run.run_id,
        "charged_cost": run.charged_cost,
        "record": None if found.record is None else found.record.to_plain(),
        "manifest": view.manifest,
        "progress": view.progress,
        "counts": dict(view.counts),
        "rows": None if found.rows is None else dict(found.rows),
        "share": None if found.share is None else {"before": found.share.before, "reserved": found.share.reserved},
        "error": None if run.error is None else dict(run.error),
        "run": flora,
        "next_try": outlooks.get("The next try"),
        "clear": outlooks.get("A clear"),
    }


def _add_adopt(parser: argparse.ArgumentParser) -> None:
    add_task(parser)
    parser.add_argument("run", metavar="FLORA_RUN", help="id of the run at Flora, such as run_abc123")
    parser.add_argument("--technique", metavar="ID", help="the run's technique. Default: the task's")
    add_yes(parser)


def _adopt(options: Options, terminal: Terminal) -> None:
    from airflow_provider_flora.metadata.records import change_record, check_is_changeable, read_record
    from airflow_provider_flora.metadata.undelivered import tasks_of_run
    from airflow_provider_flora.runs.record import adopt, lost_record

    with open_database() as session:
        view = read_named_task(session, options)
        _refuse_what_has_no_run(view)
        check_is_changeable(session, view.task)
        known = read_record(session, view.task)
        technique = options.technique or _technique_of(view, known)
        _refuse_others(tasks_of_run(session, options.run), view, options.run)
    with open_client_here(view.conn_id, options, terminal) as client:
        run = client.get_technique_run(technique, options.run)
        skew = client.clock_skew or 0.0
        duration = _start_duration(client)
    if run.failed:
        raise FloraError(f"{run.run_id} has failed, so there is nothing to hand over. Nothing was changed.")
    status = "has completed" if run.completed else f"is {run.status}"
    if not terminal.agrees(
        f"{run.run_id} of {technique} {status}. {_where(view)} hands it over and starts none, whatever its inputs "
        f"are. {_instead_of(known, run.run_id)}",
        yes=options.yes,
    ):
        return

    def change(earlier: Record | None, instance: Instance) -> Record:
        if earlier is None and instance.try_number > 0:  # it was lost: earlier attempts may have sent a start
            earlier = lost_record(instance.due + skew, time.time() + skew + duration)
        return adopt(run.run_id, earlier, instance.blank(technique))

    with open_database() as session:
        _refuse_others(tasks_of_run(session, options.run), view, options.run)
        record = change_record(session, view.task, change)
    _tell(view, record, terminal, f"The task's run is {run.run_id} now.", "hands that run over")


def _start_duration(client: Any) -> float:
    from airflow_provider_flora.api.starts import start_duration

    return start_duration(client.settings)


def _technique_of(view: TaskView, record: Record | None) -> str:
    technique = (None if record is None else record.run_technique) or view.technique
    if not technique:
        raise FloraParameterError("The task has not said which technique it runs. Name it with --technique.")
    return technique


def _refuse_what_has_no_run(view: TaskView) -> None:
    if view.operator in ("FloraChooseOutputOperator", "FloraTechniqueRunSensor"):
        raise FloraParameterError(f"A {view.operator} starts no run, so it has no record of one.")


def _refuse_others(others: list[str], view: TaskView, run_id: str) -> None:
    from airflow_provider_flora.metadata.records import describe

    if others := [other for other in others if other != describe(view.task)]:
        raise FloraError(
            f"{run_id} is another task's, and is not handed over twice: it is that of the {others[0]}. Nothing was "
            "changed."
        )


def _where(view: TaskView) -> str:
    return "The task's next try" if view.state in (None, "up_for_retry") else "After a clear, the task"


def _instead_of(record: Record | None, run_id: str) -> str:
    if record is None or not record.was_sent or record.delivered or record.run_id == run_id:
        return ""
    if record.run_id is None:
        return "A start without an answer is left, which may have made another run that is charged."
    return f"{record.run_id}, which the task has had, is left, and is charged if it completes."


def _add_abandon(parser: argparse.ArgumentParser) -> None:
    add_task(parser)
    add_yes(parser)


def _abandon(options: Options, terminal: Terminal) -> None:
    from airflow_provider_flora.metadata.records import change_record, check_is_changeable, read_record
    from airflow_provider_flora.runs.record import abandon

    with open_database() as session:
        view = read_named_task(session, options)
        _refuse_what_has_no_run(view)
        instance = check_is_changeable(session, view.task)
        known = read_record(session, view.task)
    why = None
    if known is not None and known.delivered:
        why = f"it has handed {known.run_id} over"
    elif instance.try_number == 0 if known is None else not known.was_sent:
        why = "it has no run and no unanswered start"
    if why:
        terminal.say(f"There is nothing to abandon: {why}. The next execution starts a run anyway.")
        return
    price = f"{usd(view.run_cost)} USD" if view.run_cost is not None else "what the technique costs"
    what = "a start without an answer" if known is None or known.run_id is None else known.run_id
    if not terminal.agrees(
        f"{_where(view)} leaves {what}, which is charged if it completes, and starts another run, which costs "
        f"{price}.",
        yes=options.yes,
    ):
        return

    def change(earlier: Record | None, instance: Instance) -> Record:
        return abandon(earlier, instance.try_number, instance.blank(view.technique or ""))

    with open_database() as session:
        record = change_record(session, view.task, change)
    _tell(view, record, terminal, f"The task has left {what}.", "starts a run")


def _tell(view: TaskView, record: Record, terminal: Terminal, done: str, then: str) -> None:
    if terminal.as_json:
        terminal.json({"task": asdict(view.task), "record": record.to_plain()})
        return
    terminal.line(done)
    if view.state in (None, "up_for_retry"):
        terminal.say(f"Its next try {then}.")
    else:
        terminal.say(f"Clear the task: it {then}. In Airflow's UI, or with `airflow tasks clear`.")


TASK = Command("task", "Show the record of a task's run, and what its next try does.", add_task, _task)
ADOPT = Command("adopt", "Make a task hand over a run that exists, and start none.", _add_adopt, _adopt)
ABANDON = Command("abandon", "Make a task leave its run, and start another one.", _add_abandon, _abandon)
