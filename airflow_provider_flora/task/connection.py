"""The error for a connection that Airflow cannot read now."""

from __future__ import annotations

from airflow_provider_flora.api.errors import FloraConnectionError, FloraError
from airflow_provider_flora.api.waiting import PROGRAMMING_ERRORS, as_flora_error


def unread_connection(conn_id: str, error: Exception) -> FloraError:
    """Return the error for an Airflow connection that cannot be read.

    A backend of connections may raise any error during an outage. Only errors that a network never causes count as
    programming errors.
    """
    if isinstance(error, (FloraError, *PROGRAMMING_ERRORS)):
        return as_flora_error(error)
    return FloraConnectionError(
        f"The Flora connection {conn_id!r} cannot be read now: {type(error).__name__}: {error}."
    )
