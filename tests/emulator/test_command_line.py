"""`python -m airflow_provider_flora.emulator`, and that it stands alone."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from urllib.parse import unquote, urlsplit

import pytest
import requests

from airflow_provider_flora.emulator import Emulator, __main__, server
from airflow_provider_flora.emulator.state.catalogue import TECHNIQUES

COMMAND = [sys.executable, "-m", "airflow_provider_flora.emulator"]


@contextmanager
def running(*arguments):
    process = subprocess.Popen(
        [*COMMAND, "--port", "0", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        printed = []
        while "Ctrl+C" not in (line := process.stdout.readline()):
            assert line, process.stderr.read()
            printed.append(line)
        yield process, "".join(printed)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_prints_its_address_serves_and_ends_cleanly(number):
    with running("--run-seconds", "0", "--api-key", "sk_test_a/b") as (process, printed):
        base_url = re.search(r"http://127\.0\.0\.1:\d+/api/v1", printed)[0]
        uri, connection = re.findall(r"AIRFLOW_CONN_FLORA_DEFAULT='(.*)'", printed)
        assert json.loads(connection) == {"conn_type": "flora", "password": "sk_test_a/b", "host": base_url}
        parts = urlsplit(uri)
        assert (parts.scheme, unquote(parts.password), unquote(parts.hostname)) == (
            "flora",
            "sk_test_a/b",
            base_url,
        )
        for technique in TECHNIQUES:
            assert technique.slug in printed
            assert f"${technique.run_cost:.2f}" in printed
        headers = {"authorization": "Bearer sk_test_a/b"}
        assert requests.get(f"{base_url}/techniques", headers=headers, timeout=60).status_code == 200
        sample = re.search(r"http://\S+/media/samples/mug.png", printed)[0]
        assert requests.get(sample, timeout=60).status_code == 200
        process.send_signal(number)
        assert process.wait(30) == 0
        assert process.stderr.read() == ""


def test_a_taken_port_is_reported_in_one_line_with_what_to_do(capsys):
    with Emulator() as emulator:
        assert __main__.main(["--port", str(emulator.port)]) == 1
    error = capsys.readouterr().err
    assert error == f"Port {emulator.port} is taken: choose another with --port, or a free one with --port 0.\n"


def test_an_address_that_is_not_here_is_reported_in_one_line(capsys):
    assert __main__.main(["--host", "192.0.2.1", "--port", "0"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_without_the_extra_one_line_explains_how_to_install_it(monkeypatch, capsys):
    monkeypatch.setattr(server.importlib.util, "find_spec", lambda name: None)
    assert __main__.main(["--port", "0"]) == 1
    assert capsys.readouterr().err == f"{server.MISSING_EXTRA}\n"
    assert "airflow-provider-flora[emulator]" in server.MISSING_EXTRA


def test_every_option_reaches_the_emulator(monkeypatch):
    given = {}

    class Listener:
        def __init__(self, **options):
            given.update(options)
            raise SystemExit

    monkeypatch.setattr(__main__, "Emulator", Listener)
    line = (
        "--host ::1 --port 1 --run-seconds 2 --upload-port 9 --asset-seconds 10 --upload-seconds 11 --seed 3 "
        "--api-key k --idempotency site --idempotency-window 4 --rate-limit 5 --list-lag 6 --cost-lag 7 "
        "--pages offset --clock-skew 8 --allow-loopback-callbacks --webhook-secret w"
    )
    with pytest.raises(SystemExit):
        __main__.main(line.split())
    assert given == {
        "host": "::1",
        "port": 1,
        "run_seconds": 2,
        "upload_port": 9,
        "asset_seconds": 10,
        "upload_seconds": 11,
        "seed": 3,
        "api_key": "k",
        "idempotency": "site",
        "idempotency_window": 4,
        "rate_limit": 5,
        "list_lag": 6,
        "pages": "offset",
        "cost_lag": 7,
        "clock_skew": 8,
        "allow_loopback_callbacks": True,
        "webhook_secret": "w",
    }


def test_it_imports_nothing_of_airflow_nor_of_the_rest_of_the_package():
    program = (
        "import sys; from airflow_provider_flora.emulator import __main__; "
        "print([name for name in sys.modules if name.split('.')[0] in ('airflow', 'PIL', 'av', 'pydantic') "
        "or (name.startswith('airflow_provider_flora.') and '.emulator' not in name)])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['airflow_provider_flora.version']"
