"""Tasks that may defer do."""

from __future__ import annotations

import pytest

from airflow_provider_flora.operators.flora import FloraRunTechniqueOperator


@pytest.fixture(autouse=True)
def _tasks_that_may_defer_do(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a test of both ways to wait, no run has ended by the first poll: the deferred way is by the trigger."""
    callspec = getattr(request.node, "callspec", None)
    if callspec is not None and callspec.params.get("deferrable"):
        monkeypatch.setattr(FloraRunTechniqueOperator, "_finishes_soon", lambda *_: False)
