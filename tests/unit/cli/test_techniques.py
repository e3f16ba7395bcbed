"""`techniques` and `technique`, for people and for programs."""

from __future__ import annotations

import os

import pytest
from rich.cells import cell_len

from airflow_provider_flora.emulator import Emulator
from airflow_provider_flora.emulator.state.catalogue import TECHNIQUES
from tests.unit.cli.a_terminal import Terminal
from tests.unit.cli.conftest import Run
from tests.unit.cli.stand_in import StandIn


def technique(number: int = 1, **fields: object) -> dict[str, object]:
    return {"technique_id": f"tech_{number}", "name": f"Technique {number}", "run_cost": 0.1, **fields}


def test_a_line_has_id_name_price_inputs_and_outputs(run: Run) -> None:
    ran = run("techniques")
    assert ran.code == 0
    assert ran.rows[0] == ["TECHNIQUE", "NAME", "USD", "INPUTS", "OUTPUTS"]
    assert ran.rows[1 + [one.slug for one in TECHNIQUES].index("product-relight")] == (
        ["product-relight", "Product", "Relight", "0.18", "photo,", "light,", "background*", "image"]
    )
    assert len(ran.rows) == 1 + len(TECHNIQUES)
    assert ran.err == f"{len(TECHNIQUES)} techniques. A star marks an optional input.\n"


def test_a_query_finds_some(run: Run) -> None:
    assert [row[0] for row in run("techniques", "magazine").rows[1:]] == ["editorial-still"]
    nothing = run("techniques", "no such words")
    assert (nothing.code, nothing.out) == (0, "")
    assert nothing.err.startswith("0 techniques")


def test_all_pages_are_listed(stand_in: StandIn, run: Run) -> None:
    stand_in.techniques = [technique(number) for number in range(255)]
    assert [row[0] for row in run("techniques").rows[1:]] == [f"tech_{number}" for number in range(255)]
    assert [row[-1] for row in run("techniques").rows[1:]] == ["0.10"] * 255, "each has a line of its own"
    assert len(run("techniques", "--json").json) == 255


def test_a_page_is_shown_before_the_next_is_asked_for(
    stand_in: StandIn, run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in.techniques = [technique(number) for number in range(101)]
    answer, shown = stand_in.answer, []

    def look_first(url: str) -> tuple[int, object]:
        shown.append(capsys.readouterr().out)
        return answer(url)

    monkeypatch.setattr(stand_in, "answer", look_first)
    run("techniques")
    assert "tech_99" not in shown[0]
    assert "tech_99" in shown[1]


def test_json_has_flora_s_fields(run: Run) -> None:
    listed = {one["slug"]: one for one in run("techniques", "--json").json}
    assert listed["product-relight"] == run("technique", "product-relight", "--json").json
    assert listed["product-relight"]["run_cost"] == 0.18
    assert [slot["optional"] for slot in listed["product-relight"]["inputs"]] == [False, False, True]


def test_a_technique_shows_what_each_slot_takes_and_gives(run: Run) -> None:
    shown = run("technique", "tech_product-motion").out
    assert "Price        0.55 USD a run\n" in shown
    assert "photo   imageUrl  yes            Photo\n" in shown
    assert "motion  text      no             Motion\n" in shown
    assert "video   videoUrl  16:9, 2 s  Video\n" in shown
    assert "several values" in run("technique", "product-lookbook-grid").out
    assert "or an element's id" in run("technique", "cctv-cam").out


def test_no_price_is_said_so(stand_in: StandIn, run: Run) -> None:
    stand_in.techniques = [technique(run_cost=None)]
    assert "Flora names none" in run("technique", "tech_1").out
    assert run("techniques").rows[1] == ["tech_1", "Technique", "1", "-"]


def test_a_technique_that_is_not_there_is_flora_s_error(run: Run) -> None:
    ran = run("technique", "no-such")
    assert (ran.code, ran.out) == (1, "")
    assert "Technique 'no-such' was not found with the key in FLORA_API_KEY" in ran.err
    assert "Traceback" not in ran.err


HOSTILE = "\x1b[31mred\x1b]0;title\x07 [red]x[/red] \u202etxt.exe\u2066 \x9b2J :smile: \r\n\x00 \ud800 end"


@pytest.mark.parametrize("width", [20, 80])
@pytest.mark.parametrize("command", ["techniques", "technique"])
def test_hostile_names_do_not_steer_the_terminal(
    stand_in: StandIn, run: Run, command: str, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    slot = {"id": HOSTILE, "type": HOSTILE, "name": HOSTILE, "description": HOSTILE}
    stand_in.techniques = [technique(name=HOSTILE, description=HOSTILE, inputs=[slot], outputs=[slot])]
    ran = run(command, *["tech_1"] * (command == "technique"))
    assert ran.code == 0
    assert all(character.isprintable() for character in ran.out + ran.err if character != "\n")
    assert "[red]x[/red]" in "".join(run("technique", "tech_1").out.split()), "markup is a text"
    assert ":smile:" in "".join(run("technique", "tech_1").out.split())


def test_json_of_hostile_names_is_ascii_and_whole(stand_in: StandIn, run: Run) -> None:
    stand_in.techniques = [technique(name=HOSTILE)]
    ran = run("techniques", "--json")
    assert ran.out.isascii()
    assert "\x1b" not in ran.out
    # No database and no UTF-8 takes a NUL or half an emoji.
    assert ran.json[0]["name"] == HOSTILE.replace("\0", "\ufffd").replace("\ud800", "\ufffd")


@pytest.mark.parametrize("width", [60, 80, 200])
def test_wide_and_long_names_stay_in_their_columns(
    stand_in: StandIn, run: Run, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    names = ["光" * 60, "🎨🖌️ paint", "é" * 5, "a" * 500]
    slot = {"id": "prompt", "type": "text"}
    stand_in.techniques = [technique(place, name=name, inputs=[slot]) for place, name in enumerate(names)]
    lines = run("techniques").out.splitlines()
    assert max(map(cell_len, lines)) <= width
    column = cell_len(lines[0][: lines[0].index("INPUTS")])
    found = [line for line in lines if line.endswith("prompt")]
    assert len(found) == len(names)
    assert {cell_len(line[: line.index("prompt")]) for line in found} == {column}
    assert "".join(run("techniques").out.split()).count("光") == 60, "nothing is cut"


@pytest.mark.parametrize(("columns", "colour"), [(0, True), (20, True), (80, True), (200, True), (20, False)])
def test_on_a_terminal_the_table_fits(flora_key: Emulator, columns: int, colour: bool) -> None:
    env = {} if colour else {"TERM": "dumb"}
    with Terminal("techniques", "product", columns=columns, env=env) as terminal:
        assert terminal.end() == 0
    assert terminal.has_colour == colour
    table = terminal.lines[:-1]
    assert [line.split()[0] for line in table if "0." in line][-1].startswith("product")
    # Columns of less could not be read: the terminal breaks the lines. A dumb one counts as one of 80.
    assert max(map(len, table)) <= (max(columns or 80, 52) if colour else 80)
    assert any("0.18" in line for line in table), "a price is never broken"


def test_a_table_in_a_pipe_has_a_line_for_each_technique(stand_in: StandIn, run: Run) -> None:
    stand_in.techniques = [technique(name="long " * 300)]
    assert len(run("techniques").out.splitlines()) == 2


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_every_locale_can_print_every_name(stand_in: StandIn, program: Run, encoding: str) -> None:
    stand_in.techniques = [technique(name="光 é")]
    ran = program("techniques", env={**os.environ, "PYTHONIOENCODING": encoding}, errors="replace")
    assert (ran.code, "bug" in ran.err) == (0, False)
    assert ("光 é" if encoding == "utf-8" else r"\u5149") in ran.out
