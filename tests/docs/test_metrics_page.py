"""The page of metrics and its dashboard show the metrics that there are."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from airflow_provider_flora.api import operations
from airflow_provider_flora.api.remedies import Remedy
from airflow_provider_flora.metrics import METRICS, SWITCHES, WAIT
from tests.docs.test_docs import DOCS

PAGE = (DOCS / "metrics.rst").read_text()
DASHBOARD: dict[str, Any] = json.loads((DOCS / "_static" / "flora-grafana.json").read_text())
ROW = re.compile(r"^   \* - ``(flora\.[\w.]+)``\n     - (\w+)\n     - (.*)\n", re.MULTILINE)
BY_NAME = {f"airflow_{metric.name.replace('.', '_')}": metric for metric in METRICS}
OF_A_SUMMARY = ("", "_sum", "_count")
"""What Prometheus' statsd_exporter makes of a timer."""


def queries() -> list[str]:
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def test_the_page_lists_each_metric_as_it_is_sent() -> None:
    listed = [(name, kind, tuple(re.findall(r"``(\w+)``", tags))) for name, kind, tags in ROW.findall(PAGE)]
    assert listed == [(metric.name, metric.kind, metric.tags) for metric in METRICS]


def test_each_metric_that_the_page_names_is_there() -> None:
    named = {name.rstrip(".") for name in re.findall(r"\bflora\.[a-z_.]+", PAGE)}
    assert named <= {metric.name for metric in METRICS} | {"flora.runs", "flora.watcher"}


def test_the_dashboard_shows_each_metric_and_no_other() -> None:
    timers = {f"{name}{end}" for name, metric in BY_NAME.items() if metric is WAIT for end in OF_A_SUMMARY}
    shown = {name for query in queries() for name in re.findall(r"\bairflow_\w+", query)}
    assert shown == BY_NAME.keys() | timers


@pytest.mark.parametrize("query", queries())
def test_a_query_groups_and_filters_by_tags_that_its_metric_has(query: str) -> None:
    [name] = {re.sub("_(sum|count)$", "", name) for name in re.findall(r"\bairflow_\w+", query)}
    groups = {tag for group in re.findall(r"by \(([^)]*)\)", query) for tag in group.split(", ")}
    filters = set(re.findall(r'(\w+)(?:=|!=|=~|!~)"', query))
    allowed = {*BY_NAME[name].tags, *(["quantile"] if BY_NAME[name] is WAIT else [])}
    assert groups | filters <= allowed
    assert query.count("(") == query.count(")")


def test_the_dashboard_is_one_that_grafana_can_import() -> None:
    assert DASHBOARD["title"]
    assert DASHBOARD["uid"]
    assert DASHBOARD["schemaVersion"] >= 36
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (place["x"] + right, place["y"] + down) for right in range(place["w"]) for down in range(place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, f"{panel['title']} lies over another panel"
        taken |= cells
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}
    assert [variable["name"] for variable in DASHBOARD["templating"]["list"]] == ["datasource"]


def test_remedies_operations_and_switches_have_the_names_on_the_page() -> None:
    for remedy in Remedy:
        assert f"``{remedy.value.replace(' ', '_')}``" in PAGE
    start = operations.start_technique_run("a", [], "async", None, None)
    assert f"``{start.operation}``" in PAGE
    for switch in SWITCHES:
        assert switch in PAGE
