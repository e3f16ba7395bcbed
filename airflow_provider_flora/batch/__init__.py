"""Runs for the rows of a table. ``read_manifest`` is public; it is imported at first use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_provider_flora.batch.manifest import read_manifest as read_manifest

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Import ``read_manifest`` at first use.

        :raises AttributeError: the name is another one.
        """
        if name != "read_manifest":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from airflow_provider_flora.batch.manifest import read_manifest

        globals()[name] = read_manifest
        return read_manifest
