"""The pages themselves: HTML or JSON, headers, hostile outputs, and what a DAG run and the last days show."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_flora.emulator import Emulator
from airflow_provider_flora.get_provider_info import get_provider_info
from airflow_provider_flora.hooks.flora import FloraHook
from airflow_provider_flora.plugins import flora_plugin, live
from airflow_provider_flora.plugins.flora_plugin import FloraPlugin
from tests.unit.airflow_tables import NOW

QUERY = {"dag_id": "shop", "run_id": "monday", "task_id": "still"}
JSON = {"accept": "application/json"}
PAGE = "http://127.0.0.1:8765/techniques/editorial-still"
EVIL = '"><script>alert(1)</script><img src=x onerror=alert(1)>'


class Elements(HTMLParser):
    """The elements of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self.text += " "

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def assert_harmless(text: str) -> Elements:
    """Assert that a page has no script and no address but its own and those that are safe."""
    page = Elements(text)
    assert [re.sub(r"\?.*", "", str(script["src"])) for script in page.all("script")] == ["static/flora.js"]
    assert not {"iframe", "object", "embed", "base", "meta-refresh"} & {tag for tag, _ in page.found}
    own = ("static/", "file?", "outputs?", "outputs", "run?", "https://", "http://127.0.0.1:8765/")
    for tag, attributes in page.found:
        assert not [name for name in attributes if name.startswith("on") or name in ("style", "srcdoc")], tag
        for name in ("href", "src", "action"):
            assert name not in attributes or str(attributes[name]).startswith(own), (tag, attributes)
    return page


HOSTILE_OUTPUTS = [
    {"output_id": EVIL, "type": "text", "url": EVIL},
    {"output_id": "a", "type": EVIL, "url": EVIL},
    {"output_id": "b", "type": "imageUrl", "url": "javascript:alert(1)"},
    {"output_id": "c", "type": "imageUrl", "url": "https://media.example/a.png" + EVIL},
    {"output_id": "d", "type": "videoUrl", "url": "data:text/html,<script>alert(1)</script>"},
    {"output_id": "e", "type": "audioUrl", "url": "JAVASCRIPT:alert(1)"},
    {"output_id": "f", "type": "documentUrl", "url": "vbscript:x"},
    {"output_id": "g", "type": "documentUrl", "url": "file:///etc/passwd"},
    {"output_id": "h", "type": "imageUrl", "url": "http://elsewhere.example/a.png"},
    {"output_id": "i", "type": "imageUrl", "url": "//elsewhere.example/a.png"},
    {"output_id": "j", "type": "text", "url": "</pre></figure></main><script src=//evil.example></script>"},
    {"output_id": "k", "type": "text", "url": "{{ 7 * 7 }}{% include 'x' %}"},
    {"output_id": "l", "type": "imageUrl", "url": "https://user:pass@evil.example/a.png"},
    {"output_id": "m", "type": "imageUrl", "url": "\tjavascript:alert(1)"},
    {"output_id": "n", "type": "text", "url": "\ud800 half of an emoji".encode(errors="replace").decode()},
]
HOSTILE_TASK: dict[str, Any] = {
    "return_value": {
        "run_id": EVIL,
        "status": EVIL,
        "technique_id": EVIL,
        "outputs": HOSTILE_OUTPUTS,
        "files": [
            {"uri": f"file:///{EVIL}", "media_type": EVIL, "bytes": 1, "sha256": EVIL, "output_id": EVIL}
            for _ in HOSTILE_OUTPUTS[:1]
        ],
    },
    "flora_error": {"code": EVIL, "message": EVIL, "remedy": EVIL},
    "flora_technique_url": f"http://127.0.0.1:8765/techniques/{EVIL}",
    "inputs": {EVIL: EVIL, "picture": "javascript:alert(1)//.png", "deep": {EVIL: [EVIL]}},
}


def test_nothing_hostile_becomes_part_of_a_page(client: Any, instances: Any) -> None:
    instances.add(**HOSTILE_TASK)
    instances.add("table", state="running", progress=EVIL, manifest=EVIL, ended=None)
    for address, query in (
        ("outputs", QUERY),
        ("outputs", {**QUERY, "task_id": "table", "search": EVIL, "status": EVIL}),
        ("outputs", {**QUERY, "task_id": EVIL}),
        ("run", QUERY),
        ("spending", {}),
    ):
        answer = client.get(address, params=query)
        page = assert_harmless(answer.text)
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; ")
        assert "evil" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        if address == "outputs" and query is QUERY:
            assert page.text.count(EVIL) >= 8
            assert "{{ 7 * 7 }}" in page.text
            assert [image["src"] for image in page.all("img")] == []


def test_a_manifest_may_be_hostile_too(client: Any, instances: Any, tmp_path: Path) -> None:
    from airflow_provider_flora.batch.manifest import Manifest

    error = {"code": EVIL, "message": EVIL, "remedy": EVIL}
    line = {"row_id": EVIL, "status": EVIL, "outputs": HOSTILE_OUTPUTS, "error": error, "inputs": {EVIL: EVIL}}
    Manifest(str(tmp_path / "m.jsonl")).write([line, {**line, "row_id": "ok", "status": "completed"}])
    instances.add(manifest=str(tmp_path / "m.jsonl"))
    for address in ("outputs", "run"):
        assert_harmless(client.get(address, params=QUERY).text)


def test_a_browser_gets_html_and_a_program_json(client: Any, instances: Any) -> None:
    output = {"output_id": "still", "type": "imageUrl", "url": "https://media.example/a.png"}
    value = {"run_id": "run_1", "status": "completed", "outputs": [output], "charged_cost": 0.09}
    instances.add(return_value=value, inputs={"prompt": "a cup", "photo": "https://media.example/in.jpg"})
    page = Elements(client.get("outputs", params=QUERY).text)
    assert [(image["src"], image["alt"]) for image in page.all("img")] == [
        ("https://media.example/a.png", "still, still"),
        ("https://media.example/in.jpg", "Input photo"),
    ]
    found = client.get("outputs", params=QUERY, headers=JSON).json()
    assert (found["outputs"], found["files"], found["status"], found["charged_cost"]) == (
        [output],
        [],
        "completed",
        0.09,
    )
    assert found["task"] == {**QUERY, "map_index": -1}


def test_each_kind_of_output_has_its_element(client: Any, instances: Any) -> None:
    kinds = {"imageUrl": "img", "videoUrl": "video", "audioUrl": "audio"}
    outputs = [
        {"output_id": kind, "type": kind, "url": f"http://127.0.0.1:8765/media/{kind}"}
        for kind in (*kinds, "documentUrl")
    ]
    instances.add(
        return_value={"outputs": [*outputs, {"output_id": "t", "type": "text", "url": "words"}]},
        **{"flora_technique_url": PAGE},
    )
    answer = client.get("outputs", params=QUERY)
    page = Elements(answer.text)
    for kind, tag in kinds.items():
        assert [one["src"] for one in page.all(tag)] == [f"http://127.0.0.1:8765/media/{kind}"]
    assert "words" in page.text
    assert page.all("button") == [{"type": "button", "data-copy": None}]
    assert "http://127.0.0.1:8765/media/documentUrl" in [link.get("href") for link in page.all("a")]
    assert "img-src 'self' https: http://127.0.0.1:8765;" in answer.headers["content-security-policy"]


def test_an_error_comes_with_its_remedy_in_words(client: Any, instances: Any) -> None:
    error = {"code": "LLM_REFUSAL", "message": "Refused", "remedy": "change the input"}
    instances.add(state="failed", flora_error=error)
    text = Elements(client.get("outputs", params=QUERY).text).text
    assert "Remedy: change the input. Change the input, then clear the task." in " ".join(text.split())


def test_a_task_that_waits_is_looked_at_again_and_a_finished_one_is_not(client: Any, instances: Any) -> None:
    instances.add(state="deferred", ended=None, run_id="run_1")
    instances.add("done")
    waiting = client.get("outputs", params=QUERY).text
    assert "<body data-refresh>" in waiting
    assert "Run run_1 is active at Flora." in waiting
    assert "<body>" in client.get("outputs", params={**QUERY, "task_id": "done"}).text


def test_an_active_run_is_asked_for_once_in_a_while_however_many_look(
    client: Any, instances: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "KEPT_SECONDS", 600.0)
    monkeypatch.setattr(live, "PATIENCE", 600.0)
    with Emulator(run_seconds=600) as emulator:
        connection = {"conn_type": "flora", "host": emulator.base_url, "password": emulator.api_key}
        monkeypatch.setenv("AIRFLOW_CONN_LIVE", json.dumps(connection))
        started = FloraHook("live").start_technique_run("editorial-still", {"prompt": "a cup"})
        page = f"{emulator.origin}/techniques/editorial-still"
        waits = {"state": "deferred", "ended": None, "run_id": started.run_id, "flora_technique_url": page}
        instances.add(**waits, conn_id="live")
        instances.add("elsewhere", **waits, conn_id="missing")
        for _ in range(3):
            text = " ".join(Elements(client.get("outputs", params=QUERY).text).text.split())
            assert re.search(rf"Run {started.run_id} is (pending|running), \d+ %\.", text)
        assert emulator.ledger()["requests"]["getTechniqueRun"] == 1
        missing = client.get("outputs", params={**QUERY, "task_id": "elsewhere"}).text
        assert f"Run {started.run_id} is active at Flora." in missing


def test_what_a_person_chose_is_shown_with_the_note(client: Any, instances: Any) -> None:
    output = {"label": "dusk", "output_id": "still", "type": "imageUrl", "url": "https://media.example/a.png"}
    answer = {"chosen": [output], "rejected": [output, output], "note": "warm", "by": {"id": "1", "name": "Ada"}}
    instances.add(operator="FloraChooseOutputOperator", return_value=answer)
    page = Elements(client.get("outputs", params=QUERY).text)
    assert "Ada chose 1 and rejected 2 outputs, with the note: warm" in " ".join(page.text.split())
    assert [image["src"] for image in page.all("img")] == ["https://media.example/a.png"]
    instances.add("late", operator="FloraChooseOutputOperator", return_value={**answer, "chosen": [], "by": None})
    late = Elements(client.get("outputs", params={**QUERY, "task_id": "late"}).text).text
    assert "The default, after the time limit, rejected all 2 outputs" in " ".join(late.split())
    instances.add("asks", operator="FloraChooseOutputOperator", state="awaiting_input", ended=None)
    asks = client.get("outputs", params={**QUERY, "task_id": "asks"}).text
    assert 'who answers in the tab "Required Action"' in asks


def test_a_mapped_task_leads_to_its_neighbours(client: Any, instances: Any) -> None:
    for index in range(3):
        instances.add(map_index=index)
    page = client.get("outputs", params={**QUERY, "map_index": 1}).text
    assert "map_index=0" in page
    assert "map_index=2" in page
    assert "2 of 3" in page
    found = client.get("outputs", params={**QUERY, "map_index": 1}, headers=JSON).json()["neighbours"]
    assert found == {"previous": 0, "next": 2, "position": 2, "count": 3}


def test_a_batch_is_shown_in_pages_and_as_json(client: Any, instances: Any, tmp_path: Path) -> None:
    from airflow_provider_flora.batch.manifest import Manifest

    output = {"output_id": "still", "type": "text", "url": "words"}
    Manifest(str(tmp_path / "m.jsonl")).write(
        {"row_id": f"row-{number}", "status": "completed", "outputs": [output], "charged_cost": 0.1}
        for number in range(130)
    )
    counts = {"manifest": str(tmp_path / "m.jsonl"), "rows": 130, "charged_cost": 13.0, "saved_cost": 2.0}
    instances.add(operator="FloraRunTechniqueBatchOperator", return_value=counts)
    page = client.get("outputs", params={**QUERY, "page": 3}).text
    assert page.count("<li>") == 10
    assert "Page 3 of 3" in page
    assert "13.00 USD" in page
    assert "status=completed" in client.get("outputs", params={**QUERY, "status": "completed"}).text
    found = client.get("outputs", params={**QUERY, "search": "row-12"}, headers=JSON).json()
    assert [row["row_id"] for row in found["rows"]] == ["row-12", *(f"row-12{digit}" for digit in range(10))]
    assert found["outputs"][0] == {"row_id": "row-12", **output}
    assert (found["charged_cost"], found["counts"]["completed"], found["manifest"]["pages"]) == (13.0, 130, 1)
    assert "12 outputs" not in client.get("run", params=QUERY).text


def test_a_manifest_that_is_gone_is_a_sentence(client: Any, instances: Any) -> None:
    instances.add(manifest="/no/such/manifest.jsonl")
    answer = client.get("outputs", params=QUERY)
    assert answer.status_code == 200
    assert "The manifest cannot be shown. There is no file" in answer.text
    assert client.get("run", params=QUERY).status_code == 200


def test_a_dag_run_shows_its_flora_tasks_and_what_they_cost(client: Any, instances: Any) -> None:
    text = {"output_id": "t", "type": "text", "url": "words"}
    instances.add("a", return_value={"outputs": [text]}, run_id="run_1", charged_cost=0.5)
    instances.add("wait", operator="FloraTechniqueRunSensor", run_id="run_1", charged_cost=0.5)
    instances.add("b", state="deferred", ended=None, run_id="run_2", flora_run_cost=0.25)
    instances.add("c", operator="MyOwn", flora_technique_url=PAGE, flora_batch_value={"charged_cost": 2.0})
    instances.add("other", operator="PythonOperator", charged_cost=7.0)
    instances.add("elsewhere", dag_run="tuesday", charged_cost=7.0)
    found = client.get("run", params=QUERY, headers=JSON).json()
    assert [view["task"]["task_id"] for view in found["tasks"]] == ["a", "b", "c", "wait"]
    assert (found["charged_cost"], found["in_flight_cost"]) == (2.5, 0.25)
    assert found["states"] == {"success": 3, "deferred": 1}
    page = Elements(client.get("run", params=QUERY).text)
    assert "2.50 USD" in page.text
    assert "words" in page.text


def test_a_run_that_has_failed_is_not_in_flight_while_its_task_waits_for_the_next_try(
    client: Any, instances: Any
) -> None:
    waits = {"state": "up_for_retry", "ended": None, "flora_run_cost": 0.25}
    failed, late = ({"kind": kind, "message": "no", "remedy": "retry later"} for kind in ("run_failed", "timeout"))
    instances.add(**waits, run_id="run_1", flora_error=failed)
    instances.add("late", **waits, run_id="run_2", flora_error=late)
    assert client.get("run", params=QUERY, headers=JSON).json()["in_flight_cost"] == 0.25
    for address in ("run", "outputs"):
        assert "Run run_1 is active" not in client.get(address, params=QUERY).text


def test_tasks_whose_names_differ_in_case_keep_their_names(client: Any, instances: Any) -> None:
    for task_id in ("still", "Still"):
        instances.add(task_id)
    text = client.get("run", params=QUERY).text
    for task_id in ("still", "Still"):
        assert f"<h2>{task_id}</h2>" in text


def test_a_dag_run_of_a_thousand_tasks_comes_in_pages(client: Any, instances: Any) -> None:
    for index in range(70):
        instances.add("each", map_index=index, charged_cost=0.1, run_id=f"run_{index}")
    found = client.get("run", params={**QUERY, "page": 2}, headers=JSON).json()
    assert [view["task"]["map_index"] for view in found["tasks"]] == list(range(60, 70))
    assert (found["count"], found["charged_cost"], found["pages"]) == (70, 7.0, 2)


def test_the_last_days_count_each_run_once_and_only_of_dags_that_the_user_may_read(
    client: Any, instances: Any
) -> None:
    day = NOW - timedelta(days=2)
    values: dict[str, Any] = {"charged_cost": 0.5, "flora_technique_url": PAGE}
    instances.add("run", ended=day, run_id="run_1", **values)
    instances.add("wait", ended=day + timedelta(hours=1), run_id="run_1", charged_cost=0.5)
    instances.add("old", ended=NOW - timedelta(days=40), **values)
    instances.add("other", dag_id="hidden", **values)
    error = {"code": "x", "message": "y", "remedy": "give up"}
    instances.add("failed", state="failed", flora_error=error, flora_technique_url=PAGE)
    batch = {"completed": 9, "reused": 4, "failed": 1, "charged_cost": 1.0, "saved_cost": 0.75}
    instances.add("table", flora_batch_value={**batch, "failures": {"retry later": 1}}, flora_technique_url=PAGE)
    instances.add("waits", state="deferred", ended=None)
    text = " ".join(Elements(client.get("spending").text).text.split())
    assert "Spent 1.50 USD Saved by reuse 0.75 USD Waiting now 1" in text
    assert f"{day.date()} 0.50 USD" in text
    assert "shop 1.50 USD" in text
    assert "editorial-still 1.50 USD" in text
    assert "hidden" not in text
    for outcome in ("completed 6", "reused 4", "failed 2", "give up 1", "retry later 1"):
        assert outcome in text


def test_the_last_days_have_no_task_that_is_not_floras(client: Any, instances: Any) -> None:
    instances.add(operator="PythonOperator", charged_cost=7.0)
    instances.add("own", operator="MyOwn", charged_cost=0.5, flora_technique_url=PAGE)
    text = " ".join(Elements(client.get("spending").text).text.split())
    assert "Spent 0.50 USD" in text


def test_no_cache_keeps_a_page(client: Any, instances: Any) -> None:
    instances.add()
    for headers in (JSON, {"accept": "text/html"}):
        for address in ("outputs", "run"):
            answer = client.get(address, params=QUERY, headers=headers)
            assert answer.headers["cache-control"] == "private, no-store"


def test_what_is_not_there_is_said_in_the_form_that_was_asked_for(client: Any) -> None:
    assert client.get("outputs", params=QUERY, headers=JSON).json() == {
        "detail": "Airflow has no such task instance."
    }
    assert "There is nothing here" in client.get("outputs", params=QUERY).text
    lacking = client.get("outputs", params={"dag_id": "shop"}, headers=JSON)
    assert (lacking.status_code, lacking.json()["detail"]) == (
        422,
        "The address of this page lacks a value, or has a wrong one: run_id, task_id.",
    )
    assert client.get("run", params={"dag_id": "shop", "run_id": "none"}).status_code == 200
    assert client.get("nothing").status_code == 404
    assert client.get("static/flora.css").status_code == 200


def test_airflow_finds_the_plugin_by_its_entry_point_and_in_the_providers_description() -> None:
    from importlib.metadata import entry_points

    (described,) = get_provider_info()["plugins"]
    (found,) = [one for one in entry_points(group="airflow.plugins") if one.name == "flora"]
    assert found.load() is FloraPlugin
    assert described["plugin-class"] == f"{FloraPlugin.__module__}.{FloraPlugin.__name__}"
    routes = [view["url_route"] for view in FloraPlugin.external_views]
    assert len(routes) == len(set(routes)) == 3
    assert not [view for view in FloraPlugin.external_views if view["href"].startswith("/")]


def test_loading_the_plugin_loads_no_library() -> None:
    program = """
import sys
import airflow.plugins_manager, airflow.api_fastapi.core_api.security
before = set(sys.modules)
import airflow_provider_flora.plugins.flora_plugin
loaded = {name for name in set(sys.modules) - before if not name.startswith("airflow_provider_flora")}
assert not {"jinja2", "pydantic", "requests"} & loaded, loaded
assert "airflow_provider_flora.plugins.pages" not in sys.modules
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True, timeout=600)


@pytest.mark.skipif(not shutil.which("node"), reason="node runs the script")
@pytest.mark.parametrize(
    ("search", "paused", "reloads"), [("", "true", 1), ("mug", "true", 0), ("", "false", 0)], ids=str
)
def test_a_page_is_not_reloaded_under_what_a_person_types_or_plays(search: str, paused: str, reloads: int) -> None:
    script = Path(flora_plugin.__file__).parent / "static" / "flora.js"
    program = f"""
let reloads = 0;
const elements = {{"input[type=search]": [{{value: "{search}", defaultValue: ""}}],
  "video, audio": [{{paused: {paused}}}]}};
const root = {{dataset: {{}}}}, body = {{dataset: {{refresh: ""}}}};
const window = {{}}; window.top = window;
const localStorage = {{getItem: () => null}};
const location = {{reload: () => {{ reloads += 1; }}}};
const document = {{documentElement: root, body, activeElement: body, visibilityState: "visible",
  querySelectorAll: (asked) => elements[asked] ?? [], addEventListener: () => {{}}}};
const getSelection = () => ({{isCollapsed: true}});
const addEventListener = (name, act) => {{ if (name === "DOMContentLoaded") setImmediate(act); }};
const setInterval = (act) => {{ act(); console.log(reloads); }};
{script.read_text().replace('"use strict";', "")}
"""
    found = subprocess.run(["node", "-e", program], check=True, timeout=600, capture_output=True, text=True)
    assert found.stdout.strip() == str(reloads)
