"""What a person is asked, what becomes of the answer, and what is refused before anybody is asked."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest

from airflow_provider_flora import airflow_compat
from airflow_provider_flora.airflow_compat import (
    AirflowException,
    AirflowFailException,
    AirflowSkipException,
    ObjectStoragePath,
)
from airflow_provider_flora.api.errors import FloraFileError, FloraParameterError
from airflow_provider_flora.batch.manifest import Manifest
from airflow_provider_flora.emulator import Emulator
from airflow_provider_flora.operators.choose import FloraChooseOutputOperator
from airflow_provider_flora.runs.choosing import LARGEST_BODY, find_outputs, show
from tests.unit.airflow_names import HAS_HITL

REJECT = FloraChooseOutputOperator.REJECT
WHEN = datetime(2026, 11, 28, 9, tzinfo=timezone.utc)
ADMIN = {"id": "7", "name": "Ada"}
URL = "https://media.example/{}.png"


def run(name: str, *outputs: dict[str, Any]) -> dict[str, Any]:
    """A run's value, as the operator returns it."""
    return {"run_id": f"run_{name}", "status": "completed", "outputs": [*outputs] or [picture(name)]}


def picture(name: str) -> dict[str, Any]:
    return {"output_id": "still", "type": "imageUrl", "url": URL.format(name)}


def text(words: str) -> dict[str, Any]:
    return {"output_id": "line", "type": "text", "url": words}


def labels(found: Any, given: list[str] | None = None) -> list[str]:
    return [output["label"] for output in find_outputs(found, given, REJECT)]


def shown(*outputs: dict[str, Any], own: str = "http://127.0.0.1:1") -> str:
    return show(find_outputs([*outputs], None, REJECT), lambda url: url.startswith(f"{own}/"))


# --- outputs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "found",
    [
        run("a", picture("a"), picture("b")),
        [run("a"), None, run("b")],
        (run(name) for name in "ab"),
        [picture("a"), picture("b")],
        [[picture("a")], [picture("b")]],
        [run("a"), run("none", {**picture("c"), "url": None}), run("b")],
    ],
    ids=["one run", "mapped runs", "a lazy sequence", "outputs", "mapped outputs", "one without a URL"],
)
def test_outputs_are_found_in_whatever_a_task_returns(found: Any) -> None:
    outputs = find_outputs(found, None, REJECT)
    assert [(output["label"], output["url"]) for output in outputs] == [
        ("1", URL.format("a")),
        ("2", URL.format("b")),
    ]


def test_an_output_names_its_run() -> None:
    assert find_outputs([run("a"), picture("b")], None, REJECT) == [
        {**picture("a"), "label": "1", "run_id": "run_a"},
        {**picture("b"), "label": "2", "run_id": None},
    ]


def test_an_output_of_a_row_is_called_as_the_row() -> None:
    lines = [{**run("a"), "row_id": "lamp"}, {**run("b", picture("b"), picture("c")), "row_id": "mug"}]
    assert labels(lines) == ["lamp", "mug: 1", "mug: 2"]


def test_labels_can_be_given_and_are_one_line_each() -> None:
    assert labels([run("a"), run("b")], ["warm\n light", "cold\u202e"]) == ["warm light", "cold\ufffd"]


@pytest.mark.parametrize(
    ("found", "given", "words"),
    [
        ([], None, "no outputs to choose from"),
        (None, None, "no outputs to choose from"),
        (run("a", {**picture("a"), "url": ""}), None, "no outputs to choose from"),
        ("manifest.csv", None, r"ends in \.jsonl. It does not take 'manifest\.csv'"),
        ({"manifest": "x.jsonl", "rows": 3}, None, r"does not take \{'manifest'"),
        ([run("a"), "b" * 999], None, "does not take 'b+ …"),
        ([run(str(number)) for number in range(41)], None, "more than 40 outputs"),
        ([run("a"), run("b")], ["one"], "each of the 2 outputs, not 1"),
        ([run("a"), run("b")], "ab", "each of the 2 outputs, not a text"),
        ([run("a"), run("b")], ["same", " same"], "Two options have the label 'same'"),
        ([run("a")], [REJECT], "Two options have the label 'Reject all'"),
        ([run("a"), run("b")], ["x", " "], "label of output 2 has 0 characters"),
        ([run("a")], ["x" * 201], "label of output 1 has 201 characters"),
        (run("a", text("x" * 300_000)), None, r"1 outputs have 300,\d\d\d bytes"),
    ],
)
def test_what_nobody_can_be_asked_about_is_an_error_that_names_it(
    found: Any, given: list[str] | None, words: str
) -> None:
    with pytest.raises(FloraParameterError, match=words):
        find_outputs(found, given, REJECT)


def test_of_an_endless_list_only_the_beginning_is_read() -> None:
    def endless() -> Any:
        while True:
            yield run("a")

    with pytest.raises(FloraParameterError, match="more than 40"):
        find_outputs(endless(), None, REJECT)


# --- what is shown ----------------------------------------------------------------------------------------


def test_a_picture_is_shown_and_other_media_are_linked() -> None:
    video = {"output_id": "clip", "type": "videoUrl", "url": "https://media.example/a.mp4?a=1&copy;=2"}
    assert shown(picture("a"), video) == (
        "### ` 1 `\n\n![Output 1](https://media.example/a.png)\n\n"
        "### ` 2 `\n\n[Open output 2](https://media.example/a.mp4?a=1\\&copy;=2)"
    )


def test_pictures_are_side_by_side_three_in_a_row() -> None:
    assert shown(*map(picture, "abcd")) == (
        "| ` 1 ` | ` 2 ` | ` 3 ` |\n| --- | --- | --- |\n"
        "| ![Output 1](https://media.example/a.png) | ![Output 2](https://media.example/b.png) "
        "| ![Output 3](https://media.example/c.png) |\n\n"
        "| ` 4 ` |\n| --- |\n| ![Output 4](https://media.example/d.png) |"
    )


def test_the_connections_own_origin_needs_no_https() -> None:
    own = "http://127.0.0.1:1/media/a.png"
    assert f"![Output 1]({own})" in shown({**picture("a"), "url": own})
    assert "](" not in shown({**picture("a"), "url": own}, own="http://127.0.0.1:2")


HOSTILE = [
    "javascript:alert(1)",
    "JavaScript://media.example/%0aalert(1)",
    "data:image/svg+xml,<svg onload=alert(1)>",
    "http://media.example/a.png",
    "//media.example/a.png",
    "/api/v2/dags",
    " https://media.example/a.png",
    "\x01https://media.example/a.png",
    "https://media.example/a.png) ![x](javascript:alert(1)",
    'https://media.example/a.png "title" onerror="alert(1)',
    "https://media.example/a.png\n\n<script>alert(1)</script>",
    "https://media.example/<script>alert(1)</script>",
    "https://media.example/a](javascript:alert(1))[b",
    "https:\\\\media.example\\a.png",
    "https://[::1",
    "` <img src=x onerror=alert(1)> `",
    "``` ``` <b>",
    "<img src=x onerror=alert(1)>",
    "[click](javascript:alert(1))",
    "http://phishing.example www.phishing.example",
    "> # - 1. | a | b |\n|---|---|\n    code\n***\n~~~",
    "a\u202egnp.exe\0\x1b[31m",
    "\ud800 half an emoji",
    "`",
    " ",
    "``` \n``````\n`",
]


def elements(markdown: str) -> list[dict[str, Any]]:
    """All elements of the HTML that a CommonMark parser with tables and autolinks makes of Markdown."""
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    tokens = [one for token in parser.parse(markdown) for one in (token, *(token.children or ()))]
    return [{"tag": one.tag, "type": one.type, "content": one.content, **dict(one.attrs)} for one in tokens]


@pytest.mark.parametrize("kind", ["text", "imageUrl", "videoUrl"])
@pytest.mark.parametrize("words", HOSTILE)
def test_nothing_that_was_generated_becomes_markup(words: str, kind: str) -> None:
    markdown = shown({"output_id": "x", "type": kind, "url": words}, picture("after"))
    found = elements(markdown)
    tables = {"table", "thead", "tbody", "tr", "th", "td"}
    assert {one["tag"] for one in found} <= {"", "h3", "p", "code", "img", "a", "br"} | tables
    assert not [one for one in found if one["type"].startswith("html")]
    for one in found:
        for target in (one.get("src"), one.get("href")):
            assert target is None or target.startswith("https://media.example/"), markdown
        if one["type"] == "text":
            assert one["content"] in ("", "Output 1", "Output 2", "Open output 1"), markdown
    assert found[-1]["type"] == "inline" or any(one.get("src") == URL.format("after") for one in found)
    assert not re.search("[\0\x01\x1b\u202e\ud800]", markdown)


@pytest.mark.parametrize("words", [words for words in HOSTILE if words.strip() and words.isprintable()])
def test_a_hostile_text_can_be_read_as_it_is(words: str) -> None:
    code = [one["content"] for one in elements(shown(text(words))) if one["type"] == "code_inline"]
    assert code == ["1", words]


@pytest.mark.parametrize("label", [words for words in HOSTILE if words.strip()])
def test_nothing_in_a_label_becomes_markup(label: str) -> None:
    [output] = find_outputs([picture("a")], [label], REJECT)
    found = elements(show([output], lambda _: False))
    assert [one["tag"] for one in found if one["type"] not in ("inline", "text")] == [
        "h3", "code", "h3", "p", "img", "p",
    ]  # fmt: skip
    beside = elements(show([output, {**output, "label": "b"}], lambda _: False))
    assert [one["tag"] for one in beside if one["tag"] in ("code", "img", "a", "script")].count("code") == 2
    assert [one["src"] for one in beside if one["tag"] == "img"] == [URL.format("a")] * 2
    assert not [one for one in beside if one["tag"] in ("a", "script") or one["type"].startswith("html")]


def test_a_long_text_is_shown_in_part() -> None:
    markdown = shown(text("word " * 1000), text("line\n" * 100))
    assert markdown.count("word") == 400
    assert markdown.count("line") == 40
    assert "… (5,000 characters)" in markdown
    assert "… (500 characters)" in markdown
    assert shown(text("one\r\n\r\ntwo\r\n")).endswith("` one `  \n  \n` two `")


def test_a_url_that_is_too_long_to_be_shown_is_a_text() -> None:
    long = "https://media.example/" + "é" * 200
    assert "![Output 1](https://media.example/%C3%A9" in shown({**picture("a"), "url": long})
    assert "](" not in shown(*[{**picture("a"), "url": long}] * 40)


def test_what_is_shown_fits_into_the_database_whatever_was_generated() -> None:
    for worst in ("`" * 300, "😀" * 300, "`\n" * 150, "``````````````` x\n" * 20):
        assert len(shown(*[text(worst)] * 40).encode()) < LARGEST_BODY


# --- older Airflows ---------------------------------------------------------------------------------------

if not HAS_HITL:

    def test_an_older_airflow_gets_an_error_that_names_what_is_needed() -> None:
        with pytest.raises(AirflowException, match=r"needs Airflow 3\.1 or newer.*This is Airflow \d"):
            FloraChooseOutputOperator(task_id="choose", outputs=[])


needs_hitl = pytest.mark.skipif(not HAS_HITL, reason="Airflow 3.1 and newer")


@needs_hitl
def test_on_an_older_airflow_it_can_be_imported_but_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airflow.__version__", "3.0.6")

    class Choose(airflow_compat.find_hitl_operator()):  # type: ignore[misc]
        """An operator as on Airflow 3.0."""

    with pytest.raises(AirflowException, match=r"Choose needs Airflow 3\.1 or newer.*This is Airflow 3\.0\.6"):
        Choose(task_id="choose")


# --- asking -----------------------------------------------------------------------------------------------


class Questions:
    """What Airflow stores of the questions of one task instance: it keeps the first one."""

    def __init__(self) -> None:
        self.stored: Any = None

    def send(self, msg: Any) -> Any:
        """Take a message of the task's process to Airflow's supervisor."""
        if type(msg).__name__ == "CreateHITLDetailPayload":
            self.stored = self.stored or msg
        return self.stored


@pytest.fixture
def questions(monkeypatch: pytest.MonkeyPatch) -> Questions:
    questions = Questions()
    monkeypatch.setattr("airflow.sdk.execution_time.task_runner.SUPERVISOR_COMMS", questions, raising=False)
    return questions


def choose(**parameters: Any) -> FloraChooseOutputOperator:
    return FloraChooseOutputOperator(**{"task_id": "choose", "outputs": [run("a"), run("b")], **parameters})


class Context(dict[str, Any]):
    """The context of an attempt, with the XComs that the task pushes."""

    def __init__(self) -> None:
        self.xcoms: dict[str, Any] = {}
        ti = SimpleNamespace(id=uuid4(), xcom_push=lambda key, value: self.xcoms.update({key: value}))
        super().__init__(ti=ti, task_instance=ti, task=SimpleNamespace(do_xcom_push=True))


def ask(task: FloraChooseOutputOperator) -> dict[str, Any]:
    """Let a task ask, and return what Airflow keeps for when it resumes."""
    try:
        task.execute(Context())
    except airflow_compat.pauses() as pause:
        kept: dict[str, Any] = json.loads(json.dumps(pause.kwargs))
        return kept
    raise AssertionError("the task does not wait")


def answer(
    *picked: str, note: str | None = None, context: Context | None = None, **parameters: Any
) -> dict[str, Any]:
    """Let a task ask, and resume it in another process with an answer."""
    event = {"chosen_options": [*picked], "params_input": {"note": note}, "responded_at": WHEN}
    kept = ask(choose(**parameters))
    another = choose(**{**parameters, "outputs": [run("of another attempt")]})
    return another.execute_complete(context or Context(), {**event, "responded_by_user": ADMIN}, **kept)


@needs_hitl
def test_a_person_sees_the_outputs_and_may_choose_or_reject(questions: Questions) -> None:
    ask(choose(subject="Which?", body="For the *front* page.", multiple=True, assigned_users=ADMIN, defaults="2"))
    stored = questions.stored
    assert stored.options == ["1", "2", "Reject all"]
    assert (stored.subject, stored.multiple, stored.defaults) == ("Which?", True, ["2"])
    assert stored.body.startswith("For the *front* page.\n\n| ` 1 ` | ` 2 ` |\n| --- | --- |\n| ![Output 1](https:")
    assert [(user.id, user.name) for user in stored.assigned_users] == [("7", "Ada")]
    assert list(stored.params) == ["note"]


@needs_hitl
def test_notifiers_are_called_when_the_question_is_there(questions: Questions) -> None:
    from airflow.sdk.bases.notifier import BaseNotifier

    class Notifier(BaseNotifier):
        seen: Any = None

        def notify(self, context: Any) -> None:
            self.seen = questions.stored.options

    notifier = Notifier()
    ask(choose(notifiers=notifier))
    assert notifier.seen == ["1", "2", "Reject all"]


@needs_hitl
def test_the_time_limit_is_that_of_the_standard_operator() -> None:
    task = choose(response_timeout=timedelta(minutes=5))
    assert getattr(task, airflow_compat.response_timeout_name()) == timedelta(minutes=5)


@needs_hitl
def test_a_manifest_gives_its_completed_rows(questions: Questions, tmp_path: Path) -> None:
    path = tmp_path / "manifest.jsonl"
    completed = {**run("a"), "row_id": "lamp"}
    Manifest(path).write([completed, {**run("b"), "row_id": "mug", "status": "failed"}])
    for location in (str(path), path.as_uri(), path, ObjectStoragePath(path.as_uri())):
        [kept] = ask(choose(outputs=location))["outputs"]
        assert (kept["label"], kept["run_id"]) == ("lamp", "run_a")
    with pytest.raises(FloraFileError, match=r"gone\.jsonl"):
        choose(outputs=str(tmp_path / "gone.jsonl")).execute(Context())


@needs_hitl
def test_the_connections_own_origin_is_read_for_what_is_not_https(questions: Questions, flora: Emulator) -> None:
    own = f"{flora.origin}/media/samples/lamp.png"
    ask(choose(outputs=[run("a", {**picture("a"), "url": own})]))
    assert f"![Output 1]({own})" in questions.stored.body


@needs_hitl
@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"outputs": []}, "no outputs"),
        ({"labels": ["a", "a"]}, "Two options have the label 'a'"),
        ({"defaults": "3"}, "defaults.*3.*should be a subset"),
        ({"defaults": ["1", "2"]}, "More than one defaults"),
        ({"body": "x" * 70_000}, r"has 70,\d\d\d bytes of Markdown"),
    ],
)
def test_nobody_is_asked_what_cannot_be_asked(parameters: Any, words: str, questions: Questions) -> None:
    with pytest.raises(AirflowFailException, match=words):
        choose(**parameters).execute(Context())
    assert questions.stored is None


@needs_hitl
def test_the_question_of_an_earlier_attempt_is_not_taken_for_this_one(questions: Questions) -> None:
    first = ask(choose(body="attempt 1"))
    assert ask(choose(body="attempt 2")) == first
    with pytest.raises(AirflowFailException, match=r"outputs of an earlier attempt.*Trigger a new DAG run"):
        choose(outputs=[run("a"), run("c")]).execute(Context())
    with pytest.raises(AirflowFailException, match="outputs of an earlier attempt"):
        choose(labels=["a", "b"]).execute(Context())


# --- the answer -------------------------------------------------------------------------------------------


@needs_hitl
@pytest.mark.usefixtures("questions")
def test_what_was_shown_is_what_is_returned() -> None:
    value = answer("2", note="warmer")
    assert value == {
        "chosen": [{**picture("b"), "label": "2", "run_id": "run_b"}],
        "rejected": [{**picture("a"), "label": "1", "run_id": "run_a"}],
        "note": "warmer",
        "by": ADMIN,
        "at": "2026-11-28T09:00:00+00:00",
    }


@needs_hitl
@pytest.mark.usefixtures("questions")
def test_several_are_returned_in_the_order_of_the_outputs() -> None:
    value = answer("2", "1", multiple=True)
    assert [output["label"] for output in value["chosen"]] == ["1", "2"]
    assert (value["rejected"], value["note"]) == ([], None)


@needs_hitl
@pytest.mark.usefixtures("questions")
@pytest.mark.parametrize("multiple", [False, True])
def test_a_rejection_that_airflows_list_begins_with_gives_way_to_what_a_person_adds(multiple: bool) -> None:
    value = answer(REJECT, "2", multiple=multiple, defaults=REJECT)
    assert [output["label"] for output in value["chosen"]] == ["2"]


@needs_hitl
@pytest.mark.parametrize(
    ("version", "number", "multiple"), [("3.1.8", 3, True), ("3.1.8", 4, False), ("3.2.0", 3, False)]
)
def test_four_options_are_a_list_on_airflow_3_1_which_shows_no_buttons_for_them(
    questions: Questions, monkeypatch: pytest.MonkeyPatch, version: str, number: int, multiple: bool
) -> None:
    monkeypatch.setattr("airflow.__version__", version)
    ask(choose(outputs=[run(str(n)) for n in range(number)]))
    assert questions.stored.multiple is multiple


@needs_hitl
@pytest.mark.usefixtures("questions")
@pytest.mark.parametrize(("picked", "multiple"), [(("1", REJECT), True), (("1", "2"), False)])
def test_an_answer_that_is_not_clear_chooses_nothing(picked: tuple[str, ...], multiple: bool) -> None:
    with pytest.raises(AirflowException, match=r"not clear: \['1', .*A retry or a clear asks again") as raised:
        answer(*picked, multiple=multiple)
    assert not isinstance(raised.value, AirflowFailException)


@needs_hitl
@pytest.mark.usefixtures("questions")
def test_a_rejection_can_be_returned() -> None:
    value = answer(REJECT, note="too dark", on_reject="return")
    assert (value["chosen"], len(value["rejected"]), value["note"]) == ([], 2, "too dark")


@needs_hitl
@pytest.mark.usefixtures("questions")
@pytest.mark.parametrize(("on_reject", "error"), [("skip", AirflowSkipException), ("fail", AirflowFailException)])
@pytest.mark.parametrize("do_xcom_push", [True, False])
def test_a_rejection_can_skip_or_fail_and_leaves_its_value(
    on_reject: str, error: type[Exception], do_xcom_push: bool
) -> None:
    context = Context()
    with pytest.raises(error, match="'Ada' rejected all 2 outputs, with the note 'too dark'"):
        answer(REJECT, note="too dark", context=context, on_reject=on_reject, do_xcom_push=do_xcom_push)
    assert [value["note"] for value in context.xcoms.values()] == ["too dark"] * do_xcom_push


@needs_hitl
@pytest.mark.usefixtures("questions")
def test_after_the_time_limit_nobody_has_chosen() -> None:
    kept = ask(choose())
    event = {
        "chosen_options": ["1"],
        "params_input": {"note": None},
        "responded_at": WHEN,
        "responded_by_user": None,
    }
    assert choose().execute_complete(Context(), event, **kept)["by"] is None
    with pytest.raises(Exception, match="timeout"):
        choose().execute_complete(Context(), {"error": "late", "error_type": "timeout"}, **kept)


@needs_hitl
def test_a_misspelt_choice_is_noticed_when_the_dag_is_parsed() -> None:
    with pytest.raises(ValueError, match="on_reject takes 'skip' or 'fail' or 'return', not 'retry'"):
        choose(on_reject="retry")


@needs_hitl
def test_outputs_labels_and_words_are_templated() -> None:
    task = choose(outputs="{{ folder }}/m.jsonl", labels=["{{ a }}"], subject="{{ a }}", body="{{ a }}")
    task.render_template_fields({"folder": "/srv", "a": "A"})
    assert (task.outputs, task.labels, task.subject, task.body) == ("/srv/m.jsonl", ["A"], "A", "A")
