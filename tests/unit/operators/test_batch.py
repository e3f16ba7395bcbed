"""The batch operator, from its rows to its manifest: what is paid, what is reused, what a person is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_flora.airflow_compat import AirflowFailException
from airflow_provider_flora.api.errors import FloraAPIError, FloraBatchError, FloraError
from airflow_provider_flora.batch import money, read_manifest, running
from airflow_provider_flora.emulator import Emulator
from airflow_provider_flora.runs import starting
from tests.unit.operators.fake_task import TaskLife
from tests.unit.operators.still import batch_of

PROMPTS = [{"sku": f"cup-{number}", "prompt": f"a cup, number {number}"} for number in range(1, 6)]


@pytest.fixture(autouse=True)
def quick_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "TICK", 0.05)
    monkeypatch.setattr(running, "RETRY_ROW_LATER", 0.1)


@pytest.fixture
def batch(tmp_path: Path) -> Callable[..., TaskLife]:
    """Makes the life of a task; its manifest is in a folder of the test's own."""

    def make(rows: Any = PROMPTS, **given: Any) -> TaskLife:
        return batch_of(rows, tmp_path, **{"technique_id": "editorial-still", "row_id": "sku", **given})

    return make


def lines_of(life: TaskLife) -> list[dict[str, Any]]:
    return list(read_manifest(life.operator.manifest))


def charged(flora: Emulator) -> int:
    return len(flora.ledger()["runs"])


def test_each_row_is_run_once_and_has_its_line(flora: Emulator, batch: Callable[..., TaskLife]) -> None:
    life = batch()
    value = life.run()
    assert value == {
        "manifest": f"file://{life.operator.manifest}",
        "rows": 5,
        "completed": 5,
        "reused": 0,
        "failed": 0,
        "unknown": 0,
        "skipped": 0,
        "charged_cost": pytest.approx(5 * 0.09),
        "saved_cost": 0,
        "failures": {},
    }
    assert life.ti.xcoms["flora_batch_value"] == value
    assert life.ti.xcoms["manifest"] == value["manifest"]
    lines = lines_of(life)
    assert [line["row_id"] for line in lines] == [row["sku"] for row in PROMPTS]
    assert {line["status"] for line in lines} == {"completed"}
    assert len({line["run_id"] for line in lines}) == 5 == charged(flora)
    assert all(line["outputs"] and line["charged_cost"] for line in lines)


def test_another_night_pays_only_for_what_changed(flora: Emulator, batch: Callable[..., TaskLife]) -> None:
    batch().run()
    value = batch([*PROMPTS[:4], {"sku": "cup-5", "prompt": "a blue cup"}, {"sku": "cup-6", "prompt": "new"}]).run()
    assert (value["completed"], value["reused"], value["charged_cost"]) == (6, 4, pytest.approx(2 * 0.09))
    assert charged(flora) == 7


def test_without_reuse_all_rows_run_again(flora: Emulator, batch: Callable[..., TaskLife]) -> None:
    batch().run()
    value = batch(reuse=False).run()
    assert (value["completed"], value["reused"]) == (5, 0)
    assert charged(flora) == 10


def test_mistakes_are_all_named_before_anything_is_paid(flora: Emulator, batch: Callable[..., TaskLife]) -> None:
    life = batch([{"sku": "a", "prompt": ""}, {"sku": "a", "prompt": "x"}, {"sku": "c", "prompt": "None"}])
    with pytest.raises(AirflowFailException, match="mistakes in the rows") as caught:
        life.run()
    assert "'a'" in str(caught.value)
    assert "'c'" in str(caught.value)
    assert charged(flora) == 0


def test_a_total_that_is_too_high_is_refused_before_anything_is_paid(
    flora: Emulator, batch: Callable[..., TaskLife]
) -> None:
    with pytest.raises(AirflowFailException, match=r"5 rows cost 0\.45 USD .* max_total_cost=0\.4 USD"):
        batch(max_total_cost=0.4).run()
    assert charged(flora) == 0


def test_a_deferred_batch_ends_as_one_that_waits(
    flora: Emulator, batch: Callable[..., TaskLife], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "IDLE_SECONDS", 0.1)
    flora.order_fault("slow_run", seconds=0.6, times=None)
    life = batch(deferrable=True, max_active_runs=2)
    assert life.run()["completed"] == 5
    assert len(life.events) >= 2
    assert charged(flora) == 5


class Killed(BaseException):
    """The end of a process, whatever it does."""


def kill_at(monkeypatch: pytest.MonkeyPatch, place: str, number: int) -> None:
    """End the process before the given call of a function of the engine."""
    real = getattr(running.Running, place)
    calls: list[object] = []

    def killed(self: running.Running, *given: Any) -> Any:
        calls.append(given)
        if len(calls) == number:
            raise Killed
        return real(self, *given)

    monkeypatch.setattr(running.Running, place, killed)


@pytest.mark.parametrize("number", [1, 3, 5])
@pytest.mark.parametrize("place", ["_start", "_watch", "_finish", "_end"])
def test_what_a_kill_left_is_brought_home_by_the_next_attempt(
    flora: Emulator, batch: Callable[..., TaskLife], monkeypatch: pytest.MonkeyPatch, place: str, number: int
) -> None:
    life = batch(max_active_runs=2)
    with monkeypatch.context() as patch:
        kill_at(patch, place, number)
        with pytest.raises((Killed, FloraError)):
            life.run()
    assert life.run()["completed"] == 5
    assert charged(flora) == 5


def test_a_row_that_fails_takes_nothing_from_the_others(flora: Emulator, batch: Callable[..., TaskLife]) -> None:
    flora.order_fault("fail_run", error_code="GENERATION_PROMPT_MODERATED", contains="number 3")
    life = batch()
    with pytest.raises(AirflowFailException, match=r"(?s)1 of 5 rows did not complete.*row 'cup-3'"):
        life.run()
    lines = {line["row_id"]: line for line in lines_of(life)}
    assert lines["cup-3"]["status"] == "failed"
    assert lines["cup-3"]["error"]["remedy"] == "change the input"
    assert sum(line["status"] == "completed" for line in lines.values()) == 4
    assert charged(flora) == 5


def test_a_clear_runs_what_did_not_complete_and_nothing_else(
    flora: Emulator, batch: Callable[..., TaskLife]
) -> None:
    flora.order_fault("fail_run", error_code="GENERATION_PROMPT_MODERATED", contains="number 3")
    life = batch()
    with pytest.raises(AirflowFailException):
        life.run()
    life.clear()
    assert life.run()["completed"] == 5
    assert charged(flora) == 6


def test_a_retry_does_not_run_a_refused_row_again(flora: Emulator, batch: Callable[..., TaskLife]) -> None:
    flora.order_fault("fail_run", error_code="GENERATION_PROMPT_MODERATED", contains="number 3")
    flora.order_fault("fail_run", error_code="SERVER_ERROR", contains="number 4", times=1)
    life = batch(row_retries=0)
    with pytest.raises(FloraBatchError) as caught:
        life.run()
    assert not isinstance(caught.value, AirflowFailException)  # a retry helps row 4
    assert charged(flora) == 5
    with pytest.raises(AirflowFailException, match="1 of 5 rows"):
        life.run()
    assert charged(flora) == 6


def test_a_row_whose_run_failed_for_a_moment_is_run_again(flora: Emulator, batch: Callable[..., TaskLife]) -> None:
    flora.order_fault("fail_run", error_code="SERVER_ERROR", contains="number 4", times=2)
    assert batch().run()["completed"] == 5
    assert charged(flora) == 7


def test_some_rows_may_fail(flora: Emulator, batch: Callable[..., TaskLife]) -> None:
    flora.order_fault("fail_run", error_code="GENERATION_PROMPT_MODERATED", contains="number 3")
    value = batch(max_failed_rows="20%").run()
    assert (value["completed"], value["failed"]) == (4, 1)


def test_at_the_total_nothing_more_is_started_and_the_rest_is_skipped(
    flora: Emulator, batch: Callable[..., TaskLife], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(money.Budget, "check", lambda *_: None)  # as if the price had risen since
    life = batch(max_total_cost=0.2)
    with pytest.raises(AirflowFailException, match=r"0\.27 USD would be spent, more than max_total_cost=0\.2 USD"):
        life.run()
    assert [line["status"] for line in lines_of(life)] == ["completed"] * 2 + ["skipped"] * 3
    assert charged(flora) == 2


def test_a_run_that_failed_counts_for_nothing(flora: Emulator, batch: Callable[..., TaskLife]) -> None:
    flora.order_fault("fail_run", error_code="SERVER_ERROR", contains="number 4", times=1)
    assert batch(max_total_cost=0.46, max_active_runs=1).run()["completed"] == 5


def test_a_lost_answer_is_no_second_run(flora: Emulator, batch: Callable[..., TaskLife]) -> None:
    flora.order_fault("reset", operation="startTechniqueRun", when="after", times=2)
    assert batch().run()["completed"] == 5
    assert charged(flora) == 5


def test_a_clear_after_mistakes_takes_no_row_for_one_in_doubt(
    flora: Emulator, batch: Callable[..., TaskLife]
) -> None:
    life = batch([*PROMPTS, {"sku": "cup-1", "prompt": "another"}])
    with pytest.raises(AirflowFailException, match="1 mistake"):
        life.run()
    life.operator.rows = PROMPTS
    life.clear()
    assert life.run()["completed"] == 5
    assert charged(flora) == 5
    assert "listWorkspaces" not in (asked := flora.ledger()["requests"])
    assert asked["startTechniqueRun"] == 5


def test_a_row_that_stays_in_doubt_is_unknown_and_the_others_go_on(
    connect: Callable[..., None], batch: Callable[..., TaskLife], quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "HOLD_SECONDS", 0.5)
    monkeypatch.setattr(starting, "start_duration", lambda _: 0.2)
    with Emulator(port=0, run_seconds=0.05, cost_lag=0, idempotency="docs") as flora:
        connect(flora, max_retries=0)
        flora.order_fault("reset", operation="startTechniqueRun", when="after", times=1)
        flora.order_fault("status", operation="listTechniqueRuns", status=502, times=None)
        life = batch(deferrable=True)
        with pytest.raises(FloraBatchError, match="1 of 5 rows did not complete") as caught:
            life.run()
        assert caught.value.remedy.retryable
        assert [line["status"] for line in lines_of(life)] == ["unknown"] + ["completed"] * 4
        flora.clear_faults()
        assert life.run()["completed"] == 5
        assert charged(flora) == 5


def test_a_run_of_a_row_that_is_done_is_no_candidate_for_another_row(
    connect: Callable[..., None], batch: Callable[..., TaskLife], quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starting, "start_duration", lambda _: 0.2)
    with Emulator(port=0, run_seconds=0.05, cost_lag=0, idempotency="docs") as flora:
        connect(flora)
        batch(PROMPTS[:1]).run()
        flora.order_fault("reset", operation="startTechniqueRun", when="after", times=1)
        assert batch(PROMPTS[:2]).run()["completed"] == 2
        assert charged(flora) == 2


def test_an_outage_slows_down_and_fails_no_row(
    flora: Emulator, batch: Callable[..., TaskLife], quick: None
) -> None:
    flora.order_fault("status", operation="startTechniqueRun", status=503, times=3)
    flora.order_fault("status", operation="listTechniqueRuns", status=502, times=3)
    assert batch().run()["completed"] == 5
    assert charged(flora) == 5


def test_a_key_that_is_refused_ends_the_starts(flora: Emulator, batch: Callable[..., TaskLife]) -> None:
    flora.order_fault(
        "status", operation="startTechniqueRun", status=402, code="insufficient_credits", skip=2, times=None
    )
    life = batch(max_active_runs=1)
    with pytest.raises(FloraAPIError) as caught:
        life.run()
    assert caught.value.status == 402
    assert sorted(line["status"] for line in lines_of(life)) == ["completed"] * 2 + ["skipped"] * 3
    flora.clear_faults()
    life.clear()
    assert life.run()["completed"] == 5
    assert charged(flora) == 5


def test_outputs_are_files_and_a_row_whose_file_is_gone_is_brought_home_again(
    flora: Emulator, batch: Callable[..., TaskLife], tmp_path: Path
) -> None:
    folder = tmp_path / "files"
    given = {"download_to": str(folder), "file_name": "{sku}-{output_id}.{ext}"}
    assert batch(**given).run()["completed"] == 5
    names = sorted(path.name for path in folder.iterdir())
    assert names == [f"cup-{number}-still.png" for number in range(1, 6)]
    (folder / names[2]).unlink()
    value = batch(**given).run()
    assert (value["completed"], value["reused"]) == (5, 4)
    assert charged(flora) == 5  # it is downloaded again, and not paid again
    assert sorted(path.name for path in folder.iterdir()) == names


def test_without_a_way_to_tell_rows_apart_their_files_are_refused(
    flora: Emulator, batch: Callable[..., TaskLife], tmp_path: Path
) -> None:
    with pytest.raises(AirflowFailException, match=r"Add \{row_id\} to file_name"):
        batch(download_to=str(tmp_path / "files"), file_name="{output_id}.{ext}").run()
    assert charged(flora) == 0


def test_the_task_keeps_little(flora: Emulator, batch: Callable[..., TaskLife]) -> None:
    rows = [{"sku": f"cup-{number}", "prompt": f"a cup, number {number}"} for number in range(120)]
    life = batch(rows, max_active_runs=50)
    value = life.run()
    assert len(json.dumps(value)) < 2048
    if life.store is not None:
        assert sum(map(len, life.store.rows.values())) <= 200 * len(rows)


def test_the_events_of_assets_name_the_rows_that_changed(flora: Emulator, batch: Callable[..., TaskLife]) -> None:
    from airflow_provider_flora.airflow_compat import Asset

    asset = Asset("s3://shop/relit")
    life = batch(outlets=[asset])
    context = life.context()
    event = SimpleNamespace(extra={})
    context["outlet_events"] = type("Events", (), {"__getitem__": lambda self, outlet: event})()
    life.operator.execute(context)
    assert event.extra["completed"] == 5
    assert event.extra["changed_rows"] == [row["sku"] for row in PROMPTS]


def test_the_files_of_a_reused_row_are_not_overwritten_by_another(
    flora: Emulator, batch: Callable[..., TaskLife], tmp_path: Path
) -> None:
    given = {"download_to": str(tmp_path / "files")}
    rows = [{"sku": "a b", "prompt": "one"}]
    batch(rows, **given).run()
    with pytest.raises(AirflowFailException, match="its files would have the names of row 'a b'"):
        batch([*rows, {"sku": "a/b", "prompt": "two"}], **given).run()
    assert charged(flora) == 1


@pytest.mark.parametrize("file_name", ["{row_id}.{ext}", "{technique}.{ext}"])
def test_outputs_that_would_have_one_name_are_refused(
    flora: Emulator, batch: Callable[..., TaskLife], tmp_path: Path, file_name: str
) -> None:
    rows = [{"sku": "a", "cover": f"{flora.origin}/media/samples/mug.png"}]
    given = {"technique_id": "book-drop", "inputs": {"cover": "{cover}"}, "download_to": str(tmp_path / "files")}
    with pytest.raises(AirflowFailException, match="one name to several of its outputs"):
        batch(rows, **given, file_name=file_name).run()
    assert charged(flora) == 0


@pytest.mark.parametrize("mistaken", [{"sku": "cup-5"}, {"sku": "cup-5", "prompt": ""}])
def test_a_mistake_in_a_row_does_not_make_it_forgotten(
    flora: Emulator, batch: Callable[..., TaskLife], mistaken: dict[str, str]
) -> None:
    batch().run()
    life = batch([*PROMPTS[:4], mistaken])
    for _ in range(2):
        with pytest.raises(AirflowFailException, match="1 mistake"):
            life.run()
    assert [line["status"] for line in lines_of(life)] == ["completed"] * 4 + ["failed"]
    assert batch().run()["reused"] == 5
    assert charged(flora) == 5


def test_a_table_that_gets_a_mistake_while_the_task_is_deferred_fails_it(
    flora: Emulator, batch: Callable[..., TaskLife], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(running, "IDLE_SECONDS", 0.1)
    flora.order_fault("slow_run", seconds=0.6, times=None)
    table = tmp_path / "table.csv"
    table.write_text("sku,prompt\na,one\nb,two\n")
    life = batch(str(table), deferrable=True, inputs=None, max_active_runs=1)
    real = life.wait_in_triggerer

    def changed(deferred: Any) -> dict[str, Any]:
        table.write_text("sku,prompt\na,one\nb,two,three\n")
        return real(deferred)

    with monkeypatch.context() as patch:
        patch.setattr(life, "wait_in_triggerer", changed)
        with pytest.raises(AirflowFailException, match="1 mistake in the rows"):
            life.run()
    table.write_text("sku,prompt\na,one\nb,two\n")
    life.clear()
    assert life.run()["completed"] == 2
    assert charged(flora) == 2


def test_a_late_charge_counts_as_the_price(
    connect: Callable[..., None], batch: Callable[..., TaskLife], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "IDLE_SECONDS", 6.0)
    with Emulator(port=0, run_seconds=8, cost_lag=60) as flora:
        connect(flora)
        life = batch(PROMPTS[:2], deferrable=True, max_active_runs=1)
        assert life.run()["charged_cost"] == pytest.approx(0.18)
        assert life.events


def test_a_price_that_is_too_high_is_no_matter_if_nothing_is_to_run(
    flora: Emulator, batch: Callable[..., TaskLife]
) -> None:
    batch().run()
    assert batch(max_run_cost=0.01).run()["reused"] == 5


@pytest.mark.parametrize("rows", [None, {}, "rows.txt", []])
def test_rows_that_are_no_table_are_refused(flora: Emulator, batch: Callable[..., TaskLife], rows: Any) -> None:
    with pytest.raises(AirflowFailException, match="rows"):
        batch(rows).run()


def test_the_manifest_is_an_xcom_of_its_own(flora: Emulator, batch: Callable[..., TaskLife]) -> None:
    life = batch()
    value = life.run()
    assert life.ti.xcoms["manifest"] == value["manifest"]
