"""What OpenLineage gets of batches: the table, the manifest, and the files of the rows that were run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("airflow.providers.openlineage", reason="the provider for OpenLineage is not installed")

from airflow_provider_flora.api.errors import FloraError
from airflow_provider_flora.batch import running
from airflow_provider_flora.emulator import Emulator
from airflow_provider_flora.lineage import locations
from airflow_provider_flora.runs.outcome import outcome_of
from tests.unit.lineage.event_checks import flora_of, names_of
from tests.unit.lineage.event_files import EventFile
from tests.unit.operators.fake_task import TaskLife
from tests.unit.operators.still import MODES, batch_of
from tests.unit.waiting import LONG, later

PROMPTS = [{"sku": f"cup-{number}", "prompt": f"a cup, number {number}"} for number in range(1, 6)]


@pytest.fixture(autouse=True)
def quick_batches(monkeypatch: pytest.MonkeyPatch, quick: None) -> None:
    monkeypatch.setattr(running, "TICK", 0.05)
    monkeypatch.setattr(running, "IDLE_SECONDS", 0.2)
    monkeypatch.setattr(running, "RETRY_ROW_LATER", 0.1)


@pytest.fixture
def events(tmp_path: Path) -> EventFile:
    return EventFile(tmp_path / "events")


def stills(rows: Any, folder: Path, **given: Any) -> TaskLife:
    return batch_of(rows, folder, **{"technique_id": "editorial-still", "row_id": "sku", **given})


@MODES
def test_a_batch_reads_its_table_and_writes_its_manifest_and_files(
    flora: Emulator, events: EventFile, tmp_path: Path, deferrable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if deferrable:
        flora.order_fault("slow_run", seconds=LONG, times=None)
    table = tmp_path / "products.csv"
    table.write_text("sku,prompt\n" + "".join(f"{row['sku']},a secret wish\n" for row in PROMPTS))
    life = stills(str(table), tmp_path, download_to=f"{tmp_path}/out", deferrable=deferrable)
    wait = life.wait_in_triggerer

    def wait_until_later(deferred: Any) -> dict[str, Any]:
        later(flora, monkeypatch)
        return wait(deferred)

    monkeypatch.setattr(life, "wait_in_triggerer", wait_until_later)
    start = events.write(life.operator, "start")
    value = life.run()
    assert len(life.events) >= deferrable
    event = events.write(life.ti.task, "complete")
    assert names_of(start["inputs"]) == names_of(event["inputs"]) == [("file", str(table))]
    manifest, *files = event["outputs"]
    assert f"file://{manifest['name']}" == value["manifest"]
    assert manifest["outputFacets"]["outputStatistics"]["rowCount"] == 5
    assert [Path(file["name"]).name for file in files] == [f"cup-{number}-still.png" for number in range(1, 6)]
    for file in files:
        assert file["outputFacets"]["outputStatistics"]["size"] == Path(file["name"]).stat().st_size
    assert flora_of(event) == {
        "mode": "batch",
        "techniqueId": "editorial-still",
        "techniqueName": "Editorial Still",
        "status": "completed",
        "chargedCost": pytest.approx(0.45),
        "rows": {"rows": 5, "completed": 5, "reused": 0, "failed": 0, "unknown": 0, "skipped": 0},
        "inputsLeftOut": 0,
        "outputsLeftOut": 0,
    }
    assert "wish" not in json.dumps([start, event])


def test_rows_that_are_reused_have_read_and_written_nothing(
    flora: Emulator, events: EventFile, tmp_path: Path
) -> None:
    stills(PROMPTS, tmp_path).run()
    life = stills([*PROMPTS, {"sku": "cup-6", "prompt": "new"}], tmp_path)
    life.run()
    event = events.write(life.ti.task, "complete")
    assert event["inputs"] == []
    manifest, [output] = event["outputs"][0], event["outputs"][1:]
    assert manifest["name"].endswith("/manifest.jsonl")
    assert output["namespace"] == flora.origin
    assert flora_of(event)["rows"]["reused"] == 5
    assert flora_of(event)["chargedCost"] == pytest.approx(0.09)


def test_the_files_and_urls_of_rows_are_inputs_once_each_and_a_manifest_is_a_table(
    flora: Emulator, events: EventFile, tmp_path: Path
) -> None:
    from PIL import Image

    Image.new("RGB", (8, 8), "red").save(tmp_path / "cup.png")
    url = f"{flora.origin}/media/samples/poster.png"
    photos = [str(tmp_path / "cup.png"), f"{url}?signature=1", f"{url}?signature=2", str(tmp_path / "cup.png")]
    rows = [{"sku": str(number), "photo": photo} for number, photo in enumerate(photos)]
    given = {"technique_id": "product-relight", "inputs": {"photo": "{photo}", "light": "at noon"}}
    life = stills(rows, tmp_path, **given)
    life.run()
    first = events.write(life.ti.task, "complete")
    assert names_of(first["inputs"]) == [("file", photos[0]), (flora.origin, "/media/samples/poster.png")]
    [manifest, *_] = first["outputs"]
    again = stills(
        life.operator.manifest,
        tmp_path,
        manifest=f"{tmp_path}/second.jsonl",
        row_id=None,
        inputs={"prompt": "{run_id}"},
    )
    again.run()
    second = events.write(again.ti.task, "complete")
    assert names_of(second["inputs"]) == names_of([manifest])


def test_an_input_of_all_rows_takes_one_place(
    flora: Emulator, events: EventFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locations, "MOST", 2)
    rows = [{"sku": str(n), "photo": f"{flora.origin}/media/samples/{n // 3}.png"} for n in range(4)]
    given = {"technique_id": "product-relight", "inputs": {"photo": "{photo}", "light": "at noon"}}
    life = stills(rows, tmp_path, **given)
    life.run()
    event = events.write(life.ti.task, "complete")
    assert len(event["inputs"]) == 2
    assert flora_of(event)["inputsLeftOut"] == 0


def test_a_batch_with_failed_rows_tells_what_it_has_done(
    flora: Emulator, events: EventFile, tmp_path: Path
) -> None:
    flora.order_fault("fail_run", error_code="GENERATION_PROMPT_MODERATED", contains="number 3")
    life = stills(PROMPTS, tmp_path)
    with pytest.raises(FloraError) as caught:
        life.run()
    event = events.write(life.ti.task, "fail", caught.value)
    facet = flora_of(event)
    assert (facet["status"], facet["remedy"]) == ("failed", "change the input")
    assert (facet["rows"]["completed"], facet["rows"]["failed"]) == (4, 1)
    assert facet["chargedCost"] == pytest.approx(0.36)
    assert len(event["outputs"]) == 5


def test_a_batch_whose_rows_have_mistakes_has_written_nothing(
    flora: Emulator, events: EventFile, tmp_path: Path
) -> None:
    life = stills([{"sku": "a", "prompt": ""}], tmp_path)
    with pytest.raises(FloraError) as caught:
        life.run()
    event = events.write(life.ti.task, "fail", caught.value)
    assert event["outputs"] == []
    assert set(flora_of(event)) == {
        *("mode", "techniqueId", "errorKind", "remedy", "inputsLeftOut", "outputsLeftOut")
    }


def test_an_event_has_a_bounded_number_of_files_and_the_operator_keeps_no_more(
    flora: Emulator, events: EventFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locations, "MOST", 3)
    monkeypatch.setattr("airflow_provider_flora.lineage.events.MOST", 3)
    life = stills(PROMPTS, tmp_path, download_to=f"{tmp_path}/out")
    life.run()
    assert len(outcome_of(life.ti.task).files) == 3
    event = events.write(life.ti.task, "complete")
    assert len(event["outputs"]) == 3
    assert flora_of(event)["outputsLeftOut"] == 3
