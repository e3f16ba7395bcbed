"""An emulator for each test that wants one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from airflow_provider_flora.emulator import Emulator
from tests.emulator.caller import Caller


@pytest.fixture
def emulate() -> Iterator[Callable[..., Caller]]:
    """Start an emulator with these options; get a caller of it."""
    with ExitStack() as stack:
        yield lambda **options: Caller(
            stack.enter_context(Emulator(**{"run_seconds": 0.05, "asset_seconds": 0.05, **options}))
        )


@pytest.fixture
def flora(emulate: Callable[..., Caller]) -> Caller:
    return emulate()
