"""The secrets of connections, for an API server that anybody may ask: kept for a while, and read by few threads.

A name that is not known is asked for by whoever likes to. So such names are few in a minute, and what is kept of
all names is bounded.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from airflow_provider_flora.api.errors import FloraSettingsError

KEPT_SECONDS = 30.0
"""After this time a changed secret is used."""
NEW_NAMES = 30
"""Connections without a secret that may be looked for in a minute."""
KEPT_NAMES = 1000
"""Connections with a secret that are kept, and as many without."""
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")  # it may become a part of a path in a secrets backend

log = logging.getLogger(__name__)


class UnknownSecretError(Exception):
    """The connection cannot be read now, or too many that have no secret were asked for in the last minute."""


class WebhookSecrets:
    """The webhook secrets of this Airflow's connections, in one event loop.

    :param clock: seconds that are never set back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._found: OrderedDict[str, tuple[float, str]] = OrderedDict()
        self._absent: OrderedDict[str, float] = OrderedDict()
        self._asked: deque[float] = deque(maxlen=NEW_NAMES)
        self._reading: dict[str, asyncio.Future[str | None]] = {}
        self._threads = ThreadPoolExecutor(2, "flora-webhook-secrets")

    async def find(self, conn_id: str) -> str | None:
        """Return a connection's secret; ``None`` if there is no such connection, or none that can be used.

        :raises UnknownSecretError: whether it has one is not known now.
        """
        if not _NAME.fullmatch(conn_id):
            return None
        now = self._clock()
        read, secret = self._found.get(conn_id, (float("-inf"), None))
        if now - read < KEPT_SECONDS:
            return secret
        if now - self._absent.get(conn_id, float("-inf")) < KEPT_SECONDS:
            return None
        if conn_id not in self._reading:
            if secret is None:
                self._count_name(now)
            self._reading[conn_id] = asyncio.ensure_future(self._read(conn_id))
        # Others may wait for the same, so it goes on if this request ends.
        return await asyncio.shield(self._reading[conn_id])

    def _count_name(self, now: float) -> None:
        if len(self._asked) == NEW_NAMES and now - self._asked[0] < 60:
            raise UnknownSecretError
        self._asked.append(now)

    async def _read(self, conn_id: str) -> str | None:
        try:
            secret = await asyncio.get_running_loop().run_in_executor(self._threads, _read_secret, conn_id)
        except Exception as error:
            log.exception("The secret of Flora's webhooks cannot be read from the connection %r", conn_id)
            if conn_id not in self._found:
                raise UnknownSecretError from error
            secret = self._found[conn_id][1]  # an outage of a secrets backend loses no webhook
        finally:
            del self._reading[conn_id]
        self._found.pop(conn_id, None)
        self._absent.pop(conn_id, None)
        if secret is not None:
            self._found[conn_id] = self._clock(), secret
        else:
            self._absent[conn_id] = self._clock()
        # One connection may have many names: in an environment variable, upper and lower case are the same.
        for names in (self._found, self._absent):
            if len(names) > KEPT_NAMES:
                names.popitem(last=False)
        return secret


def _read_secret(conn_id: str) -> str | None:
    from airflow_provider_flora.hooks.flora import FloraHook

    try:
        secret = FloraHook(conn_id).rules.webhook_secret
    except FloraSettingsError as error:
        log.warning("A webhook is refused. %s", error)
        return None
    if secret is None:
        log.warning("A webhook is refused: the connection %r has no 'webhook_secret' in its extra.", conn_id)
    return secret
