"""Links from a task to Flora's page of its technique, and to the page of its outputs in Airflow's UI."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow_provider_flora.airflow_compat import BaseOperatorLink, XCom, airflow_is_at_least, conf

if TYPE_CHECKING:
    from airflow_provider_flora.airflow_compat import BaseOperator, TaskInstanceKey
    from airflow_provider_flora.api.settings import ClientSettings

TECHNIQUE_URL_KEY = "flora_technique_url"


def technique_url(settings: ClientSettings, technique: str) -> str:
    """Return a technique's page in Flora's app: ``/techniques/{slug}`` on the API's origin (developer site)."""
    scheme, host, port = settings.origin
    netloc = f"[{host}]" if ":" in host else host
    netloc += "" if (scheme, port) in (("https", 443), ("http", 80)) else f":{port}"
    return f"{scheme}://{netloc}/techniques/{quote(technique, safe='')}"


class FloraTechniqueLink(BaseOperatorLink):
    """A link to the technique's page in Flora. The task pushes the URL as an XCom when it begins."""

    name = "Technique in Flora"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Return the URL, or an empty string if the task has not begun."""
        url: Any = XCom.get_value(ti_key=ti_key, key=TECHNIQUE_URL_KEY)
        return str(url or "")


class FloraOutputsLink(BaseOperatorLink):
    """A link to the task's tab in Airflow's UI that shows its outputs. Airflow 3.1 and later."""

    name = "Outputs"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Return the URL, from the path of Airflow's ``base_url``."""
        names = [quote(name, safe="") for name in (ti_key.dag_id, ti_key.run_id, ti_key.task_id)]
        mapped = f"/mapped/{ti_key.map_index}" if ti_key.map_index is not None and ti_key.map_index >= 0 else ""
        base = conf.get("api", "base_url", fallback="").rstrip("/")
        return f"{base}/dags/{names[0]}/runs/{names[1]}/tasks/{names[2]}{mapped}/plugin/flora-outputs"


TASK_LINKS = (FloraTechniqueLink(), *((FloraOutputsLink(),) if airflow_is_at_least(3, 1) else ()))
"""The links of a task that runs a technique."""
