"""The Flora provider for Apache Airflow.

The names below are public, besides the Airflow classes. They are imported at first use, since the clients take some
200 ms to import. Everything else may change.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from airflow_provider_flora.version import __version__ as __version__

if TYPE_CHECKING:
    from airflow_provider_flora.api.aio import AsyncFloraClient as AsyncFloraClient
    from airflow_provider_flora.api.client import FloraClient as FloraClient
    from airflow_provider_flora.api.errors import FloraAnswerError as FloraAnswerError
    from airflow_provider_flora.api.errors import FloraAnswerSizeError as FloraAnswerSizeError
    from airflow_provider_flora.api.errors import FloraAPICreditsError as FloraAPICreditsError
    from airflow_provider_flora.api.errors import FloraAPIError as FloraAPIError
    from airflow_provider_flora.api.errors import FloraBatchError as FloraBatchError
    from airflow_provider_flora.api.errors import FloraBudgetError as FloraBudgetError
    from airflow_provider_flora.api.errors import FloraConnectionError as FloraConnectionError
    from airflow_provider_flora.api.errors import FloraCreditsError as FloraCreditsError
    from airflow_provider_flora.api.errors import FloraDownloadError as FloraDownloadError
    from airflow_provider_flora.api.errors import FloraError as FloraError
    from airflow_provider_flora.api.errors import FloraFileError as FloraFileError
    from airflow_provider_flora.api.errors import FloraInputError as FloraInputError
    from airflow_provider_flora.api.errors import FloraInternalError as FloraInternalError
    from airflow_provider_flora.api.errors import FloraLimitError as FloraLimitError
    from airflow_provider_flora.api.errors import FloraNotStoredError as FloraNotStoredError
    from airflow_provider_flora.api.errors import FloraParameterError as FloraParameterError
    from airflow_provider_flora.api.errors import FloraPriceError as FloraPriceError
    from airflow_provider_flora.api.errors import FloraRunCreditsError as FloraRunCreditsError
    from airflow_provider_flora.api.errors import FloraRunFailedError as FloraRunFailedError
    from airflow_provider_flora.api.errors import FloraRunTimeoutError as FloraRunTimeoutError
    from airflow_provider_flora.api.errors import FloraSettingsError as FloraSettingsError
    from airflow_provider_flora.api.errors import FloraStorageError as FloraStorageError
    from airflow_provider_flora.api.errors import FloraTimeoutError as FloraTimeoutError
    from airflow_provider_flora.api.errors import FloraUnknownStartError as FloraUnknownStartError
    from airflow_provider_flora.api.errors import FloraUploadError as FloraUploadError
    from airflow_provider_flora.api.errors import FloraWaitError as FloraWaitError
    from airflow_provider_flora.api.remedies import Remedy as Remedy
    from airflow_provider_flora.api.settings import ClientSettings as ClientSettings

_PLACES = {"FloraClient": "client", "AsyncFloraClient": "aio", "ClientSettings": "settings"}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Import a public name at first use. A name that is not in ``_PLACES`` is an error class or ``Remedy``.

        :raises AttributeError: the name does not exist.
        """
        if name.startswith("_"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = import_module(f"airflow_provider_flora.api.{_PLACES.get(name, 'errors')}")
        globals()[name] = getattr(module, name)
        return globals()[name]
