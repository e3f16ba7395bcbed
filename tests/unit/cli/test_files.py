"""`upload` and `download`."""

from __future__ import annotations

from pathlib import Path

import pytest

from airflow_provider_flora.emulator import Emulator
from tests.unit.cli.conftest import Run


def test_each_upload_prints_the_url_for_inputs(run: Run, flora_key: Emulator, picture: Path) -> None:
    ran = run("upload", str(picture))
    assert ran.code == 0
    (asset,) = flora_key.ledger()["assets"]
    assert asset["asset_id"] in ran.out
    assert ran.out.startswith("http")
    assert ran.out.count("\n") == 1
    started = run("start", "wonder-fy", "-i", f"image={ran.out.strip()}", "--yes", "--json")
    assert started.json["status"] == "completed"


@pytest.mark.parametrize("as_json", [False, True])
def test_a_bad_file_among_three_loses_none_of_the_others(
    run: Run, flora_key: Emulator, picture: Path, tmp_path: Path, as_json: bool
) -> None:
    (tmp_path / "bad.png").write_text("no picture")
    last = tmp_path / "last.png"
    last.write_bytes(picture.read_bytes())
    ran = run("upload", str(picture), str(tmp_path / "bad.png"), str(last), *["--json"] * as_json)
    assert ran.code == 1
    assert "bad.png" in ran.err
    if as_json:
        assert [one["file"] for one in ran.json] == [str(picture), str(last)]
        assert all(one["url"].startswith("http") for one in ran.json)
    else:
        assert len(ran.out.splitlines()) == 2
    assert [asset["status"] for asset in flora_key.ledger()["assets"]] == ["ready", "ready"]


def test_a_key_that_is_refused_ends_the_uploads(run: Run, flora_key: Emulator, picture: Path) -> None:
    flora_key.order_fault("status", status=403, code="forbidden", operation="createAsset", times=None)
    ran = run("upload", str(picture), str(picture), "--json")
    assert (ran.code, ran.json) == (1, [])
    assert flora_key.ledger()["requests"]["createAsset"] == 1


def test_outputs_are_downloaded_into_a_folder(run: Run, flora_key: Emulator, tmp_path: Path) -> None:
    (run_id,) = flora_key.seed_runs(1, technique_id="book-drop")
    ran = run("download", run_id, str(tmp_path / "new" / "covers"))
    assert ran.code == 0
    files = sorted((tmp_path / "new" / "covers").iterdir())
    assert sorted(ran.out.splitlines()) == [f"file://{file}" for file in files]
    assert len(files) == 2
    again = run("download", run_id, str(tmp_path / "new" / "covers"), "--json")
    assert sorted(file["output_id"] for file in again.json) == ["back", "front"]
    assert flora_key.ledger()["started_runs"] == 0, "nothing is paid"


def test_a_relative_folder_is_below_this_one(
    run: Run, flora_key: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (run_id,) = flora_key.seed_runs(1)
    (tmp_path / "sub").mkdir()
    assert run("download", run_id, "sub/../out").code == 0
    assert len(list((tmp_path / "out").iterdir())) == 1


@pytest.mark.parametrize(
    ("status", "says"), [("running", "is running and has no outputs yet"), ("failed", "failed with")]
)
def test_a_run_without_outputs_is_said_so(
    run: Run, flora_key: Emulator, tmp_path: Path, status: str, says: str
) -> None:
    (run_id,) = flora_key.seed_runs(1, status=status)
    ran = run("download", run_id, str(tmp_path), "--json")
    assert (ran.code, ran.out) == (1, "")
    assert says in ran.err


def test_a_folder_that_cannot_be_written_is_said_so(run: Run, flora_key: Emulator) -> None:
    (run_id,) = flora_key.seed_runs(1)
    ran = run("download", run_id, "/dev/null/x")
    assert (ran.code, ran.out) == (1, "")
    assert "NotADirectoryError" in ran.err
    assert "bug" not in ran.err
