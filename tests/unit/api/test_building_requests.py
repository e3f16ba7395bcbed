"""What is asked of Flora, and where: URLs, escaping, headers, bodies."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import requests_mock
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_flora import __version__
from airflow_provider_flora.api import exchange, operations
from airflow_provider_flora.api.client import FloraClient
from airflow_provider_flora.api.errors import FloraError, FloraParameterError
from airflow_provider_flora.api.models import RunInput
from airflow_provider_flora.api.settings import ClientSettings
from tests.unit.api.both_clients import KEY, MakeClient
from tests.unit.api.scripted_flora import ScriptedFlora, answer, run_json

BASE_URL = "https://flora.example/api/v1"
SETTINGS = ClientSettings(KEY, BASE_URL)
AWKWARD_IDS = ["a/b", "a/../../b", "ünïcode", "a?b=c&d", "a#b", "a b", "a%2Fb", "a;b", "a+b", "...", "日本", "a\\b"]

ANY_CHARACTER = st.characters(exclude_categories=())  # halves of surrogate pairs too, as a file name may hold


@pytest.fixture
def client() -> FloraClient:
    return FloraClient(SETTINGS)


@pytest.fixture
def flora() -> Any:
    with requests_mock.Mocker() as mocker:
        mocker.register_uri(requests_mock.ANY, requests_mock.ANY, json=run_json())
        yield mocker


@pytest.mark.parametrize(
    ("request_", "url"),
    [
        (operations.list_workspaces(), "/workspaces"),
        (operations.get_technique("tech_1"), "/techniques/tech_1"),
        (operations.get_technique_run("my-slug", "run_1"), "/techniques/my-slug/runs/run_1"),
        (operations.start_technique_run("tech_1", [], "async", None, None), "/techniques/tech_1/runs"),
        (operations.list_techniques(None, None, 100).request, "/techniques?limit=100"),
        (operations.list_technique_runs(None, None, None, None, 5).request, "/technique-runs?limit=5"),
    ],
)
def test_each_operation_goes_to_the_address_that_flora_documents(request_: exchange.Request, url: str) -> None:
    assert request_.url(SETTINGS) == BASE_URL + url


@pytest.mark.parametrize("awkward", AWKWARD_IDS)
def test_any_id_stays_one_segment_of_the_path(
    awkward: str, client: FloraClient, flora: requests_mock.Mocker
) -> None:
    client.get_technique_run(awkward, awkward)

    path = urlsplit(flora.last_request.url).path
    assert [unquote(part) for part in path.split("/")] == [
        *["", "api", "v1", "techniques"],
        awkward,
        "runs",
        awkward,
    ]
    assert not flora.last_request.query


@pytest.mark.parametrize("awkward", AWKWARD_IDS)
def test_both_clients_put_the_same_escaped_path_on_the_wire(awkward: str, make_client: MakeClient) -> None:
    with ScriptedFlora(answer(run_json())) as flora:
        make_client(flora.base_url).get_technique_run(awkward, "run_1")

    parts = flora.requests[0].target.split("/")
    assert len(parts) == 7
    assert unquote(parts[4]) == awkward


@pytest.mark.parametrize("impossible", ["", ".", "..", "half \ud800 a pair"])
def test_an_id_that_would_climb_the_path_or_vanish_from_it_is_refused_before_anything_is_sent(
    impossible: str, make_client: MakeClient
) -> None:
    with ScriptedFlora() as flora:
        client = make_client(flora.base_url)
        for call in (
            lambda: client.get_technique(impossible),
            lambda: client.get_technique_run(impossible, "run_1"),
            lambda: client.get_technique_run("tech_1", impossible),
            lambda: client.start_technique_run(impossible, []),
            lambda: client.wait_for_technique_run("tech_1", impossible),
        ):
            with pytest.raises(FloraParameterError, match="not a valid Flora id"):
                call()

    assert flora.requests == []


@given(st.text(ANY_CHARACTER, min_size=1))
def test_any_text_as_an_id_gives_a_request_or_a_flora_error(text: str) -> None:
    try:
        path = operations.get_technique(text).path
    except FloraError:
        return
    assert path.count("/") == 2
    assert unquote(path.removeprefix("/techniques/")) == text


@given(st.text(), st.text())
def test_any_text_in_a_query_arrives_as_it_was(query: str, workspace_id: str) -> None:
    request = operations.list_techniques(query, workspace_id, 100).request
    assert request is not None

    arrived = parse_qs(urlsplit(request.url(SETTINGS)).query, keep_blank_values=True)

    assert arrived == {"query": [query], "workspace_id": [workspace_id], "limit": ["100"]}


def test_half_a_surrogate_pair_in_a_query_is_replaced_for_there_is_no_utf_8_of_it() -> None:
    request = operations.list_techniques("a\ud800", None, 100).request

    assert request is not None
    assert request.url(SETTINGS).endswith("?query=a%3F&limit=100")


def test_a_query_leaves_out_what_was_not_given(client: FloraClient, flora: requests_mock.Mocker) -> None:
    flora.get(f"{BASE_URL}/technique-runs", json={"technique_runs": []})

    list(client.list_technique_runs(technique_id="tech_1", status="failed", project_id="prj_1", page_size=7))

    assert flora.last_request.qs == {
        "technique_id": ["tech_1"],
        "status": ["failed"],
        "project_id": ["prj_1"],
        "limit": ["7"],
    }


@pytest.mark.parametrize(("given_id", "asked"), [(None, "ws_connection"), ("ws_call", "ws_call")])
def test_lists_are_narrowed_to_the_connections_workspace_unless_the_call_names_another(
    given_id: str | None, asked: str, make_client: MakeClient
) -> None:
    with ScriptedFlora(answer({"techniques": [], "meta": {}}), answer({"technique_runs": [], "meta": {}})) as flora:
        client = make_client(flora.base_url, workspace_id="ws_connection")
        list(client.list_techniques(workspace_id=given_id))
        list(client.list_technique_runs(workspace_id=given_id))

    for request in flora.requests:
        assert parse_qs(urlsplit(request.target).query)["workspace_id"] == [asked]


def test_every_request_carries_the_key_and_a_user_agent(make_client: MakeClient) -> None:
    with ScriptedFlora(answer(run_json())) as flora:
        make_client(flora.base_url).get_technique_run("tech_1", "run_1")

    headers = flora.requests[0].headers
    assert headers["authorization"] == f"Bearer {KEY}"
    assert headers["accept"] == "application/json"
    assert headers["user-agent"] == f"airflow-provider-flora/{__version__}"
    assert "content-type" not in headers


def test_a_start_posts_inputs_mode_and_key_as_json_and_nothing_that_was_not_given(make_client: MakeClient) -> None:
    with ScriptedFlora(answer(run_json())) as flora:
        make_client(flora.base_url).start_technique_run(
            "tech_1", [{"id": "prompt", "type": "text", "value": "Grüße"}], idempotency_key="my-key"
        )

    [request] = flora.requests
    assert (request.method, request.target) == ("POST", "/api/v1/techniques/tech_1/runs")
    assert request.headers["content-type"] == "application/json"
    assert request.json == {
        "inputs": [{"id": "prompt", "type": "text", "value": "Grüße"}],
        "mode": "async",
        "idempotency_key": "my-key",
    }


def test_mode_and_callback_url_are_passed_through(make_client: MakeClient) -> None:
    with ScriptedFlora(answer(run_json())) as flora:
        make_client(flora.base_url).start_technique_run(
            "tech_1", [], mode="stream", callback_url="https://me.example/"
        )

    body = flora.requests[0].json
    assert (body["mode"], body["callback_url"]) == ("stream", "https://me.example/")


def test_the_types_of_a_mapping_of_inputs_are_looked_up_in_the_technique(make_client: MakeClient) -> None:
    technique = {"technique_id": "tech_1", "name": "T", "inputs": [{"id": "photo", "type": "imageUrl"}]}
    with ScriptedFlora(answer(technique), answer(run_json())) as flora:
        make_client(flora.base_url).start_technique_run("tech_1", {"photo": "https://x.example/1.png"})

    assert [request.method for request in flora.requests] == ["GET", "POST"]
    assert flora.requests[1].json["inputs"] == [
        {"id": "photo", "type": "imageUrl", "value": "https://x.example/1.png"}
    ]


def test_a_start_without_a_key_gets_one_that_no_other_start_has() -> None:
    keys = {
        operations.start_technique_run("tech_1", [], "async", None, None).body["idempotency_key"]  # type: ignore[index]
        for _ in range(100)
    }

    assert len(keys) == 100
    assert all(keys)


@given(st.text(ANY_CHARACTER))
def test_any_text_can_be_put_into_a_body(value: str) -> None:
    request = operations.start_technique_run(
        "tech_1", [RunInput.model_construct(id="prompt", type="text", value=value)], "async", None, "key"
    )

    assert json.loads(request.content() or b"")["inputs"][0]["value"] == value
