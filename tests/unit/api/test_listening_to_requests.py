"""``on_answer``: a client tells of each request that it has sent, and of how it was answered."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_flora.api import operations
from airflow_provider_flora.api.aio import AsyncFloraClient
from airflow_provider_flora.api.client import FloraClient
from airflow_provider_flora.api.errors import FloraConnectionError, FloraError
from airflow_provider_flora.api.exchange import Request, SmallFile
from airflow_provider_flora.api.settings import ClientSettings
from airflow_provider_flora.emulator import Emulator
from tests.unit.api.both_clients import OnALoopOfItsOwn

Told = list[tuple[str, int | None]]


class ListeningOnALoop(OnALoopOfItsOwn):
    """The async client with a listener."""

    def __init__(self, settings: ClientSettings, on_answer: Any) -> None:
        self._on_answer = on_answer
        super().__init__(settings)

    async def _made(self, settings: ClientSettings) -> AsyncFloraClient:
        return AsyncFloraClient(settings, on_answer=self._on_answer)


@pytest.fixture(params=["sync", "async"])
def listening(request: pytest.FixtureRequest, emulator: Emulator) -> Any:
    """A client of either kind, and what it has told."""
    told: Told = []

    def tell(sent: Request, status: int | None) -> None:
        told.append((sent.operation, status))

    settings = ClientSettings(emulator.api_key, emulator.base_url, timeout=60.0, max_retries=2)
    made: Any = (
        FloraClient(settings, on_answer=tell) if request.param == "sync" else ListeningOnALoop(settings, tell)
    )
    yield made, told
    made.close()


def test_each_request_is_told_with_the_status_of_its_answer(listening: Any) -> None:
    client, told = listening
    run = client.start_technique_run("editorial-still", {"prompt": "a cup"})
    client.get_technique_run("editorial-still", run.run_id)
    assert [*client.list_techniques(page_size=1)][:2]
    with pytest.raises(FloraError):
        client.get_technique("none-of-this-name")
    assert told[:3] == [("getTechnique", 200), ("startTechniqueRun", 200), ("getTechniqueRun", 200)]
    assert told.count(("listTechniques", 200)) >= 2
    assert told[-1] == ("getTechnique", 404)


def test_a_retry_is_told_as_a_request_of_its_own(listening: Any, emulator: Emulator) -> None:
    client, told = listening
    emulator.order_fault("status", status=503, operation="getTechnique")
    client.get_technique("editorial-still")
    assert told == [("getTechnique", 503), ("getTechnique", 200)]


def test_an_answer_that_does_not_come_has_no_status(listening: Any, emulator: Emulator) -> None:
    client, told = listening
    emulator.order_fault("reset", when="after", operation="getTechnique", times=None)
    with pytest.raises(FloraConnectionError):
        client.get_technique("editorial-still")
    assert told == [("getTechnique", None)] * 3


def test_an_answer_that_cannot_be_read_has_its_status(listening: Any, emulator: Emulator) -> None:
    client, told = listening
    emulator.order_fault("cut_json", operation="getTechnique", times=3)
    with pytest.raises(FloraError):
        client.get_technique("editorial-still")
    assert told == [("getTechnique", 200)] * 3


def test_each_operation_has_floras_name() -> None:
    file = SmallFile("a.png", "image/png", b"1")
    requests = [
        operations.list_workspaces(),
        operations.get_technique("tech_1"),
        operations.get_technique_run("tech_1", "run_1"),
        operations.list_techniques(None, None, 100).request,
        operations.list_technique_runs(None, None, None, None, 100).request,
        operations.start_technique_run("tech_1", [], "async", None, None),
        operations.create_asset("ws_1", file, None, None, None, None, None),
        operations.complete_asset("asset_1"),
        operations.retry_asset("asset_1"),
        operations.get_asset("asset_1"),
        operations.list_assets(None, None, None, 100).request,
    ]
    assert [request.operation for request in requests if request] == [
        "listWorkspaces",
        "getTechnique",
        "getTechniqueRun",
        "listTechniques",
        "listTechniqueRuns",
        "startTechniqueRun",
        "createAsset",
        "completeAsset",
        "retryAsset",
        "getAsset",
        "listAssets",
    ]
