"""``techniques`` and ``technique``: what can be run, what it takes, and DAG files that run it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from airflow_provider_flora.cli.command import Command, Options
from airflow_provider_flora.cli.connection import open_client
from airflow_provider_flora.cli.terminal import usd

if TYPE_CHECKING:
    from airflow_provider_flora.api.models import Slot, Technique
    from airflow_provider_flora.cli.terminal import Terminal


def _add_query(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("query", metavar="QUERY", nargs="?", help="text to find in names and descriptions")


def _list(options: Options, terminal: Terminal) -> None:
    with open_client(options, terminal) as client:
        techniques = client.list_techniques(options.query)
        if terminal.as_json:
            terminal.json([technique.model_dump() for technique in techniques])
            return
        columns = ("TECHNIQUE", "NAME", ">USD", "INPUTS", "OUTPUTS")
        count = terminal.table(columns, terminal.in_pages(map(_row, techniques)))
    found = "1 technique" if count == 1 else f"{count} techniques"
    terminal.say(f"{found}. A star marks an optional input.", style="dim")


def _row(technique: Technique) -> list[str]:
    return [
        technique.slug or technique.technique_id,
        technique.name,
        usd(technique.run_cost),
        ", ".join(slot.id + "*" * slot.optional for slot in technique.inputs),
        ", ".join(slot.id for slot in technique.outputs),
    ]


def _add_technique(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("technique", metavar="ID", help="id or slug of a technique")
    forms = parser.add_mutually_exclusive_group()
    forms.add_argument("--dag", action="store_true", help="print a DAG file that runs it")
    forms.add_argument("--batch", action="store_true", help="print a DAG file that runs it for each row of a CSV")


def _show(options: Options, terminal: Terminal) -> None:
    with open_client(options, terminal) as client:
        technique = client.get_technique(options.technique)
        if options.dag or options.batch:
            from airflow_provider_flora.cli.dag_files import batch_file, dag_file

            file = (dag_file if options.dag else batch_file)(technique, client.settings)
            (terminal.json if terminal.as_json else terminal.text)(file)
            return
    if terminal.as_json:
        terminal.json(technique.model_dump())
        return
    price = "Flora names none" if technique.run_cost is None else f"{usd(technique.run_cost)} USD a run"
    terminal.fields(
        [
            ("Technique", technique.slug or technique.technique_id),
            *([("Id", technique.technique_id)] if technique.slug else []),
            ("Name", technique.name),
            *([("Description", technique.description)] if technique.description else []),
            ("Price", price),
        ]
    )
    for heading, slots in (("INPUT", technique.inputs), ("OUTPUT", technique.outputs)):
        terminal.line()
        columns = (
            (heading, "TYPE", "NEEDED", "TAKES", "ABOUT")
            if heading == "INPUT"
            else (heading, "TYPE", "GIVES", "ABOUT")
        )
        terminal.table(columns, [[_slot_row(slot, heading == "INPUT") for slot in slots]])


def _slot_row(slot: Slot, is_input: bool) -> list[str]:
    from airflow_provider_flora.api.inputs import details_of

    marks = ["several values"] * slot.allow_multiple + ["or an element's id"] * slot.accepts_element
    about = ": ".join(dict.fromkeys(text for text in (slot.name, slot.description) if text))
    needed = ["no" if slot.optional else "yes"] if is_input else []
    return [slot.id, slot.type, *needed, ", ".join(marks + details_of(slot)), about]


TECHNIQUES = Command("techniques", "List the techniques that the key can run.", _add_query, _list)
TECHNIQUE = Command(
    "technique", "Show what a technique takes, gives and costs, or a DAG of it.", _add_technique, _show
)
