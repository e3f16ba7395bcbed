"""``emulator``: the same as ``python -m airflow_provider_flora.emulator``, with the same arguments."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from airflow_provider_flora.cli.command import Command, Options

if TYPE_CHECKING:
    from airflow_provider_flora.cli.terminal import Terminal


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    # The emulator has a parser of its own, which would slow down every other command. So all that follows is passed
    # on to it, options and --help among it: for this parser, no argument begins with the sign of an option.
    parser.prefix_chars = "\0"
    parser.add_argument("arguments", metavar="ARGUMENT", nargs=argparse.REMAINDER, help="see emulator --help")


def _serve(options: Options, _: Terminal) -> int:
    from airflow_provider_flora.emulator.__main__ import main

    return main(options.arguments)


EMULATOR = Command(
    "emulator",
    "Serve a local Flora to develop DAGs against without paying.",
    _add_arguments,
    _serve,
    uses_flora=False,
)
