"""Workers that are not as most are: another locale than UTF-8, and no folder for temporary files."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from airflow_provider_flora.emulator import Emulator
from airflow_provider_flora.files.local import local_path

REPOSITORY = Path(__file__).parents[3]
PLAIN_C = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize(
    ("environment", "more", "encoding"),
    [(PLAIN_C, [], "ascii"), ({"LC_ALL": "C.UTF-8"}, ["without-a-temporary-folder"], "utf-8")],
    ids=["a locale that is not UTF-8", "no temporary folder and no users"],
)
def test_files_come_and_go_by_any_name_on_any_worker(
    flora: Emulator, tmp_path: Path, environment: dict[str, str], more: list[str], encoding: str
) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (8, 6), "red").save(picture, "PNG")
    folder = tmp_path / "Größe"
    folder.mkdir()
    (folder / "größe ✨.png").write_bytes(picture.getvalue())

    done = subprocess.run(
        [sys.executable, "-m", "tests.unit.files.odd_machine", str(folder), *more],
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        capture_output=True,
        timeout=600,
    )

    assert done.returncode == 0, done.stderr.decode(errors="replace")[-3000:]
    reported: dict[str, Any] = json.loads(done.stdout.decode().strip().splitlines()[-1])
    assert reported["encoding"] == encoding
    assert [upload["name"] for upload in reported["uploads"]] == ["größe ✨.png"] * 2
    [path] = (folder / "fertig ✓").iterdir()
    assert [file["uri"] for file in reported["files"]] == [f"file://{path}"]
    assert path.name.startswith("größe-✨-")
    assert flora.ledger()["started_runs"] == 1


def test_a_path_that_the_locale_can_write_is_left_alone() -> None:
    for path in ("/a/größe ✨.png", "", "/a/\udcff.png", "/a/\ud83d.png"):
        assert local_path(path) == path
