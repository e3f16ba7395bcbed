"""What is published: the wheel holds the package and nothing else, and the sdist builds the same wheel."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PACKAGE = "airflow_provider_flora"


def build(kind: str, source: Path, into: Path) -> Path:
    # Without isolation: what builds it is pinned in the environment, and nothing is downloaded.
    command = [sys.executable, "-m", "build", "--no-isolation", f"--{kind}", "--outdir", str(into), str(source)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    (built,) = into.iterdir()
    return built


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("sdist", REPOSITORY, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", REPOSITORY, tmp_path_factory.mktemp("wheel"))


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = set(contents(wheel))
    assert {Path(name).parts[0].partition("-")[0] for name in names} == {PACKAGE}
    described = {name for name in names if ".dist-info/" not in name}
    files = [path for path in (REPOSITORY / PACKAGE).rglob("*.*") if path.suffix in (".py", ".html", ".css", ".js")]
    assert len({path.suffix for path in files}) == 4
    there = {str(path.relative_to(REPOSITORY)) for path in files}
    assert described == {*there, f"{PACKAGE}/py.typed"}


def test_the_package_page_has_the_readme_with_links_that_lead_somewhere(wheel: Path) -> None:
    (name,) = (name for name in contents(wheel) if name.endswith(".dist-info/METADATA"))
    page = contents(wheel)[name].decode()
    assert "Description-Content-Type: text/markdown" in page
    links = re.findall(r"\]\(([^)]+)\)", page)
    source = re.findall(r"^Project-URL: Source, (\S+)$", page, re.MULTILINE)
    assert f"{source[0]}/blob/main/docs/getting_started.rst" in links
    assert [link for link in links if not link.startswith("https://")] == []


def test_the_sdist_builds_the_same_wheel(sdist: Path, wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    assert contents(build("wheel", source, tmp_path / "built")) == contents(wheel)
