"""Turns the results of ``run_all.py`` into ``docs/performance.rst`` and its plot. Measures nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent.parent / "docs"
PLOT = DOCS / "_static" / "performance.svg"

Results = dict[str, Any]

# What is shown of each watch: label, key, unit, target here at 1,000 and at 10,000.
AIMS: dict[str, tuple[float | None, float]] = {
    "requests_per_cycle": (12, 110),
    "connections_per_minute": (5, 10),
    "cpu_ms_per_run_and_cycle": (0.02, 0.02),
    "late_ms_p99": (10, 25),
    "memory_kb_per_wait": (None, 10),  # at 1,000: the peer's
    "event_delay_median_s": (2.7, 3.5),
}
FIGURES = [
    ("requests a cycle", "requests_per_cycle", "", "≤ 12", "≤ 110"),
    ("new connections a minute", "connections_per_minute", "", "≤ 5", "≤ 10"),
    ("CPU of the waiting process, a run and cycle", "cpu_ms_per_run_and_cycle", " ms", "≤ 0.02 ms", "≤ 0.02 ms"),
    ("event loop late, 99th percentile", "late_ms_p99", " ms", "≤ 10 ms", "≤ 25 ms"),
    ("memory a wait", "memory_kb_per_wait", " KB", "≤ peer", "≤ 10 KB"),
    ("completion to event, median", "event_delay_median_s", " s", "≤ 2.7 s", "≤ 3.5 s"),
]

BATCH_FIGURES = [
    ("CPU of all of Airflow, a row", "cpu_ms_a_row", " ms", "≤ 10 ms"),
    ("worker, a row", "worker_s_a_row", " s", "≤ 0.05 s"),
    ("time", "seconds", " s", "≤ 480 s for 10,000 rows; a night ≤ 60 s"),
    ("runs started", "starts", "", ""),
    ("requests to Flora beside the starts, a row", "other_requests_a_row", "", "≤ 0.1"),
    ("memory of the task's process", "task_mb", " MB", ""),
    ("task state, a row", "state_bytes_a_row", " bytes", "≤ 200 bytes"),
    ("XComs", "xcom_bytes", " bytes", "≤ 2 KB"),
]

PAGES_TITLE = "Pages in Airflow's UI"
PAGES = """\
The manifest of the batch has 10,000 rows and is on the API server's disk. The DAG run has 1,000 Flora task
instances, and the last 30 days another 10,000 in 20 DAGs, with as many tasks that are not Flora's. They are copies
of a few that really ran, put into Airflow's SQLite database. Only the API server runs. A client on the same machine
is logged in to Airflow, and takes turns between a page and an answer of Airflow's: for outputs the task's
return value, for a run the first 60 of its task instances (as many as the page shows), for the spending the figures
of Airflow's own home page over 30 days, which counts states and reads no XComs. Before each first opening the
manifest gets another version, so that it is read anew. Measured on {date}. The machine's one-minute load was
{load_before:g} before the requests and {load:g} at the end."""
PLUGIN = """\
All components of Airflow import the plugin. After ``airflow.plugins_manager`` that takes {import_ms:g} ms more, at
most {import_most_ms:g} ms (the middle one and the longest of {imports} fresh processes; the limit is 50 ms);
``airflow.plugins_manager`` itself takes {import_airflow_ms:,} ms. The API server builds the pages at their first
request. That one took {first_ms:,} ms, of a batch's outputs with its manifest read, and {first_mb:g} MB of memory.
After all of these requests, Airflow's own among them, the server had {all_mb:g} MB more than the {airflow_mb:,} MB
before the first page."""

WEBHOOKS_TITLE = "Webhooks"
WEBHOOKS = """\
Deliveries to Airflow's API server, from a client on the same machine with a new connection for each. Only the API
server runs, with SQLite. Each takes turns with Airflow's own route that makes an event of an asset, but the last
two. The first delivery to a process took {first_ms:,} ms, since it builds the receiver and reads the connection.
{tries} tries of each. Measured on {date}. The machine's one-minute load was {load_before:g} before the requests and
{load:g} at the end."""

COMMAND_LINE_TITLE = "The command line"
COMMAND_LINE = """\
From the start of the process until the first line, in turns (the median of {tries}): ``python -m
airflow_provider_flora techniques`` with the emulator on the same machine {flora_ms:,} ms, ``airflow --help``
{airflow_ms:,} ms, which is {ratio:g} times as long. The aim is at most 500 ms. Measured on {date}, at a one-minute
load of {load:g}."""

PAGE = """\
.. Written by ``make bench``. Do not edit: the next run writes it again.

Performance
===========

What waiting for many runs costs, and what starting them does, measured by ``make bench`` beside a provider that
polls once for each waiting task: dbt Cloud's trigger. Both are real trigger objects in one process and talk plain
HTTP to a server on the same machine in a process of its own. They poll every {interval:g} s and begin all at once,
as after a restart of the triggerer. Logging is off for both.

Measured on {date} with {cores} cores, Python {python}, {versions}. The one-minute load of the machine at the end
of each program that waits was {loads}: {quiet} {whole}

Waiting
-------

{table}

{missed}

{ratios}

{techniques}

.. image:: _static/performance.svg
   :alt: Requests a cycle and lateness of the event loop against the number of waits, for both systems.

What limits it: the history is read page by page, since each page names the next. On a server that takes 0.3 s for
a page, reading 10,000 runs takes 30 s, so each run is polled every 30 s. The event loop is late by the time it
takes to read a page of 100 runs and to pass them to the triggers.

Most of the CPU time is spent on pages: half on the request (aiohttp), half on its 100 models (pydantic). A page
that is read after a pause costs twice as much as one that is read right after another, since the processor's
caches are cold by then. A watcher pauses most of the time. The rest is the report of progress to triggers: these
runs progress by about ten points between two polls, and each change is a line in a trigger's log. The times
depend on the machine. On one with 2 cores that was half as fast, 1,000 and 10,000 waits took 0.023 and 0.026 ms a
run and cycle, and the peer 1.06 ms.

Flora reports the charge of a completed run late; these runs have theirs at once. If the charge comes after the
poll that finds the run completed, the event waits for the next poll: one second later with up to 20 waits, one
cycle later with more.

When Flora is slow, limits requests, or is down
-----------------------------------------------

{troubles}

Starting
--------

{start}

A table of rows
---------------

{batch}

Pages in Airflow's UI
---------------------

{pages}

Webhooks
--------

{webhooks}

Files
-----

A download into a folder and a signed upload, each as a whole step, alternating with ``curl``. The files are in
memory, so no disk is measured. The emulator checks and keeps what it receives, as a storage does. The server of
the last row discards what it receives, so that the client alone is measured. The limit is the SHA-256, by which a
retry recognizes a file, and which curl does not compute. It takes one core as long as curl takes for the whole
file, and here it shares two cores with the transfer and the server. ``curl`` and ``openssl dgst`` one after the
other get {checked:,} MB/s of a download. No network to Flora is near that.

{files}

Importing
---------

The DAG processor imports an operator for every file that uses it. On top of ``airflow.sdk``, in fresh processes
(the median of {tries}): this provider's operator {flora_import:g} ms, Airbyte's {airbyte_import:g} ms.

{command_line_title}
{command_line_line}

{command_line}

Measuring it yourself
---------------------

``make bench`` makes an environment of its own, ``.venv-bench`` (Python 3.11 or newer), measures for about 40
minutes and writes this page. Each program in ``benchmarks/`` runs alone and prints its result as a line of JSON.
"""


def write(results: Results) -> str:
    """Write page and plot; give the table of waiting as it is in the page.

    Where nothing but what has a section of its own was measured, only these sections are written; give them.
    """
    alone = {
        "pages": (PAGES_TITLE, _pages, WEBHOOKS_TITLE),
        "webhooks": (WEBHOOKS_TITLE, _webhooks, "Files"),
        "command_line": (COMMAND_LINE_TITLE, _command_line, "Measuring it yourself"),
    }
    measured = sorted(results.keys() - {"environment"})
    if alone.keys() >= set(measured):
        page, sections = (DOCS / "performance.rst").read_text(), []
        for name in measured:
            title, make, next_title = alone[name]
            sections.append(make(results))
            page = _with_section(page, title, sections[-1], next_title)
        (DOCS / "performance.rst").write_text(page)
        return "\n\n".join(sections)
    table = _table(results)
    loads = [entry["load"] for name, entry in results.items() if name.startswith(("flora ", "dbt "))]
    environment = results["environment"]
    page = PAGE.format(
        interval=5,
        date=environment["date"],
        cores=environment["cores"],
        python=environment["python"],
        versions=", ".join(f"{name} {version}" for name, version in environment["versions"].items()),
        loads=f"{min(loads):g} to {max(loads):g}",
        quiet="it was quiet."
        if max(loads) < 1.5
        else "it did other work too. Times (CPU, lateness, delay, import, start) suffer from that and vary from "
        "one measurement to the next; the peer's requests a cycle do too, since it falls behind when starved.",
        whole="All programs were measured in one run."
        if environment.get("whole")
        else "The programs were not measured in one run: some were repeated alone, and the page holds the last "
        "result of each.",
        table=table,
        missed=_missed(results),
        ratios=_ratios(results),
        techniques=_techniques(results),
        troubles=_troubles(results),
        start=_start(results),
        batch=_batch(results),
        pages=_pages(results),
        webhooks=_webhooks(results),
        files=_files(results),
        checked=results["download"]["curl_and_openssl_mb_per_s"],
        tries=results["import_time"]["tries"],
        flora_import=results["import_time"]["flora_ms"],
        airbyte_import=results["import_time"]["airbyte_ms"],
        command_line_title=COMMAND_LINE_TITLE,
        command_line_line="-" * len(COMMAND_LINE_TITLE),
        command_line=_command_line(results),
    )
    (DOCS / "performance.rst").write_text(page)
    _draw(results)
    return table


def _figure(results: Results, system: str, waits: int, key: str) -> float | None:
    name = f"{system} {waits}" + (" memory" if key == "memory_kb_per_wait" else "")
    value: float | None = results.get(name, {}).get(key)
    return value


def _table(results: Results) -> str:
    columns = [("dbt", 100), ("flora", 100), ("dbt", 1000), ("flora", 1000), ("flora", 10000)]
    lines = [
        ".. list-table::",
        "   :header-rows: 1",
        "",
        "   * - ",
        *(f"     - {'peer' if system == 'dbt' else 'here'}, {waits:,} waits" for system, waits in columns),
        "     - aim at 1,000",
        "     - aim at 10,000",
    ]
    for label, key, unit, aim, aim_large in FIGURES:
        lines.append(f"   * - {label}")
        for system, waits in columns:
            value = _figure(results, system, waits, key)
            lines.append("     - " + ("" if value is None else f"{value:,g}{unit}"))
        lines += [f"     - {aim}", f"     - {aim_large}"]
    return "\n".join(lines)


def _missed(results: Results) -> str:
    missed = []
    for label, key, unit, *_ in FIGURES:
        peers = _figure(results, "dbt", 1000, key)
        for waits, aim in zip((1000, 10000), AIMS[key], strict=True):
            value, limit = _figure(results, "flora", waits, key), peers if aim is None else aim
            if value is not None and limit is not None and value > limit:
                missed.append(f"{label} at {waits:,} waits ({value:g}{unit}, aim {limit:g}{unit})")
    return f"Aims missed: {'; '.join(missed) or 'none'}."


def _ratios(results: Results) -> str:
    parts = []
    for label, key, *_ in FIGURES[:5]:
        peer, here = _figure(results, "dbt", 1000, key), _figure(results, "flora", 1000, key)
        if peer is not None and here is not None:
            parts.append(f"{label} {peer / here:,.3g}" if here else f"{label} {peer:,g} to none")
    text = f"Peer over here at 1,000 waits, one measured right after the other: {'; '.join(parts)}."
    spread = [results.get(f"{system} 1000 spread") for system in ("dbt", "flora")]
    if all(spread):
        peer, here = (entry["late_ms_p99"] for entry in spread if entry)
        text += (
            " Beginning all at once is the peer's hard case. When the 1,000 waits begin spread over one cycle, its "
            f"event loop is late by {peer:g} ms, and here by {here:g} ms."
        )
    return text


def _techniques(results: Results) -> str:
    many = results.get("flora 1000 techniques")
    if not many:
        return "Waits over many techniques were not measured in this run."
    return (
        f"When the 1,000 runs are those of {many['techniques']:,} techniques, they cost "
        f"{many['requests_per_cycle']:g} requests a cycle (aim: at most 12) and "
        f"{many['cpu_ms_per_run_and_cycle']:g} ms a run and cycle: one walk through the history of all techniques, "
        "where that is cheaper than one for each."
    )


def _troubles(results: Results) -> str:
    rate, foreign, outage, leaks = (results[name] for name in ("rate_limit", "foreign", "outage", "leaks"))
    refused = 100 * rate["refused_settled"] / max(1, rate["requests_settled"])
    events = ", ".join(f"{count:,} {status}" for status, count in rate["events"].items())
    events_outage = ", ".join(f"{count:,} {status}" for status, count in outage["events"].items())
    before, after = leaks["before"], leaks["after"]
    return "\n".join(
        [
            f"- A server that allows 5 requests a second, {rate['waits']:,} waits: {events}. After the first "
            f"20 s, in which {rate['refused_before']} requests were refused, {rate['refused_settled']} of "
            f"{rate['requests_settled']} were ({refused:.1f} %; the aim is at most 2 %).",
            f"- {foreign['foreign']:,} runs of other techniques between {foreign['waits']:,} awaited: "
            f"{foreign['requests_per_cycle']:g} requests a cycle.",
            "- An outage of 60 s (one of ten minutes, shortened; the longest pause between two attempts, 30 s, is "
            f"reached within it) with {outage['waits']:,} waits: {events_outage}, all within "
            f"{outage['all_complete_after_s']:g} s of its end. {outage['requests_during']} requests were sent "
            f"during it; the busiest second after it brought {outage['requests_in_busiest_second_after']} (the "
            "aim is at most 20).",
            f"- {leaks['registrations']:,} waits registered and cancelled: "
            f"{after['tasks'] - before['tasks']} tasks, {after['objects'] - before['objects']} waits, watchers "
            f"and sessions more than before, and {leaks['growth_kb']:,} KB of memory.",
        ]
    )


def _start(results: Results) -> str:
    start = results.get("start")
    if not start:
        return "Not measured in this run."
    asked = "\n".join(f"- {operation}: {count:,}" for operation, count in start["requests"].items())
    began, resumed = start["start"], start["resume"]
    return f"""\
{start["tasks"]} mapped tasks on a real Airflow with LocalExecutor, deferred and resumed ({start["state"]}; runs
paid: {start["started_runs"]}). Requests, by operation:

{asked}

The task that starts a run takes {began["worker_ms"]:,} ms (median, from the start of its process to the end of
``execute``); {began["own_ms"]:,} ms of it, {began["own_percent"]:g} %, are the provider's own: its imports,
requests and checks, without Airflow's connection, XCom and task state. The one that returns the result
takes {resumed["worker_ms"]:,} ms, of which {resumed["own_ms"]:,} ms, {resumed["own_percent"]:g} %, are the
provider's own. These are wall times, with the machine's load in them (one minute's load at the end:
{start["load"]:g}); the CPU time of ``execute``, Airflow's part included, is {began["own_cpu_ms"]:,} ms and
{resumed["own_cpu_ms"]:,} ms.

A technique is fetched once a minute for all tasks of a machine, and once more by each that begins while another
one fetches: here LocalExecutor runs 8 at once."""


def _batch(results: Results) -> str:
    batch = results.get("batch")
    if not batch:
        return "Not measured in this run."
    few, some, many = (batch[name] for name in sorted((name for name in batch if "of" in name), key=_size))
    mapped, night = batch["mapped"], batch["night"]
    lines = [
        ".. list-table::",
        "   :header-rows: 1",
        "",
        "   * - on a real Airflow with LocalExecutor",
        f"     - {mapped['rows']:,} mapped tasks",
        f"     - a batch of {some['rows']:,} rows",
        f"     - a batch of {many['rows']:,} rows",
        f"     - the next night, {night['starts']:,} of {night['rows']:,} changed",
        "     - aim of a batch",
    ]
    for label, key, unit, aim in BATCH_FIGURES:
        lines.append(f"   * - {label}")
        lines += [f"     - {case[key]:,g}{unit}" for case in (mapped, some, many, night)]
        lines.append(f"     - {aim}")
    failed = [name for name, case in batch.items() if isinstance(case, dict) and case["state"] != "success"]
    note = f" DAG runs that did not succeed: {', '.join(failed)}." if failed else ""
    more = many["task_mb"] - few["task_mb"]
    ratio = many["cpu_ms_a_row"] / some["cpu_ms_a_row"]
    return "\n".join(
        [
            "A run takes 5 s, and the emulator is on the same machine. The batch has ``max_active_runs=500`` and "
            f"``starts_at_once={batch['starts_at_once']}``.",
            "",
            *lines,
            "",
            f"The task of {many['rows']:,} rows needs {more:.0f} MB more than one of {few['rows']} rows (aim: at "
            f"most 150 MB), and each of its rows {ratio:.2f} of the CPU of one of {some['rows']:,} (aim: at most "
            f"1.2).{note}",
            "",
            "Half of a batch's CPU is the API server's, which stores the intents before they are sent. Starts that "
            "wait for it share a write. With ``starts_at_once=1`` each row has its own, and costs twice as much.",
        ]
    )


def _pages(results: Results) -> str:
    measured = results.get("pages")
    if not measured:
        return "Not measured in this run."
    lines = [
        ".. list-table::",
        "   :header-rows: 1",
        "",
        f"   * - the middle one of {measured['tries']} requests",
        "     - here",
        "     - the longest",
        "     - CPU of the API server",
        "     - size",
        "     - Airflow's answer",
        "     - here over Airflow's",
    ]
    for name, case in measured["pages"].items():
        lines += [
            f"   * - {name}",
            f"     - {case['ms']:,} ms",
            f"     - {case['most_ms']:,} ms",
            f"     - {case['cpu_ms']:,} ms",
            f"     - {case['kb']:,} KB",
            f"     - {case['airflow_ms']:,} ms",
            f"     - {case['of_airflow']:g}",
        ]
    late = [name for name, case in measured["pages"].items() if case["most_ms"] > 1000]
    return "\n".join(
        [
            PAGES.format(**measured),
            "",
            *lines,
            "",
            f"Pages of which a request took more than the aim of 1 s: {', '.join(late) or 'none'}.",
            "",
            PLUGIN.format(**measured),
        ]
    )


def _webhooks(results: Results) -> str:
    measured = results.get("webhooks")
    if not measured:
        return "Not measured in this run."
    lines = [
        ".. list-table::",
        "   :header-rows: 1",
        "",
        "   * - a delivery",
        "     - the middle one",
        "     - 19 of 20",
        "     - the longest",
        f"     - within the aim of {measured['aim_ms']} ms",
    ]
    for name, case in {**measured["cases"], "Airflow's own route for an event": measured["airflow"]}.items():
        lines += [
            f"   * - {name}",
            f"     - {case['ms']:g} ms",
            f"     - {case['p95_ms']:g} ms",
            f"     - {case['most_ms']:g} ms",
            f"     - {100 * case['within_aim']:.0f} %",
        ]
    return "\n".join([WEBHOOKS.format(**measured), "", *lines])


def _with_section(page: str, title: str, section: str, next_title: str) -> str:
    """Return the page with another section of a title, before the one with the next title."""
    heading, next_heading = (f"{one}\n{'-' * len(one)}\n" for one in (title, next_title))
    without = re.sub(
        rf"^{re.escape(heading)}\n.*?(?=^{re.escape(next_heading)})", "", page, flags=re.MULTILINE | re.DOTALL
    )
    before, found, after = without.partition(next_heading)
    return f"{before}{heading}\n{section}\n\n{found}{after}"


def _command_line(results: Results) -> str:
    measured = results["command_line"]
    return COMMAND_LINE.format(**measured, date=results["environment"]["date"])


def _size(name: str) -> int:
    return int(name.rpartition(" ")[2])


def _files(results: Results) -> str:
    ways = {
        "download": results["download"],
        "signed upload to the emulator": results["upload"],
        "signed upload, thrown away": results["discard"],
    }
    lines = [
        ".. list-table::",
        "   :header-rows: 1",
        "",
        "   * - 1 GB, on the same machine",
        "     - curl",
        "     - here",
        "     - of curl's speed (aim: at least 0.7)",
        "     - memory more than for 1 MB (aim: at most 64 MB)",
    ]
    for name, way in ways.items():
        lines += [
            f"   * - {name}",
            f"     - {way['curl_mb_per_s']:,} MB/s",
            f"     - {way['mb_per_s']:,} MB/s",
            f"     - {way['of_curl']:.2f} (the least of {way['rounds']} pairs: {way['of_curl_least']:.2f})",
            f"     - {way['more_memory_mb']:g} MB",
        ]
    return "\n".join(lines)


def _draw(results: Results) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "flora"
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    panels = [("requests_per_cycle", "requests a cycle"), ("late_ms_p99", "event loop late, 99th percentile (ms)")]
    for axis, (key, label) in zip(axes, panels, strict=True):
        for system, name, colour in (
            ("dbt", "one poll a task (dbt Cloud)", "#b4553a"),
            ("flora", "here", "#3f6b3a"),
        ):
            points = [(waits, _figure(results, system, waits, key)) for waits in (100, 1000, 10000)]
            known = [(waits, value) for waits, value in points if value is not None]
            axis.plot(*zip(*known, strict=True), marker="o", color=colour, label=name)
        axis.set(xscale="log", yscale="log", xlabel="waits", title=label)
        axis.grid(alpha=0.3, which="both", linewidth=0.4)
    axes[0].legend(frameon=False)
    figure.savefig(PLOT, metadata={"Date": None})
