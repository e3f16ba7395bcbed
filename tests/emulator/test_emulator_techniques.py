"""The catalogue, as the API shows it."""

from __future__ import annotations

from airflow_provider_flora.emulator.catalogue import TECHNIQUES


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
