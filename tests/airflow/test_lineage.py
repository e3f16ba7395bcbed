"""What Airflow 3 and 2.11 send to OpenLineage, here to files, of single, mapped and batch tasks."""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_flora.emulator import Emulator
from scripts.local_airflow import LocalAirflow, dags_test
from tests.airflow.conftest import DATABASES, EXAMPLES, REPOSITORY
from tests.airflow.flora_key import API_KEY
from tests.unit.lineage.event_checks import check_event, flora_of, names_of

PYTHON_2_11 = REPOSITORY / ".venv-airflow-2.11" / "bin" / "python"
PRODUCTS = ("sneaker", "lamp")
FAILS = "chair"
STATES = {"flora_quickstart": "success", "flora_content_refresh": "failed", "flora_pipeline_refresh": "success"}
LIGHT = "a light that nobody may know of"
EVENTS_WITHIN = 120.0
"""Seconds until an event of the last task is written: on Airflow 3, the task's process writes it after its end."""


@dataclass(frozen=True)
class Sent:
    """The events of three DAG runs that Airflow has sent, and where the batch had its table."""

    events: list[dict[str, Any]]
    storage: Path
    origin: str

    def of(self, job: str, kind: str) -> list[dict[str, Any]]:
        """The events of a task, by its job's name."""
        return [event for event in self.events if (event["job"]["name"], event["eventType"]) == (job, kind)]


def runs(storage: Path, media: str) -> list[tuple[str, dict[str, Any]]]:
    """The DAGs with their confs. Writes the batch's table."""
    storage.mkdir()
    rows = "".join(f"{name},{media}/{name}.png?X-Signature=secret,{LIGHT}\n" for name in PRODUCTS)
    (storage / "products.csv").write_text(f"product,photo,light\n{rows}")
    return [
        ("flora_quickstart", {"inputs": {"prompt": LIGHT}}),
        ("flora_content_refresh", {"products": [*PRODUCTS, FAILS], "light": LIGHT}),
        ("flora_pipeline_refresh", {"storage": storage.as_uri()}),
    ]


def settings(place: Path) -> dict[str, str]:
    transport = {"type": "file", "log_file_path": str(place / "events" / "event")}
    (place / "events").mkdir()
    return {
        "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(transport),
        "AIRFLOW__OPENLINEAGE__EXECUTION_TIMEOUT": "60",
        "AIRFLOW__CORE__TASK_SUCCESS_OVERTIME": "120",  # in which the event of a task's end is written
    }


def read_events(place: Path) -> list[dict[str, Any]]:
    """Read the events that there are. One that is being written is left for the next reading."""
    found = []
    for path in sorted((place / "events").iterdir()):
        text = path.read_text()
        if text.endswith("\n"):
            found += [json.loads(line) for line in text.splitlines()]
    return found


def copy_examples(into: Path) -> Path:
    for name in ("flora_quickstart", "flora_content_refresh", "flora_pipeline_refresh"):
        into.mkdir(exist_ok=True)
        shutil.copy(EXAMPLES / f"{name}.py", into)
    return into


def run_on_3(place: Path, asked: list[tuple[str, dict[str, Any]]], env: Mapping[str, str]) -> list[dict[str, Any]]:
    home, dags = place / "home", copy_examples(place / "dags")
    with LocalAirflow(home, dags, env=env, database_cache=DATABASES) as airflow:
        started = [(dag_id, airflow.trigger(dag_id, conf)) for dag_id, conf in asked]
        for dag_id, run_id in started:
            assert airflow.wait_for_dag_run(dag_id, run_id) == STATES[dag_id]
        ends = time.monotonic() + EVENTS_WITHIN
        while True:
            events = read_events(place)
            counts = Counter(event["job"]["name"] for event in events if event["eventType"] in ("COMPLETE", "FAIL"))
            wanted = {"flora_quickstart.run_technique": 1, "flora_content_refresh.relight": 3}
            if Counter({**wanted, "flora_pipeline_refresh.relight": 1}) <= counts or time.monotonic() > ends:
                return events
            time.sleep(0.5)


def run_on_2_11(
    place: Path, asked: list[tuple[str, dict[str, Any]]], env: Mapping[str, str]
) -> list[dict[str, Any]]:
    if not PYTHON_2_11.exists():
        pytest.skip("there is no Airflow 2.11 here: make .venv-airflow-2.11/.ready")
    home, dags = place / "home", copy_examples(place / "dags")
    tested, output = dags_test(asked, dags, home, python=PYTHON_2_11, env=env, database_cache=DATABASES)
    assert {run.dag_id: run.state for run in tested} == STATES, output
    return read_events(place)


@pytest.fixture(scope="module", params=["3", "2.11"])
def sent(
    request: pytest.FixtureRequest,
    _emulator: Emulator,
    environment: Mapping[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Sent:
    _emulator.reset()
    run_seconds, _emulator.run_seconds = _emulator.run_seconds, 0.5  # no task is to defer
    _emulator.order_fault("fail_run", contains=f"{FAILS}.png", times=None, error_code="GENERATION_PROMPT_MODERATED")
    place = tmp_path_factory.mktemp("lineage")
    media = environment["FLORA_MEDIA_BASE"]
    run = {"3": run_on_3, "2.11": run_on_2_11}[request.param]
    asked = runs(place / "storage", media)
    try:
        events = run(place, asked, {**environment, **settings(place)})
    finally:
        _emulator.run_seconds = run_seconds
    return Sent(events, place / "storage", _emulator.origin)


def test_a_single_task_s_events_name_its_run_and_output(sent: Sent) -> None:
    job = "flora_quickstart.run_technique"
    assert sent.of(job, "START")
    [end] = sent.of(job, "COMPLETE")
    facet = flora_of(end)
    assert (facet["mode"], facet["status"], facet["chargedCost"]) == ("single", "completed", 0.09)
    assert end["inputs"] == []
    assert names_of(end["outputs"]) == [(sent.origin, f"/media/{facet['runId']}/still.png")]


def test_each_mapped_task_has_events_with_its_own_input_and_run(sent: Sent) -> None:
    job = "flora_content_refresh.relight"
    ends = sent.of(job, "COMPLETE")
    photos = [(sent.origin, f"/media/samples/{name}.png") for name in PRODUCTS]
    assert sorted(names_of([dataset for end in ends for dataset in end["inputs"]])) == sorted(photos)
    starts = {tuple(names_of(event["inputs"])) for event in sent.of(job, "START")}
    assert starts == {(photo,) for photo in (*photos, (sent.origin, f"/media/samples/{FAILS}.png"))}
    assert len({flora_of(end)["runId"] for end in ends}) == 2
    assert {flora_of(end)["chargedCost"] for end in ends} == {0.18}
    assert len({event["run"]["runId"] for event in ends}) == 2


def test_the_event_of_a_mapped_task_that_fails_tells_its_run_and_remedy(sent: Sent) -> None:
    [end] = sent.of("flora_content_refresh.relight", "FAIL")
    assert names_of(end["inputs"]) == [(sent.origin, f"/media/samples/{FAILS}.png")]
    facet = flora_of(end)
    assert (facet["status"], facet["remedy"]) == ("failed", "change the input")
    assert facet["runId"].startswith("run_")
    assert "GENERATION_PROMPT_MODERATED" in end["run"]["facets"]["errorMessage"]["message"]


def test_a_batch_s_events_name_table_manifest_and_files(sent: Sent) -> None:
    job = "flora_pipeline_refresh.relight"
    table = ("file", f"{sent.storage}/products.csv")
    assert names_of(sent.of(job, "START")[0]["inputs"]) == [table]
    [end] = sent.of(job, "COMPLETE")
    assert names_of(end["inputs"])[0] == table
    assert len(end["inputs"]) == 1 + len(PRODUCTS)
    written = [sent.storage / "relit" / "manifest.jsonl", *(sent.storage / "relit" / "files").iterdir()]
    assert len(written) == 1 + len(PRODUCTS)
    assert set(names_of(end["outputs"])) == {("file", str(path)) for path in written}
    facet = flora_of(end)
    assert (facet["mode"], facet["status"], facet["chargedCost"]) == ("batch", "completed", 0.36)
    assert facet["rows"] == {"rows": 2, "completed": 2, "reused": 0, "failed": 0, "unknown": 0, "skipped": 0}


def test_every_event_is_valid_and_holds_neither_a_text_nor_a_secret(sent: Sent) -> None:
    ours = [event for event in sent.events if "flora_run" in event["run"]["facets"]]
    assert len(ours) >= 8
    for event in ours:
        check_event(event)
        for part in (event["inputs"], event["outputs"], flora_of(event)):
            assert LIGHT not in json.dumps(part)
            assert "Signature" not in json.dumps(part)
        assert API_KEY not in json.dumps(event)
