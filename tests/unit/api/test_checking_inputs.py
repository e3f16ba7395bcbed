"""Inputs are checked before anything is spent, and every mistake is reported at once."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_flora.api.errors import FloraInputError, Remedy
from airflow_provider_flora.api.inputs import check_inputs, run_inputs, types_are_known
from airflow_provider_flora.api.models import RunInput, Slot, Technique
from airflow_provider_flora.api.settings import ClientSettings

TECHNIQUE = Technique(
    technique_id="tech_1",
    name="T",
    inputs=[
        Slot(id="prompt", type="text"),
        Slot(id="photo", type="imageUrl", specified_aspect_ratio="4:5"),
        Slot(id="clip", type="videoUrl", optional=True, specified_duration=2.5),
        Slot(id="style", type="text", optional=True),
        Slot(id="face", type="imageUrl", optional=True, accepts_element=True),
        Slot(id="speech", type="audioUrl", optional=True),
        Slot(id="deck", type="documentUrl", optional=True),
        Slot(id="hologram", type="hologramUrl", optional=True),
        Slot(id="products", type="imageUrl", optional=True, allow_multiple=True),
    ],
)
GOOD = {"prompt": "A bar of soap", "photo": "https://x.example/1.png"}


def as_list(inputs: dict[str, Any]) -> list[dict[str, Any]]:
    types = {slot.id: slot.type for slot in TECHNIQUE.inputs}
    return [{"id": name, "type": types.get(name, "text"), "value": value} for name, value in inputs.items()]


def problems_with(inputs: Any, technique: Technique = TECHNIQUE, **kwargs: Any) -> list[str]:
    with pytest.raises(FloraInputError) as caught:
        check_inputs(inputs, technique, **kwargs)
    return caught.value.problems


FORMS = pytest.mark.parametrize("form", [dict, as_list], ids=["mapping", "list"])


@FORMS
def test_good_inputs_become_floras_own_list(form: Any) -> None:
    assert [entry.model_dump() for entry in check_inputs(form(GOOD), TECHNIQUE)] == [
        {"id": "prompt", "type": "text", "value": "A bar of soap"},
        {"id": "photo", "type": "imageUrl", "value": "https://x.example/1.png"},
    ]


def test_the_list_may_hold_models() -> None:
    entries = [RunInput(**entry) for entry in as_list(GOOD)]

    assert check_inputs(entries, TECHNIQUE) == entries
    assert run_inputs(tuple(entries), "tech_1") == entries


@FORMS
def test_none_is_as_good_as_left_out(form: Any) -> None:
    inputs = {**GOOD, "style": None, "clip": None, "speech": None}

    assert [entry.id for entry in check_inputs(form(inputs), TECHNIQUE)] == ["prompt", "photo"]


@FORMS
def test_none_does_not_stand_in_for_what_is_required(form: Any) -> None:
    assert problems_with(form({**GOOD, "prompt": None})) == ["'prompt' is missing: it takes a text"]


def test_every_mistake_is_reported_at_once_naming_the_input_and_what_it_takes() -> None:
    inputs = {
        "promt": "a typo",
        "photo": "http://elsewhere.example/1.png",
        "clip": "a file",
        "style": " \n",
        "face": ["a", "b"],
        "speech": "https://x.example/1.wav",
        "deck": "https://x.example/1.pdf",
        "hologram": "https://x.example/1.holo",
        "products": 5,
    }
    with pytest.raises(FloraInputError) as caught:
        check_inputs(inputs, TECHNIQUE)

    problems = caught.value.problems
    known = "'prompt', 'photo', 'clip', 'style', 'face', 'speech', 'deck', 'hologram', 'products'"
    assert sorted(problems) == sorted(
        [
            f"'promt' is not an input of this technique; it has: {known}",
            "'prompt' is missing: it takes a text",
            "'photo' takes the https:// URL of an image (4:5), not 'http://elsewhere.example/1.png'",
            "'clip' takes the https:// URL of a video (2.5 s), not 'a file'",
            "'style' is empty: it takes a text. Or leave it out",
            f"'face' takes the https:// URL of an image or the id of an element, not ['a', 'b']. {ONE_VALUE}",
            "'speech' takes audio, which Flora's API does not support as an input of a run",
            "'deck' takes a document, which Flora's API does not support as an input of a run",
            "'hologram' takes a value of type 'hologramUrl', which this provider does not support",
            "'products' takes the https:// URL of an image, not 5",
        ]
    )
    assert str(caught.value).startswith(
        "10 mistakes in the inputs for technique 'tech_1'. Nothing was started or charged.\n  - "
    )
    assert all(problem in str(caught.value) for problem in problems)
    assert caught.value.technique_id == "tech_1"
    assert caught.value.remedy is Remedy.CHANGE_INPUT
    assert not caught.value.transient


def test_one_mistake_is_reported_as_one() -> None:
    with pytest.raises(FloraInputError, match=r"^1 mistake in the inputs"):
        check_inputs({"prompt": "a"}, TECHNIQUE)


@FORMS
@pytest.mark.parametrize("empty", ["", " ", "\n\t ", "\0", "\u200b", "\u00a0\0\n", "\x1b\ufeff"])
@pytest.mark.parametrize("name", ["prompt", "photo"])
def test_an_empty_text_is_refused(name: str, empty: str, form: Any) -> None:
    [problem] = problems_with(form({**GOOD, name: empty}))

    assert problem.startswith(f"'{name}' is empty: it takes ")
    assert "leave it out" not in problem


@FORMS
def test_what_is_left_of_a_value_that_was_not_found_is_refused(form: Any) -> None:
    name = next(name for name, value in GOOD.items() if not value.startswith("http"))
    [problem] = problems_with(form({**GOOD, name: "None"}))

    assert problem.startswith(f"'{name}' is the text 'None'")


@FORMS
def test_an_unknown_input_is_refused(form: Any) -> None:
    [problem] = problems_with(form({**GOOD, "nope": "x"}))

    assert problem.startswith("'nope' is not an input of this technique")


def test_a_technique_without_inputs_takes_none() -> None:
    bare = Technique(technique_id="t", name="T")

    assert check_inputs({}, bare) == []
    assert check_inputs([], bare) == []
    assert problems_with({"a": "b"}, bare) == ["'a' is not an input of this technique; it has: none"]


def test_a_required_input_that_no_run_can_have_is_reported() -> None:
    lip_sync = Technique(technique_id="t", name="T", inputs=[Slot(id="speech", type="audioUrl")])

    assert problems_with({}, lip_sync) == [
        "'speech' is missing: it takes audio, which Flora's API does not support as an input of a run"
    ]


@FORMS
@pytest.mark.parametrize(
    "url", ["https://x.example/1.png", "HTTPS://x.example", "https://[::1]/1.png", "https://x.example:8443/?a=b#c"]
)
def test_https_media_are_good(url: str, form: Any) -> None:
    assert check_inputs(form({**GOOD, "photo": url}), TECHNIQUE)


@FORMS
@pytest.mark.parametrize(
    "url",
    [
        "http://x.example/1.png",
        "//x.example/1.png",
        "x.example/1.png",
        "https:///1.png",
        "https://",
        "https:1.png",
        "https://[::1/1.png",
        "ftp://x.example/1.png",
        "file:///etc/passwd",
        "data:image/png;base64,AAAA",
        "gs://bucket/1.png",
        "an element",
    ],
)
def test_other_media_are_not(url: str, form: Any) -> None:
    [problem] = problems_with(form({**GOOD, "photo": url}))

    assert problem == f"'photo' takes the https:// URL of an image (4:5), not {url!r}"


def test_media_on_the_connections_own_origin_are_good_over_http_too() -> None:
    settings = ClientSettings("key", "http://127.0.0.1:8765")

    check_inputs({**GOOD, "photo": "http://127.0.0.1:8765/a.png"}, TECHNIQUE, on_own_origin=settings.on_own_origin)
    for elsewhere in ("http://127.0.0.1:8766/a.png", "http://127.0.0.2:8765/a.png", "http://127.0.0.1:8765@evil/"):
        assert problems_with({**GOOD, "photo": elsewhere}, on_own_origin=settings.on_own_origin)


def test_where_an_element_is_accepted_its_id_is_as_good_as_a_url() -> None:
    assert check_inputs({**GOOD, "face": "element_42"}, TECHNIQUE)
    assert check_inputs({**GOOD, "face": "https://x.example/1.png"}, TECHNIQUE)
    assert problems_with({**GOOD, "face": "http://x.example/1.png"})


def test_a_type_that_is_not_the_slots_is_refused() -> None:
    entries = [*as_list({"prompt": "a"}), {"id": "photo", "type": "videoUrl", "value": "https://x.example/"}]

    assert problems_with(entries) == ["'photo' is of type 'imageUrl', not 'videoUrl'"]


ONE_VALUE = "An input takes one value: start a separate run, with its own charge, for each value"


@pytest.mark.parametrize("name", ["prompt", "products"])
def test_an_input_given_twice_is_refused_for_it_would_be_two_runs(name: str) -> None:
    inputs = as_list({**GOOD, "products": "https://x.example/2.png"})
    again = next(entry for entry in inputs if entry["id"] == name)
    given_thrice = [*inputs, again, again]

    assert problems_with(given_thrice) == [f"'{name}' appears 3 times. {ONE_VALUE}"]
    with pytest.raises(FloraInputError, match=f"'{name}' appears 3 times. {ONE_VALUE}"):
        run_inputs(given_thrice, "tech_1")


@FORMS
@pytest.mark.parametrize("values", [["https://x.example/1.png"], [], ("a", "b")])
@pytest.mark.parametrize("name", ["products", "prompt"])
def test_several_values_for_an_input_are_refused_even_where_the_technique_takes_them(
    name: str, values: Any, form: Any
) -> None:
    inputs = form({**GOOD, name: values})
    [problem] = problems_with(inputs)

    assert problem.startswith(f"'{name}' takes ")
    assert problem.endswith(f". {ONE_VALUE}")
    for technique in (TECHNIQUE, None) if form is as_list else (TECHNIQUE,):
        with pytest.raises(FloraInputError, match=ONE_VALUE):
            run_inputs(inputs, "tech_1", technique)


@pytest.mark.parametrize("key", [5, None, True, 1.5, ("a", "b"), b"prompt", frozenset()])
def test_an_id_that_is_no_text_is_named(key: Any) -> None:
    inputs = {**GOOD, key: "a"}

    assert problems_with(inputs) == [f"inputs has the key {key!r}, but ids of inputs are texts"]
    for technique in (TECHNIQUE, None):
        with pytest.raises(FloraInputError, match="ids of inputs are texts"):
            run_inputs(inputs, "tech_1", technique)


@FORMS
@pytest.mark.parametrize("value", [5, 0, 1.5, True, False, {"a": 1}, b"bytes", object()])
def test_a_value_that_is_no_text_is_refused(value: Any, form: Any) -> None:
    [problem] = problems_with(form({**GOOD, "style": value}))

    assert problem.startswith("'style' takes a text, not ")
    assert ONE_VALUE not in problem


def test_a_long_value_is_shown_in_part() -> None:
    [problem] = problems_with({**GOOD, "photo": "x" * 10_000})

    assert len(problem) < 200
    assert problem.endswith("…")


@pytest.mark.parametrize("shape", ["text", b"bytes", 5, None, {"a", "b"}, object(), iter([])])
def test_inputs_of_another_shape_are_refused_saying_which_they_take(shape: Any) -> None:
    for call in (lambda: check_inputs(shape, TECHNIQUE), lambda: run_inputs(shape, "tech_1")):
        with pytest.raises(FloraInputError, match=r"inputs takes \{input_id: value\} or a list of"):
            call()


@pytest.mark.parametrize(
    "entry",
    [
        None,
        "prompt",
        5,
        [],
        {},
        {"id": "prompt", "value": "a"},
        {"id": "prompt", "type": "text", "value": "a", "more": 1},
        {"id": 5, "type": "text", "value": "a"},
        {"id": "prompt", "type": None, "value": "a"},
    ],
)
def test_an_entry_of_another_shape_is_refused_saying_what_each_takes(entry: Any) -> None:
    for call in (
        lambda: check_inputs([*as_list(GOOD), entry], TECHNIQUE),
        lambda: run_inputs([entry], "tech_1", TECHNIQUE),
    ):
        with pytest.raises(FloraInputError, match=r'is not an input: each takes \{"id": ..., "type"'):
            call()


def test_a_list_has_its_own_types_so_that_the_technique_is_not_requested() -> None:
    assert types_are_known(as_list(GOOD))
    assert not types_are_known(GOOD)
    assert run_inputs([{"id": "any", "type": "thing", "value": ""}], "tech_1")[0].type == "thing"


def test_run_inputs_leaves_the_values_to_flora() -> None:
    assert run_inputs({"prompt": "", "photo": "no url"}, "tech_1", TECHNIQUE)[1].value == "no url"
    with pytest.raises(FloraInputError, match="'nope' is not an input"):
        run_inputs({"nope": "x"}, "tech_1", TECHNIQUE)
    with pytest.raises(FloraInputError, match="'a' takes one string, not 5"):
        run_inputs([{"id": "a", "type": "text", "value": 5}], "tech_1")


ANY_TEXT = st.text(st.characters(exclude_categories=()))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda values: st.lists(values, max_size=3) | st.dictionaries(ANY_TEXT, values, max_size=3),
    max_leaves=6,
)
NAME = st.sampled_from([slot.id for slot in TECHNIQUE.inputs]) | ANY_TEXT
TYPE = st.sampled_from(["text", "imageUrl", "audioUrl"]) | ANY_TEXT | JSON
VALUE = st.sampled_from(["https://x.example/", "element", ""]) | JSON
ENTRY = st.fixed_dictionaries({"id": NAME, "type": TYPE, "value": VALUE}) | JSON
INPUTS = st.dictionaries(NAME, VALUE, max_size=5) | st.lists(ENTRY, max_size=5) | JSON


@given(INPUTS)
def test_any_inputs_are_good_or_an_input_error(inputs: Any) -> None:
    for call in (
        lambda: check_inputs(inputs, TECHNIQUE),
        lambda: run_inputs(inputs, "tech_1", TECHNIQUE),
        lambda: run_inputs(inputs, "tech_1"),
    ):
        with contextlib.suppress(FloraInputError):
            json.dumps([entry.model_dump() for entry in call()])


@given(st.dictionaries(NAME, VALUE, max_size=5))
def test_both_forms_are_judged_alike(inputs: dict[str, Any]) -> None:
    known = {name: value for name, value in inputs.items() if any(name == slot.id for slot in TECHNIQUE.inputs)}

    def verdict(form: Any) -> Any:
        try:
            return check_inputs(form, TECHNIQUE)
        except FloraInputError as error:
            return sorted(error.problems)

    assert verdict(known) == verdict(as_list(known))
