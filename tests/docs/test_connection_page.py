"""The error that the page of the connection shows."""

from __future__ import annotations

import pytest

from airflow_provider_flora.airflow_compat import Connection
from airflow_provider_flora.api.errors import FloraSettingsError
from airflow_provider_flora.hooks.connection import settings_of
from tests.docs.test_docs import DOCS


def test_the_error_on_the_page_is_what_is_raised() -> None:
    connection = Connection(conn_id="flora_default", conn_type="flora", password="key", extra='{"max_retry": 2}')
    with pytest.raises(FloraSettingsError) as raised:
        settings_of(connection, "flora_default")
    page = (DOCS / "connection.rst").read_text()
    assert str(raised.value) in " ".join(page.split())
