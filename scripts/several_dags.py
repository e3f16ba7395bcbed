"""Runs several DAGs on Airflow 2 as `airflow dags test` does, but in one process: its start takes most of the time.

    python several_dags.py '[["dag_id", {"conf": 1}], ...]' ['{"conn_id": {"conn_type": "..."}, ...}']

The connections are added to the database first. DAGs that are scheduled by an asset are unpaused, so that events of
the other DAGs are queued for them.
"""

from __future__ import annotations

import json
import sys
from datetime import datetime, timedelta, timezone

from airflow.configuration import conf
from airflow.models import Connection, DagBag, DagModel
from airflow.utils.session import create_session


def main(runs: str, connections: str = "{}") -> None:
    dags = DagBag(conf.get_mandatory_value("core", "dags_folder"), include_examples=False)
    assert not dags.import_errors, dags.import_errors
    dags.sync_to_db()
    with create_session() as session:
        for model in session.query(DagModel):
            model.is_paused = dags.dags[model.dag_id].timetable.summary != "Dataset"
        session.add_all(Connection(conn_id, **fields) for conn_id, fields in json.loads(connections).items())
    began = datetime(2026, 11, 1, tzinfo=timezone.utc)
    for number, (dag_id, run_conf) in enumerate(json.loads(runs)):
        dags.dags[dag_id].test(execution_date=began + timedelta(days=number), run_conf=run_conf)


main(*sys.argv[1:])
