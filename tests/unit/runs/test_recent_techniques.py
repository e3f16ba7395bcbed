"""Tasks, each in a process of its own, fetch a technique once a minute for all of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_flora.airflow_compat import AirflowFailException
from airflow_provider_flora.api.client import FloraClient
from airflow_provider_flora.api.models import Technique
from airflow_provider_flora.api.settings import ClientSettings
from airflow_provider_flora.emulator import Emulator
from airflow_provider_flora.operators.flora import FloraRunTechniqueOperator
from airflow_provider_flora.runs import shared_files, techniques
from airflow_provider_flora.runs.techniques import RecentTechnique
from tests.unit.operators.fake_task import TaskLife

STILL = "editorial-still"
FOLDER_NAME = shared_files.FOLDER.name
pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def flora(emulator: Emulator, connect: Callable[..., None]) -> Emulator:
    """The emulator with ``flora_default`` pointing at it."""
    connect(emulator)
    return emulator


def get_price(flora: Emulator, technique_id: str = STILL, api_key: str | None = None) -> float | None:
    """Ask as a task of its own does; give the price."""
    with FloraClient(ClientSettings(api_key or flora.api_key, flora.base_url)) as client:
        price = RecentTechnique(client, technique_id).get().run_cost
        assert client.clock_skew is not None
        return price


def fetched(flora: Emulator) -> int:
    return int(flora.ledger()["requests"].get("getTechnique", 0))


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Make what is kept another technique than Flora's."""
    [file] = folder.iterdir()
    kept = json.loads(file.read_text())
    change(kept["technique"])
    file.write_text(json.dumps(kept))


def run(**given: Any) -> Any:
    inputs = {"prompt": "a cup"}
    return TaskLife(
        FloraRunTechniqueOperator(
            **{"task_id": "still", "technique_id": STILL, "inputs": inputs, "poll_interval": 0.05, **given}
        )
    ).run()


def test_many_tasks_request_it_once(flora: Emulator) -> None:
    assert [get_price(flora) for _ in range(3)] == [0.09] * 3
    assert fetched(flora) == 1


def test_a_task_in_another_process_need_not_request_it(
    flora: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = (
        "import sys; from airflow_provider_flora.api.client import FloraClient;"
        "from airflow_provider_flora.api.settings import ClientSettings;"
        "from airflow_provider_flora.runs.techniques import RecentTechnique;"
        f"print(RecentTechnique(FloraClient(ClientSettings(*sys.argv[1:])), {STILL!r}).get().run_cost)"
    )
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", script, flora.api_key, flora.base_url],
            env={**os.environ, "TMPDIR": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.stdout.strip() == "0.09", done.stderr
    monkeypatch.setattr(shared_files, "FOLDER", tmp_path / FOLDER_NAME)
    assert get_price(flora) == 0.09
    assert fetched(flora) == 1


def test_it_is_requested_again_after_a_minute(flora: Emulator, kept_techniques: Path) -> None:
    get_price(flora)
    [file] = kept_techniques.iterdir()
    for age, requests in ((techniques.CACHED_FOR - 30, 1), (techniques.CACHED_FOR + 30, 2), (-30, 3)):
        os.utime(file, (time.time() - age,) * 2)
        get_price(flora)
        assert fetched(flora) == requests


def test_its_minute_begins_with_the_request(flora: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [time.time()]
    for module in (techniques, shared_files):
        monkeypatch.setattr(module, "time", SimpleNamespace(time=lambda: now[0]))
    get_technique = FloraClient.get_technique

    def get_technique_while_suspended(client: FloraClient, technique_id: str) -> Technique:
        technique = get_technique(client, technique_id)
        now[0] += 200
        return technique

    monkeypatch.setattr(FloraClient, "get_technique", get_technique_while_suspended)
    for requests in (1, 2):
        get_price(flora)
        assert fetched(flora) == requests


def test_each_key_and_id_has_its_own(flora: Emulator) -> None:
    get_price(flora)
    get_price(flora, "tagline-writer")
    flora.api_key += "_another"
    get_price(flora)
    assert fetched(flora) == 3


def test_what_is_old_is_removed(flora: Emulator, kept_techniques: Path) -> None:
    get_price(flora)
    [old] = kept_techniques.iterdir()
    os.utime(old, (time.time() - techniques.CACHED_FOR - 5,) * 2)
    get_price(flora, "tagline-writer")
    assert old not in kept_techniques.iterdir()
    assert len(list(kept_techniques.iterdir())) == 1


def test_only_its_owner_can_read_or_write_it_and_it_holds_no_key(flora: Emulator, kept_techniques: Path) -> None:
    get_price(flora)
    [file] = kept_techniques.iterdir()
    assert kept_techniques.stat().st_mode & 0o777 == 0o700
    assert flora.api_key not in f"{file} {file.read_text()}"


def open_to_all(folder: Path) -> None:
    folder.chmod(0o777)


def leads_elsewhere(folder: Path) -> None:
    elsewhere = folder.with_name("elsewhere")
    folder.rename(elsewhere)
    folder.symlink_to(elsewhere)


def is_a_file(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    folder.write_text("")


@pytest.mark.parametrize("spoil", [open_to_all, leads_elsewhere, is_a_file])
def test_a_folder_that_is_not_safe_is_not_used(
    flora: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Path], None]
) -> None:
    folder = tmp_path / "kept"
    monkeypatch.setattr(shared_files, "FOLDER", folder)
    get_price(flora)
    edit(folder, lambda technique: technique.update(run_cost=0.01))
    spoil(folder)
    assert get_price(flora) == get_price(flora) == 0.09
    assert fetched(flora) == 3


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"technique": {"technique_id": "tech_1"}'])
def test_an_unreadable_entry_is_requested_again(flora: Emulator, kept_techniques: Path, content: bytes) -> None:
    get_price(flora)
    [file] = kept_techniques.iterdir()
    file.write_bytes(content)
    assert get_price(flora) == get_price(flora) == 0.09
    assert fetched(flora) == 2


def test_inputs_that_only_fit_the_technique_of_now_are_taken(flora: Emulator, kept_techniques: Path) -> None:
    get_price(flora)
    edit(kept_techniques, lambda technique: technique["inputs"][0].update(id="what_it_was_called"))
    assert run()["status"] == "completed"
    assert fetched(flora) == 2
    assert run()["status"] == "completed"  # what was fetched is kept in its place
    assert fetched(flora) == 2


def test_a_price_that_has_come_down_is_noticed(flora: Emulator, kept_techniques: Path) -> None:
    get_price(flora)
    edit(kept_techniques, lambda technique: technique.update(run_cost=5.0))
    assert run(max_run_cost=0.1)["charged_cost"] == 0.09
    assert fetched(flora) == 2


@pytest.mark.parametrize("wrong", [{"inputs": {"promt": "a cup"}}, {"max_run_cost": 0.01}])
def test_a_wrong_value_is_refused_after_one_more_poll(flora: Emulator, wrong: dict[str, Any]) -> None:
    for requests in (1, 2):
        with pytest.raises(AirflowFailException):
            run(**wrong)
        assert fetched(flora) == requests
    assert flora.ledger()["started_runs"] == 0


def test_a_clock_that_was_set_since_has_floras_asked_for_again(
    flora: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    get_price(flora)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 30.0)  # what is cached still looks recent
    with FloraClient(ClientSettings(flora.api_key, flora.base_url)) as client:
        RecentTechnique(client, STILL).get()
        assert client.clock_skew is None
    assert fetched(flora) == 1
