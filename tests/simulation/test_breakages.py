"""The simulator has teeth: it finds deliberate breakages of the package, each one line of code."""

from __future__ import annotations

import re

import pytest

from tests.simulation.breakages import BREAKAGES
from tests.simulation.playing import COUNT, simulate

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def report() -> str:
    done = simulate("--breakages", "--count", str(COUNT))
    return done.stdout + done.stderr


@pytest.mark.parametrize("name", [breakage.name for breakage in BREAKAGES])
def test_a_breakage_is_found(report: str, name: str) -> None:
    assert re.search(rf"^found after +\d+: {re.escape(name)}: ", report, re.MULTILINE), report[-10_000:]
