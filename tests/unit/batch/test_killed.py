"""A batch whose process is killed again and again at any moment pays each row once, and brings all of them home."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from airflow_provider_flora.emulator import Emulator
from tests.unit.batch.killed_life import KilledLife, pause, shown
from tests.unit.operators.fake_task import HAS_STATE_STORE

ROWS = [{"sku": f"cup-{number}", "prompt": f"a cup, number {number};"} for number in range(1, 25)]
KILLS = 6
MORE = [pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 4)]


@pytest.fixture(params=["docs", "site"])
def account(request: pytest.FixtureRequest, connect: Callable[..., None]) -> Iterator[Emulator]:
    """A Flora for each account of what a repeated key does."""
    with Emulator(port=0, run_seconds=0.1, cost_lag=0, idempotency=request.param) as flora:
        connect(flora, timeout=30)  # the machine may be busy
        yield flora


@pytest.mark.parametrize("seed", [0, 1, *MORE])
@pytest.mark.parametrize("kept", ["store", "folder"])
def test_each_row_is_paid_once(account: Emulator, tmp_path: Path, seed: int, kept: str) -> None:
    if kept == "store" and not HAS_STATE_STORE:
        pytest.skip("this Airflow has no task state store")
    store = tmp_path / "store"
    store.mkdir()
    drawn = random.Random(f"{seed} {kept}")
    at_once = drawn.choice((1, 1, 3))
    manifest = tmp_path / "manifest.jsonl"
    life = KilledLife(
        {
            "task_id": "stills",
            "technique_id": "editorial-still",
            "rows": ROWS,
            "row_id": "sku",
            "inputs": {"prompt": "{prompt}"},
            "manifest": str(manifest),
            "download_to": str(tmp_path / "files"),
            "poll_interval": 0.05,
            "deferrable": False,
            "starts_at_once": at_once,
            "max_active_runs": 6,
            "max_failed_rows": KILLS * at_once if at_once > 1 else 0,
        },
        {name: value for name, value in os.environ.items() if name.startswith("AIRFLOW")},
        store if kept == "store" else None,
    )
    account.order_fault("reset", operation="startTechniqueRun", when="after", skip=drawn.randrange(10), times=1)
    account.order_fault("status", operation="startTechniqueRun", status=502, skip=drawn.randrange(20), times=1)
    for _ in range(KILLS):
        life.attempt(kill_after=drawn.uniform(0.05, 1.0))
        assert all(line["row_id"] for line in shown(manifest))
        pause()
    assert life.attempt()
    runs = {run["run_id"]: json.dumps(run["inputs"]) for run in account.ledger()["runs"]}
    assert len(runs) == len(set(runs.values())) == len(ROWS)
    lines = shown(manifest)
    assert [line["row_id"] for line in lines] == [row["sku"] for row in ROWS]
    for row, line in zip(ROWS, lines, strict=True):
        # By the docs, a used key's run is not named. Of several rows in doubt at once, none can be told apart.
        if line["status"] == "unknown" and at_once > 1:
            assert "Possible runs: run_" in line["error"]["message"]
            continue
        assert line["status"] == "completed"
        assert row["prompt"] in runs[line["run_id"]]
        assert all(
            Path(file["uri"].removeprefix("file://")).stat().st_size == file["bytes"] for file in line["files"]
        )
