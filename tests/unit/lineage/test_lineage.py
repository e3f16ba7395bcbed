"""What OpenLineage gets of real tasks against an emulated Flora: single runs, waits, uploads and downloads."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("airflow.providers.openlineage", reason="the provider for OpenLineage is not installed")

from airflow_provider_flora.api.errors import FloraError
from airflow_provider_flora.decorators.flora import flora_technique
from airflow_provider_flora.emulator import Emulator
from airflow_provider_flora.lineage.locations import MOST
from airflow_provider_flora.operators.downloads import FloraDownloadOutputsOperator
from airflow_provider_flora.operators.uploads import FloraUploadAssetOperator
from airflow_provider_flora.runs.outcome import outcome_of
from airflow_provider_flora.sensors.flora import FloraTechniqueRunSensor
from tests.unit.airflow_names import DAG
from tests.unit.lineage.event_checks import flora_of, names_of
from tests.unit.lineage.event_files import EventFile
from tests.unit.operators.fake_task import HAS_STATE_STORE
from tests.unit.operators.still import MODES, life_of, still

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def events(tmp_path: Path) -> EventFile:
    return EventFile(tmp_path / "events")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    from PIL import Image

    path = tmp_path / "my cup.png"
    Image.new("RGB", (8, 8), "red").save(path)
    return path


def relight(image: object, **given: Any) -> Any:
    return still(technique_id="product-relight", inputs={"photo": image, "light": "on a table.png"}, **given)


def at_flora(url: str) -> tuple[str, str]:
    namespace, path = re.findall(r"(https?://[^/]+)([^?]*)", url)[0]
    return namespace, path


@MODES
def test_a_run_reads_its_urls_and_writes_its_outputs_at_flora(
    flora: Emulator, events: EventFile, deferrable: bool
) -> None:
    url = f"{flora.origin}/media/samples/poster.png"
    task = still(
        technique_id="art-directors-critique",
        inputs={"asset": f"{url}?X-Signature=secret#part", "brief": "for a café in Zürich"},
        deferrable=deferrable,
    )
    life = life_of(task)
    start = events.write(task, "start")
    value = life.run()
    end = events.write(life.ti.task, "complete")
    assert names_of(start["inputs"]) == names_of(end["inputs"]) == [(flora.origin, "/media/samples/poster.png")]
    assert start["outputs"] == []
    assert names_of(end["outputs"]) == [at_flora(value["output_urls"][0])]
    assert flora_of(start) == {
        "mode": "single",
        "techniqueId": "art-directors-critique",
        "inputsLeftOut": 0,
        "outputsLeftOut": 0,
    }
    named = {} if deferrable else {"techniqueName": "Art Director's Critique"}  # this process has not seen the name
    assert flora_of(end) == {
        **flora_of(start),
        **named,
        "runId": value["run_id"],
        "status": "completed",
        "chargedCost": 0.12,
    }
    written = json.dumps([start, end])
    for hidden in ("secret", "Signature", "Zürich", "Z\\u00fcrich", flora.api_key, value["outputs"][0]["url"][:20]):
        assert hidden not in written


@MODES
def test_a_run_reads_files_and_a_text_that_looks_like_one_is_none(
    flora: Emulator, events: EventFile, picture: Path, deferrable: bool
) -> None:
    task = relight(str(picture), deferrable=deferrable)
    life = life_of(task)
    start = events.write(task, "start")
    life.run()
    end = events.write(life.ti.task, "complete")
    assert names_of(start["inputs"]) == names_of(end["inputs"]) == [("file", str(picture))]
    assert "on a table" not in json.dumps([start, end])


def test_a_path_object_and_flora_s_own_list_are_read_too(flora: Emulator, events: EventFile, picture: Path) -> None:
    listed = [
        {"id": "photo", "type": "imageUrl", "value": picture},
        {"id": "light", "type": "text", "value": "https://example.com/in-a-text"},
    ]
    for inputs in ({"photo": picture, "light": "x"}, listed, tuple(listed)):
        event = events.write(still(technique_id="product-relight", inputs=inputs), "start")
        assert names_of(event["inputs"]) == [("file", str(picture))]


def test_what_was_downloaded_takes_the_place_of_the_urls_and_names_them(
    flora: Emulator, events: EventFile, s3: Any
) -> None:
    s3.put_object(Bucket="files", Key="in/my cup.png", Body=_png())
    life = life_of(relight("s3://store@files/in/my cup.png", download_to="s3://store@files/out/"))
    value = life.run()
    event = events.write(life.ti.task, "complete")
    assert names_of(event["inputs"]) == [("s3://files", "in/my cup.png")]
    [output] = event["outputs"]
    [file] = value["files"]
    assert file["uri"] == f"s3://store@files/{output['name']}"
    assert output["namespace"] == "s3://files"
    assert output["outputFacets"]["outputStatistics"]["size"] == file["bytes"]
    namespace, name = at_flora(value["output_urls"][0])
    [symlink] = output["facets"]["symlinks"]["identifiers"]
    assert symlink == {"namespace": namespace, "name": name, "type": "FLORA_OUTPUT"}
    assert "store" not in json.dumps(event)


def test_a_task_that_returns_its_outputs_alone_tells_its_files_too(
    flora: Emulator, events: EventFile, tmp_path: Path
) -> None:
    life = life_of(still(returns="outputs", download_to=f"{tmp_path}/out"))
    life.run()
    [output] = events.write(life.ti.task, "complete")["outputs"]
    assert output["namespace"] == "file"
    assert Path(output["name"]).stat().st_size == output["outputFacets"]["outputStatistics"]["size"]


@MODES
def test_a_run_that_failed_tells_its_status_code_and_remedy(
    flora: Emulator, events: EventFile, deferrable: bool
) -> None:
    flora.order_fault("fail_run", times=1, error_code="GENERATION_PROMPT_MODERATED", error_message="no")
    life = life_of(still(deferrable=deferrable))
    with pytest.raises(FloraError) as caught:
        life.run()
    event = events.write(life.ti.task, "fail", caught.value)
    facet = flora_of(event)
    assert facet["runId"] == flora.ledger()["runs"][0]["run_id"]
    assert facet["status"] == "failed"
    assert (facet["errorKind"], facet["errorCode"]) == ("run_failed", "GENERATION_PROMPT_MODERATED")
    assert facet["remedy"] == "change the input"
    assert "chargedCost" not in facet
    assert event["outputs"] == []


@pytest.mark.skipif(not HAS_STATE_STORE, reason="without a state store, the retry starts a run of its own")
def test_a_retry_tells_the_failed_run_of_the_attempt_before(flora: Emulator, events: EventFile) -> None:
    flora.order_fault("fail_run", times=1, error_code="GENERATION_PROMPT_MODERATED")
    life = life_of(still())
    for _ in range(2):
        with pytest.raises(FloraError) as caught:
            life.run()
        facet = flora_of(events.write(life.ti.task, "fail", caught.value))
        assert (facet["runId"], facet["status"]) == (flora.ledger()["runs"][0]["run_id"], "failed")
    assert len(flora.ledger()["runs"]) == 1


def test_a_start_that_was_refused_has_no_run_and_no_status(flora: Emulator, events: EventFile) -> None:
    flora.order_fault("status", operation="startTechniqueRun", times=1, status=402, code="insufficient_credits")
    life = life_of(still())
    with pytest.raises(FloraError) as caught:
        life.run()
    facet = flora_of(events.write(life.ti.task, "fail", caught.value))
    assert (facet["errorKind"], facet["errorCode"], facet["remedy"]) == (
        "api_credits",
        "insufficient_credits",
        "give up",
    )
    assert not {"runId", "status", "chargedCost"} & set(facet)


def test_an_output_that_could_not_be_downloaded_is_at_flora(
    flora: Emulator, events: EventFile, tmp_path: Path
) -> None:
    life = life_of(still(download_to=f"{tmp_path}/out"))
    flora.order_fault("status", operation="getMedia", times=None, status=404)
    with pytest.raises(FloraError) as caught:
        life.run()
    event = events.write(life.ti.task, "fail", caught.value)
    [(namespace, _)] = names_of(event["outputs"])
    assert namespace == flora.origin
    assert (flora_of(event)["status"], flora_of(event)["chargedCost"]) == ("completed", 0.09)


def test_a_task_that_does_not_wait_tells_a_run_without_outputs(flora: Emulator, events: EventFile) -> None:
    life = life_of(still(wait_for_completion=False))
    value = life.run()
    event = events.write(life.ti.task, "complete")
    assert (flora_of(event)["runId"], flora_of(event)["status"]) == (value["run_id"], value["status"])
    assert event["outputs"] == []
    assert "chargedCost" not in flora_of(event)


def test_who_waits_for_a_run_or_downloads_it_has_not_paid_it(
    flora: Emulator, events: EventFile, tmp_path: Path
) -> None:
    run_id = life_of(still()).run()["run_id"]
    given = {"technique_id": "editorial-still", "run_id": run_id}
    waiting = life_of(FloraTechniqueRunSensor(task_id="wait", poke_interval=0.05, **given))
    value = waiting.run()
    waited = events.write(waiting.ti.task, "complete")
    assert names_of(waited["outputs"]) == [at_flora(value["output_urls"][0])]
    storing = life_of(FloraDownloadOutputsOperator(task_id="store", download_to=f"{tmp_path}/out", **given))
    storing.run()
    stored = events.write(storing.ti.task, "complete")
    assert names_of(stored["inputs"]) == names_of(waited["outputs"])
    assert stored["outputs"][0]["namespace"] == "file"
    for event, mode in ((waited, "wait"), (stored, "download")):
        facet = flora_of(event)
        assert (facet["mode"], facet["runId"], facet["status"]) == (mode, run_id, "completed")
        assert "chargedCost" not in facet


def test_an_upload_writes_a_flora_asset_that_a_run_reads(flora: Emulator, events: EventFile, picture: Path) -> None:
    task = FloraUploadAssetOperator(task_id="upload", file=picture)
    life = life_of(task)
    start = events.write(task, "start")
    value = life.run()
    event = events.write(life.ti.task, "complete")
    assert names_of(start["inputs"]) == names_of(event["inputs"]) == [("file", str(picture))]
    assert names_of(event["outputs"]) == [at_flora(value["url"])]
    [symlink] = event["outputs"][0]["facets"]["symlinks"]["identifiers"]
    assert symlink == {"namespace": flora.origin, "name": value["asset_id"], "type": "FLORA_ASSET"}
    assert "flora_run" not in event["run"]["facets"]
    read = events.write(relight(value["url"]), "start")
    assert names_of(read["inputs"]) == names_of(event["outputs"])


@MODES
def test_a_function_s_inputs_are_read_once_it_has_returned_them(
    flora: Emulator, events: EventFile, picture: Path, deferrable: bool
) -> None:
    with DAG("a_dag"):

        @flora_technique(technique_id="product-relight", poll_interval=0.05, deferrable=deferrable)
        def relit() -> Any:
            return {"photo": picture, "light": "on a table"}

        task = relit().operator
    assert events.write(task, "start")["inputs"] == []
    life = life_of(task)
    life.run()
    assert names_of(events.write(life.ti.task, "complete")["inputs"]) == [("file", str(picture))]


def test_names_of_any_length_and_form_make_a_valid_event_of_bounded_size(events: EventFile) -> None:
    urls = {f"input {number}": f"https://example.com/{number}.png" for number in range(MOST)}
    odd = {
        "long": "https://example.com/" + "x" * 100_000,
        "surrogate": "https://example.com/\ud83d.png",
        "nul": "https://example.com/nul\0.png",
        "port": "https://example.com:no/a.png",
        "address": "https://[::1/a.png",
        "right": "https://[::1]:8443/a.png",
        "secret": "https://me:password@example.com/b.png",
        "none": None,
        "number": 5,
        "path": "\0/no/user.png",
        "user": "~nobody-of-that-name/x.png",
    }
    task = still(technique_id="x" * 100_000, inputs={**odd, **urls})
    event = events.write(task, "start")
    assert len(event["inputs"]) == MOST
    assert flora_of(event)["inputsLeftOut"] == 3 + 4
    assert ("https://[::1]:8443", "/a.png") in names_of(event["inputs"])
    assert "password" not in json.dumps(event)
    assert len(json.dumps(event)) < 300_000


def test_what_flora_says_in_great_length_is_shortened(flora: Emulator, events: EventFile) -> None:
    life = life_of(still())
    life.run()
    task = life.ti.task
    outcome = outcome_of(task)
    outcome.technique_name = "n\0\ud800" * 100_000
    outcome.run = outcome.run.model_copy(update={"status": "s" * 100_000})
    facet = flora_of(events.write(task, "complete"))
    assert (len(facet["techniqueName"]), len(facet["status"])) == (200, 200)


def _png() -> bytes:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "png")
    return buffer.getvalue()
