"""The program: its commands, and what becomes of their errors."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import redirect_stdout
from functools import partial

from rich_argparse import RichHelpFormatter

from airflow_provider_flora.api.errors import FloraError, FloraParameterError, FloraSettingsError
from airflow_provider_flora.cli import check, emulator, files, runs, spend, start, tasks, techniques, upkeep
from airflow_provider_flora.cli.command import FAILED, INTERRUPTED, OK, USAGE, Command, Options
from airflow_provider_flora.cli.streams import ReaderLeftError, usable_streams
from airflow_provider_flora.cli.terminal import Terminal
from airflow_provider_flora.version import __version__

PROGRAM = "python -m airflow_provider_flora"
_FORMATTER = partial(RichHelpFormatter, max_help_position=22)
COMMANDS: tuple[Command, ...] = (
    techniques.TECHNIQUES,
    techniques.TECHNIQUE,
    check.CHECK,
    runs.RUNS,
    runs.RUN,
    start.START,
    runs.WAIT,
    files.UPLOAD,
    files.DOWNLOAD,
    spend.SPEND,
    tasks.TASK,
    tasks.ADOPT,
    tasks.ABANDON,
    upkeep.UNDELIVERED,
    upkeep.RECONCILE,
    emulator.EMULATOR,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0, 1 (a mistake was found, a run failed), 2 (usage) or 130 (Ctrl-C).

    :param arguments: the command line without the program.
    """
    parser = make_parser()
    if "_ARGCOMPLETE" in os.environ:  # a shell asks for completions
        import argcomplete

        argcomplete.autocomplete(parser)
    options = parser.parse_args(arguments)
    return run_command(options.command, options, PROGRAM)


def make_parser() -> argparse.ArgumentParser:
    """Make the parser. Its result has the command as ``command``."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Find, check, start and follow Flora's techniques and their runs.",
        formatter_class=_FORMATTER,
    )
    parser.add_argument("-V", "--version", action="version", version=f"airflow-provider-flora {__version__}")
    subparsers = parser.add_subparsers(prog=PROGRAM, metavar="COMMAND", required=True)
    for command in COMMANDS:
        own = subparsers.add_parser(
            command.name, help=command.help, description=command.help, formatter_class=_FORMATTER
        )
        command.add_all_arguments(own)
        own.set_defaults(command=command)
    return parser


def run_command(command: Command, options: Options, program: str) -> int:
    """Run a command and return its exit code. An error is a sentence; its traceback is shown with ``--debug``."""
    usable_streams()
    terminal = Terminal(program, as_json=getattr(options, "json", False))
    try:
        # Airflow 2 logs to the standard output, which is for results alone. The emulator prints by itself.
        with redirect_stdout(sys.stderr if command.uses_flora else terminal.results):
            code = command.run(options, terminal) or OK
    except ReaderLeftError:
        return OK
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        if getattr(options, "debug", False):
            terminal.error(traceback.format_exc())
        elif isinstance(error, (FloraError, OSError)):
            terminal.error(error)
        else:
            terminal.error(f"a bug in the Flora provider: {type(error).__name__}: {error}. --debug shows where.")
        return USAGE if isinstance(error, (FloraSettingsError, FloraParameterError)) else FAILED
    return code
