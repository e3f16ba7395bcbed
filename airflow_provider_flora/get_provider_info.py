"""What Airflow reads from the entry point ``apache_airflow_provider``. Imported often, so it imports little."""

from __future__ import annotations

from typing import Any

import airflow_provider_flora

# The connection's form, told once: Airflow 3 reads it from here, for Airflow 2 the hook makes widgets of it.
CONNECTION_FIELDS: dict[str, tuple[str, str, str]] = {
    # name: (label, description, placeholder)
    "workspace_id": ("Workspace", "Narrows lists down to this workspace. Default: all that the key opens.", "ws_…"),
    "timeout": ("Time-out", "Seconds to wait for an answer of Flora. Default: 60.", "60"),
    "max_retries": ("Retries", "How often a request is sent again after a passing error. Default: 4.", "4"),
    "proxies": ("Proxy", "URL of a proxy, or JSON with one URL for each scheme.", "http://proxy.example:3128"),
    "verify": ("Check TLS", "true, false, or the path of a CA bundle. Default: true.", "true"),
}
CONNECTION_FORM: dict[str, Any] = {
    "hidden-fields": ["schema", "login", "port", "extra"],
    "relabeling": {"password": "API key", "host": "Base URL"},
    "placeholders": {
        "password": "sk_live_…",
        "host": "https://app.flora.ai/api/v1",
        **{name: placeholder for name, (_, _, placeholder) in CONNECTION_FIELDS.items()},
    },
}


def get_provider_info() -> dict[str, Any]:
    """Describe the provider: its connection type with its form, and its extra link."""
    return {
        "package-name": "airflow-provider-flora",
        "name": "Flora",
        "description": "`Flora <https://flora.ai>`__ runs techniques: saved creative workflows.",
        "versions": [airflow_provider_flora.__version__],
        "connection-types": [
            {
                "connection-type": "flora",
                "hook-class-name": "airflow_provider_flora.hooks.flora.FloraHook",
                "hook-name": "Flora",
                "ui-field-behaviour": CONNECTION_FORM,
                "conn-fields": {
                    name: {
                        "label": label,
                        "description": description,
                        "schema": {"type": ["string", "null"]},
                    }
                    for name, (label, description, _) in CONNECTION_FIELDS.items()
                },
            }
        ],
        "extra-links": ["airflow_provider_flora.links.flora.FloraTechniqueLink"],
    }
