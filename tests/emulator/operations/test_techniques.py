"""The catalogue, as the API shows it."""

from __future__ import annotations

import pytest
import requests

from airflow_provider_flora.emulator.state.catalogue import TECHNIQUES


def pages(flora, **query):
    found = []
    while True:
        answer = flora.get("/techniques", **query).json()
        found.append([technique["technique_id"] for technique in answer["techniques"]])
        query["cursor"] = answer["meta"]["next_cursor"]
        if not query["cursor"]:
            return found


def test_every_type_of_slot_and_every_mark_is_in_the_catalogue():
    types = {"imageUrl", "videoUrl", "audioUrl", "text", "documentUrl"}
    inputs = [slot for technique in TECHNIQUES for slot in technique.inputs]
    assert {slot.type for slot in inputs} == types
    assert {slot.type for technique in TECHNIQUES for slot in technique.outputs} == types
    marks = ("optional", "allow_multiple", "accepts_element", "specified_aspect_ratio", "specified_duration")
    for mark in marks:
        assert any(getattr(slot, mark) for slot in inputs), mark
    assert len(TECHNIQUES) >= 10
    assert sum(technique.run_cost == 0 for technique in TECHNIQUES) <= 1
    assert len({technique.run_cost for technique in TECHNIQUES}) == len(TECHNIQUES)


def test_a_technique_is_found_by_its_id_and_by_its_slug(flora):
    by_id = flora.get("/techniques/tech_product-relight")
    assert by_id.json() == flora.get("/techniques/product-relight").json()
    assert by_id.json()["run_cost"] == 0.18
    assert by_id.json()["inputs"][2] == {
        "id": "background",
        "name": "Background",
        "type": "text",
        "optional": True,
    }


def test_an_unknown_technique_is_a_json_404(flora):
    answer = flora.get("/techniques/tech_nope")
    assert answer.status_code == 404
    assert answer.json() == {"error": {"code": "not_found", "message": "Not found."}}


def test_pages_of_any_size_give_every_technique_once(flora):
    everything = sorted(technique.technique_id for technique in TECHNIQUES)
    for limit in (1, 2, 5, len(everything) - 1, len(everything), 100):
        found = pages(flora, limit=limit)
        assert [one for page in found for one in page] == everything
        assert all(0 < len(page) <= limit for page in found)


def test_a_query_looks_into_names_and_descriptions(flora):
    assert pages(flora, query="RELIGHT") == [["tech_product-relight"]]
    assert pages(flora, query="floor plans") == [[]]
    assert pages(flora, query="tighter cut") == [["tech_clip-recut"]]


def test_another_workspace_has_no_techniques(flora):
    assert pages(flora, workspace_id="ws_other") == [[]]
    workspace = flora.get("/workspaces").json()["workspaces"][0]
    assert set(workspace) == {"workspace_id", "name", "role", "created_at"}
    assert pages(flora, workspace_id=workspace["workspace_id"], limit=100) != [[]]


def test_an_unknown_path_is_a_json_404(flora):
    for method, path in (
        ("GET", "/nope"),
        ("GET", ""),
        ("DELETE", "/techniques/product-relight"),
        ("POST", "/technique-runs"),
    ):
        answer = flora.send(method, path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


def test_a_renamed_technique_keeps_its_id_and_its_runs(flora):
    run = flora.start().json()
    was = flora.get("/techniques/editorial-still").json()
    now = flora.emulator.change_technique("editorial-still", slug="still-life", name="Still Life")
    assert now == {**was, "slug": "still-life", "name": "Still Life"}
    assert flora.get("/techniques/editorial-still").status_code == 404
    assert flora.start().status_code == 404
    assert flora.get("/techniques/still-life").json() == flora.get("/techniques/tech_editorial-still").json() == now
    for address in ("still-life", "tech_editorial-still"):
        assert flora.get(f"/techniques/{address}/runs/{run['run_id']}").status_code == 200
        assert len(flora.history(technique_id=address)) == 1
    assert flora.start("still-life").status_code == 200
    assert pages(flora, query="still life") == [["tech_editorial-still"]]


def test_a_dearer_technique_costs_more_from_the_next_start_on(flora):
    first = flora.run()
    assert flora.emulator.change_technique("tech_editorial-still", run_cost=2)["run_cost"] == 2
    assert flora.get("/techniques/editorial-still").json()["run_cost"] == 2
    assert flora.start().json()["charged_cost"] == 2
    second = flora.run()
    charged = {run["run_id"]: run["charged"] for run in flora.emulator.ledger()["runs"]}
    assert (charged[first["run_id"]], charged[second["run_id"]]) == (0.09, 2)


def test_a_deleted_technique_is_not_found_and_its_runs_are_in_the_history_alone(flora):
    run = flora.run()
    assert flora.emulator.change_technique("editorial-still", deleted=True) == {}
    for path in ("editorial-still", "tech_editorial-still", f"tech_editorial-still/runs/{run['run_id']}"):
        assert flora.get(f"/techniques/{path}").status_code == 404
    assert flora.start().status_code == 404
    assert "tech_editorial-still" not in pages(flora, limit=100)[0]
    assert [one["run_id"] for one in flora.history()] == [run["run_id"]]
    assert flora.get(run["outputs"][0]["url"]).status_code == 200


def test_techniques_are_changed_over_http_and_a_reset_undoes_it(flora):
    control = f"{flora.emulator.origin}/_emulator"
    order = {"technique_id": "tagline-writer", "slug": "slogans", "run_cost": 0.5}
    assert requests.post(f"{control}/techniques", json=order, timeout=60).json()["slug"] == "slogans"
    flora.emulator.change_technique("wonder-fy", deleted=True)
    requests.post(f"{control}/reset", timeout=60)
    assert flora.get("/techniques/tagline-writer").json()["run_cost"] == 0.01
    assert flora.get("/techniques/wonder-fy").status_code == 200
    assert flora.get("/techniques/slogans").status_code == 404


MINE = {
    "technique_id": "tech_mine",
    "slug": "mine",
    "name": "Mine",
    "description": "A still of mine",
    "run_cost": 0.3,
    "inputs": [{"id": "prompt", "name": "Prompt", "type": "text", "optional": True}],
    "outputs": [{"id": "image", "name": "Image", "type": "imageUrl", "specified_aspect_ratio": "1:1"}],
}


def test_an_added_technique_is_listed_and_runs_until_a_reset(flora):
    assert flora.emulator.add_technique(MINE) == MINE
    assert flora.get("/techniques/mine").json() == MINE
    assert pages(flora, query="of mine") == [["tech_mine"]]
    run = flora.run("mine", [])
    assert flora.emulator.ledger()["charged_total"] == 0.3
    assert flora.get(run["outputs"][0]["url"]).headers["content-type"] == "image/png"
    flora.emulator.reset()
    assert flora.get("/techniques/mine").status_code == 404


def test_each_technique_that_is_listed_can_be_added(flora):
    listed = flora.get("/techniques?limit=100").json()["techniques"]
    flora.emulator.change_technique("wonder-fy", deleted=True)
    for technique in listed:
        assert flora.emulator.add_technique({**technique, "a_later_field": 1}) == technique
    assert flora.get("/techniques?limit=100").json()["techniques"] == listed


@pytest.mark.parametrize(
    ("kind", "content_type"),
    [
        ("imageUrl", "image/png"),
        ("videoUrl", "video/mp4"),
        ("audioUrl", "audio/wav"),
        ("documentUrl", "application/pdf"),
    ],
)
def test_an_added_technique_has_outputs_of_each_type(flora, kind, content_type):
    flora.emulator.add_technique(
        {**MINE, "outputs": [{"id": "any", "type": kind, "specified_aspect_ratio": "3:7"}]}
    )
    file = flora.get(flora.run("mine", [])["outputs"][0]["url"])
    assert (file.status_code, file.headers["content-type"]) == (200, content_type)


def test_an_added_technique_takes_the_place_of_those_with_its_id_or_slug(flora):
    flora.emulator.add_technique({**MINE, "technique_id": "tech_wonder-fy", "slug": "book-drop"})
    assert flora.get("/techniques/book-drop").json()["technique_id"] == "tech_wonder-fy"
    for address in ("wonder-fy", "tech_book-drop"):
        assert flora.get(f"/techniques/{address}").status_code == 404


def test_a_technique_is_added_over_http_with_what_it_must_have(flora):
    least = {"technique_id": "tech_least", "run_cost": 0, "inputs": [], "outputs": [{"id": "text", "type": "text"}]}
    answer = requests.put(f"{flora.emulator.origin}/_emulator/techniques", json=least, timeout=60)
    assert answer.json() == {
        **least,
        "slug": "tech_least",
        "name": "tech_least",
        "description": "",
        "outputs": [{"id": "text", "name": "text", "type": "text"}],
    }
    assert flora.run("tech_least", [])["outputs"][0]["url"].startswith("the subject. ")
    assert flora.emulator.ledger()["charged_total"] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"technique_id": ""}, "technique_id is '': it must be a text"),
        ({"run_cost": None}, "run_cost of 'tech_mine' is None: it must be a number"),
        ({"run_cost": -1}, "run_cost of 'tech_mine' is -1"),
        ({"run_cost": True}, "run_cost of 'tech_mine' is True"),
        ({"inputs": None}, "inputs of 'tech_mine' is None: it must be a list of slots"),
        ({"outputs": [{"id": "image"}]}, "type is None: it must be a text"),
        (
            {"outputs": [{"id": "image", "type": "fontUrl"}]},
            "type of 'image' is 'fontUrl': an output is one of text",
        ),
        ({"outputs": ["image"]}, "a slot is 'image': it must be an object"),
    ],
)
def test_what_is_no_technique_is_not_added(flora, change, message):
    before = flora.get("/techniques?limit=100").json()
    with pytest.raises(ValueError, match=message):
        flora.emulator.add_technique({**MINE, **change})
    assert flora.get("/techniques?limit=100").json() == before


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ({"technique_id": "nope", "name": "x"}, "no technique has that id or slug"),
        ({"name": "x"}, "technique_id is None"),
        ({"technique_id": "wonder-fy", "colour": "red"}, "it has slug, name, run_cost, deleted"),
        ({"technique_id": "wonder-fy", "run_cost": -1}, "run_cost is -1"),
        ({"technique_id": "wonder-fy", "run_cost": "2"}, "run_cost is '2'"),
        ({"technique_id": "wonder-fy", "slug": ""}, "slug is ''"),
        ({"technique_id": "wonder-fy", "slug": "palette-pull"}, "another technique has it"),
    ],
)
def test_a_change_that_makes_no_sense_is_refused(flora, order, message):
    answer = requests.post(f"{flora.emulator.origin}/_emulator/techniques", json=order, timeout=60)
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]
