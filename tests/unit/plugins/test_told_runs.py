"""What is stored together with the event of a run."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest

from airflow_provider_flora import airflow_compat
from airflow_provider_flora.airflow_compat import airflow_is_at_least
from airflow_provider_flora.plugins import told_runs
from airflow_provider_flora.plugins.flora_plugin import FloraPlugin
from airflow_provider_flora.runs.run_events import TOLD_KEY

PAYLOAD = {"type": "flora.run", "run_id": "run_1"}
EVENT = {"from_trigger": True, "payload": PAYLOAD}


def noted(extra: Any, source_dag_id: str | None = None) -> list[Any]:
    """Return what the listener has noted of an event."""
    notes: list[Any] = []

    def change(asset: Any, key: str, add: Any) -> None:
        assert (asset, key) == ("films", TOLD_KEY)
        notes.append(add(["run_0"]))

    with patch.object(airflow_compat, "change_asset_state", change):
        event = SimpleNamespace(asset="films", extra=extra, source_dag_id=source_dag_id)
        told_runs.on_asset_event_emitted(event)
    return notes


def test_the_run_of_an_event_is_noted() -> None:
    assert noted(EVENT) == [["run_0", "run_1"]]


@pytest.mark.parametrize(
    "extra",
    [
        {},
        None,
        {"payload": PAYLOAD},
        {**EVENT, "from_rest_api": True},
        {**EVENT, "payload": {"type": "other", "run_id": "run_1"}},
        {**EVENT, "payload": {"type": "flora.run"}},
        {**EVENT, "payload": "flora.run"},
    ],
)
def test_other_events_are_let_be(extra: Any) -> None:
    assert noted(extra) == []


def test_an_event_of_a_task_is_let_be_whatever_it_says() -> None:
    assert noted(EVENT, source_dag_id="some_dag") == []


@pytest.mark.skipif(not airflow_is_at_least(3, 3), reason="assets have a state store since Airflow 3.3")
def test_airflow_loads_the_listener() -> None:
    assert told_runs in FloraPlugin.listeners


@pytest.mark.skipif(not airflow_is_at_least(3, 3), reason="assets have a state store since Airflow 3.3")
@pytest.mark.parametrize("fate", ["stored", "killed", "failing note"])
def test_the_note_is_stored_with_the_event_or_not_at_all(
    engine: Any, monkeypatch: pytest.MonkeyPatch, fate: str
) -> None:
    from airflow import settings
    from airflow.assets.manager import AssetManager
    from airflow.listeners.listener import get_listener_manager
    from airflow.models.asset import AssetActive, AssetEvent, AssetModel
    from airflow.models.asset_state_store import AssetStateStoreModel
    from airflow.utils.session import create_session
    from sqlalchemy import delete, select
    from sqlalchemy.orm import scoped_session, sessionmaker

    monkeypatch.setattr(settings, "Session", scoped_session(sessionmaker(bind=engine, expire_on_commit=False)))
    get_listener_manager().add_listener(told_runs)
    with create_session() as session:
        for model in (AssetEvent, AssetStateStoreModel, AssetActive, AssetModel):
            session.execute(delete(model))
        asset = AssetModel(name="films", uri="films", group="asset")
        session.add(asset)
        session.flush()
        session.add(AssetActive.for_asset(asset))
        films = asset.to_serialized()
    if fate == "failing note":
        monkeypatch.setattr(told_runs, "add_told_run", lambda *_: {1j})
    try:
        with create_session() as session:
            AssetManager.register_asset_change(asset=films, extra=EVENT, session=session)
            if fate == "killed":
                raise RuntimeError("before the commit")
    except RuntimeError:
        pass
    with create_session() as session:
        events = session.scalars(select(AssetEvent)).all()
        notes = {row.key: json.loads(row.value) for row in session.scalars(select(AssetStateStoreModel))}
    assert len(events) == (0 if fate == "killed" else 1)
    assert notes == ({TOLD_KEY: ["run_1"]} if fate == "stored" else {})


@pytest.mark.skipif(not airflow_is_at_least(3, 3), reason="assets have a state store since Airflow 3.3")
def test_outside_of_a_transaction_nothing_is_noted(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow import settings
    from sqlalchemy.orm import scoped_session, sessionmaker

    session = scoped_session(sessionmaker(bind=engine))
    monkeypatch.setattr(settings, "Session", session)
    airflow_compat.change_asset_state(SimpleNamespace(name="films", uri="films"), TOLD_KEY, lambda _: [])
    assert not session().in_transaction()
