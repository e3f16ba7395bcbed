"""Runs several DAGs on Airflow 2 as `airflow dags test` does, but in one process: its start takes most of the time.

    python several_dags.py '[["dag_id", {"conf": 1}], ...]'

The DAGs that an asset starts are unpaused first, so that the events of the others are queued for them.
"""

from __future__ import annotations

import json
import sys
from datetime import datetime, timedelta, timezone

from airflow.configuration import conf
from airflow.models import DagBag, DagModel
from airflow.utils.session import create_session


def main() -> None:
    dags = DagBag(conf.get_mandatory_value("core", "dags_folder"), include_examples=False)
    assert not dags.import_errors, dags.import_errors
    dags.sync_to_db()
    with create_session() as session:
        for model in session.query(DagModel):
            model.is_paused = dags.dags[model.dag_id].timetable.summary != "Dataset"
    began = datetime(2026, 11, 1, tzinfo=timezone.utc)
    for number, (dag_id, run_conf) in enumerate(json.loads(sys.argv[1])):
        dags.dags[dag_id].test(execution_date=began + timedelta(days=number), run_conf=run_conf)


main()
