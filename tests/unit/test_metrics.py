"""Metrics, from the provider through Airflow's ``Stats`` to a socket."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from airflow_provider_flora import airflow_compat, metrics
from airflow_provider_flora.airflow_compat import airflow_is_at_least
from airflow_provider_flora.api.models import Run
from airflow_provider_flora.api.operations import get_technique
from airflow_provider_flora.api.remedies import Remedy
from tests.statsd_receiver import Sample, StatsdReceiver
from tests.unit.airflow_stats import forget, metrics_on

RUN = Run(run_id="run_1", status="completed", charged_cost=0.09, created_at=1_000.0)


def send_all() -> None:
    """Send each metric once."""
    metrics.count_start("editorial-still")
    metrics.count_completed(RUN, "editorial-still", 13.5)
    metrics.count_failed("editorial-still", Remedy.CHANGE_INPUT)
    count = metrics.request_counter("flora_default")
    if count is not None:
        count(get_technique("editorial-still"), 429)
    metrics.WatcherGauges("flora_default").show(3, 0.25, 0.5)


def test_each_metric_arrives_under_its_name_with_its_tags_and_as_its_kind(
    statsd: StatsdReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(airflow_compat, "get_hostname", lambda: "triggerer-0.example", raising=False)
    send_all()
    technique, conn_id = "technique=editorial-still", "conn_id=flora_default"
    of_connection = (conn_id, "hostname=triggerer-0.example")
    assert statsd.samples == [
        Sample("flora.runs.started", "c", (technique,), 1),
        Sample("flora.runs.completed", "c", (technique,), 1),
        Sample("flora.cost", "c", (technique,), 90_000),
        Sample("flora.wait.seconds", "ms", (technique,), 12_500),
        Sample("flora.runs.failed", "c", (technique, "remedy=change_the_input"), 1),
        Sample("flora.requests", "c", ("operation=getTechnique", "status=429"), 1),
        Sample("flora.rate_limited", "c", (conn_id,), 1),
        Sample("flora.watcher.waits", "g", of_connection, 0),
        Sample("flora.watcher.cycle_seconds", "g", of_connection, 0),
        Sample("flora.watcher.lateness", "g", of_connection, 0),
        Sample("flora.watcher.waits", "g", of_connection, 3),
        Sample("flora.watcher.cycle_seconds", "g", of_connection, 0.25),
        Sample("flora.watcher.lateness", "g", of_connection, 0.5),
    ]
    kinds = {"c": "counter", "ms": "timer", "g": "gauge"}
    sent = {(s.name, kinds[s.kind], tuple(tag.split("=")[0] for tag in s.tags)) for s in statsd.samples}
    assert sent == {(metric.name, metric.kind, metric.tags) for metric in metrics.METRICS}


def test_without_tags_in_statsd_the_name_is_that_of_all_together(statsd: StatsdReceiver) -> None:
    with metrics_on({**statsd.settings, "AIRFLOW__METRICS__STATSD_INFLUXDB_ENABLED": "False"}):
        metrics.count_start("editorial-still")
    assert statsd.lines == ["airflow.flora.runs.started:1|c"]


def test_airflows_own_lists_leave_out_what_they_leave_out_elsewhere(statsd: StatsdReceiver) -> None:
    given = {**statsd.settings, "AIRFLOW__METRICS__STATSD_DISABLED_TAGS": "technique"}
    with metrics_on({**given, "AIRFLOW__METRICS__METRICS_ALLOW_LIST": "flora.runs.failed"}):
        send_all()
    assert statsd.lines == ["airflow.flora.runs.failed,remedy=change_the_input:1|c"]


def test_while_metrics_are_off_nothing_of_airflow_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    class Untouchable:
        def __getattr__(self, name: str) -> Any:
            raise AssertionError(f"Stats.{name} was used")

    monkeypatch.setattr(airflow_compat, "Stats", Untouchable(), raising=False)
    forget()
    assert not metrics.are_on()
    assert metrics.request_counter("flora_default") is None
    send_all()


@pytest.mark.parametrize("switch", metrics.SWITCHES)
def test_each_of_airflows_switches_turns_them_on(switch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    forget()
    try:
        assert not metrics.are_on()
        forget()
        monkeypatch.setenv(f"AIRFLOW__METRICS__{switch.upper()}", "True")
        assert metrics.are_on()
    finally:
        forget()


@pytest.mark.parametrize(
    "technique",
    ["a,remedy=none", "a:1|c\nflora.cost:9|c", "é|#x", "x" * 500, "", "line\nbreak"],
    ids=["another tag", "another line", "no ASCII", "long", "empty", "break"],
)
def test_a_hostile_value_of_a_tag_is_one_short_value(technique: str, statsd: StatsdReceiver) -> None:
    metrics.count_start(technique)
    [sample] = statsd.samples  # Airflow drops a line with characters that it does not allow
    [tag] = sample.tags
    assert sample.name == "flora.runs.started"
    assert tag.startswith("technique=")
    assert 1 <= len(tag.removeprefix("technique=")) <= metrics.MAX_LENGTH


def test_a_process_sends_a_limited_number_of_values_of_one_tag(statsd: StatsdReceiver) -> None:
    for number in range(metrics.MAX_VALUES + 50):
        metrics.count_start(f"tech_{number}")
    metrics.count_start("tech_7")
    counts = statsd.counts()
    assert len(counts) == metrics.MAX_VALUES + 1
    assert counts["flora.runs.started,technique=other"] == 50
    assert counts["flora.runs.started,technique=tech_7"] == 2


@pytest.mark.parametrize(
    ("status", "name"), [(200, "200"), (503, "503"), (999, "other"), (-1, "other"), (None, "no_answer")]
)
def test_a_server_cannot_invent_statuses(status: int | None, name: str, statsd: StatsdReceiver) -> None:
    count = metrics.request_counter("flora_default")
    assert count is not None
    count(get_technique("a"), status)
    assert statsd.counts() == {f"flora.requests,operation=getTechnique,status={name}": 1}


@pytest.mark.parametrize("cost", [None, 0.0, -1.0, float("nan"), float("inf")])
def test_a_charge_that_is_none_is_not_counted(cost: float | None, statsd: StatsdReceiver) -> None:
    metrics.count_cost(cost, "a")
    assert statsd.lines == []


def test_a_clock_that_is_behind_floras_shows_no_wait_of_less_than_nothing(statsd: StatsdReceiver) -> None:
    metrics.count_completed(RUN.model_copy(update={"created_at": 14_000.0}), "a", 13.5)
    metrics.count_completed(RUN.model_copy(update={"created_at": None}), "a", 13.5)
    assert statsd.values("flora.wait.seconds") == [0.0]


def test_a_host_that_is_not_there_ends_nothing(statsd: StatsdReceiver) -> None:
    with metrics_on({**statsd.settings, "AIRFLOW__METRICS__STATSD_HOST": "statsd.invalid"}):
        send_all()
    with metrics_on({**statsd.settings, "AIRFLOW__METRICS__STATSD_PORT": "not a number"}):
        send_all()
    assert statsd.lines == []


def test_whatever_stats_raise_is_logged_once_and_ends_nothing(
    statsd: StatsdReceiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        def __getattr__(self, name: str) -> Any:
            raise OSError("no buffer space")

    def no_name() -> str:
        raise OSError("no name")

    monkeypatch.setattr(airflow_compat, "Stats", Broken(), raising=False)
    monkeypatch.setattr(airflow_compat, "get_hostname", no_name, raising=False)
    forget()
    with caplog.at_level(logging.WARNING):
        send_all()
    [message] = [record.getMessage() for record in caplog.records if record.name == metrics.__name__]
    assert message == "Flora's metrics cannot be sent. Everything else goes on. OSError: no buffer space"


def test_a_switch_that_cannot_be_read_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__METRICS__STATSD_ON", "perhaps")
    forget()
    try:
        send_all()
        assert not metrics.are_on()
    finally:
        forget()


def test_the_names_follow_airflows_rules_with_the_longest_tags() -> None:
    for metric in metrics.METRICS:
        whole = ",".join((metric.name, *(f"{tag}={'x' * metrics.MAX_LENGTH}" for tag in metric.tags)))
        assert len(f"airflow.{whole}") <= 250, metric
        assert metric.name == metric.name.lower()
        assert metric.name.startswith("flora.")


class Collector:
    """An OpenTelemetry collector: what is sent to it over HTTP."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        bodies = self.bodies

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)

    def points(self) -> dict[str, tuple[str, str, dict[str, str], float]]:
        """The last point of each metric: its kind, unit, attributes, and value or sum."""
        from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

        found: dict[str, tuple[str, str, dict[str, str], float]] = {}
        for body in self.bodies:
            for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                for metric in (metric for scope in resource.scope_metrics for metric in scope.metrics):
                    kind: str = metric.WhichOneof("data")
                    point: Any = getattr(metric, kind).data_points[-1]
                    value = point.sum if "histogram" in kind else point.as_double or point.as_int
                    tags = {entry.key: entry.value.string_value for entry in point.attributes}
                    found[metric.name] = (kind, metric.unit, tags, value)
        return found


@contextmanager
def serving(collector: Collector) -> Iterator[int]:
    thread = threading.Thread(target=collector.server.serve_forever, daemon=True)
    thread.start()
    yield collector.server.server_port
    collector.server.shutdown()
    thread.join()
    collector.server.server_close()


OTEL_PROGRAM = """
from airflow_provider_flora.airflow_compat import Stats
from tests.unit.airflow_stats import initialize
from tests.unit.test_metrics import send_all

initialize(Stats)
send_all()
"""


@pytest.mark.skipif(not airflow_is_at_least(3, 3), reason="older Airflows bring no OpenTelemetry along")
def test_opentelemetry_gets_each_metric_when_the_process_ends() -> None:
    collector = Collector()
    with serving(collector) as port:
        environment = {
            **os.environ,
            "AIRFLOW__METRICS__OTEL_ON": "True",
            "AIRFLOW__METRICS__OTEL_HOST": "127.0.0.1",
            "AIRFLOW__METRICS__OTEL_PORT": str(port),
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": f"http://127.0.0.1:{port}/v1/metrics",
        }
        subprocess.run([sys.executable, "-c", OTEL_PROGRAM], env=environment, check=True, timeout=600)
    points = collector.points()
    assert {f"airflow.{metric.name}" for metric in metrics.METRICS} <= set(points), json.dumps(sorted(points))
    technique = {"technique": "editorial-still"}
    assert points["airflow.flora.cost"] == ("sum", "", technique, 90_000)
    kind, unit, tags, milliseconds = points["airflow.flora.wait.seconds"]
    assert (kind, unit, tags) == ("exponential_histogram", "ms", technique)
    assert milliseconds == 12_500
    assert points["airflow.flora.watcher.waits"][3] == 3
