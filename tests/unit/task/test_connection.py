"""A connection that cannot be read: an outage, or a bug."""

from __future__ import annotations

import pytest

from airflow_provider_flora.api.errors import FloraConnectionError, FloraInternalError, FloraSettingsError
from airflow_provider_flora.task.connection import unread_connection


@pytest.mark.parametrize(
    "bug",
    [TypeError(), AttributeError(), KeyError("x"), IndexError(), NameError(), ImportError(), AssertionError()],
)
def test_a_bug_in_reading_the_connection_is_no_outage(bug: Exception) -> None:
    assert isinstance(unread_connection("flora_default", bug), FloraInternalError)


class VaultIsDownError(Exception):
    """An error of some backend of connections."""


@pytest.mark.parametrize("away", [OSError("away"), TimeoutError(), VaultIsDownError("sealed"), ValueError("HTML")])
def test_a_backend_of_connections_that_is_away_is_an_outage(away: Exception) -> None:
    error = unread_connection("flora_default", away)

    assert isinstance(error, FloraConnectionError)
    assert error.transient
    assert f"'flora_default' cannot be read now: {type(away).__name__}" in str(error)


def test_a_connection_that_is_reported_missing_stays_the_same_error() -> None:
    missing = FloraSettingsError("There is no connection 'flora_default'.")

    assert unread_connection("flora_default", missing) is missing
