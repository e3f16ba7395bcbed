"""The Airflow names that the provider uses, under one name on Airflow 2.11 and every 3.x.

Airflow has moved these names between versions. ``PLACES`` lists the modules of each, newest first. A name is looked
up at first use, so importing this file costs nothing. No other file of the package imports from Airflow. Airflow's
common-compat provider is not used: the versions installed with older Airflows lack many of these names.
"""

from __future__ import annotations

from contextlib import contextmanager
from importlib import import_module
from inspect import unwrap
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from datetime import datetime
    from pathlib import Path

    from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity as DagAccessEntity
    from airflow.api_fastapi.core_api.security import get_user as get_user
    from airflow.api_fastapi.core_api.security import requires_access_dag as requires_access_dag
    from airflow.assets.manager import asset_manager as asset_manager
    from airflow.cli.cli_config import ActionCommand as ActionCommand
    from airflow.cli.cli_config import GroupCommand as GroupCommand
    from airflow.dag_processing.dagbag import DagBag as DagBag
    from airflow.listeners import hookimpl as hookimpl
    from airflow.models.asset import AssetEvent as AssetEvent
    from airflow.models.asset import AssetModel as AssetModel
    from airflow.models.dagrun import DagRun as DagRun
    from airflow.models.renderedtifields import RenderedTaskInstanceFields as RenderedTaskInstanceFields
    from airflow.models.task_state_store import TaskStateStoreModel as TaskStateStoreModel
    from airflow.models.taskinstance import TaskInstance as TaskInstance
    from airflow.models.xcom import XComModel as XComModel
    from airflow.plugins_manager import AirflowPlugin as AirflowPlugin
    from airflow.providers.openlineage.extractors import OperatorLineage as OperatorLineage
    from airflow.providers.standard.operators.hitl import HITLOperator as HITLOperator
    from airflow.sdk import Asset as Asset
    from airflow.sdk import BaseHook as BaseHook
    from airflow.sdk import BaseNotifier as BaseNotifier
    from airflow.sdk import BaseOperator as BaseOperator
    from airflow.sdk import BaseOperatorLink as BaseOperatorLink
    from airflow.sdk import BaseSensorOperator as BaseSensorOperator
    from airflow.sdk import Connection as Connection
    from airflow.sdk import Context as Context
    from airflow.sdk import ObjectStoragePath as ObjectStoragePath
    from airflow.sdk import Param as Param
    from airflow.sdk import PokeReturnValue as PokeReturnValue
    from airflow.sdk import XComArg as XComArg
    from airflow.sdk.bases.decorator import DecoratedOperator as DecoratedOperator
    from airflow.sdk.bases.decorator import Task as Task
    from airflow.sdk.bases.decorator import determine_kwargs as determine_kwargs
    from airflow.sdk.bases.decorator import task_decorator_factory as task_decorator_factory
    from airflow.sdk.configuration import conf as conf
    from airflow.sdk.definitions.param import DagParam as DagParam
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
    from airflow.sdk.observability.stats import Stats as Stats
    from airflow.sdk.types import TaskInstanceKey as TaskInstanceKey
    from airflow.state import TaskScope as TaskScope
    from airflow.state import get_state_backend as get_state_backend
    from airflow.triggers.base import BaseEventTrigger as BaseEventTrigger
    from airflow.triggers.base import BaseTrigger as BaseTrigger
    from airflow.triggers.base import TriggerEvent as TriggerEvent
    from airflow.utils.net import get_hostname as get_hostname
    from airflow.utils.session import create_session as create_session

_EXCEPTIONS = ("airflow.sdk.exceptions", "airflow.exceptions")
_API_SECURITY = "airflow.api_fastapi.core_api.security"
_DECORATORS = ("airflow.sdk.bases.decorator", "airflow.decorators.base")

PLACES: dict[str, tuple[str, ...]] = {
    # The modules that hold a name; ":Dataset" where it has another name there.
    "ActionCommand": ("airflow.cli.cli_config",),
    "AirflowPlugin": ("airflow.plugins_manager",),
    "Asset": ("airflow.sdk", "airflow.datasets:Dataset"),
    "AssetEvent": ("airflow.models.asset",),  # Airflow 3
    "AssetModel": ("airflow.models.asset",),  # Airflow 3
    "BaseEventTrigger": ("airflow.triggers.base",),  # Airflow 3
    "BaseHook": ("airflow.sdk", "airflow.hooks.base"),
    "BaseNotifier": ("airflow.sdk", "airflow.notifications.basenotifier"),
    "BaseOperator": ("airflow.sdk", "airflow.models.baseoperator"),
    "BaseOperatorLink": ("airflow.sdk", "airflow.models.baseoperatorlink"),
    "BaseSensorOperator": ("airflow.sdk", "airflow.sensors.base"),
    "BaseTrigger": ("airflow.triggers.base",),
    "Connection": ("airflow.sdk", "airflow.models.connection"),
    "Context": ("airflow.sdk", "airflow.utils.context"),
    "DagAccessEntity": ("airflow.api_fastapi.auth.managers.models.resource_details",),  # Airflow 3
    "DagBag": ("airflow.dag_processing.dagbag", "airflow.models.dagbag"),
    "DagParam": ("airflow.sdk.definitions.param", "airflow.models.param"),
    "DagRun": ("airflow.models.dagrun",),
    "DecoratedOperator": _DECORATORS,
    "GroupCommand": ("airflow.cli.cli_config",),
    "NEVER_EXPIRE": ("airflow.sdk.execution_time.context",),  # Airflow 3.3 and later
    "ObjectStoragePath": ("airflow.sdk", "airflow.io.path"),
    "OperatorLineage": ("airflow.providers.openlineage.extractors",),  # if the provider for OpenLineage is there
    "Param": ("airflow.sdk", "airflow.models.param"),
    "ParamsDict": ("airflow.sdk.definitions.param", "airflow.models.param"),
    "PokeReturnValue": ("airflow.sdk", "airflow.sensors.base"),
    "RenderedTaskInstanceFields": ("airflow.models.renderedtifields",),
    "Stats": ("airflow.sdk.observability.stats", "airflow.stats"),  # there since Airflow 3.2
    "Task": _DECORATORS,
    "TaskInstance": ("airflow.models.taskinstance",),
    "TaskInstanceKey": ("airflow.sdk.types", "airflow.models.taskinstancekey"),
    "TaskScope": ("airflow.state",),  # Airflow 3.3 and later
    "TaskStateStoreModel": ("airflow.models.task_state_store",),  # Airflow 3.3 and later
    "TriggerEvent": ("airflow.triggers.base",),
    "XCom": ("airflow.sdk.execution_time.xcom", "airflow.models.xcom"),
    "XComArg": ("airflow.sdk", "airflow.models.xcom_arg"),
    "asset_manager": ("airflow.assets.manager",),  # Airflow 3
    "conf": ("airflow.sdk.configuration", "airflow.configuration"),
    "create_session": ("airflow.utils.session",),
    "determine_kwargs": ("airflow.sdk.bases.decorator", "airflow.utils.operator_helpers"),
    "get_hostname": ("airflow.utils.net",),
    "XComModel": ("airflow.models.xcom", "airflow.models.xcom:BaseXCom"),
    "get_state_backend": ("airflow.state",),  # Airflow 3.3 and later
    "get_user": (_API_SECURITY,),  # Airflow 3
    "hookimpl": ("airflow.listeners",),
    "requires_access_dag": (_API_SECURITY,),  # Airflow 3
    "task_decorator_factory": _DECORATORS,
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
                if not f"{path}.".startswith(f"{error.name}."):
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


@contextmanager
def connections_of_the_database() -> Iterator[None]:
    """Let a script read the connections in Airflow's database, as ``airflow connections test`` does.

    On Airflow 3 a script has those of the environment and of secrets backends only.
    """
    import os

    name = "_AIRFLOW_PROCESS_CONTEXT"
    before = os.environ.get(name)
    os.environ[name] = "server"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


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


def is_dag_test(ti: Any) -> bool:
    """Whether a task runs in ``airflow dags test``, ``airflow tasks test`` or ``dag.test()``.

    :param ti: its task instance.
    """
    if airflow_is_at_least(3, 0):
        from airflow.sdk.execution_time import task_runner

        # Other tasks talk to a supervisor in another process.
        comms = getattr(task_runner, "SUPERVISOR_COMMS", None)
        return type(comms).__name__ == "InProcessSupervisorComms"
    return bool(getattr(ti, "test_mode", False)) or getattr(ti, "job_id", 0) is None  # a job runs all other tasks


def states_of_tasks(ti: Any, task_ids: Sequence[str]) -> dict[tuple[str, int], str | None]:
    """Return the states of a DAG run's task instances, by task id and map index, which is -1 if it is not mapped.

    :param ti: the task instance that asks, of the same DAG run.
    """
    if airflow_is_at_least(3, 0):
        # Airflow names an instance of a mapped task "relight_3", as a task with that id, which is asked for alone.
        alone = [one for one in task_ids if _parse_mapped_name(one)[0] in {*task_ids} - {one}]
        states: dict[tuple[str, int], str | None] = {}
        for asked in ([one for one in task_ids if one not in alone], *([one] for one in alone)):
            found = ti.get_task_states(dag_id=ti.dag_id, task_ids=asked, run_ids=[ti.run_id]) if asked else {}
            for name, state in (found.get(ti.run_id) or {}).items():
                states[(name, -1) if name in asked else _parse_mapped_name(name)] = state
        return states
    from airflow_provider_flora.airflow_compat import TaskInstance, create_session

    model: Any = TaskInstance
    with create_session() as session:
        columns = (model.task_id, model.map_index, model.state)
        rows = session.query(*columns).filter(
            model.dag_id == ti.dag_id, model.run_id == ti.run_id, model.task_id.in_([*task_ids])
        )
        return {(task_id, index): state for task_id, index, state in rows}


def _parse_mapped_name(name: str) -> tuple[str, int]:
    """Return the task id and the map index in Airflow's name of a mapped task instance; else the name and -1."""
    task_id, _, index = name.rpartition("_")
    return (task_id, int(index)) if index.isdecimal() else (name, -1)


def find_hitl_operator() -> type[HITLOperator]:
    """Return Airflow's human-in-the-loop operator.

    Before Airflow 3.1 it is a class without instances, so that a module with a subclass of it can be imported.
    """
    if airflow_is_at_least(3, 1):
        from airflow.providers.standard.operators.hitl import HITLOperator

        return HITLOperator
    from airflow_provider_flora.airflow_compat import BaseOperator

    return _without_instances(BaseOperator, "3.1 or newer, which has human-in-the-loop tasks")


def find_event_trigger() -> type[BaseEventTrigger]:
    """Return the base class of triggers that make asset events.

    On Airflow 2 it is a class without instances, so that a module with a subclass of it can be imported.
    """
    if airflow_is_at_least(3, 0):
        from airflow_provider_flora.airflow_compat import BaseEventTrigger

        return BaseEventTrigger
    from airflow_provider_flora.airflow_compat import BaseTrigger

    return _without_instances(BaseTrigger, "3.0 or newer, which has asset watchers")


def _without_instances(base: Any, needs: str) -> type[Any]:
    """Return a class in place of one that this Airflow does not have."""
    from airflow import __version__
    from airflow.exceptions import AirflowOptionalProviderFeatureException

    class Missing(base):  # type: ignore[misc]
        def __init__(self, **_: Any) -> None:
            raise AirflowOptionalProviderFeatureException(
                f"{type(self).__name__} needs Airflow {needs}. This is Airflow {__version__}."
            )

    return Missing


def asset_state_stores(trigger: BaseEventTrigger) -> list[Any]:
    """Return the state store of each asset that an event trigger watches for, with ``aget`` and ``aset``.

    Before Airflow 3.3 there are none, and where a test runs a trigger by itself. Watchers with equal arguments
    share a trigger, whatever their assets: then Airflow's own accessor names none of them.
    """
    stores = getattr(trigger, "asset_state_store", None)
    return [] if stores is None else [*stores._by_name.values(), *stores._by_uri.values()]


def change_asset_state(asset: Any, key: str, change: Callable[[Any], Any]) -> None:
    """Change a value in an asset's state store, in the transaction in which Airflow stores an event of the asset.

    For listeners of asset events in the triggerer. That stores an event in the session of its thread. Where an
    event is stored in another session, there is no transaction to take part in, and nothing is changed. Airflow
    3.3.

    :param change: returns the new value, plain JSON, for the one that is stored, or for ``None``.
    """
    import json

    from airflow.models.asset import AssetModel
    from airflow.state import AssetScope, get_state_backend
    from sqlalchemy import select

    session = import_module("airflow.settings").Session()
    if not session.in_transaction():
        return
    its_id = select(AssetModel.id).where(AssetModel.name == asset.name, AssetModel.uri == asset.uri)
    with session.begin_nested():  # an error in here must not prevent that the event is stored
        scope, backend = AssetScope(asset_id=session.scalar(its_id)), get_state_backend()
        stored = backend.get(scope, key, session=session)
        value = change(None if stored is None else json.loads(stored))
        backend.set(scope, key, json.dumps(value), session=session)


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


def store_dags(bag: DagBag, bundle_name: str) -> None:
    """Write the DAGs of a bag to the database, as the DAG processor does.

    :param bundle_name: the DAG bundle that they belong to, one of Airflow's configuration. Airflow 2.11 has none.
    """
    stored: Any = bag
    if not airflow_is_at_least(3, 0):
        stored.sync_to_db()
        return
    manager: Any = import_module("airflow.dag_processing.bundles.manager")
    manager.DagBundlesManager().sync_bundles_to_db()
    if airflow_is_at_least(3, 1):
        import_module(type(bag).__module__).sync_bag_to_db(bag, bundle_name, None)
    else:
        stored.sync_to_db(bundle_name, None)


def prepare_to_test_dags() -> None:
    """Import what :func:`test_dag` needs, and make the API server that it has in the process. Opens no database."""
    from airflow_provider_flora.airflow_compat import DagBag  # noqa: F401  a bare name would not be looked up

    if airflow_is_at_least(3, 0):
        import asyncio

        import httpx
        from airflow.sdk.execution_time.supervisor import in_process_api_server

        async def get_health(app: Any) -> None:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
                await client.get("/health")

        asyncio.run(get_health(in_process_api_server().app))  # the first request makes the routes


def test_dag(
    dag: Any, conf: dict[str, Any], on_task: Callable[[Any], AbstractContextManager[None]], **date: datetime | None
) -> None:
    """Run a DAG with Airflow's ``dag.test()``: its tasks and their triggers, one after the other, in this process.

    :param conf: the DAG run's.
    :param on_task: is given the task instance of each attempt, and is entered while that runs.
    :param date: the ``logical_date``; without it, now. On Airflow 2.11 it cannot be ``None``.
    """
    # Where Airflow looks up the function that runs one attempt. Its listeners are not told of each.
    names = unwrap(type(dag).test).__globals__
    run_task = names["_run_task"]

    def run_watched_task(*, ti: Any, **options: Any) -> Any:
        with on_task(ti):
            return run_task(ti=ti, **options)

    names["_run_task"] = run_watched_task
    try:
        if not airflow_is_at_least(3, 0):
            date = {"execution_date": date["logical_date"]} if date else {}
        dag.test(run_conf=conf, **date)
    finally:
        names["_run_task"] = run_task


def make_dag_bag() -> DagBag:
    """Return Airflow's collection of DAGs, with none in it.

    A file that ends the process, as it would Airflow 2's DAG processor, is one with an error. A DAG that a file
    imports from another file is that other file's: the DAG processor has a bag for each file, and it is in both.
    """
    import sys
    import traceback

    from airflow_provider_flora.airflow_compat import DagBag

    class PatientDagBag(DagBag):
        def __init__(self) -> None:
            super().__init__(collect_dags=False)
            self.not_empty: set[str] = set()

        def process_file(self, filepath: Any, *args: Any, **kwargs: Any) -> Any:
            errors = len(self.import_errors)
            try:
                found = super().process_file(filepath, *args, **kwargs)  # type: ignore[no-untyped-call]
            except (Exception, SystemExit):
                self.import_errors[str(filepath)] = traceback.format_exc()
                found = []
            if found or len(self.import_errors) > errors:
                self.not_empty.add(str(filepath))
            return found

        def bag_dag(self, dag: Any, *args: Any, **kwargs: Any) -> None:
            known = self.dags.get(dag.dag_id)
            if known is not None and known.fileloc != dag.fileloc:
                # Airflow parses files under names of its own: one with another name was imported.
                imported = {
                    getattr(module, "__file__", None)
                    for name, module in [*sys.modules.items()]
                    if not name.startswith("unusual_prefix_")
                }
                if known.fileloc in imported:
                    return
                if dag.fileloc in imported:
                    del self.dags[dag.dag_id]
            super().bag_dag(dag, *args, **kwargs)

    return PatientDagBag()


def collect_dags(bag: DagBag, path: Path) -> None:
    """Parse a DAG file, or those that Airflow finds in a folder, as its DAG processor does.

    Before Airflow 3.2, Airflow's own examples would come with them.
    """
    from inspect import signature

    has_examples = "include_examples" in signature(bag.collect_dags).parameters
    without: dict[str, Any] = {"include_examples": False} if has_examples else {}
    bag.collect_dags(str(path), **without)


def is_without_dags(bag: Any, path: Path) -> bool:
    """Whether :func:`collect_dags` has found neither a DAG nor an error in a file, or in any file of a folder."""
    return not any(file == str(path) or file.startswith(f"{path}/") for file in bag.not_empty)


def expand_value_of(mapped: Any) -> Any:
    """Return what a mapped task or task group is mapped over: as ``expand`` or ``expand_kwargs`` got it."""
    get = getattr(mapped, "_get_specified_expand_input", None)
    return (get() if get else mapped._expand_input).value


def operator_class_of(task: Any) -> type:
    """Return the class of a task's operator, also if the task is mapped."""
    return getattr(task, "operator_class", type(task))


def name_in_group(value: Any) -> str | None:
    """Return the name of an argument that a mapped task group gives to its tasks, or ``None`` for other values."""
    return value._key if hasattr(value, "_input") and hasattr(value, "_key") else None


def unmap(task: Any, kwargs: dict[str, Any]) -> BaseOperator:
    """Return the operator that a mapped task is for some of what it is mapped over.

    :param kwargs: that part. Those of a decorated task are its function's.
    """
    is_decorated = task._expand_input_attr == "op_kwargs_expand_input"
    operator: BaseOperator = task.unmap({"op_kwargs": kwargs} if is_decorated else kwargs)
    return operator
