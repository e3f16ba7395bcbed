"""What the receiver of webhooks answers, and which asset events it makes of deliveries: none of those that are not
Flora's, and one of those that are."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import random
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from airflow_provider_flora.plugins import asset_events, webhook_secrets, webhooks
from airflow_provider_flora.plugins.flora_plugin import FloraPlugin, LazyApp
from airflow_provider_flora.plugins.webhooks import FloraWebhookApp
from tests.unit.plugins.conftest import Assets

SECRET = "whsec_of_the_test"
COMPLETED, FAILED = "flora://flora_default/runs/completed", "flora://flora_default/runs/failed"


@pytest.fixture(autouse=True)
def connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections with a secret, without one, and one that cannot be used."""
    for name, extra in {
        "FLORA_DEFAULT": {"webhook_secret": SECRET},
        "SECOND": {"webhook_secret": "whsec_second"},
        "PLAIN": {},
        "BROKEN": {"webhook_secret": "no_secret_of_webhooks"},
    }.items():
        monkeypatch.setenv(
            f"AIRFLOW_CONN_{name}", json.dumps({"conn_type": "flora", "password": "k", "extra": extra})
        )


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> FloraWebhookApp:
    monkeypatch.setattr(webhooks, "PATIENCE", 60.0)  # a busy machine is not what is tested
    return FloraWebhookApp()


def body_of(number: int = 1, status: str = "completed", **changes: Any) -> bytes:
    data = {"run_id": f"run_{number}", "run_type": "technique", "workspace_id": "ws_1", "status": status}
    webhook = {
        "id": f"whd_{number}",
        "type": f"run.{status}",
        "api_version": "2026-06-11",
        "created_at": 1000 * int(time.time()),
        "data": {**data, **changes.pop("data", {})},
        **changes,
    }
    return json.dumps(webhook, separators=(",", ":")).encode()


def signed(body: bytes, secret: str = SECRET, at: float | None = None) -> dict[str, str]:
    second = int(time.time() if at is None else at)
    digest = hmac.new(secret.encode(), f"{second}.".encode() + body, hashlib.sha256).hexdigest()
    return {"Flora-Signature": f"t={second},v1={digest}", "Content-Type": "application/json"}


Delivery = tuple[str, Any, Any]
"""The connection, the body and the headers."""


def deliver_all(app: Any, deliveries: list[Delivery], at_once: int = 1) -> list[httpx.Response]:
    """Send deliveries to an application, some at the same time, and return the answers in order."""

    async def send_all() -> list[httpx.Response]:
        gate = asyncio.Semaphore(at_once)
        # What the application raises is what Airflow's server would answer with 500.
        transport = httpx.ASGITransport(app, raise_app_exceptions=True)
        async with httpx.AsyncClient(transport=transport, base_url="http://airflow") as client:

            async def send(conn_id: str, body: Any, headers: Any) -> httpx.Response:
                async with gate:
                    return await client.post(f"/{conn_id}", content=body, headers=headers)

            return await asyncio.gather(*(send(*delivery) for delivery in deliveries))

    return asyncio.run(send_all())


def deliver(app: Any, body: Any = None, headers: Any = None, conn_id: str = "flora_default") -> httpx.Response:
    body = body_of() if body is None else body
    [answer] = deliver_all(app, [(conn_id, body, signed(body) if headers is None else headers)])
    return answer


# --- what an event is -------------------------------------------------------------------------------------


def test_a_run_that_has_completed_is_an_event_that_starts_a_dag(app: FloraWebhookApp, assets: Assets) -> None:
    assets.add(COMPLETED, dag_id="publish")
    assets.add(FAILED, dag_id="alert")
    answer = deliver(app)
    assert (answer.status_code, answer.json()) == (200, {"detail": f"The asset {COMPLETED} has an event of it."})
    assert assets.events(COMPLETED) == [
        {
            "webhook_id": "whd_1",
            "payload": {
                "run_id": "run_1",
                "status": "completed",
                "run_type": "technique",
                "workspace_id": "ws_1",
            },
        }
    ]
    assert assets.queued_dags() == ["publish"]


def test_a_run_that_has_failed_is_an_event_of_another_asset_with_its_error(
    app: FloraWebhookApp, assets: Assets
) -> None:
    assets.add(COMPLETED)
    assets.add(FAILED)
    error = {"error_code": "LLM_REFUSAL", "error_message": "No \0 \ud83d\ude00 \ud800"}
    assert deliver(app, body_of(status="failed", data=error)).status_code == 200
    assert assets.events(COMPLETED) == []
    [event] = assets.events(FAILED)
    assert event["payload"]["status"] == "failed"
    assert event["payload"]["error_code"] == "LLM_REFUSAL"
    assert event["payload"]["error_message"] == "No \ufffd \U0001f600 \ufffd"


def test_each_connection_has_assets_of_its_own(app: FloraWebhookApp, assets: Assets) -> None:
    assets.add(COMPLETED)
    assets.add("flora://second/runs/completed")
    body = body_of()
    assert deliver(app, body, signed(body, "whsec_second"), "second").status_code == 200
    assert deliver(app, body, signed(body), "second").status_code == 401
    assert (len(assets.events(COMPLETED)), len(assets.events())) == (0, 1)


@pytest.mark.parametrize(
    "changes",
    [{"type": "run.paused"}, {"type": "credits.low", "data": {}}, {"data": {"run_type": "generation"}}],
    ids=["new type", "not a run", "generation"],
)
def test_what_is_not_the_end_of_a_technique_s_run_is_taken_and_left(
    app: FloraWebhookApp, assets: Assets, changes: dict[str, Any]
) -> None:
    assets.add(COMPLETED)
    answer = deliver(app, body_of(**changes))
    assert answer.status_code == 200
    assert "nothing was made of it" in answer.text
    assert assets.events() == []


@pytest.mark.parametrize("exists", [False, True], ids=["never used", "not used any more"])
def test_a_run_is_taken_and_left_if_no_dag_uses_the_asset(
    app: FloraWebhookApp, assets: Assets, exists: bool
) -> None:
    if exists:
        assets.add(COMPLETED, active=False)
    answer = deliver(app)
    assert (answer.status_code, assets.events()) == (200, [])
    assert answer.json()["detail"] == f"No DAG uses the asset {COMPLETED}, and no event was made."


def test_what_is_signed_and_cannot_be_read_is_refused(app: FloraWebhookApp, assets: Assets) -> None:
    assets.add(COMPLETED)
    for body in (b"", b"[]", b"[" * 60_000, b'{"id":"whd_1"', body_of(id="no id")):
        assert deliver(app, body).status_code == 400
    assert assets.events() == []


# --- once -------------------------------------------------------------------------------------------------


def test_a_webhook_that_is_delivered_again_makes_no_second_event(app: FloraWebhookApp, assets: Assets) -> None:
    assets.add(COMPLETED)
    body = body_of()
    details = [deliver(receiver, body).json()["detail"] for receiver in (app, app, FloraWebhookApp())]
    assert details == [
        f"The asset {COMPLETED} has an event of it.",
        *[f"The asset {COMPLETED} has an event of it since an earlier delivery."] * 2,
    ]
    assert len(assets.events()) == 1


def test_ids_that_are_alike_are_not_the_same(app: FloraWebhookApp, assets: Assets) -> None:
    assets.add(COMPLETED)
    for name in ("whd_ab", "whdXab", "whd_a", "WHD_AB", "whd_abc", "run_1"):
        deliver(app, body_of(id=name))
    assert [event["webhook_id"] for event in assets.events()] == [
        "whd_ab", "whdXab", "whd_a", "WHD_AB", "whd_abc", "run_1",
    ]  # fmt: skip


def test_an_event_is_remembered_for_longer_than_flora_delivers(app: FloraWebhookApp, assets: Assets) -> None:
    assets.add(COMPLETED)
    deliver(app)
    last = 10 + 60 + 300 + 4 * 10  # seconds from Flora's first attempt to the end of its last one
    assets.age(last + 600)  # and a signature is accepted for 300 s before and after its time
    deliver(app)
    assert len(assets.events()) == 1


@pytest.mark.usefixtures("app")
def test_the_same_delivery_at_the_same_time_makes_one_event(assets: Assets) -> None:
    assets.add(COMPLETED, dag_id="publish")
    body = body_of()
    answers: list[httpx.Response] = []

    def send() -> None:
        answers.extend(deliver_all(FloraWebhookApp(), [("flora_default", body, signed(body))] * 10, at_once=10))

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers] == [200] * 40
    assert sum("earlier" not in answer.text for answer in answers) == 1
    assert len(assets.events()) == 1


# --- who is believed --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "conn_id",
    [
        "unknown",
        "plain",
        "broken",
        "..",
        "%2e%2e",
        "a%20b",
        "ü",
        "x" * 201,
        "a%00b",
        "flora_default%0a",
        "'or'1'='1",
    ],
)
def test_a_connection_without_a_secret_has_no_route(app: FloraWebhookApp, assets: Assets, conn_id: str) -> None:
    answer = deliver(app, conn_id=conn_id)
    assert (answer.status_code, answer.json()) == (404, {"detail": "Not Found"})
    assert deliver(app, headers={}, conn_id=conn_id).json() == answer.json()
    assert assets.events() == []


@pytest.mark.parametrize(
    "path", ["/", "/flora_default/", "/flora_default/more", "/a%2Fb", "//flora_default", "/docs/a"]
)
def test_another_path_is_nowhere(app: FloraWebhookApp, path: str) -> None:
    async def post() -> int:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://airflow") as client:
            return (await client.post("http://airflow" + path)).status_code

    assert asyncio.run(post()) == 404


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
@pytest.mark.parametrize("conn_id", ["flora_default", "unknown"])
def test_another_method_is_refused_without_a_look_at_the_connection(
    app: FloraWebhookApp, monkeypatch: pytest.MonkeyPatch, method: str, conn_id: str
) -> None:
    monkeypatch.setattr(webhook_secrets, "_read_secret", lambda _: pytest.fail("it was read"))

    async def ask() -> int:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://airflow") as client:
            return (await client.request(method, f"/{conn_id}")).status_code

    assert asyncio.run(ask()) == 405


def test_a_second_signature_header_is_refused(app: FloraWebhookApp, assets: Assets) -> None:
    assets.add(COMPLETED)
    body = body_of()
    headers = [("Flora-Signature", signed(body)["Flora-Signature"])] * 2
    assert deliver(app, body, headers).status_code == 401
    assert assets.events() == []


def test_a_refused_delivery_is_logged_once_in_a_minute_without_the_secret(
    app: FloraWebhookApp, caplog: pytest.LogCaptureFixture
) -> None:
    forged = ("flora_default", body_of(), signed(body_of(), "whsec_other"))
    with caplog.at_level(logging.INFO, "airflow_provider_flora"):
        answers = deliver_all(app, [forged] * 50)
    assert {answer.status_code for answer in answers} == {401}
    [line] = [record.getMessage() for record in caplog.records if record.name == webhooks.__name__]
    assert "'flora_default' is refused. No v1 of the Flora-Signature header" in line
    assert SECRET not in caplog.text + answers[0].text


def test_why_a_connection_cannot_be_used_is_in_the_log(
    app: FloraWebhookApp, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "airflow_provider_flora"):
        for conn_id in ("broken", "plain"):
            deliver(app, conn_id=conn_id)
    assert "'webhook_secret' takes the secret of Flora's webhooks" in caplog.text
    assert "'plain' has no 'webhook_secret' in its extra" in caplog.text
    assert "no_secret_of_webhooks" not in caplog.text


# --- bounds -----------------------------------------------------------------------------------------------


async def in_chunks(body: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]


@pytest.mark.parametrize("size", [1, 100])
def test_a_body_may_come_in_chunks(app: FloraWebhookApp, assets: Assets, size: int) -> None:
    assets.add(COMPLETED)
    body = body_of()
    assert deliver(app, in_chunks(body, size), signed(body)).status_code == 200
    assert len(assets.events()) == 1


def test_no_more_is_read_of_a_body_than_is_allowed(app: FloraWebhookApp, assets: Assets) -> None:
    assets.add(COMPLETED)
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 10_000
            yield b" " * 10_000

    assert deliver(app, endless(), signed(b"")).status_code == 413
    assert read < 2 * webhooks.LARGEST_BODY
    largest = body_of().ljust(webhooks.LARGEST_BODY)
    assert deliver(app, largest).status_code == 200
    assert deliver(app, largest + b" ").status_code == 413


def test_a_body_that_does_not_come_is_given_up(app: FloraWebhookApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "PATIENCE", 0.2)

    async def never() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    assert deliver(app, never(), signed(b"{")).status_code == 503
    assert app._open == 0


def test_a_sender_that_goes_away_is_no_error(
    app: FloraWebhookApp, assets: Assets, caplog: pytest.LogCaptureFixture
) -> None:
    messages = iter([{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}])
    sent: list[Any] = []
    signature = signed(body_of())["Flora-Signature"].encode()
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/flora_default",
        "query_string": b"",
        "headers": [(b"flora-signature", signature)],
    }

    async def receive() -> Any:
        return next(messages)

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == 400
    assert "Traceback" not in caplog.text


def test_more_at_once_than_is_allowed_is_sent_away(
    app: FloraWebhookApp, assets: Assets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "AT_ONCE", 3)
    monkeypatch.setattr(webhooks, "PATIENCE", 0.5)

    async def never() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    waiting: list[Delivery] = [("flora_default", never(), signed(b"{")) for _ in range(3)]
    answers = deliver_all(app, [*waiting, ("flora_default", body_of(), signed(body_of()))], at_once=4)
    assert [answer.json()["detail"] for answer in answers] == [
        *["This could not be handled in time."] * 3,
        "Too many deliveries at once.",
    ]
    monkeypatch.setattr(webhooks, "PATIENCE", 60.0)
    assert deliver(app).status_code == 200


def test_what_the_database_refuses_is_to_be_delivered_again(
    app: FloraWebhookApp, assets: Assets, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assets.add(COMPLETED)
    with monkeypatch.context() as broken:
        broken.setattr(asset_events.asset_manager, "register_asset_change", _raise_outage)
        assert deliver(app).status_code == 503
    assert "an outage" in caplog.text
    assert assets.events() == []
    assert deliver(app).status_code == 200
    assert len(assets.events()) == 1


def _raise_outage(**_: Any) -> None:
    raise RuntimeError("an outage")


# --- secrets ----------------------------------------------------------------------------------------------


class Backend:
    """Secrets that are read instead of connections, and a clock."""

    def __init__(self) -> None:
        self.secrets: dict[str, str] = {"flora_default": SECRET}
        self.read: list[str] = []
        self.error: Exception | None = None
        self.now = 1000.0

    def __call__(self, conn_id: str) -> str | None:
        self.read.append(conn_id)
        if self.error is not None:
            raise self.error
        return self.secrets.get(conn_id)

    def clock(self) -> float:
        return self.now


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Backend:
    """What the receiver reads instead of connections."""
    backend = Backend()
    monkeypatch.setattr(webhook_secrets, "_read_secret", backend)
    return backend


def find_all(secrets: webhook_secrets.WebhookSecrets, *conn_ids: str) -> list[Any]:
    async def find() -> list[Any]:
        return await asyncio.gather(*map(secrets.find, conn_ids), return_exceptions=True)

    return asyncio.run(find())


def test_a_connection_is_read_once_for_all_deliveries_of_half_a_minute(backend: Backend) -> None:
    secrets = webhook_secrets.WebhookSecrets(backend.clock)
    assert find_all(secrets, *["flora_default"] * 50, *["unknown"] * 50) == [SECRET] * 50 + [None] * 50
    backend.now += webhook_secrets.KEPT_SECONDS - 1
    assert find_all(secrets, "flora_default", "unknown") == [SECRET, None]
    assert sorted(backend.read) == ["flora_default", "unknown"]


def test_a_secret_that_is_changed_added_or_removed_is_seen_after_half_a_minute(backend: Backend) -> None:
    secrets = webhook_secrets.WebhookSecrets(backend.clock)
    find_all(secrets, "flora_default", "later")
    backend.secrets = {"later": "whsec_later"}
    backend.now += webhook_secrets.KEPT_SECONDS
    assert find_all(secrets, "flora_default", "later") == [None, "whsec_later"]
    backend.secrets = {"later": "whsec_new"}
    backend.now += webhook_secrets.KEPT_SECONDS
    assert find_all(secrets, "flora_default", "later") == [None, "whsec_new"]


def test_a_flood_of_names_reads_few_connections_and_keeps_out_none_that_is_known(backend: Backend) -> None:
    secrets = webhook_secrets.WebhookSecrets(backend.clock)
    find_all(secrets, "flora_default")
    found = find_all(secrets, *(f"guess_{number}" for number in range(3000)))
    assert len(backend.read) == webhook_secrets.NEW_NAMES
    assert sum(isinstance(one, webhook_secrets.UnknownSecretError) for one in found) == 3000 - 29
    backend.now += webhook_secrets.KEPT_SECONDS
    assert find_all(secrets, "flora_default") == [SECRET]  # read again, in the middle of it


def test_what_is_kept_of_names_is_bounded(backend: Backend) -> None:
    """Airflow reads a connection of an environment variable under its name in any letters, upper or lower."""
    secrets = webhook_secrets.WebhookSecrets(backend.clock)
    for number in range(2 * webhook_secrets.KEPT_NAMES // webhook_secrets.NEW_NAMES):
        backend.now += 61
        names = [f"name_{number}_{one}" for one in range(webhook_secrets.NEW_NAMES)]
        backend.secrets.update(dict.fromkeys(names[::2], SECRET))
        assert find_all(secrets, *names)[:2] == [SECRET, None]
    for kept in (secrets._found, secrets._absent):
        assert len(kept) <= webhook_secrets.KEPT_NAMES
    backend.now += 61
    assert find_all(secrets, "flora_default") == [SECRET]


@pytest.mark.parametrize("conn_id", ["..", ".", "-a", "a/b", "a\\b", "a b", "ä", "", "a\n", "a" * 201])
def test_a_name_that_is_none_is_not_looked_for(backend: Backend, conn_id: str) -> None:
    assert find_all(webhook_secrets.WebhookSecrets(backend.clock), conn_id) == [None]
    assert backend.read == []


def test_an_outage_of_a_secrets_backend_loses_no_webhook(
    backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    secrets = webhook_secrets.WebhookSecrets(backend.clock)
    find_all(secrets, "flora_default")
    backend.error = ConnectionError("the backend is away")
    backend.now += webhook_secrets.KEPT_SECONDS
    [kept, unknown] = find_all(secrets, "flora_default", "new")
    assert kept == SECRET
    assert isinstance(unknown, webhook_secrets.UnknownSecretError)
    assert caplog.text.count("the backend is away") >= 2
    backend.error = None
    assert find_all(secrets, "new") == [None]


def test_a_request_that_is_given_up_does_not_stop_the_others_that_wait(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = webhook_secrets.WebhookSecrets(backend.clock)
    go = threading.Event()
    monkeypatch.setattr(webhook_secrets, "_read_secret", lambda conn_id: go.wait(60) and backend(conn_id))

    async def find() -> Any:
        first, second = (asyncio.ensure_future(secrets.find("flora_default")) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.sleep(0)
        go.set()
        return await second

    assert asyncio.run(find()) == SECRET
    assert backend.read == ["flora_default"]


# --- 2,000 deliveries -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 2])
def test_thousands_of_forged_old_cut_huge_and_repeated_deliveries_change_nothing(
    app: FloraWebhookApp, assets: Assets, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    for uri in (COMPLETED, FAILED, "flora://second/runs/completed", "flora://plain/runs/completed"):
        assets.add(uri)
    genuine = [body_of(number, random.Random(number).choice(["completed", "failed"])) for number in range(20)]
    assert {deliver(app, body).status_code for body in genuine} == {200}
    before = assets.events()
    assert len(before) == len(genuine)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)  # a signature gets no older while the others are sent
    made = random.Random(seed)
    hostile = [_hostile(made, made.choice(genuine), number) for number in range(2000)]
    answers = deliver_all(app, [delivery for delivery, _ in hostile], at_once=20)
    wrong = [
        (answer.status_code, expected, delivery[0])
        for answer, (delivery, expected) in zip(answers, hostile, strict=True)
        if answer.status_code != expected
    ]
    assert wrong == []
    assert assets.events() == before
    assert {expected for _, expected in hostile} == {200, 400, 401, 404, 413}


def _hostile(made: random.Random, genuine: bytes, number: int) -> tuple[Delivery, int]:
    """A delivery that must change nothing, and the status of its answer."""
    return made.choice(KINDS)(made, genuine, number)


def _to(body: Any, headers: Any, status: int, conn_id: str = "flora_default") -> tuple[Delivery, int]:
    return (conn_id, body, headers), status


def _forged(made: random.Random, genuine: bytes, number: int) -> tuple[Delivery, int]:
    """A new run, signed with something that is not the secret."""
    body = body_of(1000 + number)
    key = made.choice(["", "whsec_", "whsec_second", SECRET + " ", SECRET.upper(), f"whsec_{number}"])
    return _to(body, signed(body, key), 401)


def _changed(made: random.Random, genuine: bytes, number: int) -> tuple[Delivery, int]:
    """A genuine signature over another body."""
    at = made.randrange(len(genuine))
    byte = bytes([(genuine[at] + made.randrange(1, 256)) % 256])
    return _to(genuine[:at] + byte + genuine[at + 1 :], signed(genuine), 401)


def _cut(made: random.Random, genuine: bytes, number: int) -> tuple[Delivery, int]:
    return _to(genuine[: made.randrange(len(genuine))], signed(genuine), 401)


def _cut_and_signed(made: random.Random, genuine: bytes, number: int) -> tuple[Delivery, int]:
    body = genuine[: made.randrange(len(genuine))]
    return _to(body, signed(body), 400)


def _old(made: random.Random, genuine: bytes, number: int) -> tuple[Delivery, int]:
    body = body_of(1000 + number)
    age = made.choice([-1, 1]) * made.uniform(310, 10 ** made.randrange(3, 9))
    return _to(body, signed(body, at=max(0.0, time.time() - age)), 401)


def _huge(made: random.Random, genuine: bytes, number: int) -> tuple[Delivery, int]:
    body = body_of(1000 + number) + b" " * (webhooks.LARGEST_BODY + made.randrange(1, 100_000))
    return _to(body, signed(body), 413)


def _repeated(made: random.Random, genuine: bytes, number: int) -> tuple[Delivery, int]:
    return _to(genuine, signed(genuine, at=time.time() + made.uniform(-290, 290)), 200)


def _to_others(made: random.Random, genuine: bytes, number: int) -> tuple[Delivery, int]:
    body = body_of(1000 + number)
    conn_id, status = made.choice([("second", 401), ("plain", 404), ("unknown", 404), ("%00", 404)])
    return _to(body, signed(body), status, conn_id)


def _odd_header(made: random.Random, genuine: bytes, number: int) -> tuple[Delivery, int]:
    """A good signature in a header of another form."""
    body = body_of(1000 + number)
    good = signed(body)["Flora-Signature"]
    time_part, _, v1 = good.partition(",")
    odd = made.choice(
        [
            "",
            time_part,
            v1,
            good.replace("v1=", "v0="),
            good.replace("v1=", "v1=sha256="),
            good.replace(",", ";"),
            good[:-1],
            good + "0",
            f"{good},{time_part}",
            f"t=+{good[2:]}",
            good.replace("t=", "t=1"),
            f"t={time.time()},{v1}",
            good + ",v1=" + "0" * 3000,
            bytes(made.randrange(128, 256) for _ in range(50)),
        ]
    )
    return _to(body, {"Flora-Signature": odd}, 401)


KINDS: list[Callable[[random.Random, bytes, int], tuple[Delivery, int]]] = [
    _forged,
    _changed,
    _cut,
    _cut_and_signed,
    _old,
    _huge,
    _repeated,
    _to_others,
    _odd_header,
]


# --- the plugin -------------------------------------------------------------------------------------------


def test_the_receiver_comes_before_the_pages_below_whose_path_it_is(assets: Assets) -> None:
    from fastapi import FastAPI

    assets.add(COMPLETED)
    airflow = FastAPI()
    for mounted in FloraPlugin.fastapi_apps:  # as Airflow does it
        assert isinstance(mounted["app"], LazyApp)
        airflow.mount(mounted["url_prefix"], mounted["app"])
    assert deliver(airflow, conn_id="flora/webhooks/flora_default").status_code == 200
    assert deliver(airflow, conn_id="flora/webhooks").status_code == 404
    assert len(assets.events()) == 1
