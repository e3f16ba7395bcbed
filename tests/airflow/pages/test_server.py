"""What the API server answers about the pages: its login and its authorization are Airflow's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from scripts.local_airflow import PASSWORD, USER, LocalAirflow
from tests.airflow.flora_key import API_KEY
from tests.airflow.pages.conftest import HIDDEN, HOSTILE, HTML, JSON, Browser, of
from tests.airflow.pages.guests_auth_manager import SEEN


def test_a_finished_run_is_shown_as_the_task_returned_it(
    airflow: LocalAirflow, runs: Mapping[str, str], admin: Browser
) -> None:
    value = airflow.xcom(SEEN, runs[SEEN], "picture")
    shown = admin.get("outputs", **of("picture", runs)).json()
    names = ("run_id", "status", "outputs", "files", "charged_cost", "created_at", "completed_at")
    assert {name: shown[name] for name in names} == {name: value[name] for name in names}
    assert (shown["state"], shown["run_cost"], shown["error"]) == ("success", 0.09, None)
    assert shown["inputs"] == [{"id": "prompt", "value": "<script>alert(1)</script>"}]
    page = admin.get("outputs", HTML, **of("picture", runs)).text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<script>alert" not in page


@pytest.mark.parametrize(
    ("task_id", "start", "media_type"),
    [
        ("picture", b"\x89PNG", "image/png"),
        ("clip", b"\0\0\0", "video/mp4"),
        ("speech", b"RIFF", "audio/wav"),
        ("document", b"%PDF", "application/octet-stream"),
    ],
)
def test_the_file_of_an_output_is_sent_and_a_range_of_it(
    runs: Mapping[str, str], admin: Browser, task_id: str, start: bytes, media_type: str
) -> None:
    whole = admin.get("file", **of(task_id, runs, index=0))
    assert (whole.status_code, whole.headers["content-type"]) == (200, media_type)
    assert whole.content.startswith(start)
    part = admin.get("file", {"Range": "bytes=10-19"}, **of(task_id, runs, index=0))
    assert (part.status_code, part.content) == (206, whole.content[10:20])
    assert whole.headers["x-content-type-options"] == part.headers["x-content-type-options"] == "nosniff"
    way = "attachment" if task_id == "document" else "inline"
    assert whole.headers["content-disposition"].startswith(way)


def test_an_instance_of_a_mapped_task_is_shown_with_its_neighbours(runs: Mapping[str, str], admin: Browser) -> None:
    shown = [admin.get("outputs", **of("each", runs, map_index=index)).json() for index in range(3)]
    assert [one["inputs"][0]["value"] for one in shown] == ["a cup", "a jug", "a can"]
    assert len({one["run_id"] for one in shown}) == 3
    assert shown[1]["neighbours"] == {"previous": 0, "next": 2, "position": 2, "count": 3}


def test_a_batch_is_shown_by_its_manifest_whose_storage_has_a_connection_in_the_database(
    runs: Mapping[str, str], admin: Browser
) -> None:
    shown = admin.get("outputs", **of("table", runs)).json()
    assert shown["manifest"]["problem"] is None
    assert [(row["row_id"], row["status"]) for row in shown["rows"]] == [
        (f"row-{number}", "completed") for number in range(3)
    ]
    assert (shown["charged_cost"], shown["counts"]) == (0.27, {"completed": 3, "reused": 0})
    picture = admin.get("file", **of("table", runs, row_id="row-1", index=0))
    assert (picture.status_code, picture.headers["content-type"]) == (200, "image/png")
    assert len(picture.content) == shown["files"][1]["bytes"]


def test_a_refused_task_is_shown_with_its_error_and_remedy(runs: Mapping[str, str], admin: Browser) -> None:
    shown = admin.get("outputs", **of("refused", runs)).json()
    assert shown["error"]["remedy"] == "change the input"
    assert "'nonsense' is not an input of this technique" in shown["error"]["message"]


def test_a_dag_run_is_a_wall_of_its_outputs(runs: Mapping[str, str], admin: Browser) -> None:
    shown = admin.get("run", dag_id=SEEN, run_id=runs[SEEN]).json()
    assert (shown["count"], shown["states"]) == (9, {"success": 8, "failed": 1})
    assert shown["charged_cost"] == pytest.approx(0.09 + 0.25 + 0.07 + 0.15 + 3 * 0.09 + 0.27)
    page = admin.get("run", HTML, dag_id=SEEN, run_id=runs[SEEN]).text
    for element, count in (("<img ", 1 + 3 + 3), ("<video ", 1), ("<audio ", 1)):
        assert page.count(element) == count


def test_the_last_days_are_shown_to_each_user_for_the_dags_that_they_may_read(
    runs: Mapping[str, str], admin: Browser, guest: Browser
) -> None:
    everything, seen = (browser.get("spending", HTML) for browser in (admin, guest))
    assert everything.status_code == seen.status_code == 200
    of_dag = '<th scope="row">{}</th><td class="number">{} USD</td>'
    assert of_dag.format(HIDDEN, "0.09") in everything.text
    assert of_dag.format(SEEN, "1.10") in everything.text
    assert of_dag.format(SEEN, "1.10") in seen.text
    assert HIDDEN not in seen.text
    assert HOSTILE not in seen.text


PAGES: list[tuple[str, dict[str, Any]]] = [
    ("outputs", {"task_id": "secret"}),
    ("run", {}),
    ("file", {"task_id": "secret", "index": 0}),
]


@pytest.mark.parametrize(("page", "more"), PAGES)
def test_a_user_who_may_not_read_the_dag_sees_nothing_of_it(
    runs: Mapping[str, str], admin: Browser, guest: Browser, page: str, more: dict[str, Any]
) -> None:
    hidden = {"dag_id": HIDDEN, "run_id": runs[HIDDEN], **more}
    assert admin.get(page, **hidden).status_code in (200, 404)  # its output was not downloaded
    for headers in (JSON, HTML):
        answer = guest.get(page, headers, **hidden)
        assert answer.status_code == 403
        assert "run_" not in answer.text
    # The last of two names is authorized, and it is the last that is read.
    for dag_ids, status in (([SEEN, HIDDEN], {403}), ([HIDDEN, SEEN], {200, 404})):
        assert guest.get(page, **{**hidden, "dag_id": dag_ids}).status_code in status
    for nobody in ("~", "", "none"):
        assert guest.get(page, **{**hidden, "dag_id": nobody}).status_code in (200, 403, 404)
        assert "a secret" not in guest.get(page, HTML, **{**hidden, "dag_id": nobody}).text


@pytest.mark.parametrize(("page", "more"), [*PAGES, ("spending", {})])
def test_without_a_login_or_with_one_that_is_over_there_is_nothing(
    airflow: LocalAirflow, runs: Mapping[str, str], page: str, more: dict[str, Any]
) -> None:
    stranger, late, forger = Browser(airflow), Browser(airflow), Browser(airflow)
    late.use_token(expired_token(airflow))
    forger.use_token("eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZG1pbiJ9.")
    for browser, statuses in ((stranger, {401}), (late, {401}), (forger, {401, 403})):
        for headers in (JSON, HTML):
            answer = browser.get(page, headers, dag_id=SEEN, run_id=runs[SEEN], **more)
            assert answer.status_code in statuses
            assert "run_" not in answer.text
    assert "Log in to Airflow" in stranger.get(page, HTML, dag_id=SEEN, run_id=runs[SEEN], **more).text


def expired_token(airflow: LocalAirflow) -> str:
    """A token of the administrator's that was valid an hour ago."""
    import time

    import jwt

    secret = airflow.env["AIRFLOW__API_AUTH__JWT_SECRET"]
    header, claims = valid_token(airflow)
    then = int(time.time()) - 3600
    return jwt.encode({**claims, "iat": then - 60, "nbf": then - 60, "exp": then}, secret, "HS512", header)


def valid_token(airflow: LocalAirflow) -> tuple[dict[str, Any], dict[str, Any]]:
    import jwt

    answer = requests.post(
        f"{airflow.url}/auth/token", json={"username": USER, "password": PASSWORD}, timeout=30
    ).json()
    token = answer["access_token"]
    return jwt.get_unverified_header(token), jwt.decode(token, options={"verify_signature": False})


def test_a_tasks_links_lead_to_its_tab_and_to_its_technique(
    airflow: LocalAirflow, runs: Mapping[str, str], admin: Browser
) -> None:
    path = f"/dags/{SEEN}/dagRuns/{runs[SEEN]}/taskInstances/each/links"
    links = airflow.api("GET", path, params={"map_index": 1})["extra_links"]
    assert requests.get(links["Technique in Flora"], timeout=10).status_code == 200
    tab = urlsplit(links["Outputs"])
    assert tab.path.startswith(f"/air/dags/{SEEN}/runs/")
    assert tab.path.endswith("/tasks/each/mapped/1/plugin/flora-outputs")
    (plugin,) = [plugin for plugin in airflow.api("GET", "/plugins")["plugins"] if plugin["name"] == "flora"]
    assert {view["destination"]: view["url_route"] for view in plugin["external_views"]} == {
        "task_instance": "flora-outputs",
        "dag_run": "flora-run",
        "nav": "flora",
    }


def test_a_tasks_log_ends_with_what_came_of_it(airflow: LocalAirflow, runs: Mapping[str, str]) -> None:
    log = airflow.task_log(SEEN, runs[SEEN], "clip")
    value = airflow.xcom(SEEN, runs[SEEN], "clip")
    (line,) = [line for line in log.splitlines() if f"{value['run_id']} completed after" in line]
    assert "charged 0.25 USD" in line
    assert all(file["uri"] in line for file in value["files"])


def test_no_page_shows_the_key(runs: Mapping[str, str], admin: Browser) -> None:
    for headers in (JSON, HTML):
        for task_id in ("picture", "table", "refused"):
            assert API_KEY not in admin.get("outputs", headers, **of(task_id, runs)).text
        assert API_KEY not in admin.get("run", headers, dag_id=SEEN, run_id=runs[SEEN]).text
    assert API_KEY not in admin.get("spending", HTML).text
