"""Two promises of the whole suite: unit tests stay on this machine, and CI leaves no test out."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

UNIT_TESTS = Path(__file__).parent / "unit"
SIMULATION = Path(__file__).parent / "simulation"
LEAVE_NOTHING_OUT = "FLORA_TESTS_LEAVE_NOTHING_OUT"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest tests first: beside them others can wait. The order of the rest stays."""
    items.sort(key=lambda item: SIMULATION not in item.path.parents)


@pytest.fixture(autouse=True)
def _stay_on_this_machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if UNIT_TESTS in request.path.parents:
        for name in ("connect", "connect_ex"):
            monkeypatch.setattr(socket.socket, name, _guarded(getattr(socket.socket, name)))


def _guarded(connect: Callable[..., Any]) -> Callable[..., Any]:
    def guarded(self: socket.socket, address: Any) -> Any:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_loopback(address[0]):
            pytest.fail(f"a unit test wants to connect to {address[0]}, which is not this machine")
        return connect(self, address)

    return guarded


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _LeftOut:
    """Remembers what was skipped, be it a test or a whole file, and makes the session fail for it."""

    def __init__(self) -> None:
        self._tests: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._remember(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._remember(report)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self._tests and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._tests:
            terminalreporter.write_line(
                f"{LEAVE_NOTHING_OUT} is set, but these were left out: {', '.join(self._tests)}", red=True
            )

    def _remember(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if report.skipped:
            self._tests.append(report.nodeid)


def pytest_configure(config: pytest.Config) -> None:
    if os.environ.get(LEAVE_NOTHING_OUT):
        config.pluginmanager.register(_LeftOut())
