"""Where Flora is, and whether the key may be sent there."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_flora.api.errors import FloraSettingsError
from airflow_provider_flora.api.settings import ClientSettings, is_loopback, origin_of
from tests.unit.api.both_clients import KEY


@pytest.mark.parametrize(
    ("given_url", "base_url"),
    [
        ("https://app.flora.ai/api/v1", "https://app.flora.ai/api/v1"),
        ("https://app.flora.ai/api/v1/", "https://app.flora.ai/api/v1"),
        ("https://app.flora.ai", "https://app.flora.ai/api/v1"),
        ("https://app.flora.ai/", "https://app.flora.ai/api/v1"),
        ("https://app.flora.ai:8443/other/path//", "https://app.flora.ai:8443/other/path"),
        ("HTTPS://app.flora.ai", "https://app.flora.ai/api/v1"),
        ("https://[2001:db8::1]:1234", "https://[2001:db8::1]:1234/api/v1"),
        ("http://127.0.0.1:8765", "http://127.0.0.1:8765/api/v1"),
    ],
)
def test_a_base_url_may_come_with_or_without_its_path(given_url: str, base_url: str) -> None:
    assert ClientSettings(KEY, given_url).base_url == base_url


def test_by_default_flora_itself_is_asked_with_the_timeout_and_retries_of_the_connections_form() -> None:
    settings = ClientSettings(KEY)

    assert settings.base_url == "https://app.flora.ai/api/v1"
    assert (settings.timeout, settings.max_retries, settings.verify, settings.allow_http) == (60.0, 4, True, False)
    assert (settings.workspace_id, settings.proxies) == (None, {})
    assert settings.origin == ("https", "app.flora.ai", 443)
    assert not settings.on_loopback


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "app.flora.ai",
        "/api/v1",
        "ftp://app.flora.ai",
        "https://",
        "https:///api",
        "https://[::1",
        "http://h:x",
        "https://h:99999",
        "file:///etc/passwd",
        "flora://app.flora.ai",
    ],
)
def test_what_is_no_http_url_is_refused_naming_it_and_floras(bad: str) -> None:
    with pytest.raises(
        FloraSettingsError, match=r"not an http\(s\) URL. Flora's base URL is https://app.flora.ai/api/v1"
    ):
        ClientSettings(KEY, bad)


@pytest.mark.parametrize(
    "blank", ["https://app. flora.ai", "https://app.flora.ai\t.evil.example", "https://app.flora.ai/api /v1"]
)
def test_a_base_url_with_a_blank_in_it_is_refused(blank: str) -> None:
    with pytest.raises(FloraSettingsError, match="is not an http"):
        ClientSettings(KEY, blank)


def test_blanks_around_a_base_url_came_with_the_clipboard() -> None:
    assert ClientSettings(KEY, " https://app.flora.ai/api/v1\n").base_url == "https://app.flora.ai/api/v1"


@pytest.mark.parametrize(
    "bad",
    [
        "https://me@app.flora.ai",
        "https://me:hush@app.flora.ai",
        "https://:hush@app.flora.ai",
        "https://app.flora.ai/?a=hush",
        "https://app.flora.ai/#hush",
    ],
)
def test_a_base_url_with_a_user_a_password_a_query_or_a_fragment_is_refused_without_showing_it(bad: str) -> None:
    with pytest.raises(FloraSettingsError, match="not contain a user, password, query or fragment") as caught:
        ClientSettings(KEY, bad)

    assert "hush" not in str(caught.value)


LOOPBACK = [
    "localhost",
    "LOCALHOST",
    "flora.localhost",
    "127.0.0.1",
    "127.1.2.3",
    "127.255.255.254",
    "[::1]",
    "[0:0:0:0:0:0:0:1]",
]
ELSEWHERE = [
    "flora.example",
    "localhost.flora.example",
    "notlocalhost",
    "127.0.0.1.flora.example",
    "10.0.0.1",
    "192.168.0.1",
    "0.0.0.0",
    "[::]",
    "[fe80::1]",
    "128.0.0.1",
    "169.254.169.254",
    "2130706433",
    "127.1",
]


@pytest.mark.parametrize("host", LOOPBACK)
def test_plain_http_is_good_on_this_machine(host: str) -> None:
    settings = ClientSettings(KEY, f"http://{host}:8765")

    assert settings.on_loopback


@pytest.mark.parametrize("host", ELSEWHERE)
def test_plain_http_elsewhere_is_refused_unless_it_is_allowed(host: str) -> None:
    with pytest.raises(FloraSettingsError, match=r"would expose the API key.*allow_http to true"):
        ClientSettings(KEY, f"http://{host}")

    settings = ClientSettings(KEY, f"http://{host}", allow_http=True)
    assert not settings.on_loopback


@pytest.mark.parametrize("key", ["", None])
def test_without_a_key_there_are_no_settings(key: Any) -> None:
    with pytest.raises(FloraSettingsError, match="API key is missing"):
        ClientSettings(key)


@pytest.mark.parametrize("mark", [" ", "\n", "\r\n", "\t", "\x00", "ü", "\u200b", "\u00a0", "\x7f"])
@pytest.mark.parametrize("place", ["{}hush", "hu{}sh", "hush{}"])
def test_a_key_with_a_character_that_no_key_has_is_refused_without_showing_it(mark: str, place: str) -> None:
    with pytest.raises(FloraSettingsError, match="blank, a line break or another invalid character") as caught:
        ClientSettings(place.format(mark))

    assert "hu" not in str(caught.value)


@pytest.mark.parametrize("timeout", [0, -1, math.nan, math.inf, 86_401])
def test_a_timeout_that_is_no_time_is_refused(timeout: float) -> None:
    with pytest.raises(FloraSettingsError, match=r"timeout must be more than 0 and at most 86400 seconds"):
        ClientSettings(KEY, timeout=timeout)


def test_fewer_than_no_retries_are_refused() -> None:
    assert ClientSettings(KEY, max_retries=0).max_retries == 0
    with pytest.raises(FloraSettingsError, match="max_retries must be 0 or more, not -1"):
        ClientSettings(KEY, max_retries=-1)


def test_settings_cannot_be_changed_after_they_were_checked() -> None:
    with pytest.raises(AttributeError):
        ClientSettings(KEY).base_url = "http://elsewhere.example"  # type: ignore[misc]


def test_settings_show_where_but_neither_the_key_nor_the_proxies() -> None:
    settings = ClientSettings(KEY, proxies={"https": "http://me:hush@proxy.example"})

    assert "app.flora.ai" in repr(settings)
    assert KEY not in f"{settings!r} {settings} {[settings]}"
    assert "hush" not in repr(settings)


@pytest.mark.parametrize(
    ("url", "own"),
    [
        ("https://app.flora.ai/media/1.png", True),
        ("https://APP.flora.ai:443/media/1.png", True),
        ("http://app.flora.ai/media/1.png", False),
        ("https://app.flora.ai:8443/", False),
        ("https://app.flora.ai.evil.example/", False),
        ("https://app.flora.ai@evil.example/", False),
        ("https://evil.example/?https://app.flora.ai", False),
        ("//app.flora.ai/", False),
        ("", False),
        ("https://[", False),
    ],
)
def test_the_own_origin_is_scheme_host_and_port_together(url: str, own: bool) -> None:
    assert ClientSettings(KEY).on_own_origin(url) is own


@given(st.text() | st.text().map("https://{}".format) | st.text().map("http://{}".format))
def test_any_text_as_a_base_url_gives_settings_or_a_settings_error(url: str) -> None:
    try:
        settings = ClientSettings(KEY, url)
    except FloraSettingsError:
        return
    assert settings.on_own_origin(settings.base_url)
    assert settings.origin[0] == "https" or settings.on_loopback


@given(st.text())
def test_any_text_has_an_origin_or_none_and_is_loopback_or_not(text: str) -> None:
    assert origin_of(text) is None or len(origin_of(text) or ()) == 3
    assert is_loopback(text) in (True, False)
