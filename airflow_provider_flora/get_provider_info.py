"""The provider's description for Airflow's entry point. Imported often, so it imports little."""

from __future__ import annotations

from typing import Any

import airflow_provider_flora

# The connection's form. Airflow 3 reads it from here; for Airflow 2 the hook makes widgets of it.
CONNECTION_FIELDS: dict[str, tuple[str, str, str]] = {
    # name: (label, description, placeholder)
    "workspace_id": ("Workspace", "Limits lists to this workspace. Default: every workspace of the key.", "ws_…"),
    "timeout": ("Timeout", "Seconds to wait for Flora's answer. Default: 60.", "60"),
    "max_retries": ("Retries", "Retries of a request after transient errors. Default: 4.", "4"),
    "proxies": (
        "Proxy",
        "URL of a proxy, or JSON with one URL per scheme. Default: the environment's proxy.",
        "http://proxy.example:3128",
    ),
    "verify": ("Check TLS", "true, false, or the path of a CA file or folder. Default: true.", "true"),
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
    """Return the provider's connection type, its form, its extra links and its plugin."""
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
        "extra-links": [
            "airflow_provider_flora.links.flora.FloraTechniqueLink",
            "airflow_provider_flora.links.flora.FloraOutputsLink",
        ],
        "plugins": [
            {"name": "flora", "plugin-class": "airflow_provider_flora.plugins.flora_plugin.FloraPlugin"},
        ],
    }
