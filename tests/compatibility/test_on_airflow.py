"""The examples and all ways to wait on one Airflow, judged by what is in XCom and by the emulator's ledger."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from airflow_provider_flora.batch import read_manifest
from tests.compatibility.running_all import FAILS, AllRan


def run_of(ran: AllRan, **inputs: str) -> dict[str, Any]:
    """The one run in the ledger that was given these inputs, and maybe more."""
    [run] = [run for run in ran.ledger["runs"] if inputs.items() <= given(run).items()]
    return run  # type: ignore[no-any-return]


def given(run: dict[str, Any]) -> dict[str, str]:
    return {entry["id"]: entry["value"] for entry in run["inputs"]}


def test_the_quickstart_pays_for_one_run_and_hands_on_what_it_gave(ran: AllRan) -> None:
    done = ran["quickstart"]
    assert done.state == "success", done.log
    run = run_of(ran, prompt="A paper boat")
    result = done.xcom("run_technique")
    assert result["run_id"] == done.xcom("run_technique", "run_id") == run["run_id"]
    assert result["status"] == "completed"
    assert result["charged_cost"] == run["charged"] == 0.09
    assert result["output_urls"] == [f"{ran.origin}/media/{run['run_id']}/still.png"]


def test_every_product_is_relit_once(ran: AllRan) -> None:
    done = ran["relit"]
    assert done.state == "success", done.log
    summary = done.xcom("summarize")
    assert summary["failed"] == []
    assert round(summary["cost"], 2) == 0.36
    assert len(summary["relit"]) == 2
    for photo, url in summary["relit"].items():
        assert url == f"{ran.origin}/media/{run_of(ran, photo=photo, light='golden hour')['run_id']}/image.png"


def test_a_product_that_fails_leaves_the_others_their_results(ran: AllRan) -> None:
    done = ran["one fails"]
    assert done.state == "failed", done.log
    summary = done.xcom("summarize")
    media = f"{ran.origin}/media/samples"
    assert list(summary["relit"]) == [f"{media}/chair.png"]
    assert summary["failed"] == [f"{media}/{FAILS}.png"]
    assert run_of(ran, photo=f"{media}/{FAILS}.png")["charged"] == 0


def test_the_still_of_one_technique_is_the_photo_of_the_next(ran: AllRan) -> None:
    done = ran["chain"]
    assert done.state == "success", done.log
    still = run_of(ran, prompt="A paper lantern adrift on a calm lake")
    video = run_of(ran, photo=f"{ran.origin}/media/{still['run_id']}/still.png")
    assert done.xcom("show") == [f"{ran.origin}/media/{video['run_id']}/video.mp4"]


def test_a_function_writes_the_inputs_of_each_mapped_run(ran: AllRan) -> None:
    done = ran["decorator"]
    assert done.state == "success", done.log
    prompts = ("A linen shirt in white and sand, winter light", "A straw hat in natural, winter light")
    runs = [run_of(ran, prompt=prompt)["run_id"] for prompt in prompts]
    assert [done.xcom("picture", "run_id", index) for index in (0, 1)] == runs
    assert done.xcom("show") == [f"{ran.origin}/media/{run_id}/still.png" for run_id in runs]


def test_a_run_that_was_only_started_is_waited_for_by_the_sensor(ran: AllRan) -> None:
    done = ran["started, then waited for"]
    assert done.state == "success", done.log
    run = run_of(ran, prompt="A ceramic mug in morning light")
    assert done.xcom("start", "run_id") == done.xcom("wait")["run_id"] == run["run_id"]
    still = f"{ran.origin}/media/{run['run_id']}/still.png"
    assert done.xcom("publish") == f"Today: A ceramic mug in morning light. {still}"


def test_the_pictures_of_a_refresh_are_in_storage_with_their_manifest(ran: AllRan) -> None:
    done = ran["refresh"]
    assert done.state == "success", done.log
    lines = {line["row_id"]: line for line in read_manifest(ran.storage / "relit" / "manifest.jsonl")}
    assert list(lines) == ["sneaker", "chair"]
    for product, line in lines.items():
        run = run_of(ran, photo=f"{ran.origin}/media/samples/{product}.png", light="dusk")
        assert line["run_id"] == run["run_id"]
        picture = ran.storage / "relit" / "files" / f"{product}-image.png"
        assert line["files"][0]["uri"] == picture.as_uri()
        assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_taglines_of_a_brief_are_on_its_poster(ran: AllRan) -> None:
    done = ran["campaign"]
    assert done.state == "success", done.log
    text = run_of(ran, brief="A kite shop in spring")
    [taglines] = read_manifest(ran.storage / "campaign" / "taglines.jsonl")
    [poster] = read_manifest(ran.storage / "campaign" / "posters.jsonl")
    assert taglines["run_id"] == text["run_id"]
    assert run_of(ran, prompt=poster["inputs"]["prompt"])["run_id"] == poster["run_id"]
    assert taglines["output_texts"][0] in poster["inputs"]["prompt"]
    assert (ran.storage / "campaign" / "posters" / "kites.png").read_bytes().startswith(b"\x89PNG")


def test_the_dag_on_the_manifest_runs_without_an_event_too(ran: AllRan) -> None:
    done = ran["on refresh"]
    assert done.state == "success", done.log
    assert done.xcom("publish") == {}


def test_a_storyboard_ends_in_videos(ran: AllRan) -> None:
    done = ran["storyboard"]
    assert done.state == "success", done.log
    [video] = ran.storage.glob("storyboard/*/*")
    assert done.xcom("reel") == [f"file://{video}"]
    assert video.read_bytes()[4:8] == b"ftyp"


@pytest.mark.parametrize(
    ("task_id", "map_index", "prompt"),
    [
        ("synchronous", -1, "synchronous"),
        ("deferred_environment", -1, "environment"),
        ("deferred_database", -1, "database"),
        ("deferred_secrets_backend", -1, "secrets_backend"),
        ("mapped", 0, "mapped 1"),
        ("mapped", 1, "mapped 2"),
    ],
)
def test_each_way_to_wait_and_place_of_a_connection_gives_its_run(
    ran: AllRan, task_id: str, map_index: int, prompt: str
) -> None:
    done = ran["ways"]
    assert done.state == "success", done.log
    result = done.xcom(task_id, map_index=map_index)
    run = run_of(ran, prompt=prompt)
    assert result["run_id"] == run["run_id"]
    assert result["output_urls"] == [f"{ran.origin}/media/{run['run_id']}/still.png"]


def test_a_budget_of_a_dag_run_is_kept_by_tasks_that_start_together_and_none_asks_again_when_it_resumes(
    ran: AllRan,
) -> None:
    done = ran["budget"]
    assert done.state == "success", done.log
    found = [done.xcom("picture", "run_id", index) for index in range(4)]
    paid = [run["run_id"] for run in ran.ledger["runs"] if given(run).get("prompt", "").startswith("budget ")]
    assert len(paid) == 2
    assert {run_id for run_id in found if run_id} == {*paid}
    assert [done.xcom("picture", map_index=index)["status"] for index in range(4) if found[index]] == [
        "completed"
    ] * 2


def test_a_file_becomes_an_asset(ran: AllRan) -> None:
    assert ran["ways"].xcom("upload")["url"].startswith(f"{ran.origin}/")
    assert ran["ways"].xcom("upload")["width"] == 40


def test_the_pages_are_there_from_airflow_3_1_on(ran: AllRan, version: str) -> None:
    if tuple(map(int, version.split(".")[:2])) < (3, 1):
        assert not any(b"static/flora.css" in body or b"run_id" in body for _, body in ran.pages.values())
        return
    rows = json.loads(ran.pages["outputs"][1])["rows"]
    assert [(row["row_id"], row["status"]) for row in rows] == [("sneaker", "completed"), ("chair", "completed")]
    assert ran.pages["html"][1].count(b"<img ") == 4  # the outputs and the photos
    (view,) = json.loads(ran.pages["run"][1])["tasks"]
    assert view["outputs"] == ran["quickstart"].xcom("run_technique")["outputs"]
    assert b"USD" in ran.pages["spending"][1]
    # The function is not called when the task resumes, and its inputs are there.
    (shown,) = json.loads(ran.pages["decorated"][1])["inputs"]
    assert (shown["id"], shown["value"]) == ("prompt", "A straw hat in natural, winter light")
    media_type, content = ran.pages["file"]
    assert (media_type, content[:4]) == ("image/png", b"\x89PNG")


def test_airflows_metrics_count_what_flora_has_counted(ran: AllRan) -> None:
    def total(name: str) -> float:
        return sum(sample.value for sample in ran.metrics if sample.name == name)

    ledger = ran.ledger
    assert total("flora.runs.started") == ledger["started_runs"]
    assert total("flora.runs.completed") == ledger["charged_runs"]
    assert total("flora.runs.failed") == ledger["started_runs"] - ledger["charged_runs"]
    assert total("flora.cost") == round(1e6 * sum(run["charged"] or 0 for run in ledger["runs"]))
    waits = [sample.value for sample in ran.metrics if sample.name == "flora.wait.seconds"]
    assert len(waits) == ledger["charged_runs"]
    assert all(500 <= milliseconds <= 400_000 for milliseconds in waits)


def test_requests_of_workers_and_of_the_triggerer_are_counted(ran: AllRan) -> None:
    counted: Counter[str] = Counter()
    for sample in ran.metrics:
        if sample.name == "flora.requests":
            operation = dict(tag.split("=") for tag in sample.tags)["operation"]
            counted[operation] += int(sample.value)
    for operation in ("startTechniqueRun", "getTechnique", "createAsset"):  # of workers only
        assert counted[operation] == ran.ledger["requests"][operation], operation
    assert counted["getTechniqueRun"] + counted["listTechniqueRuns"] > ran.ledger["started_runs"]
    gauges = {sample.name for sample in ran.metrics if sample.kind == "g"}
    assert gauges == {f"flora.watcher.{name}" for name in ("waits", "cycle_seconds", "lateness")}
    last = {sample.tags: sample.value for sample in ran.metrics if sample.name == "flora.watcher.waits"}
    conn_ids = {tags[0] for tags in last}
    # Any other connection's runs may have ended by their first poll, on a worker.
    assert "conn_id=flora_default" in conn_ids
    assert conn_ids <= {f"conn_id=flora_{name}" for name in ("default", "in_database", "in_secrets_backend")}
    assert set(last.values()) == {0}


def test_nothing_is_paid_twice(ran: AllRan) -> None:
    # quickstart, two relit, one of two, still and video, two of a function, one waited for, two refreshed, taglines
    # and their poster, lines with a still and its video, six ways, and two of four.
    assert (ran.ledger["started_runs"], ran.ledger["charged_runs"]) == (25, 24)
