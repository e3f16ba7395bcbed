"""What the docs show about tests of DAGs, alerts and charges, run as a user would run it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


def install(venv: Path) -> Path:
    """Install what the page says, and pytest-xdist, as they are tested. Return the folder of programs."""
    build = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", venv.parent, REPOSITORY]
    subprocess.run(build, check=True, capture_output=True, timeout=300)
    (wheel,) = venv.parent.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", venv], check=True, timeout=300)
    python = venv / "bin" / "python"
    what = [f"{wheel}[emulator]", "pytest", "pytest-xdist", "-c", REPOSITORY / "requirements" / "dev.txt"]
    uv = [Path(sys.executable).with_name("uv"), "pip", "install", "--quiet", "--python", python, *what]
    if subprocess.run(
        uv, check=False, timeout=600
    ).returncode:  # it cannot reach every index that pip is configured for
        subprocess.run([python, "-m", "pip", "install", "--quiet", *what], check=True, timeout=1200)
    return python.parent


@pytest.mark.slow
def test_the_tests_that_the_docs_show_pass_in_a_repository_that_has_nothing_else(tmp_path: Path) -> None:
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPOSITORY / "example_dags", tmp_path / "dags", ignore=ignore)
    shutil.copytree(Path(__file__).parent / "own_dags", tmp_path / "tests", ignore=ignore)
    ours = {
        name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "FLORA", "PYTEST"))
    }
    ran = subprocess.run(
        [install(tmp_path / "venv") / "pytest", "-n", "2", "--quiet", "-p", "no:cacheprovider", "tests"],
        cwd=tmp_path,
        env={**ours, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert ran.returncode == 0, ran.stdout
    assert " skipped" not in ran.stdout
