"""Airflow's own auth manager for development, with a user who may read one DAG only."""

from __future__ import annotations

from typing import Any

from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager

GUEST, SEEN = "guest", "pages_seen"


class GuestsAuthManager(SimpleAuthManager):
    """Lets ``guest`` read the DAG ``pages_seen``, and nobody else be limited."""

    def is_authorized_dag(self, *, user: Any, details: Any = None, **asked: Any) -> bool:
        if user.username == GUEST and details is not None and details.id != SEEN:
            return False
        return bool(super().is_authorized_dag(user=user, details=details, **asked))
