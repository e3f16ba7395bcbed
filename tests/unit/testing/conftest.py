"""The plugin's fixtures, and what pytest needs to run tests of its own."""

from tests.unit.testing.fixtures import _flora_airflow, flora_emulator, run_dag  # noqa: F401
