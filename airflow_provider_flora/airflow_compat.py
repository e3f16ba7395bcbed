"""The Airflow names that the provider uses, under one name on Airflow 2.11 and every 3.x.

Airflow has moved these names between versions. ``PLACES`` lists the modules of each, newest first. A name is looked
up at first use, so importing this file costs nothing. No other file of the package imports from Airflow. Airflow's
common-compat provider is not used: the versions installed with older Airflows lack many of these names.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity as DagAccessEntity
    from airflow.api_fastapi.core_api.security import get_user as get_user
    from airflow.api_fastapi.core_api.security import requires_access_dag as requires_access_dag
    from airflow.models.renderedtifields import RenderedTaskInstanceFields as RenderedTaskInstanceFields
    from airflow.models.task_state_store import TaskStateStoreModel as TaskStateStoreModel
    from airflow.models.taskinstance import TaskInstance as TaskInstance
    from airflow.models.xcom import XComModel as XComModel
    from airflow.plugins_manager import AirflowPlugin as AirflowPlugin
    from airflow.providers.standard.operators.hitl import HITLOperator as HITLOperator
    from airflow.sdk import Asset as Asset
    from airflow.sdk import BaseHook as BaseHook
    from airflow.sdk import BaseOperator as BaseOperator
    from airflow.sdk import BaseOperatorLink as BaseOperatorLink
    from airflow.sdk import BaseSensorOperator as BaseSensorOperator
    from airflow.sdk import Connection as Connection
    from airflow.sdk import Context as Context
    from airflow.sdk import ObjectStoragePath as ObjectStoragePath
    from airflow.sdk import Param as Param
    from airflow.sdk import PokeReturnValue as PokeReturnValue
    from airflow.sdk.configuration import conf as conf
    from airflow.sdk.definitions.param import ParamsDict as ParamsDict
    from airflow.sdk.exceptions import AirflowException as AirflowException
    from airflow.sdk.exceptions import AirflowFailException as AirflowFailException
    from airflow.sdk.exceptions import AirflowNotFoundException as AirflowNotFoundException
    from airflow.sdk.exceptions import AirflowSensorTimeout as AirflowSensorTimeout
    from airflow.sdk.exceptions import AirflowSkipException as AirflowSkipException
    from airflow.sdk.exceptions import AirflowTaskTimeout as AirflowTaskTimeout
    from airflow.sdk.exceptions import TaskAwaitingInput as TaskAwaitingInput
    from airflow.sdk.exceptions import TaskDeferred as TaskDeferred
    from airflow.sdk.execution_time.context import NEVER_EXPIRE as NEVER_EXPIRE
    from airflow.sdk.execution_time.xcom import XCom as XCom
    from airflow.sdk.types import TaskInstanceKey as TaskInstanceKey
    from airflow.triggers.base import BaseTrigger as BaseTrigger
    from airflow.triggers.base import TriggerEvent as TriggerEvent
    from airflow.utils.session import create_session as create_session

_EXCEPTIONS = ("airflow.sdk.exceptions", "airflow.exceptions")
_API_SECURITY = "airflow.api_fastapi.core_api.security"

PLACES: dict[str, tuple[str, ...]] = {
    # The modules that hold a name; ":Dataset" where it has another name there.
    "AirflowPlugin": ("airflow.plugins_manager",),
    "Asset": ("airflow.sdk", "airflow.datasets:Dataset"),
    "BaseHook": ("airflow.sdk", "airflow.hooks.base"),
    "BaseOperator": ("airflow.sdk", "airflow.models.baseoperator"),
    "BaseOperatorLink": ("airflow.sdk", "airflow.models.baseoperatorlink"),
    "BaseSensorOperator": ("airflow.sdk", "airflow.sensors.base"),
    "BaseTrigger": ("airflow.triggers.base",),
    "Connection": ("airflow.sdk", "airflow.models.connection"),
    "Context": ("airflow.sdk", "airflow.utils.context"),
    "DagAccessEntity": ("airflow.api_fastapi.auth.managers.models.resource_details",),  # Airflow 3
    "NEVER_EXPIRE": ("airflow.sdk.execution_time.context",),  # Airflow 3.3 and later
    "ObjectStoragePath": ("airflow.sdk", "airflow.io.path"),
    "Param": ("airflow.sdk", "airflow.models.param"),
    "ParamsDict": ("airflow.sdk.definitions.param", "airflow.models.param"),
    "PokeReturnValue": ("airflow.sdk", "airflow.sensors.base"),
    "RenderedTaskInstanceFields": ("airflow.models.renderedtifields",),
    "TaskInstance": ("airflow.models.taskinstance",),
    "TaskInstanceKey": ("airflow.sdk.types", "airflow.models.taskinstancekey"),
    "TaskStateStoreModel": ("airflow.models.task_state_store",),  # Airflow 3.3 and later
    "TriggerEvent": ("airflow.triggers.base",),
    "XCom": ("airflow.sdk.execution_time.xcom", "airflow.models.xcom"),
    "XComModel": ("airflow.models.xcom",),  # Airflow 3
    "conf": ("airflow.sdk.configuration", "airflow.configuration"),
    "create_session": ("airflow.utils.session",),
    "get_user": (_API_SECURITY,),  # Airflow 3
    "requires_access_dag": (_API_SECURITY,),  # Airflow 3
    "AirflowException": _EXCEPTIONS,
    "AirflowFailException": _EXCEPTIONS,
    "AirflowNotFoundException": _EXCEPTIONS,
    "AirflowSensorTimeout": _EXCEPTIONS,
    "AirflowSkipException": _EXCEPTIONS,
    "AirflowTaskTimeout": _EXCEPTIONS,
    "TaskAwaitingInput": ("airflow.sdk.exceptions",),  # Airflow 3.3 and later
    "TaskDeferred": _EXCEPTIONS,
}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Find a name in the installed Airflow and cache it.

        :raises AttributeError: the installed Airflow does not have it.
        """
        for place in PLACES.get(name, ()):
            path, _, other_name = place.partition(":")
            try:
                found = getattr(import_module(path), other_name or name)
            except AttributeError:
                continue
            except ModuleNotFoundError as error:
                if error.name not in (path, "airflow.sdk"):
                    raise  # the module exists, but one of its own imports does not
                continue
            globals()[name] = found
            return found
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}: this Airflow does not have it")


async def get_async_connection(conn_id: str, hook: type[BaseHook]) -> Connection:
    """Read a connection without blocking the event loop.

    Before Airflow 3.3.2, ``aget_connection`` masks secrets with a blocking call. In a triggerer that call raises
    ``DeadlockImminentError`` while another one is under way. There, and where ``aget_connection`` does not exist, a
    thread reads the connection. The thread is asgiref's: only from one of those can Airflow 3 reach its supervisor.

    :param hook: the hook class that reads the connection.
    :raises AirflowNotFoundException: the connection does not exist.
    """
    from airflow_provider_flora.airflow_compat import Connection  # a bare name would not be looked up

    if hasattr(Connection, "aextra_dejson"):  # added together with masking that does not block
        return await hook.aget_connection(conn_id)
    from asgiref.sync import sync_to_async

    return await sync_to_async(hook.get_connection)(conn_id)


def airflow_is_at_least(major: int, minor: int) -> bool:
    """Whether this Airflow has that version or a later one."""
    from airflow import __version__

    return tuple(map(int, __version__.split(".")[:2])) >= (major, minor)


def push_xcom(ti: Any, key: str, value: Any) -> None:
    """Push an XCom whose value may be ``None``.

    Airflow 3.0 cannot store ``None`` and would fail the task, so the key is left out there.
    """
    from airflow import __version__

    if value is not None or not __version__.startswith("3.0."):
        ti.xcom_push(key=key, value=value)


def find_hitl_operator() -> type[HITLOperator]:
    """Return Airflow's human-in-the-loop operator.

    Before Airflow 3.1 it is a class without instances, so that a module with a subclass of it can be imported.
    """
    if airflow_is_at_least(3, 1):
        from airflow.providers.standard.operators.hitl import HITLOperator

        return HITLOperator
    from airflow import __version__
    from airflow.exceptions import AirflowOptionalProviderFeatureException

    from airflow_provider_flora.airflow_compat import BaseOperator

    class MissingHITLOperator(BaseOperator):
        def __init__(self, **_: Any) -> None:
            raise AirflowOptionalProviderFeatureException(
                f"{type(self).__name__} needs Airflow 3.1 or newer, which has human-in-the-loop tasks. This is "
                f"Airflow {__version__}."
            )

    stand_in: Any = MissingHITLOperator
    return stand_in  # type: ignore[no-any-return]


def response_timeout_name() -> str:
    """Return the parameter of Airflow's human-in-the-loop operator that limits the wait for a person.

    The standard provider had ``execution_timeout`` for it before it had ``response_timeout``.
    """
    from inspect import signature

    name = "response_timeout"
    return name if name in signature(find_hitl_operator().__init__).parameters else "execution_timeout"


def ask_person(operator: HITLOperator, ti_id: Any) -> str:
    """Store what a human-in-the-loop operator asks, and return the body that Airflow has now.

    It is that of the task instance's first attempt, at least up to Airflow 3.3:
    https://github.com/apache/airflow/pull/73235. The operator stores the same once more, and is not told.
    """
    from airflow.sdk.execution_time.comms import CreateHITLDetailPayload
    from airflow.sdk.execution_time.task_runner import SUPERVISOR_COMMS

    names = ("options", "subject", "body", "defaults", "multiple")
    fields: dict[str, Any] = {name: getattr(operator, name) for name in names}
    stored: Any = SUPERVISOR_COMMS.send(
        CreateHITLDetailPayload(
            ti_id=ti_id,
            params=operator.serialized_params,
            assigned_users=operator.assigned_users or [],
            **fields,
        )
    )
    return stored.body or ""


def pauses() -> tuple[type[TaskDeferred | TaskAwaitingInput], ...]:
    """Return what a task raises to pause, with ``kwargs`` for the method that resumes it."""
    from airflow_provider_flora import airflow_compat

    names = ("TaskDeferred", "TaskAwaitingInput")
    return tuple(getattr(airflow_compat, name) for name in names if hasattr(airflow_compat, name))
