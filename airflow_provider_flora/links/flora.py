"""Links from a task to Flora's pages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow_provider_flora.airflow_compat import BaseOperatorLink, XCom

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
