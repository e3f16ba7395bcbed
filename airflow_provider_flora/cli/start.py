"""``start``: run a technique once, from a shell. It asks before money is spent."""

from __future__ import annotations

import argparse
import shlex
from typing import TYPE_CHECKING, Any

from airflow_provider_flora.api.errors import FloraError, FloraParameterError, run_failure
from airflow_provider_flora.cli.command import FAILED, OK, Command, Options, amount
from airflow_provider_flora.cli.connection import open_client
from airflow_provider_flora.cli.files import FolderOfOutputs
from airflow_provider_flora.cli.runs import add_timeout, as_json, show_run, wait_for
from airflow_provider_flora.cli.terminal import usd

if TYPE_CHECKING:
    from airflow_provider_flora.api.client import FloraClient
    from airflow_provider_flora.api.models import Run, RunInput, Technique
    from airflow_provider_flora.cli.terminal import Terminal
    from airflow_provider_flora.files.uploads.run_inputs import InputFiles

_NOTHING = "Nothing was started or charged."


def _assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not INPUT=VALUE, such as light=neon or photo=./lamp.png")
    return name, value


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("technique", metavar="ID", help="id or slug of a technique")
    parser.add_argument(
        "-i",
        "--input",
        dest="inputs",
        action="append",
        default=[],
        type=_assignment,
        metavar="INPUT=VALUE",
        help="a text, or the URL or the file of an image or a video; once for each input",
    )
    parser.add_argument("--max-cost", type=amount, metavar="USD", help="do not start a run that costs more")
    parser.add_argument("--download", metavar="DIR", help="download the outputs into this folder")
    parser.add_argument("--yes", action="store_true", help="do not ask before the run is paid")
    add_timeout(parser)


def _start(options: Options, terminal: Terminal) -> int:
    with open_client(options, terminal) as client:
        try:
            technique, inputs, folder = _prepare(client, options, terminal)
        except KeyboardInterrupt:
            terminal.say(_NOTHING)
            raise
        if technique is None:
            return FAILED
        run, stored = _pay(client, technique, inputs, terminal), []
        try:
            run = wait_for(client, technique.technique_id, run, options.timeout, terminal)
            if folder is not None and run.completed:
                stored = _download(client, technique, run, folder, options, terminal)
        finally:  # it is paid: an error or Ctrl-C must not keep what is known of it
            if terminal.as_json:
                terminal.json({**as_json(run, technique.technique_id), "files": stored})
            elif run.finished:
                show_run(run, technique.technique_id, terminal)
                for file in stored:
                    terminal.line(file["uri"])
    if run.failed:
        raise run_failure(run, options.technique)
    return OK


def _prepare(
    client: FloraClient, options: Options, terminal: Terminal
) -> tuple[Technique | None, list[RunInput], FolderOfOutputs | None]:
    """Check everything, ask, and upload. Return no technique if the person does not agree.

    The price is read again at the end, since a person may take long to answer, and so may an upload.
    """
    technique = _get_technique(client, options)
    folder = FolderOfOutputs(options.download, terminal.log) if options.download else None
    if folder is not None:
        folder.check(technique)
    files = _make_files(client, _inputs_of(options), terminal)
    entries = _check_inputs(client, technique, files)
    costs = f"A run of {technique.name or technique.technique_id} costs {_price(technique.run_cost)}."
    if not terminal.agrees(costs, yes=options.yes, do="start it", otherwise=_NOTHING):
        return None, [], None
    inputs = files.upload(entries, technique)
    price = _get_technique(client, options).run_cost
    if price != technique.run_cost:
        raise FloraError(
            f"The price of a run was {_price(technique.run_cost)}, and is {_price(price)} now. {_NOTHING} Start it "
            "again to agree to the new price."
        )
    return technique, inputs, folder


def _get_technique(client: FloraClient, options: Options) -> Technique:
    from airflow_provider_flora.runs.techniques import check_price

    technique = client.get_technique(options.technique)
    if options.max_cost is not None:
        check_price(technique, options.technique, options.max_cost, "--max-cost")
    if options.conn_id:
        from airflow_provider_flora.hooks.flora import FloraHook
        from airflow_provider_flora.runs.daily_cost import check_daily_cost

        rules = FloraHook(options.conn_id).rules
        check_daily_cost(rules, client, options.conn_id, technique, options.technique)
    return technique


def _inputs_of(options: Options) -> dict[str, str]:
    inputs = dict(options.inputs)
    if len(inputs) < len(options.inputs):
        raise FloraParameterError(
            "An input was named twice. It takes one value: start a separate run, with its own charge, for each."
        )
    return inputs


def _make_files(client: FloraClient, inputs: dict[str, str], terminal: Terminal) -> InputFiles:
    from airflow_provider_flora.api.operations import new_idempotency_key
    from airflow_provider_flora.files.uploads.record import UploadRecord
    from airflow_provider_flora.files.uploads.run_inputs import InputFiles

    return InputFiles(inputs, client, UploadRecord(None, terminal.log), new_idempotency_key(), terminal.log)


def _check_inputs(client: FloraClient, technique: Technique, files: InputFiles) -> list[RunInput]:
    from airflow_provider_flora.api.inputs import check_inputs

    on_own_origin = client.settings.on_own_origin
    return check_inputs(files.inputs, technique, on_own_origin=on_own_origin, file_problem=files.find_problem)


def _price(cost: float | None) -> str:
    return "an unknown price" if cost is None else f"{usd(cost)} USD"


def _pay(client: FloraClient, technique: Technique, inputs: list[RunInput], terminal: Terminal) -> Run:
    from airflow_provider_flora.api.starts import Fate, fate_of

    try:
        run = client.start_technique_run(technique.technique_id, inputs)
        terminal.say(f"Started {run.run_id}")
    except BaseException as error:  # Ctrl-C among them
        fate = fate_of(error) if isinstance(error, FloraError) else Fate.UNKNOWN
        if fate in (Fate.UNKNOWN, Fate.KEY_WAS_USED):
            what = "may have been" if fate is Fate.UNKNOWN else "was"
            terminal.say(
                f"The run {what} started, and is charged if it completes. Before you start another, look at: "
                f"{terminal.program} runs --technique {technique.technique_id} --since 1h"
            )
        raise
    return run


def _download(
    client: FloraClient,
    technique: Technique,
    run: Run,
    folder: FolderOfOutputs,
    options: Options,
    terminal: Terminal,
) -> list[dict[str, Any]]:
    try:
        return folder.download(run, technique.technique_id, client)
    except (KeyboardInterrupt, FloraError):
        terminal.say(
            f"{run.run_id} has completed. Download its outputs, at no cost, with: {terminal.program} download "
            f"{run.run_id} {shlex.quote(options.download)} --technique {technique.technique_id}"
        )
        raise


START = Command(
    "start", "Start a run, wait for it, and show it. It costs money, and asks first.", _add_arguments, _start
)
