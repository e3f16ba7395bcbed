"""Airflow's tables, empty, in a file of the test's own, and the pages on top of them. On Airflow 3.1 and later."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from airflow_provider_flora.airflow_compat import airflow_is_at_least
from tests.stored_file import store_file

if not airflow_is_at_least(3, 1):
    collect_ignore_glob = ["test_*.py"]

NOW = datetime.now(timezone.utc)
_USUAL = {"pool": "default_pool", "pool_slots": 1, "try_number": 1, "max_tries": 2}


class Instances:
    """The task instances of a test. They need no DAG: the pages read a few tables only."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._ids = 0

    def add(
        self,
        task_id: str = "still",
        *,
        dag_id: str = "shop",
        dag_run: str = "monday",
        map_index: int = -1,
        state: str | None = "success",
        operator: str = "FloraRunTechniqueOperator",
        ended: datetime | None = NOW,
        inputs: Any = None,
        conn_id: str | None = None,
        progress: str | None = None,
        **xcoms: Any,
    ) -> None:
        """Add one with its XComs."""
        from airflow.models.renderedtifields import RenderedTaskInstanceFields as Rendered
        from airflow.models.task_state_store import TaskStateStoreModel
        from airflow.models.taskinstance import TaskInstance
        from airflow.models.xcom import XComModel
        from sqlalchemy import insert

        identity = {"dag_id": dag_id, "run_id": dag_run, "task_id": task_id, "map_index": map_index}
        self._ids += 1
        times = {"start_date": (ended or NOW) - timedelta(seconds=90), "end_date": ended}
        rows: list[tuple[Any, dict[str, Any]]] = [
            (TaskInstance, {"id": UUID(int=self._ids), "state": state, "operator": operator, **_USUAL, **times}),
            *((XComModel, {"dag_run_id": 1, "key": key, "value": value}) for key, value in xcoms.items()),
        ]
        if inputs is not None or conn_id is not None:
            rows.append((Rendered, {"rendered_fields": {"inputs": inputs, "flora_conn_id": conn_id}}))
        if progress is not None:
            rows.append((TaskStateStoreModel, {"dag_run_id": 1, "key": "flora_progress", "value": progress}))
        with self._engine.begin() as connection:
            for model, values in rows:
                connection.execute(insert(model.__table__).values(**identity, **values))


@pytest.fixture(scope="session")
def _tables(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from airflow.models import import_all_models
    from airflow.models.base import Base
    from sqlalchemy import create_engine

    import_all_models()
    engine = create_engine(f"sqlite:///{tmp_path_factory.mktemp('tables') / 'airflow.db'}")
    Base.metadata.create_all(engine)
    return engine


@pytest.fixture
def engine(_tables: Any) -> Any:
    from airflow.models.base import Base

    with _tables.begin() as connection:
        for name in ("xcom", "task_state_store", "rendered_task_instance_fields", "task_instance"):
            connection.execute(Base.metadata.tables[name].delete())
    return _tables


@pytest.fixture
def instances(engine: Any) -> Instances:
    """Adds task instances."""
    return Instances(engine)


@pytest.fixture
def session(engine: Any) -> Iterator[Any]:
    """A session of Airflow's tables."""
    from sqlalchemy.orm import Session

    with Session(engine) as session:
        yield session


@pytest.fixture
def client(engine: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A browser of the pages, whose user may read everything: `tests/airflow` has Airflow's own authorization."""
    from fastapi.testclient import TestClient
    from sqlalchemy.orm import Session

    from airflow_provider_flora.airflow_compat import get_user
    from airflow_provider_flora.plugins import pages

    @contextmanager
    def create_session() -> Iterator[Any]:
        with Session(engine) as session:
            yield session

    monkeypatch.setattr(pages, "create_session", create_session)
    monkeypatch.setattr(pages, "MANIFESTS", pages.Manifests())
    monkeypatch.setattr(pages, "LIVE", pages.LiveRuns())
    monkeypatch.setattr(pages, "_may_read", lambda request, user, dag_id: dag_id != "hidden")
    app = pages.build()
    for permission in pages.MAY_READ:
        app.dependency_overrides[permission.dependency] = lambda: None
    app.dependency_overrides[get_user] = lambda: None
    return TestClient(app, headers={"accept": "text/html"})


@pytest.fixture
def store(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Writes a file as a task does, and gives what its XCom `files` has of it."""

    def write(name: str, content: bytes, media_type: str, output_id: str = "still") -> dict[str, Any]:
        return store_file(tmp_path / name, content, media_type, output_id)

    return write
