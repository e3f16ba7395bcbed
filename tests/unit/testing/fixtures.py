"""The plugin's fixtures. This repository's pytest does not load the plugin: see pyproject.toml."""

from airflow_provider_flora.testing.plugin import _flora_airflow, flora_emulator, run_dag

__all__ = ["_flora_airflow", "flora_emulator", "run_dag"]
