"""The emulator of a test, and what it does to the environment."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import requests

from airflow_provider_flora import FloraClient
from airflow_provider_flora.airflow_compat import BaseHook, Connection
from airflow_provider_flora.api.errors import FloraSettingsError
from airflow_provider_flora.cli.main import main
from airflow_provider_flora.hooks.connection import settings_of
from airflow_provider_flora.testing import FloraEmulator
from tests.unit.testing.test_run_dag import TECHNIQUE


def read(uri: str) -> Any:
    """A connection, as Airflow reads one from the environment."""
    with pytest.MonkeyPatch.context() as changes:
        changes.setenv("AIRFLOW_CONN_READ", uri)
        return BaseHook.get_connection("read")


def test_it_leads_all_that_uses_flora_to_the_emulator_and_then_puts_everything_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    others = {"AIRFLOW_CONN_S3": "aws://", "AIRFLOW_CONN_ODD": "[]", "AIRFLOW_CONN_HTTP": '{"conn_type": "http"}'}
    real = {
        "AIRFLOW_CONN_FLORA_PROD": "flora://:sk_live_real@",
        "AIRFLOW_CONN_STUDIO": '{"conn_type": "Flora", "password": "sk_live_real"}',
        "FLORA_API_KEY": "sk_live_real",
        "NO_PROXY": "example.com",
    }
    for name, value in {**others, **real}.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    with pytest.MonkeyPatch.context() as changes, FloraEmulator(changes) as emulator:
        for conn_id in ("FLORA_PROD", "STUDIO", "FLORA_DEFAULT"):
            fields = json.loads(os.environ[f"AIRFLOW_CONN_{conn_id}"])
            assert (fields["host"], fields["password"]) == (emulator.base_url, emulator.api_key)
        assert {name: os.environ[name] for name in others} == others
        assert os.environ["FLORA_API_KEY"] == emulator.api_key != "sk_live_real"
        assert os.environ["FLORA_BASE_URL"] == emulator.base_url
        assert os.environ["NO_PROXY"] == "example.com,127.0.0.1"
        assert "AIRFLOW_CONN_MY_FLORA" not in os.environ
        emulator.connect("my_flora")
        assert emulator.api_key in os.environ["AIRFLOW_CONN_MY_FLORA"]
    assert dict(os.environ) == before


def test_its_connection_is_read_alike_as_uri_and_as_json(flora_emulator: FloraEmulator) -> None:
    connection = flora_emulator.connection
    assert (connection.conn_id, connection.variable) == ("flora_default", "AIRFLOW_CONN_FLORA_DEFAULT")
    assert flora_emulator.api_key not in repr(connection)
    by_json, by_uri = json.loads(connection.json), read(connection.uri)
    by_json["extra"] = json.dumps(by_json["extra"])
    settings = [
        settings_of(Connection(conn_id="flora_default", **by_json), "flora_default"),
        settings_of(by_uri, "flora_default"),
    ]
    assert settings[0] == settings[1]
    assert (settings[0].base_url, settings[0].api_key) == (flora_emulator.base_url, flora_emulator.api_key)


@pytest.mark.parametrize("conn_type", ["generic", ""])
def test_a_connection_that_may_have_a_real_key_is_refused_until_the_end(
    conn_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = {"conn_type": conn_type, "password": "sk_live_real"}
    monkeypatch.setenv("AIRFLOW_CONN_STUDIO", json.dumps(fields))
    with pytest.MonkeyPatch.context() as changes, FloraEmulator(changes) as emulator:
        with pytest.raises(FloraSettingsError, match=f"'studio' cannot be used: its type is '{conn_type}'"):
            settings_of(Connection(conn_id="studio", **fields), "studio")
        emulator.connect("studio")
        assert emulator.api_key in os.environ["AIRFLOW_CONN_STUDIO"]
    assert settings_of(Connection(conn_id="studio", **fields), "studio").api_key == "sk_live_real"


def test_two_emulators_never_have_one_key(flora_emulator: FloraEmulator) -> None:
    with pytest.MonkeyPatch.context() as changes:
        assert FloraEmulator(changes).api_key != flora_emulator.api_key


def test_a_run_is_quick_and_counted_and_takes_as_long_as_is_wanted(flora_emulator: FloraEmulator) -> None:
    inputs = [{"id": "brief", "type": "text", "value": "Tea"}]
    with FloraClient(settings_of(read(flora_emulator.connection.uri), "flora_default")) as client:
        flora_emulator.run_seconds = 0
        run = client.start_technique_run("tagline-writer", inputs)
        assert client.get_technique_run("tagline-writer", run.run_id).charged_cost == 0.01
        assert flora_emulator.charged_runs == 1
        flora_emulator.run_seconds, flora_emulator.cost_lag = 60, 60
        client.start_technique_run("tagline-writer", inputs)
        assert flora_emulator.charged_runs == 1
        assert client.get_technique_run("tagline-writer", run.run_id).charged_cost is None


def test_techniques_are_added_from_a_file(flora_emulator: FloraEmulator, tmp_path: Path) -> None:
    file = tmp_path / "techniques.json"
    file.write_text(json.dumps([TECHNIQUE, {**TECHNIQUE, "technique_id": "tech_other", "slug": "other"}]))
    flora_emulator.add_techniques(file)
    for slug in ("my-still", "other"):
        answer = requests.get(f"{flora_emulator.origin}/techniques/{slug}", timeout=60)
        assert "My Still" in answer.text
    file.write_text(json.dumps(TECHNIQUE))
    with pytest.raises(ValueError, match=r"techniques\.json is not a JSON list of techniques"):
        flora_emulator.add_techniques(file)


def test_all_that_techniques_json_prints_is_accepted(
    flora_emulator: FloraEmulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slot = {"id": "scene", "type": "text", "name": "Scene", "description": "What is seen.", "a_later_field": 1}
    own = {**TECHNIQUE, "technique_id": "tech_own", "slug": None, "inputs": [slot], "a_later_field": {}}
    flora_emulator.add_technique(own)
    assert main(["techniques", "--json"]) == 0
    printed = capsys.readouterr().out
    file = tmp_path / "techniques.json"
    file.write_text(printed)
    flora_emulator.reset()
    flora_emulator.add_techniques(file)
    for technique in json.loads(printed):
        flora_emulator.add_technique(technique)
    assert main(["techniques", "--json"]) == 0
    assert sorted(json.loads(capsys.readouterr().out), key=str) == sorted(json.loads(printed), key=str)
    assert "tech_own" in printed
