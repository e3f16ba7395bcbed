"""Makes an asset event of a webhook, once, whichever API servers receive it and however often.

Airflow has no unique key for it. So the deliveries of one asset take turns, in all processes: each locks the row of
the asset, and looks for an event of the same webhook before it adds one.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

from sqlalchemy import Text, cast, select, update

from airflow_provider_flora.airflow_compat import AssetEvent, AssetModel, asset_manager, create_session

REMEMBERED = timedelta(hours=1)
"""Flora's last attempt to deliver a webhook comes some seven minutes after the first, and its signature is accepted
for five minutes, or ten between two clocks that differ by five."""


def asset_uri(conn_id: str, status: str) -> str:
    """Return the URI of the asset for all runs of a connection that end so.

    :param status: ``completed`` or ``failed``.
    """
    return f"flora://{conn_id}/runs/{status}"


def make_event(uri: str, webhook_id: str, payload: Mapping[str, Any]) -> bool | None:
    """Store an asset event, which starts the DAGs that are scheduled on the asset.

    :param payload: what the event tells, in its extra, as a trigger's event does.
    :returns: whether it is a new one; ``None`` if no DAG uses the asset.
    """
    with create_session() as session:
        asset = session.scalar(select(AssetModel).where(AssetModel.uri == uri, AssetModel.active.has()))
        if asset is None:
            return None
        # Changes nothing, and locks the row until the commit; SQLite, which has no locks of rows, locks everything.
        # What another transaction has committed meanwhile is seen after it: Airflow's databases are READ COMMITTED.
        session.execute(
            update(AssetModel)
            .where(AssetModel.id == asset.id)
            .values(updated_at=AssetModel.updated_at)
            .execution_options(synchronize_session=False)
        )
        similar = session.scalars(
            select(AssetEvent.extra).where(
                AssetEvent.asset_id == asset.id,
                AssetEvent.timestamp > datetime.now(timezone.utc) - REMEMBERED,
                cast(AssetEvent.extra, Text).contains(webhook_id, autoescape=True),
            )
        )
        if any(extra.get("webhook_id") == webhook_id for extra in similar):
            return False
        extra = {"webhook_id": webhook_id, "payload": dict(payload)}
        event = asset_manager.register_asset_change(asset=asset, extra=extra, session=session)
        return None if event is None else True
