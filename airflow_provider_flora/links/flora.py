"""Links from a task to Flora's own pages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow.providers.common.compat.sdk import BaseOperatorLink, XCom

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator, TaskInstanceKey

    from airflow_provider_flora.api.settings import ClientSettings

TECHNIQUE_URL_KEY = "flora_technique_url"


def technique_url(settings: ClientSettings, technique: str) -> str:
    """Return a technique's page in Flora's app: ``/techniques/{slug}`` on the API's origin (developer site)."""
    scheme, host, port = settings.origin
    netloc = f"[{host}]" if ":" in host else host
    netloc += "" if (scheme, port) in (("https", 443), ("http", 80)) else f":{port}"
    return f"{scheme}://{netloc}/techniques/{quote(technique, safe='')}"


class FloraTechniqueLink(BaseOperatorLink):
    """The technique's page in Flora, from the XCom that the task pushed when it began."""

    name = "Technique in Flora"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Return the address, or nothing if the task has not begun."""
        url: Any = XCom.get_value(ti_key=ti_key, key=TECHNIQUE_URL_KEY)
        return str(url or "")
