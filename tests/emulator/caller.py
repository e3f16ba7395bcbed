"""A caller of the emulator that is plain `requests` and nothing of the project's client."""

from __future__ import annotations

import time
from collections.abc import Callable
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
        options = {"timeout": 60, "allow_redirects": False, **options}
        return self.session.request(method, url, headers=headers, **options)

    def later(self, seconds: float) -> None:
        """Move the emulator's clock forward: runs and assets become older, and nobody has to wait."""
        self.emulator._history._clock.skew += seconds

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

    def create_asset(self, **body: Any) -> requests.Response:
        """`POST /assets` with JSON: a reservation unless `source` says otherwise."""
        return self.send("POST", "/assets", json={"source": "signed-url", "workspace_id": "ws_emulator", **body})

    def send_file(self, content: bytes, file_name: str = "photo.png", **options: Any) -> requests.Response:
        """`POST /assets` with the file itself; `fields` are added to the form, `part_type` is the file's type."""
        part_type = options.pop("part_type", None)
        file = (file_name, content, part_type) if part_type else (file_name, content)
        fields = {"workspace_id": "ws_emulator", **options.pop("fields", {})}
        return self.send("POST", "/assets", files={"file": file}, data=fields, **options)

    def upload(self, reservation: dict[str, Any], content: Any, **options: Any) -> requests.Response:
        """The bytes, to the storage host, as Flora's client sends them."""
        target = reservation["upload"]
        fields = options.pop("fields", target["form_fields"])
        files = {target["file_field"]: ("photo.png", content)}
        return requests.post(target["url"], data=fields, files=files, timeout=60, **options)

    def asset(self, asset_id: str) -> dict[str, Any]:
        """The asset, once it is ready or failed."""
        for _ in range(500):
            found: dict[str, Any] = self.get(f"/assets/{asset_id}").json()
            if found["status"] != "pending_upload":
                return found
            time.sleep(0.01)
        raise AssertionError(f"{found} does not become ready")

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


def wait_until(question: Callable[[], object]) -> None:
    """Ask again and again until the answer is yes."""
    ends = time.monotonic() + 30
    while not question():
        assert time.monotonic() < ends, "it does not come"
        time.sleep(0.01)


def text(slot: str, value: str) -> dict[str, str]:
    return {"id": slot, "type": "text", "value": value}


def image(slot: str, value: str) -> dict[str, str]:
    return {"id": slot, "type": "imageUrl", "value": value}
