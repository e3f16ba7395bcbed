"""The commands as Airflow's command line has them: ``airflow flora …``, on Airflow 3.2 and later."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow_provider_flora.cli.command import Command, Options
from airflow_provider_flora.cli.main import COMMANDS, run_command

if TYPE_CHECKING:
    from airflow_provider_flora.airflow_compat import GroupCommand


class _Arguments:
    """All arguments of a command, in place of Airflow's description of one argument."""

    flags = ("arguments",)  # by which Airflow sorts arguments

    def __init__(self, command: Command) -> None:
        self._command = command

    def add_to_parser(self, parser: argparse.ArgumentParser) -> None:
        """Add the arguments to the parser that Airflow has made for the command."""
        self._command.add_all_arguments(parser)


def get_flora_cli_commands() -> list[GroupCommand]:
    """Return the group ``flora`` with all commands."""
    from airflow_provider_flora.airflow_compat import ActionCommand, GroupCommand

    def describe(command: Command) -> Any:
        arguments: Any = (_Arguments(command),)
        return ActionCommand(command.name, command.help, partial(_run, command), arguments)

    commands = [describe(command) for command in COMMANDS]
    return [GroupCommand("flora", "Find, check, start and follow Flora's techniques and their runs", commands)]


def _run(command: Command, options: Options) -> None:
    sys.exit(run_command(command, options, "airflow flora"))
