"""The plugin that Airflow loads: where its pages are in the UI. Imports nothing that costs time.

Every component of Airflow loads plugins. So the pages are built in the API server only, by their first request.
"""

from __future__ import annotations

import asyncio
from typing import Any

from airflow_provider_flora.airflow_compat import AirflowPlugin, airflow_is_at_least

_TASK = "dag_id={DAG_ID}&run_id={RUN_ID}&task_id={TASK_ID}&map_index={MAP_INDEX}"


class Pages:
    """The ASGI application of the pages, built by its first request. If that fails, the next one tries again."""

    def __init__(self) -> None:
        self._building = asyncio.Lock()
        self._app: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve a request."""
        if self._app is None:
            async with self._building:
                self._app = self._app or await asyncio.to_thread(_build)
        await self._app(scope, receive, send)


def _build() -> Any:
    from airflow_provider_flora.plugins.pages import build

    return build()


class FloraPlugin(AirflowPlugin):
    """Flora's pages in Airflow's UI: a tab of a task, a tab of a DAG run, and a page in the navigation.

    Before Airflow 3.1 the plugin has no pages.
    """

    name = "flora"
    fastapi_apps: list[Any] = []  # noqa: RUF012  as Airflow declares it
    external_views: list[Any] = []  # noqa: RUF012
    if airflow_is_at_least(3, 1):
        fastapi_apps = [{"name": "flora", "app": Pages(), "url_prefix": "/flora"}]
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
