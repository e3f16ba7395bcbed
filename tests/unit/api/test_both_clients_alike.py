"""The two clients are one thing in two ways of waiting."""

from __future__ import annotations

import asyncio
import inspect
import socket

import pytest

from airflow_provider_flora.api import answers, operations
from airflow_provider_flora.api.aio import AsyncFloraClient
from airflow_provider_flora.api.client import FloraClient
from airflow_provider_flora.api.errors import FloraAPIError, FloraInputError
from airflow_provider_flora.api.settings import ClientSettings
from airflow_provider_flora.emulator import Emulator
from tests.unit.api.both_clients import KEY, MakeClient

PUBLIC = [
    "ask",
    "close",
    "drive",
    "get_technique",
    "get_technique_run",
    "list_technique_runs",
    "list_techniques",
    "list_workspaces",
    "start_technique_run",
    "wait_for_technique_run",
]
OF_ASSETS = ["complete_asset", "create_asset", "get_asset", "list_assets", "retry_asset"]


def public(client: type) -> list[str]:
    return sorted(name for name in vars(client) if not name.startswith("_"))


def test_both_have_the_same_public_methods_except_those_of_assets() -> None:
    assert public(AsyncFloraClient) == PUBLIC
    assert public(FloraClient) == sorted(PUBLIC + OF_ASSETS), "files are read by threads"


@pytest.mark.parametrize("name", PUBLIC)
def test_a_method_takes_the_same_parameters_with_the_same_defaults_in_both(name: str) -> None:
    sync = inspect.signature(getattr(FloraClient, name)).parameters
    async_ = inspect.signature(getattr(AsyncFloraClient, name)).parameters

    assert [(p.name, p.kind, p.default, p.annotation) for p in sync.values()] == [
        (p.name, p.kind, p.default, p.annotation) for p in async_.values()
    ]


@pytest.mark.parametrize("name", PUBLIC)
def test_a_method_returns_the_same_thing_in_both(name: str) -> None:
    sync = inspect.signature(getattr(FloraClient, name)).return_annotation
    async_ = inspect.signature(getattr(AsyncFloraClient, name)).return_annotation

    assert async_.replace("AsyncIterator", "Iterator") == sync
    assert inspect.iscoroutinefunction(getattr(AsyncFloraClient, name)) != sync.startswith("Iterator")


def test_both_are_documented() -> None:
    for client in (FloraClient, AsyncFloraClient):
        for name in PUBLIC:
            assert getattr(client, name).__doc__


def test_a_run_goes_from_a_technique_to_its_outputs(emulator: Emulator, make_client: MakeClient) -> None:
    client = make_client(emulator.base_url)
    [workspace] = client.list_workspaces()
    technique = client.get_technique("product-relight")
    photo = f"{emulator.origin}/media/samples/any.png"
    started = client.start_technique_run(technique.slug, {"photo": photo, "light": "neon", "background": None})
    ended = client.wait_for_technique_run(technique.technique_id, started.run_id)
    [listed] = client.list_technique_runs(technique.technique_id, "completed", workspace.workspace_id)

    assert ended.completed
    assert ended.charged_cost == technique.run_cost
    assert [(output.output_id, output.type) for output in ended.outputs] == [("image", "imageUrl")]
    assert listed.run_id == started.run_id
    assert listed.technique is not None
    assert listed.technique.technique_id == technique.technique_id
    ledger = emulator.ledger()
    assert ledger["charged_runs"] == 1
    assert ledger["connections"] == 1
    assert ledger["requests"]["startTechniqueRun"] == 1


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 409, 422, 429, 500, 503])
def test_every_error_of_the_emulator_is_raised(status: int, emulator: Emulator, make_client: MakeClient) -> None:
    emulator.order_fault("status", status=status, times=None)
    with pytest.raises(FloraAPIError) as caught:
        make_client(emulator.base_url, max_retries=1).get_technique("wonder-fy")

    assert caught.value.status == status
    assert caught.value.code
    assert caught.value.request_id
    assert caught.value.request_id.startswith("req_")


def test_ask_sends_a_request_once_for_callers_with_their_own_retry_rules(
    emulator: Emulator, make_client: MakeClient
) -> None:
    client = make_client(emulator.base_url)
    emulator.order_fault("status", status=503)
    with pytest.raises(FloraAPIError, match="503"):
        client.ask(operations.get_technique("wonder-fy"), answers.read_technique)

    assert client.ask(operations.get_technique("wonder-fy"), answers.read_technique).slug == "wonder-fy"
    assert emulator.ledger()["requests"]["getTechnique"] == 2


def test_every_field_that_flora_refuses_is_reported(emulator: Emulator, make_client: MakeClient) -> None:
    wrong = [{"id": "nope", "type": "text", "value": "a"}, {"id": "light", "type": "text", "value": ""}]
    with pytest.raises(FloraAPIError) as caught:
        make_client(emulator.base_url).start_technique_run("product-relight", wrong, mode="later")

    assert {"inputs[0].id", "light", "photo", "mode"} <= set(caught.value.fields)
    assert all(message in str(caught.value) for message in caught.value.fields.values())
    assert emulator.ledger()["started_runs"] == 0


@pytest.mark.parametrize("form", ["mapping", "entry", "entries"])
def test_several_values_for_an_input_start_nothing(form: str, emulator: Emulator, make_client: MakeClient) -> None:
    urls = ["https://x.example/1.png", "https://x.example/2.png"]
    entry = {"id": "products", "type": "imageUrl"}
    inputs = {
        "mapping": {"products": urls},
        "entry": [{**entry, "value": urls}],
        "entries": [{**entry, "value": url} for url in urls],
    }[form]
    with pytest.raises(FloraInputError, match="takes one value"):
        make_client(emulator.base_url).start_technique_run("product-lookbook-grid", inputs)

    assert "startTechniqueRun" not in emulator.ledger()["requests"]


def test_a_wrong_key_is_reported_with_what_to_do(emulator: Emulator, make_client: MakeClient) -> None:
    with pytest.raises(FloraAPIError, match=r"401 invalid_api_key.*Check the API key\."):
        make_client(emulator.base_url, api_key="sk_test_wrong").list_workspaces()


def test_a_client_is_a_context_manager_that_closes_its_connections(emulator: Emulator) -> None:
    with FloraClient(ClientSettings(KEY, emulator.base_url)) as client:
        assert client.list_workspaces()


async def test_an_async_client_is_a_context_manager_that_closes_its_connections(emulator: Emulator) -> None:
    async with AsyncFloraClient(ClientSettings(KEY, emulator.base_url)) as client:
        assert await client.list_workspaces()
    with pytest.raises(RuntimeError, match="closed"):
        await client.list_workspaces()


async def test_many_async_calls_share_a_client(emulator: Emulator) -> None:
    async with AsyncFloraClient(ClientSettings(KEY, emulator.base_url)) as client:
        techniques = await asyncio.gather(*(client.get_technique("wonder-fy") for _ in range(50)))

    assert len(techniques) == 50


def test_the_guard_keeps_unit_tests_on_this_machine() -> None:
    with socket.socket() as outside, pytest.raises(pytest.fail.Exception, match="not this machine"):
        outside.connect(("192.0.2.1", 80))
