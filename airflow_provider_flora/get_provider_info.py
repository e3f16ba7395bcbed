"""The provider's description for Airflow's entry point. Imported often, so it imports little.

Each Airflow has a schema for it. An older one does not have all keys below, and ignores those.
"""

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

HOW_TO_GUIDES = ("operator", "decorator", "batch", "choose", "uploads", "downloads", "sensor", "events", "hook")
"""The pages in ``docs`` about what the provider adds to a DAG."""


def _modules(room: str, *names: str) -> list[dict[str, Any]]:
    return [
        {"integration-name": "Flora", "python-modules": [f"airflow_provider_flora.{room}.{name}" for name in names]}
    ]


def get_provider_info() -> dict[str, Any]:
    """Return what the provider has: its connection type with a form, operators and the like, links, a plugin."""
    return {
        "package-name": "airflow-provider-flora",
        "name": "Flora",
        "description": "`Flora <https://flora.ai>`__ runs techniques: saved creative workflows.",
        "versions": [airflow_provider_flora.__version__],
        "integrations": [
            {
                "integration-name": "Flora",
                "external-doc-url": "https://flora.ai",
                "how-to-guide": [f"/docs/{page}.rst" for page in HOW_TO_GUIDES],
                "tags": ["service", "ai"],
            }
        ],
        "operators": _modules("operators", "flora", "batch", "choose", "uploads", "downloads"),
        "sensors": _modules("sensors", "flora"),
        "hooks": _modules("hooks", "flora"),
        "triggers": _modules("triggers", "flora", "batch", "runs"),
        "task-decorators": [
            {"name": "flora_technique", "class-name": "airflow_provider_flora.decorators.flora.flora_technique"},
        ],
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
        "notifications": ["airflow_provider_flora.notifications.credits.FloraCreditsNotifier"],
        "cli": ["airflow_provider_flora.cli.definition.get_flora_cli_commands"],
        "plugins": [
            {"name": "flora", "plugin-class": "airflow_provider_flora.plugins.flora_plugin.FloraPlugin"},
        ],
    }
