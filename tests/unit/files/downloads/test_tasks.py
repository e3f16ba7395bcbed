"""The operators that put files down, against the emulator: what they hand over, and what survives a kill."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from airflow_provider_flora.airflow_compat import AirflowFailException, Asset
from airflow_provider_flora.api.errors import FloraDownloadError, FloraStorageError
from airflow_provider_flora.emulator import Emulator
from airflow_provider_flora.operators.downloads import FloraDownloadOutputsOperator
from airflow_provider_flora.operators.flora import FloraRunTechniqueOperator
from tests.unit.airflow_names import AssetAlias
from tests.unit.operators.fake_task import HAS_STATE_STORE, FakeStore, TaskLife

MODES = pytest.mark.parametrize("deferrable", [False, True], ids=["on a worker", "deferred"])
REPOSITORY = Path(__file__).parents[4]
ONE_TASK = "tests.unit.files.downloads.one_task"
MB = 1_000_000


def critique(flora: Emulator, folder: Any, **given: Any) -> FloraRunTechniqueOperator:
    """An operator whose technique gives a text and an image."""
    return FloraRunTechniqueOperator(
        **{
            "task_id": "critique",
            "technique_id": "art-directors-critique",
            "inputs": {"asset": f"{flora.origin}/media/samples/mug.png"},
            "poll_interval": 0.05,
            "deferrable": False,
            "retries": 2,
            "download_to": str(folder),
            **given,
        }
    )


def life_of(operator: Any, **given: Any) -> TaskLife:
    return TaskLife(operator, **{"store": FakeStore() if HAS_STATE_STORE else None, **given})


def starts(flora: Emulator) -> int:
    return int(flora.ledger()["started_runs"])


@MODES
def test_the_files_are_in_the_value_and_in_an_xcom(flora: Emulator, tmp_path: Path, deferrable: bool) -> None:
    life = life_of(critique(flora, tmp_path, deferrable=deferrable))
    value = life.run()
    run_id = value["run_id"]
    assert [Path(file["uri"]).name for file in value["files"]] == [
        f"art-directors-critique-{run_id}-critique.txt",
        f"art-directors-critique-{run_id}-redesign.png",
    ]
    assert life.ti.xcoms["files"] == value["files"]
    assert json.loads(json.dumps(value)) == value
    assert (tmp_path / f"art-directors-critique-{run_id}-critique.txt").read_text() == life.ti.xcoms[
        "output_texts"
    ][0]
    picture = (tmp_path / f"art-directors-critique-{run_id}-redesign.png").read_bytes()
    assert picture == requests.get(value["output_urls"][0], timeout=60).content


@MODES
def test_folder_and_name_are_templates(flora: Emulator, tmp_path: Path, deferrable: bool) -> None:
    operator = critique(
        flora,
        f"{tmp_path}/{{{{ run_id }}}}",
        file_name="{{ run_id }}-{index}.{ext}",
        returns="outputs",
        deferrable=deferrable,
    )
    life = life_of(operator)
    outputs = life.run(render=True)
    assert [output["output_id"] for output in outputs] == ["critique", "redesign"]
    assert sorted(path.name for path in (tmp_path / "a_dag_run").iterdir()) == [
        "a_dag_run-0.txt",
        "a_dag_run-1.png",
    ]
    assert len(life.ti.xcoms["files"]) == 2


@pytest.mark.parametrize("folder", [None, "", "None"])
def test_without_a_folder_nothing_is_put_down(flora: Emulator, folder: str | None) -> None:
    life = life_of(critique(flora, "", download_to=folder))
    assert "files" not in life.run()
    assert "files" not in life.ti.xcoms


@pytest.mark.parametrize(
    "wrong",
    [
        {"download_to": "nowhere://x"},
        {"download_to": 5},
        {"download_to": "/srv/{{ 'x' }}/../../etc"},
        {"file_name": "../{flora_run_id}.{ext}"},
    ],
)
def test_what_cannot_work_is_refused_before_a_run_is_paid(
    flora: Emulator, tmp_path: Path, wrong: dict[str, Any]
) -> None:
    with pytest.raises(AirflowFailException):
        life_of(critique(flora, **{"folder": tmp_path, **wrong})).run()
    assert starts(flora) == 0


@pytest.mark.parametrize("folder", ["under a file", "s3://store@nobodys/a"])
def test_a_folder_that_cannot_be_written_is_reported_before_a_run_is_paid(
    flora: Emulator, s3: Any, tmp_path: Path, folder: str
) -> None:
    (tmp_path / "under a file").touch()
    with pytest.raises(FloraStorageError, match=rf"{folder}/ is not writable \(.*Nothing was started or charged"):
        life_of(critique(flora, folder if ":" in folder else tmp_path / folder)).run()
    assert starts(flora) == 0
    life = life_of(critique(flora, "s3://store@files/a"))
    assert len(life.run()["files"]) == len(s3.list_objects_v2(Bucket="files")["Contents"]) == 2
    assert "Uploads" not in s3.list_multipart_uploads(Bucket="files")


def test_a_path_is_a_folder_too(flora: Emulator, tmp_path: Path) -> None:
    assert (
        len(life_of(critique(flora, "", download_to=tmp_path)).run()["files"]) == len(list(tmp_path.iterdir())) == 2
    )


def test_a_name_whose_template_finds_nothing_is_the_default(flora: Emulator, tmp_path: Path) -> None:
    value = life_of(critique(flora, tmp_path, file_name="{{ none }}")).run(render=True)
    assert value["files"][1]["uri"].endswith(f"/art-directors-critique-{value['run_id']}-redesign.png")


def test_files_of_a_run_that_is_not_waited_for_are_refused(flora: Emulator, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="wait_for_completion"):
        critique(flora, tmp_path, wait_for_completion=False)


@MODES
@pytest.mark.parametrize("fault", [("cut_media", {}), ("reset", {"when": "during"}), ("html", {"when": "after"})])
def test_a_retry_downloads_what_is_missing_and_pays_nothing(
    flora: Emulator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    deferrable: bool,
    fault: tuple[str, dict[str, str]],
) -> None:
    """With a connection that repeats no request, so that the first attempt fails."""
    connection = json.loads(os.environ["AIRFLOW_CONN_FLORA_DEFAULT"])
    connection["extra"]["max_retries"] = 0
    monkeypatch.setenv("AIRFLOW_CONN_FLORA_DEFAULT", json.dumps(connection))
    life = life_of(critique(flora, tmp_path, deferrable=deferrable))
    kind, words = fault
    flora.order_fault(kind, operation="getMedia", **words)
    with pytest.raises(FloraDownloadError, match="A retry resumes the same run"):
        life.run()
    assert [path.suffix for path in tmp_path.iterdir()] == [".txt"]
    assert "outputs" not in life.ti.xcoms
    value = life.run()
    assert len(value["files"]) == len(list(tmp_path.iterdir())) == 2
    assert starts(flora) == 1
    assert flora.ledger()["charged_runs"] == 1


def test_a_delivered_task_that_is_cleared_has_the_files_of_a_new_run(flora: Emulator, tmp_path: Path) -> None:
    life = life_of(critique(flora, tmp_path))
    first = life.run()
    life.clear()
    second = life.run()
    assert first["run_id"] != second["run_id"]
    assert len(list(tmp_path.iterdir())) == 4


# --- assets -----------------------------------------------------------------------------------------------


class Event:
    def __init__(self) -> None:
        self.extra: dict[str, Any] = {}


class Events(dict[Any, Event]):
    def __missing__(self, asset: Any) -> Event:
        return self.setdefault(asset.uri, Event())


class LifeWithAssets(TaskLife):
    def context(self, **given: Any) -> dict[str, Any]:
        self.outlet_events = Events()
        return {**super().context(**given), "outlet_events": self.outlet_events}


@MODES
@pytest.mark.parametrize("with_files", [True, False])
def test_an_assets_event_names_run_files_and_cost(
    flora: Emulator, tmp_path: Path, deferrable: bool, with_files: bool
) -> None:
    operator = critique(
        flora,
        tmp_path,
        deferrable=deferrable,
        outlets=[Asset("s3://shop/critiques"), AssetAlias("whatever")],
        **({} if with_files else {"download_to": None}),
    )
    life = LifeWithAssets(operator, store=FakeStore() if HAS_STATE_STORE else None)
    value = life.run()
    [event] = life.outlet_events.values()
    assert event.extra == {
        "run_id": value["run_id"],
        "technique_id": "art-directors-critique",
        "charged_cost": 0.12,
        "files": value.get("files", []),
    }
    assert len(event.extra["files"]) == (2 if with_files else 0)
    assert json.loads(json.dumps(event.extra)) == event.extra


# --- runs that exist --------------------------------------------------------------------------------------


def downloader(run_id: str, folder: Path, **given: Any) -> FloraDownloadOutputsOperator:
    return FloraDownloadOutputsOperator(
        **{
            "task_id": "download",
            "technique_id": "art-directors-critique",
            "run_id": run_id,
            "download_to": str(folder),
            **given,
        }
    )


def test_the_outputs_of_a_run_that_exists_are_downloaded(flora: Emulator, tmp_path: Path) -> None:
    ran = life_of(critique(flora, "", download_to=None)).run()
    life = life_of(downloader(ran["run_id"], tmp_path))
    value = life.run()
    assert {key: value[key] for key in ran} == ran
    assert len(value["files"]) == len(list(tmp_path.iterdir())) == 2
    assert sorted(life.ti.xcoms) == sorted(["run_id", "output_urls", "output_texts", "charged_cost", "files"])
    assert life.run() == value
    media = flora.ledger()["requests"]["getMedia"]
    assert media == 1 if HAS_STATE_STORE else 2
    assert starts(flora) == 1


def test_a_run_that_goes_on_is_the_sensors_business(flora: Emulator, tmp_path: Path) -> None:
    flora.order_fault("stall_run")
    started = life_of(critique(flora, "", download_to=None, wait_for_completion=False)).run()
    with pytest.raises(AirflowFailException, match="FloraTechniqueRunSensor"):
        life_of(downloader(started["run_id"], tmp_path)).run()


def test_a_run_that_failed_has_nothing_to_download(flora: Emulator, tmp_path: Path) -> None:
    flora.order_fault("fail_run", error_code="GENERATION_GENERIC_ERROR", error_message="no luck")
    started = life_of(critique(flora, "", download_to=None, wait_for_completion=False)).run()
    time.sleep(0.2)
    with pytest.raises(AirflowFailException, match="GENERATION_GENERIC_ERROR: no luck"):
        life_of(downloader(started["run_id"], tmp_path)).run()


def test_a_run_that_is_not_there_is_not_found(flora: Emulator, tmp_path: Path) -> None:
    words = "Run 'run_nobodys' of technique 'art-directors-critique' was not found with the API key of connection"
    with pytest.raises(AirflowFailException, match=words):
        life_of(downloader("run_nobodys", tmp_path)).run()


# --- kills and records ------------------------------------------------------------------------------------


@pytest.fixture
def ten_videos() -> Iterator[Emulator]:
    """An emulator of its own; the technique `ten-takes` gives ten videos."""
    with Emulator(port=0, run_seconds=0.05, cost_lag=0, api_key="sk_test_ten") as emulator:
        yield emulator


@pytest.fixture
def start_attempt(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Starts one attempt of a task in a process: `one_try(emulator, folder, technique)`."""

    def start(
        emulator: Emulator, folder: str, technique_id: str = "ten-takes", try_number: int = 1
    ) -> subprocess.Popen[str]:
        connection = {"conn_type": "flora", "host": emulator.base_url, "password": emulator.api_key}
        return subprocess.Popen(
            [sys.executable, "-m", ONE_TASK, folder, str(tmp_path / "store.json"), technique_id, str(try_number)],
            cwd=REPOSITORY,
            env={**os.environ, "AIRFLOW_CONN_FLORA_DEFAULT": json.dumps(connection)},
            stdout=subprocess.PIPE,
            text=True,
        )

    return start


def until(there: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    ends = time.monotonic() + 600
    while not there():
        assert time.monotonic() < ends, "it did not come to that"
        assert process.poll() is None, "the task ended by itself"
        time.sleep(0.05)


def true_sums(emulator: Emulator, run_id: str) -> dict[str, str]:
    run = requests.get(
        f"{emulator.base_url}/techniques/ten-takes/runs/{run_id}",
        headers={"authorization": f"Bearer {emulator.api_key}"},
        timeout=60,
    ).json()
    return {
        f"ten-takes-{run_id}-{output['output_id']}.mp4": hashlib.sha256(
            requests.get(output["url"], timeout=60).content
        ).hexdigest()
        for output in run["outputs"]
    }


def result(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, _ = process.communicate(timeout=600)
    assert process.returncode == 0, out
    found: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
    return found


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["local", "s3"])
def test_a_task_killed_in_the_middle_of_ten_files_is_completed_by_the_next_attempt(
    ten_videos: Emulator,
    start_attempt: Callable[..., subprocess.Popen[str]],
    request: pytest.FixtureRequest,
    tmp_path: Path,
    storage: str,
) -> None:
    s3 = request.getfixturevalue("s3") if storage == "s3" else None
    local = tmp_path / "videos"

    def there() -> dict[str, bytes]:
        """The files under their final names; on a disk the unfinished ones are hidden."""
        if s3 is None:
            return {path.name: path.read_bytes() for path in local.glob("[!.]*")}
        listed = s3.list_objects_v2(Bucket="files").get("Contents", [])
        return {entry["Key"]: s3.get_object(Bucket="files", Key=entry["Key"])["Body"].read() for entry in listed}

    folder = "s3://store@files/" if s3 else str(local)
    ten_videos.order_fault("large_output", bytes=6 * MB)
    ten_videos.order_fault("delay", operation="getMedia", when="during", seconds=60, skip=5, times=4)

    process = start_attempt(ten_videos, folder)
    until(lambda: len(there()) == 5, process)
    until(lambda: ten_videos.ledger()["requests"]["getMedia"] == 9, process)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    asked = ten_videos.ledger()["requests"]["getMedia"]
    run_id = ten_videos.ledger()["runs"][0]["run_id"]
    ten_videos.clear_faults()
    sums = true_sums(ten_videos, run_id)
    seen = {name: hashlib.sha256(content).hexdigest() for name, content in there().items()}
    assert len(seen) == 5
    assert seen.items() <= sums.items()  # nothing half-written under its final name

    again = ten_videos.ledger()["requests"]["getMedia"]
    files = result(start_attempt(ten_videos, folder, try_number=2))["files"]
    assert {name: hashlib.sha256(content).hexdigest() for name, content in there().items()} == sums
    assert {file["uri"].rpartition("/")[2]: file["sha256"] for file in files} == sums
    # Existing files were not downloaded; without a record their heads were checked.
    assert ten_videos.ledger()["requests"]["getMedia"] - again == (5 if HAS_STATE_STORE else 10)
    assert ten_videos.ledger()["started_runs"] == 1
    assert asked == 9
    assert not list(local.glob(".*"))


@pytest.mark.slow
@pytest.mark.parametrize(("storage", "large"), [("local", 200 * MB), ("s3", 100 * MB)])
def test_a_large_file_takes_no_more_memory_than_a_small_one(
    ten_videos: Emulator,
    start_attempt: Callable[..., subprocess.Popen[str]],
    request: pytest.FixtureRequest,
    tmp_path: Path,
    storage: str,
    large: int,
) -> None:
    folder = str(tmp_path / "recut")
    if storage == "s3":
        request.getfixturevalue("s3")
        folder = "s3://store@files/recut"
    peaks = []
    for size in (1 * MB, large):
        ten_videos.order_fault("large_output", bytes=size)
        done = result(start_attempt(ten_videos, f"{folder}/{size}", "voice-over"))
        assert done["files"][0]["bytes"] == size
        peaks.append(done["peak"])
        (tmp_path / "store.json").unlink(missing_ok=True)
        (tmp_path / "store.began").unlink()
    assert peaks[1] - peaks[0] < 48 * MB
