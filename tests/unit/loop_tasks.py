"""What a test has left to run on its event loop. Other libraries' finalizers end there too; they do not count."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from types import CodeType
from typing import Any

import aiohttp

import airflow_provider_flora

LOOKED_AT = tuple(Path(package.__file__).parent for package in (airflow_provider_flora, aiohttp))


def tasks_left() -> set[asyncio.Task[Any]]:
    """The tasks, other than this one, whose code is the provider's or aiohttp's, or is unknown."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    return {task for task in others if _is_looked_at(getattr(task.get_coro(), "cr_code", None))}


def _is_looked_at(code: CodeType | None) -> bool:
    return code is None or any(Path(code.co_filename).is_relative_to(folder) for folder in LOOKED_AT)


async def quiet(timeout: float = 10.0) -> None:
    """Let cancelled tasks end. :func:`tasks_left` returns those that did not."""
    ends = time.monotonic() + timeout
    while tasks_left() and time.monotonic() < ends:
        await asyncio.sleep(0.01)
