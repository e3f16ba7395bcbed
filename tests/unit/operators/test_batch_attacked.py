"""The batch operator against a Flora that was written from the API's description alone, and tables that are odd."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from airflow_provider_flora.airflow_compat import AirflowFailException
from airflow_provider_flora.api.errors import FloraBatchError
from airflow_provider_flora.batch import read_manifest, running
from tests.unit.flora_key import API_KEY
from tests.unit.operators.fake_task import TaskLife
from tests.unit.operators.still import batch_of

REFUSED = {"status": "failed", "error_code": "GENERATION_PROMPT_MODERATED"}
FAILED = {"status": "failed", "error_code": "SERVER_ERROR"}


class StandIn:
    """A small Flora. What a test changes are its attributes; a run's output is an image that holds its prompt."""

    def __init__(self) -> None:
        self.price: Any = 0.1
        self.cost: Any = 0.1
        self.seconds = 0.0
        self.outputs = ["still"]
        self.runs: list[dict[str, Any]] = []
        self.keys: dict[str, dict[str, Any]] = {}
        self.asked: list[str] = []
        self.media_status = 200
        self.on_start: Callable[[str], tuple[int, dict[str, Any]] | None] = lambda prompt: None
        self.on_run: Callable[[dict[str, Any]], None] = lambda run: None
        self.on_get: Callable[[str], tuple[int, dict[str, Any]] | None] = lambda path: None
        self._lock = threading.Lock()
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                self.answer(*stand_in.get(self.path))

            do_HEAD = do_GET  # noqa: N815

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self.answer(*stand_in.start(self.path, body))

            def answer(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
                body = value if isinstance(value, bytes) else json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Type", "image/png" if isinstance(value, bytes) else "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.send_header("request-id", "req_1")
                for name, text in (headers or {}).items():
                    self.send_header(name, text)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.origin = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def prompts(self) -> list[str]:
        """The prompts of all runs: what was charged."""
        return [run["prompt"] for run in self.runs]

    def technique(self) -> dict[str, Any]:
        slots = [{"id": "prompt", "name": "Prompt", "type": "text"}]
        made = [{"id": "still", "name": "Still", "type": "imageUrl"}]
        return {"technique_id": "tech_1", "name": "T", "run_cost": self.price, "inputs": slots, "outputs": made}

    def get(self, whole: str) -> tuple[Any, ...]:
        url = urlsplit(whole)
        path = url.path.removeprefix("/api/v1")
        with self._lock:
            self.asked.append(path)
            if path.startswith("/media/"):
                prompt = self.runs[int(path.split("/")[2])]["prompt"]
                return self.media_status, b"\x89PNG\r\n\x1a\n" + prompt.encode() + path.rpartition("/")[2].encode()
            if odd := self.on_get(path):
                return odd
            if path == "/technique-runs":
                given = {name: values[0] for name, values in parse_qs(url.query).items()}
                first, limit = int(given.get("cursor", 0)), int(given.get("limit", 20))
                shown = [self.view(run) for run in reversed(self.runs)]
                more = str(first + limit) if first + limit < len(shown) else None
                return 200, {"technique_runs": shown[first : first + limit], "meta": {"next_cursor": more}}
            if "/runs/" in path:
                for run in self.runs:
                    if run["run_id"] == path.rpartition("/")[2]:
                        return 200, self.view(run)
                return 404, _error("not_found")
            if path == "/workspaces":
                return 200, {"workspaces": [{"workspace_id": "ws_1"}]}
            return 200, self.technique()

    def start(self, path: str, body: dict[str, Any]) -> tuple[Any, ...]:
        [entry] = body["inputs"]
        with self._lock:
            self.asked.append("POST")
            if (odd := self.on_start(entry["value"])) and odd[0] != 0:
                return odd
            key = body["idempotency_key"]
            if key in self.keys:
                return 409, _error("idempotency_duplicate")
            number = len(self.runs)
            run = {"run_id": f"run_{number}", "prompt": entry["value"], "created": time.time(), "number": number}
            self.runs.append(run)
            self.keys[key] = run
            self.on_run(run)
            return odd[1:] if odd else (201, self.view(run))

    def view(self, run: dict[str, Any]) -> dict[str, Any]:
        ended = time.time() - run["created"] >= run.get("seconds", self.seconds)
        view = {"run_id": run["run_id"], "technique_run_id": run["run_id"], "status": "running", "progress": 5}
        view |= {"created_at": int(run["created"] * 1000), "charged_cost": self.price}
        view["technique"] = {"technique_id": "tech_1", "name": "T"}
        if not ended:
            return view
        outputs = [
            {"output_id": output, "type": "imageUrl", "url": f"{self.origin}/media/{run['number']}/{place}.png"}
            for place, output in enumerate(self.outputs)
        ]
        view |= {"status": "completed", "progress": 100, "completed_at": int(time.time() * 1000)}
        return {**view, "charged_cost": self.cost, "outputs": outputs, **run.get("end", {})}


def _error(code: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": "odd"}}


@pytest.fixture
def flora(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    stand_in = StandIn()
    connection = {
        "conn_type": "flora",
        "host": f"{stand_in.origin}/api/v1",
        "password": API_KEY,
        "extra": {"timeout": 30, "max_retries": 0},
    }
    monkeypatch.setenv("AIRFLOW_CONN_FLORA_DEFAULT", json.dumps(connection))
    monkeypatch.setattr(running, "TICK", 0.02)
    monkeypatch.setattr(running, "RETRY_ROW_LATER", 0.1)
    yield stand_in
    stand_in.close()


@pytest.fixture
def batch(tmp_path: Path) -> Callable[..., TaskLife]:
    def make(rows: Any, **given: Any) -> TaskLife:
        return batch_of(rows, tmp_path, **{"technique_id": "tech_1", "row_id": "id", **given})

    return make


def table(*ids: str) -> list[dict[str, Any]]:
    return [{"id": row_id, "prompt": f"a {row_id}"} for row_id in ids]


def lines_of(life: TaskLife) -> dict[str, dict[str, Any]]:
    return {line["row_id"]: line for line in read_manifest(life.operator.manifest)}


def test_a_total_may_be_reached_exactly(flora: StandIn, batch: Callable[..., TaskLife]) -> None:
    assert batch(table("a", "b", "c"), max_total_cost=0.3).run()["completed"] == 3  # 0.1 + 0.1 + 0.1 > 0.3


def test_a_run_that_ended_with_a_status_nobody_knows_counts_as_its_price(
    flora: StandIn, batch: Callable[..., TaskLife]
) -> None:
    flora.on_run = lambda run: run.update(end={"status": "expired", "charged_cost": None})
    life = batch(table("a", "b", "c"), max_active_runs=1, max_failed_rows="100%")
    value = life.run()
    assert (value["unknown"], value["charged_cost"]) == (3, pytest.approx(0.3))
    flora.on_run = lambda run: None
    life.operator.max_total_cost = 0.3  # which is spent
    life.operator.rows = table("a", "b", "c", "d")
    with pytest.raises(FloraBatchError, match="max_total_cost"):
        life.run()
    assert len(flora.runs) == 3


def test_a_share_of_the_rows_is_exact(flora: StandIn, batch: Callable[..., TaskLife]) -> None:
    flora.on_run = lambda run: run.update(end=REFUSED) if run["number"] < 29 else None
    life = batch(table(*map(str, range(100))), max_failed_rows="29%")  # 0.29 * 100 is 28.999999999999996
    assert life.run()["failed"] == 29


def test_a_deferral_does_not_forget_what_is_only_to_be_downloaded_again(
    flora: StandIn, batch: Callable[..., TaskLife], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(running, "IDLE_SECONDS", 0.1)
    given = {"download_to": str(tmp_path / "files"), "deferrable": True}
    batch(table("a", "b"), **given).run()
    for file in (tmp_path / "files").iterdir():
        file.unlink()
    for run in flora.runs:  # they are not over at the first poll, so that the task defers
        run["seconds"] = math.inf
    life = batch(table("a", "b"), **given, poll_interval=0.5)
    in_triggerer = life.wait_in_triggerer

    def wait(deferred: Any) -> dict[str, Any]:
        for run in flora.runs:
            run["seconds"] = 0.0
        return in_triggerer(deferred)

    monkeypatch.setattr(life, "wait_in_triggerer", wait)
    assert life.run()["completed"] == 2
    assert life.events
    assert flora.prompts() == ["a a", "a b"]


def test_an_attempt_without_time_does_not_forget_what_is_only_to_be_downloaded_again(
    flora: StandIn, batch: Callable[..., TaskLife], tmp_path: Path
) -> None:
    given = {"download_to": str(tmp_path / "files")}
    batch(table("a", "b"), **given).run()
    for file in (tmp_path / "files").iterdir():
        file.unlink()
    life = batch(table("a", "b"), **given, timeout=0.1, poll_interval=60.0)
    flora.on_get = lambda path: (503, _error("service_unavailable")) if "runs" in path else None
    with pytest.raises(FloraBatchError, match="were not over"):
        life.run()
    flora.on_get = lambda path: None
    assert batch(table("a", "b"), **given).run()["completed"] == 2
    assert flora.prompts() == ["a a", "a b"]


def test_a_mistake_does_not_forget_what_is_only_to_be_downloaded(
    flora: StandIn, batch: Callable[..., TaskLife], tmp_path: Path
) -> None:
    given = {"download_to": str(tmp_path / "files")}
    flora.media_status = 418
    with pytest.raises(FloraBatchError, match="not downloaded"):
        batch(table("a"), **given).run()
    with pytest.raises(AirflowFailException, match="1 mistake"):
        batch([*table("a"), {"id": "b", "prompt": ""}], **given).run()
    flora.media_status = 200
    assert batch(table("a"), **given).run()["completed"] == 1
    assert flora.prompts() == ["a a"]


@pytest.mark.parametrize("code", ["idempotency_duplicate", "conflict"])
def test_a_key_that_was_used_holds_back_no_other_row(
    flora: StandIn, batch: Callable[..., TaskLife], code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "HOLD_SECONDS", 0.5)
    flora.on_start = lambda prompt: (409, _error(code)) if prompt == "a b" else None
    life = batch(table("a", "b", "c"), timeout=30)
    with pytest.raises(FloraBatchError, match="1 of 3 rows did not complete"):
        life.run()
    assert [line["status"] for line in lines_of(life).values()] == ["completed", "unknown", "completed"]


@pytest.mark.parametrize(
    ("status", "code", "becomes"), [(500, "unknown_error", "unknown"), (429, "rate_limited", "failed")]
)
def test_a_row_that_flora_can_never_start_holds_back_no_other_row(
    flora: StandIn,
    batch: Callable[..., TaskLife],
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    code: str,
    becomes: str,
) -> None:
    monkeypatch.setattr(running, "HOLD_SECONDS", 0.5)
    flora.on_start = lambda prompt: (status, _error(code)) if prompt == "a b" else None
    life = batch(table("a", "b", "c"), timeout=60, row_retries=1)
    with pytest.raises(FloraBatchError, match="1 of 3 rows did not complete"):
        life.run()
    assert [line["status"] for line in lines_of(life).values()] == ["completed", becomes, "completed"]
    assert flora.prompts() == ["a a", "a c"]


def test_a_run_that_flora_names_for_two_rows_is_that_of_the_first(
    flora: StandIn, batch: Callable[..., TaskLife]
) -> None:
    flora.seconds = 0.3
    flora.on_run = lambda run: run.update(run_id="run_0") if run["number"] == 1 else None
    life = batch(table("a", "b", "c"), timeout=60)
    for _ in range(2):
        with pytest.raises(FloraBatchError, match="row 'b': run_0 is that of row 'a'"):
            life.run()
    assert [line["status"] for line in lines_of(life).values()] == ["completed", "unknown", "completed"]


@pytest.mark.parametrize("field", ["charged_cost", "reused", "error", "run_id"])
def test_a_manifest_may_lack_fields(
    flora: StandIn, batch: Callable[..., TaskLife], tmp_path: Path, field: str
) -> None:
    flora.on_run = lambda run: run.update(end=(REFUSED, {}, FAILED)[run["number"]] if run["number"] < 3 else {})
    life = batch(table("a", "b", "c"), row_retries=0)
    with pytest.raises(FloraBatchError):
        life.run()
    manifest = tmp_path / "manifest.jsonl"
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    kept = [{name: value for name, value in line.items() if name != field} for line in lines]
    manifest.write_text("".join(f"{json.dumps(line)}\n" for line in kept))
    with pytest.raises(AirflowFailException, match="1 of 3 rows did not complete"):
        life.run()
    life.clear()
    assert life.run()["completed"] == 3


def test_the_next_night_waits_for_what_the_last_one_left_active(
    flora: StandIn, batch: Callable[..., TaskLife], monkeypatch: pytest.MonkeyPatch
) -> None:
    flora.seconds = math.inf

    def late_once_both_are_active() -> float:
        return time.time() + 60 * (len(flora.runs) == 2)

    with monkeypatch.context() as patch:
        patch.setattr(running, "time", SimpleNamespace(monotonic=time.monotonic, time=late_once_both_are_active))
        with pytest.raises(FloraBatchError, match="were not over"):
            batch(table("a", "b"), timeout=30).run()
    flora.seconds = 0.0
    assert batch(table("a", "b")).run()["completed"] == 2
    assert sorted(flora.prompts()) == ["a a", "a b"]


@pytest.mark.parametrize("name", ["max_active_runs", "max_failed_rows"])
def test_infinity_is_no_limit(flora: StandIn, batch: Callable[..., TaskLife], name: str) -> None:
    assert batch(table("a"), **{name: "inf"}).run()["completed"] == 1
