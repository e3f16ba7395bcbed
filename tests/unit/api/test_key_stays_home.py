"""The key goes to the connection's own origin and nowhere else, and is seen nowhere."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests_mock

from airflow_provider_flora.api import operations
from airflow_provider_flora.api.client import FloraClient
from airflow_provider_flora.api.errors import (
    FloraAnswerError,
    FloraConnectionError,
    FloraError,
    FloraRunTimeoutError,
)
from airflow_provider_flora.api.settings import ClientSettings
from tests.unit.api.both_clients import KEY, FakeTime, MakeClient, everything_in
from tests.unit.api.scripted_flora import ScriptedFlora, answer, cut, error, reset, run_json

ANOTHER_KEY = "sk_test_of_somebody_else"
PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def _environment_without_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def elsewhere() -> Iterator[ScriptedFlora]:
    """A server that must not get the key."""
    with ScriptedFlora() as server:
        yield server


@pytest.fixture
def names_are_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every host name is this machine."""

    def getaddrinfo(host: str, port: int, *args: Any, **kwargs: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_reported_and_not_followed(
    status: int, make_client: MakeClient, elsewhere: ScriptedFlora, pauses: list[float]
) -> None:
    with ScriptedFlora(answer(status=status, location=f"{elsewhere.origin}/x", request_id="req_7")) as flora:
        client = make_client(flora.base_url)
        with pytest.raises(FloraAnswerError, match=rf"redirect to '{elsewhere.origin}/x'.*req_7") as caught:
            client.get_technique("tech_1")
        with pytest.raises(FloraAnswerError):
            client.start_technique_run("tech_1", [])

    assert elsewhere.connections == 0
    assert len(flora.requests) == 2
    assert pauses == []
    assert not caught.value.transient


def test_a_redirect_is_not_followed_during_a_wait_and_named_when_its_time_is_over(
    make_client: MakeClient, elsewhere: ScriptedFlora, fake_time: FakeTime
) -> None:
    redirect = answer(status=302, location=elsewhere.origin)
    with ScriptedFlora(redirect) as flora, pytest.raises(FloraRunTimeoutError, match="redirect to"):
        make_client(flora.base_url).wait_for_technique_run("tech_1", "run_1", timeout=60)

    assert elsewhere.connections == 0


def test_a_redirect_without_a_target_is_reported_too(make_client: MakeClient) -> None:
    with ScriptedFlora(answer(status=302)) as flora, pytest.raises(FloraAnswerError, match="nowhere"):
        make_client(flora.base_url).get_technique("tech_1")


def test_neither_a_poll_url_nor_a_media_url_is_ever_asked(
    make_client: MakeClient, elsewhere: ScriptedFlora
) -> None:
    outputs = [{"output_id": "o", "type": "imageUrl", "url": f"{elsewhere.origin}/1.png"}]
    run = run_json("completed", poll_url=f"{elsewhere.origin}/poll", charged_cost=1, outputs=outputs)
    photo = {"id": "photo", "type": "imageUrl", "value": f"{elsewhere.origin}/2.png"}
    with ScriptedFlora(answer(run)) as flora:
        client = make_client(flora.base_url)
        client.start_technique_run("tech_1", [photo])
        client.wait_for_technique_run("tech_1", "run_1")

    assert elsewhere.connections == 0
    assert len(flora.requests) == 2


def test_a_netrc_file_does_not_take_the_keys_place(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / ".netrc"
    netrc.write_text(f"machine 127.0.0.1 login me password {ANOTHER_KEY}\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    with ScriptedFlora(answer(run_json())) as flora:
        make_client(flora.base_url).get_technique_run("tech_1", "run_1")

    assert flora.requests[0].headers["authorization"] == f"Bearer {KEY}"


def test_a_netrc_file_does_not_take_the_keys_place_on_the_internet_either(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / ".netrc"
    netrc.write_text(f"default login me password {ANOTHER_KEY}\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    with requests_mock.Mocker() as flora:
        flora.get(requests_mock.ANY, json=run_json())
        FloraClient(ClientSettings(KEY)).get_technique_run("tech_1", "run_1")

    assert flora.last_request.headers["Authorization"] == f"Bearer {KEY}"


def test_proxies_of_the_environment_or_the_connection_never_see_what_goes_to_loopback(
    make_client: MakeClient, elsewhere: ScriptedFlora, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, elsewhere.origin)
    with ScriptedFlora(answer(run_json())) as flora:
        make_client(flora.base_url, proxies={"http": elsewhere.origin}).get_technique_run("tech_1", "run_1")

    assert elsewhere.connections == 0
    assert len(flora.requests) == 1


def test_the_connections_proxy_is_used_for_an_address_elsewhere(make_client: MakeClient) -> None:
    with ScriptedFlora(answer(run_json())) as proxy:
        client = make_client("http://flora.example/api/v1", allow_http=True, proxies={"http": proxy.origin})
        client.get_technique_run("tech_1", "run_1")

    assert proxy.requests[0].target == "http://flora.example/api/v1/techniques/tech_1/runs/run_1"


def test_the_connections_proxy_goes_before_the_environments(
    make_client: MakeClient, elsewhere: ScriptedFlora, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", elsewhere.origin)
    monkeypatch.setenv("all_proxy", elsewhere.origin)
    with ScriptedFlora(answer(run_json())) as proxy:
        client = make_client("http://flora.example/api/v1", allow_http=True, proxies={"http": proxy.origin})
        client.get_technique_run("tech_1", "run_1")

    assert len(proxy.requests) == 1
    assert elsewhere.connections == 0


def test_the_environments_proxy_is_used_where_the_connection_names_none(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ScriptedFlora(answer(run_json())) as proxy:
        monkeypatch.setenv("http_proxy", proxy.origin)
        make_client("http://flora.example", allow_http=True).get_technique_run("tech_1", "run_1")

    assert len(proxy.requests) == 1


def test_a_proxy_of_the_connection_for_another_scheme_means_none_for_this_one(
    make_client: MakeClient, elsewhere: ScriptedFlora, names_are_here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "all_proxy"):
        monkeypatch.setenv(name, elsewhere.origin)
    with ScriptedFlora(answer(run_json())) as flora:
        client = make_client(
            f"http://flora.example:{flora.port}", allow_http=True, proxies={"https": elsewhere.origin}
        )
        client.get_technique_run("tech_1", "run_1")

    assert len(flora.requests) == 1
    assert elsewhere.connections == 0


def test_the_environment_can_take_a_host_out_of_its_proxy(
    make_client: MakeClient, elsewhere: ScriptedFlora, names_are_here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", elsewhere.origin)
    monkeypatch.setenv("no_proxy", "flora.example")
    with ScriptedFlora(answer(run_json())) as flora:
        make_client(f"http://flora.example:{flora.port}", allow_http=True).get_technique_run("tech_1", "run_1")

    assert len(flora.requests) == 1
    assert elsewhere.connections == 0


def test_over_tls_a_proxy_is_asked_for_a_tunnel_and_never_gets_the_key(make_client: MakeClient) -> None:
    with ScriptedFlora(cut(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")) as proxy:
        client = make_client("https://flora.example", proxies={"https": proxy.origin}, max_retries=0)
        with pytest.raises(FloraConnectionError) as caught:
            client.get_technique_run("tech_1", "run_1")

    assert (proxy.requests[0].method, proxy.requests[0].target) == ("CONNECT", "flora.example:443")
    assert "authorization" not in proxy.requests[0].headers
    assert KEY not in everything_in(caught.value)


NOT_HTTP = b"\x00\x01 this is not HTTP \r\n\r\n"
MISBEHAVIOUR = {
    "an error": error(400, "input_validation_error", "Bad."),
    "a rotated key": error(401),
    "no JSON": answer(b"<html>"),
    "no HTTP": cut(NOT_HTTP),
    "a bad length": cut(b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n"),
    "a broken encoding": answer(b"not gzip", content_encoding="gzip"),
    "half an answer": cut(answer(run_json())[:-5]),
    "a reset": reset,
    "a redirect": answer(status=302, location="https://elsewhere.example/"),
}


@pytest.mark.parametrize("reply", MISBEHAVIOUR.values(), ids=MISBEHAVIOUR)
def test_no_exception_shows_the_key_nor_does_anything_that_it_was_raised_from(
    reply: Any, make_client: MakeClient
) -> None:
    with ScriptedFlora(reply) as flora:
        client = make_client(flora.base_url, max_retries=0)
        with pytest.raises(FloraError) as caught:
            client.get_technique("tech_1")

    assert KEY not in everything_in(caught.value)


def test_no_repr_shows_the_key_or_a_proxys_password(make_client: MakeClient) -> None:
    settings = ClientSettings(KEY, proxies={"https": "http://me:hush@proxy.example:3128"})
    client = make_client("https://flora.example")
    shown = [settings, client, client.settings if hasattr(client, "settings") else client]
    shown += [operations.get_technique("tech_1"), operations.start_technique_run("t", [], "async", None, None)]

    for thing in shown:
        assert KEY not in repr(thing) + str(thing)
        assert "hush" not in repr(thing) + str(thing)


def test_an_unreachable_flora_is_named_without_the_key(make_client: MakeClient) -> None:
    with ScriptedFlora() as gone:
        pass
    with pytest.raises(FloraConnectionError) as caught:
        make_client(gone.base_url, max_retries=0).get_technique("tech_1")

    assert str(caught.value) == (
        f"No answer from {gone.base_url} to GET /techniques/tech_1: Connection refused. "
        "Check the address, the network and the proxy."
    )
    assert isinstance(caught.value.__context__, OSError), "what the library said is there for a debugger"
    assert KEY not in everything_in(caught.value)


def test_a_proxy_that_is_not_there_is_named_without_its_password(make_client: MakeClient) -> None:
    with ScriptedFlora() as gone:
        proxy = gone.origin.removeprefix("http://")
    proxies = {"http": f"http://me:hush@{proxy}"}
    client = make_client("http://flora.example", proxies=proxies, allow_http=True, max_retries=0)
    with pytest.raises(FloraConnectionError) as caught:
        client.get_technique("tech_1")

    assert str(caught.value) == (
        f"No answer from http://flora.example/api/v1 through the proxy http://…@{proxy} to GET /techniques/tech_1: "
        "Connection refused. Check the address, the network and the proxy."
    )
    assert "hush" not in everything_in(caught.value)


def test_a_name_that_no_server_has_is_told_in_the_system_s_words(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    client = make_client("https://flora.example", max_retries=0)
    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(
        FloraConnectionError, match=r": Name or service not known\. Check the address, the network and the proxy\.$"
    ):
        client.get_technique("tech_1")
