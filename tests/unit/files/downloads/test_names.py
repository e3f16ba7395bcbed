"""The names of files, from any texts of Flora and of the DAG's author."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_flora.api.errors import FloraParameterError
from airflow_provider_flora.files.downloads.naming import (
    DEFAULT_FILE_NAME,
    FIELDS,
    MAX_NAME_BYTES,
    check_file_name,
    could_be,
    folded,
    is_unique_for_ever,
    is_unique_in_run,
    name_of,
    suffixes_for,
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
def test_any_text_from_flora_gives_one_safe_segment(technique: str, run_id: str, output_id: str) -> None:
    for template in (DEFAULT_FILE_NAME, "{output_id}.{ext}", "{output_id}"):
        result = name(template, technique=technique, run_id=run_id, output_id=output_id)
        assert is_safe(result), result
        assert Path("/folder", result).parent == Path("/folder")


PIECES = st.sampled_from([*"{}abc./\\:.- \n\0!%é", *FIELDS, "{ext}", "{flora_run_id}", "{index:03d}", "CON"])


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
        ("../{flora_run_id}.{ext}", "'/' is not allowed"),
        ("{technique}/{flora_run_id}.{ext}", "download_to"),
        ("/etc/{ext}", "'/' is not allowed"),
        ("a\\{flora_run_id}", "is not allowed"),
        (".{flora_run_id}", "nor begin or end with a dot or blank"),
        ("{flora_run_id}.", "nor begin or end with a dot or blank"),
        ("", "nor begin or end with a dot or blank"),
        ("a\n{flora_run_id}", "control character"),
        ("{flora_run_id.__class__}", "is not a field. The fields are technique, flora_run_id"),
        ("{run_id[0]}", "is not a field"),
        ("{0}", "is not a field"),
        ("{}", "is not a field"),
        ("{flora_run_id!r}", "has a format"),
        ("{index:99999d}", "has a format"),
        ("{run_id", "is not a valid format"),
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
    assert is_unique_for_ever(DEFAULT_FILE_NAME)
    assert is_unique_for_ever("{flora_run_id}-{index}.{ext}")
    assert not is_unique_for_ever("{technique}-{output_id}.{ext}")
    assert not is_unique_for_ever("{flora_run_id}.{ext}")


def test_output_id_or_index_makes_names_distinct() -> None:
    assert is_unique_in_run("{output_id}") == is_unique_in_run("{index:03d}.{ext}") is True
    assert not is_unique_in_run("{technique}-{flora_run_id}.{ext}")


ALIKE = [
    ("image.png", "Image.png"),
    ("image.png", "IMAGE.PNG"),
    ("caf\u00e9.png", "cafe\u0301.png"),
    ("\ufb01lm.png", "film.png"),
    ("stra\u00dfe.png", "STRASSE.png"),
    ("\u212b.png", "\u00e5.png"),
]


@pytest.mark.parametrize("names", ALIKE)
def test_names_that_some_file_system_takes_for_one_get_a_suffix(names: tuple[str, str]) -> None:
    assert folded(names[0]) == folded(names[1])
    assert suffixes_for(names) == ["", "-2"]


def test_a_suffix_makes_no_name_that_another_output_has() -> None:
    assert suffixes_for(["a.x", "A.x", "a-2.x", "a-3.x", "A.x"]) == ["", "-4", "", "", "-5"]
    assert suffixes_for(["a", "a", "a-2"]) == ["", "-3", ""]


@given(
    ids=st.lists(
        st.sampled_from(["a", "A", "a-2", "A-2", "a-3", "\u00e9", "e\u0301", "E\u0301", "a.b", ""]), max_size=9
    )
)
@settings(max_examples=300)
def test_all_names_of_a_run_are_different_and_the_same_each_time(ids: list[str]) -> None:
    for template in ("{output_id}.{ext}", "{output_id}", "{ext}"):
        plain = [name(template, output_id=output_id) for output_id in ids]
        suffixes = suffixes_for(plain)
        reported = [
            name(template, output_id=output_id, suffix=suffix)
            for output_id, suffix in zip(ids, suffixes, strict=True)
        ]
        assert len({folded(one) for one in reported}) == len(ids)
        assert suffixes_for(plain) == suffixes
        assert all(is_safe(one) for one in reported)


def test_a_suffix_comes_before_the_extension_and_into_a_name_that_is_cut() -> None:
    assert name(suffix="-2") == "relight-run_1-image-2.png"
    assert name("{output_id}", suffix="-2") == "image-2"
    first, second = (name(output_id="x" * 500, suffix=suffix) for suffix in ("", "-2"))
    assert first != second


def test_types_of_outputs_share_few_extensions() -> None:
    assert could_be("imageUrl", "image/png")
    assert not could_be("imageUrl", "text/plain")
    assert could_be("text", "text/plain")
    assert not could_be("text", "image/png")
    assert could_be("videoUrl", "application/octet-stream")


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
    with pytest.raises(ValueError, match=f"does not fit the output type {output_type}"):
        type_of(output_type, content_type, "https://m/a.png")
