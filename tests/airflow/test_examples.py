"""The example DAGs on Airflow 3 and 2.11, judged by what is in XCom and by the emulator's ledger."""

from __future__ import annotations

from typing import Any

from dag_runs import RunDag

from airflow_provider_flora.emulator import Emulator


def given(run: dict[str, Any]) -> dict[str, str]:
    """The inputs of a run in the ledger, by their ids."""
    return {entry["id"]: entry["value"] for entry in run["inputs"]}


def test_the_quickstart_pays_for_one_run_and_hands_on_what_it_gave(run_dag: RunDag, emulator: Emulator) -> None:
    prompt = "A paper boat"
    ran = run_dag("flora_quickstart", {"technique_id": "editorial-still", "inputs": {"prompt": prompt}})

    assert ran.state == "success", ran.log
    ledger = emulator.ledger()
    assert ledger["charged_runs"] == ledger["started_runs"] == 1
    [run] = ledger["runs"]
    assert given(run) == {"prompt": prompt}
    result = ran.xcom("run_technique")
    assert result["run_id"] == ran.xcom("run_technique", "run_id") == run["run_id"]
    assert result["status"] == "completed"
    assert result["charged_cost"] == run["charged"] == 0.09
    assert result["output_urls"] == [f"{emulator.origin}/media/{run['run_id']}/still.png"]
    assert result["output_texts"] == []


def test_every_product_is_relit_once(run_dag_on_3: RunDag, emulator: Emulator) -> None:
    ran = run_dag_on_3("flora_content_refresh", {"products": ["sneaker", "lamp", "mug"]})

    assert ran.state == "success", ran.log
    ledger = emulator.ledger()
    assert ledger["charged_runs"] == ledger["started_runs"] == 3
    summary = ran.xcom("summarize")
    assert summary["failed"] == []
    assert round(summary["cost"], 2) == round(ledger["charged_total"], 2) == 0.54
    run_ids = {given(run)["photo"]: run["run_id"] for run in ledger["runs"]}
    assert {photo: url.split("/")[-2] for photo, url in summary["relit"].items()} == run_ids


def test_a_product_that_fails_leaves_the_others_their_results(run_dag: RunDag, emulator: Emulator) -> None:
    emulator.order_fault(
        "fail_run",
        contains="lamp.png",
        error_code="GENERATION_PROMPT_MODERATED",
        error_message="Your request was rejected by the safety system.",
    )
    ran = run_dag("flora_content_refresh", {"products": ["sneaker", "lamp", "mug"]})

    assert ran.state == "failed", ran.log
    ledger = emulator.ledger()
    assert (ledger["started_runs"], ledger["charged_runs"]) == (3, 2)
    summary = ran.xcom("summarize")
    media = f"{emulator.origin}/media/samples"
    assert sorted(summary["relit"]) == [f"{media}/mug.png", f"{media}/sneaker.png"]
    assert summary["failed"] == [f"{media}/lamp.png"]


def test_the_still_of_one_technique_is_the_photo_of_the_next(run_dag: RunDag, emulator: Emulator) -> None:
    ran = run_dag("flora_chain")

    assert ran.state == "success", ran.log
    ledger = emulator.ledger()
    assert ledger["charged_runs"] == ledger["started_runs"] == 2
    runs = {run["technique_id"]: run for run in ledger["runs"]}
    still, film = runs["tech_editorial-still"], runs["tech_product-motion"]
    assert given(film)["photo"] == f"{emulator.origin}/media/{still['run_id']}/still.png"
    assert ran.xcom("show") == [f"{emulator.origin}/media/{film['run_id']}/film.mp4"]


def test_a_run_that_was_only_started_is_waited_for_by_the_sensor(run_dag: RunDag, emulator: Emulator) -> None:
    ran = run_dag("flora_start_then_wait")

    assert ran.state == "success", ran.log
    ledger = emulator.ledger()
    assert ledger["charged_runs"] == ledger["started_runs"] == 1
    [run] = ledger["runs"]
    assert ran.xcom("start", "run_id") == ran.xcom("wait")["run_id"] == run["run_id"]
    still = f"{emulator.origin}/media/{run['run_id']}/still.png"
    assert ran.xcom("publish") == f"Today: A ceramic mug in morning light. {still}"
