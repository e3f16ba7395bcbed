"""`airflow flora ...`: the same commands in Airflow's own command line, 3.2 and later."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from typing import Any

import pytest

from airflow_provider_flora.airflow_compat import airflow_is_at_least
from airflow_provider_flora.cli.definition import get_flora_cli_commands
from airflow_provider_flora.cli.main import COMMANDS
from airflow_provider_flora.emulator import Emulator


def _is_installed() -> bool:
    try:
        return bool(distribution("airflow-provider-flora").entry_points)
    except PackageNotFoundError:
        return False


in_airflow = pytest.mark.skipif(
    not (airflow_is_at_least(3, 2) and _is_installed()),
    reason="this Airflow takes no commands of providers, or the package is not installed in it",
)


@in_airflow
@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("techniques product", 0),
        ("technique tagline-writer --dag", 0),
        ("run no-such", 1),
        ("spend --by technique", 0),
    ],
)
def test_airflow_runs_the_commands(
    flora_key: Emulator, capsys: pytest.CaptureFixture[str], line: str, code: int
) -> None:
    from airflow.cli import cli_parser

    options = cli_parser.get_parser().parse_args(["flora", *line.split()])
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        options.func(options)
    assert end.value.code == code
    out, err = capsys.readouterr()
    assert bool(out) == (code == 0)
    assert ("Error: 'no-such' is not among" in err) == (code == 1)


@in_airflow
def test_a_hint_names_airflow_s_own_command(flora_key: Emulator, capsys: pytest.CaptureFixture[str]) -> None:
    from airflow.cli import cli_parser

    flora_key.order_fault("stall_run")
    line = "flora start tagline-writer -i brief=a --yes --timeout 0.1"
    options = cli_parser.get_parser().parse_args(line.split())
    with pytest.raises(SystemExit):
        options.func(options)
    assert "Come back with: airflow flora wait run_" in capsys.readouterr().err


@in_airflow
def test_a_mistake_is_airflow_s_usage(flora_key: Emulator, capsys: pytest.CaptureFixture[str]) -> None:
    from airflow.cli import cli_parser

    with pytest.raises(SystemExit) as end:
        cli_parser.get_parser().parse_args(["flora", "runs", "--since", "yesterday"])
    assert end.value.code == 2
    assert "is neither a period" in " ".join(capsys.readouterr().err.split())


@in_airflow
def test_the_group_has_each_command() -> None:
    (group,) = get_flora_cli_commands()
    described: list[Any] = list(group.subcommands)
    assert [(one.name, one.help) for one in described] == [(one.name, one.help) for one in COMMANDS]
