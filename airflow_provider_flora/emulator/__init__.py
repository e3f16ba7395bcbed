"""A local Flora to develop against without paying: what other code imports of it.

The emulator imports nothing of Airflow and nothing of the rest of this package, so that a mistake in
the client is never mirrored here.
"""

from airflow_provider_flora.emulator.server import Emulator

__all__ = ["Emulator"]
