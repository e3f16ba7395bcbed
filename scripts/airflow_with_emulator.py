"""Starts a real Airflow with the Flora emulator and the example DAGs: `make airflow`.

Runs until Ctrl-C, then ends all processes that it started. The next start deletes all data.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

from scripts.emulator_process import API_KEY, EmulatorProcess
from scripts.local_airflow import PASSWORD, USER, LocalAirflow, LocalAirflowError, NotYetError

REPOSITORY = Path(__file__).resolve().parents[1]
PLACE = Path(os.environ.get("AIRFLOW_HOME") or REPOSITORY / ".airflow")
RUN_SECONDS = 15


def main() -> int:
    """Start everything, print the addresses, and wait."""
    home = PLACE / "with-emulator"
    shutil.rmtree(home, ignore_errors=True)
    try:
        with EmulatorProcess(home / "emulator.log", run_seconds=RUN_SECONDS) as emulator:
            serve(home, emulator)
    except (LocalAirflowError, NotYetError) as error:
        print(f"\n{error}\n\nAll logs: {home}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped.")
    return 0


def serve(home: Path, emulator: EmulatorProcess) -> None:
    """Run Airflow until Ctrl-C or until one of its processes dies."""
    connection = {"conn_type": "flora", "host": emulator.base_url, "password": API_KEY}
    print("Starting Airflow. This takes about 15 seconds", flush=True)
    airflow = LocalAirflow(
        home,
        REPOSITORY / "example_dags",
        env={
            "AIRFLOW_CONN_FLORA_DEFAULT": json.dumps(connection),
            "AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE": "True",
            "FLORA_MEDIA_BASE": f"{emulator.origin}/media/samples",
        },
        database_cache=PLACE / "empty-databases",
        report=lambda step: print(f"  {step}", flush=True),
    )
    with airflow:
        airflow.wait_for_dag("flora_quickstart")
        print(
            f"""
  Airflow    {airflow.url}
  Login      {USER} / {PASSWORD}
  Emulator   {emulator.base_url}
  Ledger     {emulator.origin}/_emulator/ledger (runs, charges, requests)
  Logs       {home}

Open the DAG flora_quickstart, press Trigger, and watch its task wait as deferred. You can edit example_dags/:
changes take effect within seconds. Ctrl-C stops everything.
""",
            flush=True,
        )
        airflow.watch()


if __name__ == "__main__":
    sys.exit(main())
