"""FloraUploadAssetOperator against an emulated Flora, over real sockets."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_flora.airflow_compat import AirflowFailException, ObjectStoragePath
from airflow_provider_flora.api.client import FloraClient
from airflow_provider_flora.api.errors import (
    FloraAnswerError,
    FloraAPIError,
    FloraConnectionError,
    FloraFileError,
    FloraUploadError,
)
from airflow_provider_flora.emulator import Emulator
from airflow_provider_flora.files.uploads import sending, uploader
from airflow_provider_flora.hooks.flora import FloraHook
from airflow_provider_flora.operators.uploads import FloraUploadAssetOperator
from tests.unit.airflow_names import DAG
from tests.unit.files.uploads.uploads import (
    DEATHS,
    LARGE,
    NEEDS_A_STORE,
    Connect,
    Crash,
    attach_memory,
    count,
    fetched,
    held_by,
    picture,
    picture_of_size,
    upload_of,
    write_video,
)
from tests.unit.flora_key import API_KEY
from tests.unit.operators.fake_task import HAS_STATE_STORE
from tests.unit.waiting import later

# --- what a task gives ------------------------------------------------------------------------------------


def test_a_small_file_goes_in_one_request(flora: Emulator, small: Path) -> None:
    value = upload_of(small).run()

    assert value == {
        "asset_id": value["asset_id"],
        "url": value["url"],
        "status": "ready",
        "name": "cup.png",
        "content_type": "image/png",
        "size_bytes": small.stat().st_size,
        "width": 8,
        "height": 6,
        "workspace_id": value["workspace_id"],
        "sha256": hashlib.sha256(small.read_bytes()).hexdigest(),
    }
    assert json.loads(json.dumps(value)) == value
    assert fetched(value["url"]) == small.read_bytes()
    assert count(flora, "createAsset") == 1
    assert flora.ledger()["uploads"] == []


def test_a_larger_file_goes_to_a_place_that_flora_reserves(flora: Emulator, large: Path) -> None:
    value = upload_of(large).run()

    assert (value["status"], value["size_bytes"], value["width"]) == ("ready", LARGE, 8)
    assert value["sha256"] == hashlib.sha256(large.read_bytes()).hexdigest()
    assert fetched(value["url"]) == large.read_bytes()
    [upload] = flora.ledger()["uploads"]
    assert (upload["status"], upload["method"]) == (204, "POST")
    assert upload["bytes"] > LARGE
    assert (count(flora, "createAsset"), count(flora, "completeAsset")) == (1, 1)


@pytest.mark.parametrize(("extra", "uploads"), [(-1, 0), (0, 0), (1, 1)])
def test_the_way_changes_at_exactly_4_mb(flora: Emulator, tmp_path: Path, extra: int, uploads: int) -> None:
    path = tmp_path / "clip.mp4"
    write_video(path, 4 * 1024 * 1024 + extra)
    assert upload_of(path).run()["size_bytes"] == path.stat().st_size
    assert len(flora.ledger()["uploads"]) == uploads


def test_flora_downloads_a_url_itself(flora: Emulator, url: str) -> None:
    value = upload_of(url, file_name="poster").run()

    assert (value["status"], value["name"], value["content_type"]) == ("ready", "poster", "image/png")
    assert value["sha256"] is None
    assert flora.ledger()["uploads"] == []


def test_the_url_and_the_id_are_xcoms_of_their_own(flora: Emulator, small: Path) -> None:
    life = upload_of(small)
    value = life.run()
    assert life.ti.xcoms == {"url": value["url"], "asset_id": value["asset_id"]}


def test_a_task_that_pushes_no_xcoms_pushes_none(flora: Emulator, small: Path) -> None:
    life = upload_of(small, do_xcom_push=False)
    life.run()
    assert life.ti.xcoms == {}


def test_an_asset_is_stored_as_the_user_asks(flora: Emulator, tmp_path: Path) -> None:
    path = tmp_path / "0007.dat"
    path.write_bytes(picture())
    value = upload_of(
        path,
        file_name='naïve "cup"\r\n.png',
        content_type="IMAGE/PNG; charset=x",
        folder="a/b",
        project_id="prj_emulator",
    ).run()
    [asset] = flora.ledger()["assets"]
    assert (asset["folder"], asset["project_id"]) == ("a/b", "prj_emulator")
    assert value["name"] in ('naïve "cup"\r\n.png', "naïve %22cup%22%0D%0A.png")
    assert value["content_type"] == "image/png"


def test_every_parameter_is_a_template(flora: Emulator, small: Path) -> None:
    with DAG("a_dag", schedule=None):
        life = upload_of(
            "{{ params.folder }}/cup.png",
            file_name="{{ params.missing }}",
            folder="{{ params.name }}",
            conn_id="{{ params.missing }}",
        )
    context_of = life.context

    def context(**given: Any) -> dict[str, Any]:
        return {**context_of(**given), "params": {"folder": str(small.parent), "name": "x", "missing": None}}

    life.context = context  # type: ignore[method-assign]
    assert life.run(render=True)["name"] == "cup.png"
    assert set(FloraUploadAssetOperator.template_fields) == {
        *("file", "workspace_id", "file_name", "content_type", "folder", "project_id", "conn_id", "flora_conn_id")
    }


# --- where files are --------------------------------------------------------------------------------------


def test_a_file_may_be_in_any_storage(flora: Emulator, memory: str, large: Path) -> None:
    with ObjectStoragePath(f"{memory}/poster.png").open("wb") as file:
        file.write(large.read_bytes())
    value = upload_of(f"{memory}/poster.png").run()
    assert value["name"] == "poster.png"
    assert fetched(value["url"]) == large.read_bytes()


@pytest.mark.parametrize(
    ("uri", "conn_id"), [("s3://store@files/{}", None), ("s3://files/{}", "store")], ids=["in the URI", "given"]
)
@pytest.mark.parametrize("key", ["in/poster.png", "größe 1/50% #1?.png"])
def test_a_file_may_be_an_object_of_any_name(
    flora: Emulator, s3: Any, large: Path, uri: str, conn_id: str | None, key: str
) -> None:
    s3.put_object(Bucket="files", Key=key, Body=large.read_bytes())
    value = upload_of(uri.format(key), conn_id=conn_id).run()
    assert (value["name"], value["size_bytes"]) == (key.rpartition("/")[2], LARGE)
    assert fetched(value["url"]) == large.read_bytes()


def test_a_file_may_be_a_file_uri_or_a_path_of_airflows(flora: Emulator, small: Path) -> None:
    assert upload_of(f"file://{small}").run()["name"] == "cup.png"
    assert upload_of(ObjectStoragePath(f"file://{small}")).run()["name"] == "cup.png"


@pytest.mark.parametrize(
    ("given", "conn_id"),
    [("memory://shelf@photos/a.png", None), ("memory://photos/a.png", "shelf")],
)
def test_a_storage_has_the_connection_of_its_uri_or_of_the_parameter(
    flora: Emulator, memory: str, given: str, conn_id: str | None
) -> None:
    with ObjectStoragePath(f"{memory}/a.png").open("wb") as file:
        file.write(picture())
    with pytest.raises(AirflowFailException, match="cannot be read"):
        upload_of(given.replace("shelf", "nowhere"), conn_id=conn_id and "nowhere").run()
    attach_memory("shelf")
    assert upload_of(given, conn_id=conn_id).run()["name"] == "a.png"


def test_an_unreadable_value_is_refused_before_any_request(flora: Emulator, memory: str, tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    for file, words in {
        str(tmp_path / "none.png"): r"There is no file '.*none\.png' on the worker\. Use its full path",
        "photos/none.png": rf"'photos/none\.png' \(relative to {Path.cwd()}\) on the worker",
        f"{memory}/none.png": r"There is no file '.*none\.png' in that storage\. Check the bucket",
        str(tmp_path / "folder.png"): "is a folder",
        "nosuch://bucket/a.png": "provider for this storage",
        "": "file takes a path",
        f"{tmp_path}/cup.png/x.png": "There is no file|cannot be read",
    }.items():
        with pytest.raises(AirflowFailException, match=words):
            upload_of(file).run()
    assert count(flora, "createAsset") == 0


def test_a_transient_error_of_a_storage_is_retried(
    flora: Emulator, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    life = upload_of(small)

    def broken(*_: Any, **__: Any) -> Any:
        raise ConnectionResetError("peer")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", broken)
        with pytest.raises(FloraFileError, match="cannot be read now: ConnectionResetError"):
            life.run()
    assert life.run()["status"] == "ready"


def test_a_file_that_changes_while_it_is_read_is_no_asset(
    flora: Emulator, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def growing(*args: Any) -> Any:
        with large.open("ab") as file:
            file.write(b"more")
        return real(*args)

    real = sending._request
    monkeypatch.setattr(sending, "_request", growing)
    with pytest.raises(FloraFileError, match="changed while it was being read"):
        upload_of(large).run()
    assert held_by(flora) == []


# --- what Flora does not take -----------------------------------------------------------------------------


NO_TYPE = r"Flora accepts images \(jpeg, png.*Convert the file"
TOO_LARGE = r"15001 x 10000 = 150,010,000 pixels\. Flora accepts up to 150 mega"


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        *((name, b"x", NO_TYPE) for name in ("a.bmp", "a.svg", "a.txt", "a", "a.tar.gz", ".png")),
        ("map.png", picture_of_size(15_001, 10_000), TOO_LARGE),
        ("a.png", b"", "is empty"),
        ("http://pictures.example/a.png", None, "only fetches https:// URLs"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_what_flora_does_not_take_is_refused_before_a_byte_is_sent(
    flora: Emulator, tmp_path: Path, name: str, content: bytes | None, why: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(AirflowFailException, match=why):
        upload_of(name if content is None else tmp_path / name).run()
    assert count(flora, "createAsset") == 0


def test_a_content_type_that_flora_refuses_is_refused(flora: Emulator, small: Path) -> None:
    for file in (str(small), f"{flora.origin}/media/samples/poster.png"):
        with pytest.raises(AirflowFailException, match=r"'image/bmp'.*Flora accepts images"):
            upload_of(file, content_type="image/bmp").run()
    assert count(flora, "createAsset") == 0


def test_a_url_that_flora_cannot_download_is_reported_in_floras_words(flora: Emulator) -> None:
    url = f"{flora.origin}/media/none.png"
    with pytest.raises(AirflowFailException, match=rf"Flora refused '{url}'.*source: Could not be fetched"):
        upload_of(url).run()


@pytest.mark.parametrize(("name", "prefix"), [("workspace_id", "ws_"), ("project_id", "prj_")])
def test_an_invalid_id_is_refused_before_any_request(flora: Emulator, small: Path, name: str, prefix: str) -> None:
    with pytest.raises(AirflowFailException, match=rf"{name} takes an id that begins with {prefix}, not 'mine'"):
        upload_of(small, **{name: "mine"}).run()
    assert count(flora, "createAsset") == 0


# --- the workspace ----------------------------------------------------------------------------------------


def test_the_workspace_is_the_connections_before_the_keys(flora: Emulator, small: Path, connect: Connect) -> None:
    only = FloraHook().get_conn().list_workspaces()[0].workspace_id
    assert upload_of(small).run()["workspace_id"] == only
    asked = count(flora, "listWorkspaces")
    connect(flora, workspace_id=only)
    assert upload_of(small).run()["workspace_id"] == only
    assert upload_of(small, workspace_id=only).run()["workspace_id"] == only
    assert count(flora, "listWorkspaces") == asked
    with pytest.raises(AirflowFailException, match="403"):
        upload_of(small, workspace_id="ws_other").run()


def test_of_several_workspaces_none_is_guessed(
    flora: Emulator, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow_provider_flora.api.models import Workspace

    two = [Workspace(workspace_id="ws_a"), Workspace(workspace_id="ws_b")]
    monkeypatch.setattr(FloraClient, "list_workspaces", lambda self: two)
    with pytest.raises(AirflowFailException, match=r"the API key has ws_a, ws_b\. Set workspace_id"):
        upload_of(small).run()


# --- the key ----------------------------------------------------------------------------------------------


def test_the_key_never_goes_to_the_upload_host(
    flora: Emulator, large: Path, logged: Callable[[], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    flora.order_fault("status", operation="uploadBytes", status=503)
    upload_of(large).run()
    # Elsewhere than on this machine the environment counts: for a proxy, never for a password.
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(sending, "_check_host", lambda url, settings: "storage.example")
    upload_of(large).run()
    uploads = flora.ledger()["uploads"]
    assert uploads
    assert not any(upload["authorization"] for upload in uploads)
    shown = logged()
    assert "Uploading" in shown
    assert API_KEY not in shown


def test_the_upload_host_leads_nowhere_else(flora: Emulator, large: Path) -> None:
    flora.order_fault("redirect", operation="uploadBytes", location=f"{flora.base_url}/assets", times=None)
    with pytest.raises(FloraUploadError, match="answered 302"):
        upload_of(large).run()
    assert count(flora, "unknown") == 0


def test_no_error_shows_the_address_or_the_form_of_an_upload(
    flora: Emulator, large: Path, logged: Callable[[], str]
) -> None:
    flora.order_fault("reset", operation="uploadBytes", times=None)
    with pytest.raises(FloraUploadError) as caught:
        upload_of(large).run()
    shown = f"{caught.value!r} {caught.value} {caught.value.__cause__!r} {logged()}"
    assert "did not reach the upload host 127.0.0.1" in shown
    assert "/uploads/" not in shown
    assert "policy" not in shown.lower()
    assert "signature" not in shown.lower()


# --- what breaks on the way -------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["createAsset", "uploadBytes", "completeAsset", "getAsset"])
@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "status", "status": 503},
        {"kind": "status", "status": 429, "retry_after": 0.01},
        {"kind": "reset"},
        {"kind": "reset", "when": "during"},
        {"kind": "reset", "when": "after"},
        {"kind": "html"},
        {"kind": "html", "when": "after", "status": 200},
        {"kind": "cut_json", "when": "after"},
    ],
    ids=lambda fault: "-".join(map(str, fault.values())),
)
def test_a_transient_error_at_any_step_costs_nothing_but_time(
    flora: Emulator, large: Path, operation: str, fault: dict[str, Any]
) -> None:
    flora.order_fault(**fault, operation=operation)
    value = upload_of(large).run()
    assert fetched(value["url"]) == large.read_bytes()
    assert [asset.asset_id for asset in held_by(flora)] == [value["asset_id"]]


@pytest.mark.parametrize("fault", [{"kind": "reset", "when": "after"}, {"kind": "cut_json", "when": "after"}])
def test_a_small_file_survives_a_lost_answer(flora: Emulator, small: Path, fault: dict[str, Any]) -> None:
    flora.order_fault(**fault, operation="createAsset")
    value = upload_of(small).run()
    assert fetched(value["url"]) == small.read_bytes()


def test_a_change_is_sent_again_only_with_its_key(
    flora: Emulator, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[str, str | None]] = []
    ask = FloraClient.ask

    def recording(self: FloraClient, request: Any, read: Any) -> Any:
        if request.method == "POST":
            sent.append((request.path, request.headers(self.settings).get("Idempotency-Key")))
        return ask(self, request, read)

    monkeypatch.setattr(FloraClient, "ask", recording)
    for operation in ("createAsset", "completeAsset"):
        flora.order_fault("status", operation=operation)
    upload_of(large).run()
    assert len(sent) == 4
    assert all(key for _, key in sent)
    assert len(set(sent)) == 2


def test_a_failed_asset_is_retried_as_flora_allows(flora: Emulator, large: Path, small: Path) -> None:
    for file in (large, small):
        flora.order_fault("fail_asset", failure_message="the disk is full")
        value = upload_of(file).run()
        assert fetched(value["url"]) == file.read_bytes()
    assert count(flora, "retryAsset") == 2


def test_an_expired_upload_gets_a_new_reservation(flora: Emulator, large: Path) -> None:
    flora.order_fault("expire_upload")
    value = upload_of(large).run()
    assert fetched(value["url"]) == large.read_bytes()
    assert (count(flora, "retryAsset"), count(flora, "createAsset")) == (1, 1)
    assert [upload["status"] for upload in flora.ledger()["uploads"]] == [403, 204]


def test_all_reservations_of_a_file_share_its_retries(flora: Emulator, large: Path) -> None:
    for status, times in ((503, 2), (403, 1), (503, None)):
        flora.order_fault("status", operation="uploadBytes", status=status, times=times)
    with pytest.raises(FloraUploadError, match="503"):
        upload_of(large).run()
    assert [upload["status"] for upload in flora.ledger()["uploads"]] == [503, 503, 403, 503]


def test_an_upload_that_goes_on_failing_ends(flora: Emulator, large: Path) -> None:
    flora.order_fault("fail_asset", failure_message="the disk is full", times=None)
    with pytest.raises(FloraUploadError, match=r"poster\.png.*the disk is full"):
        upload_of(large).run()
    assert len(flora.ledger()["uploads"]) == 1 + uploader.RENEWALS


def test_an_asset_that_moderation_refuses_is_not_tried_again_by_airflow(flora: Emulator, large: Path) -> None:
    flora.order_fault("fail_asset", failure_message="refused by our safety system", times=None)
    with pytest.raises(AirflowFailException, match="safety system"):
        upload_of(large).run()


def test_an_asset_that_does_not_get_ready_is_given_up_in_time(
    flora: Emulator, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    life = upload_of(large)
    with monkeypatch.context() as patch:
        patch.setattr(uploader, "READY_WITHIN", 0.02)
        patch.setattr(flora._service._asset_operations, "_asset_seconds", 30.0)
        with pytest.raises(FloraUploadError, match=r"not processed it after 0\.02 s.*A retry waits for it again"):
            life.run()
    later(flora, monkeypatch)
    life.run()
    assert len(flora.ledger()["uploads"]) == (1 if HAS_STATE_STORE else 2)


def test_a_flora_that_does_not_answer_is_an_error_that_airflow_retries(flora: Emulator, small: Path) -> None:
    flora.order_fault("reset", operation="createAsset", times=None)
    with pytest.raises(FloraConnectionError):
        upload_of(small).run()
    flora.clear_faults()
    flora.order_fault("status", status=401, operation="createAsset")
    with pytest.raises(AirflowFailException, match="401"):
        upload_of(small).run()


def test_a_reservation_without_a_form_is_put_to(
    flora: Emulator, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _reserve(monkeypatch, upload=None)
    value = upload_of(large).run()
    assert fetched(value["url"]) == large.read_bytes()
    [upload] = flora.ledger()["uploads"]
    assert (upload["method"], upload["bytes"]) == ("PUT", LARGE)


def test_a_reservation_without_a_place_is_no_answer(
    flora: Emulator, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _reserve(monkeypatch, upload=None, upload_url=None)
    with pytest.raises(FloraAnswerError, match="without an upload address"):
        upload_of(large).run()


@pytest.mark.parametrize("url", ["http://storage.example/a?X-Signature=4711", "ftp://storage.example/4711", "4711"])
def test_nothing_is_sent_to_a_place_that_anybody_could_read_on_the_way(
    flora: Emulator, large: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    _reserve(monkeypatch, upload=None, upload_url=url)
    with pytest.raises(AirflowFailException, match="not https://") as caught:
        upload_of(large).run()
    assert "4711" not in str(caught.value)


def _reserve(patch: pytest.MonkeyPatch, **changed: Any) -> None:
    create = FloraClient.create_asset

    def reserving(self: FloraClient, *args: Any, **kwargs: Any) -> Any:
        return create(self, *args, **kwargs).model_copy(update=changed)

    patch.setattr(FloraClient, "create_asset", reserving)


def test_what_is_too_large_for_the_upload_host_is_not_sent_again(flora: Emulator, large: Path) -> None:
    flora.order_fault("status", status=413, operation="uploadBytes", times=None)
    with pytest.raises(AirflowFailException, match=rf"answered 413 .*{LARGE} bytes.*Make the file smaller"):
        upload_of(large).run()
    assert count(flora, "uploadBytes") == 1


@NEEDS_A_STORE
@pytest.mark.parametrize("kind", ["small", "large"])
def test_an_asset_that_failed_in_an_earlier_attempt_is_sent_again(
    flora: Emulator, small: Path, large: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = {"small": small, "large": large}[kind]
    life = upload_of(file)
    with monkeypatch.context() as patch:
        patch.setattr(uploader, "RENEWALS", 0)
        for _ in range(2):
            flora.order_fault("fail_asset", failure_message="the disk is full")
        with pytest.raises(FloraUploadError, match="the disk is full"):
            life.run()
    flora.clear_faults()
    assert fetched(life.run()["url"]) == file.read_bytes()
    assert count(flora, "createAsset") == 1


# --- retries of the task ----------------------------------------------------------------------------------


@pytest.mark.parametrize("death", DEATHS)
@pytest.mark.parametrize("kind", ["small", "large"])
def test_a_retry_after_a_death_leaves_one_whole_asset(
    either_flora: Emulator, small: Path, large: Path, kind: str, death: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = {"small": small, "large": large}[kind]
    life = upload_of(file)
    with monkeypatch.context() as patch:
        DEATHS[death](patch)
        try:
            life.run()
        except Crash:
            pass
        else:
            assert kind == "small"  # it has fewer steps to die in
    value = life.run()
    assert fetched(value["url"]) == file.read_bytes()
    held = held_by(either_flora)
    assert value["asset_id"] in {asset.asset_id for asset in held}
    assert all(fetched(asset.url) == file.read_bytes() for asset in held)
    if HAS_STATE_STORE and death not in ("after the asset is made", "when the bytes have been sent"):
        assert len(held) == 1


@NEEDS_A_STORE
@pytest.mark.parametrize("kind", ["small", "large"])
def test_a_retry_does_not_upload_what_is_there(flora: Emulator, small: Path, large: Path, kind: str) -> None:
    life = upload_of({"small": small, "large": large}[kind])
    first = life.run()
    requests = count(flora, "createAsset"), count(flora, "uploadBytes")
    assert life.run() == first
    life.clear()
    assert life.run() == first
    assert (count(flora, "createAsset"), count(flora, "uploadBytes")) == requests


@NEEDS_A_STORE
def test_other_content_or_another_place_is_another_asset(flora: Emulator, small: Path, tmp_path: Path) -> None:
    life = upload_of(small)
    first = life.run()
    small.write_bytes(picture(9, 9))
    second = life.run()
    assert (second["asset_id"] != first["asset_id"], second["width"]) == (True, 9)
    life.operator.folder = "elsewhere"
    third = life.run()
    assert third["asset_id"] not in (first["asset_id"], second["asset_id"])
    assert life.run() == third


@NEEDS_A_STORE
def test_a_url_is_downloaded_once_until_the_task_is_cleared(flora: Emulator, url: str) -> None:
    life = upload_of(url)
    first = life.run()
    assert life.run() == first
    life.clear()
    assert life.run()["asset_id"] != first["asset_id"]
    assert count(flora, "createAsset") == 1 + 2


@NEEDS_A_STORE
@pytest.mark.parametrize("kind", ["small", "large", "url"])
def test_an_asset_that_flora_has_lost_is_made_again(
    flora: Emulator, small: Path, large: Path, url: str, kind: str
) -> None:
    life = upload_of({"small": small, "large": large, "url": url}[kind])
    first = life.run()
    for entry in (stored := json.loads(life.store.rows["flora_assets"])).values():  # type: ignore[union-attr]
        entry["asset_id"] = "asset_gone"
    life.store.set("flora_assets", stored)  # type: ignore[union-attr]
    assert life.run()["asset_id"] != first["asset_id"]


@NEEDS_A_STORE
def test_a_store_that_breaks_costs_an_upload_and_nothing_else(flora: Emulator, small: Path) -> None:
    life = upload_of(small)
    life.store.broken.append(RuntimeError("no database"))  # type: ignore[union-attr]
    assert life.run()["asset_id"] != life.run()["asset_id"]
    assert len(held_by(flora)) == 2


# --- memory -----------------------------------------------------------------------------------------------


def test_200_mb_go_through_little_memory(flora: Emulator, tmp_path: Path, connect: Connect) -> None:
    connect(flora, timeout=60)
    path = tmp_path / "clip.mp4"
    write_video(path, 200 * 1024 * 1024)
    life = upload_of(path)
    life.context(next_try=False)
    tracemalloc.start()
    try:
        value = life.run()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert value["size_bytes"] == 200 * 1024 * 1024
    assert peak < 24 * 1024 * 1024, peak  # the emulator's share in it, which is in this process too


# --- the hook ---------------------------------------------------------------------------------------------


def test_the_hook_uploads_gets_and_lists(flora: Emulator, small: Path) -> None:
    hook = FloraHook()
    asset = hook.upload_asset(str(small), folder="x")
    assert asset.ready
    assert hook.get_asset(asset.asset_id) == asset
    assert [found.asset_id for found in hook.list_assets("cup", page_size=1)] == [asset.asset_id]
    with pytest.raises(FloraFileError, match="There is no file"):
        hook.upload_asset("/none.png")
    with pytest.raises(FloraAPIError, match="404"):
        hook.get_asset("asset_none")
