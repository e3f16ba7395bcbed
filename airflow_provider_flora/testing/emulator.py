"""The emulator of one test: who uses Flora in this process, or in one that it starts, gets this emulator."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from airflow_provider_flora.emulator import Emulator
from airflow_provider_flora.emulator.connection import Connection
from airflow_provider_flora.hooks import connection

if TYPE_CHECKING:
    from typing_extensions import Self

RUN_SECONDS = 0.2
TIMEOUT = 5
"""Seconds. A start whose answer is lost counts as ended after twice that: the test waits as long."""
_PREFIX = "AIRFLOW_CONN_"


class FloraEmulator(Emulator):
    """An ``Emulator`` whose address is in the environment while it runs.

    A run takes 0.2 seconds, see :attr:`run_seconds`, and its charge is known at its end. The API key differs from
    one emulator to the next, so nothing that is cached for one is read for another.

    :param environment: changes the environment, until it is undone.
    """

    def __init__(self, environment: pytest.MonkeyPatch) -> None:
        super().__init__(run_seconds=RUN_SECONDS, cost_lag=0, api_key=f"sk_test_{secrets.token_hex(8)}")
        self._environment = environment

    def start(self) -> Self:
        """Serve, and point the environment here.

        These are set: ``FLORA_API_KEY``, ``FLORA_BASE_URL``, the connection ``flora_default``, and each connection
        of type ``flora`` that is in the environment. Connections of other types are refused, since one may have a
        key of the real Flora. No proxy is used for this machine.
        """
        super().start()
        self._environment.setattr(connection, "TYPES", ("flora",))
        self._environment.setenv("FLORA_API_KEY", self.api_key)
        self._environment.setenv("FLORA_BASE_URL", self.base_url)
        for name in ("NO_PROXY", "no_proxy"):
            self._environment.setenv(name, ",".join(filter(None, [os.environ.get(name), self.host])))
        for conn_id in ("flora_default", *_flora_connections()):
            self.connect(conn_id)
        return self

    @property
    def connection(self) -> Connection:
        """The connection ``flora_default`` to this emulator: its ``conn_id``, and its ``uri`` and ``json``."""
        return self._connection("flora_default")

    def connect(self, conn_id: str) -> None:
        """Set another connection to this emulator, by its environment variable, until the end of the test.

        ``run_dag`` does so for the ``flora_conn_id`` of each task of a DAG, unless that is a template.

        :param conn_id: its id, as in ``FloraHook("flora_prod")``.
        """
        connection = self._connection(conn_id)
        self._environment.setenv(connection.variable, connection.json)

    @property
    def charged_runs(self) -> int:
        """How many runs were charged so far."""
        count: int = self.ledger(with_runs=False)["charged_runs"]
        return count

    def add_techniques(self, file: str | Path) -> None:
        """Add techniques from a file: a JSON list of what ``add_technique`` takes.

        :param file: its path.
        :raises ValueError: it is not such a list.
        """
        techniques = json.loads(Path(file).read_text(encoding="utf-8"))
        if not isinstance(techniques, list) or not all(isinstance(one, dict) for one in techniques):
            raise ValueError(f"{file} is not a JSON list of techniques")
        for technique in techniques:
            self.add_technique(technique)

    def _connection(self, conn_id: str) -> Connection:
        return Connection(self.base_url, self.api_key, conn_id, {"timeout": TIMEOUT})


def _flora_connections() -> Iterator[str]:
    """The ids of the connections of type ``flora`` that are in the environment."""
    for name, value in [*os.environ.items()]:
        if name.startswith(_PREFIX) and _connection_type(value) == "flora":
            yield name.removeprefix(_PREFIX).lower()


def _connection_type(value: str) -> str:
    with suppress(ValueError):
        fields = json.loads(value)
        return str(fields.get("conn_type")).lower() if isinstance(fields, dict) else ""
    return value.partition("://")[0].strip().lower()
