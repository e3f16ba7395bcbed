"""A caller of the emulator that is plain `requests` and nothing of the project's client."""

from __future__ import annotations

import time
from typing import Any

import requests

from airflow_provider_flora.emulator import Emulator


class Caller:
    """Speaks HTTP with an emulator; relative paths are those of the API."""

    def __init__(self, emulator: Emulator) -> None:
        self.emulator = emulator
        self.session = requests.Session()
        self.session.trust_env = False

    def send(self, method: str, path: str, key: str | None = None, **options: Any) -> requests.Response:
        url = path if path.startswith("http") else self.emulator.base_url + path
        headers = {"authorization": f"Bearer {key or self.emulator.api_key}", **options.pop("headers", {})}
        options = {"timeout": 10, "allow_redirects": False, **options}
        return self.session.request(method, url, headers=headers, **options)

    def get(self, path: str, **query: Any) -> requests.Response:
        return self.send("GET", path, params=query)

    def start(self, slug: str = "editorial-still", inputs: Any = None, **body: Any) -> requests.Response:
        if inputs is None:
            inputs = [{"id": "prompt", "type": "text", "value": "A kettle"}]
        return self.send("POST", f"/techniques/{slug}/runs", json={"inputs": inputs, "mode": "async", **body})

    def run(self, slug: str = "editorial-still", inputs: Any = None, **body: Any) -> dict[str, Any]:
        """Start a run and return it as it was when it had ended."""
        answer = self.start(slug, inputs, **body)
        assert answer.status_code == 200, answer.text
        return self.ended(answer.json())

    def ended(self, run: dict[str, Any]) -> dict[str, Any]:
        for _ in range(500):
            run = self.get(run["poll_url"]).json()
            if run["status"] in ("completed", "failed"):
                return run
            time.sleep(0.01)
        raise AssertionError(f"{run} does not end")

    def history(self, **query: Any) -> list[dict[str, Any]]:
        """All pages of history."""
        found: list[dict[str, Any]] = []
        while True:
            page = self.get("/technique-runs", **query).json()
            found += page["technique_runs"]
            query["cursor"] = page["meta"]["next_cursor"]
            if not query["cursor"]:
                return found


def text(slot: str, value: str) -> dict[str, str]:
    return {"id": slot, "type": "text", "value": value}


def image(slot: str, value: str) -> dict[str, str]:
    return {"id": slot, "type": "imageUrl", "value": value}
