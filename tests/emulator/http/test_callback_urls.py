"""Which callback URLs are refused."""

from __future__ import annotations

import pytest

from airflow_provider_flora.emulator.http.callback_urls import refusal

PUBLIC = [
    "https://example.com/hook",
    "https://example.com:8443/hook?x=1",
    "https://sub.do-main.example.co.uk",
    "https://localhost.example.com/",
    "https://internal.example.com/",
    "https://8.8.8.8/",
    "https://[2606:4700:4700::1111]/",
    "https://[::ffff:8.8.8.8]/",
    "https://xn--bcher-kva.example/",
]
LOOPBACK = [
    "https://localhost/",
    "https://LOCALHOST:8080/",
    "https://localhost./",
    "https://app.localhost/",
    "https://127.0.0.1/",
    "https://127.8.9.10/",
    "https://127.1/",
    "https://2130706433/",
    "https://0x7f000001/",
    "https://0x7f.1/",
    "https://0177.0.0.1/",
    "https://[::1]/",
    "https://[0:0:0:0:0:0:0:1]/",
    "https://[::ffff:127.0.0.1]/",
    "https://[::ffff:7f00:1]/",
    "https://[::127.0.0.1]/",
    "https://[64:ff9b::127.0.0.1]/",
    "https://[2002:7f00:0001::]/",
    "https://①②⑦.⓪.⓪.①/",
    "https://ｌｏｃａｌｈｏｓｔ/",  # noqa: RUF001
]
PRIVATE = [
    "https://printer.local/",
    "https://metadata.google.internal/computeMetadata/v1/",
    "https://service.internal./",
    "https://metadata/",
    "https://instance-data/latest",
    "https://169.254.169.254/latest/meta-data/",
    "https://[fd00:ec2::254]/",
    "https://100.100.100.200/",
    "https://10.0.0.1/",
    "https://172.16.5.4/",
    "https://192.168.1.1/",
    "https://167772161/",
    "https://0xa9.0xfe.0xa9.0xfe/",
    "https://0.0.0.0/",
    "https://0/",
    "https://255.255.255.255/",
    "https://224.0.0.1/",
    "https://[::]/",
    "https://[fe80::1]/",
    "https://[fe80::1%25eth0]/",
    "https://[fc00::1]/",
    "https://[ff02::1]/",
    "https://[2002:a00:1::]/",
    "https://[::ffff:10.0.0.1]/",
]
MALFORMED = [
    "",
    "example.com/hook",
    "https://",
    "https:///hook",
    "https://user:secret@example.com/",
    "https://user@127.0.0.1/",
    "https://[::1/",
    "https://exa mple.com/",
    "https://%6c%6f%63alhost/",
    "https://127.0.0.1%00.example.com/",
    "https://example.com:port/",
    "https://example.com:99999/",
    "https://-bad-.example.com/",
    "https://1.2.3.4.5/",
    "https://999999999999/",
    "https://256.1.1.1/",
]


@pytest.mark.parametrize("url", PUBLIC)
def test_a_public_https_url_is_taken(url):
    assert refusal(url) is None


@pytest.mark.parametrize("url", LOOPBACK + PRIVATE + MALFORMED)
def test_what_is_not_public_is_refused(url):
    assert refusal(url)


@pytest.mark.parametrize(
    "url", ["http://example.com/", "ftp://example.com/", "//example.com/", "file:///etc/passwd"]
)
def test_what_is_not_https_is_refused(url):
    assert refusal(url)
    assert refusal(url, allow_loopback=True)


@pytest.mark.parametrize("url", LOOPBACK)
def test_loopback_can_be_allowed_by_http_as_well(url):
    assert refusal(url, allow_loopback=True) is None
    assert refusal(url.replace("https://", "http://"), allow_loopback=True) is None


@pytest.mark.parametrize("url", PRIVATE + MALFORMED)
def test_allowing_loopback_allows_nothing_else(url):
    assert refusal(url, allow_loopback=True)


def test_a_refused_callback_names_its_field_and_starts_nothing(flora):
    answer = flora.start(callback_url="https://169.254.169.254/")
    assert answer.status_code == 400
    assert answer.json()["error"]["fields"][0]["field"] == "callback_url"
    assert flora.emulator.ledger()["started_runs"] == 0
    assert flora.start(callback_url="https://example.com/hook").status_code == 200
