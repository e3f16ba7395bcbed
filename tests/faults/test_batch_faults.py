"""A batch of 300 rows on a real Airflow whose processes die, with a Flora and an S3 that fail: each is paid once.

`make faults` runs all of it, for both accounts of idempotency; `make test-airflow`, a fifth of it for one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from airflow_provider_flora.emulator import Emulator
from scripts.local_airflow import LocalAirflow, LocalAirflowError
from tests.faults.fault_scenarios import ALL
from tests.faults.test_faults import DATABASES, NOTICE_SOON

DAGS = Path(__file__).parent / "batch_dags"
DAG, TASK = "flora_batch", "run"
ROWS, KILLS = (300, 20) if ALL else (60, 4)
REFUSED, FLAKY = ROWS * 3 // 100, ROWS // 50
"""Rows that are refused for good, and runs that fail though another one will complete."""
LONGEST = 1500.0
A_TASK = re.compile(r"airflow worker -- [0-9a-f]{8}-")


class FailingStorage:
    """An S3 on this machine. Over ``uri``'s connection it refuses one request in twenty, and at times all."""

    def __init__(self) -> None:
        from moto.server import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import make_server

        self._real = DomainDispatcherApplication(create_backend_app)
        self._random = random.Random(1)
        self.refused = 0
        self._refuses_until = 0.0
        self._servers = [make_server("127.0.0.1", 0, app, threaded=True) for app in (self._real, self._failing)]
        self.endpoint, self.failing_endpoint = (f"http://127.0.0.1:{server.port}" for server in self._servers)

    def __enter__(self) -> FailingStorage:
        import boto3

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        for server in self._servers:
            threading.Thread(target=server.serve_forever, daemon=True).start()
        keys = {"aws_access_key_id": "me", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
        self._s3: Any = boto3.client("s3", endpoint_url=self.endpoint, **keys)
        requests.post(
            f"{self.endpoint}/moto-api/reset", timeout=10
        ).raise_for_status()  # its state is the process's
        self._s3.create_bucket(Bucket="shop")
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def _failing(self, environ: Mapping[str, Any], start_response: Any) -> Any:
        if self._random.random() < 0.05 or time.monotonic() < self._refuses_until:
            self.refused += 1
            start_response("503 Slow Down", [("Content-Type", "application/xml"), ("Connection", "close")])
            return [b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"]
        return self._real(environ, start_response)

    def refuse_all(self, seconds: float) -> None:
        """Refuse every request for a while."""
        self._refuses_until = time.monotonic() + seconds

    def connection(self) -> str:
        """The Airflow connection ``store``."""
        extra = {"endpoint_url": self.failing_endpoint, "region_name": "us-east-1"}
        return json.dumps({"conn_type": "aws", "login": "me", "password": "secret", "extra": extra})

    def put(self, key: str, content: str) -> None:
        """Store an object."""
        self._s3.put_object(Bucket="shop", Key=key, Body=content.encode())

    def get(self, key: str) -> bytes | None:
        """Return the content of an object, or ``None`` if there is none."""
        try:
            with closing(self._s3.get_object(Bucket="shop", Key=key)["Body"]) as body:
                return bytes(body.read())
        except self._s3.exceptions.NoSuchKey:
            return None

    def names(self) -> set[str]:
        """Return the names of all objects."""
        pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket="shop")
        return {entry["Key"] for page in pages for entry in page.get("Contents", [])}


@dataclass
class Reader:
    """Reads the manifest again and again while the batch runs: it must always be whole."""

    storage: FailingStorage
    row_ids: list[str]
    read: int = 0
    problems: list[str] = field(default_factory=list)

    def __enter__(self) -> Reader:
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(0.2):
            content = self.storage.get("manifest.jsonl")
            if content is None:
                continue
            self.read += 1
            try:
                lines = [json.loads(line) for line in content.splitlines()]
            except ValueError as error:
                self.problems.append(f"{error}: {content[-200:]!r}")
                continue
            if [line["row_id"] for line in lines] != self.row_ids:
                self.problems.append(f"{len(lines)} rows")


def kill_a_task(airflow: LocalAirflow) -> bool:
    """SIGKILL the process of a task, if one runs."""
    for process in airflow.processes("scheduler"):
        try:
            if A_TASK.match(" ".join(process.cmdline())):
                process.kill()
                return True
        except psutil.Error:
            continue
    return False


def kill_many(airflow: LocalAirflow, storage: FailingStorage, run_id: str, drawn: random.Random) -> int:
    """Kill the task's process at random moments, and Airflow's triggerer and API server once. Return the kills."""
    kills, began = 0, time.monotonic()
    others = {KILLS // 3: "triggerer", 2 * KILLS // 3: "api-server"}
    while kills < KILLS and time.monotonic() - began < LONGEST / 2:
        time.sleep(drawn.uniform(0.2, 8.0))
        if airflow.dag_run_state(DAG, run_id) in ("success", "failed"):
            break
        if not kill_a_task(airflow):
            continue
        kills += 1
        if component := others.get(kills):
            time.sleep(drawn.uniform(0.0, 5.0))
            airflow.restart(component)
        if kills % 5 == 0:
            storage.refuse_all(8.0)
    return kills


@pytest.mark.parametrize(("account", "starts_at_once"), [("docs", 1), ("site", 3)] if ALL else [("site", 3)])
def test_each_row_is_paid_once_whatever_dies(account: str, starts_at_once: int, tmp_path: Path) -> None:
    prompts = {f"cup-{number}": f"a cup, number {number};" for number in range(1, ROWS + 1)}
    refused = [*prompts][5::33][:REFUSED]
    for row_id in refused:
        prompts[row_id] += " forbidden"
    drawn = random.Random(account)
    with Emulator(port=0, run_seconds=3, cost_lag=1, idempotency=account) as flora, FailingStorage() as storage:
        storage.put("rows.csv", "sku,prompt\n" + "".join(f'{name},"{text}"\n' for name, text in prompts.items()))
        error = {"error_code": "GENERATION_PROMPT_MODERATED", "error_message": "Rejected by the safety system."}
        flora.order_fault("fail_run", contains="forbidden", times=None, **error)
        flora.order_fault("fail_run", contains="7;", skip=1, times=FLAKY)
        flora.order_fault("rate_limit", per_second=15, times=None)
        flora.order_fault("reset", operation="startTechniqueRun", when="after", skip=ROWS // 4, times=1)
        flora.order_fault("status", operation="startTechniqueRun", status=502, skip=ROWS // 3, times=2)
        extra = {"timeout": 5, "max_retries": 1}
        flora_conn = {"conn_type": "flora", "host": flora.base_url, "password": flora.api_key, "extra": extra}
        env = {
            **NOTICE_SOON,
            "AIRFLOW_CONN_FLORA_DEFAULT": json.dumps(flora_conn),
            "AIRFLOW_CONN_STORE": storage.connection(),
            "FLORA_BATCH_PLACE": "s3://store@shop",
            "FLORA_BATCH_STARTS_AT_ONCE": str(starts_at_once),
        }
        new_airflow = LocalAirflow(tmp_path / "airflow", DAGS, env=env, database_cache=DATABASES)
        with new_airflow as airflow, Reader(storage, [*prompts]) as reader:
            run_id = airflow.trigger(DAG)
            kills = kill_many(airflow, storage, run_id, drawn)
            try:
                state = airflow.wait_for_dag_run(DAG, run_id, timeout=LONGEST)
            except LocalAirflowError as error:
                state = str(error)
            tries = airflow.task_instance(DAG, run_id, TASK).try_number
            log = airflow.task_log(DAG, run_id, TASK)
            value = airflow.xcom(DAG, run_id, TASK)
            airflow.wait_until(lambda reader=reader: reader.read > KILLS, 60, "enough readings of the manifest")
        ledger = flora.ledger()
        flora.clear_faults()
        assert state == "success", log[-5000:]
        check(ledger, storage, prompts, refused)
        assert kills == KILLS
        assert reader.problems == []
        assert (value["completed"], value["failed"], value["unknown"]) == (ROWS - len(refused), len(refused), 0)
    print(
        f"\n{account}: {ROWS} rows, {kills} kills, {tries} attempts; {len(ledger['runs'])} runs; S3 refused "
        f"{storage.refused} requests; the manifest was read {reader.read} times; answers {ledger['responses']}"
    )


def check(
    ledger: Mapping[str, Any], storage: FailingStorage, prompts: Mapping[str, str], refused: list[str]
) -> None:
    """Each row is charged once, and has the outputs of its own run, in whole files."""
    content = storage.get("manifest.jsonl")
    assert content is not None
    lines = {line["row_id"]: line for line in map(json.loads, content.splitlines())}
    runs = {run["run_id"]: run for run in ledger["runs"]}
    of_row = {run_id: row_of(json.dumps(run["inputs"]), prompts) for run_id, run in runs.items()}
    paid = Counter(of_row[run_id] for run_id, run in runs.items() if run["status"] != "failed")
    assert paid == Counter(row_id for row_id in prompts if row_id not in refused)
    for row_id, line in lines.items():
        assert of_row[line["run_id"]] == row_id
        assert line["status"] == ("failed" if row_id in refused else "completed"), line
        if row_id in refused:
            assert line["error"]["code"] == "GENERATION_PROMPT_MODERATED"
            continue
        [file], [url] = line["files"], line["output_urls"]
        key = file["uri"].removeprefix("s3://store@shop/")
        stored = storage.get(key)
        assert key == f"files/{row_id}-still.png"
        assert stored == requests.get(url, timeout=10).content
        assert hashlib.sha256(stored).hexdigest() == file["sha256"]
    assert {name for name in storage.names() if name.startswith("files/")} == {
        f"files/{row_id}-still.png" for row_id in prompts if row_id not in refused
    }


def row_of(inputs: str, prompts: Mapping[str, str]) -> str:
    [row_id] = [row_id for row_id, prompt in prompts.items() if prompt in inputs]
    return row_id
