"""The life of the emulator itself: start, stop, its port and its thread."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from airflow_provider_flora.emulator import Emulator
from tests.emulator.caller import text


def test_it_comes_back_on_its_port_with_its_runs():
    emulator = Emulator(run_seconds=0)
    with emulator:
        base_url = emulator.base_url
        headers = {"authorization": f"Bearer {emulator.api_key}"}
        requests.post(
            f"{base_url}/techniques/tagline-writer/runs",
            json={"inputs": [text("brief", "x")], "mode": "async"},
            headers=headers,
            timeout=60,
        )
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{base_url}/techniques", timeout=60)
    assert emulator.ledger()["started_runs"] == 1, "the ledger stays"
    with emulator:
        assert emulator.base_url == base_url
        runs = requests.get(f"{base_url}/technique-runs", headers=headers, timeout=60).json()["technique_runs"]
        assert len(runs) == 1


def test_a_taken_port_is_an_error_and_can_be_tried_again(flora):
    late = Emulator(flora.emulator.port)
    with pytest.raises(OSError, match=str(flora.emulator.port)):
        late.start()
    late.stop()
    flora.emulator.stop()
    with late:
        assert requests.get(f"{late.base_url}/techniques", timeout=60).status_code == 401


def test_it_stops_at_once_even_during_requests(emulate):
    flora = emulate(run_seconds=60)
    flora.emulator.order_fault("delay", seconds=60, operation="listTechniques")
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(flora.get, "/techniques"), pool.submit(flora.start, mode="stream")]
        time.sleep(0.3)
        begun = time.perf_counter()
        flora.emulator.stop()
        assert time.perf_counter() - begun < 30  # of the 60 that they would take
        for one in waiting:
            with pytest.raises(requests.RequestException):
                one.result()


def test_it_listens_on_ipv6_too(emulate):
    flora = emulate(host="::1")
    assert flora.emulator.origin.startswith("http://[::1]:")
    photo = {"id": "image", "type": "imageUrl", "value": f"{flora.emulator.origin}/media/samples/mug.png"}
    assert flora.get(flora.run("wonder-fy", [photo])["outputs"][0]["url"]).status_code == 200


async def test_it_can_be_driven_from_a_coroutine(flora):
    assert flora.emulator.seed_runs(2)
    assert flora.emulator.ledger()["started_runs"] == 0
