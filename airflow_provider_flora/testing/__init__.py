"""Tests of one's own DAGs with pytest: the fixtures ``flora_emulator`` and ``run_dag``, and what they give.

``plugin`` has the fixtures, which pytest loads by the entry point ``flora``. ``emulator`` is the emulator of a
test. ``running`` runs a DAG, in the Airflow that ``airflow_process`` makes and whose program is ``process``.
``results`` is what comes of it. The names below are imported at first use, since pytest loads the plugin in all
projects.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_provider_flora.testing.emulator import FloraEmulator as FloraEmulator
    from airflow_provider_flora.testing.results import DagImportError as DagImportError
    from airflow_provider_flora.testing.results import DagRunError as DagRunError
    from airflow_provider_flora.testing.results import DagRunResult as DagRunResult
    from airflow_provider_flora.testing.results import DagRunTimeoutError as DagRunTimeoutError
    from airflow_provider_flora.testing.results import TaskResult as TaskResult
    from airflow_provider_flora.testing.running import RunDag as RunDag

_PLACES = {"FloraEmulator": "emulator", "RunDag": "running"}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Import a public name at first use. One that is not in ``_PLACES`` is of ``results``.

        :raises AttributeError: the name does not exist.
        """
        if name.startswith("_"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_PLACES.get(name, 'results')}"), name)
