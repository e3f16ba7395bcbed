"""History: order, pages, filters, and lists that are behind."""

from __future__ import annotations

import random
import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_flora.emulator.state.catalogue import Catalogue
from airflow_provider_flora.emulator.state.clock import Clock
from airflow_provider_flora.emulator.state.history import History


def ids(items):
    return [item["run_id"] for item in items]


def test_an_item_has_more_fields_than_a_run(emulate):
    flora = emulate(cost_lag=0)
    run = flora.run()
    time.sleep(0.01)
    (item,) = flora.history()
    extra = {
        "technique_run_id": run["run_id"],
        "technique": {"technique_id": "tech_editorial-still", "name": "Editorial Still"},
        "workspace_id": "ws_emulator",
        "project_id": "prj_emulator",
    }
    assert item == {**run, **extra}


def test_history_is_newest_first_in_pages_of_twenty(flora):
    started = [flora.start().json()["run_id"] for _ in range(23)]
    page = flora.get("/technique-runs").json()
    assert ids(page["technique_runs"]) == started[::-1][:20]
    assert page["meta"]["total_estimate"] == 23
    rest = flora.get("/technique-runs", cursor=page["meta"]["next_cursor"]).json()
    assert ids(rest["technique_runs"]) == started[::-1][20:]
    assert rest["meta"]["next_cursor"] is None


def test_pages_stay_put_while_new_runs_arrive(flora):
    chance = random.Random(4)
    before = flora.emulator.seed_runs(57, spacing_ms=0)
    seen, cursor = [], {}
    while True:
        page = flora.get("/technique-runs", limit=chance.randint(1, 9), **cursor).json()
        seen += ids(page["technique_runs"])
        if not page["meta"]["next_cursor"]:
            break
        cursor = {"cursor": page["meta"]["next_cursor"]}
        for _ in range(chance.randint(0, 2)):
            flora.start()
    assert seen == before[::-1], "nothing twice, nothing missed"


def test_pages_that_are_counted_show_a_run_twice_when_one_arrives_between_them(emulate):
    flora = emulate(pages="offset")
    *_, third, second, first = flora.emulator.seed_runs(5)
    page = flora.get("/technique-runs", limit=2).json()
    assert ids(page["technique_runs"]) == [first, second]
    flora.start()
    page = flora.get("/technique-runs", limit=2, cursor=page["meta"]["next_cursor"]).json()
    assert ids(page["technique_runs"]) == [second, third]


def test_pages_that_are_counted_miss_a_run_when_one_leaves_the_filter_between_them(emulate):
    flora = emulate(pages="offset", run_seconds=600)
    others = flora.emulator.seed_runs(3, status="running")
    own = flora.start().json()["run_id"]
    flora.later(300)
    page = flora.get("/technique-runs", limit=1, status="running").json()
    assert ids(page["technique_runs"]) == [own]
    flora.later(400)
    rest = flora.history(status="running", limit=1, cursor=page["meta"]["next_cursor"])
    assert ids(rest) == others[1::-1]


def test_pages_that_are_counted_are_the_whole_while_nothing_happens(emulate):
    flora = emulate(pages="offset")
    seeded = flora.emulator.seed_runs(23)
    for limit in (1, 5, 22, 23, 100):
        assert ids(flora.history(limit=limit)) == seeded[::-1]


def test_a_cursor_of_other_pages_is_refused(emulate):
    cursors = {}
    for pages in ("stable", "offset"):
        flora = emulate(pages=pages)
        flora.emulator.seed_runs(2)
        cursors[pages] = flora.get("/technique-runs", limit=1).json()["meta"]["next_cursor"]
    assert flora.get("/technique-runs", cursor=cursors["offset"]).status_code == 200
    assert flora.get("/technique-runs", cursor=cursors["stable"]).status_code == 400
    assert emulate().get("/technique-runs", cursor=cursors["offset"]).status_code == 400
    with pytest.raises(ValueError, match="stable, offset"):
        emulate(pages="counted")


@pytest.mark.parametrize("limit", ["0", "101", "-1", "ten", "1.5", ""])
def test_a_limit_outside_1_to_100_is_refused(flora, limit):
    for path in ("/technique-runs", "/techniques"):
        answer = flora.get(path, limit=limit)
        assert answer.status_code == 400
        assert answer.json()["error"]["fields"][0]["field"] == "limit"


def test_a_hundred_is_the_longest_page(flora):
    flora.emulator.seed_runs(120)
    assert len(flora.get("/technique-runs", limit=100).json()["technique_runs"]) == 100


@pytest.mark.parametrize("cursor", ["", "nope", "Ym9ndXM", "%00", "WzEsMl0", "€"])
def test_a_bad_cursor_is_refused(flora, cursor):
    for path in ("/technique-runs", "/techniques"):
        answer = flora.get(path, cursor=cursor)
        assert (answer.status_code, answer.json()["error"]["fields"][0]["field"]) == (400, "cursor")


def test_another_lists_cursor_is_refused(flora):
    cursor = flora.get("/techniques", limit=1).json()["meta"]["next_cursor"]
    assert flora.get("/technique-runs", cursor=cursor).status_code == 400


def test_filters_by_status_and_technique(flora):
    wanted = flora.emulator.seed_runs(3, technique_id="tagline-writer", status="running")
    flora.emulator.seed_runs(2, technique_id="tagline-writer", status="failed")
    flora.emulator.seed_runs(4, status="running")
    both = flora.history(status="running", technique_id="tagline-writer", limit=2)
    assert ids(both) == wanted[::-1]
    assert len(flora.history(status="running")) == 7
    for address in ("tagline-writer", "tech_tagline-writer"):
        assert len(flora.history(technique_id=address)) == 5
    assert flora.history(technique_id="tech_nope") == []
    assert flora.history(status="pending") == []
    assert flora.get("/technique-runs", status="done").status_code == 400
    assert flora.get("/technique-runs", status="running").json()["meta"]["total_estimate"] == 7


def test_a_run_moves_from_filter_to_filter(emulate):
    flora = emulate(run_seconds=600)
    run_id = flora.start().json()["run_id"]
    statuses = ("pending", "running", "completed")
    for status in statuses:
        found = {s: ids(flora.history(status=s)) for s in statuses}
        assert found == {s: [run_id] if s == status else [] for s in statuses}
        flora.later(350)
    assert len(flora.history()) == 1


def test_filters_by_workspace_and_project(flora):
    flora.start()
    assert len(flora.history(workspace_id="ws_emulator", project_id="prj_emulator")) == 1
    assert flora.history(workspace_id="ws_other") == []
    assert flora.history(project_id="prj_other") == []


def test_a_malformed_project_id_is_an_opaque_500(flora):
    answer = flora.get("/technique-runs", project_id="a-uuid-perhaps")
    assert answer.status_code == 500
    assert answer.json() == {"error": {"code": "unknown_error", "message": "An unknown error occurred."}}


@pytest.mark.parametrize("path", ["/technique-runs", "/techniques", "/assets"])
@pytest.mark.parametrize("workspace_id", ["", "emulator", "ws_", "ws_a b", "xws_a", "ws_a\n"])
def test_a_malformed_workspace_id_is_refused(flora, path, workspace_id):
    answer = flora.get(path, workspace_id=workspace_id)
    assert answer.status_code == 400
    assert answer.json()["error"]["fields"][0]["field"] == "workspace_id"


def test_a_workspace_id_that_could_be_one_finds_nothing(flora):
    flora.start()
    for path, items in (
        ("/technique-runs", "technique_runs"),
        ("/techniques", "techniques"),
        ("/assets", "assets"),
    ):
        assert flora.get(path, workspace_id="ws_Ünd-ein.er").json()[items] == []


def test_a_list_may_be_behind(emulate):
    flora = emulate(run_seconds=0, list_lag=600)
    run = flora.start().json()
    assert flora.history() == []
    assert flora.get(run["poll_url"]).json()["status"] == "completed"
    flora.later(600)
    assert len(flora.history()) == 1


def test_a_list_that_is_behind_shows_the_status_of_then(emulate):
    flora = emulate(run_seconds=600, list_lag=400)
    run = flora.start().json()
    flora.later(700)
    assert flora.get(run["poll_url"]).json()["status"] == "completed"
    assert flora.history()[0]["status"] == "running"
    assert flora.history(status="completed") == []
    flora.later(400)
    assert flora.history(status="completed")[0]["run_id"] == run["run_id"]


def test_seeded_runs_keep_their_status_and_cost_nothing(flora):
    run_ids = flora.emulator.seed_runs(5, status="running", spacing_ms=1000)
    times = [item["created_at"] for item in flora.history()]
    assert [a - b for a, b in pairwise(times)] == [1000] * 4
    assert {item["status"] for item in flora.history()} == {"running"}
    assert ids(flora.history()) == run_ids[::-1]
    ledger = flora.emulator.ledger()
    assert (ledger["runs"], ledger["started_runs"], ledger["charged_total"]) == ([], 0, 0)


SLUGS = ("editorial-still", "tagline-writer")


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(SLUGS),
            st.sampled_from(["completed", "running", "failed"]),
            st.integers(0, 3),
            st.integers(0, 9),
        ),
        max_size=12,
    ),
    st.integers(1, 100),
    st.sampled_from([None, "tech_editorial-still"]),
    st.sampled_from([None, "completed", "running", "pending"]),
)
def test_pages_are_a_sorted_filtered_whole(batches, limit, technique_id, status):
    history = History(Clock(), run_seconds=1, list_lag=0, seed=0)
    for slug, seeded_status, count, spacing in batches:
        history.seed(Catalogue().find(slug), count=count, status=seeded_status, spacing=spacing)
        history.page(None, None, None, 1)
    found, before = [], None
    while True:
        runs, more, total, moment = history.page(technique_id, status, before, limit)
        found += runs
        if not more:
            break
        before = runs[-1].sort_key
    expected = [
        run
        for run in history.all()
        if technique_id in (None, run.technique.technique_id) and status in (None, run.status_at(moment))
    ]
    assert found == sorted(expected, key=lambda run: run.sort_key, reverse=True)
    assert total == len(expected)
