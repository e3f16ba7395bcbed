"""The rules of assets, without I/O: types, sizes of pictures, forms."""

from __future__ import annotations

import io
from email.parser import BytesParser

import pytest
from PIL import Image
from uploads import picture

from airflow_provider_flora.api.assets import CONTENT_TYPES, Form, content_type_of, name_in_url, picture_size


@pytest.mark.parametrize("form", ["PNG", "GIF", "WEBP", "JPEG"])
@pytest.mark.parametrize("size", [(1, 1), (300, 7), (257, 4000)])
def test_the_size_of_a_picture_is_read_from_its_beginning(form: str, size: tuple[int, int]) -> None:
    whole = picture(*size, form=form)
    assert picture_size(whole) == size
    for end in range(0, min(len(whole), 200)):
        assert picture_size(whole[:end]) in (None, size)


def test_lossless_and_extended_webp_and_progressive_jpeg_too() -> None:
    image = Image.new("RGBA", (123, 45), (255, 0, 0, 9))
    for form, words in [
        ("WEBP", {"lossless": True}),
        ("WEBP", {"lossless": True, "exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0"}),
        ("JPEG", {"progressive": True, "exif": b"Exif\0\0" + b"x" * 60_000}),
    ]:
        file = io.BytesIO()
        (image if form == "WEBP" else image.convert("RGB")).save(file, form, **words)
        assert picture_size(file.getvalue()) == (123, 45), (form, words)


@pytest.mark.parametrize("start", [b"", b"\xff\xd8\xff", b"\xff\xd8\xff\xe0\x00", b"hello", b"RIFF....WEBPVP8 "])
def test_what_is_no_picture_has_no_size(start: bytes) -> None:
    assert picture_size(start) is None


def test_a_type_is_told_by_the_name() -> None:
    assert content_type_of("s3://a@b/c.d/Photo.JPEG") == "image/jpeg"
    assert content_type_of("film.MOV") == "video/quicktime"
    for name in ("", "png", ".png", "a.png.bak", "a/b.png/", "a.html"):
        assert content_type_of(name) in (None, "image/png"), name
    assert content_type_of("a.html") is None
    assert len(CONTENT_TYPES) == 14


def test_a_url_ends_with_a_name() -> None:
    assert name_in_url("https://a.example/b/c%20d.png?e=f/g") == "c d.png"
    assert name_in_url("https://a.example") == ""


def test_a_form_is_read_as_it_was_meant() -> None:
    form = Form({"policy": "a\nb", "ü": "é"}, "file", 'a"\r\nX: y.png', "image/png", "edge")
    whole = b"Content-Type: " + form.header.encode() + b"\r\n\r\n" + form.head + b"\x89PNG\r\n--edg" + form.tail
    parts = BytesParser().parsebytes(whole).get_payload()
    assert isinstance(parts, list)
    fields = [part.get_param("name", header="content-disposition") for part in parts]  # type: ignore[union-attr]
    assert fields[0] == "policy"
    assert fields[2] == "file"
    assert all(part["X"] is None for part in parts)  # type: ignore[index]
    assert parts[2].get_payload(decode=True) == b"\x89PNG\r\n--edg"  # type: ignore[union-attr]
