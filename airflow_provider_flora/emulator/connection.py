"""The Airflow connection to the emulator, in the forms in which people set one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode


@dataclass(frozen=True)
class Connection:
    """An Airflow connection of type ``flora``.

    :param host: the base URL of the API.
    :param password: the API key.
    :param conn_id: its id.
    :param extra: its extra.
    """

    host: str
    password: str = field(repr=False)
    conn_id: str = "flora_default"
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def variable(self) -> str:
        """The environment variable that Airflow reads it from."""
        return f"AIRFLOW_CONN_{self.conn_id.upper()}"

    @property
    def uri(self) -> str:
        """The connection as a URI."""
        query = f"/?{urlencode(self.extra)}" if self.extra else ""
        return f"flora://:{quote(self.password, safe='')}@{quote(self.host, safe='')}{query}"

    @property
    def json(self) -> str:
        """The connection as JSON."""
        extra = {"extra": dict(self.extra)} if self.extra else {}
        return json.dumps({"conn_type": "flora", "password": self.password, "host": self.host, **extra})
