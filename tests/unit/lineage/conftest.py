"""Events as OpenLineage's client sends them, without what other tests have left to Airflow."""

from __future__ import annotations

import pytest

from airflow_provider_flora.airflow_compat import airflow_is_at_least


@pytest.fixture(autouse=True)
def no_secrets_of_other_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Airflow 2 hides the passwords of other tests' connections in events too, and one of them is a blank."""
    if not airflow_is_at_least(3, 0):
        from airflow.utils.log.secrets_masker import _secrets_masker

        monkeypatch.setattr(_secrets_masker(), "replacer", None)
        monkeypatch.setattr(_secrets_masker(), "patterns", set())
