"""The rules of assets, without I/O: types and forms."""

from __future__ import annotations

from email.parser import BytesParser

from airflow_provider_flora.api.file_types import CONTENT_TYPES, content_type_of, name_in_url
from airflow_provider_flora.api.multipart import Form


def test_a_type_follows_from_the_name() -> None:
    assert content_type_of("s3://a@b/c.d/Photo.JPEG") == "image/jpeg"
    assert content_type_of("clip.MOV") == "video/quicktime"
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
