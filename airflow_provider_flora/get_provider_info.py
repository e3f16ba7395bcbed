"""What Airflow reads from the entry point ``apache_airflow_provider``."""

from __future__ import annotations

from typing import Any

import airflow_provider_flora


def get_provider_info() -> dict[str, Any]:
    """Describe the provider: its connection type with its form, and its extra links."""
    return {
        "package-name": "airflow-provider-flora",
        "name": "Flora",
        "description": "`Flora <https://flora.ai>`__ runs techniques: saved creative workflows.",
        "versions": [airflow_provider_flora.__version__],
    }
