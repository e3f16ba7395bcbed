"""The Airflow connection while waits live: away, changed, its key rotated or revoked, misread by a bug."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest

from airflow_provider_flora.api import answers, operations, waiting
from airflow_provider_flora.api.aio import AsyncFloraClient
from airflow_provider_flora.api.errors import (
    FloraAPIError,
    FloraConnectionError,
    FloraError,
    FloraInternalError,
    FloraRunTimeoutError,
    FloraSettingsError,
)
from airflow_provider_flora.api.exchange import Request, Response
from airflow_provider_flora.api.models import Run
from airflow_provider_flora.api.settings import ClientSettings
from airflow_provider_flora.runs import gate, watching
from tests.unit.loop_tasks import quiet, tasks_left
from tests.unit.runs.watching_flora import STILL, Flora, Waits, until
from tests.unit.waiting import LONG, later

pytestmark = pytest.mark.usefixtures("fast_clocks")


class Connection:
    """An Airflow connection with a scripted backend; counts its reads."""

    def __init__(self, flora: Flora) -> None:
        self.settings = flora.settings
        self.fails: list[Exception] = []
        """What the next reads raise, one after the other; the last one forever if ``for_ever`` is set."""
        self.for_ever = False
        self.hangs = False
        self.reads = 0

    async def read(self) -> ClientSettings:
        self.reads += 1
        while self.hangs:
            await asyncio.sleep(0.01)
        if self.fails:
            error = self.fails[0] if self.for_ever else self.fails.pop(0)
            raise type(error)(*error.args)  # not itself, which would keep the frames of all who met it
        return self.settings


@pytest.fixture
def connection(flora: Flora) -> Connection:
    return Connection(flora)


@pytest.fixture
def noted(monkeypatch: pytest.MonkeyPatch) -> list[FloraError]:
    """The errors that the waits have logged."""
    errors: list[FloraError] = []
    note = watching.Watcher._apply

    def noting(watcher: watching.Watcher, wait: watching.Wait, outcome: Run | FloraError) -> None:
        if isinstance(outcome, FloraError):
            errors.append(outcome)
        note(watcher, wait, outcome)

    monkeypatch.setattr(watching.Watcher, "_apply", noting)
    return errors


def waits_of(flora: Flora, connection: Connection) -> Waits:
    waits = Waits(flora)
    waits.read_settings = connection.read
    return waits


AWAY = [
    OSError("the database is away"),
    FloraSettingsError("There is no connection 'flora_default'."),  # what Airflow says when a backend is away
    FloraSettingsError("The connection 'flora_default' cannot be used: ..."),
    FileNotFoundError("a CA bundle that is not mounted yet"),
    ValueError("a backend answers HTML"),
]


@pytest.mark.parametrize("away", AWAY, ids=str)
async def test_a_connection_that_cannot_be_read_at_first_is_read_again(
    flora: Flora, connection: Connection, away: Exception
) -> None:
    connection.fails = [away] * 3
    async with waits_of(flora, connection) as waits:
        [run] = await asyncio.gather(*waits.add(flora.start_runs(1)))
    assert run.completed
    assert connection.reads == 4
    assert [kind for kind, _ in waits.reported] == ["interrupted", "recovered"]


@pytest.mark.parametrize("away", AWAY, ids=str)
async def test_a_connection_that_is_not_there_ends_no_wait_before_its_deadline_and_is_named_then(
    flora: Flora, connection: Connection, away: Exception
) -> None:
    connection.fails, connection.for_ever = [away], True
    async with waits_of(flora, connection) as waits:
        ended = await asyncio.gather(*waits.add(flora.running(3), timeout=0.5), return_exceptions=True)
    assert {type(error) for error in ended} == {FloraRunTimeoutError}
    assert all(str(away).rstrip(".") in str(error) for error in ended)


@pytest.mark.parametrize("away", [True, False])
async def test_a_watcher_that_is_cancelled_at_the_moment_at_which_its_connection_is_read_ends(
    flora: Flora, away: bool
) -> None:
    watchers: list[asyncio.Task[None]] = []
    async with Waits(flora) as waits:

        async def read() -> ClientSettings:
            watchers.append(waits.watcher._task)
            watchers[-1].cancel()
            if away:
                raise OSError("away")
            return flora.settings

        waits.read_settings = read
        [wait] = waits.add(flora.running(1))
        await asyncio.wait({wait})
        assert isinstance(wait.exception(), FloraConnectionError)
        await asyncio.wait(watchers, timeout=60)
    assert [watcher.cancelled() for watcher in watchers] == [True]


async def test_a_deadline_holds_while_the_connection_is_being_read(flora: Flora, connection: Connection) -> None:
    connection.hangs = True
    async with waits_of(flora, connection) as waits:
        [wait] = waits.add(flora.running(1), timeout=0.3)
        with pytest.raises(FloraRunTimeoutError):
            await asyncio.wait_for(wait, gate.CONNECTION_TIMEOUT / 2)


@pytest.mark.parametrize(
    "bug", [TypeError("no argument 'hook'"), AttributeError("x"), KeyError("password")], ids=str
)
async def test_a_bug_in_reading_the_connection_ends_the_waits_at_once(
    flora: Flora, connection: Connection, bug: Exception
) -> None:
    connection.fails, connection.for_ever = [bug], True
    async with waits_of(flora, connection) as waits:
        ended = await asyncio.wait_for(asyncio.gather(*waits.add(flora.running(3)), return_exceptions=True), 60)
    assert connection.reads == 1
    for error in ended:
        assert isinstance(error, FloraInternalError)
        assert repr(error.__cause__) == repr(bug)
        assert error.remedy.retryable


@pytest.mark.parametrize("count", [5, 40])
async def test_a_rotated_key_goes_unnoticed(
    flora: Flora, connection: Connection, count: int, noted: list[FloraError]
) -> None:
    async with waits_of(flora, connection) as waits:
        waits.add(flora.running(count), interval=0.1)
        await waits.all_seen(count)
        await asyncio.sleep(gate.CONNECTION_AGE_WHEN_REFUSED)
        flora.api_key = "sk_test_rotated"
        connection.settings = flora.settings
        flora.mark()
        await until(lambda: flora.responses_since()["200"] >= 2 * count / watching.POLLS_PER_PAGE)
    assert connection.reads == 2
    assert flora.responses_since()["401"] <= gate.CONCURRENCY
    assert noted == []


async def test_a_key_that_is_added_to_the_connection_late_is_used(
    flora: Flora, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    flora.order_fault("slow_run", seconds=LONG, times=None)
    run_ids = flora.start_runs(30)
    async with waits_of(flora, connection) as waits:
        tasks = waits.add(run_ids)
        await waits.all_seen(30)
        flora.api_key = "sk_test_rotated"
        await until(lambda: len(waits.reported) >= 1)
        connection.settings = flora.settings
        later(flora, monkeypatch)
        assert all(run.completed for run in await asyncio.gather(*tasks))


@pytest.mark.parametrize("count", [5, 40])
async def test_a_revoked_key_ends_all_waits_when_flora_has_refused_for_minutes(
    flora: Flora, connection: Connection, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr(waiting, "REFUSAL_CONFIRMED_AFTER", 0.6)
    run_ids = flora.running(count)
    async with waits_of(flora, connection) as waits:
        tasks = waits.add(run_ids)
        await waits.all_seen(count)
        flora.api_key = "sk_test_another"
        flora.mark()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    errors = [error for error in ended if isinstance(error, FloraAPIError)]
    assert [(error.status, error.run_id) for error in errors] == [(401, run_id) for run_id in run_ids]
    assert all(error.remedy.retryable for error in errors)
    assert flora.requests_since().total() <= 40  # not one for each wait and try


@pytest.mark.parametrize("away", AWAY, ids=str)
async def test_a_connection_that_cannot_be_read_again_is_used_as_it_was(
    flora: Flora, connection: Connection, away: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "CONNECTION_AGE", 0.05)
    flora.order_fault("slow_run", seconds=LONG, times=None)
    async with waits_of(flora, connection) as waits:
        tasks = waits.add(flora.start_runs(3))
        await waits.all_seen(3)
        connection.fails, connection.for_ever, earlier = [away], True, connection.reads
        await until(lambda: connection.reads >= earlier + 2)
        later(flora, monkeypatch)
        assert all(run.completed for run in await asyncio.gather(*tasks))
    assert waits.reported == []


async def test_a_bug_in_reading_the_connection_again_leaves_the_client_in_use(
    flora: Flora, connection: Connection, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(gate, "CONNECTION_AGE", 0.05)
    flora.order_fault("slow_run", seconds=LONG, times=None)
    async with waits_of(flora, connection) as waits:
        tasks = waits.add(flora.start_runs(3))
        await waits.all_seen(3)
        connection.fails, connection.for_ever = [TypeError("no argument 'hook'")], True
        await until(lambda: "TypeError: no argument 'hook'" in caplog.text)
        later(flora, monkeypatch)
        assert all(run.completed for run in await asyncio.gather(*tasks))
    assert "raise type(error)" in caplog.text  # the traceback


async def test_a_changed_host_is_seen_while_waits_live(
    flora: Flora, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "CONNECTION_AGE", 0.1)
    run_ids = flora.start_runs(3)
    flora.order_fault("outage", seconds=60)
    async with waits_of(flora, connection) as waits:
        tasks = waits.add(run_ids)
        await until(lambda: waits.reported)
        flora.clear_faults()
        with Flora(run_seconds=0.0) as other:
            connection.settings = replace(flora.settings, base_url=other.base_url)
            await until(lambda: other.requests_since().total() > 0)
            connection.settings = flora.settings
            assert all(run.completed for run in await asyncio.gather(*tasks))


@pytest.mark.parametrize(
    "change",
    [{"workspace_id": "ws_another"}, {"timeout": 4.0}, {"proxies": {"https": "http://proxy.example:3128"}}],
)
async def test_any_change_of_the_connection_makes_a_new_client(
    flora: Flora, connection: Connection, monkeypatch: pytest.MonkeyPatch, change: dict[str, object]
) -> None:
    monkeypatch.setattr(gate, "CONNECTION_AGE", 0.1)
    async with waits_of(flora, connection) as waits:
        waits.add(flora.running(2))
        await waits.all_seen(2)
        connection.settings = replace(flora.settings, **change)  # type: ignore[arg-type]
        await until(lambda: waits.watcher._gate._live_client().settings == connection.settings)


async def test_a_connection_that_has_not_changed_keeps_its_client(
    flora: Flora, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "CONNECTION_AGE", 0.05)
    async with waits_of(flora, connection) as waits:
        waits.add(flora.running(2))
        await waits.all_seen(2)
        client = waits.watcher._gate._live_client()
        connection.settings = replace(flora.settings)
        await until(lambda: connection.reads >= 5)
        assert waits.watcher._gate._live_client() is client


async def test_the_connection_is_read_at_regular_intervals_and_not_for_each_request(
    flora: Flora, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "CONNECTION_AGE", 0.5)
    begun = time.monotonic()
    async with waits_of(flora, connection) as waits:
        waits.add(flora.running(5))
        flora.mark()
        await until(lambda: flora.requests_since().total() >= 60)
    assert 1 <= connection.reads <= 2 + (time.monotonic() - begun) / gate.CONNECTION_AGE


async def test_refusals_have_the_connection_read_again_only_now_and_then(
    flora: Flora, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "CONNECTION_AGE_WHEN_REFUSED", 3600.0)
    run_ids = flora.running(5)
    flora.order_fault("status", status=403, contains=run_ids[0], times=None)
    async with waits_of(flora, connection) as waits:
        waits.add(run_ids)
        await until(lambda: flora.responses_since()["403"] >= 5)
    assert connection.reads == 1


async def test_a_connection_that_takes_forever_to_read_again_delays_one_request_for_a_moment(
    flora: Flora, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "CONNECTION_AGE", 0.1)
    monkeypatch.setattr(gate, "CONNECTION_PATIENCE", 0.5)
    refresh = gate.Gate._refresh
    delayed = 0

    async def counted(gate_: gate.Gate) -> None:
        nonlocal delayed
        delayed += connection.hangs
        await refresh(gate_)

    monkeypatch.setattr(gate.Gate, "_refresh", counted)
    async with waits_of(flora, connection) as waits:
        tasks = waits.add(flora.running(5))
        await waits.all_seen(5)
        connection.hangs, earlier = True, connection.reads
        await until(lambda: connection.reads == earlier + 1)
        flora.mark()
        await until(lambda: flora.requests_since().total() >= 20, gate.CONNECTION_TIMEOUT)
        assert connection.reads == earlier + 1
        assert delayed <= 1  # none if the reading had begun a moment before
        await waits.cancel(*tasks)
    await quiet()
    assert not tasks_left()


async def test_a_request_that_is_under_way_when_the_connection_changes_comes_to_its_end(
    flora: Flora, connection: Connection, monkeypatch: pytest.MonkeyPatch, noted: list[FloraError]
) -> None:
    exchange = AsyncFloraClient._exchange
    held: list[AsyncFloraClient] = []
    goes_on = asyncio.Event()

    async def hold_the_first(client: AsyncFloraClient, request: Request) -> Response:
        if not held:
            held.append(client)
            await goes_on.wait()
        return await exchange(client, request)

    monkeypatch.setattr(AsyncFloraClient, "_exchange", hold_the_first)
    [run_id] = flora.running(1)
    async with waits_of(flora, connection) as waits:
        waits.add([run_id])
        await until(lambda: held)
        [former] = held
        connection.settings = replace(flora.settings, workspace_id="ws_another")
        monkeypatch.setattr(gate, "CONNECTION_AGE", 0.0)
        await waits.watcher._gate.ask(operations.get_technique_run(STILL, run_id), answers.read_run)
        assert waits.watcher._gate._live_client() is not former
        assert not former._session.closed
        goes_on.set()
        await waits.all_seen(1)
        assert former._session.closed
    assert noted == []
