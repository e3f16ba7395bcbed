"""Calls of several requests, as generators that both clients drive. No I/O.

A call yields an :class:`Ask` to send a request or a :class:`Pause` to wait. The client sends the answer into the
generator, or throws the error. The generator returns the result of the call.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from airflow_provider_flora.api import answers, operations, retries
from airflow_provider_flora.api.errors import FloraAnswerSizeError, FloraAPIError, FloraError
from airflow_provider_flora.api.exchange import Request, Response
from airflow_provider_flora.api.inputs import Inputs, run_inputs, types_are_known
from airflow_provider_flora.api.models import FloraAsset, Run, Technique
from airflow_provider_flora.api.waiting import NOT_FOUND_GRACE, RunWait, WaitListener, as_flora_error

if TYPE_CHECKING:
    from airflow_provider_flora.api.pages import Pages

AnswerT = TypeVar("AnswerT")
ResultT = TypeVar("ResultT")
ItemT = TypeVar("ItemT")


@dataclass(frozen=True)
class Ask(Generic[AnswerT]):
    """A request to send.

    :param read: reads the answer.
    :param once: do not retry after a transient error. The call decides about retries itself.
    """

    request: Request
    read: Callable[[Response], AnswerT]
    once: bool = False


@dataclass(frozen=True)
class Pause:
    """A pause before the next request, in seconds."""

    seconds: float


@dataclass(frozen=True)
class Done(Generic[ResultT]):
    """The end of a call, with its result."""

    result: ResultT


Step = Ask[Any] | Pause
Call = Generator[Step, Any, ResultT]


def resume(call: Call[ResultT], outcome: Any) -> Step | Done[ResultT]:
    """Pass the outcome of the last step to a call, an exception by throwing it, and return the next step."""
    try:
        return call.throw(outcome) if isinstance(outcome, Exception) else call.send(outcome)
    except StopIteration as end:
        return Done(end.value)


def start_technique_run(
    technique_id: str,
    inputs: Inputs,
    mode: str,
    callback_url: str | None,
    idempotency_key: str | None,
) -> Call[Run]:
    """Start a run. Get the types of its inputs first if the inputs do not name them."""
    technique: Technique | None = None
    if not types_are_known(inputs):
        technique = yield Ask(operations.get_technique(technique_id), answers.read_technique)
    entries = run_inputs(inputs, technique_id, technique)
    request = operations.start_technique_run(technique_id, entries, mode, callback_url, idempotency_key)
    run: Run = yield Ask(request, answers.read_run)
    return run


def wait_for_technique_run(
    technique_id: str,
    run_id: str,
    poll_interval: float,
    timeout: float,
    deadline: float | None,
    listener: WaitListener | None,
) -> Call[Run]:
    """Poll a run until it has completed or failed."""
    request = operations.get_technique_run(technique_id, run_id)
    wait = RunWait(
        technique_id,
        run_id,
        poll_interval=poll_interval,
        timeout=timeout,
        deadline=deadline,
        clock=time.monotonic,
        listener=listener,
    )
    while True:
        pause = wait.after((yield from _poll_once(request)))
        if pause is None:
            return wait.run
        yield Pause(pause)


def poll_until_answered(wait: RunWait, on_error: Callable[[FloraError], None]) -> Call[Run]:
    """Poll a run until Flora answers with it, in any state.

    :param wait: decides after each error whether to poll again.
    :param on_error: receives each error after which the run is polled again.
    """
    request = operations.get_technique_run(wait.technique_id, wait.run_id)
    while True:
        outcome = yield from _poll_once(request)
        if not isinstance(outcome, FloraError):
            return outcome
        pause = wait.after(outcome)
        on_error(outcome)
        yield Pause(pause or 0.0)


def _poll_once(request: Request) -> Call[Run | FloraError]:
    try:
        run: Run = yield Ask(request, answers.read_run, once=True)
    except Exception as error:
        return as_flora_error(error)
    return run


def wait_for_asset(asset_id: str, poll_interval: float, timeout: float) -> Call[FloraAsset | None]:
    """Poll a Flora asset until it is ready or has failed. Return ``None`` after the timeout."""
    request = operations.get_asset(asset_id)
    began, errors = time.monotonic(), 0
    while True:
        waited, pause = time.monotonic() - began, poll_interval
        try:
            asset: FloraAsset = yield Ask(request, answers.read_asset, once=True)
            if asset.failed or (asset.ready and asset.url):
                return asset
        except FloraError as error:
            errors += 1
            just_made = isinstance(error, FloraAPIError) and error.status == 404
            if not error.transient and not (just_made and waited < NOT_FOUND_GRACE):
                raise
            pause = max(getattr(error, "retry_after", None) or 0, retries.backoff(poll_interval, errors))
        if waited + pause > timeout:
            return None
        yield Pause(pause)


def read_page(pages: Pages[ItemT]) -> Call[Sequence[ItemT]]:
    """Read the next page of a list. Halve the page size while a page is too large."""
    while True:
        assert pages.request is not None  # noqa: S101
        try:
            items: Sequence[ItemT] = yield Ask(pages.request, pages.read)
        except FloraAnswerSizeError as error:
            pages.halve(error)
        else:
            return items
