"""Size and version of many files, by listing folders: in S3, in a storage in memory, and on this machine."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from airflow_provider_flora.airflow_compat import ObjectStoragePath
from airflow_provider_flora.api.errors import FloraFileError
from airflow_provider_flora.files.downloads.destination import Destination
from airflow_provider_flora.files.listing import Listing
from airflow_provider_flora.files.storage import Stored, as_uri, stored_of
from tests.unit.airflow_names import STORES, attach
from tests.unit.files.uploads.uploads import attach_memory


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The requests to S3."""
    from s3fs import S3FileSystem

    made: list[str] = []
    call = S3FileSystem._call_s3

    async def counted(self: Any, method: str, *args: Any, **words: Any) -> Any:
        made.append(method)
        return await call(self, method, *args, **words)

    monkeypatch.setattr(S3FileSystem, "_call_s3", counted)
    return made


@pytest.fixture
def memory() -> Iterator[Any]:
    """A storage in memory with the folder ``photos``, and no other."""
    filesystem = attach_memory()
    filesystem.makedirs("/photos", exist_ok=True)
    yield filesystem
    filesystem.rm("/photos", recursive=True)
    STORES.pop("memory", None)


def put(s3: Any, *keys: str, body: bytes = b"x") -> None:
    for key in keys:
        s3.put_object(Bucket="files", Key=key, Body=body)


# --- S3 ---------------------------------------------------------------------------------------------------


def test_a_folder_is_listed_once_for_all_its_files(s3: Any, calls: list[str]) -> None:
    put(s3, *(f"a/{number}.png" for number in range(30)))
    listing = Listing()
    found = [listing.find(f"s3://store@files/a/{number}.png") for number in range(40)]
    assert [stored is not None for stored in found] == [True] * 30 + [False] * 10
    assert calls == ["list_objects_v2"]


def test_a_listed_file_is_what_the_destination_finds(s3: Any) -> None:
    put(s3, "a/cup.png", body=b"twelve bytes")
    stored = Listing().find("s3://store@files/a/cup.png")
    assert stored is not None
    assert stored.bytes == 12
    assert stored == Destination("s3://store@files/a").find("cup.png")


def test_a_new_listing_sees_what_has_changed_and_the_old_one_does_not(s3: Any) -> None:
    put(s3, "a/cup.png", body=b"before")
    first = Listing()
    before = first.find("s3://store@files/a/cup.png")
    filesystem = ObjectStoragePath("s3://store@files/a").fs
    assert not filesystem.dircache
    filesystem.ls("files/a")  # which the file system keeps
    put(s3, "a/cup.png", "a/new.png", body=b"after!")
    assert first.find("s3://store@files/a/cup.png") == before
    assert first.find("s3://store@files/a/new.png") is None
    second = Listing()
    after = second.find("s3://store@files/a/cup.png")
    assert after is not None
    assert after != before
    assert second.find("s3://store@files/a/new.png") is not None


@pytest.mark.parametrize("key", ["a b#c?d%20ü✨.png", "{sku}.png", "x.png", "deep/in/it/x.png", "double//x.png"])
def test_a_file_is_found_by_any_name(s3: Any, key: str) -> None:
    put(s3, key, "other.png")
    stored = Listing().find(f"s3://store@files/{key}")
    assert stored is not None
    assert stored.bytes == 1


def test_folders_buckets_and_what_does_not_exist_are_no_files(s3: Any) -> None:
    put(s3, "a/b/cup.png", "empty/", "name")
    listing = Listing()
    for uri in (
        "s3://store@files/a/b",
        "s3://store@files/a/b/",
        "s3://store@files/empty",
        "s3://store@files/nowhere/cup.png",
        "s3://store@files/name/name",
        "s3://store@files/a//b/cup.png",
        "s3://store@nobodys/cup.png",
        "s3://store@files",
        "s3://store@files/",
    ):
        assert listing.find(uri) is None, uri


def test_a_storage_that_is_away_is_an_error_that_a_retry_may_solve(break_s3: Callable[[], None]) -> None:
    break_s3()
    with pytest.raises(FloraFileError, match=r"files/a/cup.png' cannot be read now.*503") as caught:
        Listing().find("s3://store@files/a/cup.png")
    assert caught.value.remedy.retryable


def test_a_storage_that_airflow_does_not_know_is_an_error_that_no_retry_solves() -> None:
    with pytest.raises(FloraFileError, match="cannot be read") as caught:
        Listing().find("gopher://photos/cup.png")
    assert not caught.value.remedy.retryable


# --- other storages ---------------------------------------------------------------------------------------


class Unlistable(MemoryFileSystem):
    """A storage whose user may read files, but not list them."""

    def ls(self, *_: Any, **__: Any) -> Any:
        raise PermissionError("ListBucket")

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        return {"name": path, "size": len(self.cat_file(path))}


def test_a_folder_that_may_not_be_listed_is_asked_for_each_file() -> None:
    storage = Unlistable(skip_instance_cache=True)
    attach("memory", "unlistable", fs=storage)
    storage.pipe_file("/photos/cup.png", b"four")
    listing = Listing()
    assert listing.find("memory://unlistable@photos/cup.png") == Stored(4, None)
    assert listing.find("memory://unlistable@photos/mug.png") is None
    storage.rm_file("/photos/cup.png")


def test_files_of_a_storage_in_memory_are_found(memory: Any) -> None:
    memory.pipe_file("/photos/cup.png", b"four")
    listing = Listing()
    stored = listing.find("memory://photos/cup.png")
    assert stored is not None
    assert stored.bytes == 4
    assert listing.find("memory://photos/mug.png") is None
    assert listing.find("memory://elsewhere/cup.png") is None


# --- this machine -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("begin", ["", "file://"])
def test_a_local_file_is_what_the_destination_finds(tmp_path: Path, begin: str) -> None:
    (tmp_path / "größe ✨.png").write_bytes(b"four")
    stored = Listing().find(f"{begin}{tmp_path}/größe ✨.png")
    assert stored is not None
    assert stored.bytes == 4
    assert stored == Destination(tmp_path).find("größe ✨.png")


def test_a_relative_path_and_a_home_are_those_of_the_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cup.png").write_bytes(b"four")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Listing().find("cup.png") == Listing().find("~/cup.png") == Listing().find(f"{tmp_path}/cup.png")
    assert Listing().find("cup.png") is not None


def test_a_local_version_is_of_time_and_size(tmp_path: Path) -> None:
    path = tmp_path / "cup.png"

    def version(content: bytes, time: float) -> str | None:
        path.write_bytes(content)
        os.utime(path, (time, time))
        stored = Listing().find(str(path))
        assert stored is not None
        return stored.version

    first = version(b"four", 1000)
    assert version(b"FOUR", 1000) == first
    assert version(b"five!", 1000) != first
    assert version(b"four", 1000.5) != first


def test_a_link_has_the_version_of_its_target(tmp_path: Path) -> None:
    path, link = tmp_path / "cup.png", tmp_path / "link.png"
    path.write_bytes(b"four")
    link.symlink_to(path)
    os.utime(path, (1000, 1000))
    assert Listing().find(str(link)) == Listing().find(str(path))


def test_what_is_no_local_file_is_not_found(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "cup.png").touch()
    (tmp_path / "circle.png").symlink_to(tmp_path / "circle.png")
    for name in ("folder.png", "no.png", "nowhere/no.png", "cup.png/no.png", "circle.png", "\0.png", 300 * "x"):
        assert Listing().find(f"{tmp_path}/{name}") is None, name


def test_a_local_folder_that_is_forbidden_is_an_error_that_no_retry_solves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "stat", refuse)
    with pytest.raises(FloraFileError, match="PermissionError") as caught:
        Listing().find(f"{tmp_path}/cup.png")
    monkeypatch.undo()
    assert not caught.value.remedy.retryable


# --- what listings and destinations share ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "version"),
    [
        ({"ETag": '"abc"', "LastModified": 5}, 'ETag="abc"'),
        ({"generation": "17", "mtime": 5}, "generation=17"),
        ({"mtime": 5.5}, "mtime=5.5 size=3"),
        ({"last_modified": "Monday"}, "last_modified=Monday size=3"),
        ({"ETag": ""}, None),
        ({}, None),
    ],
)
def test_a_version_is_of_the_content_if_the_storage_has_one(found: dict[str, Any], version: str | None) -> None:
    assert stored_of({"size": 3, "type": "file", **found}) == Stored(3, version)


def test_a_uri_has_its_connection(s3: Any) -> None:
    assert as_uri(ObjectStoragePath("s3://files/rows.csv", conn_id="store")) == "s3://store@files/rows.csv"
    assert as_uri(ObjectStoragePath("s3://store@files/rows.csv")) == "s3://store@files/rows.csv"
    path = ObjectStoragePath("memory://files/rows.csv")
    assert as_uri(path) == str(path)
    assert as_uri(Path("/rows.csv")) == "/rows.csv"
    assert as_uri(5) == 5
