"""A process of Airflow's runs one task and ends; here one process plays many."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from airflow_provider_flora.runs import techniques


@pytest.fixture(autouse=True)
def _no_technique_is_known() -> Iterator[None]:
    yield
    techniques._kept.clear()
