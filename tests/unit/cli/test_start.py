"""`start`: what it asks, when money is spent, and what is known of a run whatever happens."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_flora.api import retries
from airflow_provider_flora.cli.start import _NOTHING as NOTHING
from airflow_provider_flora.emulator import Emulator
from airflow_provider_flora.files.uploads.run_inputs import InputFiles
from tests.unit.cli.a_terminal import CTRL_C, Terminal
from tests.unit.cli.conftest import Ran, Run
from tests.unit.operators.still import posts_to
from tests.unit.waiting import LONG, later, wait_until

BRIEF = ("tagline-writer", "-i", "brief=A lamp")
QUESTION = "A run of Tagline Writer costs 0.01 USD. Start it? [y/N] "


@pytest.fixture
def start(run: Run) -> Run:
    """Starts without a question."""
    return lambda *arguments: run("start", *arguments, "--yes")


# --- what it does -----------------------------------------------------------------------------------------


def test_it_names_the_price_starts_waits_and_shows(start: Run, flora_key: Emulator) -> None:
    ran = start(*BRIEF)
    (paid,) = flora_key.ledger()["runs"]
    assert ran.code == 0
    first, second, *_ = ran.err.splitlines()
    assert (first, second) == ("A run of Tagline Writer costs 0.01 USD.", f"Started {paid['run_id']}")
    shown = dict(line.split(maxsplit=1) for line in ran.out.splitlines()[:6])
    assert shown["Run"] == paid["run_id"]
    assert shown["Technique"] == "tech_tagline-writer"
    assert (shown["Status"], shown["Charged"]) == ("completed", "0.01 USD")
    assert "taglines   text  1. A lamp" in ran.out


def test_json_is_the_run_alone(start: Run, flora_key: Emulator) -> None:
    ran = start(*BRIEF, "--json")
    (paid,) = flora_key.ledger()["runs"]
    assert ran.json["run_id"] == paid["run_id"]
    assert (ran.json["technique_id"], ran.json["status"]) == ("tech_tagline-writer", "completed")
    assert (ran.json["charged_cost"], ran.json["files"], ran.json["remedy"]) == (0.01, [], None)


def test_line_ends_of_a_value_reach_flora_as_they_are(start: Run, flora_key: Emulator) -> None:
    start("tagline-writer", "-i", "brief=one\r\ntwo = 2\r\n")
    (paid,) = flora_key.ledger()["runs"]
    assert paid["inputs"][0]["value"] == "one\r\ntwo = 2\r\n"


def test_a_file_is_uploaded_and_the_outputs_are_downloaded(
    start: Run, flora_key: Emulator, picture: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "relit"
    ran = start(
        "product-relight", "-i", f"photo={picture}", "-i", "light=neon", "--download", str(folder), "--json"
    )
    (file,) = ran.json["files"]
    (stored,) = folder.iterdir()
    assert file["uri"] == f"file://{stored}"
    assert stored.stat().st_size == file["bytes"]
    (asset,) = flora_key.ledger()["assets"]
    values = {entry["id"]: entry["value"] for entry in flora_key.ledger()["runs"][0]["inputs"]}
    assert asset["asset_id"] in values["photo"]
    assert values["light"] == "neon"


def test_the_person_is_asked_on_a_terminal(flora_key: Emulator) -> None:
    with Terminal("start", *BRIEF) as terminal:
        terminal.wait_for(QUESTION)
        assert posts_to(flora_key) == 0
        terminal.type("y\n")
        assert terminal.end() == 0
    assert posts_to(flora_key) == 1
    assert "Status     completed" in terminal.lines
    assert any("━━━━" in line and "%" in line for line in terminal.lines), "a bar"


def test_a_bar_is_shown_beside_json_in_a_pipe(flora_key: Emulator) -> None:
    flora_key.order_fault("slow_run", seconds=1)
    with Terminal("start", *BRIEF, "--json", pipe_out=True) as terminal:
        terminal.wait_for(QUESTION)
        terminal.type("yes\n")
        terminal.wait_for("━━━━")
        assert terminal.end() == 0
        assert json.loads(terminal.out)["status"] == "completed"


@pytest.mark.parametrize("env", [{"TERM": "dumb"}, {"NO_COLOR": "1", "PYTHONIOENCODING": "ascii"}])
def test_a_terminal_without_blocks_or_colour_shows_progress_too(flora_key: Emulator, env: dict[str, str]) -> None:
    with Terminal("start", *BRIEF, "--yes", env=env) as terminal:
        assert terminal.end() == 0
    run_id = flora_key.ledger()["runs"][0]["run_id"]
    assert "".join(terminal.lines).count(f"{run_id} ") >= 1
    assert "Status     completed" in terminal.lines


@pytest.mark.parametrize("answer", ["n", "", "yep", "\x04"])
def test_any_other_answer_starts_nothing(flora_key: Emulator, answer: str) -> None:
    with Terminal("start", *BRIEF) as terminal:
        terminal.wait_for(QUESTION)
        terminal.type(answer if answer == "\x04" else f"{answer}\n")
        assert terminal.end() == 1
    assert NOTHING in terminal.seen
    assert posts_to(flora_key) == 0


@pytest.mark.parametrize("how", [{}, {"stdin": None, "preexec_fn": lambda: os.close(0)}], ids=["null", "closed"])
def test_where_nobody_can_answer_nothing_is_started(program: Run, flora_key: Emulator, how: dict[str, Any]) -> None:
    ran = program("start", *BRIEF, **how)
    assert (ran.code, ran.out) == (2, "")
    assert "costs 0.01 USD. Nobody is here to agree. Add --yes to start it." in ran.err
    assert posts_to(flora_key) == 0


# --- what is checked first --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["-i", "brief"], 2, "'brief' is not INPUT=VALUE"),
        (["-i", "=x"], 2, "'=x' is not INPUT=VALUE"),
        (["-i", "brief=a", "-i", "brief=b"], 2, "An input was named twice"),
        (["-i", "prompt=a"], 1, "'prompt' is not an input of this technique; it has: 'brief'"),
        ([], 1, "'brief' is missing"),
        (["-i", "brief=a", "--max-cost", "0.001"], 1, "more than --max-cost=0.001 USD. Nothing was started"),
        (["-i", "brief=a", "--max-cost", "-1"], 2, "'-1' is not an amount in USD"),
        (["-i", "brief=a", "--max-cost", "nan"], 2, "'nan' is not an amount in USD"),
        (["-i", "brief=a", "--timeout", "0"], 2, "'0' is not a number of seconds"),
        (["-i", "brief=a", "--download", "~no-such-user/x"], 2, "The folder '~no-such-user/x' cannot be used"),
        (["-i", "brief=a", "--download", "nowhere://x"], 2, "cannot be used"),
        (["-i", "brief=a", "--download", "/dev/null/x"], 1, "is not writable"),
    ],
)
def test_a_mistake_is_found_before_anything_is_paid(
    start: Run, flora_key: Emulator, arguments: list[str], code: int, says: str
) -> None:
    ran = start("tagline-writer", *arguments, "--json")
    assert (ran.code, ran.out) == (code, "")
    assert says in " ".join(ran.err.split())
    assert "Traceback" not in ran.err
    assert posts_to(flora_key) == 0


def test_a_file_that_is_not_there_is_found_before_anything_is_uploaded(start: Run, flora_key: Emulator) -> None:
    ran = start("product-relight", "-i", "photo=./no-such.png", "-i", "light=neon")
    assert ran.code == 1
    assert "There is no file './no-such.png'" in ran.err
    assert flora_key.ledger()["assets"] == []


@pytest.mark.parametrize("price", [0.02, 0.005])
def test_a_price_that_changes_after_the_question_is_not_paid(
    start: Run, flora_key: Emulator, monkeypatch: pytest.MonkeyPatch, price: float
) -> None:
    upload = InputFiles.upload

    def upload_slowly(*given: Any) -> Any:
        flora_key.change_technique("tagline-writer", run_cost=price)
        return upload(*given)

    monkeypatch.setattr(InputFiles, "upload", upload_slowly)
    ran = start(*BRIEF)
    assert (ran.code, posts_to(flora_key)) == (1, 0)
    assert f"was 0.01 USD, and is {price:.3f}".rstrip("0") in ran.err
    assert NOTHING in ran.err


# --- errors of the start ----------------------------------------------------------------------------------


def test_no_credits_is_flora_s_error(start: Run, flora_key: Emulator) -> None:
    flora_key.order_fault("status", status=402, code="insufficient_credits", operation="startTechniqueRun")
    ran = start(*BRIEF, "--json")
    assert (ran.code, ran.out) == (1, "")
    assert "Flora answered 402 insufficient_credits" in ran.err
    assert "Top up the workspace's credits" in ran.err
    assert "may have been started" not in ran.err


def test_a_rate_limit_is_waited_for_and_told(start: Run, flora_key: Emulator) -> None:
    flora_key.order_fault("status", status=429, retry_after=0.01, operation="startTechniqueRun")
    ran = start(*BRIEF)
    assert (ran.code, posts_to(flora_key)) == (0, 2)
    assert "Flora answered 429" in ran.err
    assert "Trying again in 0 s, with the same idempotency key: Flora makes one run of both." in ran.err
    assert flora_key.ledger()["started_runs"] == 1


@pytest.fixture
def quick_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A start is certain to have ended within a moment."""
    monkeypatch.setattr(retries, "start_duration", lambda _: 0.05)


@pytest.mark.usefixtures("quick_starts")
def test_a_lost_answer_leads_to_one_run_that_is_waited_for(start: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with Emulator(idempotency="site", run_seconds=0.05, cost_lag=0) as flora:
        monkeypatch.setenv("FLORA_BASE_URL", flora.base_url)
        monkeypatch.setenv("FLORA_API_KEY", flora.api_key)
        flora.order_fault("reset", when="after", operation="startTechniqueRun")
        ran = start(*BRIEF, "--json")
        assert (ran.code, ran.json["status"], flora.ledger()["started_runs"]) == (0, "completed", 1)
    assert "with the same idempotency key" in ran.err


@pytest.mark.usefixtures("quick_starts")
def test_where_flora_does_not_repeat_its_answer_the_run_is_in_the_history(start: Run, flora_key: Emulator) -> None:
    flora_key.order_fault("reset", when="after", operation="startTechniqueRun")
    ran = start(*BRIEF, "--json")
    assert (ran.code, ran.out, flora_key.ledger()["started_runs"]) == (1, "", 1)
    assert "Flora answered 409 idempotency_duplicate" in ran.err
    assert "The run was started" in ran.err


@pytest.mark.usefixtures("quick_starts")
def test_a_start_whose_outcome_stays_unknown_says_where_to_look(start: Run, flora_key: Emulator, run: Run) -> None:
    flora_key.order_fault("reset", when="after", operation="startTechniqueRun", times=3)
    ran = start(*BRIEF, "--json")
    assert (ran.code, ran.out, flora_key.ledger()["started_runs"]) == (1, "", 1)
    (hint,) = [line for line in ran.err.splitlines() if "may have been started" in line]
    look = hint.partition(" airflow_provider_flora ")[2].split()
    assert run(*look).rows[1][0] == flora_key.ledger()["runs"][0]["run_id"]


@pytest.mark.parametrize("as_json", [False, True])
def test_a_refusal_by_moderation_is_shown_with_its_remedy(start: Run, flora_key: Emulator, as_json: bool) -> None:
    flora_key.order_fault("fail_run", error_code="GENERATION_PROMPT_MODERATED", error_message="No lamps.")
    ran = start(*BRIEF, *["--json"] * as_json)
    assert ran.code == 1
    assert "failed with GENERATION_PROMPT_MODERATED: No lamps." in ran.err
    if as_json:
        assert (ran.json["status"], ran.json["remedy"]) == ("failed", "change the input")
    else:
        assert "Error      GENERATION_PROMPT_MODERATED: No lamps.\n" in ran.out
        assert "Remedy     change the input\n" in ran.out
        assert "Charged    nothing, as a rule\n" in ran.out


def test_a_status_that_nobody_knows_ends_the_wait(start: Run, flora_key: Emulator) -> None:
    flora_key.order_fault("end_run", status="cancelled")
    ran = start(*BRIEF, "--json")
    assert (ran.code, ran.json["status"], ran.json["remedy"]) == (1, "cancelled", "give up")


def test_what_is_paid_is_known_after_a_timeout(start: Run, flora_key: Emulator) -> None:
    flora_key.order_fault("stall_run")
    ran = start(*BRIEF, "--timeout", "0.2", "--json")
    (paid,) = flora_key.ledger()["runs"]
    assert (ran.code, ran.json["run_id"]) == (1, paid["run_id"])
    assert "did not finish within 0.2 s" in ran.err
    assert f"wait {paid['run_id']} --technique tech_tagline-writer" in ran.err


def test_what_is_paid_is_known_after_a_failed_download(
    start: Run, flora_key: Emulator, tmp_path: Path, run: Run
) -> None:
    flora_key.order_fault("status", status=404, operation="getMedia", times=None)
    folder = tmp_path / "my files"
    ran = start("editorial-still", "-i", "prompt=a cup", "--download", str(folder), "--json")
    assert (ran.code, ran.json["status"], ran.json["files"]) == (1, "completed", [])
    (hint,) = [line for line in ran.err.splitlines() if "Download its outputs" in line]
    assert f"'{folder}'" in hint
    flora_key.clear_faults()
    arguments = hint.partition(" airflow_provider_flora ")[2].replace(f"'{folder}'", "DIR").split()
    again = run(*(str(folder) if argument == "DIR" else argument for argument in arguments))
    assert again.code == 0
    assert len(list(folder.iterdir())) == 1


def test_two_starts_at_once_are_two_runs(program: Run, flora_key: Emulator) -> None:
    ended: list[Ran] = []
    threads = [
        threading.Thread(target=lambda: ended.append(program("start", *BRIEF, "--yes", "--json"))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [ran.code for ran in ended] == [0, 0]
    assert len({ran.json["run_id"] for ran in ended}) == 2 == flora_key.ledger()["charged_runs"]


# --- Ctrl-C -----------------------------------------------------------------------------------------------


def test_ctrl_c_before_the_question_starts_nothing(flora_key: Emulator) -> None:
    flora_key.order_fault("delay", seconds=20, operation="getTechnique")
    with Terminal("start", *BRIEF) as terminal:
        wait_until(lambda: flora_key.ledger()["requests"].get("getTechnique", 0) == 1)
        terminal.type(CTRL_C)
        assert terminal.end() == 130
    assert NOTHING in terminal.seen
    assert "Traceback" not in terminal.seen


def test_ctrl_c_at_the_question_starts_nothing(flora_key: Emulator) -> None:
    with Terminal("start", *BRIEF) as terminal:
        terminal.wait_for(QUESTION)
        terminal.type(CTRL_C)
        assert terminal.end() == 130
    assert NOTHING in terminal.seen
    assert posts_to(flora_key) == 0


def test_ctrl_c_while_a_file_is_uploaded_starts_nothing(flora_key: Emulator, picture: Path) -> None:
    flora_key.order_fault("delay", seconds=20, operation="createAsset")
    with Terminal("start", "product-relight", "-i", f"photo={picture}", "-i", "light=neon", "--yes") as terminal:
        terminal.wait_for("Uploading")
        wait_until(lambda: flora_key.ledger()["requests"].get("createAsset", 0) == 1)
        terminal.type(CTRL_C)
        assert terminal.end() == 130
    assert NOTHING in terminal.seen
    assert posts_to(flora_key) == 0


def test_ctrl_c_while_the_start_is_sent_says_that_it_may_be_paid(flora_key: Emulator) -> None:
    flora_key.order_fault("slow_start", seconds=20)
    with Terminal("start", *BRIEF, "--yes") as terminal:
        wait_until(lambda: posts_to(flora_key) == 1)
        terminal.type(CTRL_C)
        assert terminal.end() == 130
    assert "The run may have been started, and is charged if it completes." in terminal.seen
    assert NOTHING not in terminal.seen


def test_ctrl_c_while_waiting_says_how_to_come_back(
    flora_key: Emulator, program: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    flora_key.order_fault("slow_run", seconds=LONG)
    with Terminal("start", *BRIEF, "--yes", columns=200) as terminal:
        terminal.wait_for("━━━━")
        terminal.type(CTRL_C)
        assert terminal.end() == 130
    (hint,) = [line for line in terminal.lines if "Come back with" in line]
    assert "goes on at Flora, which cannot cancel runs" in terminal.seen
    assert "\x1b[?25h" in terminal.seen, "the cursor is shown again"
    later(flora_key, monkeypatch)
    back = program(*hint.partition(" airflow_provider_flora ")[2].split(), "--json")
    assert (back.code, back.json["status"]) == (0, "completed")


def test_ctrl_c_while_waiting_leaves_a_program_the_run(flora_key: Emulator) -> None:
    flora_key.order_fault("stall_run")
    with Terminal("start", *BRIEF, "--yes", "--json", pipe_out=True) as terminal:
        terminal.wait_for("━━━━")
        terminal.type(CTRL_C)
        assert terminal.end() == 130
        assert json.loads(terminal.out)["run_id"] == flora_key.ledger()["runs"][0]["run_id"]


def test_ctrl_c_while_downloading_says_how_to_download(flora_key: Emulator, tmp_path: Path) -> None:
    flora_key.order_fault("delay", when="during", seconds=20, operation="getMedia")
    arguments = ("editorial-still", "-i", "prompt=a cup", "--download", str(tmp_path), "--yes")
    with Terminal("start", *arguments, columns=200) as terminal:
        wait_until(lambda: flora_key.ledger()["requests"].get("getMedia", 0) == 1)
        terminal.type(CTRL_C)
        assert terminal.end() == 130
    assert f"download {flora_key.ledger()['runs'][0]['run_id']} {tmp_path} " in terminal.seen
    assert "Traceback" not in terminal.seen
    assert list(tmp_path.iterdir()) == []
