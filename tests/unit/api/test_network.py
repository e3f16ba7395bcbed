"""Both clients use the same proxy and trust the same certificates, however these are configured."""

from __future__ import annotations

import os
import re
import ssl
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from airflow_provider_flora.api import network
from airflow_provider_flora.api.client import FloraClient
from airflow_provider_flora.api.errors import FloraConnectionError, FloraError, FloraSettingsError
from airflow_provider_flora.api.session import BareSession
from airflow_provider_flora.api.settings import ClientSettings
from tests.unit.api.both_clients import KEY, MakeClient, everything_in
from tests.unit.api.loopback_tls import Authority, TlsFlora, Tunnel
from tests.unit.api.scripted_flora import ScriptedFlora, answer, run_json

CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")
PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*CA_VARIABLES, *PROXY_VARIABLES, *map(str.upper, PROXY_VARIABLES)):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The CA whose certificate Flora shows, as a proxy that inspects TLS would."""
    return Authority("ours", tmp_path_factory.mktemp("cas") / "ours")


@pytest.fixture(scope="session")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Another CA."""
    return Authority("theirs", tmp_path_factory.mktemp("cas") / "theirs")


@pytest.fixture
def flora(ours: Authority) -> Iterator[TlsFlora]:
    """A Flora with a certificate of :func:`ours`."""
    with TlsFlora(ours, answer(run_json())) as server:
        yield server


def asked(client: Any) -> bool:
    """Get a run, and return whether it arrived."""
    try:
        client.get_technique_run("tech_1", "run_1")
    except FloraConnectionError as error:
        if not re.search(r": certificate verify failed: .+ Check the address, the CA certificates", str(error)):
            raise
        return False
    return True


# --- certificates -----------------------------------------------------------------------------------------

TRUST = [
    # what the connection says, what the environment says, whether Flora is trusted
    (True, {}, False),
    (False, {}, True),
    ("{ours}", {}, True),
    ("{ours_folder}", {}, True),
    ("{theirs}", {}, False),
    (True, {"REQUESTS_CA_BUNDLE": "{ours}"}, True),
    (True, {"REQUESTS_CA_BUNDLE": "{ours_folder}"}, True),
    (True, {"CURL_CA_BUNDLE": "{ours}"}, True),
    (True, {"SSL_CERT_FILE": "{ours}"}, True),
    (True, {"SSL_CERT_DIR": "{ours_folder}"}, True),
    (True, {"SSL_CERT_DIR": f"/no/such/folder{os.pathsep}{{ours_folder}}"}, True),
    (True, {"REQUESTS_CA_BUNDLE": "{theirs}"}, False),
    (True, {"REQUESTS_CA_BUNDLE": "{ours}", "CURL_CA_BUNDLE": "{theirs}", "SSL_CERT_FILE": "{theirs}"}, True),
    (True, {"REQUESTS_CA_BUNDLE": "{theirs}", "CURL_CA_BUNDLE": "{ours}", "SSL_CERT_FILE": "{ours}"}, False),
    (True, {"CURL_CA_BUNDLE": "{theirs}", "SSL_CERT_FILE": "{ours}"}, False),
    (True, {"SSL_CERT_FILE": "{theirs}", "SSL_CERT_DIR": "{ours_folder}"}, False),
    (True, {"REQUESTS_CA_BUNDLE": "", "CURL_CA_BUNDLE": "", "SSL_CERT_FILE": "{ours}"}, True),
    ("{ours}", {"REQUESTS_CA_BUNDLE": "{theirs}", "SSL_CERT_FILE": "{theirs}"}, True),
    ("{theirs}", {"REQUESTS_CA_BUNDLE": "{ours}", "SSL_CERT_FILE": "{ours}"}, False),
    (False, {"REQUESTS_CA_BUNDLE": "{theirs}", "SSL_CERT_FILE": "/no/such/file"}, True),
]


@pytest.mark.parametrize(("verify", "environment", "trusted"), TRUST)
@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_both_clients_trust_the_same_certificates(
    verify: bool | str,
    environment: dict[str, str],
    trusted: bool,
    make_client: MakeClient,
    flora: TlsFlora,
    ours: Authority,
    theirs: Authority,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    paths = {"ours": ours.bundle, "ours_folder": ours.folder, "theirs": theirs.bundle}
    for name, value in environment.items():
        monkeypatch.setenv(name, value.format(**paths))
    verify = verify.format(**paths) if isinstance(verify, str) else verify

    assert asked(make_client(flora.base_url, verify=verify, max_retries=0)) is trusted
    assert len(flora.requests) == trusted


def test_a_certificate_for_another_name_is_not_trusted(
    make_client: MakeClient, flora: TlsFlora, ours: Authority
) -> None:
    with Tunnel(flora.port) as tunnel:
        proxies = {"https": tunnel.address}
        client = make_client("https://other.example", proxies=proxies, verify=str(ours.bundle), max_retries=0)
        assert not asked(client)

    assert tunnel.asked_for == ["other.example:443"]
    assert flora.requests == []


def test_requests_own_cas_are_not_trusted_beside_those_that_are_named(
    make_client: MakeClient, flora: TlsFlora, ours: Authority, theirs: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests.adapters, "DEFAULT_CA_BUNDLE_PATH", str(ours.bundle))

    assert not asked(make_client(flora.base_url, verify=str(theirs.bundle), max_retries=0))


CONTENTS = [None, b"", b"not a certificate"]


@pytest.mark.parametrize(
    ("name", "content"),
    # What is in SSL_CERT_DIR, OpenSSL looks up only when it needs a CA.
    [(name, content) for name in ("verify", *CA_VARIABLES[:3]) for content in CONTENTS] + [("SSL_CERT_DIR", None)],
)
def test_ca_certificates_that_are_not_there_are_named_before_anything_is_sent(
    name: str,
    content: bytes | None,
    make_client: MakeClient,
    flora: TlsFlora,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    if name != "verify":
        monkeypatch.setenv(name, str(path))
    reported = rf"{name} names (the CA certificates )?'{path}'.*(does not exist here|no readable CA certificates)"
    with pytest.raises(FloraSettingsError, match=reported):
        make_client(flora.base_url, verify=str(path) if name == "verify" else True).list_workspaces()

    assert flora.connections == 0


def test_a_bundle_that_was_renewed_is_read_again(
    make_client: MakeClient, flora: TlsFlora, ours: Authority, theirs: Authority, tmp_path: Path
) -> None:
    bundle = tmp_path / "ca.pem"
    bundle.write_bytes(theirs.bundle.read_bytes())
    assert not asked(make_client(flora.base_url, verify=str(bundle), max_retries=0))
    bundle.write_bytes(ours.bundle.read_bytes())
    os.utime(bundle, (1, 1))

    assert asked(make_client(flora.base_url, verify=str(bundle), max_retries=0))


def test_without_a_word_the_operating_systems_cas_and_certifis_are_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    network._default_context.cache_clear()
    loaded: list[str] = []
    monkeypatch.setattr(ssl.SSLContext, "load_default_certs", lambda self, purpose: loaded.append("the system's"))
    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", lambda self, cafile: loaded.append(cafile))
    way = network.route_to("https://app.flora.ai/api/v1", ClientSettings(KEY))
    network._default_context.cache_clear()

    assert loaded == ["the system's", network.certifi.where()]
    assert way.tls is not None
    assert (way.tls.verify_mode, way.tls.check_hostname) == (ssl.CERT_REQUIRED, True)


def test_certificates_are_read_once_and_only_where_there_is_tls() -> None:
    settings = ClientSettings(KEY, "http://127.0.0.1:1")
    assert network.route_to(settings.base_url, settings).tls is None

    assert (
        network.route_to("https://a.example", settings).tls is network.route_to("https://b.example", settings).tls
    )


def test_uploads_and_downloads_trust_whom_the_clients_trust(flora: TlsFlora, ours: Authority) -> None:
    with BareSession() as session:
        settings = ClientSettings(KEY, verify=str(ours.bundle))
        assert session.send_bare("GET", flora.base_url, settings, headers={}).status_code == 200
        with pytest.raises(OSError, match="certificate verify failed"):
            session.send_bare("GET", flora.base_url, ClientSettings(KEY), headers={})


# --- proxies ----------------------------------------------------------------------------------------------

FLORA = "https://flora.example/api/v1"
TLS_IN_TLS = sys.version_info >= (3, 11)
PROXIES: list[tuple[dict[str, str], dict[str, str], str, str | None]] = [
    # the connection's proxies, the environment, what is asked for, the proxy
    ({}, {}, FLORA, None),
    ({}, {"https_proxy": "http://a:1"}, FLORA, "http://a:1"),
    ({}, {"HTTPS_PROXY": "http://a:1"}, FLORA, "http://a:1"),
    ({}, {"https_proxy": "http://a:1", "HTTPS_PROXY": "http://b:2"}, FLORA, "http://a:1"),
    ({}, {"https_proxy": "", "HTTPS_PROXY": "http://b:2"}, FLORA, None),
    ({}, {"http_proxy": "http://a:1"}, FLORA, None),
    ({}, {"http_proxy": "http://a:1"}, "http://flora.example", "http://a:1"),
    ({}, {"HTTP_PROXY": "http://a:1"}, "http://flora.example", "http://a:1"),
    ({}, {"all_proxy": "http://a:1"}, FLORA, "http://a:1"),
    ({}, {"ALL_PROXY": "http://a:1"}, FLORA, "http://a:1"),
    ({}, {"ALL_PROXY": "http://a:1"}, "http://flora.example", "http://a:1"),
    ({}, {"all_proxy": "http://a:1", "https_proxy": "http://b:2"}, FLORA, "http://b:2"),
    ({}, {"https_proxy": "a:1"}, FLORA, "http://a:1"),
    ({}, {"https_proxy": " me:hush@a "}, FLORA, "http://me:hush@a"),
    ({}, {"https_proxy": "[2001:db8::1]:3128"}, FLORA, "http://[2001:db8::1]:3128"),
    ({}, {"https_proxy": "http://a:1", "no_proxy": "flora.example"}, FLORA, None),
    ({}, {"https_proxy": "http://a:1", "NO_PROXY": "flora.example"}, FLORA, None),
    ({}, {"all_proxy": "http://a:1", "NO_PROXY": "x.example, .example"}, FLORA, None),
    ({}, {"https_proxy": "http://a:1", "no_proxy": "*"}, FLORA, None),
    ({}, {"https_proxy": "http://a:1", "no_proxy": "flora.example:8443"}, "https://flora.example:8443", None),
    ({}, {"https_proxy": "http://a:1", "no_proxy": "10.0.0.0/8"}, "https://10.1.2.3", None),
    ({}, {"https_proxy": "http://a:1", "no_proxy": "10.0.0.0/8"}, "https://11.1.2.3", "http://a:1"),
    ({}, {"all_proxy": "http://a:1", "https_proxy": "http://a:1"}, "https://localhost:8443", None),
    ({}, {"all_proxy": "http://a:1", "http_proxy": "http://a:1"}, "http://127.0.0.1:8443", None),
    ({"https": "http://c:3"}, {}, FLORA, "http://c:3"),
    ({"https": "c:3"}, {}, FLORA, "http://c:3"),
    ({"HTTPS": "HTTP://c:3"}, {}, FLORA, "HTTP://c:3"),
    ({"https": "http://c:3"}, {"https_proxy": "http://a:1", "no_proxy": "*"}, FLORA, "http://c:3"),
    ({"http": "http://c:3"}, {"https_proxy": "http://a:1", "all_proxy": "http://b:2"}, FLORA, None),
    ({"https": "http://c:3"}, {}, "https://localhost:8443", None),
]


@pytest.mark.parametrize(("proxies", "environment", "url", "proxy"), PROXIES)
def test_the_proxy_of_a_url_is_the_connections_or_else_the_environments(
    proxies: dict[str, str],
    environment: dict[str, str],
    url: str,
    proxy: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert network.proxy_for(url, ClientSettings(KEY, proxies=proxies)) == proxy


@pytest.mark.parametrize("how", ["{}", "http://{}", "http://me:h%20sh@{}", "me:h%20sh@{}"])
@pytest.mark.parametrize("where", ["https_proxy", "HTTPS_PROXY", "ALL_PROXY", "proxies"])
def test_both_clients_take_a_tunnel_through_the_same_proxy(
    how: str,
    where: str,
    make_client: MakeClient,
    flora: TlsFlora,
    ours: Authority,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Tunnel(flora.port) as tunnel:
        proxy = how.format(tunnel.address)
        if where != "proxies":
            monkeypatch.setenv(where, proxy)
        proxies = {"https": proxy} if where == "proxies" else {}
        assert asked(make_client(FLORA, proxies=proxies, verify=str(ours.bundle), max_retries=0))

    assert tunnel.asked_for == ["flora.example:443"]
    assert tunnel.headers.get("proxy-authorization") == ("basic bwu6acbzaa==" if "me:" in how else None)
    assert "authorization" not in tunnel.headers
    assert flora.requests[0].headers["authorization"] == f"Bearer {KEY}"
    assert "proxy-authorization" not in flora.requests[0].headers


@pytest.mark.parametrize(
    "obstacle", ["the certificate", "the tunnel", "the proxy", *["the proxy's certificate"] * TLS_IN_TLS]
)
def test_what_a_proxy_or_a_certificate_stops_has_not_been_sent(
    obstacle: str, flora: TlsFlora, ours: Authority, theirs: Authority
) -> None:
    with Tunnel(flora.port, theirs if obstacle == "the proxy's certificate" else None) as tunnel:
        scheme = "https" if obstacle == "the proxy's certificate" else "http"
        address = "127.0.0.1:1" if obstacle == "the proxy" else f"localhost:{tunnel.port}"
        proxies = {"https": f"{scheme}://{address}"}
        trusted = theirs if obstacle == "the certificate" else ours
        settings = ClientSettings(KEY, FLORA, proxies=proxies, verify=str(trusted.bundle), max_retries=0)
        if obstacle == "the tunnel":
            tunnel.answer = b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n"
        with FloraClient(settings) as client, pytest.raises(FloraConnectionError) as caught:
            client.start_technique_run("tech_1", [])

    assert not caught.value.was_sent
    assert flora.requests == []


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize("url", ["http://flora.example", *["https://flora.example"] * TLS_IN_TLS])
def test_both_clients_trust_a_proxy_over_tls_as_they_trust_flora(
    url: str, trusted: bool, make_client: MakeClient, flora: TlsFlora, ours: Authority, theirs: Authority
) -> None:
    with Tunnel(flora.port, ours if trusted else theirs) as tunnel:
        proxies = dict.fromkeys(("http", "https"), f"https://localhost:{tunnel.port}")
        client = make_client(url, proxies=proxies, verify=str(ours.bundle), allow_http=True, max_retries=0)
        if url.startswith("https:"):
            assert asked(client) is trusted
        else:
            with pytest.raises(FloraError, match="405" if trusted else "certificate verify failed"):
                client.list_workspaces()

    wanted = "flora.example:443" if url.startswith("https:") else "http://flora.example/api/v1/workspaces"
    assert tunnel.asked_for == [wanted] * trusted


def test_uploads_and_downloads_take_the_proxy_that_the_clients_take(
    flora: TlsFlora, ours: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ClientSettings(KEY, verify=str(ours.bundle))
    with Tunnel(flora.port) as tunnel, BareSession() as session:
        monkeypatch.setenv("ALL_PROXY", tunnel.address)
        assert session.send_bare("GET", "https://flora.example/1.png", settings, headers={}).status_code == 200

    assert tunnel.asked_for == ["flora.example:443"]


def test_a_proxy_over_tls_is_refused_where_a_triggerer_could_not_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ClientSettings(KEY, proxies={"https": "https://proxy.example", "http": "https://proxy.example"})
    monkeypatch.setattr(sys, "version_info", (3, 10, 14, "final", 0))
    with pytest.raises(FloraSettingsError, match=r"needs Python 3\.11"):
        network.proxy_for(FLORA, settings)

    assert network.proxy_for("http://flora.example", settings) == "https://proxy.example"


BAD_PROXIES = [
    "socks5://me:hush@proxy:1080",
    "http://me:hush@proxy:x",
    "http://",
    "me:hu sh@proxy:1",
    "ftp://hush@p",
]


@pytest.mark.parametrize("bad", BAD_PROXIES)
def test_a_proxy_that_cannot_be_used_is_named_without_its_password_before_anything_is_sent(
    bad: str, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FloraSettingsError, match=r"proxies\['https'\] is .*http://proxy.example:3128") as caught:
        make_client(FLORA, proxies={"https": bad})
    assert "hu" not in str(caught.value)

    monkeypatch.setenv("ALL_PROXY", bad)
    with pytest.raises(FloraSettingsError, match=r"https_proxy or all_proxy\) is ") as caught:
        make_client(FLORA).list_workspaces()
    assert "hu" not in str(caught.value)


@pytest.mark.parametrize("key", ["all", "https_proxy", "socks", "https://flora.example", ""])
def test_a_proxy_for_something_else_than_http_and_https_is_refused(key: str) -> None:
    with pytest.raises(FloraSettingsError, match="Its keys are http and https"):
        ClientSettings(KEY, proxies={key: "http://proxy:3128"})


# --- errors ---------------------------------------------------------------------------------------------


def refuse(status: int) -> bytes:
    return f"HTTP/1.1 {status} No\r\nproxy-authenticate: Basic\r\ncontent-length: 0\r\n\r\n".encode()


@pytest.mark.parametrize("url", [FLORA, "http://flora.example"])
@pytest.mark.parametrize("misbehaviour", ["407", "502", "no http", "gone", "no tls"])
def test_no_error_shows_the_password_of_a_proxy(misbehaviour: str, url: str, make_client: MakeClient) -> None:
    replies = {"407": refuse(407), "502": refuse(502), "no http": b"\x00\x01\r\n\r\n", "no tls": answer(b"{}")}
    with ScriptedFlora(replies.get(misbehaviour, b"")) as proxy:
        address = f"127.0.0.1:{1 if misbehaviour == 'gone' else proxy.port}"
        scheme = "https" if misbehaviour == "no tls" else "http"
        proxies = dict.fromkeys(("http", "https"), f"{scheme}://me:hush-hush@{address}")
        with pytest.raises(FloraError) as caught:
            make_client(url, proxies=proxies, allow_http=True, max_retries=0, timeout=0.3).list_workspaces()

    printed = everything_in(caught.value)
    for secret in ("hush", "bWU6aHVzaC1odXNo", KEY):
        assert secret not in printed
