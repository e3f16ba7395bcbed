"""Techniques that this process has fetched within the last minute, so that its next task need not ask again.

What it saves depends on the executor: where each task has a process of its own, nothing.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_provider_flora.api.client import FloraClient
    from airflow_provider_flora.api.models import Technique

KEPT_FOR = 60.0
"""Seconds; a price that changes is noticed that much later."""
MAX_KEPT = 64

_kept: dict[tuple[str, str, str], tuple[float, Technique, float | None]] = {}


def technique_of(client: FloraClient, technique_id: str) -> Technique:
    """Return a technique; ``client.clock_skew`` is known afterwards, as it is after a request."""
    key = (client.settings.base_url, client.settings.api_key, technique_id)
    now = time.monotonic()
    fetched_at, technique, skew = _kept.get(key, (-KEPT_FOR, None, None))
    if technique is not None and now - fetched_at < KEPT_FOR:
        client.clock_skew = skew if client.clock_skew is None else client.clock_skew
        return technique
    technique = client.get_technique(technique_id)
    while len(_kept) >= MAX_KEPT:
        del _kept[next(iter(_kept))]
    _kept[key] = now, technique, client.clock_skew
    return technique
