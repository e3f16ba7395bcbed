"""The provider's description against the schema that the installed Airflow has for it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest

READ = """
import importlib.util, json, pathlib, sys
from airflow_provider_flora.get_provider_info import get_provider_info
info = get_provider_info()
imported = sorted({name.partition(".")[0] for name in sys.modules})
airflow = pathlib.Path(importlib.util.find_spec("airflow").origin).parent
schema = json.loads((airflow / "provider_info.schema.json").read_text())
print(json.dumps({"info": info, "imported": imported, "schema": schema}))
"""


@pytest.fixture(scope="module")
def found(python: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What that Python has: the description, all that was imported for it, and Airflow's schema."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")  # so that it takes the installed package
    command = [str(python), "-c", READ]
    done = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True, timeout=60, check=True)
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def test_the_description_is_valid_for_this_airflow(found: dict[str, Any]) -> None:
    assert {"name", "description"} <= set(found["schema"]["required"])
    jsonschema.validate(found["info"], found["schema"])


def test_airflow_3_2_and_later_have_each_key_of_it(found: dict[str, Any], version: str) -> None:
    known = set(found["schema"]["properties"])
    unknown = set(found["info"]) - known - {"versions"}  # which Airflow reads without a word in the schema
    if tuple(map(int, version.split(".")[:2])) >= (3, 2):
        assert unknown == set()
    else:
        assert "additionalProperties" not in found["schema"]  # so that it ignores them


def test_the_description_imports_nothing_but_the_package(found: dict[str, Any]) -> None:
    assert {"airflow", "requests", "aiohttp", "pydantic", "tenacity"} & set(found["imported"]) == set()
    assert "airflow_provider_flora" in found["imported"]
