"""`task`, `adopt` and `abandon`: a record in words, and what the next attempt makes of a changed one."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from typing import Any

import pytest

from airflow_provider_flora.emulator import Emulator
from airflow_provider_flora.metadata import records
from airflow_provider_flora.runs import starting
from airflow_provider_flora.task.state import RUN, SHARE
from tests.unit.airflow_tables import Instances
from tests.unit.cli.conftest import Ran, Run
from tests.unit.operators.fake_task import HAS_STATE_STORE, FakeStore
from tests.unit.runs.lives import Crash, Life, posts_to, runs_of

PAGE = "https://app.flora.ai/techniques/editorial-still"
STILL = ("shop", "monday", "still")
with_store = pytest.mark.skipif(not HAS_STATE_STORE, reason="this Airflow has no task state store")


class Told:
    """A task whose attempts are played, and whose record lies in Airflow's tables between them."""

    def __init__(self, database: Instances, flora: Emulator, **kept: Any) -> None:
        self.database = database
        self.life = Life(flora, FakeStore(), **kept)
        self.is_there = False

    def ends(self, state: str = "failed") -> None:
        """Do what Airflow does when an attempt has ended."""
        stored = {} if self.life.store is None else self.life.store.rows
        record = self.life.record if RUN in stored else None
        if not self.is_there:
            self.is_there = True
            self.database.add(
                state=state,
                try_number=self.life.try_number,
                max_tries=self.life.max_tries,
                flora_technique_url=PAGE,
                flora_run_cost=0.09,
                stored={} if record is None else {RUN: record},
            )

    def resumes(self) -> None:
        """Do what Airflow does before the next attempt: give it the record."""
        assert self.life.store is not None
        self.life.store.set(RUN, self.database.stored())


@pytest.fixture
def told(database: Instances, flora_key: Emulator, monkeypatch: pytest.MonkeyPatch) -> Told:
    monkeypatch.setattr(starting, "CLOCK_MARGIN", 60.0)  # in which Flora gets a start, however slow this machine is
    return Told(database, flora_key)


@pytest.fixture
def lost(told: Told) -> Told:
    """A task whose first attempt died before it got the answer to its start. The run has completed since."""
    with pytest.raises(Crash):
        told.life.start(dies="after the POST")
    told.ends("up_for_retry")
    return told


def fields(ran: Ran) -> dict[str, str]:
    """Return what the lines say by their names."""
    found = (re.split(r" {2,}", line, maxsplit=1) for line in ran.out.splitlines())
    return dict(map(tuple, found))


# --- task -------------------------------------------------------------------------------------------------


@with_store
def test_a_start_without_an_answer_is_told_with_what_the_next_try_does(run: Run, lost: Told) -> None:
    ran = run("task", *STILL, "--json")
    found = ran.json
    assert ran.code == 0
    assert (found["run_id"], found["record"]["run_id"], found["state"]) == (None, None, "up_for_retry")
    now = time.time()
    for began, ends, state in ((-5, 115, "AT_WORK"), (-300, -180, "UNANSWERED"), (-9000, -8880, "UNKNOWABLE")):
        record = {**found["record"], "sent": [[now + began, now + ends]]}
        lost.database.change("task_state_store", value=json.dumps(record))
        found = run("task", *STILL, "--json").json
        assert (found["next_try"]["state"], found["clear"]["state"]) == (state, state)
    lines = fields(run("task", *STILL))
    assert lines["The next try"].startswith("looks for the run in the history")
    assert lines["Unanswered"].startswith("a start of 20")


@with_store
@pytest.mark.parametrize(
    ("status", "state", "next_try", "clear"),
    [
        ("completed", "failed", None, "COMPLETED"),
        ("completed", "up_for_retry", "COMPLETED", "COMPLETED"),
        ("running", "up_for_retry", "ACTIVE", "ACTIVE"),
        ("failed", "up_for_retry", "FAILED", "FAILED"),
    ],
)
def test_what_the_next_try_does_follows_from_how_flora_shows_the_run(
    run: Run, database: Instances, flora_key: Emulator, status: str, state: str, next_try: str, clear: str
) -> None:
    [flora_run] = flora_key.seed_runs(1, technique_id="editorial-still", status=status)
    record = {"key": "a", "run_id": flora_run, "technique_id": "editorial-still", "max_tries": 2}
    database.add(state=state, stored={RUN: record})
    found = run("task", *STILL, "--json").json
    assert (found["next_try"] and found["next_try"]["state"], found["clear"]["state"]) == (next_try, clear)
    assert found["run"]["status"] == status


@with_store
def test_a_run_that_was_handed_over_is_followed_by_a_new_one_after_a_clear(run: Run, told: Told) -> None:
    told.life.start()
    told.life.deliver()
    told.ends("success")
    found = fields(run("task", *STILL))
    assert found["Handed over"] == "yes"
    assert found["State"] == "success, 1 try"
    assert found["A clear"].startswith("starts a new run, which costs 0.09 USD")
    assert "The next try" not in found


@with_store
def test_a_run_that_flora_does_not_show_stops_a_retry(run: Run, database: Instances) -> None:
    record = {"key": "a", "run_id": "run_gone", "technique_id": "editorial-still", "max_tries": 2}
    database.add(state="up_for_retry", stored={RUN: record})
    found = run("task", *STILL, "--json").json
    assert found["next_try"]["state"] == "GONE" == found["clear"]["state"]
    assert found["next_try"]["does"].startswith("stops")
    assert found["clear"]["does"].startswith("starts a new run")


def test_without_flora_the_record_is_shown_all_the_same(
    run: Run, database: Instances, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLORA_BASE_URL", "http://127.0.0.1:9/api/v1")
    database.add(state="failed", run_id="run_1", flora_technique_url=PAGE)
    ran = run("task", *STILL)
    assert ran.code == 0
    assert "Flora was not asked for run_1" in ran.err
    assert fields(ran)["Run"] == "run_1"


def test_a_task_without_a_record_is_told_by_its_xcoms(run: Run, database: Instances) -> None:
    error = {"code": "GENERATION_NO_RESULT", "message": "none\x1b[31m came", "remedy": "retry later"}
    database.add(state="failed", run_id="run_1", flora_technique_url=PAGE, flora_error=error)
    found = fields(run("task", *STILL))
    assert found["Record"].startswith("none")
    assert found["Run"].startswith("run_1")
    assert found["Error"] == "GENERATION_NO_RESULT (retry later): none[31m came"


@pytest.mark.parametrize(("has_store", "clear"), [(True, "UNKNOWABLE"), (False, "NEW")])
def test_what_a_clear_does_without_a_record_depends_on_the_airflow(
    run: Run, database: Instances, monkeypatch: pytest.MonkeyPatch, has_store: bool, clear: str
) -> None:
    if has_store and not HAS_STATE_STORE:
        pytest.skip("this Airflow has no task state store")
    monkeypatch.setattr(records, "has_store", lambda: has_store)
    database.add(state="failed", flora_technique_url=PAGE)
    assert run("task", *STILL, "--json").json["clear"]["state"] == clear


@with_store
def test_a_batch_is_told_by_its_rows(run: Run, database: Instances) -> None:
    rows = {"a": {"run_id": "run_1"}, "b": {"sent": [[1.0, 2.0]]}, "c": {"run_id": "run_2"}}
    stored = {"flora_batch": {"common": {"technique_id": "x"}}, "flora_rows_0": rows}
    database.add(
        state="failed",
        operator="FloraRunTechniqueBatchOperator",
        manifest="s3://files/m.jsonl",
        stored=stored,
        progress="2 of 3 rows",
    )
    ran = run("task", *STILL)
    found = fields(ran)
    assert found["Journal"] == "2 with a run, 1 started without an answer"
    assert found["Progress"] == "2 of 3 rows"
    assert run("task", *STILL, "--json").json["rows"] == {"with a run": 2, "started without an answer": 1}


def test_a_task_that_is_not_there_or_not_floras_is_named(run: Run, database: Instances) -> None:
    ran = run("task", *STILL)
    assert ran.code == 2
    assert ran.err == "Error: Airflow has no task 'still' of DAG 'shop' in the DAG run 'monday'.\n"
    database.add(map_index=0)
    database.add(map_index=1)
    assert "It is mapped: --map-index 0 to 1." in run("task", *STILL).err
    database.add("sql", operator="SQLExecuteQueryOperator")
    assert "is not Flora's: it is a SQLExecuteQueryOperator" in run("task", "shop", "monday", "sql").err
    assert run("task", *STILL, "--map-index", "1").code == 0


@pytest.mark.parametrize("columns", ["80", "200"])
def test_lines_are_no_wider_than_the_terminal(
    run: Run, database: Instances, monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    error = {"code": "X", "message": "word " * 100, "remedy": "retry now"}
    database.add(state="failed", flora_technique_url=PAGE, flora_error=error, run_id="run_[bold]1")
    ran = run("task", *STILL)
    assert max(map(len, ran.out.splitlines())) <= int(columns)
    assert "run_[bold]1" in ran.out


def test_a_database_without_tables_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from contextlib import contextmanager

    from sqlalchemy import create_engine
    from sqlalchemy.orm import Session

    from airflow_provider_flora import airflow_compat

    @contextmanager
    def create_session() -> Any:
        with Session(create_engine("sqlite://")) as session:
            yield session

    monkeypatch.setattr(airflow_compat, "create_session", create_session, raising=False)
    ran = run("task", *STILL)
    assert ran.code == 2
    assert "no such table" in ran.err
    assert "airflow dags list" in ran.err


# --- adopt ------------------------------------------------------------------------------------------------


def adopted(run: Run, run_id: str) -> Ran:
    return run("adopt", *STILL, run_id, "--yes")


AFTER: dict[str, Callable[[Life], None]] = {"a retry": lambda life: None, "a clear": lambda life: life.clear()}
after = pytest.mark.parametrize("then", AFTER)


@with_store
@after
@pytest.mark.parametrize("prompt", ["a cup", "another cup"])
def test_an_adopted_run_is_handed_over_and_no_other_is_started(
    run: Run, lost: Told, flora_key: Emulator, then: str, prompt: str
) -> None:
    [paid] = runs_of(flora_key)
    ran = adopted(run, paid["run_id"])
    assert (ran.code, ran.out) == (0, f"The task's run is {paid['run_id']} now.\n")
    assert "Its next try hands that run over." in ran.err
    lost.resumes()
    AFTER[then](lost.life)
    lost.life.prompt = prompt  # a person has named the run: the inputs do not matter
    assert lost.life.start().run_id == paid["run_id"]
    lost.life.deliver()
    assert len(runs_of(flora_key)) == 1
    lost.life.clear()
    assert lost.life.start().run_id != paid["run_id"]
    assert len(runs_of(flora_key)) == 2  # it was handed over, so that the clear asks for a new one


@with_store
@after
def test_a_run_of_another_technique_is_handed_over_and_the_start_is_not_forgotten(
    run: Run, lost: Told, flora_key: Emulator, then: str
) -> None:
    [other] = flora_key.seed_runs(1, technique_id="tagline-writer")
    ran = run("adopt", *STILL, other, "--technique", "tagline-writer", "--yes")
    assert "Its next try hands that run over." in ran.err
    assert run("task", *STILL, "--json").json["clear"]["state"] == "COMPLETED"
    lost.resumes()
    AFTER[then](lost.life)
    assert lost.life.start().run_id == other
    assert posts_to(flora_key) == 1
    assert lost.life.record["history_id"] != "tagline-writer"  # where the start without an answer is looked for


@with_store
def test_another_run_than_the_records_is_adopted_after_a_success(run: Run, told: Told, flora_key: Emulator) -> None:
    told.life.start()
    told.life.deliver()
    told.ends("success")
    [other] = flora_key.seed_runs(1, technique_id="editorial-still")
    ran = adopted(run, other)
    assert "Clear the task: it hands that run over" in ran.err
    told.resumes()
    told.life.clear()
    assert told.life.start().run_id == other


@with_store
def test_the_run_that_a_task_leaves_for_an_adopted_one_still_counts_in_the_budget(
    run: Run, database: Instances, flora_key: Emulator
) -> None:
    first, second = flora_key.seed_runs(2, technique_id="editorial-still")
    record = {"key": "a", "run_id": first, "technique_id": "editorial-still"}
    share = {"before": 0.18, "reserved": 0.09, "execution": "1"}
    database.add(state="success", stored={RUN: record, SHARE: share}, flora_technique_url=PAGE)
    assert adopted(run, first).code == 0
    assert database.stored(SHARE) == share
    assert fields(run("task", *STILL))["Budget"] == "0.09 USD of max_dag_run_cost, and 0.18 USD by earlier runs"
    for _ in range(2):
        assert adopted(run, second).code == 0
        assert run("task", *STILL, "--json").json["share"] == {"before": pytest.approx(0.27), "reserved": 0.0}
        assert database.stored(SHARE) == {"before": pytest.approx(0.27), "reserved": 0.0, "execution": "1"}


@with_store
def test_when_an_adopted_run_fails_the_unanswered_start_is_not_forgotten(
    run: Run, lost: Told, flora_key: Emulator
) -> None:
    from airflow_provider_flora.api.errors import FloraUnknownStartError

    [other] = flora_key.seed_runs(1, technique_id="editorial-still", status="running")
    adopted(run, other)
    lost.resumes()
    assert lost.life.record["sent"]
    [failed] = flora_key.seed_runs(1, technique_id="editorial-still", status="failed")
    lost.life.store.set(RUN, {**lost.life.record, "run_id": failed})  # type: ignore[union-attr]
    with pytest.raises(FloraUnknownStartError):
        lost.life.start()
    assert posts_to(flora_key) == 1


@with_store
def test_a_lost_record_counts_as_a_start_without_an_answer(
    run: Run, database: Instances, flora_key: Emulator
) -> None:
    database.add(state="failed", flora_technique_url=PAGE)
    [other] = flora_key.seed_runs(1, technique_id="editorial-still")
    assert adopted(run, other).code == 0
    record = database.stored()
    assert (record["run_id"], record["adopted"], record["resendable"]) == (other, True, False)
    assert len(record["sent"]) == 1


@with_store
@pytest.mark.parametrize("state", ["running", "deferred", "queued", "scheduled", "up_for_reschedule"])
def test_a_task_on_its_way_is_left_alone(run: Run, lost: Told, flora_key: Emulator, state: str) -> None:
    before = lost.database.stored()
    lost.database.change("task_instance", state=state)
    [paid] = runs_of(flora_key)
    for ran in (adopted(run, paid["run_id"]), run("abandon", *STILL, "--yes")):
        assert ran.code == 1
        assert f"is {state}: an attempt is under way" in ran.err
    assert lost.database.stored() == before


@with_store
def test_a_run_of_another_task_is_not_handed_over_twice(run: Run, lost: Told, flora_key: Emulator) -> None:
    [paid] = runs_of(flora_key)
    run_id = paid["run_id"]
    lost.database.add("other", stored={RUN: {"key": "a", "run_id": run_id}})
    ran = adopted(run, run_id)
    assert ran.code == 1
    assert f"{run_id} is another task's" in ran.err
    assert "task 'other'" in ran.err
    assert lost.database.stored()["run_id"] is None
    assert run("abandon", "shop", "monday", "other", "--yes").code == 0
    assert adopted(run, run_id).code == 0  # the other one has left it


@with_store
def test_a_run_that_a_sensor_waited_for_can_be_adopted(run: Run, lost: Told, flora_key: Emulator) -> None:
    [paid] = runs_of(flora_key)
    lost.database.add("wait", operator="FloraTechniqueRunSensor", run_id=paid["run_id"])
    assert adopted(run, paid["run_id"]).code == 0
    lost.database.add("mapped", map_index=3, run_id=paid["run_id"])
    assert "task 'mapped' of DAG 'shop' in the DAG run 'monday', map index 3" in adopted(run, paid["run_id"]).err


@with_store
def test_only_a_run_of_the_technique_that_has_not_failed_is_adopted(
    run: Run, lost: Told, flora_key: Emulator
) -> None:
    [failed] = flora_key.seed_runs(1, technique_id="editorial-still", status="failed")
    [other] = flora_key.seed_runs(1, technique_id="tagline-writer")
    for run_id, why in ((failed, "has failed"), (other, "404"), ("run_none", "404")):
        ran = adopted(run, run_id)
        assert ran.code == 1
        assert why in ran.err
    assert lost.database.stored()["run_id"] is None


@with_store
def test_nothing_is_changed_without_a_yes(run: Run, lost: Told, flora_key: Emulator) -> None:
    [paid] = runs_of(flora_key)
    for ran in (run("adopt", *STILL, paid["run_id"]), run("abandon", *STILL)):
        assert ran.code == 2
        assert "Nobody is here to agree. Add --yes" in ran.err
    assert lost.database.stored()["run_id"] is None


@with_store
def test_a_task_that_has_not_begun_has_nothing_to_abandon(run: Run, database: Instances) -> None:
    database.add(state=None, try_number=0)
    ran = run("abandon", *STILL, "--yes")
    assert ran.code == 0
    assert "There is nothing to abandon: it has no run and no unanswered start." in ran.err
    assert database.stored() is None


@with_store
def test_a_batch_has_no_run_to_adopt_or_to_abandon(run: Run, database: Instances) -> None:
    database.add(operator="FloraRunTechniqueBatchOperator", stored={"flora_batch": {"version": 1}}, state="failed")
    for ran in (adopted(run, "run_1"), run("abandon", *STILL, "--yes")):
        assert ran.code == 1
        assert "is a batch" in ran.err


def test_an_airflow_without_a_store_says_what_to_do_instead(
    run: Run, database: Instances, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "has_store", lambda: False)
    database.add(state="failed", flora_technique_url=PAGE)
    for ran in (adopted(run, "run_1"), run("abandon", *STILL, "--yes")):
        assert ran.code == 1
        assert "no task state store" in ran.err
        assert "adopt_run_id" in ran.err


@with_store
def test_a_record_that_only_workers_reach_is_left_alone(run: Run, database: Instances) -> None:
    database.add(state="failed", flora_technique_url=PAGE, stored={RUN: {"__airflow_state_ref__": "s3://a/b"}})
    ran = run("abandon", *STILL, "--yes")
    assert ran.code == 1
    assert "state_store_backend" in ran.err


# --- abandon ----------------------------------------------------------------------------------------------


@with_store
@after
def test_after_abandoning_an_unanswered_start_one_run_is_started_under_another_key(
    run: Run, lost: Told, flora_key: Emulator, then: str
) -> None:
    ran = run("abandon", *STILL, "--yes")
    assert (ran.code, ran.out) == (0, "The task has left a start without an answer.\n")
    assert "which costs 0.09 USD" in ran.err
    lost.resumes()
    AFTER[then](lost.life)
    [first] = runs_of(flora_key)
    started = lost.life.start().run_id
    assert started != first["run_id"]
    assert len(runs_of(flora_key)) == 2
    assert lost.life.start().run_id == started  # the next retry resumes it
    assert len(runs_of(flora_key)) == 2


@with_store
@after
def test_after_abandoning_a_run_one_is_started_and_the_other_is_remembered(
    run: Run, told: Told, flora_key: Emulator, then: str
) -> None:
    first = told.life.start().run_id
    told.ends("failed")
    ran = run("abandon", *STILL, "--yes", "--json")
    assert ran.json["record"]["past"] == [first]
    assert run("task", *STILL, "--json").json["clear"]["state"] == "NEW"
    told.resumes()
    AFTER[then](told.life)
    assert told.life.start().run_id != first
    assert len(runs_of(flora_key)) == 2


@with_store
def test_a_lost_record_is_abandoned_with_every_key_that_it_may_have_had(run: Run, database: Instances) -> None:
    database.add(state="failed", flora_technique_url=PAGE, try_number=3)
    assert run("abandon", *STILL, "--yes").code == 0
    assert (database.stored()["generation"], database.stored()["sent"]) == (3, [])


@with_store
def test_what_has_no_run_is_not_abandoned(run: Run, told: Told) -> None:
    told.life.start()
    told.life.deliver()
    told.ends("success")
    before = told.database.stored()
    ran = run("abandon", *STILL, "--yes")
    assert ran.code == 0
    assert "There is nothing to abandon: it has handed" in ran.err
    assert told.database.stored() == before


@with_store
def test_a_person_is_asked_on_a_terminal(run: Run, lost: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow_provider_flora.cli.terminal import Terminal

    asked: list[str] = []
    monkeypatch.setattr(Terminal, "confirm", lambda self, question: bool(asked.append(question)))
    ran = run("abandon", *STILL)
    assert "Do so?" in asked[0]
    assert (ran.code, ran.err) == (0, "Nothing was changed.\n")
    assert lost.database.stored()["key"] != "abandoned"
    assert lost.database.stored()["sent"]
