"""The content of a file is checked before anything is spent: its type, its pixels, whether it is complete."""

from __future__ import annotations

import io
import struct
import tracemalloc
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile
from pymediainfo import MediaInfo

from airflow_provider_flora.airflow_compat import AirflowFailException, ObjectStoragePath
from airflow_provider_flora.api.errors import FloraFileError
from airflow_provider_flora.api.file_types import PIXEL_LIMIT
from airflow_provider_flora.emulator import Emulator
from airflow_provider_flora.files.uploads import content as content_module
from airflow_provider_flora.files.uploads.content import Content, inspect_content
from airflow_provider_flora.files.uploads.source import SourceFile
from tests.unit.files.uploads.contents import TYPES, UNUSUAL, WITHOUT_LENGTH, content, noise, sound
from tests.unit.files.uploads.uploads import count, held_by, picture_of_size, run_with, upload_of, write_video
from tests.unit.operators.fake_task import HAS_STATE_STORE

PAGE = b"<html>not a picture</html>"
MB = 1_000_000


@pytest.fixture
def file(tmp_path: Path) -> Any:
    """`file("a.png", content)` is a file to read."""

    def write(name: str, whole: bytes) -> SourceFile:
        (tmp_path / name).write_bytes(whole)
        return SourceFile(str(tmp_path / name))

    return write


def problem(source: SourceFile, content_type: str | None = None) -> str:
    with pytest.raises(FloraFileError) as caught:
        source.check(content_type)
    assert not caught.value.remedy.retryable
    return str(caught.value)


# --- the type ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extension", TYPES)
def test_a_file_of_each_type_is_accepted_under_its_name(file: Any, extension: str) -> None:
    assert file(f"a.{extension}", content(extension)).check()


@pytest.mark.parametrize("name", UNUSUAL)
def test_a_file_that_is_only_unusual_is_taken(file: Any, name: str) -> None:
    file(name, content(name)).check()


@pytest.mark.parametrize("extension", [*TYPES, "heic", "heif"])
def test_a_page_is_no_file_of_any_type(file: Any, extension: str) -> None:
    reported = problem(file(f"a.{extension}", PAGE))
    assert "by its name, but its content is of no known type" in reported
    assert "begins with b'<html>not a picture</htm'" in reported


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("is_a", TYPES)
def test_a_file_of_another_type_is_reported_with_that_type(file: Any, name: str, is_a: str) -> None:
    source = file(f"a.{name}", content(is_a))
    if name == is_a or {name, is_a} == {"mp4", "mov"}:
        source.check()
    else:
        reported = problem(source)
        assert f"a.{name}' is " in reported
        assert (
            f" by its name, but its content is {SourceFile(f'a.{is_a}').check.__self__ and TYPES[is_a]}. "
            in reported
        )


def test_a_content_type_that_is_given_must_be_that_of_the_content(file: Any) -> None:
    source = file("a.png", content("jpg"))
    assert source.check("image/jpeg") == "image/jpeg"
    assert "is image/png by content_type, but its content is image/jpeg" in problem(source, "image/png")
    assert "is image/png by its name, but" in problem(source)


def test_sound_is_no_video(file: Any) -> None:
    assert "but its content is audio/mp4" in problem(file("a.mp4", sound("ipod", "aac", 44100)))


# --- whole ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extension", [name for name in TYPES if name not in WITHOUT_LENGTH])
@pytest.mark.parametrize("kept", ["half", "nine tenths", "all but 20 bytes"])
def test_a_file_that_was_cut_is_reported(file: Any, extension: str, kept: str) -> None:
    whole = content(extension)
    end = {"half": len(whole) // 2, "nine tenths": len(whole) * 9 // 10, "all but 20 bytes": len(whole) - 20}[kept]
    reported = problem(file(f"a.{extension}", whole[:end]))
    assert " but incomplete or damaged: " in reported
    assert "Copy or export the file again" in reported


@pytest.mark.parametrize("name", [name for name in UNUSUAL if name not in WITHOUT_LENGTH])
def test_a_file_that_is_unusual_and_cut_is_reported(file: Any, name: str) -> None:
    whole = content(name)
    trailer = 500 if "trailer" in name else 128 if "tags" in name else 0
    reported = problem(file(name, whole[: (len(whole) - trailer) * 2 // 3]))
    assert " but incomplete or damaged: " in reported or ("head" in name and "of no known type" in reported)


def test_the_lengths_are_named_where_the_file_has_them(file: Any) -> None:
    whole = content("wav")
    reported = problem(file("a.wav", whole[:5000]))
    assert f"it has 5,000 of at least {len(whole):,} bytes" in reported


def test_a_video_without_a_picture_in_it_is_reported(file: Any) -> None:
    whole = content("mp4")
    assert "it contains no video" in problem(file("a.mp4", whole[: struct.unpack(">I", whole[:4])[0]]))


def test_a_damaged_picture_is_reported(file: Any) -> None:
    whole = bytearray(content("png"))
    whole[len(whole) // 2] ^= 0xFF
    assert "incomplete or damaged: broken PNG file" in problem(file("a.png", bytes(whole)))


# --- pixels -----------------------------------------------------------------------------------------------


def avif_of_size(width: int, height: int) -> bytes:
    whole = content("avif")
    at = whole.index(b"ispe") + 8
    return whole[:at] + struct.pack(">II", width, height) + whole[at + 8 :]


def gif_of_size(width: int, height: int) -> bytes:
    whole = bytearray(content("gif"))
    frame = whole.index(b"\x2c\0\0\0\0")
    whole[6:10] = whole[frame + 5 : frame + 9] = struct.pack("<HH", width, height)
    return bytes(whole)


def jpeg_of_size(width: int, height: int, name: str = "jpg", frame: bytes = b"\xff\xc0") -> bytes:
    whole = bytearray(content(name))
    at = whole.index(frame) + 5
    whole[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(whole)


def progressive_of_size(width: int, height: int) -> bytes:
    return jpeg_of_size(width, height, "progressive.jpeg", b"\xff\xc2")


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The sizes at which pictures have been decoded."""
    sizes: list[tuple[int, int]] = []

    def watch(kind: Any) -> None:
        real = kind.load

        def load(self: Any) -> Any:
            sizes.append(self.size)
            return real(self)

        monkeypatch.setattr(kind, "load", load)

    for kind in (PngImageFile, GifImageFile, JpegImageFile, WebPImageFile):
        watch(kind)
    return sizes


@pytest.mark.parametrize(
    ("name", "make"),
    [("a.png", picture_of_size), ("a.gif", gif_of_size), ("a.jpg", jpeg_of_size), ("a.avif", avif_of_size)],
)
@pytest.mark.parametrize("size", [(15_001, 10_000), (20_000, 20_000)])
def test_a_picture_of_more_pixels_than_flora_takes_is_reported(
    file: Any, decoded: list[tuple[int, int]], name: str, make: Any, size: tuple[int, int]
) -> None:
    width, height = size
    reported = problem(file(name, make(width, height)))
    assert (
        f"is an image of {width} x {height} = {width * height:,} pixels. Flora accepts up to 150 mega" in reported
    )
    assert decoded == []


@pytest.mark.parametrize(
    ("name", "make"), [("a.png", picture_of_size), ("a.gif", gif_of_size), ("a.jpg", progressive_of_size)]
)
def test_a_picture_of_as_many_pixels_as_flora_takes_is_not_decoded(
    file: Any, decoded: list[tuple[int, int]], name: str, make: Any
) -> None:
    source = file(name, make(15_000, 10_000))
    tracemalloc.start()
    try:
        source.check()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert decoded == []
    assert peak < 8 * MB


def test_of_a_long_moving_picture_a_part_is_decoded(file: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = content("moving.gif")
    monkeypatch.setattr(content_module, "DECODED_PIXELS", 2 * 160 * 120)
    file("a.gif", whole[: len(whole) - 20]).check()
    assert "incomplete or damaged" in problem(file("b.gif", whole[: len(whole) // 8]))


def test_a_large_photo_is_decoded_at_an_eighth_of_its_size(file: Any, decoded: list[tuple[int, int]]) -> None:
    whole = io.BytesIO()
    noise(4000, 3000).save(whole, "JPEG", quality=60)
    decoded.clear()
    file("a.jpg", whole.getvalue()).check()
    assert decoded == [(500, 375)]


# --- what it costs ----------------------------------------------------------------------------------------


class Counted:
    """A file that counts what is read of it."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.bytes = 0
        self.reads = 0

    def read(self, size: int = -1) -> bytes:
        piece: bytes = self._file.read(size)
        self.bytes += len(piece)
        self.reads += 1
        return piece

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def test_of_a_video_of_1_gb_little_is_read(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    write_video(path, 1000 * MB)
    with path.open("rb") as whole:
        counted: Any = Counted(whole)
        assert inspect_content(counted, "video/mp4", PIXEL_LIMIT).damage is None
        assert counted.bytes < 2 * MB
        path.open("r+b").truncate(999 * MB)
        whole.seek(0)
        assert inspect_content(whole, "video/mp4", PIXEL_LIMIT).damage


@pytest.mark.parametrize("extension", ["png", "jpg", "webp", "gif", "mp4"])
@pytest.mark.parametrize("cut", [0, 1000])
def test_no_more_is_read_than_may_be_and_then_it_counts_as_whole(
    extension: str, cut: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = content(extension)
    whole = whole[: len(whole) - cut] + whole * (2_000_000 // len(whole))
    monkeypatch.setattr(content_module, "READ_AT_MOST", 10_000)
    monkeypatch.setattr(content_module, "SEEK_COSTS", 10)
    counted: Any = Counted(io.BytesIO(whole))
    found = inspect_content(counted, TYPES[extension], PIXEL_LIMIT)
    assert (found.media_type, found.damage) == (TYPES[extension], None)
    assert counted.bytes <= 2 * 10_000


# --- where files are --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 5 * MB], ids=["small", "large"])
@pytest.mark.parametrize("where", ["memory", "s3", "local", "uri"])
def test_a_file_in_any_storage_is_checked(
    request: pytest.FixtureRequest, tmp_path: Path, where: str, size: int
) -> None:
    whole = tmp_path / "whole.mp4"
    write_video(whole, size) if size else whole.write_bytes(content("mp4"))
    folder = {"memory": lambda: request.getfixturevalue("memory"), "local": lambda: str(tmp_path)}.get(
        where, lambda: f"file://{tmp_path}" if where == "uri" else "s3://store@files/in"
    )()
    if where == "s3":
        request.getfixturevalue("s3")
    for name, kept in {"a.mp4": whole.read_bytes(), "b.mp4": whole.read_bytes()[:-20], "c.png": PAGE}.items():
        with ObjectStoragePath(f"file://{tmp_path}/{name}" if where == "local" else f"{folder}/{name}").open(
            "wb"
        ) as to:
            to.write(kept)
    assert SourceFile(f"{folder}/a.mp4").check() == "video/mp4"
    assert "incomplete or damaged" in problem(SourceFile(f"{folder}/b.mp4"))
    assert "begins with b'<html>" in problem(SourceFile(f"{folder}/c.png"))


@pytest.mark.parametrize("extension", ["png", "jpg", "webp", "gif", "mp4"])
@pytest.mark.parametrize("after", [0, 1])
def test_a_storage_that_breaks_off_is_no_damage_of_the_file(
    file: Any, extension: str, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Breaks(Counted):
        def read(self, size: int = -1) -> bytes:
            if self.reads >= after:
                raise TimeoutError("the storage")
            return super().read(min(size, 2000) if size < MB else size)  # not what asks for all there is

    source = file(f"a.{extension}", content(extension))
    broken = Breaks(io.BytesIO(content(extension)))
    monkeypatch.setattr(SourceFile, "_open_seekable", lambda self: nullcontext(broken))
    with pytest.raises(FloraFileError, match="cannot be read now: TimeoutError: the storage") as caught:
        source.check()
    assert caught.value.remedy.retryable


def test_where_mediainfo_cannot_go_pictures_are_checked_anyway(
    file: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def not_there(*_: Any, **__: Any) -> Any:
        raise OSError("Failed to load library")

    monkeypatch.setattr(MediaInfo, "parse", not_there)
    file("a.mp4", PAGE).check()
    assert "MediaInfo could not check the content of a video/mp4 file" in caplog.text
    for extension in ("png", "jpg", "gif", "webp"):
        file(f"a.{extension}", content(extension)).check()
        assert "incomplete or damaged" in problem(file(f"a.{extension}", PAGE))
        assert "incomplete or damaged" in problem(file(f"a.{extension}", content(extension)[:-50]))


def test_what_fits_is_the_type_itself_or_one_of_its_family() -> None:
    assert Content("image/png").fits("image/png")
    assert not Content("image/png").fits("image/jpeg")
    assert not Content(None).fits("image/png")
    assert Content("video/quicktime").fits("video/mp4")
    assert not Content("image/heif").fits("image/avif")


# --- a whole task -----------------------------------------------------------------------------------------


def test_a_page_named_as_a_picture_is_not_charged_and_reported_with_every_other_mistake(
    flora: Emulator, tmp_path: Path
) -> None:
    page, cut = tmp_path / "page.png", tmp_path / "cut.png"
    page.write_bytes(PAGE)
    cut.write_bytes(content("png")[:3000])
    for path, words in {page: "begins with b'<html>", cut: "is image/png, but incomplete or damaged"}.items():
        with pytest.raises(AirflowFailException) as caught:
            run_with(path, inputs={"photo": str(path), "foto": "x", "light": " "}).run()
        assert "3 mistakes" in str(caught.value)
        assert "'photo' takes the https:// URL of an image, or a file of one: " in str(caught.value)
        assert words in str(caught.value)
        for life in (run_with(path, validate_inputs=False), upload_of(path)):
            with pytest.raises(AirflowFailException, match=words.replace("(", r"\(")):
                life.run()
    assert (count(flora, "createAsset"), flora.ledger()["started_runs"], held_by(flora)) == (0, 0, [])


@pytest.mark.skipif(not HAS_STATE_STORE, reason="this Airflow has no task state store")
def test_a_mistake_in_a_file_is_mended_by_another_file(flora: Emulator, tmp_path: Path) -> None:
    path = tmp_path / "cup.png"
    path.write_bytes(PAGE)
    life = run_with(path)
    with pytest.raises(AirflowFailException):
        life.run()
    path.write_bytes(content("png"))
    assert life.run()["status"] == "completed"
    assert flora.ledger()["started_runs"] == 1
