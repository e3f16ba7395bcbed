"""An Airflow connection in each of its forms becomes a client's settings; the hook is that client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import certifi
import pytest
from airflow.models.connection import Connection

from airflow_provider_flora.airflow_compat import AirflowNotFoundException
from airflow_provider_flora.api.errors import FloraAPIError, FloraSettingsError
from airflow_provider_flora.api.settings import ClientSettings
from airflow_provider_flora.emulator import Emulator
from airflow_provider_flora.hooks.connection import settings_of
from airflow_provider_flora.hooks.flora import FloraHook

pytestmark = pytest.mark.usefixtures("quick")
KEY = "sk_live_secret"


def read(**fields: Any) -> ClientSettings:
    extra = fields.pop("extra", None)
    fields = {"conn_type": "flora", "password": KEY, **fields}
    return settings_of(Connection("my_flora", extra=json.dumps(extra) if extra else None, **fields), "my_flora")


def read_uri(uri: str) -> ClientSettings:
    return settings_of(Connection("my_flora", uri=uri), "my_flora")


# --- where Flora is ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "base_url"),
    [
        ("flora://:KEY@", "https://app.flora.ai/api/v1"),
        ("flora://:KEY@example.com", "https://example.com/api/v1"),
        ("flora://:KEY@example.com/other/v2", "https://example.com/other/v2"),
        ("flora://:KEY@example.com:8443/other/v2", "https://example.com:8443/other/v2"),
        ("flora://:KEY@127.0.0.1:8765/api/v1", "http://127.0.0.1:8765/api/v1"),
        ("flora://:KEY@localhost:8765", "http://localhost:8765/api/v1"),
        ("flora://:KEY@[::1]:8765/api/v1", "http://[::1]:8765/api/v1"),
        ("flora://:KEY@http%3A%2F%2F127.0.0.1%3A8765%2Fapi%2Fv1", "http://127.0.0.1:8765/api/v1"),
    ],
)
def test_a_uri_sets_floras_address(uri: str, base_url: str) -> None:
    settings = read_uri(uri)
    assert settings.base_url == base_url
    assert settings.api_key == "KEY"


@pytest.mark.parametrize(
    ("host", "base_url"),
    [
        (None, "https://app.flora.ai/api/v1"),
        ("  ", "https://app.flora.ai/api/v1"),
        ("https://example.com", "https://example.com/api/v1"),
        (" https://example.com/v2/ ", "https://example.com/v2"),
        ("http://127.0.0.1:8765/api/v1", "http://127.0.0.1:8765/api/v1"),
        ("example.com", "https://example.com/api/v1"),
        ("example.com:8443", "https://example.com:8443/api/v1"),
        ("localhost:8765", "http://localhost:8765/api/v1"),
        ("127.0.0.1:8765/api/v1", "http://127.0.0.1:8765/api/v1"),
        ("[::1]:8765", "http://[::1]:8765/api/v1"),
        ("::1", "http://[::1]/api/v1"),
        ("2001:db8::1", "https://[2001:db8::1]/api/v1"),
        ("[2001:db8::1]", "https://[2001:db8::1]/api/v1"),
        ("[2001:db8::1]:8443/v2", "https://[2001:db8::1]:8443/v2"),
        ("https://[2001:db8::1]", "https://[2001:db8::1]/api/v1"),
        ("HTTPS://example.com", "https://example.com/api/v1"),
    ],
)
def test_a_host_is_a_base_url_or_a_part_of_one(host: str | None, base_url: str) -> None:
    assert read(host=host).base_url == base_url


@pytest.mark.parametrize(
    ("fields", "base_url"),
    [
        ({"host": "https://example.com", "port": 8443}, "https://example.com:8443/api/v1"),
        ({"host": "https://example.com:8443", "port": 8443}, "https://example.com:8443/api/v1"),
        ({"host": "https://example.com/v2", "port": 8443}, "https://example.com:8443/v2"),
        ({"host": "example.com", "schema": "https"}, "https://example.com/api/v1"),
        ({"host": "example.com", "schema": "HTTPS", "port": 8443}, "https://example.com:8443/api/v1"),
        ({"host": "example.com/v2", "schema": "https://"}, "https://example.com/v2"),
        ({"host": "https://example.com", "schema": "https"}, "https://example.com/api/v1"),
        ({"host": "127.0.0.1", "port": 8765, "schema": "http"}, "http://127.0.0.1:8765/api/v1"),
        ({"host": "localhost", "schema": "https"}, "https://localhost/api/v1"),
        ({"host": "https://example.com", "schema": "/v2/"}, "https://example.com/v2"),
        ({"host": "https://example.com/v2", "schema": "v2"}, "https://example.com/v2"),
        ({"host": "[2001:db8::1]", "port": 8443}, "https://[2001:db8::1]:8443/api/v1"),
        ({"host": "2001:db8::1", "port": 8443, "schema": "https"}, "https://[2001:db8::1]:8443/api/v1"),
        ({"schema": "https"}, "https://app.flora.ai/api/v1"),
        ({"schema": "api/v2"}, "https://app.flora.ai/api/v2"),
    ],
)
def test_an_address_may_be_spread_over_host_port_and_schema(fields: dict[str, Any], base_url: str) -> None:
    assert read(**fields).base_url == base_url


@pytest.mark.parametrize(
    ("fields", "reported"),
    [
        ({"host": "https://example.com:443", "port": 8443}, "two ports: '443' in its host and '8443' in its port"),
        (
            {"host": "https://example.com", "schema": "http"},
            "two schemes: 'https' in its host and 'http' in its schema",
        ),
        ({"host": "example.com/v2", "schema": "api/v1"}, "two paths: 'v2' in its host and 'api/v1' in its schema"),
        ({"port": 8443}, "it has the port 8443, but no host"),
        ({"host": "example.com", "schema": "http"}, "Plain http .* 'example.com'.*allow_http"),
        ({"host": "example.com:abc"}, "'https://example.com:abc/' is not an http"),
        ({"host": "ftp://example.com"}, "'ftp://example.com/' is not an http"),
        ({"host": "app.flora.ai, example.com"}, "is not an http"),
        ({"host": "https://me:hush@example.com", "port": 8443}, "must not contain a user, password"),
        ({"host": "ftp://me:hush@example.com"}, "'ftp://…@example.com/' is not an http"),
        ({"conn_type": "http", "host": "example.com"}, "its type is 'http'.*connection of type 'flora'"),
    ],
)
def test_an_invalid_address_is_reported(fields: dict[str, Any], reported: str) -> None:
    with pytest.raises(
        FloraSettingsError, match=f"^The connection 'my_flora' cannot be used: .*{reported}"
    ) as caught:
        read(**fields)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"host": "http://127.0.0.1:8765/api/v1"},
        {"host": "https://app.flora.ai/api/v1", "password": "k/@:?&"},
        {"host": "::1", "port": 87, "schema": "api/v1", "extra": {"timeout": 3, "verify": False}},
        {"extra": {"proxies": {"https": "http://proxy:3128"}, "max_retries": 1, "workspace_id": "ws_1"}},
        {"host": "http://flora.internal", "extra": {"allow_http": True}},
    ],
)
def test_a_connection_means_the_same_after_a_round_trip_through_its_uri(fields: dict[str, Any]) -> None:
    extra = json.dumps(fields["extra"]) if "extra" in fields else None
    connection = Connection("my_flora", conn_type="flora", **{"password": KEY, **fields, "extra": extra})
    again = Connection("my_flora", uri=connection.get_uri())
    assert settings_of(again, "my_flora") == settings_of(connection, "my_flora")


@pytest.mark.parametrize("extra", [{"allow_http": True}, {"allow_http": "true"}])
def test_plain_http_to_another_machine_is_allowed_only_on_demand(extra: dict[str, Any]) -> None:
    with pytest.raises(FloraSettingsError, match=r"'my_flora' cannot be used.*allow_http"):
        read(host="http://flora.internal")
    assert read(host="http://flora.internal", extra=extra).base_url == "http://flora.internal/api/v1"


# --- the extra --------------------------------------------------------------------------------------------


def test_what_is_not_given_has_a_default() -> None:
    assert read() == ClientSettings(KEY, "https://app.flora.ai/api/v1", None, 60.0, 4, {}, True, False)


@pytest.mark.parametrize(
    ("name", "value", "read_as"),
    [
        ("workspace_id", " ws_1 ", "ws_1"),
        ("timeout", 30, 30.0),
        ("timeout", "2.5", 2.5),
        ("max_retries", 0, 0),
        ("max_retries", "7", 7),
        ("proxies", "http://proxy:3128", {"http": "http://proxy:3128", "https": "http://proxy:3128"}),
        ("proxies", "proxy:3128", {"http": "http://proxy:3128", "https": "http://proxy:3128"}),
        ("proxies", {"HTTPS": "proxy:3128"}, {"https": "http://proxy:3128"}),
        ("proxies", {"https": "http://proxy:3128"}, {"https": "http://proxy:3128"}),
        ("proxies", '{"https": "http://proxy:3128"}', {"https": "http://proxy:3128"}),
        ("verify", False, False),
        ("verify", "False", False),
        ("verify", "true", True),
        ("verify", f" {certifi.where()} ", certifi.where()),
        ("verify", str(Path(certifi.where()).parent), str(Path(certifi.where()).parent)),
        ("allow_http", "TRUE", True),
    ],
)
def test_an_extra_is_read_as_text_and_as_json(name: str, value: Any, read_as: Any) -> None:
    assert getattr(read(extra={name: value}), name) == read_as


@pytest.mark.parametrize("empty", ["", " ", None])
@pytest.mark.parametrize("name", ["workspace_id", "timeout", "max_retries", "proxies", "verify", "allow_http"])
def test_an_empty_field_of_the_form_means_the_default(name: str, empty: Any) -> None:
    assert read(extra={name: empty}) == read()


def test_fields_of_a_uri_are_read() -> None:
    settings = read_uri("flora://:KEY@?timeout=30&verify=false&max_retries=1&workspace_id=ws_1")
    assert (settings.timeout, settings.verify, settings.max_retries, settings.workspace_id) == (
        30,
        False,
        1,
        "ws_1",
    )


def test_what_older_forms_of_airflow_put_before_a_name_is_no_part_of_it() -> None:
    assert read(extra={"extra__flora__timeout": "30", "extra__flora__proxies": ""}).timeout == 30
    for both in ({"extra__flora__timeout": "30", "timeout": 10}, {"timeout": 10, "extra__flora__timeout": "30"}):
        assert read(extra=both).timeout == 10


@pytest.mark.parametrize(
    ("key", "reported"),
    [
        ("workspace", "Did you mean 'workspace_id'"),
        ("max_retry", "Did you mean 'max_retries'"),
        ("maxRetries", "Did you mean 'max_retries'"),
        ("Timeout", "Did you mean 'timeout'"),
        ("time-out", "Did you mean 'timeout'"),
        ("proxy", "Did you mean 'proxies'"),
        ("verify_ssl", "Did you mean 'verify'"),
        ("extra__flora__allow-http", "Did you mean 'allow_http'"),
        ("team", "The known keys are: workspace_id, timeout, max_retries, proxies, verify, allow_http"),
        ("", "The known keys are: workspace_id"),
        ("api_key", "Set the connection's password instead"),
        ("apikey", "Set the connection's password instead"),
        ("base_url", "Set the connection's host instead"),
    ],
)
@pytest.mark.parametrize("value", ["hush", "", None])
def test_an_unknown_key_is_reported_with_a_suggestion(key: str, reported: str, value: Any) -> None:
    with pytest.raises(
        FloraSettingsError, match=f"'my_flora' cannot be used: its extra has the unknown key '{key}'.*{reported}"
    ) as e:
        read(extra={"timeout": 3, key: value})
    assert "hush" not in str(e.value)


@pytest.mark.parametrize(
    ("name", "value", "reported"),
    [
        ("verify", "flase", "not 'flase'; did you mean false"),
        ("verify", "Ture", "not 'Ture'; did you mean true"),
        ("verify", 0, "true, false, or the path of a CA file or folder, not 0"),
        ("verify", "/no/such/ca.pem", "verify names .* '/no/such/ca.pem', but this file or folder does not exist"),
        ("verify", "no", "verify names .* 'no', but this file or folder does not exist"),
        ("verify", __file__, "verify names '.*', which holds no readable CA certificates"),
        ("workspace_id", "Acme", "begins with ws_, not 'Acme'"),
        ("workspace_id", 7, "begins with ws_, not 7"),
        ("proxies", {"all": "http://me:hush@proxy:3128"}, "the key 'all'. Its keys are http and https"),
        ("proxies", "socks5://me:hush@proxy:1080", r"proxies\['http'\] is 'socks5://…@proxy:1080'.*SOCKS"),
        ("proxies", {"https": "me:hush@proxy:x"}, r"proxies\['https'\] is '…@proxy:…'"),
        ("proxies", "me:hush", r"proxies\['http'\] is 'me:…'"),
        ("proxies", "http://me:hush/", r"proxies\['http'\] is 'http://me:…/'"),
        ("proxies", {"https": {"url": "http://me:hush@proxy"}}, "'proxies' takes a proxy's URL"),
        ("proxies", ["http://me:hush@proxy"], "'proxies' takes a proxy's URL"),
        ("proxies", '{"https": "http://me:hush@proxy"', "'proxies' takes a proxy's URL"),
    ],
)
def test_an_invalid_value_is_reported_with_a_suggestion(name: str, value: Any, reported: str) -> None:
    with pytest.raises(FloraSettingsError, match=f"'my_flora' cannot be used: .*{reported}") as caught:
        read(extra={name: value})
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "ALL_PROXY"])
def test_the_environments_settings_are_checked_when_a_connection_is_read(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "socks5://me:hush@/no/such/ca.pem")
    with pytest.raises(FloraSettingsError, match=f"'my_flora' cannot be used: .*({name}|all_proxy)") as caught:
        read()
    if name == "ALL_PROXY":
        assert "hush" not in str(caught.value)
    assert read(host="http://127.0.0.1:8765").on_loopback  # where neither counts


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("timeout", "soon"),
        ("timeout", 0),
        ("timeout", "nan"),
        ("timeout", "inf"),
        ("timeout", True),
        ("timeout", [1]),
        ("max_retries", -1),
        ("max_retries", 1.5),
        ("max_retries", "inf"),
        ("max_retries", "nan"),
        ("proxies", 3),
        ("proxies", {"https": 3}),
        ("proxies", "{not json"),
        ("verify", 0),
        ("allow_http", "perhaps"),
        ("allow_http", 1),
    ],
)
def test_an_extra_that_cannot_be_read_is_named_with_its_connection(name: str, value: Any) -> None:
    with pytest.raises(FloraSettingsError) as caught:
        read(extra={name: value})
    assert name in str(caught.value)
    assert "'my_flora'" in str(caught.value)


@pytest.mark.parametrize("extra", ["[1]", '"text"', "{timeout: 3}"])
def test_an_extra_that_is_no_json_object_is_an_error(extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = Connection("my_flora", conn_type="flora", password=KEY)
    monkeypatch.setattr(type(connection), "extra", extra)
    with pytest.raises(FloraSettingsError, match="'my_flora' cannot be used: its extra is not a JSON object"):
        settings_of(connection, "my_flora")


# --- the key ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("password", [None, "", " "])
def test_without_a_key_the_error_names_the_connection_and_how_to_set_it(password: str | None) -> None:
    with pytest.raises(FloraSettingsError, match=r"'my_flora' cannot be used: it has no Flora API key.*_MY_FLORA="):
        read(password=password)


def test_a_key_that_was_given_as_the_login_is_reported_without_showing_it() -> None:
    with pytest.raises(FloraSettingsError, match=r"has no Flora API key.*the key comes after a colon") as caught:
        read_uri("flora://hush@")
    assert "hush" not in str(caught.value)


def test_blanks_around_a_key_are_no_part_of_it() -> None:
    assert read(password=f" {KEY}\n").api_key == KEY


@pytest.fixture
def no_database(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections come from the environment alone."""

    def missing(conn_id: str) -> None:
        raise AirflowNotFoundException(f"The conn_id `{conn_id}` isn't defined")

    async def missing_async(conn_id: str, hook: object = None) -> None:
        missing(conn_id)

    monkeypatch.setattr(FloraHook, "get_connection", staticmethod(missing))
    monkeypatch.setattr("airflow_provider_flora.airflow_compat.get_async_connection", missing_async)


@pytest.mark.usefixtures("no_database")
def test_a_connection_that_is_not_there_is_named_with_how_to_make_it() -> None:
    reported = r"The connection 'my_flora' does not exist.*AIRFLOW_CONN_MY_FLORA="
    with pytest.raises(FloraSettingsError, match=reported):
        FloraHook("my_flora").get_conn()
    with pytest.raises(FloraSettingsError, match=reported):
        asyncio.run(FloraHook("my_flora").async_settings())
    assert FloraHook("my_flora").test_connection()[0] is False


# --- test_connection --------------------------------------------------------------------------------------


def test_a_good_connection_names_its_workspace(flora: Emulator) -> None:
    assert FloraHook().test_connection() == (True, "The API key belongs to: Emulator (ws_emulator).")


def test_a_rejected_key_is_reported_with_what_to_do(
    flora: Emulator, connect: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(flora, password="sk_test_wrong")
    good, words = FloraHook().test_connection()
    assert not good
    assert "Check the API key of connection 'flora_default'" in words
    assert "sk_test_wrong" not in words


def test_another_workspace_than_the_connections_is_reported(flora: Emulator, connect: Callable[..., None]) -> None:
    connect(flora, workspace_id="ws_other")
    good, words = FloraHook().test_connection()
    assert not good
    assert "'ws_other', but to: Emulator (ws_emulator)" in words
    connect(flora, workspace_id="ws_emulator")
    assert FloraHook().test_connection()[0]


def test_a_flora_that_is_not_there_is_reported(flora: Emulator) -> None:
    flora.order_fault(kind="outage", seconds=60)
    good, words = FloraHook().test_connection()
    assert not good
    assert f"No answer from {flora.base_url}" in words


def test_a_connection_that_cannot_be_used_is_reported(flora: Emulator, connect: Callable[..., None]) -> None:
    connect(flora, timeout="soon")
    good, words = FloraHook().test_connection()
    assert not good
    assert "'timeout' takes a number, not 'soon'" in words


def test_a_key_without_a_workspace_is_reported(flora: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airflow_provider_flora.api.client.FloraClient.list_workspaces", lambda self: [])
    assert FloraHook().test_connection() == (False, "Flora accepts the API key, but the key has no workspace.")


# --- the hook is the client -------------------------------------------------------------------------------


def test_the_hook_lists_starts_polls_and_waits(flora: Emulator) -> None:
    hook = FloraHook()
    assert [technique.slug for technique in hook.list_techniques("magazine")] == ["editorial-still"]
    assert hook.get_technique("editorial-still").run_cost == 0.09
    key = "airflow-my-key"
    run = hook.start_technique_run("editorial-still", {"prompt": "a cup"}, idempotency_key=key)
    assert flora.ledger()["runs"][0]["idempotency_key"] == key
    with pytest.raises(FloraAPIError, match="409"):
        hook.start_technique_run("editorial-still", {"prompt": "a cup"}, idempotency_key=key)
    assert hook.wait_for_technique_run("editorial-still", run.run_id, 0.02, 10).completed
    assert hook.get_technique_run("editorial-still", run.run_id).completed
    assert [seen.run_id for seen in hook.list_technique_runs("editorial-still", status="completed")] == [run.run_id]
    assert hook.get_conn() is hook.get_conn()


def test_a_run_in_stream_mode_is_returned_when_it_has_ended(flora: Emulator) -> None:
    run = FloraHook().start_technique_run("editorial-still", {"prompt": "a cup"}, mode="stream")
    assert run.completed


async def test_the_async_client_does_the_same(flora: Emulator) -> None:
    async with FloraHook().async_client() as client:
        run = await client.start_technique_run("editorial-still", {"prompt": "a cup"})
        assert (await client.wait_for_technique_run("editorial-still", run.run_id, 0.02, 10)).completed
        assert [seen.run_id async for seen in client.list_technique_runs()] == [run.run_id]


def test_the_key_is_in_no_repr(flora: Emulator) -> None:
    hook = FloraHook()
    for thing in (hook, hook.get_conn(), hook.get_conn().settings):
        assert flora.api_key not in repr(thing)
