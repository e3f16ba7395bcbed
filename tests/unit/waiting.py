"""Waits that take as long as a busy machine needs, and a Flora whose clock a test moves instead of waiting."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from airflow_provider_flora.emulator import Emulator

LONG = 600.0
"""Seconds for what must not end before :func:`later`."""


def wait_until(true: Callable[[], bool]) -> None:
    """Wait until something is true."""
    until = time.monotonic() + 60
    while not true():
        assert time.monotonic() < until
        time.sleep(0.02)


def later(flora: Emulator, patch: pytest.MonkeyPatch) -> None:
    """Move an emulator's clock until the end of the test: what takes :data:`LONG` is over."""
    clock = flora._history._clock
    patch.setattr(clock, "skew", clock.skew + 2 * LONG)


@contextmanager
def later_once(true: Callable[[], bool], flora: Emulator, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Move the clock once something is true, while this thread waits for a run."""

    def move() -> None:
        try:
            wait_until(true)
        finally:
            later(flora, patch)

    thread = threading.Thread(target=move)
    thread.start()
    try:
        yield
    finally:
        thread.join()
