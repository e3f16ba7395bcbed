"""The plugin that Airflow loads: where its pages and its webhooks are. Imports nothing that costs time.

Every component of Airflow loads plugins. So what answers requests is built in the API server only, by the first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from airflow_provider_flora.airflow_compat import AirflowPlugin, airflow_is_at_least

_TASK = "dag_id={DAG_ID}&run_id={RUN_ID}&task_id={TASK_ID}&map_index={MAP_INDEX}"


class LazyApp:
    """An ASGI application, built by its first request. If that fails, the next one tries again."""

    def __init__(self, build: Callable[[], Any]) -> None:
        self._build = build
        self._building = asyncio.Lock()
        self._app: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve a request."""
        if self._app is None:
            async with self._building:
                self._app = self._app or await asyncio.to_thread(self._build)
        await self._app(scope, receive, send)


def _build_pages() -> Any:
    from airflow_provider_flora.plugins.pages import build

    return build()


def _build_webhooks() -> Any:
    from airflow_provider_flora.plugins.webhooks import FloraWebhookApp

    return FloraWebhookApp()


class FloraPlugin(AirflowPlugin):
    """Flora's pages in Airflow's UI (a tab of a task and of a DAG run, a page in the navigation), and its webhooks.

    Before Airflow 3.1 the plugin has neither, and before 3.3 no listeners.
    """

    name = "flora"
    fastapi_apps: list[Any] = []  # noqa: RUF012  as Airflow declares it
    external_views: list[Any] = []  # noqa: RUF012
    listeners: list[Any] = []  # noqa: RUF012
    if airflow_is_at_least(3, 3):
        from airflow_provider_flora.plugins import late_shares, told_runs

        listeners = [late_shares, told_runs]
    if airflow_is_at_least(3, 1):
        fastapi_apps = [
            # In this order: Airflow asks the first whose prefix fits.
            {"name": "flora webhooks", "app": LazyApp(_build_webhooks), "url_prefix": "/flora/webhooks"},
            {"name": "flora", "app": LazyApp(_build_pages), "url_prefix": "/flora"},
        ]
        # Relative, so that they follow the path of Airflow's base_url. Each route must be unique.
        external_views = [
            {
                "name": "Flora",
                "destination": "task_instance",
                "url_route": "flora-outputs",
                "href": f"flora/outputs?{_TASK}",
            },
            {
                "name": "Flora",
                "destination": "dag_run",
                "url_route": "flora-run",
                "href": "flora/run?dag_id={DAG_ID}&run_id={RUN_ID}",
            },
            {"name": "Flora", "destination": "nav", "url_route": "flora", "href": "flora/spending"},
        ]
