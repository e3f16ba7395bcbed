"""What stands between a task and Flora misbehaves, or the machine does: still one charge, and nothing given up.

The emulator's ledger shows what was paid. A proxy breaks what the emulator cannot: the network.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from email.utils import formatdate
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest

from airflow_provider_flora.airflow_compat import AirflowFailException, AirflowNotFoundException, TaskDeferred
from airflow_provider_flora.api import starts
from airflow_provider_flora.api.answers import clock_skew
from airflow_provider_flora.api.client import FloraClient
from airflow_provider_flora.api.errors import FloraAPIError, FloraError, FloraParameterError, FloraPriceError
from airflow_provider_flora.api.exchange import Response
from airflow_provider_flora.api.settings import ClientSettings
from airflow_provider_flora.api.starts import Fate
from airflow_provider_flora.emulator import Emulator
from airflow_provider_flora.hooks.flora import FloraHook
from airflow_provider_flora.runs import starting
from airflow_provider_flora.runs.starting import Starter
from airflow_provider_flora.sensors.flora import FloraTechniqueRunSensor
from airflow_provider_flora.task.attempt import Attempt
from airflow_provider_flora.task.deadline import Deadline
from tests.unit.operators.fake_task import HAS_STATE_STORE, FakeStore, TaskLife
from tests.unit.operators.still import life_of, posts_to, still

pytestmark = pytest.mark.usefixtures("quick")
needs_store = pytest.mark.skipif(not HAS_STATE_STORE, reason="this Airflow has no task state store")
AT_WORK, LASTS = 0.3, 3.0


@pytest.fixture(autouse=True)
def starts_take_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starting, "start_duration", lambda _: LASTS)


def charged_once(flora: Emulator, run_id: str) -> bool:
    time.sleep(AT_WORK)  # by then the first start has become a run, regardless of later requests
    return [run["run_id"] for run in flora.ledger()["runs"]] == [run_id]


# --- between the task and Flora -------------------------------------------------------------------------------


@contextmanager
def proxy(flora: Emulator, answer: Callable[[bytes], bytes | None]) -> Iterator[str]:
    """A proxy for plain http that passes each request on to the emulator, and its answer through ``answer``.

    ``None`` closes the connection in place of an answer.
    """
    port = urlsplit(flora.base_url).port

    def serve(client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", port)) as upstream:
            request = client.recv(65536)
            head, _, body = request.partition(b"\r\n\r\n")
            length = next(
                (int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
            )
            while len(body) < length:
                piece = client.recv(65536)
                body += piece
            method, url, rest = head.split(b" ", 2)
            path = b"/" + url.split(b"/", 3)[3]
            upstream.sendall(b" ".join((method, path, rest)) + b"\r\nConnection: close\r\n\r\n" + body)
            whole = b"".join(iter(lambda: upstream.recv(65536), b""))
            given = answer(whole) if method == b"POST" else whole
            if given is not None:
                client.sendall(given)

    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(client,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def behind(proxy_url: str, flora: Emulator, monkeypatch: pytest.MonkeyPatch, **extra: Any) -> None:
    """Set the connection to a Flora of another name, so that the proxy is asked for it."""
    connection = {
        "conn_type": "flora",
        "host": "http://flora.example/api/v1",
        "password": flora.api_key,
        "extra": {"proxies": proxy_url, "allow_http": True, "max_retries": 1, "timeout": 5, **extra},
    }
    monkeypatch.setenv("AIRFLOW_CONN_FLORA_DEFAULT", json.dumps(connection))


def test_a_connection_that_a_proxy_breaks_after_the_start_leaves_it_at_work(
    flora: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken: list[bytes] = []

    def break_first(whole: bytes) -> bytes | None:
        broken.append(whole)
        return None if len(broken) == 1 else whole

    flora.order_fault("slow_start", seconds=AT_WORK, answer="late")
    with proxy(flora, break_first) as url:
        behind(url, flora, monkeypatch)
        began = time.monotonic()
        run_id = life_of(still()).run()["run_id"]
    assert time.monotonic() - began > LASTS - 1, "it is not sent again before the first has surely ended"
    assert len(broken) > 1
    assert charged_once(flora, run_id)


@pytest.mark.parametrize("ahead", [-300, 300])
def test_the_clock_of_a_proxy_is_not_floras(flora: Emulator, monkeypatch: pytest.MonkeyPatch, ahead: int) -> None:
    answers: list[bytes] = []

    def give_up_once(whole: bytes) -> bytes:
        answers.append(whole)
        date = formatdate(time.time() + ahead, usegmt=True).encode()
        page = b"HTTP/1.1 502 Bad Gateway\r\nDate: " + date + b"\r\nContent-Length: 4\r\n\r\nbusy"
        return page if len(answers) == 1 else whole

    flora.order_fault("slow_start", seconds=AT_WORK, answer="late")
    with proxy(flora, give_up_once) as url:
        behind(url, flora, monkeypatch)
        run_id = life_of(still()).run()["run_id"]
    assert charged_once(flora, run_id)


def test_an_answer_from_a_cache_gives_the_time_with_its_age(
    flora: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:

    old = {"date": formatdate(1_800_000_000, usegmt=True), "age": "600"}
    skew = clock_skew(Response(200, old, b""), 1_800_000_600.0)
    assert skew == pytest.approx(0.5)
    assert clock_skew(Response(200, {**old, "age": "old"}, b""), 1_800_000_600.0) is None


@pytest.mark.parametrize("step", [-300.0, 300.0])
def test_a_step_of_the_workers_clock_does_not_end_a_start(
    flora: Emulator, connect: Callable[..., None], monkeypatch: pytest.MonkeyPatch, step: float
) -> None:
    connect(flora, max_retries=1)
    flora.order_fault("slow_start", seconds=AT_WORK, answer="504")
    real, stepped = time.time, threading.Event()
    clock = SimpleNamespace(
        time=lambda: real() + (step if stepped.is_set() else 0.0), monotonic=time.monotonic, sleep=time.sleep
    )
    monkeypatch.setattr(starting, "time", clock)  # the worker's, not the emulator's
    send = FloraClient.ask

    def ask(self: FloraClient, request: Any, read: Any) -> Any:
        try:
            return send(self, request, read)
        finally:
            if request.spends_money:
                stepped.set()

    monkeypatch.setattr(FloraClient, "ask", ask)
    assert charged_once(flora, life_of(still()).run()["run_id"])


@pytest.mark.parametrize(
    ("status", "code", "fate"),
    [
        (504, "FUNCTION_INVOCATION_TIMEOUT", Fate.UNKNOWN),
        (502, "BAD_GATEWAY", Fate.UNKNOWN),
        (500, "500", Fate.UNKNOWN),
        (502, "", Fate.UNKNOWN),
        (408, "request_timeout", Fate.UNKNOWN),
        (408, None, Fate.UNKNOWN),
        (500, "unknown_error", Fate.FAILED),
        (500, "internal_error", Fate.FAILED),
        (503, "service_unavailable", Fate.FAILED),
        (400, "invalid_json", Fate.REFUSED),
        (402, "insufficient_credits", Fate.REFUSED),
        (429, "rate_limited", Fate.REFUSED),
        (429, None, Fate.REFUSED),
        (409, "idempotency_duplicate", Fate.KEY_WAS_USED),
        (409, "conflict", Fate.REFUSED),
        (403, None, Fate.UNKNOWN),
    ],
)
def test_only_floras_own_error_shows_that_a_start_has_ended(status: int, code: str | None, fate: Fate) -> None:
    error = FloraAPIError(status, "No.", code=code or None)
    assert starts.fate_of(error) is fate


def test_a_gateway_that_gives_up_in_json_leaves_the_start_at_work(
    flora: Emulator, connect: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    body = json.dumps({"error": {"code": "FUNCTION_INVOCATION_TIMEOUT", "message": "Timed out."}}).encode()
    head = f"HTTP/1.1 504 Gateway Timeout\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    answers: list[bytes] = []

    def give_up_once(whole: bytes) -> bytes:
        answers.append(whole)
        return head.encode() + body if len(answers) == 1 else whole

    flora.order_fault("slow_start", seconds=AT_WORK, answer="late")
    with proxy(flora, give_up_once) as url:
        behind(url, flora, monkeypatch)
        run_id = life_of(still()).run()["run_id"]
    assert charged_once(flora, run_id)


@pytest.mark.parametrize("status", [401, 403, 404])
@pytest.mark.parametrize("has_store", [pytest.param(True, marks=needs_store), False])
def test_a_page_of_a_proxy_gives_no_run_up(
    flora: Emulator, connect: Callable[..., None], monkeypatch: pytest.MonkeyPatch, status: int, has_store: bool
) -> None:
    monkeypatch.setattr("airflow_provider_flora.runs.techniques.CACHED_FOR", 0.0)
    connect(flora, max_retries=0)
    task = life_of(still(), store=FakeStore() if has_store else None)
    flora.order_fault("reset", when="after", operation="startTechniqueRun")
    with pytest.raises(FloraError):
        task.run()
    flora.order_fault("html", when="before", status=status, operation="getTechnique")
    with pytest.raises(FloraError) as caught:
        task.run()
    assert caught.value.remedy.retryable
    assert not isinstance(caught.value, AirflowFailException)
    assert charged_once(flora, task.run()["run_id"])


# --- what is stored, and when ---------------------------------------------------------------------------------


class SlowStore(FakeStore):
    """A store whose next writes of a start are slow."""

    def __init__(self, seconds: float, slow_writes: int) -> None:
        super().__init__()
        self.seconds, self.slow_writes = seconds, slow_writes

    def set(self, key: str, value: Any, **kwargs: Any) -> None:
        if key == "flora_run" and value["sent"] and self.slow_writes:
            self.slow_writes -= 1
            time.sleep(self.seconds)
        super().set(key, value, **kwargs)


@needs_store
@pytest.mark.parametrize("writes", [1, 9])
def test_a_start_counts_from_its_request_and_not_from_before_its_record_was_stored(
    flora: Emulator, connect: Callable[..., None], monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    monkeypatch.setattr(starting, "SLOW_SAVE", 0.2)
    connect(flora, max_retries=1)
    flora.order_fault("slow_start", seconds=AT_WORK, answer="504")
    sent: list[float] = []
    send = FloraClient.ask

    def ask(self: FloraClient, request: Any, read: Any) -> Any:
        if request.spends_money:
            sent.append(time.monotonic())
        return send(self, request, read)

    monkeypatch.setattr(FloraClient, "ask", ask)
    store = SlowStore(1.2, writes)
    run_id = life_of(still(), store=store).run()["run_id"]
    assert sent[1] - sent[0] > LASTS - 0.6
    assert charged_once(flora, run_id)


# --- limits ---------------------------------------------------------------------------------------------------


def test_a_limit_that_a_cluster_policy_sets_is_one(flora: Emulator) -> None:
    operator = still()
    operator.max_run_cost = 0.01
    with pytest.raises(FloraPriceError, match=r"max_run_cost=0\.01"):
        life_of(operator).run()
    assert posts_to(flora) == 0


def test_a_price_that_rises_during_a_pause_is_checked_before_the_start_is_sent(
    flora: Emulator, connect: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(flora, max_retries=2)
    monkeypatch.setattr("airflow_provider_flora.runs.techniques.CACHED_FOR", 0.0)
    monkeypatch.setattr("airflow_provider_flora.runs.starting.PLAN_LIFETIME", 0.9)
    flora.order_fault("status", status=429, retry_after=1, operation="startTechniqueRun")

    def pause(seconds: float) -> None:
        flora.change_technique("editorial-still", run_cost=9.0)
        time.sleep(seconds)

    clock = SimpleNamespace(time=time.time, monotonic=time.monotonic, sleep=pause)
    monkeypatch.setattr(starting, "time", clock)
    try:
        with pytest.raises(FloraPriceError, match="costs 9 USD"):
            life_of(still(max_run_cost=1.0)).run()
    finally:
        flora.change_technique("editorial-still", run_cost=0.09)
    assert flora.ledger()["started_runs"] == 0


@pytest.mark.parametrize("name", ["max_run_cost", "timeout", "poll_interval"])
def test_a_number_that_no_float_holds_is_refused_with_a_message(flora: Emulator, name: str) -> None:
    with pytest.raises(FloraParameterError, match=name):
        life_of(still(**{name: 10**400})).run()
    assert posts_to(flora) == 0


@pytest.mark.parametrize("technique_id", [7, {"id": "x"}])
def test_an_id_that_is_no_text_is_refused_with_a_message(flora: Emulator, technique_id: Any) -> None:
    with pytest.raises(FloraParameterError, match="not a valid Flora id"):
        life_of(still(technique_id=technique_id)).run()


# --- waits that last ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [float("inf"), "inf", 1e15])
def test_a_timeout_of_forever_defers(flora: Emulator, timeout: Any) -> None:
    flora.order_fault("stall_run")
    operator = still(deferrable=True, timeout=timeout)
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(life_of(operator).context())
    json.dumps(deferred.value.trigger.serialize())


def test_a_deadline_is_a_date_with_any_timeout() -> None:
    deadline = Deadline(float("inf"), None)
    assert datetime.fromtimestamp(deadline.unix_time(), timezone.utc).year > 2100
    assert timedelta(seconds=deadline.seconds_left()) > timedelta(days=30_000)


def test_without_a_store_a_connection_that_is_away_gives_no_finished_run_up(
    flora: Emulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    operator = still(deferrable=True, download_to=str(tmp_path))
    operator._finishes_soon = lambda *_: False  # type: ignore[method-assign]
    task = TaskLife(operator, store=None)
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(task.context())
    event = task.wait_in_triggerer(deferred.value)

    def away(*_: Any) -> Any:
        raise AirflowNotFoundException("The conn_id `flora_default` isn't defined")

    monkeypatch.setattr(FloraHook, "get_connection", away)
    with pytest.raises(FloraError) as caught:
        operator.execute_complete(task.context(next_try=False), event=event)
    assert caught.value.remedy.retryable
    assert not isinstance(caught.value, AirflowFailException)
    assert caught.value.run_id == flora.ledger()["runs"][0]["run_id"]


@pytest.mark.parametrize("deferrable", [False, True])
@pytest.mark.parametrize("run_id", ["", ".", None])
def test_a_sensor_without_a_run_ends_at_once(flora: Emulator, run_id: Any, deferrable: bool) -> None:
    sensor = FloraTechniqueRunSensor(
        task_id="wait", technique_id="editorial-still", run_id=run_id, deferrable=deferrable, timeout=60
    )
    with pytest.raises(FloraParameterError, match="not a valid Flora id"):
        sensor.execute(life_of(still()).context(task=sensor))


# --- which runs can be a task's -------------------------------------------------------------------------------


def test_a_dag_run_cannot_have_begun_before_it_was_due() -> None:
    now = datetime.now(timezone.utc)
    dag_run = SimpleNamespace(
        start_date=now, logical_date=now - timedelta(days=365), run_after=now - timedelta(minutes=1), run_id="r"
    )
    ti = SimpleNamespace(
        dag_id="d", run_id="r", task_id="t", map_index=-1, try_number=2, max_tries=2, start_date=now
    )
    task = SimpleNamespace(retries=2, retry_delay=timedelta(minutes=5))
    attempt = Attempt.of({"ti": ti, "dag_run": dag_run, "task": task})
    assert attempt.dag_run_due == pytest.approx((now - timedelta(minutes=1)).timestamp())
    del dag_run.run_after  # Airflow 2
    assert Attempt.of({"ti": ti, "dag_run": dag_run, "task": task}).dag_run_due == pytest.approx(
        (now - timedelta(days=365)).timestamp()
    )


@needs_store
def test_a_run_is_found_where_the_connections_workspace_shows_nothing(
    flora: Emulator, connect: Callable[..., None]
) -> None:
    connect(flora, max_retries=0, workspace_id="ws_of_somebody_else")
    task = life_of(still())
    flora.order_fault("reset", when="after", operation="startTechniqueRun")
    with pytest.raises(FloraError):
        task.run()
    task.operator.inputs = {"prompt": "a jug"}
    with pytest.raises(FloraError, match=flora.ledger()["runs"][0]["run_id"]):
        task.run()
    assert flora.ledger()["started_runs"] == 1


@needs_store
def test_a_run_is_found_on_a_page_that_is_out_of_order(
    flora: Emulator, connect: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(flora, max_retries=0)
    flora.seed_runs(2, spacing_ms=60_000)
    task = life_of(still())
    flora.order_fault("reset", when="after", operation="startTechniqueRun")
    with pytest.raises(FloraError):
        task.run()
    pages_of = Starter._pages_of_history
    monkeypatch.setattr(
        Starter, "_pages_of_history", lambda *asked: ([*reversed([*page])] for page in pages_of(*asked))
    )
    task.operator.inputs = {"prompt": "a jug"}
    with pytest.raises(FloraError, match=flora.ledger()["runs"][-1]["run_id"]):
        task.run()


def test_the_run_of_a_deleted_technique_is_named(flora: Emulator, connect: Callable[..., None]) -> None:
    connect(flora, max_retries=0)
    task = TaskLife(still(technique_id="tech_editorial-still"), store=None)
    flora.order_fault("reset", when="after", operation="startTechniqueRun")
    with pytest.raises(FloraError):
        task.run()
    flora.change_technique("editorial-still", deleted=True)
    with pytest.raises(FloraError, match=flora.ledger()["runs"][0]["run_id"]):
        task.run()


# --- what an error says ---------------------------------------------------------------------------------------


def test_a_key_that_flora_repeats_is_in_no_error(flora: Emulator) -> None:
    flora.order_fault(
        "status", status=401, code="invalid_api_key", message=f"No such key: {flora.api_key}.", times=None
    )
    with (
        FloraClient(ClientSettings(flora.api_key, flora.base_url)) as client,
        pytest.raises(FloraAPIError) as caught,
    ):
        client.list_workspaces()
    assert flora.api_key not in str(caught.value)
    assert "No such key: …." in str(caught.value)


def test_a_message_of_megabytes_is_cut(flora: Emulator) -> None:
    flora.order_fault("fail_run", error_code="LLM_REFUSAL", error_message="no! " * 500_000)
    with pytest.raises(FloraError) as caught:
        life_of(still()).run()
    assert len(str(caught.value)) < 5000
    assert "2,000,000 characters" in str(caught.value)
