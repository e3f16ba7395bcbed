"""Files as inputs of a run: checked with the rest, uploaded last, and counted as what they hold."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_flora.airflow_compat import AirflowFailException, ObjectStoragePath
from airflow_provider_flora.api.client import FloraClient
from airflow_provider_flora.api.errors import FloraFileError, FloraRunFailedError, FloraUploadError
from airflow_provider_flora.api.exchange import Request
from airflow_provider_flora.api.inputs import names_a_file
from airflow_provider_flora.api.models import RunInput, Slot
from airflow_provider_flora.emulator import Emulator
from airflow_provider_flora.files.uploads.record import UploadRecord
from airflow_provider_flora.files.uploads.run_inputs import InputFiles
from tests.unit.files.uploads.uploads import (
    DEATHS,
    NEEDS_A_STORE,
    Connect,
    Crash,
    count,
    fetched,
    held_by,
    picture,
    run_with,
    upload_of,
    video,
)
from tests.unit.operators.fake_task import HAS_STATE_STORE, FakeStore, TaskLife


def given_to_runs(flora: Emulator, slot: str = "photo") -> list[bytes]:
    """The content of what each run was given."""
    return [
        fetched(entry["value"]) for run in flora.ledger()["runs"] for entry in run["inputs"] if entry["id"] == slot
    ]


@pytest.mark.parametrize("deferrable", [False, True], ids=["on a worker", "deferred"])
def test_a_local_file_is_uploaded_and_its_url_given_to_the_run(
    flora: Emulator, small: Path, deferrable: bool
) -> None:
    value = run_with(small, deferrable=deferrable).run()
    assert value["status"] == "completed"
    assert given_to_runs(flora) == [small.read_bytes()]
    assert len(held_by(flora)) == 1


@pytest.mark.parametrize("form", ["uri", "object", "path", "own list"])
def test_a_file_may_be_named_in_any_way(flora: Emulator, memory: str, large: Path, form: str) -> None:
    path = ObjectStoragePath(f"{memory}/poster.png")
    with path.open("wb") as file:
        file.write(large.read_bytes())
    photo: Any = {"uri": str(path), "object": path, "path": large, "own list": str(path)}[form]
    life = run_with(photo)
    if form == "path":
        life.operator.inputs = {"photo": large, "light": "neon"}
    if form == "own list":
        life.operator.inputs = [
            {"id": "photo", "type": "imageUrl", "value": photo},
            {"id": "light", "type": "text", "value": "neon"},
        ]
    life.run()
    assert given_to_runs(flora) == [large.read_bytes()]
    assert len(flora.ledger()["uploads"]) == 1


def test_a_video_is_a_file_too(flora: Emulator, tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(video())
    life = run_with(None, technique_id="mood-soundtrack", inputs={"clip": str(clip)})
    life.operator.technique_id = next(
        technique.slug
        for technique in FloraClient.list_techniques(_client())
        if technique.slug and any(slot.type == "videoUrl" for slot in technique.inputs)
    )
    life.run()
    assert given_to_runs(flora, "clip") == [video()]


def _client() -> FloraClient:
    from airflow_provider_flora.hooks.flora import FloraHook

    return FloraHook().get_conn()


def test_the_same_content_is_uploaded_once(flora: Emulator, small: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.png"
    copy.write_bytes(small.read_bytes())
    client = _client()
    technique = client.get_technique("product-relight")
    memory = UploadRecord(None, run_with(small).operator.log)
    inputs = [{"id": "photo", "type": "imageUrl", "value": str(path)} for path in (small, copy)]
    files = InputFiles(inputs, client, memory, "a task", run_with(small).operator.log)
    first, second = files.upload([RunInput(**entry) for entry in inputs], technique)
    assert first.value == second.value
    assert count(flora, "createAsset") == 1


# --- before anything is uploaded --------------------------------------------------------------------------


def test_a_mistake_in_a_file_is_reported_with_every_other(flora: Emulator, tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(video())
    (tmp_path / "a.bmp").write_bytes(b"a picture")
    for photo, words in {
        str(tmp_path / "none.png"): "There is no file",
        str(tmp_path / "clip.mp4"): "is video/mp4",
        str(tmp_path / "a.bmp"): "whose extension Flora does not support",
        "nosuch://bucket/a.png": "provider for this storage",
        "data:image/png;base64,AAAA": "Flora does not support|no file",
    }.items():
        with pytest.raises(AirflowFailException) as caught:
            run_with(photo, inputs={"photo": photo, "foto": "x", "light": " "}).run()
        assert "3 mistakes" in str(caught.value)
        assert "'photo' takes the https:// URL of an image, or a file of one: " in str(caught.value)
        assert any(word in str(caught.value) for word in words.split("|"))
    assert (count(flora, "createAsset"), flora.ledger()["started_runs"]) == (0, 0)


def test_the_url_of_an_upload_is_an_input(flora: Emulator, small: Path) -> None:
    url = upload_of(small).run()["url"]
    assert run_with(url).run()["status"] == "completed"
    assert count(flora, "createAsset") == 1


def test_a_web_url_is_not_taken_for_a_file(flora: Emulator) -> None:
    with pytest.raises(AirflowFailException, match="takes the https:// URL of an image, not 'http://"):
        run_with("http://pictures.example/a.png").run()


def test_an_unreachable_storage_is_no_mistake_of_the_inputs(
    flora: Emulator, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise TimeoutError("the storage")

    life = run_with(small)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", broken)
        with pytest.raises(FloraFileError, match="cannot be read now"):
            life.run()
    assert life.run()["status"] == "completed"


def test_nothing_is_uploaded_for_a_run_that_is_too_expensive(flora: Emulator, small: Path) -> None:
    with pytest.raises(AirflowFailException, match="max_run_cost"):
        run_with(small, max_run_cost=0.001).run()
    assert count(flora, "createAsset") == 0


def test_without_validation_files_are_uploaded_anyway(flora: Emulator, small: Path, tmp_path: Path) -> None:
    run_with(small, validate_inputs=False).run()
    assert given_to_runs(flora) == [small.read_bytes()]
    with pytest.raises(AirflowFailException, match="There is no file"):
        run_with(tmp_path / "none.png", validate_inputs=False).run()


@pytest.mark.parametrize(
    ("value", "accepts_element", "is_file"),
    [
        ("https://a.example/a.png", False, False),
        ("HTTP://a.example/a.png", True, False),
        ("s3://bucket/a.png", True, True),
        ("a.png", False, True),
        ("elem_123", False, True),
        ("elem_123", True, False),
        ("a.png", True, True),
        ("photos/1", True, True),
    ],
)
def test_a_file_is_distinguished_from_a_url_and_an_element(
    value: str, accepts_element: bool, is_file: bool
) -> None:
    slot = Slot(id="photo", type="imageUrl", accepts_element=accepts_element)
    assert names_a_file(value, slot) is is_file


def test_an_element_is_given_to_the_run_as_it_is(flora: Emulator) -> None:
    technique = next(
        technique
        for technique in _client().list_techniques()
        if [slot.accepts_element for slot in technique.inputs if not slot.optional] == [True]
    )
    slot = technique.inputs[0].id
    run_with(None, technique_id=technique.slug, inputs={slot: "elem_123"}).run()
    [run] = flora.ledger()["runs"]
    assert run["inputs"][0]["value"] == "elem_123"


# --- retries ----------------------------------------------------------------------------------------------


def test_a_known_run_is_resumed_without_an_upload(
    flora: Emulator, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    life = run_with(small)
    die_in_the_wait(life, monkeypatch)
    uploads = count(flora, "createAsset")
    assert life.run()["status"] == "completed"
    if HAS_STATE_STORE:
        assert count(flora, "createAsset") == uploads
    assert flora.ledger()["started_runs"] == 1


@NEEDS_A_STORE
def test_a_run_is_resumed_though_its_file_is_gone(
    flora: Emulator, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    life = run_with(small)
    die_in_the_wait(life, monkeypatch)
    small.unlink()
    first = life.run()
    assert flora.ledger()["started_runs"] == 1
    life.clear()
    again = life.run()  # and a clear runs with the asset that is there
    assert again["run_id"] != first["run_id"]
    assert count(flora, "createAsset") == 1


@NEEDS_A_STORE
def test_a_file_that_changed_is_another_input_for_a_clear(
    flora: Emulator, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    life = run_with(small)
    die_in_the_wait(life, monkeypatch)
    small.write_bytes(picture(9, 9))
    life.run()  # a retry goes on with what the execution began with
    assert (flora.ledger()["started_runs"], count(flora, "createAsset")) == (1, 1)
    life.clear()
    life.run()
    assert given_to_runs(flora)[1] == small.read_bytes()


def _crash(*_: Any, **__: Any) -> Any:
    raise Crash


def die_in_the_wait(life: TaskLife, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make an attempt whose process dies when its run has been started."""
    with monkeypatch.context() as patch:
        patch.setattr(FloraClient, "wait_for_technique_run", _crash)
        with pytest.raises(Crash):
            life.run()


@NEEDS_A_STORE
def test_a_run_that_failed_is_made_again_with_the_same_asset(flora: Emulator, small: Path) -> None:
    life = run_with(small)
    flora.order_fault("fail_run")
    with pytest.raises(FloraRunFailedError):
        life.run()
    assert life.run()["status"] == "completed"
    assert (flora.ledger()["started_runs"], count(flora, "createAsset")) == (2, 1)


def test_an_upload_that_fails_leaves_nothing_started(flora: Emulator, large: Path, connect: Connect) -> None:
    connect(flora, max_retries=0)
    life = run_with(large)
    flora.order_fault("reset", operation="uploadBytes")
    with pytest.raises(FloraUploadError):
        life.run()
    assert flora.ledger()["started_runs"] == 0
    if life.store is not None:
        assert not life.store.get("flora_run")["sent"]
    assert life.run()["status"] == "completed"
    assert flora.ledger()["started_runs"] == 1


@pytest.mark.parametrize("death", [*DEATHS, "before the start", "after the start", "before the wait"])
@pytest.mark.parametrize("kind", ["small", "large"])
def test_a_death_at_any_step_makes_no_second_run(
    either_flora: Emulator, small: Path, large: Path, kind: str, death: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = {"small": small, "large": large}[kind]
    life = run_with(file)
    with monkeypatch.context() as patch:
        if death in DEATHS:
            DEATHS[death](patch)
        elif death == "before the wait":
            patch.setattr(FloraClient, "wait_for_technique_run", _crash)
        else:
            ask = FloraClient.ask

            def dying(client: FloraClient, request: Request, read: Any) -> Any:
                if not request.spends_money or death == "after the start":
                    answer = ask(client, request, read)
                if request.spends_money:
                    raise Crash
                return answer

            patch.setattr(FloraClient, "ask", dying)
        try:
            value = life.run()
        except Crash:
            value = None
    if value is None:
        value = life.run()
    else:
        assert kind == "small"  # it has fewer steps to die in
    assert value["status"] == "completed"
    assert either_flora.ledger()["started_runs"] == 1
    assert given_to_runs(either_flora) == [file.read_bytes()]


# --- what is read, and when -------------------------------------------------------------------------------


def files_of(inputs: Any, store: Any = None) -> InputFiles:
    log = run_with("x").operator.log
    return InputFiles(inputs, _client(), UploadRecord(store, log), "a task", log)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """`with away():` no file can be opened or checked."""

    @contextmanager
    def nothing_answers() -> Iterator[None]:
        def broken(self: Path, *_: Any, **__: Any) -> Any:
            raise TimeoutError(f"the storage of {self}")

        with monkeypatch.context() as patch:
            for name in ("open", "stat", "is_file", "is_dir"):
                patch.setattr(Path, name, broken)
            yield

    return nothing_answers


class Broken(FakeStore):
    """A state store that is away."""

    def get(self, key: str, default: Any = None) -> Any:
        raise RuntimeError("no database")


def test_inputs_are_known_without_reading_anything(
    flora: Emulator, small: Path, away: Callable[[], Any], memory: str
) -> None:
    path = ObjectStoragePath(f"{memory}/poster.png")
    with away():
        files = files_of({"photo": small, "light": "neon"}, Broken())
        assert files.inputs == {"photo": str(small), "light": "neon"}
        own = [{"id": "photo", "type": "imageUrl", "value": path}, RunInput(id="a", type="text", value="b")]
        assert files_of(own, Broken()).inputs == [
            {"id": "photo", "type": "imageUrl", "value": str(path)},
            {"id": "a", "type": "text", "value": "b"},
        ]


@NEEDS_A_STORE
def test_a_run_is_resumed_while_the_storage_of_its_file_is_away(
    flora: Emulator, small: Path, away: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    life = run_with(small)
    die_in_the_wait(life, monkeypatch)
    with away():
        assert life.run()["status"] == "completed"
    assert flora.ledger()["started_runs"] == 1


def test_inputs_without_files_have_no_digests(flora: Emulator, tmp_path: Path) -> None:
    for inputs in (
        {"prompt": "a cup.png"},
        {"photo": "https://a.example/a.png", "n": 3, "none": None},
        [{"id": "prompt", "type": "text", "value": str(tmp_path / "a.png")}],
        {"photo": str(tmp_path / "none.png")},
        {"prompt": "x" * 5000 + ".png", "lines": "a\nb.png", "odd": "a\0.png", "half": "\ud83d.png"},
        {1: "a", "b": 2, None: "c", ("d",): "e.png"},
        [{"value": "a.png"}, {"id": 1}, "b.png", 5],
        "not inputs at all",
    ):
        assert files_of(inputs).compute_digests() == {}


def test_a_file_is_what_it_holds(flora: Emulator, small: Path) -> None:
    for inputs in ({"photo": small}, {1: str(small)}, [{"id": "a", "type": "imageUrl", "value": small}]):
        assert files_of(inputs).compute_digests() == {str(small): sha256(small)}
    before = sha256(small)
    small.write_bytes(picture(9, 9))
    assert files_of({"photo": small}).compute_digests() == {str(small): sha256(small)} != {str(small): before}


def test_a_storage_that_is_away_is_an_error_when_a_file_is_needed(
    flora: Emulator, small: Path, away: Callable[[], Any]
) -> None:
    files = files_of({"photo": small})
    with away(), pytest.raises(FloraFileError, match="cannot be read now") as caught:
        files.compute_digests()
    assert caught.value.remedy.retryable
    assert files.compute_digests()


@NEEDS_A_STORE
@pytest.mark.parametrize("first", ["compute_digests", "find_problem", "upload"])
def test_an_uploaded_file_that_is_gone_counts_with_what_it_held(flora: Emulator, small: Path, first: str) -> None:
    life = run_with(small)
    life.run()
    digest = sha256(small)
    small.unlink()
    files = files_of({"photo": small}, life.store)
    technique = _client().get_technique("product-relight")
    entries = [RunInput(id="photo", type="imageUrl", value=str(small))]
    calls: dict[str, Callable[[], Any]] = {
        "compute_digests": files.compute_digests,
        "find_problem": lambda: files.find_problem(str(small), "imageUrl"),
        "upload": lambda: files.upload(entries, technique),
    }
    for name in (first, *calls):
        calls[name]()
    assert files.compute_digests() == {str(small): digest}
    assert files.find_problem(str(small), "imageUrl") is None
    assert files.upload(entries, technique)[0].value.startswith("http")
    assert count(flora, "createAsset") == 1


UNKNOWN = [["what no release has written"], {"x": "y"}, {"x": {"file": "cup.png"}}, 5]


@pytest.mark.parametrize("stored", [None, *UNKNOWN], ids=repr)
def test_a_state_store_that_cannot_be_read_costs_an_upload_and_nothing_else(
    flora: Emulator, small: Path, stored: Any
) -> None:
    log = run_with(small).operator.log
    store = Broken() if stored is None else FakeStore()
    store.rows["flora_assets"] = before = json.dumps(stored or {"x": {"asset_id": "asset_1", "file": "y"}})
    memory = UploadRecord(store, log)
    files = InputFiles({"photo": small}, _client(), memory, "a task", log)
    technique = _client().get_technique("product-relight")
    entries = [RunInput(id="photo", type="imageUrl", value=str(small))]
    assert memory.sha256_of("cup.png") is None
    assert files.upload(entries, technique)[0].value.startswith("http")
    assert memory.sha256_of(str(small)) == sha256(small)
    if stored is None:  # what it could not read it must not overwrite
        assert store.rows["flora_assets"] == before


@pytest.mark.parametrize(("kind", "reads"), [("small", 1), ("large", 3)])
def test_a_small_file_is_read_once_and_a_large_one_for_its_checksum_its_type_and_its_upload(
    flora: Emulator, small: Path, large: Path, monkeypatch: pytest.MonkeyPatch, kind: str, reads: int
) -> None:
    path = {"small": small, "large": large}[kind]
    opened: list[Any] = []
    real = Path.open

    def counting(self: Path, *args: Any, **kwargs: Any) -> Any:
        if self == path:
            opened.append(self)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", counting)
    run_with(path).run()
    assert len(opened) == reads
