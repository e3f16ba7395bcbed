"""Starts a real Airflow with the Flora emulator, and one run of each example DAG: `make airflow`.

Runs until Ctrl-C, then ends all processes that it started. The next start deletes all data.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from scripts import example_runs
from scripts.emulator_process import EmulatorProcess
from scripts.local_airflow import PASSWORD, USER, LocalAirflowError, NotYetError

REPOSITORY = Path(__file__).resolve().parents[1]
PLACE = Path(os.environ.get("AIRFLOW_HOME") or REPOSITORY / ".airflow")
RUN_SECONDS = 6
"""Long enough to see a task wait as deferred, short enough for examples that start a run after a run."""

TASK_PAGE = f"/dags/flora_quickstart/runs/{example_runs.RUN_ID}/tasks/run_technique/plugin/flora-outputs"
RUN_PAGE = f"/dags/flora_pipeline_storyboard/runs/{example_runs.RUN_ID}/plugin/flora-run"
SPENDING_PAGE = "/plugin/flora"
QUESTION_PAGE = f"/dags/flora_choose/runs/{example_runs.RUN_ID}/tasks/choose/required_actions"


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
    """Run Airflow and the examples until Ctrl-C or until one of Airflow's processes dies."""
    print("Starting Airflow. This takes about 15 seconds", flush=True)
    storage = home / "storage"
    storage.mkdir()
    for name, table in example_runs.tables(emulator).items():
        (storage / name).write_bytes(table)
    with example_runs.airflow_with_examples(home, emulator, f"file://{storage}") as airflow:
        airflow.wait_for_dag("flora_quickstart")
        print(
            f"""
  Airflow    {airflow.url}
  Login      {USER} / {PASSWORD}
  Emulator   {emulator.base_url}
  Ledger     {emulator.origin}/_emulator/ledger (runs, charges, requests)
  Logs       {home}

One run of each example starts now. Where to look:

  Tab "Flora" of a task      {airflow.url}{TASK_PAGE}
  Tab "Flora" of a DAG run   {airflow.url}{RUN_PAGE}
  "Flora" in the navigation  {airflow.url}{SPENDING_PAGE}
  A question to answer       {airflow.url}{QUESTION_PAGE}

You can edit example_dags/: changes take effect within seconds. Ctrl-C stops everything.
""",
            flush=True,
        )
        for line in example_runs.run_all(airflow, emulator):
            print(f"  {line}", flush=True)
        airflow.watch()


if __name__ == "__main__":
    sys.exit(main())
