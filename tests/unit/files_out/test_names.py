"""What a file is called, whatever Flora and the DAG's author come up with."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_flora.api.errors import FloraParameterError
from airflow_provider_flora.files.naming import (
    DEFAULT_FILE_NAME,
    FIELDS,
    MAX_NAME_BYTES,
    check_file_name,
    name_of,
    tells_outputs_apart,
    type_of,
)

ANYTHING = st.text(max_size=300) | st.sampled_from(
    ["..", "../../etc/passwd", "/etc/passwd", "C:\\x", "CON", "a\0b"]
)


def name(template: str = DEFAULT_FILE_NAME, **fields: str | int) -> str:
    given_fields = {"technique": "relight", "run_id": "run_1", "output_id": "image", "index": 0, "ext": "png"}
    return name_of(template, **{**given_fields, **fields})  # type: ignore[arg-type]


def is_safe(text: str) -> bool:
    return (
        text not in ("", ".", "..")
        and not set(text) & set('/\\<>:"|?*#\0')
        and text.isprintable()
        and not text.startswith(".")
        and not text.endswith((".", " "))
        and ".." not in text
        and len(text.encode()) <= MAX_NAME_BYTES
        and text.partition(".")[0].upper() not in ("CON", "NUL", "AUX", "PRN", "COM1", "LPT9")
    )


def test_the_default_names_technique_run_and_output() -> None:
    assert name() == "relight-run_1-image.png"


@given(technique=ANYTHING, run_id=ANYTHING, output_id=ANYTHING)
@settings(max_examples=400)
def test_whatever_flora_sends_gives_one_safe_segment(technique: str, run_id: str, output_id: str) -> None:
    for template in (DEFAULT_FILE_NAME, "{output_id}.{ext}", "{output_id}"):
        result = name(template, technique=technique, run_id=run_id, output_id=output_id)
        assert is_safe(result), result
        assert Path("/folder", result).parent == Path("/folder")


PIECES = st.sampled_from([*"{}abc./\\:.- \n\0!%é", *FIELDS, "{ext}", "{run_id}", "{index:03d}", "CON"])


@given(template=st.lists(PIECES, max_size=8).map("".join))
@settings(max_examples=600)
def test_a_template_gives_a_safe_name_or_is_refused(template: str) -> None:
    try:
        check_file_name(template)
    except FloraParameterError:
        return
    assert is_safe(name(template)), template


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("../{run_id}.{ext}", "'/' has no place"),
        ("{technique}/{run_id}.{ext}", "download_to"),
        ("/etc/{ext}", "'/' has no place"),
        ("a\\{run_id}", "has no place"),
        (".{run_id}", "begins with no dot or blank"),
        ("{run_id}.", "ends with neither"),
        ("", "begins with no dot or blank"),
        ("a\n{run_id}", "control character"),
        ("{run_id.__class__}", "is none of technique, run_id"),
        ("{run_id[0]}", "is none of"),
        ("{0}", "is none of"),
        ("{}", "is none of"),
        ("{run_id!r}", "can be formatted"),
        ("{index:99999d}", "can be formatted"),
        ("{run_id", "is not a format"),
        ("a..b{ext}", "two dots"),
    ],
)
def test_a_template_that_could_leave_the_folder_is_refused(template: str, why: str) -> None:
    with pytest.raises(FloraParameterError, match=why):
        check_file_name(template)


def test_a_template_may_number_the_outputs() -> None:
    template = "shot {index:03d}.{ext}"
    check_file_name(template)
    assert name(template, index=7) == "shot 007.png"


def test_names_that_are_cut_stay_different() -> None:
    first, second = (name(output_id="x" * 500 + end) for end in "ab")
    assert first != second
    assert first.endswith(".png")
    assert len(os.fsencode(first)) <= MAX_NAME_BYTES


def test_only_a_name_of_run_and_output_stands_for_one_output() -> None:
    assert tells_outputs_apart(DEFAULT_FILE_NAME)
    assert tells_outputs_apart("{run_id}-{index}.{ext}")
    assert not tells_outputs_apart("{technique}-{output_id}.{ext}")


@pytest.mark.parametrize(
    ("output_type", "content_type", "url", "expected"),
    [
        ("imageUrl", "image/png", "u", ("image/png", "png")),
        ("imageUrl", "IMAGE/JPG; charset=binary", "u", ("image/jpeg", "jpg")),
        ("imageUrl", "application/octet-stream", "https://m/a%20b.webp?x=.png", ("image/webp", "webp")),
        ("imageUrl", "", "https://m/a", ("application/octet-stream", "bin")),
        ("videoUrl", "application/mp4", "u", ("video/mp4", "mp4")),
        ("videoUrl", "image/gif", "u", ("image/gif", "gif")),
        ("audioUrl", "audio/x-wav", "u", ("audio/wav", "wav")),
        ("documentUrl", "application/pdf", "u", ("application/pdf", "pdf")),
        ("modelUrl", "model/gltf-binary", "u", ("model/gltf-binary", "bin")),
    ],
)
def test_the_extension_follows_from_the_type(
    output_type: str, content_type: str, url: str, expected: tuple[str, str]
) -> None:
    assert type_of(output_type, content_type, url)[0] == expected[0]
    assert type_of(output_type, content_type, url)[1] in (expected[1], "glb")


@pytest.mark.parametrize(
    ("output_type", "content_type"),
    [
        ("imageUrl", "text/html; charset=utf-8"),
        ("imageUrl", "application/json"),
        ("imageUrl", "video/mp4"),
        ("videoUrl", "image/png"),
        ("audioUrl", "text/plain"),
        ("documentUrl", "text/html"),
        ("modelUrl", "text/html"),
    ],
)
def test_what_is_no_file_of_an_outputs_type_is_refused(output_type: str, content_type: str) -> None:
    with pytest.raises(ValueError, match=f"no file of type {output_type}"):
        type_of(output_type, content_type, "https://m/a.png")
