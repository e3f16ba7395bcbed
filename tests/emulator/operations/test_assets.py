"""Assets: three ways in, and what Flora says of each."""

from __future__ import annotations

import hashlib
import io
import re
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from PIL import Image, ImageChops, ImageStat

from tests.emulator.caller import image, text, wait_until

MB = 1024 * 1024
CREATED = {"asset_id", "workspace_id", "status", "uploaded_via", "url", "visibility"}
RESERVED = {*CREATED, "expires_at", "upload", "upload_url"}


def png(colour="red", size=(64, 48)):
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


def fields(answer):
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["code"] == "input_validation_error"
    return [problem["field"] for problem in answer.json()["error"]["fields"]]


def reserved(flora, **body):
    answer = flora.create_asset(**{"file_name": "photo.png", **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


def change(flora, asset, what, **options):
    return flora.send("POST", f"/assets/{asset['asset_id']}/{what}", **options)


def in_the_ledger(flora):
    return flora.emulator.ledger()["assets"]


def files_on_disk(flora):
    folder = flora.emulator._assets._folder
    return [] if folder is None else list(Path(folder.name).iterdir())


# The file itself


def test_a_small_file_is_an_asset_at_once(flora):
    content = png()
    answer = flora.send_file(content, fields={"folder": "in", "project_id": "prj_emulator"}, part_type="image/png")
    created = answer.json()
    assert answer.status_code == 200
    assert set(created) == CREATED
    assert (created["status"], created["uploaded_via"], created["visibility"]) == ("ready", "direct", "workspace")
    asset = flora.get(f"/assets/{created['asset_id']}").json()
    assert datetime.fromisoformat(asset.pop("created_at").replace("Z", "+00:00")).timestamp() == pytest.approx(
        time.time(), abs=5
    )
    assert asset == {
        "asset_id": created["asset_id"],
        "workspace_id": "ws_emulator",
        "status": "ready",
        "uploaded_via": "direct",
        "url": created["url"],
        "name": "photo.png",
        "description": None,
        "content_type": "image/png",
        "upload_content_type": "image/png",
        "size_bytes": len(content),
        "width": 64,
        "height": 48,
        "failure_message": None,
    }
    served = requests.get(asset["url"], timeout=60)
    assert (served.content, served.headers["content-type"]) == (content, "image/png")
    assert int(served.headers["content-length"]) == len(content)
    (entry,) = in_the_ledger(flora)
    assert entry == {
        "asset_id": created["asset_id"],
        "status": "ready",
        "uploaded_via": "direct",
        "name": "photo.png",
        "folder": "in",
        "project_id": "prj_emulator",
        "content_type": "image/png",
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "failure_message": None,
    }


def test_a_file_of_4_mb_is_taken_and_one_byte_more_is_not(flora):
    assert flora.send_file(bytes(4 * MB)).status_code == 200
    assert fields(flora.send_file(bytes(4 * MB + 1))) == ["file"]
    assert fields(flora.send_file(bytes(9 * MB))) == ["file"]
    assert fields(flora.send_file(b"")) == ["file"]
    assert len(in_the_ledger(flora)) == 1


@pytest.mark.parametrize(
    ("name", "part_type", "declared", "kind"),
    [
        ("a.png", None, None, "image/png"),
        ("a.PNG", "application/octet-stream", None, "image/png"),
        ("a.bin", "image/webp", None, "image/webp"),
        ("a.bin", None, "video/quicktime", "video/quicktime"),
        ("a.jpeg", None, None, "image/jpeg"),
        ("a.heic", None, None, "image/heic"),
        ("a.mov", None, None, "video/quicktime"),
        ("a.mp3", None, None, "audio/mpeg"),
        ("a.wav", None, None, "audio/wav"),
        ("a.pdf", None, None, "application/pdf"),
        ("a.png", None, "image/gif; x=y", "image/gif"),
    ],
)
def test_the_type_is_the_clients_or_else_that_of_the_name(flora, name, part_type, declared, kind):
    answer = flora.send_file(b"x", name, part_type=part_type, fields={"content_type": declared} if declared else {})
    asset = flora.get(f"/assets/{answer.json()['asset_id']}").json()
    assert (asset["content_type"], asset["width"]) == (kind, None)
    assert requests.get(asset["url"], timeout=60).headers["content-type"] == kind


@pytest.mark.parametrize(
    ("name", "part_type", "declared", "field"),
    [
        ("a.txt", None, None, "file"),
        ("a", None, None, "file"),
        ("a.png", "text/html", None, "file"),
        ("a.png", None, "image/jpg", "content_type"),
        ("a.svg", None, "image/svg+xml", "content_type"),
    ],
)
def test_other_types_are_refused(flora, name, part_type, declared, field):
    answer = flora.send_file(b"x", name, part_type=part_type, fields={"content_type": declared} if declared else {})
    assert fields(answer) == [field]
    assert "image/heif" in answer.json()["error"]["message"], "says which would do"


def test_a_name_of_any_letters_arrives_as_it_is(flora):
    for name in ('Ein "Bild" 日本.png', "a;b=c.png"):
        form = {"workspace_id": "ws_emulator", "file_name": name}
        answer = flora.send("POST", "/assets", files={"file": ("x.png", b"x")}, data=form)
        assert flora.get(f"/assets/{answer.json()['asset_id']}").json()["name"] == name
    sent = (
        '--b\r\nContent-Disposition: form-data; name="file"; filename="Bild 日本.png"\r\n\r\nx\r\n--b\r\n'
        'Content-Disposition: form-data; name="workspace_id"\r\n\r\nws_emulator\r\n--b--\r\n'
    ).encode()
    header = {"content-type": "multipart/form-data; boundary=b"}
    answer = flora.send("POST", "/assets", data=sent, headers=header)
    assert flora.get(f"/assets/{answer.json()['asset_id']}").json()["name"] == "Bild 日本.png"


@pytest.mark.parametrize("body", [b"", b"--b", b"--b\r\nno header\r\n--b--", b"--b\r\n\r\nx\r\n--b--\r\n"])
def test_a_broken_form_is_refused(flora, body):
    header = {"content-type": "multipart/form-data; boundary=b"}
    assert fields(flora.send("POST", "/assets", data=body, headers=header)) == ["body"]


def test_images_have_at_most_150_megapixels(flora):
    def black(width, height):
        file = io.BytesIO()
        Image.new("1", (width, height)).save(file, "PNG")
        return file.getvalue()

    assert flora.send_file(black(15_000, 10_000)).status_code == 200
    too_many = black(15_000, 10_001)
    assert fields(flora.send_file(too_many)) == ["file"]
    assert fields(flora.send_file(black(20_000, 20_000))) == ["file"]
    assert len(files_on_disk(flora)) == 1, "what was refused is not kept"
    reservation = reserved(flora)
    flora.upload(reservation, too_many)
    change(flora, reservation, "complete")
    asset = flora.asset(reservation["asset_id"])
    assert asset["status"] == "failed"
    assert "150 megapixels" in asset["failure_message"]


# What the body may say


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ({"workspace_id": "emulator"}, ["workspace_id"]),
        ({"workspace_id": ""}, ["workspace_id"]),
        ({"source": 3, "folder": "", "file_name": None}, ["source", "file_name", "folder"]),
        ({"colour": "red"}, ["colour"]),
        ({"content_type": "text/plain"}, ["content_type"]),
        ({"file_name": "notes.txt"}, ["content_type"]),
        ({"source": "ftp://example.com/a.png"}, ["source"]),
    ],
)
def test_every_field_that_is_wrong_is_named(flora, body, names):
    assert fields(flora.create_asset(**body)) == names
    assert in_the_ledger(flora) == []


def test_what_is_required_is_asked_for(flora):
    assert fields(flora.send("POST", "/assets", json={})) == ["source", "workspace_id"]
    assert fields(flora.send("POST", "/assets", files={"x": b"x"})) == ["x", "file", "workspace_id"]
    assert fields(flora.send("POST", "/assets", json=[])) == ["body"]
    answer = flora.send("POST", "/assets", data=b"{")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json")


def test_places_that_are_not_there(flora):
    assert flora.create_asset(workspace_id="ws_other").status_code == 403
    assert flora.create_asset(project_id="prj_other").status_code == 404
    assert flora.create_asset(project_id="3f2a").status_code == 500, "as opaque as Flora's"
    for method, path in (("GET", ""), ("POST", "/complete"), ("POST", "/retry")):
        assert flora.send(method, f"/assets/asset_nope{path}").status_code == 404


def test_every_operation_needs_the_key(flora):
    asset_id = reserved(flora)["asset_id"]
    for method, path in (
        ("POST", "/assets"),
        ("GET", "/assets"),
        ("GET", f"/assets/{asset_id}"),
        ("POST", f"/assets/{asset_id}/complete"),
        ("POST", f"/assets/{asset_id}/retry"),
    ):
        assert flora.send(method, path, key="sk_test_wrong").status_code == 401


# By URL


def test_a_url_of_the_emulator_is_downloaded(flora):
    url = f"{flora.emulator.origin}/media/samples/mug.png"
    created = flora.create_asset(source=url, folder="in").json()
    assert set(created) == CREATED
    assert (created["status"], created["uploaded_via"]) == ("ready", "url")
    asset = flora.asset(created["asset_id"])
    assert (asset["name"], asset["content_type"], asset["width"]) == ("mug.png", "image/png", 640)
    assert requests.get(asset["url"], timeout=60).content == requests.get(url, timeout=5).content


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/a.png",
        "https://localhost/a.png",
        "https://10.0.0.1/a.png",
        "https://169.254.169.254/latest/meta-data/",
        "https://metadata.google.internal/",
        "http://127.0.0.1:1/a.png",
        "https://[::1]/a.png",
        "https://user:word@example.com/a.png",
        "https://[/a.png",
    ],
)
def test_private_places_are_not_downloaded(flora, url):
    assert fields(flora.create_asset(source=url)) == ["source"]


def test_nor_are_they_by_a_redirect(flora):
    for place in ("http://127.0.0.1:1/", "https://169.254.169.254/", "http://example.com/"):
        flora.emulator.order_fault("redirect", operation="getMedia", location=place)
        answer = flora.create_asset(source=f"{flora.emulator.origin}/media/samples/mug.png")
        assert fields(answer) == ["source"]
        assert "HTTPS" in answer.text or "private" in answer.text
    flora.emulator.order_fault("redirect", operation="getMedia", location="/media/samples/lamp.png")
    answer = flora.create_asset(source=f"{flora.emulator.origin}/media/samples/mug.png")
    assert answer.status_code == 200
    flora.emulator.order_fault("redirect", operation="getMedia", location="/media/samples/lamp.png", times=None)
    answer = flora.create_asset(source=f"{flora.emulator.origin}/media/samples/mug.png")
    assert "too many redirects" in answer.text


def test_nor_by_a_public_name_for_a_private_address(flora, monkeypatch):
    import socket

    real = socket.getaddrinfo

    def lookup(host, *args, **options):
        return real("127.0.0.1" if host == "rebound.example.com" else host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    port = flora.emulator.port
    answer = flora.create_asset(source=f"https://rebound.example.com:{port}/a.png")
    assert fields(answer) == ["source"]
    assert "no public address" in answer.text


def test_a_url_that_cannot_be_downloaded_is_an_error(flora):
    origin = f"{flora.emulator.origin}/media"
    assert "404" in flora.create_asset(source=f"{origin}/none.png").json()["error"]["message"]
    assert fields(flora.create_asset(source=f"{origin}/blobs/10/x.bin")) == ["source"], "a type Flora does not take"
    flora.emulator.order_fault("cut_media")
    assert fields(flora.create_asset(source=f"{origin}/samples/mug.png")) == ["source"]
    assert (in_the_ledger(flora), files_on_disk(flora)) == ([], [])


def test_50_mb_are_downloaded_and_no_more(flora):
    origin = f"{flora.emulator.origin}/media/blobs"
    assert flora.create_asset(source=f"{origin}/{50 * MB}/a.mp4").status_code == 200
    assert fields(flora.create_asset(source=f"{origin}/{50 * MB + 1}/a.mp4")) == ["source"]


# By signed upload


def test_a_reservation_describes_the_upload_to_another_origin(flora):
    reservation = reserved(flora, content_type="image/png")
    assert set(reservation) == RESERVED
    assert (reservation["status"], reservation["uploaded_via"]) == ("pending_upload", "signed_url")
    expires_at = datetime.fromisoformat(reservation["expires_at"].replace("Z", "+00:00")).timestamp()
    assert expires_at == pytest.approx(time.time() + 900, abs=5)
    upload = reservation["upload"]
    assert set(upload) == {"method", "url", "content_type", "file_field", "form_fields"}
    assert (upload["method"], upload["content_type"], upload["file_field"]) == (
        "POST",
        "multipart/form-data",
        "file",
    )
    assert set(upload["form_fields"]) == {"key", "Content-Type", "policy", "signature"}
    own, other = urlsplit(flora.emulator.origin), urlsplit(upload["url"])
    assert other.hostname == own.hostname
    assert other.port == flora.emulator.upload_port != own.port
    asset = flora.get(f"/assets/{reservation['asset_id']}").json()
    assert (asset["status"], asset["url"], asset["size_bytes"]) == ("pending_upload", None, None)
    assert requests.get(reservation["url"], timeout=60).status_code == 404


def test_what_is_uploaded_and_completed_becomes_ready_after_a_while(emulate):
    flora = emulate(asset_seconds=600)
    reservation, content = reserved(flora, folder="in"), png("blue")
    sent = flora.upload(reservation, content)
    assert (sent.status_code, sent.content) == (204, b"")
    assert flora.get(f"/assets/{reservation['asset_id']}").json()["status"] == "pending_upload", "not completed"
    completed = change(flora, reservation, "complete").json()
    assert set(completed) == CREATED
    assert (completed["status"], completed["url"]) == ("pending_upload", None)
    assert requests.get(reservation["url"], timeout=60).status_code == 404, "not ready"
    flora.later(600)
    asset = flora.asset(reservation["asset_id"])
    assert (asset["status"], asset["url"], asset["width"]) == ("ready", reservation["url"], 64)
    assert requests.get(asset["url"], timeout=60).content == content
    again = change(flora, reservation, "complete").json()
    assert (again["status"], again["url"]) == ("ready", asset["url"])
    (entry,) = in_the_ledger(flora)
    assert (entry["status"], entry["sha256"]) == ("ready", hashlib.sha256(content).hexdigest())
    (upload,) = flora.emulator.ledger()["uploads"]
    assert upload["authorization"] is False
    assert (upload["asset_id"], upload["method"], upload["status"]) == (reservation["asset_id"], "POST", 204)


def test_the_upload_url_takes_the_bytes_alone(flora):
    reservation, content = reserved(flora), png()
    assert requests.put(f"{reservation['upload_url']}x", data=content, timeout=60).status_code == 403
    assert requests.put(reservation["upload_url"], data=content, timeout=60).status_code == 204
    change(flora, reservation, "complete")
    asset = flora.asset(reservation["asset_id"])
    assert requests.get(asset["url"], timeout=60).content == content


def test_a_key_that_is_sent_to_the_storage_host_is_in_the_ledger(flora):
    flora.emulator.order_fault("status", operation="uploadBytes")
    for _ in range(2):
        flora.upload(reserved(flora), png(), headers={"authorization": "Bearer sk_test_emulator"})
    uploads = flora.emulator.ledger()["uploads"]
    assert [(upload["authorization"], upload["status"]) for upload in uploads] == [(True, 503), (True, 204)]


def test_the_type_of_an_upload_may_be_known_late(flora):
    reservation = flora.create_asset().json()
    assert "Content-Type" not in reservation["upload"]["form_fields"]
    flora.upload(reservation, png())
    change(flora, reservation, "complete")
    asset = flora.asset(reservation["asset_id"])
    assert (asset["content_type"], asset["upload_content_type"], asset["name"]) == ("image/png", None, None)
    other = flora.create_asset().json()
    requests.put(other["upload_url"], data=b"x", headers={"content-type": "text/plain"}, timeout=60)
    change(flora, other, "complete")
    asset = flora.asset(other["asset_id"])
    assert asset["status"] == "failed"
    assert "Unsupported type" in asset["failure_message"]


def test_wrong_fields_are_refused_in_xml(flora):
    reservation = reserved(flora)
    good = reservation["upload"]["form_fields"]
    for wrong, status in (
        ({**good, "signature": "0"}, 403),
        ({**good, "policy": "e30="}, 403),
        ({name: value for name, value in good.items() if name != "key"}, 400),
        (reserved(flora)["upload"]["form_fields"], 403),
    ):
        answer = flora.upload(reservation, png(), fields=wrong)
        assert answer.status_code == status
        assert answer.headers["content-type"].startswith("application/xml")
        assert re.search("<Code>.+</Code><Message>.+</Message>", answer.text)
        assert "request-id" not in answer.headers, "it is not Flora who answers"
    assert [upload["status"] for upload in flora.emulator.ledger()["uploads"]] == [403, 403, 400, 403]
    assert change(flora, reservation, "complete").status_code == 409


def test_fields_after_the_file_do_not_count(flora):
    reservation = reserved(flora)
    form = [("file", ("a.png", png())), *((k, (None, v)) for k, v in reservation["upload"]["form_fields"].items())]
    answer = requests.post(reservation["upload"]["url"], files=form, timeout=60)
    assert (answer.status_code, "before the file" in answer.text) == (400, True)


@pytest.mark.parametrize("end", [b"", b"\r\n--b"])
def test_a_form_without_its_end_is_refused(flora, end):
    reservation = reserved(flora)
    parts = [
        f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in reservation["upload"]["form_fields"].items()
    ]
    body = "".join(parts).encode() + b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\n' + png() + end
    header = {"content-type": "multipart/form-data; boundary=b"}
    answer = requests.post(reservation["upload"]["url"], data=body, headers=header, timeout=60)
    assert (answer.status_code, "MalformedPOSTRequest" in answer.text) == (400, True)
    assert files_on_disk(flora) == []


def test_a_reservation_can_be_used_again_until_it_is_completed(flora):
    reservation = reserved(flora)
    flora.upload(reservation, png("red"))
    flora.upload(reservation, png("blue"))
    assert len(files_on_disk(flora)) == 1
    change(flora, reservation, "complete")
    assert flora.upload(reservation, png("green")).status_code == 403
    served = requests.get(flora.asset(reservation["asset_id"])["url"], timeout=60).content
    assert served == png("blue")


def test_completing_what_was_not_uploaded_is_a_conflict(flora):
    answer = change(flora, reserved(flora), "complete")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "conflict")


def test_an_expired_upload_is_retried_with_a_fresh_reservation(flora):
    former = reserved(flora)
    assert change(flora, former, "retry").status_code == 409, "it can still be used"
    flora.later(900)
    answer = flora.upload(former, png())
    assert (answer.status_code, "expired" in answer.text) == (403, True)
    assert "retry" in change(flora, former, "complete").json()["error"]["message"]
    assert flora.get(f"/assets/{former['asset_id']}").json()["status"] == "pending_upload"
    fresh = change(flora, former, "retry").json()
    assert set(fresh) == RESERVED
    assert (fresh["asset_id"], fresh["url"]) == (former["asset_id"], None)
    assert fresh["upload"]["form_fields"] != former["upload"]["form_fields"]
    assert flora.upload(former, png()).status_code == 403
    assert flora.upload(fresh, png()).status_code == 204
    change(flora, fresh, "complete")
    assert flora.asset(fresh["asset_id"])["status"] == "ready"
    assert change(flora, fresh, "retry").status_code == 409, "it is ready"


def test_an_interrupted_upload_leaves_nothing(flora):
    reservation = reserved(flora)
    content = io.BytesIO(bytes(8 * MB))

    def broken_off():
        yield content.read(MB)
        raise InterruptedError

    with pytest.raises(requests.ConnectionError):
        requests.put(reservation["upload_url"], data=broken_off(), timeout=60)
    wait_until(lambda: flora.emulator.ledger()["responses"].get("reset"))
    assert files_on_disk(flora) == []
    assert change(flora, reservation, "complete").status_code == 409


def test_a_large_upload_streams_to_disk_and_delays_no_other_request(flora):
    reservation = reserved(flora, file_name="video.mp4")
    piece, count = bytes(range(256)) * 4096, 64
    answers, sent = 0, hashlib.sha256(piece * count).hexdigest()
    with ThreadPoolExecutor(1) as pool:
        upload = pool.submit(
            requests.put, reservation["upload_url"], data=(piece for _ in range(count)), timeout=60
        )
        while not upload.done():
            flora.get("/techniques/product-relight")
            answers += 1
        assert upload.result().status_code == 204
    assert answers > 5  # held up, it would be one or two
    (entry,) = in_the_ledger(flora)
    assert (entry["bytes"], entry["sha256"]) == (count * MB, sent)


def test_files_go_with_a_reset_and_with_the_emulator(emulate):
    flora = emulate()
    for end in (flora.emulator.reset, flora.emulator.stop):
        flora.send_file(png())
        (file,) = files_on_disk(flora)
        end()
        assert not file.parent.exists()
        assert flora.emulator.ledger()["assets"] == []


# Lists


def test_the_list_is_newest_first_in_pages_that_stay_put(flora):
    asset_ids = [reserved(flora, file_name=f"{n}.png")["asset_id"] for n in range(5)]
    page = flora.get("/assets", limit=2).json()
    reserved(flora)
    found = page["assets"]
    while page["meta"]["next_cursor"]:
        page = flora.get("/assets", limit=2, cursor=page["meta"]["next_cursor"]).json()
        found += page["assets"]
    assert [asset["asset_id"] for asset in found] == asset_ids[::-1]
    assert type(found[0]["created_at"]) is int
    assert set(found[0]) == {
        *("asset_id", "workspace_id", "status", "uploaded_via", "url", "name", "description", "content_type"),
        *("upload_content_type", "size_bytes", "width", "height", "created_at", "project_id", "node_id"),
    }


def test_the_list_can_be_filtered(flora):
    reserved(flora, file_name="Red Shoe.png", project_id="prj_emulator")
    reserved(flora, file_name="blue shoe.png")
    reserved(flora, file_name="hat.png")
    flora.create_asset()

    def names(**query):
        return [asset["name"] for asset in flora.get("/assets", **query).json()["assets"]]

    assert names(query="SHOE") == ["blue shoe.png", "Red Shoe.png"]
    assert names(project_id="prj_emulator") == ["Red Shoe.png"]
    assert len(names(workspace_id="ws_emulator")) == 4
    assert names(workspace_id="ws_other") == []
    assert names(project_id="prj_other") == []
    assert flora.get("/assets", project_id="3f2a").status_code == 500
    for query in ({"limit": 0}, {"limit": 101}, {"cursor": "x"}, {"cursor": "WyJhc3NldHMiLCAieCJd"}):
        assert fields(flora.get("/assets", **query)) == [*query]


# Keys


def test_a_repeated_key_is_a_duplicate(flora):
    header = {"idempotency-key": "k"}
    answers = [flora.send_file(png(), headers=header) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 409]
    assert answers[1].json()["error"]["code"] == "idempotency_duplicate"
    assert len(in_the_ledger(flora)) == 1
    assert flora.start(idempotency_key="k").status_code == 200, "a run's key is another"
    reservation = reserved(flora)
    flora.upload(reservation, png())
    codes = [change(flora, reservation, "complete", headers={"idempotency-key": "c"}).status_code for _ in range(2)]
    assert codes == [200, 409]


def test_a_key_is_free_again_when_its_request_failed(flora):
    header = {"idempotency-key": "k"}
    assert flora.send_file(b"", headers=header).status_code == 400
    flora.emulator.order_fault("reset", when="during", operation="createAsset")
    with pytest.raises(requests.ConnectionError):
        flora.send_file(png(), headers=header)
    assert in_the_ledger(flora) == []
    assert flora.send_file(png(), headers=header).status_code == 200


def test_by_the_other_account_the_first_answer_comes_again(emulate):
    flora, header = emulate(idempotency="site"), {"idempotency-key": "k"}
    body = {"source": "signed-url", "workspace_id": "ws_emulator"}
    first, second = (flora.send("POST", "/assets", json=body, headers=header) for _ in range(2))
    assert first.json() == second.json()
    assert second.headers["idempotent-replayed"] == "true"
    other = flora.send("POST", "/assets", json={**body, "file_name": "a.png"}, headers=header)
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_conflict")


# Assets in runs


def test_an_uploaded_picture_can_be_an_input_and_shows(flora):
    stills = []
    for colour in ("red", "green"):
        photo = flora.send_file(png(colour, (600, 600))).json()["url"]
        run = flora.run("product-relight", [image("photo", photo), text("light", "overcast")])
        content = requests.get(run["outputs"][0]["url"], timeout=60).content
        stills.append(Image.open(io.BytesIO(content)).convert("RGB"))
    assert max(ImageStat.Stat(ImageChops.difference(*stills)).mean) > 20
    red, green, _ = ImageStat.Stat(stills[0].crop((100, 100, 600, 500))).mean
    assert red > 2 * green


def test_what_is_no_picture_does_not_stop_a_run(flora):
    photo = flora.send_file(b"no picture").json()["url"]
    run = flora.run("product-relight", [image("photo", photo), text("light", "overcast")])
    assert requests.get(run["outputs"][0]["url"], timeout=60).status_code == 200


# On order


@pytest.mark.parametrize("operation", ["createAsset", "completeAsset", "retryAsset", "getAsset", "listAssets"])
def test_every_step_can_be_broken(flora, operation):
    reservation = reserved(flora)
    calls = {
        "createAsset": lambda: flora.create_asset(),
        "completeAsset": lambda: change(flora, reservation, "complete"),
        "retryAsset": lambda: change(flora, reservation, "retry"),
        "getAsset": lambda: flora.get(f"/assets/{reservation['asset_id']}"),
        "listAssets": lambda: flora.get("/assets"),
    }
    before = flora.emulator.ledger()["requests"].get(operation, 0)
    flora.emulator.order_fault("status", operation=operation, status=503)
    assert calls[operation]().status_code == 503
    flora.emulator.order_fault("reset", operation=operation, when="after")
    with pytest.raises(requests.ConnectionError):
        calls[operation]()
    assert calls[operation]().status_code in (200, 409)
    assert flora.emulator.ledger()["requests"][operation] == before + 3


def test_an_upload_can_be_broken_before_during_and_after(flora):
    reservation, content = reserved(flora), bytes(4 * MB)
    flora.emulator.order_fault("status", operation="uploadBytes", status=503)
    answer = flora.upload(reservation, content)
    assert (answer.status_code, answer.headers["content-type"].split(";")[0]) == (503, "application/xml")
    for when, kept in (("before", 0), ("during", 0), ("after", 1)):
        flora.emulator.order_fault("reset", operation="uploadBytes", when=when)
        with pytest.raises(requests.ConnectionError):
            flora.upload(reservation, content)
        assert len(files_on_disk(flora)) == kept
    flora.emulator.order_fault("delay", operation="uploadBytes", when="during", seconds=0.3)
    begun = time.perf_counter()
    assert flora.upload(reservation, content).status_code == 204
    assert time.perf_counter() - begun > 0.3
    uploads = flora.emulator.ledger()["uploads"]
    assert [upload["status"] for upload in uploads] == [503, None, None, None, 204]


def test_an_order_finds_an_asset_by_its_name(flora):
    flora.emulator.order_fault("status", contains="mug.png", times=None, status=503)
    assert flora.send_file(png(), "mug.png").status_code == 503
    flora.emulator.clear_faults()
    mug, hat = reserved(flora, file_name="mug.png"), reserved(flora, file_name="hat.png")
    flora.emulator.order_fault("status", contains="mug.png", times=None, status=503)
    assert [flora.upload(one, png()).status_code for one in (mug, hat)] == [503, 204]
    assert [change(flora, one, "complete").status_code for one in (mug, hat)] == [503, 200]


def test_processing_fails_on_order_and_can_be_retried(flora):
    reservation = reserved(flora)
    flora.upload(reservation, png())
    flora.emulator.order_fault("fail_asset", failure_message="The scanner was down.")
    assert change(flora, reservation, "complete").json()["status"] == "pending_upload"
    failed = flora.asset(reservation["asset_id"])
    assert (failed["status"], failed["failure_message"]) == ("failed", "The scanner was down.")
    assert failed["url"] is None
    assert change(flora, reservation, "complete").json()["failure_message"] == "The scanner was down."
    fresh = change(flora, reservation, "retry").json()
    assert flora.upload(fresh, png()).status_code == 204
    change(flora, fresh, "complete")
    assert flora.asset(fresh["asset_id"])["status"] == "ready"


def test_a_direct_file_can_fail_too(flora):
    flora.emulator.order_fault("fail_asset")
    created = flora.send_file(png()).json()
    assert created["status"] == "failed"
    assert set(change(flora, created, "retry").json()) == RESERVED


def test_an_upload_expires_on_order(flora):
    reservation = reserved(flora)
    flora.emulator.order_fault("expire_upload")
    assert flora.upload(reservation, png()).status_code == 403
    assert flora.upload(reservation, png()).status_code == 403, "it stays so"
    fresh = change(flora, reservation, "retry").json()
    assert flora.upload(fresh, png()).status_code == 204
    assert flora.emulator.ledger()["faults_fired"] == {"expire_upload": 1}
