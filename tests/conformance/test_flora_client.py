"""Flora's own npm client judges the emulator; the judgement itself is in `flora_client.mjs`."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from airflow_provider_flora.emulator import Emulator

HERE = Path(__file__).parent
SECRET = "whsec_conformance"


def missing() -> str | None:
    if shutil.which("node") is None:
        return "node is not here: Flora's client needs it"
    if not (HERE / "node_modules" / "@flora-ai" / "flora").is_dir():
        return "Flora's client is not here: make tests/conformance/node_modules/.ready"
    return None


@pytest.mark.skipif(
    missing() is not None and not os.environ.get("FLORA_TESTS_LEAVE_NOTHING_OUT"), reason=str(missing())
)
def test_flora_s_own_client_takes_the_emulator_for_flora():
    assert missing() is None
    with (
        Emulator(
            run_seconds=0.1, asset_seconds=0.1, webhook_secret=SECRET, allow_loopback_callbacks=True
        ) as emulator,
        Emulator(run_seconds=0.1, idempotency="site") as site,
    ):
        judged = subprocess.run(
            ["node", "--test-reporter=spec", "flora_client.mjs"],
            cwd=HERE,
            env={
                "PATH": os.environ["PATH"],
                "EMULATOR_ORIGIN": emulator.origin,
                "EMULATOR_KEY": emulator.api_key,
                "EMULATOR_WEBHOOK_SECRET": SECRET,
                "EMULATOR_SITE_ORIGIN": site.origin,
            },
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert judged.returncode == 0, f"{judged.stdout}\n{judged.stderr}"
    assert " fail 0\n" in judged.stdout
    assert " skipped 0\n" in judged.stdout
