"""The pages on top of Airflow's tables. On Airflow 3.1 and later."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_flora.airflow_compat import airflow_is_at_least
from tests.stored_file import store_file

if not airflow_is_at_least(3, 1):
    collect_ignore_glob = ["test_*.py"]


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


class Assets:
    """The assets of a test, and the events that they have."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def add(self, uri: str, *, active: bool = True, dag_id: str | None = None) -> None:
        """Add an asset, and a DAG that is scheduled on it."""
        from airflow.models.asset import AssetActive, AssetModel, DagScheduleAssetReference
        from airflow.models.dag import DagModel
        from sqlalchemy.orm import Session

        with Session(self._engine) as session, session.begin():
            asset = AssetModel(name=uri, uri=uri, group="", extra={})
            session.add(asset)
            session.flush()
            if active:
                session.add(AssetActive(name=uri, uri=uri))
            if dag_id is not None:
                dag = DagModel(
                    dag_id=dag_id,
                    is_paused=False,
                    bundle_name="dags-folder",
                    max_active_tasks=1,
                    max_consecutive_failed_dag_runs=0,
                    has_task_concurrency_limits=False,
                )
                session.add(dag)
                session.add(DagScheduleAssetReference(asset_id=asset.id, dag_id=dag_id))

    def events(self, uri: str | None = None) -> list[dict[str, Any]]:
        """Return the extras of the events of an asset, or of all."""
        from airflow.models.asset import AssetEvent, AssetModel
        from sqlalchemy import select
        from sqlalchemy.orm import Session

        query = select(AssetEvent.extra).order_by(AssetEvent.id)
        if uri is not None:
            query = query.join(AssetModel, AssetModel.id == AssetEvent.asset_id).where(AssetModel.uri == uri)
        with Session(self._engine) as session:
            return [*session.scalars(query)]

    def queued_dags(self) -> list[str]:
        """Return the DAGs that the events will start."""
        from airflow.models.asset import AssetDagRunQueue
        from sqlalchemy import select
        from sqlalchemy.orm import Session

        with Session(self._engine) as session:
            return [*session.scalars(select(AssetDagRunQueue.target_dag_id))]

    def age(self, seconds: float) -> None:
        """Make all events older."""
        from airflow.models.asset import AssetEvent
        from sqlalchemy import update

        with self._engine.begin() as connection:
            then = datetime.now(timezone.utc) - timedelta(seconds=seconds)
            connection.execute(update(AssetEvent.__table__).values(timestamp=then))


@pytest.fixture
def assets(engine: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Assets]:
    """Adds assets; what makes events of them uses the tables of the test."""
    from airflow.models.base import Base
    from sqlalchemy.orm import Session

    from airflow_provider_flora.plugins import asset_events

    @contextmanager
    def create_session() -> Iterator[Any]:
        with Session(engine) as session, session.begin():
            yield session

    monkeypatch.setattr(asset_events, "create_session", create_session)
    yield Assets(engine)
    with engine.begin() as connection:
        for name in (
            "asset_dag_run_queue",
            "dag_schedule_asset_reference",
            "asset_event",
            "asset_active",
            "asset",
            "dag",
        ):
            connection.execute(Base.metadata.tables[name].delete())
