"""Turns Airflow's metrics on in this process, as the Airflow at hand does at the start of a worker."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import pytest

from airflow_provider_flora import airflow_compat, metrics
from airflow_provider_flora.airflow_compat import airflow_is_at_least


@contextmanager
def metrics_on(settings: Mapping[str, str]) -> Iterator[None]:
    """Metrics are on, with these settings in the environment."""
    stats: Any = airflow_compat.Stats
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        if not airflow_is_at_least(3, 2):  # there it is done once, at the import
            logger = import_module("airflow.metrics.statsd_logger")
            patch.setattr(type(stats), "factory", logger.get_statsd_logger)
            patch.setattr(stats, "instance", None, raising=False)
        initialize(stats)
        forget()
        yield
    initialize(stats)
    forget()


def initialize(stats: Any) -> None:
    """Let Airflow's ``Stats`` do as the configuration says now, where that is not done at its import."""
    if airflow_is_at_least(3, 2):
        utils = import_module("airflow.sdk.observability.metrics.stats_utils")
        if airflow_is_at_least(3, 3):
            stats.initialize(factory=utils.get_stats_factory(), export_legacy_names=True)
        else:
            stats.initialize(factory=utils.get_stats_factory(stats))


def forget() -> None:
    """Forget what the provider has found out about Airflow's metrics."""
    metrics._find_stats.cache_clear()
    metrics._values.clear()
    metrics._has_warned.clear()
