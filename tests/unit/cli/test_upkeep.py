"""`undelivered` and `reconcile`: Airflow's tables compared with the history of the emulator."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_flora.airflow_compat import airflow_is_at_least
from airflow_provider_flora.emulator import Emulator
from airflow_provider_flora.metadata import charges
from airflow_provider_flora.metadata.reading import plain
from airflow_provider_flora.task.state import RUN
from tests.unit.airflow_tables import NOW, Instances
from tests.unit.cli.conftest import Ran, Run
from tests.unit.cli.stand_in import StandIn
from tests.unit.cli.test_runs import a_run
from tests.unit.operators.fake_task import HAS_STATE_STORE

STILL = ("shop", "monday", "still")
PAGE = "https://app.flora.ai/techniques/editorial-still"
with_store = pytest.mark.skipif(not HAS_STATE_STORE, reason="this Airflow has no task state store")


def a_record(run_id: str | None, **more: Any) -> dict[str, Any]:
    return {RUN: {"key": "a", "run_id": run_id, "technique_id": "editorial-still", "max_tries": 2, **more}}


# --- undelivered ------------------------------------------------------------------------------------------


def test_nothing_is_undelivered_where_each_run_was_handed_over(
    run: Run, database: Instances, flora_key: Emulator
) -> None:
    [handed] = flora_key.seed_runs(1)
    database.add(run_id=handed, return_value={"run_id": handed}, flora_technique_url=PAGE)
    ran = run("undelivered")
    assert (ran.code, ran.out, ran.err) == (0, "", "Every run that is known was handed over.\n")


def test_a_run_of_a_task_that_failed_is_named_with_what_to_do(
    run: Run, database: Instances, flora_key: Emulator
) -> None:
    [paid] = flora_key.seed_runs(1)
    database.add(state="failed", run_id=paid, flora_technique_url=PAGE)
    ran = run("undelivered")
    assert ran.code == 1
    assert "shop monday still" in ran.out
    assert "completed" in ran.out
    assert "and clear it" in ran.out or "clear it: it hands the run over" in ran.out
    assert "1 run was started and not handed over." in ran.err
    (one,) = run("undelivered", "--json").json["undelivered"]
    assert (one["run_id"], one["charged_cost"], one["state"]) == (paid, 0.09, "failed")
    assert one["task"] == {"dag_id": "shop", "run_id": "monday", "task_id": "still", "map_index": -1}


@pytest.mark.parametrize("state", ["running", "deferred", "up_for_retry", "queued"])
def test_a_task_on_its_way_may_still_hand_its_run_over(
    run: Run, database: Instances, flora_key: Emulator, state: str
) -> None:
    [paid] = flora_key.seed_runs(1)
    stored = a_record(paid) if HAS_STATE_STORE else {}
    database.add(state=state, run_id=paid, flora_technique_url=PAGE, stored=stored)
    assert run("undelivered", "--json").json == {"undelivered": [], "others": []}


LEAVING: dict[str, Callable[[Run, str], Ran]] = {
    "abandon": lambda run, other: run("abandon", *STILL, "--yes"),
    "adopt": lambda run, other: run("adopt", *STILL, other, "--yes"),
}


@with_store
@pytest.mark.parametrize("how", LEAVING)
def test_a_paid_run_that_a_person_leaves_is_still_one_that_nobody_got(
    run: Run, database: Instances, flora_key: Emulator, how: str
) -> None:
    paid, other = flora_key.seed_runs(2, technique_id="editorial-still")
    database.add(state="failed", stored=a_record(paid), flora_technique_url=PAGE)
    assert LEAVING[how](run, other).code == 0
    ran = run("undelivered", "--json")
    [left] = [one for one in ran.json["undelivered"] if one["is_left"]]
    assert (ran.code, left["run_id"], left["charged_cost"]) == (1, paid, 0.09)
    assert paid not in [one["run_id"] for one in ran.json["others"]]
    assert "the task has another run" in run("undelivered").out
    # Another task, to which a person gives it, hands it over.
    database.add(run_id=paid, return_value={"run_id": paid}, flora_technique_url=PAGE, task_id="poster")
    assert paid not in [one["run_id"] for one in run("undelivered", "--json").json["undelivered"]]


@with_store
def test_a_run_that_a_clear_has_left_is_listed_and_one_that_failed_is_not(
    run: Run, database: Instances, flora_key: Emulator
) -> None:
    left, now = flora_key.seed_runs(2)
    [failed] = flora_key.seed_runs(1, status="failed")
    stored = a_record(now, past=[failed, left], left=[failed, left], delivered=True)
    database.add(stored=stored, run_id=now, return_value={"run_id": now}, flora_technique_url=PAGE)
    assert [one["run_id"] for one in run("undelivered", "--json").json["undelivered"]] == [left]


def test_a_run_that_failed_is_nobodys_loss(run: Run, database: Instances, flora_key: Emulator) -> None:
    [failed] = flora_key.seed_runs(1, status="failed")
    database.add(state="failed", run_id=failed, flora_technique_url=PAGE)
    assert run("undelivered", "--json").json == {"undelivered": [], "others": []}


def test_runs_of_others_are_told_apart(run: Run, database: Instances, flora_key: Emulator) -> None:
    [own, designers] = flora_key.seed_runs(2)
    database.add(run_id=own, return_value={}, flora_technique_url=PAGE)
    ran = run("undelivered", "--json")
    assert ran.code == 0
    (other,) = ran.json["others"]
    assert (other["run_id"], other["charged_cost"]) == (designers, 0.09)
    assert "Runs of others, as far as this Airflow knows: 1, charged 0.09 USD" in run("undelivered").err


def test_a_sensor_hands_nothing_over_that_is_its_own(run: Run, database: Instances, flora_key: Emulator) -> None:
    [designers] = flora_key.seed_runs(1)
    database.add(state="failed", operator="FloraTechniqueRunSensor", run_id=designers, flora_technique_url=PAGE)
    assert run("undelivered", "--json").json == {"undelivered": [], "others": []}


def test_other_tasks_xcoms_of_that_name_are_no_runs_of_flora(
    run: Run, database: Instances, flora_key: Emulator
) -> None:
    database.add("spark", operator="SparkOperator", state="failed", run_id="run_1")
    assert run("undelivered", "--json").json["undelivered"] == []


@with_store
def test_a_run_in_a_record_is_found_also_after_its_xcoms_are_gone(
    run: Run, database: Instances, flora_key: Emulator
) -> None:
    [paid, past] = flora_key.seed_runs(2)
    database.add(state="failed", stored=a_record(paid, past=[past]))
    ran = run("undelivered", "--json")
    assert [one["run_id"] for one in ran.json["undelivered"]] == [paid]
    assert ran.json["others"] == []


@with_store
def test_a_task_that_a_person_has_marked_as_a_success_has_handed_nothing_over(
    run: Run, database: Instances, flora_key: Emulator
) -> None:
    [paid] = flora_key.seed_runs(1)
    database.add(state="success", stored=a_record(paid), run_id=paid)
    assert run("undelivered").code == 1


@with_store
def test_a_success_whose_mark_was_lost_is_one(run: Run, database: Instances, flora_key: Emulator) -> None:
    [paid] = flora_key.seed_runs(1)
    database.add(state="success", stored=a_record(paid), run_id=paid, return_value={"run_id": paid})
    assert run("undelivered").code == 0


@with_store
def test_a_start_without_an_answer_is_among_them(run: Run, database: Instances, flora_key: Emulator) -> None:
    database.add(state="failed", stored=a_record(None, sent=[[1764000000.0, 1764000120.0]]))
    ran = run("undelivered")
    assert ran.code == 1
    assert "not answered" in ran.out
    assert "clear it: it looks for the run" in ran.out


@with_store
@pytest.mark.parametrize("ended", [False, True])
def test_rows_of_a_batch_are_in_its_manifest_once_it_has_ended(
    run: Run, database: Instances, flora_key: Emulator, ended: bool
) -> None:
    [one, other] = flora_key.seed_runs(2)
    rows = {"a": {"run_id": one}, "b": {"sent": [[1.0, 2.0]]}}
    head = {"common": {"technique_id": "editorial-still"}, "first_page": 1}
    stored = {"flora_batch": head, "flora_rows_0": {"z": {"run_id": other}}, "flora_rows_1": rows}
    database.add(
        state="failed",
        operator="FloraRunTechniqueBatchOperator",
        stored=stored,
        flora_technique_url=PAGE,
        **({"flora_batch_value": {}} if ended else {}),
    )
    ran = run("undelivered", "--json")
    found = [(entry["row_id"], entry["run_id"]) for entry in ran.json["undelivered"]]
    assert found == ([("b", None)] if ended else [("a", one), ("b", None)])
    assert ran.json["others"] == []
    assert "row b" in run("undelivered").out


def test_a_manifest_names_runs_that_are_in_no_journal(
    run: Run, database: Instances, flora_key: Emulator, tmp_path: Path
) -> None:
    [one] = flora_key.seed_runs(1)
    manifest = tmp_path / "m.jsonl"
    manifest.write_text(json.dumps({"row_id": "a", "run_id": one}) + "\n")
    operator = "FloraRunTechniqueBatchOperator"
    database.add(operator=operator, flora_technique_url=PAGE, manifest=str(manifest), return_value={})
    assert run("undelivered", "--json").json["others"] == []
    manifest.unlink()
    ran = run("undelivered", "--json")
    assert [entry["run_id"] for entry in ran.json["others"]] == [one]
    assert "are not known" in ran.err


def test_a_run_that_flora_does_not_show_is_named_all_the_same(
    run: Run, database: Instances, flora_key: Emulator
) -> None:
    [paid] = flora_key.seed_runs(1)
    database.add(state="failed", run_id=paid, flora_technique_url=PAGE)
    database.add("gone", state="failed", run_id="run_gone", flora_technique_url=PAGE)
    found = run("undelivered", "--since", (NOW - timedelta(days=1)).isoformat(), "--json").json["undelivered"]
    assert {one["run_id"]: one["status"] for one in found} == {paid: "completed", "run_gone": None}
    assert "not shown" in run("undelivered").out


@pytest.mark.parametrize("columns", ["80", "200"])
def test_hostile_names_steer_no_terminal(
    run: Run, database: Instances, flora_key: Emulator, monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    [paid] = flora_key.seed_runs(1)
    database.add("a[red]b\x1b[2J", state="failed", run_id=paid, flora_technique_url=PAGE)
    ran = run("undelivered")
    assert "\x1b" not in ran.out
    assert "[red]" in ran.out.replace("\n", "").replace(" ", "")


# --- reconcile --------------------------------------------------------------------------------------------


def value(run_id: str, **more: Any) -> dict[str, Any]:
    return {
        "run_id": run_id,
        "technique_id": "editorial-still",
        "status": "completed",
        "charged_cost": None,
        **more,
    }


def read(stored: Any) -> Any:
    return json.loads(stored) if isinstance(stored, (bytes, str)) else stored


def test_a_charge_that_came_late_is_filled_in_once(run: Run, database: Instances, flora_key: Emulator) -> None:
    [paid] = flora_key.seed_runs(1)
    outputs = [{"output_id": "still", "type": "imageUrl", "url": "https://media.example/a.png"}]
    database.add(
        run_id=paid, return_value=value(paid, outputs=outputs), charged_cost=None, flora_technique_url=PAGE
    )
    ran = run("reconcile", "--dry-run")
    assert ran.err == "1 charge would be filled in.\n"
    assert read(database.xcom("charged_cost")) is None
    ran = run("reconcile")
    assert (ran.code, ran.err) == (0, "1 charge filled in.\n")
    assert ran.rows[1][:3] == [paid, "0.09", "shop"]
    assert read(database.xcom("charged_cost")) == 0.09
    assert read(database.xcom("return_value")) == value(paid, outputs=outputs, charged_cost=0.09)
    assert run("reconcile", "--json").json == {"filled": [], "not_known": 0, "dry_run": False}


@pytest.mark.skipif(not airflow_is_at_least(3, 0), reason="Airflow 2 stores XComs as bytes")
def test_a_value_stays_in_the_form_in_which_an_airflow_has_stored_it(
    run: Run, database: Instances, flora_key: Emulator
) -> None:
    [paid] = flora_key.seed_runs(1)
    database.add(run_id=json.dumps(paid), return_value=json.dumps(value(paid)), charged_cost="null")
    run("reconcile")
    assert database.xcom("charged_cost") == "0.09"
    assert json.loads(database.xcom("return_value"))["charged_cost"] == 0.09


def test_a_list_of_outputs_has_its_charge_beside_it(run: Run, database: Instances, flora_key: Emulator) -> None:
    [paid] = flora_key.seed_runs(1)
    database.add(run_id=paid, return_value=[{"output_id": "a"}], charged_cost=None, flora_technique_url=PAGE)
    assert run("reconcile").code == 0
    assert read(database.xcom("charged_cost")) == 0.09
    assert read(database.xcom("return_value")) == [{"output_id": "a"}]


def test_what_flora_does_not_report_yet_is_counted(run: Run, database: Instances, stand_in: StandIn) -> None:
    stand_in.runs = [a_run(1, NOW, charged_cost=None)]
    run_id = stand_in.runs[0]["run_id"]
    database.add(run_id=run_id, return_value=value(run_id), charged_cost=None)
    ran = run("reconcile")
    assert ran.err == "0 charges filled in.\nCharges that Flora does not report: 1.\n"
    assert read(database.xcom("charged_cost")) is None


@pytest.mark.parametrize(
    "more",
    [
        {"state": "deferred"},
        {"ended": NOW - timedelta(days=30)},
        {"return_value": {"run_id": "x", "status": "running", "charged_cost": None}},
        {"charged_cost": 0.0},
    ],
)
def test_what_has_a_charge_or_is_not_over_is_left_alone(
    run: Run, database: Instances, flora_key: Emulator, more: dict[str, Any]
) -> None:
    [paid] = flora_key.seed_runs(1)
    whole = {"return_value": [], "charged_cost": None, **more}
    if isinstance(whole["return_value"], dict):
        whole["return_value"]["run_id"] = paid
    database.add(run_id=paid, flora_technique_url=PAGE, **whole)
    assert run("reconcile", "--json").json["filled"] == []
    assert read(database.xcom("charged_cost")) == whole["charged_cost"]


def test_a_task_that_was_cleared_meanwhile_keeps_what_it_has(
    database: Instances, session: Any, flora_key: Emulator
) -> None:
    database.add(run_id="run_1", return_value=value("run_1"), charged_cost=None)
    (missing,) = charges.read_missing(session, NOW - timedelta(days=1))
    session.rollback()
    database.change("task_instance", state="queued")
    assert charges.fill_in(session, missing, 0.09) is False
    session.rollback()
    database.change("task_instance", state="success")
    assert charges.fill_in(session, charges.Missing(missing.task, "run_2", None), 0.09) is False
    assert charges.fill_in(session, missing, 0.09) is True


def test_a_task_that_was_deleted_meanwhile_does_not_stop_the_others(
    database: Instances, session: Any, flora_key: Emulator
) -> None:
    database.add(run_id="run_1", return_value=value("run_1"), charged_cost=None)
    (missing,) = charges.read_missing(session, NOW - timedelta(days=1))
    session.rollback()
    gone = replace(missing, task=replace(missing.task, task_id="gone"))
    assert charges.fill_in(session, gone, 0.09) is False


def test_the_values_of_tasks_without_a_run_are_not_read(
    database: Instances, session: Any, flora_key: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    monkeypatch.setattr(charges, "plain", lambda stored: read.append(stored) or plain(stored))
    database.add("large", operator="PythonOperator", return_value="x" * 1000)
    database.add(run_id="run_1", return_value=value("run_1"), charged_cost=None)
    assert len(charges.read_missing(session, NOW - timedelta(days=1))) == 1
    assert len(read) == 3


@pytest.mark.parametrize("command", ["reconcile", "undelivered"])
def test_a_run_that_flora_refuses_to_show_does_not_hide_the_others(
    run: Run, database: Instances, flora_key: Emulator, command: str
) -> None:
    [paid] = flora_key.seed_runs(1)
    state = {"reconcile": "success", "undelivered": "failed"}[command]
    for task_id, run_id in (("broken", "run_broken"), ("still", paid)):
        charge = {"charged_cost": None} if command == "reconcile" else {}
        database.add(task_id, state=state, run_id=run_id, flora_technique_url=PAGE, **charge)
    flora_key.order_fault("status", operation="getTechniqueRun", times=None, status=403, code="forbidden")
    ran = run(command, "--json")
    assert "run_broken is not known: " in ran.err
    found = ran.json["filled" if command == "reconcile" else "undelivered"]
    assert paid in [one["run_id"] for one in found]


def test_all_time_begins_with_the_first_year(run: Run, database: Instances, flora_key: Emulator) -> None:
    [paid] = flora_key.seed_runs(1)
    database.add(run_id=paid, return_value=value(paid), charged_cost=None)
    assert [one["run_id"] for one in run("reconcile", "--since", "0001-01-01", "--json").json["filled"]] == [paid]


def test_xcoms_of_a_custom_backend_are_left_alone(
    run: Run, database: Instances, flora_key: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    [paid] = flora_key.seed_runs(1)
    database.add(run_id=paid, return_value=value(paid), charged_cost=None)
    monkeypatch.setenv("AIRFLOW__CORE__XCOM_BACKEND", "my.company.EncryptedXCom")
    ran = run("reconcile")
    assert ran.code == 1
    assert "my.company.EncryptedXCom" in ran.err
    assert read(database.xcom("charged_cost")) is None
